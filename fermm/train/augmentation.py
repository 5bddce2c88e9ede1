"""Augmentation: random changes of the samples of a training batch, by name.

An augmentation is a frozen dataclass with the method `__call__(key, inputs) -> inputs`. It runs on
the device, within the compiled step, before the network; in evaluation there is none. What is drawn
for a batch is a function of the seed, the network's name and the step alone.

The registry is read by `launch.py --help`, which must not wait for JAX, so JAX is imported within
the methods. An augmentation of your own stands in any file that is imported before training begins:

    @AUGMENTATIONS.register("darken")
    @dataclasses.dataclass(frozen=True)
    class Darken(Augmentation):
        changes: ClassVar = ("images",)

        def __call__(self, key, inputs):
            images = inputs["images"]
            return inputs | {"images": images // jax.random.randint(...)}
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from fermm.config import Registry, above, at_least, option

if TYPE_CHECKING:
    import jax

AUGMENTATIONS = Registry("augmentation")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What every augmentation is.

    Attributes:
        changes: the features that it may change, whichever of them a network reads; empty if that
            cannot be told. A network that reads none of them refuses it.
    """

    changes: ClassVar[tuple[str, ...]] = ()

    def __call__(self, key: jax.Array, inputs: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
        """The changed samples, in arrays of the same shapes and types.

        Draw for each sample by itself, along the first axis of one array: then the padding of a
        batch changes nothing.

        Args:
            key: random, another one in every step.
            inputs: what the network reads of B samples, arrays (B, ...) by the feature's name.
        """
        raise NotImplementedError


@AUGMENTATIONS.register("flip")
@dataclasses.dataclass(frozen=True)
class Flip(Augmentation):
    """Mirrors every second face, on average: its image, and its points with it.

    A point of the right eye becomes one of the left.
    """

    changes: ClassVar[tuple[str, ...]] = ("images", "landmarks")

    def __call__(self, key: jax.Array, inputs: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
        import jax
        import jax.numpy as jnp

        from fermm import faces

        result = dict(inputs)
        flipped = jax.random.bernoulli(key, 0.5, (_count(inputs),))
        if "images" in inputs:
            images = inputs["images"]
            result["images"] = jnp.where(flipped[:, None, None], images[:, :, ::-1], images)
        if "landmarks" in inputs:
            points = inputs["landmarks"]
            mirrored = points[:, jnp.array(faces.MIRRORED_POINTS)]
            mirrored = mirrored.at[..., 0].set(faces.IMAGE_SIZE - 1 - mirrored[..., 0])
            result["landmarks"] = jnp.where(flipped[:, None, None], mirrored, points)
        return result


@AUGMENTATIONS.register("shift")
@dataclasses.dataclass(frozen=True)
class Shift(Augmentation):
    """Moves every face by whole pixels, its points with it; the edges of the image are repeated."""

    changes: ClassVar[tuple[str, ...]] = ("images", "landmarks")

    pixels: int = option("how far at the most, in each direction", default=2, check=at_least(1))

    def __call__(self, key: jax.Array, inputs: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
        import jax
        import jax.numpy as jnp

        from fermm import faces

        result = dict(inputs)
        # To the right and down, as x and y of the points.
        moves = jax.random.randint(
            key, (_count(inputs), 2), -self.pixels, self.pixels + 1, jnp.int32
        )
        if "images" in inputs:
            images = inputs["images"]
            places = jnp.arange(faces.IMAGE_SIZE)

            def move(image: jax.Array, by: jax.Array) -> jax.Array:
                columns, rows = (jnp.clip(places - d, 0, faces.IMAGE_SIZE - 1) for d in by)
                return image[rows][:, columns]

            result["images"] = jax.vmap(move)(images, moves)
        if "landmarks" in inputs:
            points = inputs["landmarks"]
            result["landmarks"] = points + moves[:, None].astype(points.dtype)
        return result


@AUGMENTATIONS.register("noise")
@dataclasses.dataclass(frozen=True)
class Noise(Augmentation):
    """Moves every point by itself, normally distributed."""

    changes: ClassVar[tuple[str, ...]] = ("landmarks",)

    pixels: float = option("the standard deviation in each direction", default=0.5, check=above(0))

    def __call__(self, key: jax.Array, inputs: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
        import jax

        if "landmarks" not in inputs:
            return inputs
        points = inputs["landmarks"]
        noise = jax.random.normal(key, points.shape, points.dtype)
        return {**inputs, "landmarks": points + self.pixels * noise}


def _count(inputs: Mapping[str, jax.Array]) -> int:
    return len(next(iter(inputs.values())))

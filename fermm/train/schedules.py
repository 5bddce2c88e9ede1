"""Schedules: how the learning rate changes in the course of a training, by name.

A schedule is a frozen dataclass that scales the learning rate of every update. The
registry is read by `launch.py --help`, which must not wait for JAX, so JAX is imported within the
methods. A schedule of your own stands in any file that is imported before training begins:

    @SCHEDULES.register("inverse_root")
    @dataclasses.dataclass(frozen=True)
    class InverseRoot(Schedule):
        def scale(self, step, memory, length):
            return jax.lax.rsqrt(1 + step.astype(jnp.float32))
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from fermm.config import Registry, at_least, between, option, share

if TYPE_CHECKING:
    import jax

SCHEDULES = Registry("schedule")


class Length(NamedTuple):
    """How long a training is.

    Attributes:
        epochs: passes over the training samples.
        steps_per_epoch: updates in each.
    """

    epochs: int
    steps_per_epoch: int


@dataclasses.dataclass(frozen=True)
class Schedule:
    """What every schedule is.

    Its memory is a pytree of arrays that lies in the state of the optimiser, is saved with it, and
    changes only when an epoch ends. Most schedules have none.
    """

    def start(self) -> Any:
        """The memory at the beginning of a training."""
        return ()

    def scale(self, step: jax.Array, memory: Any, length: Length) -> jax.Array:
        """What the learning rate is multiplied by.

        Args:
            step: int32 scalar, the number of updates before this one.
            memory: see above.
            length: of the training.

        Returns:
            A float32 scalar.
        """
        raise NotImplementedError

    def end_epoch(self, memory: Any, validation_loss: jax.Array) -> Any:
        """The memory after an epoch whose validation loss is a float32 scalar."""
        del validation_loss
        return memory

    def check(self, epochs: int) -> str:
        """What is wrong with the schedule for so many epochs, or ""."""
        del epochs
        return ""


@SCHEDULES.register("constant")
@dataclasses.dataclass(frozen=True)
class Constant(Schedule):
    """The learning rate stays what it is."""

    def scale(self, step: jax.Array, memory: Any, length: Length) -> jax.Array:
        import jax.numpy as jnp

        return jnp.float32(1)


@SCHEDULES.register("step")
@dataclasses.dataclass(frozen=True)
class Step(Schedule):
    """The learning rate is multiplied by a factor when certain epochs begin."""

    factor: float = option("what the learning rate is multiplied by", check=between(0, 1))
    epochs: tuple[int, ...] = option("before which epochs; the first is 0", check=at_least(0))

    def scale(self, step: jax.Array, memory: Any, length: Length) -> jax.Array:
        import jax.numpy as jnp

        result = jnp.float32(1)
        for epoch in sorted(set(self.epochs)):
            begun = step >= epoch * length.steps_per_epoch
            result = jnp.where(begun, result * jnp.float32(self.factor), result)
        return result


class PlateauMemory(NamedTuple):
    """What `Plateau` remembers, as float32 or int32 scalars.

    Attributes:
        scale: what the learning rate is multiplied by.
        best: the lowest validation loss so far.
        wait: epochs since then, or since the last reduction.
    """

    scale: jax.Array
    best: jax.Array
    wait: jax.Array


@SCHEDULES.register("plateau")
@dataclasses.dataclass(frozen=True)
class Plateau(Schedule):
    """The learning rate is multiplied by a factor when the validation loss stops falling.

    The rule is that of Keras's `ReduceLROnPlateau` (mode "min"): a loss that is lower than the best
    by more than `min_delta` is the new best; after `patience` epochs without one, the learning rate
    is multiplied by `factor`. `optax.contrib.reduce_on_plateau` counts updates instead of epochs
    and has another threshold.
    """

    factor: float = option("what the learning rate is multiplied by", check=between(0, 1))
    patience: int = option(
        "after how many epochs without a lower validation loss", check=at_least(1)
    )
    min_delta: float = option(
        "how much lower a validation loss has to be, absolute", default=1e-4, check=at_least(0)
    )

    def start(self) -> PlateauMemory:
        import jax.numpy as jnp

        return PlateauMemory(jnp.float32(1), jnp.float32(jnp.inf), jnp.int32(0))

    def scale(self, step: jax.Array, memory: PlateauMemory, length: Length) -> jax.Array:
        return memory.scale

    def end_epoch(self, memory: PlateauMemory, validation_loss: jax.Array) -> PlateauMemory:
        import jax.numpy as jnp

        # The difference of two close floats is exact, while `best - min_delta` would be rounded.
        improved = validation_loss - memory.best < -self.min_delta
        wait = jnp.where(improved, 0, memory.wait + 1)
        reduce = wait >= self.patience
        return PlateauMemory(
            jnp.where(reduce, memory.scale * jnp.float32(self.factor), memory.scale),
            jnp.where(improved, validation_loss, memory.best),
            jnp.where(reduce, 0, wait),
        )


@SCHEDULES.register("cosine")
@dataclasses.dataclass(frozen=True)
class Cosine(Schedule):
    """The learning rate rises from 0 along a line, and then falls along half a cosine wave.

    After Loshchilov & Hutter, 2017 (https://arxiv.org/abs/1608.03983), without restarts; it is
    `optax.warmup_cosine_decay_schedule`. The fall ends with the training.
    """

    warmup_epochs: int = option("for how many epochs it rises", default=0, check=at_least(0))
    final: float = option(
        "the share of the learning rate that is left at the end", default=0.0, check=share
    )

    def scale(self, step: jax.Array, memory: Any, length: Length) -> jax.Array:
        import jax.numpy as jnp

        warmup = self.warmup_epochs * length.steps_per_epoch
        fall = (length.epochs - self.warmup_epochs) * length.steps_per_epoch
        count = step.astype(jnp.float32)
        done = jnp.clip((count - warmup) / fall, 0.0, 1.0)
        falling = self.final + (1 - self.final) * 0.5 * (1 + jnp.cos(math.pi * done))
        return jnp.where(count < warmup, count / max(warmup, 1), falling)

    def check(self, epochs: int) -> str:
        if self.warmup_epochs < epochs:
            return ""
        return f"warmup_epochs is {self.warmup_epochs} of {epochs} epochs, needs to be fewer"

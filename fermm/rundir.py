"""A run directory: its layout, its lock, and the formats of the files in it.

    config.json  data.json  samples.npz  rejected.csv  lock
    metrics.json  assessment.json  tables.md  report.html  finished.json
    figures/<name>.svg, <name>.png
    tensorboard/<network>/seed_<n>/
    <network>/seed_<n>/
        history.csv
        predictions_<split>.npz
        modalities_<split>.npz      of a fusion
        checkpoints/<position>/     meta.json, checksums.json, variables/, training/
    split_<n>/                      of a run over several splits, each a run directory

No other module spells these names. The arrays of a checkpoint are written and read by
`fermm.train.checkpoint`; where checkpoints are and what they say of themselves is known here. This
is part of the ground floor: it imports neither JAX nor anything of fermm above.
"""

import contextlib
import csv
import dataclasses
import errno
import hashlib
import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import numpy as np

from fermm.errors import InputError
from fermm.paths import whole
from fermm.samples import SPLITS

CHECKPOINTS = "checkpoints"
HISTORY = "history.csv"

FORMAT = 5
"""The number of the format of checkpoints."""

WHICH = ("last", "best")
HISTORY_COLUMNS = (
    "epoch",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "learning_rate",
    "seconds",
)
"""The columns that every `history.csv` has; others may follow them."""

ANEW = "delete it and run again: the run writes it anew"
_META, _CHECKSUMS = "meta.json", "checksums.json"
_ARRAYS, _TRAINING = "variables", "training"
# The content is gone: no such file, no such block on the disk.
_LOST = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO)


@dataclasses.dataclass(frozen=True)
class SeedDirectory:
    """The directory of a network of one seed, in that of its run.

    Attributes:
        path: where it is.
    """

    path: Path

    @property
    def network(self) -> str:
        """The name of the network."""
        return self.path.absolute().parent.name

    @property
    def name(self) -> str:
        """The last part of its path, "seed_0"."""
        return self.path.absolute().name

    def is_of(self, seed: int) -> bool:
        """Whether it is the directory of this seed."""
        return self.name == f"seed_{seed}"

    @property
    def checkpoints(self) -> Path:
        """The directory with a sub-directory for each checkpoint."""
        return self.path / CHECKPOINTS

    @property
    def history(self) -> Path:
        """The curves of training, see `read_history`."""
        return self.path / HISTORY

    def predictions(self, split: str) -> Path:
        """What the network says about the samples of a split, see `Predictions`."""
        return self.path / f"predictions_{split}.npz"

    def modalities(self, split: str) -> Path:
        """What a fusion and its members decide about the samples of a split, see `Modalities`."""
        return self.path / f"modalities_{split}.npz"


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """The directory of a run: where its files are.

    Attributes:
        path: where it is.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The whole config, JSON."""
        return self.path / "config.json"

    @property
    def data(self) -> Path:
        """Facts about the data of the run, JSON."""
        return self.path / "data.json"

    @property
    def samples(self) -> Path:
        """See `RunSamples`."""
        return self.path / "samples.npz"

    @property
    def rejected(self) -> Path:
        """A CSV with a row for each sample of the source that was set aside."""
        return self.path / "rejected.csv"

    @property
    def lock_file(self) -> Path:
        """The file on which the operating system's lock is, see `lock`."""
        return self.path / "lock"

    @property
    def metrics(self) -> Path:
        """The metrics of each network, split and seed, JSON."""
        return self.path / "metrics.json"

    @property
    def assessment(self) -> Path:
        """Intervals and comparisons, JSON."""
        return self.path / "assessment.json"

    @property
    def tables(self) -> Path:
        """The tables of the report, Markdown."""
        return self.path / "tables.md"

    @property
    def report(self) -> Path:
        """The report, HTML."""
        return self.path / "report.html"

    @property
    def finished(self) -> Path:
        """Digests of all that the results depend on, see `fermm.finished`."""
        return self.path / "finished.json"

    @property
    def figures(self) -> Path:
        """The directory of the figures."""
        return self.path / "figures"

    @property
    def tensorboard(self) -> Path:
        """The directory of the event files."""
        return self.path / "tensorboard"

    def seed(self, network: str, seed: int) -> SeedDirectory:
        """The directory of a network of one seed."""
        return SeedDirectory(self.path / network / f"seed_{seed}")

    def events(self, network: str, seed: int) -> Path:
        """The directory of the event files of a network of one seed."""
        return self.tensorboard / network / f"seed_{seed}"

    def split(self, seed: int) -> "RunDirectory":
        """Of a run over several splits, the directory of that with this seed of the split."""
        return RunDirectory(self.path / f"split_{seed}")

    def splits(self) -> list["RunDirectory"]:
        """Of a run over several splits, those that there are, in ascending order of their seed."""
        found = [path for path in self.path.glob("split_*") if path.is_dir()]
        return [RunDirectory(p) for p in sorted(found, key=lambda p: (len(p.name), p.name))]

    def seeds(self) -> list[SeedDirectory]:
        """The directories of networks that there are."""
        return [SeedDirectory(path) for path in sorted(self.path.glob("*/seed_*"))]

    def may_be_begun(self) -> bool:
        """Whether nothing is there but what a run leaves that was killed at its very beginning."""
        early = {self.lock_file.name, _aside(self.config)}
        return not self.path.exists() or (
            self.path.is_dir() and all(path.name in early for path in self.path.iterdir())
        )

    def foreign_to_splits(self) -> list[str]:
        """The names in the directory that a run over several splits does not leave there."""
        numbers = self.report.with_suffix(".json")
        own = {self.report.name, _aside(self.report), numbers.name, _aside(numbers)}
        names = [path.name for path in self.path.iterdir()] if self.path.exists() else []
        return [name for name in names if not name.startswith("split_") and name not in own]

    def results(self) -> list[Path]:
        """All results and what they are made from; of checkpoints, what they say of themselves."""
        left_out = {self.finished.name, self.lock_file.name, self.tensorboard.name}
        found = []
        for path in sorted(self.path.rglob("*")):
            parts = path.relative_to(self.path).parts
            arrays = CHECKPOINTS in parts[:-1] and path.name not in (_META, _CHECKSUMS)
            if not arrays and parts[0] not in left_out and path.is_file():
                found.append(path)
        return found

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other runs out of the directory, which is made if needed, while the context lasts.

        The lock is the operating system's, on a file. It ends with the process that holds it,
        however that ends, so that the file may stay.

        Raises:
            InputError: another run is at work there, or the directory cannot be written.
        """
        held = filelock.FileLock(self.lock_file)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            held.acquire(timeout=0)
        except filelock.Timeout:
            raise InputError(
                f"{self.path}: another run is at work there; wait for its end, or choose another "
                "--workdir"
            ) from None
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be written ({error.strerror}); choose another --workdir"
            ) from None
        try:
            yield
        finally:
            held.release()


def _aside(path: Path) -> str:
    """The name under which `fermm.paths.whole` writes a file."""
    return f"{path.name}.tmp"


def find_trained(path: Path) -> list[SeedDirectory]:
    """The directories of trained networks at `path`, in the order of their paths.

    Args:
        path: a run directory, a network's directory in it, or that of a seed.
    """
    patterns = (CHECKPOINTS, f"seed_*/{CHECKPOINTS}", f"*/seed_*/{CHECKPOINTS}")
    found = sorted(directory for pattern in patterns for directory in path.glob(pattern))
    return [SeedDirectory(directory.parent) for directory in found if epochs(directory)]


# ---------------------------------------------------------------- JSON and text


def write_text(path: Path, text: str) -> None:
    """Writes a file, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    with whole(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(file: Path, remedy: str = ANEW) -> dict[str, Any]:
    """Reads an object from JSON.

    Args:
        file: the file.
        remedy: what to do about a failure, for the message.

    Raises:
        InputError: there is no such file, or it does not hold an object.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"{type(value).__name__}, needs an object")
    except (OSError, ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise InputError(f"{file}: cannot be read as JSON ({reason}); {remedy}") from None
    return value


@contextlib.contextmanager
def refuse_damage(file: Path, remedy: str = ANEW) -> Iterator[None]:
    """For reading a file of a run directory: what is raised becomes an `InputError`.

    Raises:
        InputError: whatever was raised, except that there is no such file, or no memory.
    """
    try:
        yield
    except (InputError, FileNotFoundError, MemoryError):
        raise
    except PermissionError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); see to the rights") from error
    # numpy, zipfile, csv and json have a dozen types for damaged bytes.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{file}: damaged ({reason[:200]}); {remedy}") from error


# ---------------------------------------------------------------- history


def write_history(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Writes a row for each epoch as CSV, whole or not at all.

    Args:
        path: the file.
        history: rows with the keys HISTORY_COLUMNS, and all with the same others.

    Raises:
        InputError: it cannot be written.
    """
    others = [name for name in (history[0] if history else ()) if name not in HISTORY_COLUMNS]
    with whole(path) as aside, open(aside, "w", newline="") as file:
        writer = csv.DictWriter(file, [*HISTORY_COLUMNS, *others], lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)


def read_history(path: Path) -> list[dict[str, float]]:
    """The inverse of `write_history`.

    Raises:
        InputError: the file is damaged, or has no row.
        FileNotFoundError: there is none.
    """
    with refuse_damage(path):
        with open(path, newline="") as file:
            history = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
        if not history or any(not set(row) >= set(HISTORY_COLUMNS) for row in history):
            raise ValueError(f"needs the columns {', '.join(HISTORY_COLUMNS)} and a row")
        return history


# ---------------------------------------------------------------- arrays


class RunSamples(NamedTuple):
    """The N samples of a run, without their features.

    Attributes:
        rows: int64 (N,), row of each sample in its source.
        labels: int32 (N,).
        splits: int8 (N,), index into `fermm.samples.SPLITS`.
        digests: uint64 (N,), of the features by which duplicates are known.
        duplicate: bool (N,), whether the sample is a duplicate of a training sample (of a training
            sample, whether it is one of another).
        class_weights: float64 (K,), in the training loss.
        votes: float32 (N, K), the share of annotators who voted for each class, or None.
    """

    rows: np.ndarray
    labels: np.ndarray
    splits: np.ndarray
    digests: np.ndarray
    duplicate: np.ndarray
    class_weights: np.ndarray
    votes: np.ndarray | None = None

    def of(self, split: str) -> "RunSamples":
        """Those of one split."""
        where = self.splits == SPLITS.index(split)
        return RunSamples(
            self.rows[where],
            self.labels[where],
            self.splits[where],
            self.digests[where],
            self.duplicate[where],
            self.class_weights,
            None if self.votes is None else self.votes[where],
        )


class Predictions(NamedTuple):
    """What a network says about the N samples of one split, of K classes.

    Attributes:
        rows: int64 (N,), row of each sample in its source.
        labels: int32 (N,).
        probabilities: float32 (N, K), evaluated without dropout.
        votes: float32 (N, K), those of `RunSamples` for these samples, or None. They are not in the
            file of the predictions.
    """

    rows: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    votes: np.ndarray | None = None

    @property
    def classes(self) -> int:
        """K, how many classes there are."""
        return self.probabilities.shape[1]

    @property
    def decisions(self) -> np.ndarray:
        """int64 (N,), the most probable class."""
        return self.probabilities.argmax(-1)

    @property
    def correct(self) -> np.ndarray:
        """bool (N,), whether the most probable class is the label."""
        return self.decisions == self.labels

    def take(self, which: np.ndarray) -> "Predictions":
        """Those of the samples that `which` (indices, or bool (N,)) chooses."""
        return Predictions(*(None if array is None else array[which] for array in self))  # type: ignore[arg-type]


class Modalities(NamedTuple):
    """What a fusion and its members decide about the N samples of one split.

    Attributes:
        rows: int64 (N,).
        labels: int32 (N,).
        decisions: int16 (N,), of the fusion.
        alone: by member, int16 (N,): what the member decides by itself.
        shuffled: by member, int16 (R, N): what the fusion decides where the inputs of that member
            come from another sample of the split, for R permutations that leave none in its place.
    """

    rows: np.ndarray
    labels: np.ndarray
    decisions: np.ndarray
    alone: dict[str, np.ndarray]
    shuffled: dict[str, np.ndarray]

    @property
    def members(self) -> tuple[str, ...]:
        """The names of the members, in the order of the fusion."""
        return tuple(self.alone)


def write_samples(path: Path, samples: RunSamples) -> None:
    """Writes `row`, `label`, `split`, `digest`, `duplicate`, `class_weights`, and `votes` if any.

    Raises:
        InputError: it cannot be written.
    """
    names = ("row", "label", "split", "digest", "duplicate", "class_weights", "votes")
    arrays = dict(zip(names, samples, strict=True))
    _write_arrays(path, **{name: x for name, x in arrays.items() if x is not None})


def read_samples(path: Path) -> RunSamples:
    """The inverse of `write_samples`.

    Raises:
        InputError: the file is damaged.
        FileNotFoundError: there is none.
    """
    with refuse_damage(path):
        arrays = _read_arrays(path)
        weights = _take(
            arrays, "class_weights", "f", arrays.get("class_weights", np.zeros(1)).shape
        )
        if not weights.size or not np.isfinite(weights).all():
            raise ValueError("class_weights are not finite")
        classes = len(weights)
        rows, labels = _take_rows(arrays, len(arrays["row"]), classes)
        where = _take(arrays, "split", "i", (len(rows),))
        if not ((where >= 0) & (where < len(SPLITS))).all():
            raise ValueError(f"split is not from 0 to {len(SPLITS) - 1}")
        digests = _take(arrays, "digest", "u", (len(rows),))
        duplicate = _take(arrays, "duplicate", "b", (len(rows),))
        votes = None
        if "votes" in arrays:
            votes = _take(arrays, "votes", "f", (len(rows), classes))
            if not ((votes >= 0) & (votes <= 1.001)).all():
                raise ValueError("votes are not from 0 to 1")
            if not np.allclose(votes.sum(1), 1, rtol=0, atol=1e-3):
                raise ValueError("the votes of a sample do not add up to 1")
        return RunSamples(rows, labels, where, digests, duplicate, weights, votes)


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Writes `row`, `label`, `probabilities`.

    Raises:
        InputError: it cannot be written.
    """
    _write_arrays(
        path,
        row=predictions.rows,
        label=predictions.labels,
        probabilities=predictions.probabilities,
    )


def read_predictions(path: Path, classes: int | None = None) -> Predictions:
    """The inverse of `write_predictions`, without votes.

    Args:
        path: the file.
        classes: K, how many there have to be; None takes any number.

    Raises:
        InputError: the file is damaged.
        FileNotFoundError: there is none.
    """
    with refuse_damage(path):
        arrays = _read_arrays(path)
        probabilities = arrays.get("probabilities", np.zeros(()))
        if classes is None:
            classes = probabilities.shape[-1] if probabilities.ndim == 2 else 1
        rows, labels = _take_rows(arrays, len(arrays["row"]), classes)
        probabilities = _take(arrays, "probabilities", "f", (len(rows), classes))
        if not ((probabilities >= 0) & (probabilities <= 1.001)).all():
            raise ValueError("probabilities are not from 0 to 1")
        return Predictions(rows, labels, probabilities)


def write_modalities(path: Path, modalities: Modalities) -> None:
    """Writes `row`, `label`, `decision`; `member`, the names; and for these `alone`, `shuffled`.

    Raises:
        InputError: it cannot be written.
    """
    _write_arrays(
        path,
        row=modalities.rows,
        label=modalities.labels,
        decision=modalities.decisions.astype(np.int16),
        member=np.array(modalities.members),
        alone=np.stack([modalities.alone[m] for m in modalities.members]).astype(np.int16),
        shuffled=np.stack([modalities.shuffled[m] for m in modalities.members]).astype(np.int16),
    )


def read_modalities(path: Path, classes: int) -> Modalities:
    """The inverse of `write_modalities`.

    Args:
        path: the file.
        classes: K, how many there are.

    Raises:
        InputError: the file is damaged.
        FileNotFoundError: there is none.
    """
    with refuse_damage(path):
        arrays = _read_arrays(path)
        rows, labels = _take_rows(arrays, len(arrays["row"]), classes)
        members = _take(arrays, "member", "U", (len(arrays["member"]),)).tolist()
        if not members or len(set(members)) < len(members):
            raise ValueError("member is empty, or names one twice")
        count, times = len(rows), arrays["shuffled"].shape[1]
        alone = _take_classes(arrays, "alone", (len(members), count), classes)
        shuffled = _take_classes(arrays, "shuffled", (len(members), times, count), classes)
        return Modalities(
            rows,
            labels,
            _take_classes(arrays, "decision", (count,), classes),
            dict(zip(members, alone, strict=True)),
            dict(zip(members, shuffled, strict=True)),
        )


def _write_arrays(path: Path, **arrays: np.ndarray) -> None:
    with whole(path) as aside, open(aside, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    # Not compressed, it cannot become larger than the file; not pickled, it cannot run code.
    with zipfile.ZipFile(path) as archive:
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise ValueError("compressed, which fermm's are not")
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file}


def _take(
    arrays: Mapping[str, np.ndarray], name: str, kind: str, shape: tuple[int, ...]
) -> np.ndarray:
    """The array `name`, whose dtype is of this kind and which has this shape."""
    found = arrays.get(name)
    if not isinstance(found, np.ndarray):
        raise ValueError(f"{name} is missing")
    if found.dtype.kind != kind or found.shape != shape:
        raise ValueError(f"{name} is {found.dtype} {found.shape}, needs {kind} {shape}")
    return found


def _take_classes(
    arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...], classes: int
) -> np.ndarray:
    found = _take(arrays, name, "i", shape)
    if not ((found >= 0) & (found < classes)).all():
        raise ValueError(f"{name} is not from 0 to {classes - 1}")
    return found


def _take_rows(
    arrays: Mapping[str, np.ndarray], count: int, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """`row` and `label` of `count` samples, no row twice."""
    rows = _take(arrays, "row", "i", (count,))
    if not count or len(np.unique(rows)) < count:
        raise ValueError("row is empty, or has one twice")
    return rows, _take_classes(arrays, "label", (count,), classes)


# ---------------------------------------------------------------- checkpoints


class Position(NamedTuple):
    """How far a training has come: whole epochs, and steps of the next one."""

    epoch: int
    step: int = 0

    @property
    def name(self) -> str:
        """The name of the checkpoint: "3", or "3+250" within the fourth epoch."""
        return f"{self.epoch}+{self.step}" if self.step else str(self.epoch)

    def __str__(self) -> str:
        return f"step {self.step} of epoch {self.epoch + 1}" if self.step else f"epoch {self.epoch}"


def named_positions(directory: Path) -> list[Position]:
    """The positions after which directories in `directory` are called, ascending."""
    if not directory.is_dir():
        return []
    found = []
    for path in directory.iterdir():
        if (name := re.fullmatch(r"(\d+)(?:\+(\d+))?", path.name, re.ASCII)) and path.is_dir():
            found.append(Position(int(name[1]), int(name[2] or 0)))
    return sorted(found)


def positions(directory: Path) -> list[Position]:
    """The positions of which `directory` (a `checkpoints/`) holds a checkpoint, ascending.

    What is in their files is not looked at, see `find_damage`.
    """
    return [p for p in named_positions(directory) if is_checkpoint(directory / p.name)]


def epochs(directory: Path) -> list[int]:
    """The epochs of which `directory` holds a checkpoint made at their end, ascending."""
    return [position.epoch for position in positions(directory) if not position.step]


def is_checkpoint(path: Path) -> bool:
    """Whether `path` is the directory of one checkpoint."""
    return (path / _META).is_file() and (path / _CHECKSUMS).is_file()


def locate(path: Path, which: str = "last") -> Path:
    """The checkpoint in `path`, a `checkpoints/` directory or one checkpoint of it.

    Args:
        path: the directory.
        which: "last" complete epoch, or "best" (lowest validation loss).

    Raises:
        InputError: there is none.
    """
    if which not in WHICH:
        raise InputError(f"which={which!r} is unknown; it is 'last' or 'best'.")
    if is_checkpoint(path):
        return path
    kept = [position for position in positions(path) if not position.step]
    if not kept:
        raise InputError(f"{path}: no checkpoint there. Name a run's directory or a checkpoint.")
    found = kept[-1] if which == "last" else best(path, kept)
    assert found is not None
    if which == "best":
        lowest = min(read_meta(path / kept[-1].name)["history"], key=lambda row: row["val_loss"])
        if lowest["val_loss"] < _validation_loss(path / found.name):
            raise InputError(
                f"{path}: epoch {lowest['epoch']} was the best and is gone (config.keep); "
                f"there is {', '.join(f'epoch {position.epoch}' for position in kept)}"
            )
    return path / found.name


def best(directory: Path, among: Sequence[Position]) -> Position | None:
    """The position with the lowest validation loss, the first of equals.

    Args:
        directory: a `checkpoints/`.
        among: positions of which it holds a checkpoint.
    """
    return min(among, key=lambda p: _validation_loss(directory / p.name), default=None)


def _validation_loss(path: Path) -> float:
    return read_meta(path)["history"][-1]["val_loss"]


def has_training(path: Path) -> bool:
    """Whether training can go on from the checkpoint `path`."""
    try:
        return f"{_TRAINING}/_METADATA" in _read_checksums(path)
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def write_meta(path: Path, meta: Mapping[str, Any]) -> None:
    """Writes the JSON part of the checkpoint `path`, and the checksums of all its files."""
    (path / _META).write_text(json.dumps(meta, indent=1) + "\n")
    (path / _CHECKSUMS).write_text(json.dumps(checksums(path), indent=1) + "\n")


def forget_training(path: Path) -> None:
    """Notes that the checkpoint `path` needs no files of `training/`, which may then be removed."""
    sums = _read_checksums(path)
    if any(name.startswith(f"{_TRAINING}/") for name in sums):
        sums = {name: of for name, of in sums.items() if not name.startswith(f"{_TRAINING}/")}
        with whole(path / _CHECKSUMS) as aside:
            aside.write_text(json.dumps({**sums, _TRAINING: None}, indent=1) + "\n")


def read_meta(path: Path) -> dict[str, Any]:
    """The JSON part of the checkpoint `path`.

    Raises:
        InputError: it cannot be read, is not as it was written, or is of another format.
    """
    file = path / _META
    if damage := find_damage(path, _META):
        raise _damaged(path, damage)
    try:
        meta = json.loads(file.read_bytes())
        found = meta["format"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{file}: not a readable checkpoint ({error}).") from None
    if found != FORMAT:
        raise InputError(f"{file}: checkpoint format {found!r}, this version reads {FORMAT}.")
    return meta


def find_damage(path: Path, only: str = "") -> str:
    """What is wrong with the files of the checkpoint `path`, or "" if they are as written.

    Args:
        path: the checkpoint's own directory.
        only: look at this file alone.

    Raises:
        InputError: a file is there, but the system does not let it be read, which is no damage.
    """
    try:
        expected = _read_checksums(path)
        if only:
            expected = {only: expected[only]}
        elif not {_META, f"{_ARRAYS}/_METADATA"} <= expected.keys() or (
            f"{_TRAINING}/_METADATA" not in expected and expected.get(_TRAINING, path) is not None
        ):
            return f"{_CHECKSUMS} does not list all files"
        for name, of in expected.items():
            if (name, of) == (_TRAINING, None):
                continue
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != of["bytes"]:
                return f"{name} has {file.stat().st_size} bytes instead of {of['bytes']}"
            if _sha256(file) != of["sha256"]:
                return f"{name} has been altered, its SHA-256 is another"
    except OSError as error:
        what = f"{Path(error.filename or path).name} cannot be read: {error.strerror}"
        if error.errno not in _LOST:
            raise InputError(f"{path}: {what}; see to that, and try again") from None
        return what
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return f"{_CHECKSUMS} is not readable"
    return ""


def refuse_damaged_checkpoint(path: Path) -> None:
    """Checks that the files of the checkpoint `path` are as they were written.

    Raises:
        InputError: they are not.
    """
    if damage := find_damage(path):
        raise _damaged(path, damage)


def _damaged(path: Path, damage: str) -> InputError:
    return InputError(
        f"{path}: damaged checkpoint ({damage}). The run that trains this network, called "
        "again, goes on from the one before it; in other code, name another checkpoint."
    )


def checksums(path: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file of the checkpoint `path`, but for that of the checksums."""
    return {
        file.relative_to(path).as_posix(): {"bytes": file.stat().st_size, "sha256": _sha256(file)}
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != _CHECKSUMS
    }


def _read_checksums(path: Path) -> dict[str, Any]:
    return json.loads((path / _CHECKSUMS).read_bytes())


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()

"""Figures of merit from saved predictions.

Each mean over faces is also available face by face, as `statistics.estimate` wants it.
"""

import contextlib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fermm.data.faces import EMOTIONS
from fermm.errors import InputError
from fermm.paths import whole

ANEW = "delete it and run again: the run writes it anew"
CLASSES = len(EMOTIONS)
BINS = 15  # of confidence, equally wide, as in Guo et al., 2017


class Predictions(NamedTuple):
    """What a network says about the faces of one split.

    Attributes:
        rows: int64 (N,), row of each face in its source.
        labels: int32 (N,).
        probabilities: float32 (N, 7), evaluated without dropout.
    """

    rows: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray

    @property
    def decisions(self) -> np.ndarray:
        """int64 (N,), the most probable class."""
        return self.probabilities.argmax(-1)

    @property
    def correct(self) -> np.ndarray:
        """bool (N,), whether the most probable class is the label."""
        return self.decisions == self.labels

    def take(self, which: np.ndarray) -> "Predictions":
        """Those of the faces that `which` (indices, or bool (N,)) chooses."""
        return Predictions(*(array[which] for array in self))


def save_predictions(path: Path, predictions: Predictions) -> None:
    """Writes an `.npz` with the arrays `row`, `label`, `probabilities`; aside, then renamed."""
    save_arrays(
        path,
        row=predictions.rows,
        label=predictions.labels,
        probabilities=predictions.probabilities,
    )


def load_predictions(path: Path) -> Predictions:
    """The inverse of `save_predictions`.

    Raises:
        InputError: the file is damaged.
        FileNotFoundError: there is none.
    """
    with refuse_damage(path):
        arrays = load_arrays(path)
        rows, labels = take_faces(arrays, len(arrays["row"]))
        probabilities = take(arrays, "probabilities", "f", (len(rows), CLASSES))
        if not ((probabilities >= 0) & (probabilities <= 1.001)).all():
            raise ValueError("probabilities are not from 0 to 1")
        return Predictions(rows, labels, probabilities)


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Writes an `.npz`; aside, then renamed."""
    with whole(path) as aside, open(aside, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads what `save_arrays` wrote; within `refuse_damage`, since anything may be raised."""
    # Not compressed, it cannot become larger than the file; not pickled, it cannot run code.
    with zipfile.ZipFile(path) as archive:
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise ValueError("compressed, which fermm's are not")
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file}


def take(
    arrays: Mapping[str, np.ndarray], name: str, kind: str, shape: tuple[int, ...]
) -> np.ndarray:
    """The array `name`.

    Raises:
        ValueError: there is none, or its dtype is not of this kind, or it has another shape.
    """
    found = arrays.get(name)
    if not isinstance(found, np.ndarray):
        raise ValueError(f"{name} is missing")
    if found.dtype.kind != kind or found.shape != shape:
        raise ValueError(f"{name} is {found.dtype} {found.shape}, needs {kind} {shape}")
    return found


def take_classes(arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    """`take` for classes, which are 0 to 6."""
    found = take(arrays, name, "i", shape)
    if not ((found >= 0) & (found < CLASSES)).all():
        raise ValueError(f"{name} is not from 0 to {CLASSES - 1}")
    return found


def take_faces(arrays: Mapping[str, np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    """`row` and `label`, of `count` faces, no row twice."""
    rows = take(arrays, "row", "i", (count,))
    if not count or len(np.unique(rows)) < count:
        raise ValueError("row is empty, or has one twice")
    return rows, take_classes(arrays, "label", (count,))


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


class Metric(NamedTuple):
    """A figure of merit that is a function of means over faces.

    Attributes:
        title: how it is called in tables.
        samples: predictions to float64 (N, K), what is averaged.
        statistic: means, float64 (..., K), to values (...).
        percent: whether it is shown times 100.
        higher_is_better: what the direction of a difference means.
        highest: the largest possible value; the smallest is 0.
    """

    title: str
    samples: Callable[[Predictions], np.ndarray]
    statistic: Callable[[np.ndarray], np.ndarray]
    percent: bool
    higher_is_better: bool
    highest: float = 1.0

    def __call__(self, predictions: Predictions) -> float:
        """Its value for the faces of `predictions`."""
        return float(self.statistic(self.samples(predictions).mean(0)))


def _single(means: np.ndarray) -> np.ndarray:
    return means[..., 0]


def _correct(predictions: Predictions) -> np.ndarray:
    return predictions.correct[:, None].astype(np.float64)


def _negative_log(predictions: Predictions) -> np.ndarray:
    own = predictions.probabilities[np.arange(len(predictions.labels)), predictions.labels]
    # A probability below the smallest float32 is stored as 0; its logarithm shall stay finite.
    return -np.log(np.maximum(own.astype(np.float64), np.finfo(np.float32).tiny))[:, None]


def _squared_error(predictions: Predictions) -> np.ndarray:
    truth = np.eye(CLASSES)[predictions.labels]
    return np.sum((predictions.probabilities - truth) ** 2, axis=1, keepdims=True)


def _cells(predictions: Predictions) -> np.ndarray:
    """float64 (N, 49), one at the cell of the confusion matrix to which the face belongs."""
    return np.eye(CLASSES**2)[predictions.labels * CLASSES + predictions.decisions]


def _macro_f1(means: np.ndarray) -> np.ndarray:
    matrix = means.reshape(*means.shape[:-1], CLASSES, CLASSES)
    return _scores_by_class(matrix)[2].mean(-1)


def _scores_by_class(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 (..., 7) from confusion matrices (..., 7, 7); 0 where 0/0."""
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    actual, predicted = matrix.sum(-1), matrix.sum(-2)

    def share(of: np.ndarray) -> np.ndarray:
        return np.divide(hits, of, out=np.zeros_like(hits, dtype=np.float64), where=of > 0)

    return share(predicted), share(actual), share((actual + predicted) / 2)


def _gaps(predictions: Predictions) -> np.ndarray:
    """float64 (N, BINS), confidence minus correctness, at the bin of the confidence."""
    confidence = predictions.probabilities.max(-1).astype(np.float64)
    gap = confidence - predictions.correct
    return np.eye(BINS)[_bin(confidence)] * gap[:, None]


def _bin(confidence: np.ndarray) -> np.ndarray:
    """The bin (i / BINS, (i + 1) / BINS] of each confidence, as an index."""
    return np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)


METRICS = {
    "accuracy": Metric("accuracy", _correct, _single, percent=True, higher_is_better=True),
    "macro_f1": Metric("macro F1", _cells, _macro_f1, percent=True, higher_is_better=True),
    "log_loss": Metric(
        "log-loss", _negative_log, _single, percent=False, higher_is_better=False, highest=np.inf
    ),
    "brier": Metric(
        "Brier score", _squared_error, _single, percent=False, higher_is_better=False, highest=2.0
    ),
    "calibration_error": Metric(
        "calibration error",
        _gaps,
        lambda means: np.abs(means).sum(-1),
        percent=True,
        higher_is_better=False,
    ),
}
"""By name.

accuracy: share of faces whose most probable class is their label.
macro_f1: unweighted mean over the classes of the harmonic mean of precision and recall; a class
    that neither occurs nor is predicted counts as 0, as in scikit-learn by default.
log_loss: mean cross-entropy in nats, without class weights.
brier: mean over the faces of the squared distance between probabilities and truth, summed over the
    classes: 0 to 2 (Brier, 1950).
calibration_error: expected calibration error (Guo et al., 2017, arXiv:1706.04599, equation 3), of
    the most probable class, in 15 equally wide bins.
"""


def confusion_matrix(predictions: Predictions) -> np.ndarray:
    """int64 (7, 7): how many faces of the row's class were given the column's."""
    pairs = predictions.labels * CLASSES + predictions.decisions
    return np.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES)


def by_class(predictions: Predictions) -> dict[str, list[float]]:
    """`precision`, `recall` and `f1` of each class; 0 where there is nothing to divide by."""
    scores = _scores_by_class(confusion_matrix(predictions))
    return {name: x.tolist() for name, x in zip(("precision", "recall", "f1"), scores, strict=True)}


class Reliability(NamedTuple):
    """Confidence and accuracy, in bins of confidence.

    Attributes:
        faces: int64 (BINS,), how many are in the bin.
        confidence: float64 (BINS,), mean probability of the decision, NaN in an empty bin.
        accuracy: float64 (BINS,), share of right decisions, NaN in an empty bin.
    """

    faces: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def reliability(predictions: Predictions) -> Reliability:
    """The reliability curve of the most probable class."""
    confidence = predictions.probabilities.max(-1).astype(np.float64)
    where = _bin(confidence)
    count = np.bincount(where, minlength=BINS)
    sums = [np.bincount(where, x, minlength=BINS) for x in (confidence, predictions.correct)]
    with np.errstate(invalid="ignore"):
        return Reliability(count, *(x / count for x in sums))

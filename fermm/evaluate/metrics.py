"""Metrics from saved predictions.

Each is also available face by face, as `fermm.evaluate.statistics` wants it.
"""

import contextlib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fermm.data.faces import EMOTIONS
from fermm.errors import InputError
from fermm.evaluate.statistics import LEVEL, Squares
from fermm.paths import whole

ANEW = "delete it and run again: the run writes it anew"
CLASSES = len(EMOTIONS)
BINS = 15  # of confidence, with as many faces in each as in the others
FACES_IN_A_BIN = 10  # at least; where there are fewer faces there are fewer bins
# A probability below the smallest float32 is stored as 0; its logarithm shall stay finite.
HIGHEST_LOSS = -float(np.log(np.finfo(np.float32).tiny))
CALIBRATED_DRAWS = 3000  # of labels of a perfectly calibrated network


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
    """A metric, as a whole and face by face.

    Attributes:
        title: how it is called in tables.
        value: predictions to its value.
        by_face: predictions to float64 (N,), whose mean is the metric, or, where it is no mean over
            faces, the pseudo-values of its jackknife. None for the calibration error, which has
            an interval of its own kind, see `calibration_squares`.
        percent: whether it is shown times 100.
        higher_is_better: what the direction of a difference means.
        highest: the largest possible value; the smallest is 0.
    """

    title: str
    value: Callable[[Predictions], float]
    by_face: Callable[[Predictions], np.ndarray] | None
    percent: bool
    higher_is_better: bool
    highest: float = 1.0

    def __call__(self, predictions: Predictions) -> float:
        """Its value for the faces of `predictions`."""
        return self.value(predictions)


def _mean_of(by_face: Callable[[Predictions], np.ndarray]) -> Callable[[Predictions], float]:
    return lambda predictions: float(by_face(predictions).mean())


def _correct(predictions: Predictions) -> np.ndarray:
    return predictions.correct.astype(np.float64)


def _negative_log(predictions: Predictions) -> np.ndarray:
    own = predictions.probabilities[np.arange(len(predictions.labels)), predictions.labels]
    return -np.log(np.maximum(own.astype(np.float64), np.finfo(np.float32).tiny))


def _squared_error(predictions: Predictions) -> np.ndarray:
    truth = np.eye(CLASSES)[predictions.labels]
    return np.sum((predictions.probabilities - truth) ** 2, axis=1)


def macro_f1(matrix: np.ndarray) -> np.ndarray:
    """Macro F1 (...) from confusion matrices (..., 7, 7), also of weighted faces.

    A class that neither occurs nor is predicted does not count, as in scikit-learn. NaN where no
    class is left.
    """
    f1 = scores_by_class(matrix)[2]
    known = ~np.isnan(f1)
    count = known.sum(-1)
    total = np.where(known, f1, 0.0).sum(-1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _macro_f1_by_face(predictions: Predictions) -> np.ndarray:
    """The pseudo-values of the jackknife: without a face only its cell of the matrix changes."""
    matrix = confusion_matrix(predictions)
    faces = len(predictions.labels)
    cells = np.arange(CLASSES**2)
    without = np.repeat(matrix.reshape(1, -1), CLASSES**2, axis=0)
    without[cells, cells] = np.maximum(without[cells, cells] - 1, 0)
    values = macro_f1(without.reshape(-1, CLASSES, CLASSES))
    pseudo = faces * macro_f1(matrix) - (faces - 1) * np.nan_to_num(values)
    return pseudo[predictions.labels * CLASSES + predictions.decisions]


def faces_of_a_macro_mean(labels: np.ndarray) -> float:
    """How many faces of equally frequent classes give a mean over the classes the same variance.

    Of a class with n faces a share has a variance proportional to 1/n, so that the mean over C
    classes has that of C^2 / sum(1/n) faces.
    """
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    return float(len(counts) ** 2 / (1 / counts).sum())


def scores_by_class(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 (..., 7) from confusion matrices (..., 7, 7); NaN where 0/0."""
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    actual, predicted = matrix.sum(-1), matrix.sum(-2)

    def share(of: np.ndarray) -> np.ndarray:
        return np.divide(hits, of, out=np.full(hits.shape, np.nan), where=of > 0)

    return share(predicted), share(actual), share((actual + predicted) / 2)


def _bins(confidence: np.ndarray) -> np.ndarray:
    """The bin of each confidence, as an index: as many faces in each as ties allow."""
    count = max(1, min(BINS, len(confidence) // FACES_IN_A_BIN))
    edges = np.quantile(confidence, np.arange(1, count) / count, method="inverted_cdf")
    _, where = np.unique(np.searchsorted(edges, confidence), return_inverse=True)
    return where


def _squares(
    faces: np.ndarray, sums: np.ndarray, squares: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of each bin, faces times the squared mean gap, and the variance of the gaps (..., bins).

    Args:
        faces: (bins,).
        sums: (..., bins), of the gaps.
        squares: (..., bins), of the squares of the gaps.
    """
    # A single face does not tell how much of its gap is chance, and is left out.
    total = np.where(faces > 1, sums**2 / faces, 0.0)
    noise = np.maximum(squares - sums**2 / faces, 0.0) / np.maximum(faces - 1, 1)
    return total, noise


def calibration_squares(predictions: Predictions) -> Squares:
    """What the calibration error of these predictions is estimated from.

    The gaps are confidence minus correctness, in bins of confidence.
    """
    confidence = predictions.probabilities.max(-1).astype(np.float64)
    gap = confidence - predictions.correct
    where = _bins(confidence)
    faces, sums, squares, right = (
        np.bincount(where, x) for x in (np.ones_like(gap), gap, gap**2, predictions.correct)
    )
    total, noise = _squares(faces, sums, squares)
    # Two right faces and two wrong ones more, as in the interval of Agresti and Coull (1998).
    beside = 4 * faces / (faces + 4) * (right / faces - 0.5) ** 2
    smooth = (faces * noise + 1 + beside) / (faces + 4)
    return Squares(len(gap), *(float(x.sum()) for x in (total, noise, smooth, smooth**2)))


def _calibration_error(predictions: Predictions) -> float:
    return float(np.sqrt(max(calibration_squares(predictions).square, 0.0)))


def calibrated_below(
    predictions: Predictions, draws: int = CALIBRATED_DRAWS, seed: int = 0
) -> float:
    """The calibration error below which a perfectly calibrated network stays in 95% of cases.

    Whether each decision is right is drawn anew with its confidence as the probability.

    Args:
        predictions: whose confidences are used.
        draws: how often.
        seed: of the draws.
    """
    confidence = predictions.probabilities.max(-1).astype(np.float64)
    where = _bins(confidence)
    membership = np.eye(where.max() + 1, dtype=np.float32)[where]
    weights = np.concatenate([membership, membership * confidence[:, None].astype(np.float32)], 1)
    faces, of_confidence, of_squares = (
        np.bincount(where, x) for x in (np.ones_like(confidence), confidence, confidence**2)
    )
    threshold = np.round(confidence * 2**16 - 1).astype(np.uint16)
    random = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    for begin in range(0, draws, 250):
        shape = (min(250, draws - begin), len(confidence))
        # 16 bits are enough for a probability here, and several times as fast as floats.
        drawn = np.frombuffer(random.bytes(2 * shape[0] * shape[1]), "<u2").reshape(shape)
        right = (drawn <= threshold).astype(np.float32)
        correct, both = np.split(right @ weights, 2, axis=1)
        # With y either 0 or 1, (c - y)^2 is c^2 - 2cy + y.
        total, noise = _squares(faces, of_confidence - correct, of_squares - 2.0 * both + correct)
        found.append((total - noise).sum(1))
    squares = np.quantile(np.concatenate(found) / len(confidence), LEVEL)
    return float(np.sqrt(max(squares, 0.0)))


METRICS = {
    "accuracy": Metric(
        "accuracy", _mean_of(_correct), _correct, percent=True, higher_is_better=True
    ),
    "macro_f1": Metric(
        "macro F1",
        lambda predictions: float(macro_f1(confusion_matrix(predictions))),
        _macro_f1_by_face,
        percent=True,
        higher_is_better=True,
    ),
    "log_loss": Metric(
        "log-loss",
        _mean_of(_negative_log),
        _negative_log,
        percent=False,
        higher_is_better=False,
        highest=HIGHEST_LOSS,
    ),
    "brier": Metric(
        "Brier score",
        _mean_of(_squared_error),
        _squared_error,
        percent=False,
        higher_is_better=False,
        highest=2.0,
    ),
    "calibration_error": Metric(
        "calibration error", _calibration_error, None, percent=True, higher_is_better=False
    ),
}
"""By name.

accuracy: share of faces whose most probable class is their label.
macro_f1: unweighted mean over the classes of the harmonic mean of precision and recall; a class
    that neither occurs nor is predicted does not count, as in scikit-learn.
log_loss: mean cross-entropy in nats, without class weights.
brier: mean over the faces of the squared distance between probabilities and truth, summed over the
    classes: 0 to 2 (Brier, 1950).
calibration_error: root of the mean square difference between confidence and accuracy of the most
    probable class, in 15 bins of confidence with equally many faces, without the bias that chance
    gives such a square (the debiased estimator of Kumar, Liang and Ma, 2019, arXiv:1909.10155); 0
    where the unbiased square is negative.
"""


def confusion_matrix(predictions: Predictions) -> np.ndarray:
    """int64 (7, 7): how many faces of the row's class were given the column's."""
    pairs = predictions.labels * CLASSES + predictions.decisions
    return np.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES)


def by_class(predictions: Predictions) -> dict[str, np.ndarray]:
    """`precision`, `recall` and `f1` of each class, float64 (7,).

    NaN where there is nothing to divide by: recall of a class without faces, precision of a class
    that is never predicted, F1 of a class that is neither.
    """
    scores = scores_by_class(confusion_matrix(predictions))
    return dict(zip(("precision", "recall", "f1"), scores, strict=True))


class Reliability(NamedTuple):
    """Confidence and accuracy, in bins of confidence with equally many decisions.

    Attributes:
        decisions: int64 (bins,), how many are in the bin.
        confidence: float64 (bins,), mean probability of the decisions.
        accuracy: float64 (bins,), share of right decisions.
    """

    decisions: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def reliability(predictions: Predictions) -> Reliability:
    """The reliability curve of the most probable class."""
    confidence = predictions.probabilities.max(-1).astype(np.float64)
    where = _bins(confidence)
    count = np.bincount(where)
    sums = (np.bincount(where, x) for x in (confidence, predictions.correct))
    return Reliability(count, *(x / count for x in sums))

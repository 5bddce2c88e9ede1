"""Metrics of saved predictions.

Each is also available sample by sample, as `fermm.evaluate.statistics` wants it. K is the number of
classes.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fermm.evaluate.statistics import LEVEL, Squares
from fermm.rundir import Predictions

BINS = 15  # of confidence, with as many samples in each as in the others
SAMPLES_IN_A_BIN = 10  # at least; where there are fewer samples there are fewer bins
# A probability below the smallest float32 is stored as 0; its logarithm shall stay finite.
_TINY = np.finfo(np.float32).tiny
HIGHEST_LOSS = -float(np.log(_TINY))
CALIBRATED_DRAWS = 3000  # of labels of a perfectly calibrated network


class Metric(NamedTuple):
    """A metric, as a whole and sample by sample.

    Attributes:
        title: how it is called in tables.
        value: predictions to its value.
        by_sample: predictions to float64 (N,), whose mean is the metric, or, where it is no mean
            over samples, the pseudo-values of its jackknife. None for the calibration error, which
            has an interval of its own kind, see `calibration_squares`.
        percent: whether it is shown times 100.
        higher_is_better: what the direction of a difference means.
        highest: the largest possible value; the smallest is 0.
    """

    title: str
    value: Callable[[Predictions], float]
    by_sample: Callable[[Predictions], np.ndarray] | None
    percent: bool
    higher_is_better: bool
    highest: float = 1.0

    def __call__(self, predictions: Predictions) -> float:
        """Its value for the samples of `predictions`."""
        return self.value(predictions)


def _mean_of(by_sample: Callable[[Predictions], np.ndarray]) -> Callable[[Predictions], float]:
    return lambda predictions: float(by_sample(predictions).mean())


def _correct(predictions: Predictions) -> np.ndarray:
    return predictions.correct.astype(np.float64)


def _negative_log(predictions: Predictions) -> np.ndarray:
    own = predictions.probabilities[np.arange(len(predictions.labels)), predictions.labels]
    return -np.log(np.maximum(own.astype(np.float64), _TINY))


def _squared_error(predictions: Predictions) -> np.ndarray:
    truth = np.eye(predictions.classes)[predictions.labels]
    return np.sum((predictions.probabilities - truth) ** 2, axis=1)


def macro_f1(matrix: np.ndarray) -> np.ndarray:
    """Macro F1 (...) from confusion matrices (..., K, K), also of weighted samples.

    A class that neither occurs nor is predicted does not count, as in scikit-learn. NaN where no
    class is left.
    """
    f1 = scores_by_class(matrix)[2]
    known = ~np.isnan(f1)
    count = known.sum(-1)
    total = np.where(known, f1, 0.0).sum(-1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _macro_f1_by_sample(predictions: Predictions) -> np.ndarray:
    """The pseudo-values of the jackknife: without a sample only its cell of the matrix changes."""
    matrix, classes = confusion_matrix(predictions), predictions.classes
    samples = len(predictions.labels)
    # Only cells that hold a sample are asked for.
    cell_of_sample = predictions.labels * classes + predictions.decisions
    cells, where = np.unique(cell_of_sample, return_inverse=True)
    without = np.repeat(matrix.reshape(1, -1), len(cells), axis=0)
    without[np.arange(len(cells)), cells] -= 1
    values = macro_f1(without.reshape(-1, classes, classes))
    pseudo = samples * macro_f1(matrix) - (samples - 1) * np.nan_to_num(values)
    return pseudo[where]


def samples_of_a_macro_mean(labels: np.ndarray) -> float:
    """How many samples of equally frequent classes give a mean over classes the same variance.

    Of a class with n samples a share has a variance proportional to 1/n, so that the mean over C
    classes has that of C^2 / sum(1/n) samples.
    """
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    return float(len(counts) ** 2 / (1 / counts).sum())


def scores_by_class(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 (..., K) from confusion matrices (..., K, K); NaN where 0/0."""
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    actual, predicted = matrix.sum(-1), matrix.sum(-2)

    def share(of: np.ndarray) -> np.ndarray:
        return np.divide(hits, of, out=np.full(hits.shape, np.nan), where=of > 0)

    return share(predicted), share(actual), share((actual + predicted) / 2)


def _bins(confidence: np.ndarray) -> np.ndarray:
    """The bin of each confidence, as an index: as many samples in each as ties allow."""
    count = max(1, min(BINS, len(confidence) // SAMPLES_IN_A_BIN))
    edges = np.quantile(confidence, np.arange(1, count) / count, method="inverted_cdf")
    _, where = np.unique(np.searchsorted(edges, confidence), return_inverse=True)
    return where


def _squares(
    samples: np.ndarray, sums: np.ndarray, squares: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of each bin, samples times the squared mean gap, and the variance of the gaps (..., bins).

    Args:
        samples: (bins,).
        sums: (..., bins), of the gaps.
        squares: (..., bins), of the squares of the gaps.
    """
    # A single sample does not tell how much of its gap is chance, and is left out.
    total = np.where(samples > 1, sums**2 / samples, 0.0)
    noise = np.maximum(squares - sums**2 / samples, 0.0) / np.maximum(samples - 1, 1)
    return total, noise


def calibration_squares(predictions: Predictions) -> Squares:
    """What the calibration error of these predictions is estimated from.

    The gaps are confidence minus correctness, in bins of confidence.
    """
    confidence = predictions.probabilities.max(-1).astype(np.float64)
    gap = confidence - predictions.correct
    where = _bins(confidence)
    samples, sums, squares, right = (
        np.bincount(where, x) for x in (np.ones_like(gap), gap, gap**2, predictions.correct)
    )
    total, noise = _squares(samples, sums, squares)
    # Two right samples and two wrong ones more, as in the interval of Agresti and Coull (1998).
    beside = 4 * samples / (samples + 4) * (right / samples - 0.5) ** 2
    smooth = (samples * noise + 1 + beside) / (samples + 4)
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
    samples, of_confidence, of_squares = (
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
        total, noise = _squares(samples, of_confidence - correct, of_squares - 2.0 * both + correct)
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
        _macro_f1_by_sample,
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

accuracy: share of samples whose most probable class is their label.
macro_f1: unweighted mean over the classes of the harmonic mean of precision and recall; a class
    that neither occurs nor is predicted does not count, as in scikit-learn.
log_loss: mean cross-entropy in nats, without class weights.
brier: mean over the samples of the squared distance between probabilities and truth, summed over
    the classes: 0 to 2 (Brier, 1950).
calibration_error: root of the mean square difference between confidence and accuracy of the most
    probable class, in 15 bins of confidence with equally many samples, without the bias that chance
    gives such a square (the debiased estimator of Kumar, Liang and Ma, 2019, arXiv:1909.10155); 0
    where the unbiased square is negative.
"""


class Votes(NamedTuple):
    """The annotators of N samples, of whom each voted for one of K classes.

    Attributes:
        shares: float64 (N, K), the share of the votes for each class, in sum 1.
    """

    shares: np.ndarray

    @classmethod
    def of(cls, predictions: Predictions) -> "Votes":
        """The votes on the samples of `predictions`, which must have some."""
        assert predictions.votes is not None
        shares = predictions.votes.astype(np.float64)
        return cls(shares / shares.sum(1, keepdims=True))

    @property
    def agreed(self) -> np.ndarray:
        """bool (N,), whether one class has more votes than any other: whether there is no tie."""
        # Shares of a few votes are rounded to float32: what is as near as this is the same.
        highest = self.shares.max(1, keepdims=True)
        return (self.shares > highest - 1e-5).sum(1) == 1

    @property
    def majority(self) -> np.ndarray:
        """int64 (N,), the class with the most votes; of no meaning where there is a tie."""
        return self.shares.argmax(1)

    @property
    def annotator_accuracy(self) -> np.ndarray:
        """float64 (N,), how likely one annotator, chosen at random, voted for the majority.

        It is the share of the votes for that class. The annotator's own vote counts in the
        majority, which makes it a little higher than that of somebody who did not vote.
        """
        return self.shares.max(1)

    @property
    def entropy(self) -> np.ndarray:
        """float64 (N,), in nats: the cross-entropy of a network that tells the votes exactly."""
        return _cross_entropy(self.shares, self.shares)


def _cross_entropy(shares: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """float64 (N,), of distributions (N, K), in nats; 0 times the logarithm of 0 is 0."""
    return -np.sum(shares * np.log(np.maximum(probabilities.astype(np.float64), _TINY)), axis=1)


def _vote_cross_entropy(predictions: Predictions) -> np.ndarray:
    return _cross_entropy(Votes.of(predictions).shares, predictions.probabilities)


def _mean(values: np.ndarray) -> float:
    """The mean, NaN where there is nothing."""
    return float(values.mean()) if len(values) else float("nan")


def agreed(predictions: Predictions) -> Predictions:
    """Those samples whose annotators agree on a majority, with this majority as the label."""
    votes = Votes.of(predictions)
    majority = votes.majority.astype(predictions.labels.dtype)
    return predictions._replace(labels=majority).take(votes.agreed)


VOTE_METRICS = {
    "majority_accuracy": Metric(
        "accuracy against the majority",
        lambda predictions: _mean(_correct(agreed(predictions))),
        lambda predictions: _correct(agreed(predictions)),
        percent=True,
        higher_is_better=True,
    ),
    "vote_cross_entropy": Metric(
        "cross-entropy of the votes",
        _mean_of(_vote_cross_entropy),
        _vote_cross_entropy,
        percent=False,
        higher_is_better=False,
        highest=HIGHEST_LOSS,
    ),
}
"""By name; for samples on which annotators have voted.

majority_accuracy: share of the samples whose most probable class is the one with the most votes.
    Samples where two classes or more have the most votes are left out, for there is no majority;
    NaN if that is all of them.
vote_cross_entropy: mean over all samples of the cross-entropy between the shares of the votes and
    the probabilities, in nats; its lower bound is the mean entropy of the votes.
"""


def of_annotators(predictions: Predictions) -> dict[str, float | int]:
    """What the votes alone tell, whatever the network.

    Returns:
        `annotator_accuracy`: mean of `Votes.annotator_accuracy` over the samples with a majority,
        NaN if there are none; `vote_entropy`: mean of `Votes.entropy` over all samples;
        `without_majority`: how many samples have none.
    """
    votes = Votes.of(predictions)
    there = votes.agreed
    return {
        "annotator_accuracy": _mean(votes.annotator_accuracy[there]),
        "vote_entropy": float(votes.entropy.mean()),
        "without_majority": int((~there).sum()),
    }


def confusion_matrix(predictions: Predictions) -> np.ndarray:
    """int64 (K, K): how many samples of the row's class were given the column's."""
    classes = predictions.classes
    pairs = predictions.labels * classes + predictions.decisions
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def by_class(predictions: Predictions) -> dict[str, np.ndarray]:
    """`precision`, `recall` and `f1` of each class, float64 (K,).

    NaN where there is nothing to divide by: recall of a class without samples, precision of a class
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
        bins: int64 (N,), the bin of each decision.
    """

    decisions: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    bins: np.ndarray


def reliability(predictions: Predictions) -> Reliability:
    """The reliability curve of the most probable class."""
    confidence = predictions.probabilities.max(-1).astype(np.float64)
    where = _bins(confidence)
    count = np.bincount(where)
    of_confidence, right = (np.bincount(where, x) for x in (confidence, predictions.correct))
    return Reliability(count, of_confidence / count, right / count, where)

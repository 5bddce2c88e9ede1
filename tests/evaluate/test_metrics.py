"""Metrics against scikit-learn, loops, and hand-computed values."""

import itertools

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from fermm.evaluate import metrics
from fermm.evaluate.metrics import METRICS
from fermm.rundir import Predictions


def random_predictions(seed, count=300):
    random = np.random.default_rng(seed)
    labels = random.integers(7, size=count).astype(np.int32)
    scores = random.normal(size=(count, 7)) + 1.5 * np.eye(7)[labels]
    probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    return Predictions(np.arange(count), labels, probabilities.astype(np.float32))


@pytest.mark.parametrize("seed", range(3))
def test_metrics_as_scikit_learn_has_them(seed):
    p = random_predictions(seed)
    decisions = p.probabilities.argmax(-1)
    exact = p.probabilities.astype(np.float64)
    exact /= exact.sum(1, keepdims=True)
    assert METRICS["accuracy"](p) == sklearn_metrics.accuracy_score(p.labels, decisions)
    macro_f1 = sklearn_metrics.f1_score(p.labels, decisions, average="macro")
    assert METRICS["macro_f1"](p) == pytest.approx(macro_f1, rel=1e-12)
    loss = sklearn_metrics.log_loss(p.labels, exact, labels=range(7))
    assert METRICS["log_loss"](p) == pytest.approx(loss, rel=1e-6)
    brier = sklearn_metrics.brier_score_loss(p.labels, exact, labels=range(7), scale_by_half=False)
    assert METRICS["brier"](p) == pytest.approx(brier, rel=1e-6)
    matrix = sklearn_metrics.confusion_matrix(p.labels, decisions)
    np.testing.assert_array_equal(metrics.confusion_matrix(p), matrix)
    scores = sklearn_metrics.precision_recall_fscore_support(p.labels, decisions)
    for name, expected in zip(("precision", "recall", "f1"), scores, strict=False):
        np.testing.assert_allclose(metrics.by_class(p)[name], expected, rtol=1e-12)


def decided(labels, decisions):
    probabilities = np.eye(7, dtype=np.float32)[decisions]
    return Predictions(np.arange(len(labels)), np.array(labels, np.int32), probabilities)


def test_a_class_that_neither_occurs_nor_is_predicted_does_not_count():
    p = decided([0, 1, 0], [0, 1, 1])
    scores = metrics.by_class(p)
    np.testing.assert_array_equal(scores["precision"], [1, 0.5, *[np.nan] * 5])
    np.testing.assert_array_equal(scores["recall"], [0.5, 1, *[np.nan] * 5])
    assert METRICS["macro_f1"](p) == pytest.approx((2 / 3 + 2 / 3) / 2)
    perfect = decided([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5])
    assert METRICS["macro_f1"](perfect) == 1


def test_a_class_that_is_only_predicted_counts_as_zero():
    """Precision 0, recall 0/0, F1 0: it was claimed, and wrongly."""
    p = decided([0, 0, 0], [0, 0, 3])
    scores = metrics.by_class(p)
    assert scores["precision"][3] == scores["f1"][3] == 0
    assert np.isnan(scores["recall"][3])
    assert METRICS["macro_f1"](p) == pytest.approx(0.8 / 2)


@pytest.mark.parametrize("seed", range(20))
def test_macro_f1_of_few_faces_as_scikit_learn_has_it(seed):
    random = np.random.default_rng(seed)
    labels, decisions = random.integers(7, size=(2, 4))
    p = decided(labels, decisions)
    expected = sklearn_metrics.f1_score(labels, decisions, average="macro", zero_division=np.nan)
    assert METRICS["macro_f1"](p) == pytest.approx(expected, rel=1e-12)
    # By default 0/0 is 0 there, which for F1 never is, of classes that occur or are predicted.
    default = sklearn_metrics.f1_score(labels, decisions, average="macro")
    assert METRICS["macro_f1"](p) == pytest.approx(default, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_macro_f1_of_a_resample_in_which_a_class_vanishes(seed):
    """Weighted confusion matrices at once, against scikit-learn's weights one by one."""
    random = np.random.default_rng(seed)
    labels, decisions = random.integers(7, size=(2, 12))
    weights = random.multinomial(12, np.full(12, 1 / 12), size=20)
    cells = np.eye(49)[labels * 7 + decisions]
    found = metrics.macro_f1((weights @ cells).reshape(20, 7, 7))
    for value, drawn in zip(found, weights, strict=True):
        of = drawn > 0
        expected = sklearn_metrics.f1_score(
            labels[of], decisions[of], average="macro", sample_weight=drawn[of]
        )
        assert value == pytest.approx(expected, rel=1e-12)
    assert {len(set(labels[w > 0]) | set(decisions[w > 0])) for w in weights} != {7}


def test_macro_f1_without_any_face_is_nothing():
    assert np.isnan(metrics.macro_f1(np.zeros((7, 7))))


@pytest.mark.parametrize("count", [12, 300])
def test_pseudo_values_of_macro_f1_as_leaving_out_each_face_gives_them(count):
    p = random_predictions(0, count)
    whole = METRICS["macro_f1"](p)
    expected = []
    for i in range(count):
        rest = p.take(np.arange(count) != i)
        without = sklearn_metrics.f1_score(rest.labels, rest.decisions, average="macro")
        expected.append(count * whole - (count - 1) * without)
    found = METRICS["macro_f1"].by_sample(p)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_samples_of_a_macro_mean_by_hand():
    assert metrics.samples_of_a_macro_mean(np.repeat(range(7), 10)) == pytest.approx(70)
    assert metrics.samples_of_a_macro_mean(np.array([0, 2, 2, 2])) == pytest.approx(4 / (4 / 3))


def test_log_loss_of_a_probability_of_zero_is_finite():
    p = Predictions(np.arange(1), np.array([1], np.int32), np.eye(7, dtype=np.float32)[[0]])
    assert METRICS["log_loss"](p) == pytest.approx(-np.log(np.finfo(np.float32).tiny))
    assert METRICS["brier"](p) == 2


def sorted_bins(p):
    """Confidences without ties cut into 15 parts of (nearly) equal size."""
    order = np.argsort(p.probabilities.max(-1), kind="stable")
    ends = [int(np.ceil(len(order) * i / 15)) for i in range(16)]
    return [order[a:b] for a, b in itertools.pairwise(ends)]


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_as_a_loop_over_pairs_has_it(seed):
    """Of two different samples of a bin, the product of the gaps has the square as expectation."""
    p = random_predictions(seed, 317)
    gaps = p.probabilities.max(-1).astype(np.float64) - p.correct
    square = 0.0
    for own in sorted_bins(p):
        pairs = [gaps[i] * gaps[j] for i in own for j in own if i != j]
        square += len(own) / 317 * np.mean(pairs)
    assert metrics.calibration_squares(p).square == pytest.approx(square, rel=1e-9)
    assert METRICS["calibration_error"](p) == pytest.approx(max(square, 0) ** 0.5, rel=1e-9)


def test_calibration_error_as_its_authors_have_it_where_confidence_is_constant_in_a_bin():
    """Kumar, Liang and Ma subtract accuracy (1 - accuracy) / (samples - 1) in each bin."""
    random = np.random.default_rng(0)
    levels = np.repeat(np.linspace(0.2, 0.9, 15), 20).astype(np.float32)
    probabilities = np.repeat((1 - levels[:, None]) / 6, 7, axis=1)
    probabilities[:, 0] = levels
    labels = np.where(random.random(300) < 0.5, 0, 1).astype(np.int32)
    p = Predictions(np.arange(300), labels, probabilities)
    accuracy = (labels == 0).reshape(15, 20).mean(1)
    confidence = levels.reshape(15, 20)[:, 0].astype(np.float64)
    terms = (confidence - accuracy) ** 2 - accuracy * (1 - accuracy) / 19
    assert metrics.calibration_squares(p).square == pytest.approx(terms.mean(), rel=1e-9)


def test_the_square_of_the_calibration_error_has_no_bias():
    random = np.random.default_rng(0)
    for error in (0.0, 0.05):
        squares = []
        for _ in range(2000):
            confidence = random.uniform(0.3, 0.9, 200)
            right = random.random(200) < confidence - error
            squares.append(metrics.calibration_squares(two_sided(confidence, right)).square)
        standard_error = np.std(squares) / 2000**0.5
        assert abs(np.mean(squares) - error**2) < 3 * standard_error
        assert standard_error < 2e-4


def two_sided(confidence, right):
    """Predictions of these confidences, right as said."""
    probabilities = np.repeat((1 - confidence[:, None]) / 6, 7, axis=1).astype(np.float32)
    probabilities[:, 0] = confidence
    labels = np.where(right, 0, 1).astype(np.int32)
    return Predictions(np.arange(len(labels)), labels, probabilities)


def test_calibration_by_hand():
    """Twelve decisions of confidence 0.75 make one bin; nine, or three of them, are right."""
    right = np.arange(12) < 9
    p = two_sided(np.full(12, 0.75), right)
    found = metrics.calibration_squares(p)
    variance = 9 / 12 * 3 / 12 * 12 / 11
    smooth = (12 * variance + 1 + 4 * 12 / 16 * 0.25**2) / 16
    assert found == pytest.approx((12, 0, variance, smooth, smooth**2), abs=1e-6)
    assert METRICS["calibration_error"](p) == 0  # the square is negative
    p = two_sided(np.full(12, 0.75), ~right)
    assert METRICS["calibration_error"](p) == pytest.approx((0.25 - variance / 12) ** 0.5, 1e-5)


def test_the_band_of_a_calibrated_network_as_a_loop_has_it():
    confidence = np.random.default_rng(1).uniform(0.3, 0.9, 150)
    p = two_sided(confidence, np.ones(150, bool))
    random = np.random.default_rng(2)
    drawn = [
        METRICS["calibration_error"](two_sided(confidence, random.random(150) < confidence))
        for _ in range(2000)
    ]
    assert metrics.calibrated_below(p) == pytest.approx(np.quantile(drawn, 0.95), rel=0.06)
    assert metrics.calibrated_below(p) == metrics.calibrated_below(p)


def test_the_band_has_the_digit_that_is_printed():
    """Drawn with other seeds, the standard error is below half of 0.1 points."""
    p = random_predictions(0, 3589)
    found = [metrics.calibrated_below(p, seed=seed) for seed in range(8)]
    assert 100 * np.std(found, ddof=1) < 0.05


@pytest.mark.parametrize(("count", "bins"), [(3589, 15), (150, 15), (49, 4), (9, 1), (1, 1)])
def test_reliability_in_bins_of_equally_many_faces(count, bins):
    p = random_predictions(0, count)
    found = metrics.reliability(p)
    assert len(found.decisions) == bins
    assert found.decisions.sum() == count
    assert np.ptp(found.decisions) <= 1
    assert found.decisions @ found.accuracy == pytest.approx(p.correct.sum())
    assert found.decisions @ found.confidence == pytest.approx(p.probabilities.max(-1).sum())
    assert (np.diff(found.confidence) > 0).all()


def test_faces_of_the_same_confidence_are_in_one_bin():
    confidence = np.repeat([0.4, 0.6, 0.8], [100, 150, 50])
    found = metrics.reliability(two_sided(confidence, np.arange(300) % 2 == 0))
    assert found.decisions.tolist() == [100, 150, 50]
    np.testing.assert_allclose(found.accuracy, 0.5)


def test_metrics_face_by_sample_have_the_metric_as_their_mean():
    p = random_predictions(0)
    for name in ("accuracy", "log_loss", "brier"):
        assert METRICS[name].by_sample(p).shape == p.labels.shape
        assert METRICS[name](p) == pytest.approx(METRICS[name].by_sample(p).mean(), rel=1e-12)

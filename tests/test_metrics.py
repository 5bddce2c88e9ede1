"""Figures of merit against scikit-learn, loops, and hand-computed values."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from fermm.evaluate import metrics
from fermm.evaluate.metrics import METRICS, Predictions


def random_predictions(seed, count=300):
    random = np.random.default_rng(seed)
    labels = random.integers(7, size=count).astype(np.int32)
    scores = random.normal(size=(count, 7)) + 1.5 * np.eye(7)[labels]
    probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    return Predictions(np.arange(count), labels, probabilities.astype(np.float32))


@pytest.mark.parametrize("seed", range(3))
def test_figures_of_merit_as_scikit_learn_has_them(seed):
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


def test_a_class_without_faces_and_predictions_counts_as_nothing():
    probabilities = np.eye(7, dtype=np.float32)[[0, 1, 1]]
    p = Predictions(np.arange(3), np.array([0, 1, 0], np.int32), probabilities)
    assert metrics.by_class(p)["precision"] == [1, 0.5, 0, 0, 0, 0, 0]
    assert metrics.by_class(p)["recall"] == [0.5, 1, 0, 0, 0, 0, 0]
    assert METRICS["macro_f1"](p) == pytest.approx((2 / 3 + 2 / 3) / 7)


def test_log_loss_of_a_probability_of_zero_is_finite():
    p = Predictions(np.arange(1), np.array([1], np.int32), np.eye(7, dtype=np.float32)[[0]])
    assert METRICS["log_loss"](p) == pytest.approx(-np.log(np.finfo(np.float32).tiny))
    assert METRICS["brier"](p) == 2


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_as_a_loop_has_it(seed):
    p = random_predictions(seed)
    error, count = 0.0, len(p.labels)
    for i in range(metrics.BINS):
        gap = 0.0
        for label, row in zip(p.labels, p.probabilities.astype(np.float64), strict=True):
            if i / metrics.BINS < row.max() <= (i + 1) / metrics.BINS:
                gap += row.max() - (row.argmax() == label)
        error += abs(gap) / count
    assert METRICS["calibration_error"](p) == pytest.approx(error, rel=1e-9)
    found = metrics.reliability(p)
    filled = found.faces > 0
    again = np.abs(found.confidence - found.accuracy)[filled] @ found.faces[filled] / count
    assert again == pytest.approx(error, rel=1e-9)
    assert found.faces.sum() == count
    assert np.isnan(found.accuracy[~filled]).all()


def test_calibration_by_hand():
    """Four decisions with confidence 0.75, three of them right: perfectly calibrated."""
    probabilities = np.full((4, 7), 0.25 / 6, np.float32)
    probabilities[:, 2] = 0.75
    p = Predictions(np.arange(4), np.array([2, 2, 2, 0], np.int32), probabilities)
    assert METRICS["calibration_error"](p) == 0
    p = p._replace(labels=np.array([2, 0, 0, 0], np.int32))
    assert METRICS["calibration_error"](p) == pytest.approx(0.5)


def test_what_is_averaged_gives_the_figure_of_merit():
    p = random_predictions(0)
    for metric in METRICS.values():
        samples = metric.samples(p)
        assert samples.shape[0] == len(p.labels)
        halves = [metric.samples(p.take(np.arange(len(p.labels)) % 2 == i)) for i in (0, 1)]
        together = metric.statistic(np.concatenate(halves).mean(0))
        assert metric(p) == pytest.approx(float(together), rel=1e-12)


def test_predictions_come_back_from_disk(tmp_path):
    p = random_predictions(0)
    metrics.save_predictions(tmp_path / "p.npz", p)
    for ours, theirs in zip(metrics.load_predictions(tmp_path / "p.npz"), p, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [f.name for f in tmp_path.iterdir()] == ["p.npz"]

"""Intervals and tests against second implementations, hand-computed values, and simulation."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats import contingency_tables, multitest

from fermm.evaluate import statistics


def test_mcnemar_by_hand():
    # 1 against 9 discordant: 2 * (1 + 10) / 2**10.
    first = np.array([True] * 1 + [False] * 9 + [True] * 5)
    second = np.array([False] * 1 + [True] * 9 + [True] * 5)
    assert statistics.mcnemar(first, second) == (1, 9, 22 / 1024)
    assert statistics.mcnemar(first, first) == (0, 0, 1.0)


@pytest.mark.parametrize("seed", range(5))
def test_mcnemar_as_statsmodels_has_it(seed):
    random = np.random.default_rng(seed)
    first, second = random.random(200) < 0.5, random.random(200) < 0.6
    cells = [
        [np.sum(first & second), np.sum(first & ~second)],
        [np.sum(~first & second), np.sum(~first & ~second)],
    ]
    expected = contingency_tables.mcnemar(cells, exact=True).pvalue
    assert statistics.mcnemar(first, second).p == pytest.approx(expected, rel=1e-10)


def test_holm_by_hand_and_as_statsmodels_has_it():
    # 0.01 * 3, then 0.02 * 2, then the larger of 0.03 * 1 and 0.04; in the order given.
    assert statistics.holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    p = np.random.default_rng(0).random(10) ** 3
    assert statistics.holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1])


def test_students_interval_as_scipy_has_it():
    values = [0.41, 0.45, 0.43, 0.47]
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert statistics.t_interval(values) == pytest.approx(expected)


def test_a_resample_draws_as_many_faces():
    weights = statistics.resample(30, 1000)
    assert (weights.sum(1) == 30).all()
    np.testing.assert_allclose(weights.mean(0), 1, atol=0.15)
    assert weights.var() == pytest.approx(1 - 1 / 30, rel=0.05)


def test_an_interval_over_faces_as_scipy_has_it():
    correct = np.random.default_rng(1).random(400) < 0.6
    found = statistics.estimate(
        correct[None, :, None].astype(float), statistics.resample(400, 4000)
    )
    expected = stats.bootstrap((correct,), np.mean, n_resamples=4000, method="percentile", rng=0)
    assert found.over_images == pytest.approx(tuple(expected.confidence_interval), abs=0.006)
    assert found.interval == found.over_images
    assert (found.sd, found.over_seeds) == (None, None)


def test_a_statistic_of_means_is_resampled_as_a_whole():
    """A ratio of two means, against resampling it face by face."""
    random = np.random.default_rng(2)
    samples = random.random((3, 50, 2)) + np.array([0.0, 1.0])
    weights = statistics.resample(50, 200)
    found = statistics.estimate(samples, weights, lambda means: means[..., 0] / means[..., 1])
    replicates = []
    for row in weights:
        drawn = np.repeat(samples, row.astype(int), axis=1).mean(1)
        replicates.append((drawn[:, 0] / drawn[:, 1]).mean())
    assert found.over_images == pytest.approx(tuple(np.quantile(replicates, [0.025, 0.975])))
    means = samples.mean(1)
    assert found.seeds == pytest.approx(list(means[:, 0] / means[:, 1]))


def test_seeds_that_agree_add_nothing():
    correct = np.random.default_rng(3).random(100) < 0.5
    found = statistics.estimate(
        np.repeat(correct[None, :, None].astype(float), 4, axis=0), statistics.resample(100)
    )
    assert found.sd == 0
    assert found.interval == pytest.approx(found.over_images)


def test_with_faces_alike_only_the_seeds_count():
    """The interval is then nearly Student's."""
    accuracies = np.array([0.40, 0.44, 0.46, 0.47, 0.51])
    samples = np.repeat(accuracies[:, None, None], 50, axis=1)
    found = statistics.estimate(samples, statistics.resample(50, 20_000))
    assert found.over_images == pytest.approx((accuracies.mean(),) * 2)
    assert found.interval == pytest.approx(found.over_seeds, abs=0.006)


@pytest.mark.parametrize(
    ("by_seed", "by_face"), [(0.0, 1.0), (0.05, 1.0), (0.3, 0.5)], ids=["faces", "both", "seeds"]
)
def test_intervals_cover_the_truth_about_as_often_as_they_say(by_seed, by_face):
    """Five seeds and 200 faces, drawn 400 times; what a seed and a face add is normal."""
    random = np.random.default_rng(4)
    covered = 0
    for _ in range(400):
        values = by_seed * random.normal(size=(5, 1, 1)) + by_face * random.normal(size=(1, 200, 1))
        values = values + 0.5 * random.normal(size=(5, 200, 1))
        weights = random.multinomial(200, np.full(200, 1 / 200), size=400).astype(float)
        low, high = statistics.estimate(values, weights).interval
        covered += low <= 0 <= high
    assert 0.92 <= covered / 400 <= 0.99

"""Intervals and tests against second implementations, hand-computed values, and simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats import contingency_tables, proportion

from fermm.evaluate import assess, metrics, statistics
from fermm.evaluate.statistics import Confidence, Family
from fermm.rundir import Predictions
from reliability import coverage


def right(count, samples):
    """A table of one seed: as many right."""
    return (np.arange(samples) < count).astype(float)[None]


def against(more, less, samples):
    """A table of one seed: as many samples only the first, or only the second, recognises."""
    table = np.zeros((1, samples))
    table[0, :more], table[0, more : more + less] = 1, -1
    return table


# ------------------------------------------------------------------ tests


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


def test_students_interval_as_scipy_has_it():
    values = [0.41, 0.45, 0.43, 0.47]
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert statistics.t_interval(values) == pytest.approx(expected)


def test_the_interval_over_overlapping_splits_by_hand():
    """Nadeau and Bengio: (1/3 + 1/7) s^2 in place of s^2 / 3, with s = 0.1 and t(2) = 4.3027."""
    low, high = statistics.splits_interval([0.5, 0.6, 0.7], 1 / 7)
    assert (high - low) / 2 == pytest.approx(4.302653 * 0.1 * math.sqrt(10 / 21), rel=1e-6)
    assert (low + high) / 2 == pytest.approx(0.6)
    assert statistics.splits_interval([0.5, 0.6], 0.0) == statistics.t_interval([0.5, 0.6])


# ------------------------------------------------------------------ components of variance


def test_components_of_variance_as_a_loop_has_them():
    table = np.random.default_rng(0).normal(size=(3, 8)) + np.arange(8) + 5 * np.arange(3)[:, None]
    found = statistics.spread(table)
    rows, columns = table.mean(1), table.mean(0)
    residual = 0.0
    for s, n in itertools.product(range(3), range(8)):
        residual += (table[s, n] - rows[s] - columns[n] + table.mean()) ** 2
    assert found.mean == pytest.approx(table.mean())
    assert found.by_seeds == pytest.approx(np.var(rows, ddof=1) / 3)
    assert found.by_samples == pytest.approx(np.var(columns, ddof=1) / 8)
    assert found.rest == pytest.approx(found.by_samples - residual / (2 * 7) / 24)


def test_variances_have_the_right_expectation():
    """Effects of seeds, samples and both of known size, drawn 4,000 times."""
    random = np.random.default_rng(1)
    by_seeds, by_samples, rest = [], [], []
    for _ in range(4000):
        table = 0.1 * random.normal(size=(4, 1)) + random.normal(size=(1, 20))
        table = table + 0.5 * random.normal(size=(4, 20))
        _, _, seeds, samples, alone = statistics.spread(table)
        by_seeds.append(seeds)
        by_samples.append(samples)
        rest.append(alone)
    assert np.mean(by_seeds) == pytest.approx(0.01 / 4 + 0.25 / 80, rel=0.05)
    assert np.mean(by_samples) == pytest.approx(1 / 20 + 0.25 / 80, rel=0.05)
    assert np.mean(rest) == pytest.approx(1 / 20, rel=0.05)


def test_seeds_that_agree_add_nothing():
    found = statistics.estimate_share(np.repeat(right(50, 100), 4, axis=0))
    assert found.sd == 0
    assert found.over_seeds == (0.5, 0.5)
    assert found.interval == found.over_samples
    assert found.interval == statistics.estimate_share(right(50, 100)).interval


def test_with_faces_alike_only_the_seeds_count():
    accuracies = np.array([0.40, 0.44, 0.46, 0.47, 0.51])
    found = statistics.estimate_value(np.repeat(accuracies[:, None], 50, axis=1))
    assert found.over_samples == pytest.approx((accuracies.mean(),) * 2)
    assert found.interval == pytest.approx(found.over_seeds)
    assert found.over_seeds == pytest.approx(statistics.t_interval(accuracies))


def test_over_both_is_never_narrower_than_over_samples():
    random = np.random.default_rng(2)
    for _ in range(50):
        found = statistics.estimate_share((random.random((2, 40)) < 0.5).astype(float))
        assert (
            found.interval[0] <= found.over_samples[0] <= found.over_samples[1] <= found.interval[1]
        )


def test_over_both_by_hand():
    """Margins of seeds by t(1) = 12.7062 and of samples by t(3) = 3.1824, added as squares."""
    table = np.array([[0.0, 1, 2, 3], [1.0, 2, 3, 4]])  # no interaction
    found = statistics.estimate_value(table)
    margin = math.hypot(12.7062 * 0.5, 3.18245 * math.sqrt(5 / 3 / 4))
    assert found.interval == pytest.approx((2 - margin, 2 + margin), rel=1e-5)


# ------------------------------------------------------------------ edges


@pytest.mark.parametrize(("count", "samples"), [(0, 30), (1, 30), (17, 30), (30, 30), (1680, 3589)])
def test_an_interval_of_a_share_is_wilsons(count, samples):
    found = statistics.estimate_share(right(count, samples))
    expected = proportion.proportion_confint(count, samples, method="wilson")
    assert found.interval == pytest.approx(expected, abs=1e-12)
    assert found.over_samples == found.interval
    assert (found.sd, found.over_seeds) == (None, None)


def test_a_share_within_a_part_is_wilsons_for_one_seed():
    correct, within = np.arange(100)[None] % 3 == 0, np.arange(100)[None] < 40
    found = statistics.estimate_share_within(correct, within)
    assert found.mean == 14 / 40
    expected = proportion.proportion_confint(14, 40, method="wilson")
    assert found.interval == pytest.approx(expected, abs=1e-12)


def test_a_share_within_a_part_is_pooled_and_has_the_seeds_in_its_interval():
    random = np.random.default_rng(0)
    within = random.random((4, 500)) < 0.3
    correct = random.random((4, 500)) < np.array([0.3, 0.4, 0.5, 0.6])[:, None]
    found = statistics.estimate_share_within(correct, within)
    assert found.mean == pytest.approx(correct[within].mean())
    # Seeds differ by 13 points, which the interval has to tell: by Student's t(3), 3.18 * 13 / 2.
    low, high = found.interval
    assert low < found.over_samples[0] - 0.1
    assert high > found.over_samples[1] + 0.1
    # All of the samples are within: nothing but a share.
    everything = statistics.estimate_share_within(correct, np.ones_like(within))
    whole = statistics.estimate_share(correct.astype(float))
    assert everything.interval == pytest.approx(whole.interval)


def test_a_part_that_only_one_seed_has_says_nothing_of_seeds():
    within = np.zeros((2, 50), bool)
    within[0, :20] = True
    found = statistics.estimate_share_within(np.ones((2, 50), bool), within)
    assert (found.mean, found.interval, found.over_seeds) == (1, (0, 1), (0, 1))
    assert 0.6 < found.over_samples[0] < 1


def test_a_single_face_says_next_to_nothing():
    assert statistics.estimate_share(right(1, 1)).interval == pytest.approx((0.2065, 1), abs=1e-4)
    assert statistics.estimate_value(np.ones((1, 1)), (0.0, 2.0)).interval == (0, 2)
    low, high = statistics.estimate_difference(against(1, 0, 1)).interval
    assert low < 0 < high
    two_seeds = statistics.estimate_share(np.array([[1.0], [0.0]]))
    assert two_seeds.interval == (0, 1)


@pytest.mark.parametrize(("more", "less"), [(4, 0), (0, 4), (5, 0), (7, 1), (10, 3)])
def test_few_discordant_faces_show_nothing(more, less):
    low, high = statistics.estimate_difference(against(more, less, 3589)).interval
    assert low < 0 < high
    (found,) = Family([against(more, less, 3589)]).compared
    assert not found.shown


@pytest.mark.parametrize(("more", "less"), [(6, 0), (9, 1), (13, 4), (70, 0)])
def test_as_many_discordant_faces_as_the_exact_test_needs_show_it(more, less):
    assert statistics.mcnemar(*(against(more, less, 70)[0] == x for x in (1, -1))).p < 0.05
    (found,) = Family([against(more, less, 70)]).compared
    assert found.shown
    assert found.simultaneous[0] > 0


def test_a_difference_lies_above_0_only_where_mcnemars_exact_test_does_too():
    for more, less in itertools.product(range(0, 40, 3), range(0, 40, 3)):
        table = against(more, less, 100)
        low, high = statistics.estimate_difference(table).interval
        p = statistics.mcnemar(table[0] == 1, table[0] == -1).p
        assert p < 0.05 if low > 0 or high < 0 else True


def test_the_interval_of_a_difference_by_hand():
    """Agresti and Min: half a sample more in each cell; here of 40 against 20 of 200."""
    plain = statistics.estimate_difference(against(40, 20, 200), exact=False)
    b, c, n = 40.5, 20.5, 202
    margin = 1.959964 * math.sqrt((b + c) - (b - c) ** 2 / n) / n
    # Bessel's correction within the 200.
    assert plain.interval == pytest.approx(((b - c) / n - margin, (b - c) / n + margin), abs=3e-4)
    exact = statistics.estimate_difference(against(40, 20, 200))
    low, high = proportion.proportion_confint(40, 60, method="beta")
    expected = (
        min(plain.interval[0], (2 * low - 1) * 0.3), max(plain.interval[1], (2 * high - 1) * 0.3)
    )  # fmt: skip
    assert exact.interval == pytest.approx(expected)


def test_networks_that_never_differ_have_an_interval_that_is_not_a_point():
    low, high = statistics.estimate_difference(np.zeros((1, 100))).interval
    assert low == -high
    assert 0.01 < high < 0.03


def test_the_gap_of_other_faces_as_statsmodels_has_it():
    found = statistics.estimate_gap(right(60, 100), right(40, 80))
    expected = proportion.confint_proportions_2indep(60, 100, 40, 80, method="newcomb")
    assert found.mean == pytest.approx(0.1)
    assert found.interval == pytest.approx(expected, abs=1e-9)


def test_the_gap_of_all_right_and_all_right_is_not_surely_0():
    low, high = statistics.estimate_gap(right(500, 500), right(50, 50)).interval
    assert low < 0 < high


def test_the_gap_over_seeds_pairs_them():
    """Accuracies that differ by the same in every seed have a gap that no seed changes."""
    first = np.concatenate([right(count, 1000) for count in (500, 600, 700)])
    second = np.concatenate([right(count, 1000) for count in (450, 550, 650)])
    found = statistics.estimate_gap(first, second)
    assert found.seeds == pytest.approx([0.05] * 3)
    assert found.sd == pytest.approx(0, abs=1e-12)
    assert found.interval == pytest.approx(found.over_samples)


def test_weighting_by_class_by_hand():
    """Recalls of 1/2 and 1/4 on the samples kept; half of all samples are of either class."""
    labels = np.array([0] * 6 + [1] * 6)
    correct = np.array([[0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 1]], float)
    kept = np.array([False] * 4 + [True] * 6 + [False] * 2)
    found = assess.same_shares(correct, labels, kept)
    assert found.mean == pytest.approx((1 / 2 + 1 / 4) / 2)
    everything = assess.same_shares(correct, labels, np.ones(12, bool))
    assert everything.mean == pytest.approx(correct.mean())
    # Stratified: the sum of share^2 s^2 / n, which is less than that of all samples together.
    variance = (0.25 * 0.5) / 2 + (0.25 * 0.25) / 4
    equal = 1 / (0.25 / 2 + 0.25 / 4)
    factor = 5 / 6  # without Bessel's correction
    spread = statistics.Spread(3 / 8, 1, 0.0, factor * variance, factor * variance)
    expected = statistics.share_ends(spread, equal)(statistics.POINTWISE, False)
    assert found.interval == pytest.approx(expected)


# ------------------------------------------------------------------ several differences at once


def family_of(*tables, **arguments):
    return Family([np.atleast_2d(table) for table in tables], **arguments)


def test_one_difference_pays_for_no_other():
    assert family_of(against(40, 20, 200)).confidence.z == pytest.approx(1.96, abs=0.02)


def test_the_same_difference_twice_pays_once_and_none_pays_nothing():
    table = against(40, 20, 200)
    once = family_of(table)
    for other in ([table, table], [table, np.zeros((1, 200))]):
        assert family_of(*other).confidence == once.confidence
    alone = family_of(np.zeros((1, 200)))
    assert alone.compared[0].p == 1
    assert not alone.compared[0].shown


def test_independent_differences_have_sidaks_quantile():
    random = np.random.default_rng(0)
    tables = random.choice([-1.0, 0, 1], size=(6, 1, 50_000))
    expected = stats.norm.isf((1 - 0.95 ** (1 / 6)) / 2)
    assert family_of(*tables).confidence.z == pytest.approx(expected, abs=0.02)
    # Of other samples they are independent, whatever their arrays say.
    table = against(40, 20, 200)
    shifted = np.roll(table, 1)
    assert Family([table, shifted], ["a", "b"]).confidence.z == pytest.approx(2.2365, abs=0.02)


def test_all_pairs_of_equal_networks_have_tukeys_quantile():
    random = np.random.default_rng(0)
    correct = (random.random((4, 1, 50_000)) < 0.5).astype(float)
    family = family_of(*(a - b for a, b in itertools.combinations(correct, 2)))
    expected = stats.studentized_range.ppf(0.95, 4, np.inf) / math.sqrt(2)
    assert family.confidence.z == pytest.approx(expected, abs=0.02)
    assert family.confidence.seeds == pytest.approx(0.05 / 6, rel=1e-3)
    p = family.corrected(0.01)
    assert p == pytest.approx(
        stats.studentized_range.sf(stats.norm.isf(0.005) * math.sqrt(2), 4, np.inf), abs=0.003
    )
    assert family.corrected(1e-12) == pytest.approx(6e-12, rel=0.3)
    assert family.corrected(1.0) == 1


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_the_verdict_and_p_never_contradict(seeds):
    random = np.random.default_rng(seeds)
    shown = 0
    for i in range(20):
        skills = 0.4 + 0.02 * i * random.random(4)
        correct = (random.random((4, seeds, 300)) < skills[:, None, None]).astype(float)
        family = Family([a - b for a, b in itertools.combinations(correct, 2)], draws=5000)
        for found, (a, b) in zip(family.compared, itertools.combinations(correct, 2), strict=True):
            low, high = found.simultaneous
            assert found.shown == (low > 0 or high < 0) == (found.p < 0.05)
            inner = found.estimate.interval
            assert low <= inner[0] <= inner[1] <= high
            shown += found.shown
            if seeds == 1 and found.shown:
                p = statistics.mcnemar(a[0] == 1, b[0] == 1).p
                assert family.corrected(p) < 0.05
    assert 0 < shown < 120


def test_p_is_the_error_rate_at_which_the_interval_ends_at_0():
    random = np.random.default_rng(3)
    correct = (random.random((3, 4, 500)) < np.array([0.4, 0.45, 0.5])[:, None, None]).astype(float)
    tables = [a - b for a, b in itertools.combinations(correct, 2)]
    family = Family(tables)
    for table, found in zip(tables, family.compared, strict=True):
        spread = statistics.spread(table)
        ends = statistics.difference_ends(table, spread, exact=True)
        z = np.quantile(family._largest, 1 - found.p)
        low, high = statistics.over_both(spread, ends, Confidence(z, found.p / 3))
        assert min(abs(low), abs(high)) == pytest.approx(0, abs=2e-4)


def test_p_of_a_difference_beyond_doubt_is_small_and_finite():
    found = family_of(against(3000, 0, 3589)).compared[0]
    assert found.shown
    assert 0 <= found.p < 1e-100


@pytest.mark.parametrize("seeds", [1, 5])
def test_simultaneous_intervals_have_the_digit_that_is_printed(seeds):
    """Drawn with other seeds, the standard error of an end is below half of 0.1 points."""
    random = np.random.default_rng(4)
    chances = np.array([0.40, 0.46, 0.48, 0.49])[:, None, None]
    correct = (random.random((4, seeds, 3589)) < chances).astype(float)
    tables = [a - b for a, b in itertools.combinations(correct, 2)]
    ends = [
        [family.interval_of(table) for table in tables]
        for family in (Family(tables, seed=seed) for seed in range(8))
    ]
    assert (100 * np.std(ends, axis=0, ddof=1)).max() < 0.05


def test_differences_are_compared_the_same_each_time():
    tables = [against(40, 20, 200), against(30, 20, 200)]
    assert Family(tables).compared == Family(tables).compared


# ------------------------------------------------------------------ calibration


def squares_of(error, samples, bins, random):
    """Of bins with equal variances 1/4, normally distributed: what is estimated from."""
    per = samples / bins
    gaps = error + 0.5 / math.sqrt(per) * random.standard_normal(bins)
    total = per * (gaps**2).sum()
    return statistics.Squares(samples, total, bins / 4, bins / 4, bins / 16)


def test_the_interval_of_the_calibration_error_inverts_the_noncentral_distribution():
    squares = squares_of(0.08, 3000, 15, np.random.default_rng(0))
    found = statistics.estimate_calibration([squares])
    low, high = found.interval
    assert found.mean == pytest.approx(math.sqrt((squares.total - 15 / 4) / 3000))
    of = stats.ncx2(15, 3000 * np.array([low, high]) ** 2 * 4)
    assert of.cdf(squares.total * 4) == pytest.approx([0.975, 0.025], rel=1e-6)


def test_the_calibration_error_of_a_calibrated_network_may_be_0_and_its_upper_end_not():
    random = np.random.default_rng(1)
    for _ in range(20):
        low, high = statistics.estimate_calibration([squares_of(0, 500, 15, random)]).interval
        assert 0 <= low < high
        assert high > 0.02


def test_the_calibration_error_over_seeds_is_the_root_of_the_mean_square():
    squares = [statistics.Squares(100, x, 1.0, 1.0, 0.1) for x in (2.0, 5.0)]
    found = statistics.estimate_calibration(squares)
    assert found.seeds == pytest.approx([0.1, 0.2])
    assert found.mean == pytest.approx(math.sqrt(0.025))
    assert found.sd == pytest.approx(0.1 / math.sqrt(2))
    margin = 12.7062 * 0.015
    assert found.over_seeds == pytest.approx((0, math.sqrt(0.025 + margin)), rel=1e-5)
    assert found.interval[1] > found.over_seeds[1]


@pytest.mark.parametrize("count", [1, 5, 30])
def test_the_calibration_error_of_few_faces_is_known_badly(count):
    probabilities = np.full((count, 7), 0.2 / 6, np.float32)
    probabilities[:, 0] = 0.8
    p = Predictions(np.arange(count), np.zeros(count, np.int32), probabilities)
    low, high = assess.estimate("calibration_error", [p]).interval
    assert low <= 0.2 <= high
    # All are right: so they might be where the accuracy is the least that Wilson allows.
    least, _ = proportion.proportion_confint(count, count, method="wilson")
    assert low <= max(least - 0.8, 0) + 0.04


# ------------------------------------------------------------------ coverage, by simulation


def at_least(share, trials):
    """What a rate of `share` reaches in all but one of a thousand simulations."""
    return stats.binom.ppf(0.001, trials, share) / trials


SETTINGS = [(1, "small", 200), (1, "small", 1000), (1, "small", 3589)]
SETTINGS += [(s, x, 1000) for s in (2, 3, 5, 10) for x in coverage.SPREADS]


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "spread", "samples"), SETTINGS)
def test_intervals_contain_the_truth_as_often_as_they_say(seeds, spread, samples):
    trials = 200
    found = coverage.rates(coverage.trial, trials, seeds, coverage.SPREADS[spread], samples)
    names = {*metrics.METRICS, "difference", "gap", "without duplicates"}
    assert names < found.keys()
    # 200 samples have three of "disgust": its recall is hardly known, and so is macro F1.
    least = 0.93 if samples >= 1000 else 0.91
    low = {k: v for k, v in found.items() if v < at_least(least, trials)}
    assert not low


@pytest.mark.slow
@pytest.mark.parametrize("samples", coverage.SAMPLES)
@pytest.mark.parametrize("error", coverage.ERRORS)
def test_the_interval_of_the_calibration_error_contains_it(error, samples):
    found = coverage.rates(coverage.calibration_trial, 300, error, samples)
    assert found["interval"] >= at_least(0.94, 300)
    if not error:
        assert found["band"] <= stats.binom.isf(0.001, 300, 0.05) / 300


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "spread", "samples"), SETTINGS)
def test_points_of_a_reliability_curve_contain_the_truth(seeds, spread, samples):
    found = coverage.rates(coverage.confidence_trial, 100, seeds, coverage.SPREADS[spread], samples)
    assert found["covered"] >= 0.93  # of some 1,500 points


@pytest.mark.slow
@pytest.mark.parametrize("seeds", coverage.SEEDS)
@pytest.mark.parametrize("spread", coverage.SPREADS)
def test_of_equal_networks_some_pair_is_rarely_called_better(seeds, spread):
    found = coverage.rates(coverage.family_trial, 300, seeds, coverage.SPREADS[spread], 1000)
    assert found["any"] <= stats.binom.isf(0.001, 300, 0.05) / 300

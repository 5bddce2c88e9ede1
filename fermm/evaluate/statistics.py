"""Intervals over seeds and samples, simultaneous comparisons, paired tests; arrays in, numbers out.

A metric is uncertain for two reasons that `config.seeds` and the test samples let one see: another
seed would have trained another network, and other samples would have been tested. What the choice
of the split adds is seen by neither: `config.split_seeds` repeats the run for that.

Everything here starts from a table (seeds, samples) whose mean is the metric: for a mean over
samples the values themselves, for any other smooth function the pseudo-values of its jackknife
(Efron and Stein, 1981, doi:10.1214/aos/1176345462). Nothing is resampled for an interval, so that
its ends have no noise of their own. docs/statistics.md defines every interval and gives its
coverage.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, special, stats

LEVEL = 0.95
DRAWS = 200_000  # of the largest of correlated normal deviates, for simultaneous intervals

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A metric over seeds, or its difference between two networks.

    Attributes:
        seeds: its value for each seed.
        mean: over the seeds.
        sd: standard deviation over the seeds (ddof 1), None for a single seed.
        over_seeds: 95% interval of the mean by Student's t, the samples as they are; None for a
            single seed.
        over_samples: 95% interval of the mean over the choice of samples, the trained networks as
            they are.
        interval: 95% interval over seeds and samples together; for a single seed that over samples.
    """

    seeds: list[float]
    mean: float
    sd: float | None
    over_seeds: Interval | None
    over_samples: Interval
    interval: Interval


class Spread(NamedTuple):
    """A mean over seeds and samples, and the variances of that mean.

    Attributes:
        mean: the mean.
        seeds: how many there are.
        by_seeds: variance of the mean that the seeds make, the samples as they are; 0 for a single
            seed.
        by_samples: variance of the mean that the choice of samples makes, the networks as they are.
        rest: what of `by_samples` is not in `by_seeds` too.
    """

    mean: float
    seeds: int
    by_seeds: float
    by_samples: float
    rest: float


def spread(table: np.ndarray, values: np.ndarray | None = None) -> Spread:
    """The two components of variance of a table whose rows and columns are both drawn at random.

    With a_s the effect of a seed, b_n that of a sample and e_sn that of both together, the mean has
    the variance var(a)/S + var(b)/N + var(e)/(SN). The variance of the row means holds the first
    and third term, that of the column means the second and third; the third is taken out of the
    latter by the mean square of the residuals (two-way analysis of variance, one value a cell),
    which many samples make exact. (Taken out of the former, which few seeds leave uncertain, it
    would make that 0 by chance.)

    Args:
        table: float (S, N); for N = 1 the parts that samples make are 0, for nothing tells them.
        values: float (S,), the metric for each seed; by default the means of the rows.
    """
    count, samples = table.shape
    values = table.mean(1) if values is None else values
    by_sample = table.mean(0)
    by_samples = float(by_sample.var(ddof=1)) / samples if samples > 1 else 0.0
    if count == 1:
        return Spread(float(values[0]), 1, 0.0, by_samples, by_samples)
    by_seeds = float(values.var(ddof=1)) / count
    if samples == 1:
        return Spread(float(values.mean()), count, by_seeds, 0.0, 0.0)
    residuals = table - by_sample - table.mean(1, keepdims=True) + table.mean()
    interaction = float((residuals**2).sum()) / ((count - 1) * (samples - 1)) / (count * samples)
    rest = max(by_samples - interaction, 0.0)
    return Spread(float(values.mean()), count, by_seeds, by_samples, rest)


class Confidence(NamedTuple):
    """How sure an interval is to be.

    Attributes:
        z: two-sided quantile of the normal distribution, for the part that samples make.
        seeds: two-sided error rate, for the part that seeds make.
    """

    z: float
    seeds: float

    @property
    def samples(self) -> float:
        """Two-sided error rate for the part that samples make."""
        return float(2 * special.ndtr(-self.z))


POINTWISE = Confidence(float(special.ndtri((1 + LEVEL) / 2)), 1 - LEVEL)

Ends = Callable[[Confidence, bool], Interval]
"""From a confidence to both ends over the choice of samples.

The second argument says whether only `Spread.rest` counts, since `Spread.by_seeds` is added.
"""


def share_ends(found: Spread, samples: float) -> Ends:
    """Wilson's interval of a share (Wilson, 1927, doi:10.1080/01621459.1927.10502953).

    It contains more than one point where the share is 0 or 1 too. Where the variance is not that of
    a single share (a mean over seeds, a share weighted by class), it stands in its place, as in
    surveys with a design effect.

    Args:
        found: the share and its variances.
        samples: how many there are; for weighted samples the number of samples of equal weight that
            would give the same variance.
    """

    def ends(confidence: Confidence, rest: bool) -> Interval:
        square = confidence.z**2
        variance = found.rest if rest else found.by_samples
        middle = (samples * found.mean + square / 2) / (samples + square)
        margin = confidence.z * np.sqrt(samples**2 * variance + square / 4) / (samples + square)
        return middle - margin, middle + margin

    return ends


def value_ends(found: Spread, samples: int) -> Ends:
    """Student's interval of a mean over samples."""

    def ends(confidence: Confidence, rest: bool) -> Interval:
        if samples == 1:
            return -np.inf, np.inf
        variance = found.rest if rest else found.by_samples
        margin = _student(confidence.samples, samples - 1) * np.sqrt(variance)
        return found.mean - margin, found.mean + margin

    return ends


def difference_ends(table: np.ndarray, found: Spread, *, exact: bool) -> Ends:
    """The interval of a difference of two shares of the same samples.

    Wald's with half a sample added to each of the four cells (Agresti and Min, 2005,
    doi:10.1002/sim.1781). With `exact`, it is widened to hold that of Clopper and Pearson (1934)
    for the share of the samples that only one network recognises which the first does: so it lies
    above 0 only where McNemar's exact test is below the same error rate. For a mean over
    seeds the counts are divided by the variance's ratio to that of a single network.

    Args:
        table: float (S, N), first minus second, from -1 to 1.
        found: its mean and variances.
        exact: whether it is widened so.
    """
    count, samples = table.shape
    more = float(np.maximum(table, 0).sum()) / count
    less = float(np.maximum(-table, 0).sum()) / count
    discordant = more + less
    single = discordant - (more - less) ** 2 / samples

    def ends(confidence: Confidence, rest: bool) -> Interval:
        variance = found.rest if rest else found.by_samples
        middle = samples * found.mean / (samples + 2)
        squares = samples**2 * variance + 1 + 2 * samples / (samples + 2) * found.mean**2
        margin = confidence.z * np.sqrt(squares) / (samples + 2)
        low, high = middle - margin, middle + margin
        if not exact or not discordant:
            return low, high
        tail = confidence.samples / 2
        ratio = float(np.clip(samples**2 * variance / single, 1 / count, 1)) if single > 0 else 1.0
        first, second = more / ratio, less / ratio
        lowest = special.betaincinv(first, second + 1, tail) if first else 0.0
        highest = special.betainccinv(first + 1, second, tail) if second else 1.0
        of_samples = discordant / samples
        return min(low, (2 * lowest - 1) * of_samples), max(high, (2 * highest - 1) * of_samples)

    return ends


def over_both(found: Spread, ends: Ends, confidence: Confidence = POINTWISE) -> tuple[float, float]:
    """The ends of the interval over seeds and samples.

    The margins of the two parts are added as squares, that of the seeds by Student's quantile for
    S-1 degrees of freedom: of Gaussian means with such margins the coverage is at least the nominal
    one whatever the ratio of the variances is (Banerjee, 1960, Sankhya 22, 357-366). One common
    quantile for a sum of variances, as Satterthwaite's, has no such guarantee. Seeds that agree by
    chance do not make the interval narrower than that over samples alone.
    """
    lowest, highest = ends(confidence, False)
    if not found.by_seeds:
        return lowest, highest
    low, high = ends(confidence, True)
    of_seeds = _student(confidence.seeds, found.seeds - 1) * np.sqrt(found.by_seeds)
    return (
        min(lowest, found.mean - np.hypot(found.mean - low, of_seeds)),
        max(highest, found.mean + np.hypot(high - found.mean, of_seeds)),
    )


def summarise(
    values: np.ndarray, found: Spread, ends: Ends, bounds: Interval = (-np.inf, np.inf)
) -> Estimate:
    """The `Estimate` of what was found.

    Args:
        values: float (S,), for each seed.
        found: the mean and its variances.
        ends: of the interval over samples.
        bounds: between which the metric lies; intervals end there.
    """

    def clip(interval: Interval) -> Interval:
        low, high = np.clip(interval, *bounds)
        return float(low), float(high)

    several = found.seeds > 1
    return Estimate(
        values.tolist(),
        found.mean,
        float(values.std(ddof=1)) if several else None,
        clip(t_interval(values)) if several else None,
        clip(ends(POINTWISE, False)),
        clip(over_both(found, ends)),
    )


def estimate_share(
    table: np.ndarray, values: np.ndarray | None = None, samples: float | None = None
) -> Estimate:
    """A share of samples, or a metric from 0 to 1 that behaves like one.

    Args:
        table: float (S, N), see `spread`.
        values: float (S,), see `spread`.
        samples: see `share_ends`; by default N.
    """
    found = _binomial(spread(table, values), table)
    ends = share_ends(found, table.shape[1] if samples is None else samples)
    return summarise(table.mean(1) if values is None else values, found, ends, (0.0, 1.0))


def estimate_share_within(right: np.ndarray, within: np.ndarray) -> Estimate:
    """A share of those samples that are within a part, which may be others for each seed.

    It is the ratio of two means over seeds and samples. Its table is that ratio plus what each
    decision adds to it at first order, so that its mean is the ratio and its variance, with many
    samples, that of the ratio (Cochran, 1977, Sampling Techniques, 3rd edition, section 2.11).
    `Estimate.seeds` are thus the shares of the seeds weighted by how many samples are within. With
    several seeds, of which only one has any sample there, nothing tells what others would have, and
    the intervals over seeds are from 0 to 1.

    Args:
        right: bool or float (S, N), what the share is of.
        within: bool (S, N), which samples are within, at least one.
    """
    count = len(within)
    inside = int(within.sum())
    share = float(np.sum(right * within) / inside)
    table = share + np.where(within, right - share, 0.0) * (within.size / inside)
    found = estimate_share(table, samples=inside / count)
    if count > 1 and within.any(1).sum() == 1:
        return dataclasses.replace(found, over_seeds=(0.0, 1.0), interval=(0.0, 1.0))
    return found


def _binomial(found: Spread, table: np.ndarray) -> Spread:
    """The variance that samples make without Bessel's correction, which for a share is p(1-p)/N."""
    factor = (table.shape[1] - 1) / table.shape[1]
    return found._replace(by_samples=factor * found.by_samples, rest=factor * found.rest)


def estimate_value(table: np.ndarray, bounds: Interval = (-np.inf, np.inf)) -> Estimate:
    """A mean over samples of anything.

    Args:
        table: float (S, N), see `spread`.
        bounds: between which the mean lies.
    """
    found = spread(table)
    ends = value_ends(found, table.shape[1])
    return summarise(table.mean(1), found, ends, bounds)


def estimate_difference(table: np.ndarray, *, exact: bool = True) -> Estimate:
    """A difference of two shares of the same samples.

    Args:
        table: float (S, N), first minus second, from -1 to 1.
        exact: see `difference_ends`.
    """
    found = spread(table)
    ends = difference_ends(table, found, exact=exact)
    return summarise(table.mean(1), found, ends, (-1.0, 1.0))


def estimate_gap(first: np.ndarray, second: np.ndarray) -> Estimate:
    """A difference of two shares of different samples, of the same networks.

    Over samples by the intervals of both shares (Newcombe, 1998,
    doi:10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I).

    Args:
        first: float (S, N).
        second: float (S, M), subtracted.
    """
    one, other = (_binomial(spread(table), table) for table in (first, second))
    values = first.mean(1) - second.mean(1)
    count = len(values)
    by_seeds = float(values.var(ddof=1)) / count if count > 1 else 0.0
    by_samples, rest = one.by_samples + other.by_samples, one.rest + other.rest
    found = Spread(one.mean - other.mean, count, by_seeds, by_samples, rest)
    both = share_ends(one, first.shape[1]), share_ends(other, second.shape[1])

    def ends(confidence: Confidence, rest: bool) -> Interval:
        (low, high), (other_low, other_high) = (each(confidence, rest) for each in both)
        return (
            found.mean - float(np.hypot(one.mean - low, other_high - other.mean)),
            found.mean + float(np.hypot(high - one.mean, other.mean - other_low)),
        )

    return summarise(values, found, ends, (-1.0, 1.0))


class Compared(NamedTuple):
    """One of several differences that are looked at together.

    Attributes:
        estimate: the difference, and intervals that hold for it alone.
        simultaneous: interval over seeds and samples; with 95% confidence all of them hold at once.
        p: the smallest error rate at which its simultaneous interval would not contain 0, so that
            it is below 0.05 exactly where `simultaneous` does not contain 0.
    """

    estimate: Estimate
    simultaneous: Interval
    p: float

    @property
    def shown(self) -> bool:
        """Whether the difference is shown not to be 0."""
        return self.p < 1 - LEVEL


class Family:
    """Several differences of shares that are looked at together, and what corrects for that.

    The part of an interval that samples make has the quantile of the largest of all deviates |t|,
    which are as correlated as the differences are over the samples (max-t: Hothorn, Bretz and
    Westfall, 2008, doi:10.1002/bimj.200810425); it is found by `DRAWS` draws of normal deviates,
    which are what shared resampling weights give for many samples. The part that seeds make, of
    which too few are there to know a correlation, has Student's quantile corrected by Bonferroni.
    """

    def __init__(
        self,
        tables: Sequence[np.ndarray],
        samples: Sequence[Hashable] | None = None,
        draws: int = DRAWS,
        seed: int = 0,
    ) -> None:
        """Looks at the differences.

        Args:
            tables: of each, float (S, N), first minus second, from -1 to 1.
            samples: of each, which samples these are; those of different ones are independent. By
                default all are the same.
            draws: how many normal deviates of each.
            seed: of these draws.
        """
        self.tables = list(tables)
        of = [None] * len(self.tables) if samples is None else list(samples)
        random = np.random.default_rng(seed)
        largest = np.zeros(draws)
        self._count = 0  # of differences that are not the same, and not always 0
        for group in dict.fromkeys(of):
            own = [t.mean(0) for t, g in zip(self.tables, of, strict=True) if g == group]
            own = list({x.tobytes(): x for x in own if np.ptp(x) > 0}.values())
            self._count += len(own)
            if not own:
                continue
            deviations = np.stack([(x - x.mean()) / x.std() for x in own])
            correlation = deviations @ deviations.T / deviations.shape[1]
            values, vectors = np.linalg.eigh(correlation)
            root = vectors * np.sqrt(np.maximum(values, 0))
            for begin in range(0, draws, 10_000):
                block = random.standard_normal((min(10_000, draws - begin), len(own))) @ root.T
                part = largest[begin : begin + len(block)]
                np.maximum(part, np.abs(block).max(1), out=part)
        self._count = max(self._count, 1)
        if not largest.any():
            largest = np.abs(random.standard_normal(draws))
        self._largest = np.sort(largest)
        # Beyond the draws, where Bonferroni's bound is nearly reached, the tail is taken to fall
        # as it does.
        self._furthest = float(self._largest[-100])
        ratio = 100 / draws / self._bonferroni(self._furthest)
        self._beyond = min(1.0, ratio)
        self.confidence = self._confidence(float(np.quantile(self._largest, LEVEL)))

    def _bonferroni(self, z: float) -> float:
        return float(2 * self._count * special.ndtr(-z))

    def corrected(self, p: float) -> float:
        """A p-value of one of the differences, corrected for their number by the same draws."""
        return self._error_rate(float(-special.ndtri(p / 2)))

    def _error_rate(self, z: float) -> float:
        """How often the largest |t| is at least z."""
        if z > self._furthest:
            return self._beyond * self._bonferroni(z)
        below = int(np.searchsorted(self._largest, z))
        return (len(self._largest) - below) / len(self._largest)

    def _confidence(self, z: float) -> Confidence:
        return Confidence(z, self._error_rate(z) / self._count)

    @functools.cached_property
    def compared(self) -> list[Compared]:
        """The differences, in order."""
        return [self._compare(table) for table in self.tables]

    def _compare(self, table: np.ndarray) -> Compared:
        found = spread(table)
        ends = difference_ends(table, found, exact=True)
        low, high = self.interval_of(table)

        def nearest(z: float) -> float:
            """The distance of 0 from the interval, negative within."""
            low, high = over_both(found, ends, self._confidence(z))
            return low if found.mean > 0 else -high

        p = 1.0
        if found.mean and nearest(1e-6) > 0:
            furthest = 38.0  # beyond which the normal distribution has no more double precision
            p = 0.0
            if nearest(furthest) <= 0:
                # At the nearest point still shown, so that p and the interval agree.
                z = optimize.bisect(nearest, 1e-6, furthest, xtol=1e-9)
                p = self._error_rate(z)
        # The interval was asked at one quantile, p is a step function: the interval decides.
        if (low > 0 or high < 0) != (p < 1 - LEVEL):
            p = np.nextafter(1 - LEVEL, 0) if low > 0 or high < 0 else 1 - LEVEL
        summary = summarise(table.mean(1), found, ends, (-1.0, 1.0))
        return Compared(summary, (low, high), float(p))

    def interval_of(self, table: np.ndarray) -> Interval:
        """The simultaneous interval of one of the differences."""
        found = spread(table)
        ends = difference_ends(table, found, exact=True)
        low, high = np.clip(over_both(found, ends, self.confidence), -1.0, 1.0)
        return float(low), float(high)


def t_interval(values: Sequence[float] | np.ndarray, error_rate: float = 1 - LEVEL) -> Interval:
    """Student's interval of the mean of at least two independent values."""
    return _about_mean(values, 1 / len(values), error_rate)


def splits_interval(
    values: Sequence[float] | np.ndarray, ratio: float, error_rate: float = 1 - LEVEL
) -> Interval:
    """The interval of the mean over random splits of the same samples, which overlap.

    Student's, with the variance (1/J + test/train) s^2 in place of s^2/J for J splits (Nadeau and
    Bengio, 2003, doi:10.1023/A:1024068626366, the "corrected resampled t-test").

    Args:
        values: of each split, at least two.
        ratio: test samples for each training sample.
        error_rate: how often it may miss.
    """
    return _about_mean(values, 1 / len(values) + ratio, error_rate)


def _about_mean(values: Sequence[float] | np.ndarray, factor: float, error_rate: float) -> Interval:
    mean = float(np.mean(values))
    deviation = float(np.std(values, ddof=1)) * np.sqrt(factor)
    margin = _student(error_rate, len(values) - 1) * deviation
    return float(mean - margin), float(mean + margin)


def _student(error_rate: float, freedom: int) -> float:
    return float(-special.stdtrit(freedom, error_rate / 2)) if error_rate else np.inf


class McNemar(NamedTuple):
    """Two networks on the same samples.

    Attributes:
        only_first: samples that only the first recognises.
        only_second: samples that only the second recognises.
        p: of the exact two-sided test that both are as likely.
    """

    only_first: int
    only_second: int
    p: float


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """McNemar's exact test.

    Args:
        first: bool (N,), whether the first network is right.
        second: bool (N,), whether the second is, on the same samples.
    """
    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    discordant = only_first + only_second
    p = float(stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return McNemar(only_first, only_second, p)


class Squares(NamedTuple):
    """What the calibration error of one network is estimated from.

    Attributes:
        samples: how many there are.
        total: sum over the bins of the samples times the square of their mean gap.
        noise: what of it is chance: the sum over the bins of the variance of the gaps.
        smooth: the same with two right and two wrong samples added to each bin, for in a small bin
            all may be right by chance.
        smooth_squares: the sum of the squares of these variances.
    """

    samples: int
    total: float
    noise: float
    smooth: float
    smooth_squares: float

    @property
    def square(self) -> float:
        """The square of the calibration error without bias; chance can make it negative."""
        return (self.total - self.noise) / self.samples


def estimate_calibration(squares: Sequence[Squares]) -> Estimate:
    """A calibration error, the root of a mean square over samples and seeds.

    `mean` is the root of the mean of the squares over the seeds, 0 where chance makes it negative.
    Over samples, the sum of squares is a weighted sum of noncentral chi-squared variables, of which
    two moments are matched (Patnaik, 1949, doi:10.1093/biomet/36.1-2.202), and its noncentrality,
    which is the error, has the interval that its distribution gives by inversion; the upper end is
    taken relative to a perfectly calibrated network, so that it never is 0. Networks of several
    seeds are tested on the same samples; that their chance deviations differ in part is not made
    use of, so that the interval of many seeds is wider than it need be. The part that seeds make is
    added on the scale of the squares, see `over_both`.

    Args:
        squares: of each seed.
    """
    count, samples = len(squares), squares[0].samples
    of_seeds = np.array([x.square for x in squares])
    values = np.sqrt(np.maximum(of_seeds, 0))
    square = float(of_seeds.mean())
    by_seeds = float(of_seeds.var(ddof=1)) / count if count > 1 else 0.0
    found = Spread(square, count, by_seeds, 0.0, 0.0)  # `ends` has what samples make
    total, noise, smooth, smooth_squares = np.mean([x[1:] for x in squares], axis=0)
    # The mean of the sum is the error's part and `noise`; its spread is that of smoothed variances.
    total = max(total - noise + smooth, 0.0)

    def ends(confidence: Confidence, rest: bool) -> Interval:
        return _noncentral(total, smooth, smooth_squares, confidence.samples / 2, samples)

    def root(interval: Interval) -> Interval:
        low, high = np.sqrt(np.clip(interval, 0, 1))
        return float(low), float(high)

    return Estimate(
        values.tolist(),
        float(np.sqrt(max(square, 0.0))),
        float(values.std(ddof=1)) if count > 1 else None,
        root(t_interval(of_seeds)) if count > 1 else None,
        root(ends(POINTWISE, False)),
        root(over_both(found, ends)),
    )


def _noncentral(
    total: float, noise: float, noise_squares: float, tail: float, samples: int
) -> Interval:
    scale, freedom = noise_squares / noise, noise**2 / noise_squares
    found = total / scale

    def below(noncentrality: float) -> float:
        return float(special.chndtr(found, freedom, noncentrality))

    centre = float(special.chdtr(freedom, found))
    furthest = (np.sqrt(found) + 10) ** 2 + 100
    low = 0.0
    if centre > 1 - tail:
        low = optimize.brentq(lambda x: below(x) - (1 - tail), 0, furthest)
    high = optimize.brentq(lambda x: below(x) - tail * max(centre, 1e-12), 0, furthest)
    return low * scale / samples, high * scale / samples

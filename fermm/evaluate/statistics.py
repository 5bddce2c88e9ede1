"""Intervals over seeds and over images, and paired tests; arrays in, numbers out.

A figure of merit is uncertain for two reasons that `config.seeds` and the test faces let one see:
another seed would have trained another network, and other faces would have been tested. What the
choice of the split adds is seen by neither: `config.split_seeds` repeats the run for that.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 2000

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure of merit over seeds, or its difference between two networks.

    Attributes:
        seeds: its value for each seed.
        mean: over the seeds.
        sd: standard deviation over the seeds (ddof 1), None for a single seed.
        over_seeds: 95% interval of the mean by Student's t, the faces as they are; None for a
            single seed.
        over_images: 95% bootstrap interval over the faces, the trained networks as they are.
        interval: 95% bootstrap interval over seeds and faces together; for a single seed that over
            faces.
    """

    seeds: list[float]
    mean: float
    sd: float | None
    over_seeds: Interval | None
    over_images: Interval
    interval: Interval


def resample(count: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each of `count` faces is drawn: float64 (resamples, count), rows sum to `count`.

    One such array serves all networks of a run, so that their comparison is paired.
    """
    random = np.random.default_rng(seed)
    draws = random.integers(count, size=(resamples, count))
    return np.stack([np.bincount(row, minlength=count) for row in draws]).astype(np.float64)


def estimate(
    samples: np.ndarray,
    weights: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray] = lambda means: means[..., 0],
    bounds: Interval = (-np.inf, np.inf),
    seed: int = 0,
) -> Estimate:
    """A statistic that is a function of means over faces, with its intervals.

    The bootstrap over faces draws the same faces for all seeds and takes the mean over the seeds.
    That over both adds to each draw what a draw of the seeds changes. A plain bootstrap of few
    seeds is too narrow; what it changes is widened as in Hesterberg, 2015,
    doi:10.1080/00031305.2015.1089789, section 3.4: by sqrt(S/(S-1)), and by the ratio of Student's
    quantile to the normal one.

    Args:
        samples: float (S, N, K), for each seed and face what is averaged.
        weights: float (B, N), from `resample`.
        statistic: means, float (..., K), to values (...). By default the mean of samples with K=1.
        bounds: within which the statistic lies; intervals end there.
        seed: of the draws of seeds.
    """
    count, faces, _ = samples.shape
    values = statistic(samples.mean(1))
    means = np.mean([statistic(weights @ one / faces) for one in samples], axis=0)  # (B,)
    over_images = _percentiles(means, bounds)
    if count == 1:
        return Estimate(values.tolist(), float(values[0]), None, None, over_images, over_images)
    draws = np.random.default_rng(seed).integers(count, size=(len(weights), count))
    widening = np.sqrt(count / (count - 1)) * _student(count) / stats.norm.ppf((1 + LEVEL) / 2)
    deviations = widening * (values[draws].mean(1) - values.mean())
    low, high = np.clip(t_interval(values), *bounds)
    return Estimate(
        values.tolist(),
        float(values.mean()),
        float(values.std(ddof=1)),
        (float(low), float(high)),
        over_images,
        _percentiles(means + deviations, bounds),
    )


def t_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """95% interval of the mean of at least two values, by Student's t."""
    mean = float(np.mean(values))
    margin = _student(len(values)) * float(np.std(values, ddof=1)) / np.sqrt(len(values))
    return mean - margin, mean + margin


def _student(count: int) -> float:
    return float(stats.t.ppf((1 + LEVEL) / 2, count - 1))


def _percentiles(replicates: np.ndarray, bounds: Interval) -> Interval:
    ends = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    low, high = np.clip(ends, *bounds)
    return float(low), float(high)


class McNemar(NamedTuple):
    """Two networks on the same faces.

    Attributes:
        only_first: faces that only the first recognises.
        only_second: faces that only the second recognises.
        p: of the exact two-sided test that both are as likely.
    """

    only_first: int
    only_second: int
    p: float


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """McNemar's exact test.

    Args:
        first: bool (N,), whether the first network is right.
        second: bool (N,), whether the second is, on the same faces.
    """
    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    discordant = only_first + only_second
    p = float(stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return McNemar(only_first, only_second, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number by Holm's step-down method (Holm, 1979), in order."""
    order = np.argsort(p_values)
    ranked = np.asarray(p_values, float)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(ranked), 1)
    return adjusted.tolist()

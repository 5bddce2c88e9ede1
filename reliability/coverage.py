"""How often the intervals of a report contain the truth, by simulation.

  uv run python -m reliability.coverage --trials 1000

Prints the tables of docs/statistics.md. Networks are simulated whose true metrics are known: the
score of each class is that of the sample, which all networks share, plus what a network adds by
chance, and that of the label is higher by the network's skill, which differs between its seeds.
"""

import argparse
import functools
import itertools
import multiprocessing
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from fermm.evaluate import assess, metrics, statistics
from fermm.evaluate.metrics import METRICS
from fermm.rundir import Predictions

SEEDS = (1, 2, 3, 5, 10)
SPREADS = {"small": 0.02, "large": 0.09}  # of the skill: 0.7 and 3 points of accuracy
SHARES = np.array([0.138, 0.0153, 0.1427, 0.2505, 0.1693, 0.1115, 0.1727])  # FER2013's classes
CLASSES = len(SHARES)
DUPLICATES = np.array([0.04, 0.2, 0.04, 0.04, 0.03, 0.3, 0.03])  # of the samples of each class
SKILL = 1.2
GAP = 0.25  # of the skill on training samples
SCALE = 1.1  # between scores and logits, which makes the networks somewhat too sure
ERRORS = (0.0, 0.01, 0.027, 0.05, 0.1)
SAMPLES = (200, 1000, 3589)


def _labels(random: np.random.Generator, samples: int) -> np.ndarray:
    return random.choice(CLASSES, size=samples, p=SHARES / SHARES.sum()).astype(np.int32)


def _predict(scores: np.ndarray, labels: np.ndarray, skill: float) -> Predictions:
    logits = SCALE * (scores + skill * np.eye(CLASSES)[labels])
    exact = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = (exact / exact.sum(1, keepdims=True)).astype(np.float32)
    return Predictions(np.arange(len(labels)), labels, probabilities)


def _noise(random: np.random.Generator, samples: int) -> np.ndarray:
    return random.standard_normal((samples, CLASSES))


OF_SAMPLES, OF_NETWORKS = np.sqrt(0.6), np.sqrt(0.4)  # the parts of a score's standard deviation


def _recall(predictions: Predictions) -> np.ndarray:
    return metrics.scores_by_class(metrics.confusion_matrix(predictions))[1]


@functools.cache
def truths(samples: int = 400_000) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Skills, and each metric of a network of that skill on all samples that there could be."""
    random = np.random.default_rng(1)
    labels = _labels(random, samples)
    scores = _noise(random, samples)  # the sum of both parts
    kept = random.random(samples) >= DUPLICATES[labels]
    skills = SKILL + np.linspace(-0.9, 0.9 + GAP, 13)
    found = defaultdict(list)
    for skill in skills:
        predictions = _predict(scores, labels, skill)
        for name, metric in METRICS.items():
            found[name].append(metric(predictions))
        found["without duplicates"].append(predictions.correct[kept].mean())
        found["recall"].append(_recall(predictions))
    return skills, {name: np.array(values) for name, values in found.items()}


def true_value(name: str, skills: np.ndarray) -> np.ndarray:
    """A metric at each of `skills`, by a polynomial through those of `truths`."""
    known, values = truths()
    fitted = np.polynomial.Polynomial.fit(known, values[name], 6)
    return fitted(skills)


def _draw_skill(random: np.random.Generator, spread: float, seeds: int) -> np.ndarray:
    return SKILL + np.clip(spread * random.standard_normal(seeds), -0.85, 0.85)


CONFIDENCES = np.linspace(0, 1, 501)


@functools.cache
def _below(samples: int = 400_000) -> tuple[np.ndarray, np.ndarray]:
    """Shares of all decisions, and of right ones, that have at most each of `CONFIDENCES`.

    Returns:
        Each as coefficients of polynomials in the skill, float64 (7, 501).
    """
    random = np.random.default_rng(1)
    labels = _labels(random, samples)
    scores = _noise(random, samples)
    skills, _ = truths()
    found = np.empty((2, len(skills), len(CONFIDENCES)))
    for i, skill in enumerate(skills):
        predictions = _predict(scores, labels, skill)
        confidence = predictions.probabilities.max(-1)
        for of, chosen in zip(found, (slice(None), predictions.correct), strict=True):
            of[i] = np.searchsorted(np.sort(confidence[chosen]), CONFIDENCES, "right") / samples
    one, right = (np.polynomial.polynomial.polyfit(skills, of, 6) for of in found)
    return one, right


def _accuracy_between(edges: np.ndarray, skills: np.ndarray) -> np.ndarray:
    """The accuracy of decisions with confidences between edges, of all networks of these skills."""
    powers = np.vander(skills, 7, increasing=True).mean(0)
    all_of, right = (np.interp(edges, CONFIDENCES, powers @ of) for of in _below())
    return np.diff(right) / np.diff(all_of)


@functools.cache
def _many_skills(spread: float) -> np.ndarray:
    return _draw_skill(np.random.default_rng(2), spread, 200_000)


def confidence_trial(seed: int, seeds: int, spread: float, samples: int) -> dict[str, float]:
    """How many intervals of a reliability curve contain the truth."""
    random = np.random.default_rng([8, seed, seeds, samples, round(1000 * spread)])
    labels = _labels(random, samples)
    of_samples = OF_SAMPLES * _noise(random, samples)
    skills = _draw_skill(random, spread, seeds)
    network = [
        _predict(of_samples + OF_NETWORKS * _noise(random, samples), labels, skill)
        for skill in skills
    ]
    bins = assess.reliability(network)
    confidence = np.sort(np.concatenate([p.probabilities.max(-1) for p in network]))
    last = np.cumsum([found["decisions"] for found in bins])[:-1] - 1
    edges = np.array([0.0, *confidence[last], 1.0])
    truth = _accuracy_between(edges, skills if seeds == 1 else _many_skills(spread))
    low, high = np.array([found["interval"] for found in bins]).T
    return {"covered": float(np.mean((low <= truth) & (truth <= high)))}


@functools.cache
def _expected(name: str, spread: float, shift: float = 0.0) -> float:
    """The mean over all seeds that there could be (calibration error: root of mean square)."""
    values = true_value(name, _draw_skill(np.random.default_rng(2), spread, 200_000) + shift)
    if name == "calibration_error":
        return float(np.sqrt(np.mean(values**2)))
    return float(values.mean())


@functools.cache
def _expected_recall(spread: float) -> np.ndarray:
    known, values = truths()
    skills = _draw_skill(np.random.default_rng(2), spread, 200_000)
    return np.array(
        [np.polynomial.Polynomial.fit(known, values["recall"][:, c], 6)(skills).mean()
         for c in range(CLASSES)]
    )  # fmt: skip


def _expected_here(of_samples: np.ndarray, labels: np.ndarray, spread: float) -> float:
    """Accuracy on these very samples, the mean over (nearly) all seeds that there could be."""
    random = np.random.default_rng(7)
    skills = _draw_skill(random, spread, 150)
    right = []
    for skill in skills:
        scores = of_samples + OF_NETWORKS * _noise(random, len(labels))
        scores[np.arange(len(labels)), labels] += skill
        right.append((scores.argmax(1) == labels).mean())
    return float(np.mean(right))


def trial(seed: int, seeds: int, spread: float, samples: int) -> dict[str, bool]:
    """Whether each interval of one simulated run contains the truth."""
    random = np.random.default_rng([3, seed, seeds, samples, round(1000 * spread)])
    labels = _labels(random, samples)
    of_samples = OF_SAMPLES * _noise(random, samples)
    kept = random.random(samples) >= DUPLICATES[labels]
    networks, skills = [], []
    for _ in range(2):
        skills.append(_draw_skill(random, spread, seeds))
        networks.append(
            [
                _predict(of_samples + OF_NETWORKS * _noise(random, samples), labels, skill)
                for skill in skills[-1]
            ]
        )
    found: dict[str, bool] = {}

    def note(name: str, estimate: Any, truth: float, of_these: float | None = None) -> None:
        found[name] = estimate.interval[0] <= truth <= estimate.interval[1]
        if of_these is not None and seeds > 1:
            low, high = estimate.over_samples
            found[f"{name}, over samples"] = low <= of_these <= high

    for name in METRICS:
        own = true_value(name, skills[0])
        of_these = np.sqrt(np.mean(own**2)) if name == "calibration_error" else own.mean()
        truth = of_these if seeds == 1 else _expected(name, spread)
        note(name, assess.estimate(name, networks[0]), truth, of_these)
    one, other = (np.stack([p.correct for p in n]).astype(float) for n in networks)
    these = [true_value("accuracy", s).mean() for s in skills]
    truth = these[0] - these[1] if seeds == 1 else 0.0
    note("difference", statistics.estimate_difference(one - other), truth, these[0] - these[1])
    plain = statistics.estimate_difference(one - other, exact=False)
    note("difference, as the cost of shuffling", plain, truth)
    if seeds > 1 and samples <= 1000:
        low, high = statistics.estimate_share(one).over_seeds or (0.0, 1.0)
        found["accuracy, over seeds"] = low <= _expected_here(of_samples, labels, spread) <= high

    more = _labels(random, samples)
    noise = OF_SAMPLES * _noise(random, samples)
    train = np.stack(
        [
            _predict(noise + OF_NETWORKS * _noise(random, samples), more, skill + GAP).correct
            for skill in skills[0]
        ]
    ).astype(float)
    here = true_value("accuracy", skills[0] + GAP).mean() - these[0]
    over = _expected("accuracy", spread, GAP) - _expected("accuracy", spread)
    note("gap", statistics.estimate_gap(train, one), here if seeds == 1 else over, here)

    here = true_value("without duplicates", skills[0]).mean()
    truth = here if seeds == 1 else _expected("without duplicates", spread)
    note("without duplicates", statistics.estimate_share(one[:, kept]), truth, here)
    known, values = truths()
    recall = (
        np.array([np.polynomial.Polynomial.fit(known, values["recall"][:, c], 6)(skills[0][0])
                  for c in range(CLASSES)])
        if seeds == 1
        else _expected_recall(spread)
    )  # fmt: skip
    own_shares = np.bincount(labels, minlength=CLASSES) / samples
    note(
        "without duplicates, same shares",
        assess.same_shares(one, labels, kept),
        float(own_shares @ recall),
    )
    for c, name in ((5, "recall of a class (11%)"), (1, "recall of a class (1.5%)")):
        if (labels == c).any():
            note(name, statistics.estimate_share(one[:, labels == c]), recall[c])
    return found


def calibration_trial(seed: int, error: float, samples: int) -> dict[str, bool]:
    """The calibration error of one network whose true error is known."""
    random = np.random.default_rng([4, seed, round(1000 * error), samples])
    confidence = 1 / 7 + 6 / 7 * random.beta(1.3, 1.6, samples)
    right = random.random(samples) < true_accuracy(confidence, error)
    labels = np.where(right, 0, 1).astype(np.int32)
    rest = (1 - confidence[:, None]) / 6
    probabilities = np.concatenate([confidence[:, None], np.repeat(rest, 6, 1)], 1)
    predictions = Predictions(np.arange(samples), labels, probabilities.astype(np.float32))
    estimate = assess.estimate("calibration_error", [predictions])
    low, high = estimate.interval
    band = metrics.calibrated_below(predictions, 500, seed)
    return {"interval": low <= error <= high, "band": estimate.mean > band,
            "width": high - low, "mean": estimate.mean}  # fmt: skip


@functools.cache
def _unit() -> float:
    """The root of the mean square of confidence minus chance, over `calibration_trial`'s."""
    confidence = 6 / 7 * np.random.default_rng(5).beta(1.3, 1.6, 1_000_000)
    return float(np.sqrt(np.mean(confidence**2)))


def true_accuracy(confidence: np.ndarray, error: float) -> np.ndarray:
    """Of decisions that are too sure, the more so the surer they are."""
    return confidence - error / _unit() * (confidence - 1 / 7)


def family_trial(seed: int, seeds: int, spread: float, samples: int) -> dict[str, bool]:
    """Whether any of four equal networks is called better than another."""
    random = np.random.default_rng([6, seed, seeds, samples, round(1000 * spread)])
    labels = _labels(random, samples)
    of_samples = OF_SAMPLES * _noise(random, samples)
    correct = []
    for _ in range(4):
        skills = _draw_skill(random, spread, seeds) if seeds > 1 else np.full(1, SKILL)
        correct.append(
            np.stack(
                [
                    _predict(of_samples + OF_NETWORKS * _noise(random, samples), labels, s).correct
                    for s in skills
                ]
            ).astype(float)
        )
    family = statistics.Family(
        [a - b for a, b in itertools.combinations(correct, 2)], draws=20_000, seed=seed
    )
    bounds = [family.interval_of(table) for table in family.tables]
    return {"any": any(low > 0 or high < 0 for low, high in bounds)}


def rates(one: Callable[..., dict[str, Any]], trials: int, *arguments: Any) -> dict[str, float]:
    """How often each of what a trial finds is true."""
    found = defaultdict(list)
    for seed in range(trials):
        for name, value in one(seed, *arguments).items():
            found[name].append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def _print(head: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    head = list(head)
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)
    print()


def _of_seeds(samples: int) -> list[tuple[int, float, int]]:
    """Number of seeds, spread between them, and number of samples; one seed has no spread."""
    large = [(s, x, samples) for s in SEEDS[1:] for x in SPREADS.values()]
    return [(1, SPREADS["small"], samples), *large]


def main() -> None:
    """Reads the command line, simulates and prints."""
    parser = argparse.ArgumentParser(
        prog="python -m reliability.coverage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--trials", type=int, default=1000, help="of each setting")
    parser.add_argument("--processes", type=int, default=2, help="that simulate at once")
    arguments = parser.parse_args()
    trials = arguments.trials
    words = {value: name for name, value in SPREADS.items()}
    truths()  # before the processes begin, which then have it
    with multiprocessing.get_context("fork").Pool(arguments.processes) as pool:

        def all_of(one: Callable[..., Any], settings: list[tuple]) -> list[dict[str, float]]:
            return pool.starmap(rates, [(one, trials, *s) for s in settings], chunksize=1)

        def percent(share: float | None) -> str:
            return "" if share is None else f"{100 * share:.1f}"

        for samples in SAMPLES:
            settings = _of_seeds(samples)
            found = all_of(trial, settings)
            names = dict.fromkeys(name for of in found for name in of)
            print(
                f"{samples:,} samples, {trials:,} trials: the interval contains the truth, in "
                "percent"
            )
            print()
            _print(
                ["", *(f"{s}, {words[x]}" if s > 1 else "1 seed" for s, x, _ in settings)],
                ([_title(name), *(percent(of.get(name)) for of in found)] for name in names),
            )
        settings = [(error, samples) for samples in SAMPLES for error in ERRORS]
        found = all_of(calibration_trial, settings)
        keys = {"interval": "covered", "mean": "mean estimate", "width": "mean width"}
        keys |= {"band": "above the band"}
        _print(
            ["samples", "true error", *keys.values()],
            (
                [f"{samples:,}", percent(error), *(percent(of[key]) for key in keys)]
                for (error, samples), of in zip(settings, found, strict=True)
            ),
        )
        settings = [setting for samples in (200, 1000) for setting in _of_seeds(samples)]
        found = all_of(confidence_trial, settings)
        _print(
            ["samples", "seeds", "spread", "points of a reliability curve covered"],
            (
                [f"{n:,}", str(s), words[x] if s > 1 else "", percent(of["covered"])]
                for (s, x, n), of in zip(settings, found, strict=True)
            ),
        )
        settings = _of_seeds(1000)
        found = all_of(family_trial, settings)
        _print(
            ["seeds", "spread", "some pair of four equal networks is called better"],
            (
                [str(s), words[x] if s > 1 else "", percent(of["any"])]
                for (s, x, _), of in zip(settings, found, strict=True)
            ),
        )


def _title(name: str) -> str:
    metric, *rest = name.split(", ")
    return ", ".join([METRICS[metric].title if metric in METRICS else metric, *rest])


if __name__ == "__main__":
    main()

"""What the numbers of a run mean: intervals, comparisons, modalities, votes. Writes nothing.

All of it is about one split, the last of `config.evaluate.splits`, unless another is named.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fermm.evaluate import metrics, statistics
from fermm.evaluate.metrics import METRICS, VOTE_METRICS, Votes
from fermm.evaluate.run import Run, Trained
from fermm.evaluate.statistics import Compared, Estimate
from fermm.evaluate.text import interval, join, points
from fermm.rundir import Modalities, Predictions

Json = dict[str, Any]


def values(run: Run) -> Json:
    """The content of `metrics.json`.

    Returns:
        `{network: {split: {metric: one value for each seed, "count": N}, "parameters", "seconds"}}`
        where `parameters` are those that are trained, and `seconds` those of each seed. Where
        annotators have voted, the metrics of `fermm.evaluate.metrics.VOTE_METRICS` are among them,
        and beside `count` stands what `of_annotators` tells. Null stands where a metric is not
        defined.
    """
    found: Json = {}
    for name, seeds in run.networks.items():
        found[name] = {}
        for split in run.splits:
            predictions = [t.predictions[split] for t in seeds]
            all_metrics = dict(METRICS)
            annotators: Mapping[str, float] = {}
            if predictions[0].votes is not None:
                all_metrics |= VOTE_METRICS
                annotators = metrics.of_annotators(predictions[0])
            found[name][split] = {
                key: [_or_null(metric(p)) for p in predictions]
                for key, metric in all_metrics.items()
            }
            found[name][split] |= {"count": len(predictions[0].labels)}
            found[name][split] |= {key: _or_null(value) for key, value in annotators.items()}
        found[name]["parameters"] = seeds[0].meta["parameters"]
        found[name]["seconds"] = [t.seconds for t in seeds]
    return found


def _or_null(value: float) -> float | None:
    return None if np.isnan(value) else value


def assess(run: Run) -> Json:
    """The content of `assessment.json`; shares and accuracies as fractions of 1.

    An `Estimate` stands for the fields of `fermm.evaluate.statistics.Estimate`; a list of K has an
    entry for each class; null stands where there is nothing to divide by.

    Returns:
        `split`, `classes` (their names), `samples`, `duplicates` (how many of the samples are
        duplicates of a training sample), `seeds`;
        `headline`: the best networks in one sentence; `best`: all networks that are not shown to be
        worse than the one with the highest mean accuracy, in descending order of it, which thus
        stands first (and those after it may have the same);
        `networks`: by name, for each metric an `Estimate`, that of `calibration_error` with
        `calibrated_below`, which a perfectly calibrated network stays below in 95% of cases;
        `by_class`: lists of K, `precision`, `recall`, `f1` (mean over those seeds that have one),
        `recall_interval` (95%, over seeds and samples) and `samples`;
        `reliability`: for each bin of confidence `decisions` (of all seeds), `confidence`,
        `accuracy` and its `interval` (95%, over seeds and samples);
        `accuracy_without_duplicates`, and `accuracy_without_duplicates_same_shares`, which is
        weighted to the classes' shares of all samples: an `Estimate`, or null if no sample or every
        sample is a duplicate;
        `gap`: training minus validation accuracy, an `Estimate`, or null if not evaluated on both;
        `votes`, see `against_votes`, or null if there are no votes;
        `parameters`, `seconds`, and `splits`, every metric on each split (mean over the seeds; the
        calibration error as the root of the mean square);
        `annotators`: see `annotators`, or null if there are no votes;
        `pairs`: for each two networks, see `compare`;
        `fusions`: by name, see `modalities`;
        `audit`: how the run meets the requirements of a publication, see
        `fermm.evaluate.reference`; empty where there are none;
        `sentences`: the comparisons in words.
    """
    samples = run.samples.of(run.assessed)
    # Predictions are in the order of the split, `samples` in that of the source.
    first = next(iter(run.networks.values()))[0].predictions[run.assessed]
    duplicate = np.isin(first.rows, samples.rows[samples.duplicate])
    # What would be left out, or left over, must be something.
    some = bool(duplicate.any() and not duplicate.all())

    networks: dict[str, Json] = {}
    for name, seeds in run.networks.items():
        predictions = [trained.predictions[run.assessed] for trained in seeds]
        networks[name] = {
            metric: dataclasses.asdict(estimate(metric, predictions)) for metric in METRICS
        }
        networks[name]["calibration_error"]["calibrated_below"] = float(
            np.mean(
                [
                    metrics.calibrated_below(p, metrics.CALIBRATED_DRAWS // len(seeds))
                    for p in predictions
                ]
            )
        )
        without, weighted = None, None
        if some:
            correct = np.stack([p.correct for p in predictions]).astype(np.float64)
            without = dataclasses.asdict(statistics.estimate_share(correct[:, ~duplicate]))
            weighted = dataclasses.asdict(same_shares(correct, first.labels, ~duplicate))
        networks[name] |= {
            "by_class": _by_class(predictions),
            "reliability": reliability(predictions),
            "accuracy_without_duplicates": without,
            "accuracy_without_duplicates_same_shares": weighted,
            "gap": _gap(run, seeds),
            "votes": None if first.votes is None else against_votes(predictions),
            "splits": {
                split: {metric: _over_seeds(metric, seeds, split) for metric in METRICS}
                for split in run.splits
            },
            "parameters": seeds[0].meta["parameters"],
            "seconds": float(np.mean([trained.seconds for trained in seeds])),
        }
    pairs, fusions = compare(run)
    best = _best(networks, pairs)
    several = len(run.seeds) > 1
    result = {
        "split": run.assessed,
        "classes": list(run.classes),
        "samples": len(samples.labels),
        "duplicates": int(duplicate.sum()),
        "seeds": list(run.seeds),
        "best": best,
        "networks": networks,
        "annotators": None if first.votes is None else annotators(first),
        "pairs": pairs,
        "fusions": fusions,
        "sentences": [_sentence(pair, run.titles, several=several) for pair in pairs],
    }
    result["headline"] = _headline(result, run.titles)
    audit = run.reference.audit
    return result | {"audit": audit(run, result) if audit else []}


def estimate(metric: str, predictions: Sequence[Predictions]) -> Estimate:
    """A metric with its intervals.

    Args:
        metric: a name in `METRICS` or `VOTE_METRICS`.
        predictions: of each seed, on the same samples.
    """
    chosen = (METRICS | VOTE_METRICS)[metric]
    if chosen.by_sample is None:
        squares = [metrics.calibration_squares(p) for p in predictions]
        return statistics.estimate_calibration(squares)
    table = np.stack([chosen.by_sample(p) for p in predictions])
    if metric in ("accuracy", "majority_accuracy"):
        return statistics.estimate_share(table)
    if metric == "macro_f1":
        values = np.array([chosen(p) for p in predictions])
        samples = metrics.samples_of_a_macro_mean(predictions[0].labels)
        return statistics.estimate_share(table, values, samples)
    return statistics.estimate_value(table, (0.0, chosen.highest))


def same_shares(correct: np.ndarray, labels: np.ndarray, kept: np.ndarray) -> Estimate:
    """Accuracy on some of the samples, weighted to the classes' shares of all of them.

    Post-stratification: the recall of each class on the samples that are kept, times the share of
    the class among all samples. A class of which no sample is kept is left out of the shares.

    Args:
        correct: float (S, N), for each seed and sample.
        labels: int (N,).
        kept: bool (N,), which samples are kept.
    """
    present = np.unique(labels[kept])
    counts = np.array([np.sum(labels == c) for c in present])
    shares = counts / counts.sum()
    own, own_labels = correct[:, kept], labels[kept]
    samples = own.shape[1]
    table, values = np.empty_like(own), np.zeros(len(own))
    for share, c in zip(shares, present, strict=True):
        where = own_labels == c
        recall = own[:, where].mean(1, keepdims=True)
        values += share * recall[:, 0]
        # So that the variance of the mean is the sum over classes of share^2 variance / samples.
        count = where.sum()
        small = np.sqrt(count / max(count - 1, 1) * (samples - 1) / samples)
        table[:, where] = samples * share / count * (own[:, where] - recall) * small
    table += values[:, None]
    equal = 1 / np.sum(shares**2 / [np.sum(own_labels == c) for c in present])
    return statistics.estimate_share(table, values, float(equal))


def _gap(run: Run, seeds: Sequence[Trained]) -> Json | None:
    if not {"train", "validation"} <= set(run.splits):
        return None
    train, validation = (
        np.stack([t.predictions[split].correct for t in seeds]).astype(np.float64)
        for split in ("train", "validation")
    )
    return dataclasses.asdict(statistics.estimate_gap(train, validation))


def _over_seeds(metric: str, seeds: Sequence[Trained], split: str) -> float:
    predictions = [trained.predictions[split] for trained in seeds]
    if metric == "calibration_error":
        squares = [metrics.calibration_squares(p).square for p in predictions]
        return max(float(np.mean(squares)), 0.0) ** 0.5
    return float(np.mean([METRICS[metric](p) for p in predictions]))


def against_votes(predictions: Sequence[Predictions]) -> Json | None:
    """How well a network agrees with the annotators.

    Args:
        predictions: of each seed, on the same samples, with votes.

    Returns:
        `majority_accuracy` and `vote_cross_entropy`, each an `Estimate`; lists of K, `recall` of
        each class by the majority and its `recall_interval`. The first and the lists are of the
        samples that have a majority, and null if none has.
    """
    agreed = [metrics.agreed(p) for p in predictions]
    some = len(agreed[0].labels) > 0
    by_class = _by_class(agreed) if some else {"recall": None, "recall_interval": None}
    accuracy = dataclasses.asdict(estimate("majority_accuracy", predictions)) if some else None
    return {
        "majority_accuracy": accuracy,
        "vote_cross_entropy": dataclasses.asdict(estimate("vote_cross_entropy", predictions)),
        "recall": by_class["recall"],
        "recall_interval": by_class["recall_interval"],
    }


def annotators(predictions: Predictions) -> Json:
    """What no network can be expected to exceed: how far the annotators agree with each other.

    Args:
        predictions: on the samples; only the votes count.

    Returns:
        `accuracy`: how often one annotator votes for the majority, an `Estimate` over the samples
        with a majority, or null if none has; `entropy`: of the votes, an `Estimate`, the lower
        bound of the cross-entropy; `without_majority`, how many samples have none; lists of K by
        the majority: `by_class`, the accuracy, `by_class_interval`, and `samples`.
    """
    votes = Votes.of(predictions)
    there = votes.agreed
    right, majority = votes.annotator_accuracy[None, there], votes.majority[there]
    own = [majority == c for c in range(predictions.classes)]
    of_classes = [
        statistics.estimate_share(right[:, where]) if where.any() else None for where in own
    ]
    entropy = statistics.estimate_value(votes.entropy[None], (0.0, np.log(predictions.classes)))
    return {
        "accuracy": dataclasses.asdict(statistics.estimate_share(right)) if there.any() else None,
        "entropy": dataclasses.asdict(entropy),
        "without_majority": int((~there).sum()),
        "by_class": [found and found.mean for found in of_classes],
        "by_class_interval": [found and found.interval for found in of_classes],
        "samples": [int(where.sum()) for where in own],
    }


def _by_class(predictions: Sequence[Predictions]) -> Json:
    found = [metrics.by_class(p) for p in predictions]
    result: Json = {}
    for score in found[0]:
        values = np.stack([of[score] for of in found])
        known = ~np.isnan(values)
        result[score] = [
            float(values[known[:, c], c].mean()) if known[:, c].any() else None
            for c in range(predictions[0].classes)
        ]
    correct = np.stack([p.correct for p in predictions]).astype(np.float64)
    own = [predictions[0].labels == c for c in range(predictions[0].classes)]
    result["recall_interval"] = [
        statistics.estimate_share(correct[:, where]).interval if where.any() else None
        for where in own
    ]
    return result | {"samples": [int(where.sum()) for where in own]}


def reliability(predictions: Sequence[Predictions]) -> list[Json]:
    """Accuracy by confidence; the bins are those of the decisions of all seeds together.

    Args:
        predictions: of each seed, on the same samples.

    Returns:
        For each bin, see `reliability` in `assess`.
    """
    together = Predictions(
        *(np.concatenate(x) for x in zip(*(p[:3] for p in predictions), strict=True))
    )
    found = metrics.reliability(together)
    where, correct = (x.reshape(len(predictions), -1) for x in (found.bins, together.correct))
    bins = []
    for index, (decisions, confidence, accuracy) in enumerate(zip(*found[:3], strict=True)):
        estimate = statistics.estimate_share_within(correct, where == index)
        bins.append(
            {
                "decisions": int(decisions),
                "confidence": float(confidence),
                "accuracy": float(accuracy),
                "interval": estimate.interval,
            }
        )
    return bins


def compare(run: Run) -> tuple[list[Json], Json]:
    """Every two networks on the same samples, each seed with its like; and the fusions.

    All these differences, and those between each fusion and its members, are looked at together:
    their simultaneous intervals and p-values are of one `statistics.Family`.

    Returns:
        For each pair: `better` and `worse`, the names in order of mean accuracy; `difference`, an
        `Estimate`; `simultaneous`, an interval of it, which with 95% confidence holds for all
        differences at once; `p`, corrected likewise; `shown`, whether `simultaneous` lies above 0,
        which is whether `p` is below 0.05; `mcnemar`, for each seed the counts `only_better`,
        `only_worse`, the exact `p`, and `p_corrected` for the number of differences.

        By fusion, see `modalities`.
    """
    correct = {
        name: np.stack([t.predictions[run.assessed].correct for t in seeds])
        for name, seeds in run.networks.items()
    }
    names = []
    for one, other in itertools.combinations(correct, 2):
        first = correct[one].mean() >= correct[other].mean()
        names.append((one, other) if first else (other, one))
    tables = [correct[better].astype(float) - correct[worse] for better, worse in names]
    fused = {
        name: [trained.modalities for trained in seeds if trained.modalities]
        for name, seeds in run.networks.items()
        if all(trained.modalities for trained in seeds)
    }
    gains = {
        (name, member): _gain(found, member)
        for name, found in fused.items()
        for member in found[0].members
    }
    family = statistics.Family([*tables, *gains.values()])
    pairs: list[Json] = []
    for (better, worse), found in zip(names, family.compared, strict=False):
        tests = [
            statistics.mcnemar(a, b) for a, b in zip(correct[better], correct[worse], strict=True)
        ]
        pairs.append(
            {
                "better": better,
                "worse": worse,
                "difference": dataclasses.asdict(found.estimate),
                "simultaneous": found.simultaneous,
                "p": found.p,
                "shown": found.shown,
                "mcnemar": [
                    {
                        "seed": seed,
                        "only_better": test.only_first,
                        "only_worse": test.only_second,
                        "p": test.p,
                        "p_corrected": family.corrected(test.p),
                    }
                    for seed, test in zip(run.seeds, tests, strict=True)
                ],
            }
        )
    compared = dict(zip(gains, family.compared[len(names) :], strict=True))
    return pairs, {
        name: modalities(found, {m: compared[name, m] for m in found[0].members}, len(run.classes))
        for name, found in fused.items()
    }


def _gain(found: Sequence[Modalities], member: str) -> np.ndarray:
    """float64 (S, N), the fusion's correctness minus that of one of its members."""
    return np.stack(
        [(m.decisions == m.labels) - (m.alone[member] == m.labels).astype(float) for m in found]
    )


def _best(networks: Mapping[str, Json], pairs: Sequence[Json]) -> list[str]:
    """The network of the highest mean accuracy, and all that are not shown to be worse."""
    ordered = sorted(networks, key=lambda name: -networks[name]["accuracy"]["mean"])
    worse = {pair["worse"] for pair in pairs if pair["shown"] and pair["better"] == ordered[0]}
    return [name for name in ordered if name not in worse]


def _headline(assessment: Json, titles: Mapping[str, str]) -> str:
    networks, best = assessment["networks"], assessment["best"]
    several = len(assessment["seeds"]) > 1

    def of(name: str) -> str:
        found = networks[name]["accuracy"]
        return f"{points(found['mean'])}% (95% interval {interval(found['interval'])})"

    highest = networks[best[0]]["accuracy"]["mean"]
    tied = [name for name in best if networks[name]["accuracy"]["mean"] == highest]
    first = [titles[name] for name in tied]
    subject = join(first)
    have = "have" if len(tied) > 1 else "has"
    also = [name for name in best if name not in tied]
    rest = "".join(f", {titles[name]} {of(name)}" for name in also)
    about = (
        f"Means of {len(assessment['seeds'])} seeds; intervals over seeds and the choice of "
        "samples."
        if several
        else "One seed: intervals over the choice of samples; what another seed would give, this "
        "run cannot tell."
    )
    return (
        f"{subject} {have} the highest accuracy on the {assessment['samples']:,} "
        f"{assessment['split']} samples: {of(best[0])}"
        + (f"; not shown to be worse: {rest.removeprefix(', ')}" if rest else "")
        + f". {about}"
    )


def _sentence(pair: Json, titles: Mapping[str, str], *, several: bool) -> str:
    better, worse = titles[pair["better"]], titles[pair["worse"]]
    by = points(pair["difference"]["mean"])
    within = f"simultaneous 95% interval {interval(pair['simultaneous'])}"
    if several:
        if pair["shown"]:
            return f"{better} is better than {worse} by {by} points, {within}."
        return f"{better} is not shown to be better than {worse}: {by} points, {within}."
    if pair["shown"]:
        what = f"As trained here, {better} recognises more of these samples than {worse}"
    else:
        what = f"As trained here, {better} is not shown to recognise more samples than {worse}"
    return f"{what}: {by} points, {within}."


def modalities(found: Sequence[Modalities], gains: Mapping[str, Compared], classes: int) -> Json:
    """What each member does in a fusion.

    Args:
        found: the fusion, trained from each seed.
        gains: by member, the fusion compared with that member alone.
        classes: K, how many there are.

    Returns:
        `fused`: the fusion's accuracy; `any`: that of an oracle that takes whichever member is
        right; and in `members` by name: `alone`: the accuracy of the member; `gain`: how much the
        fusion's is higher, with `simultaneous`, `p` and `shown` as in `compare`; `shuffled`: that
        of the fusion where the inputs of this member come from another sample; `cost`: what the
        shuffling costs; `changed`: the share of the decisions that it changes, and
        `changed_by_class`, a list of K. All but the last are an `Estimate`.
    """
    labels = np.stack([m.labels for m in found])
    decisions = np.stack([m.decisions for m in found])

    def share(table: np.ndarray) -> Json:
        return dataclasses.asdict(statistics.estimate_share(table.astype(np.float64)))

    fused = decisions == labels
    alone = {name: np.stack([m.alone[name] for m in found]) == labels for name in gains}
    result: Json = {
        "fused": share(fused),
        "any": share(np.any(list(alone.values()), axis=0)),
        "members": {},
    }
    for name, gain in gains.items():
        shuffled = np.stack([m.shuffled[name] for m in found])
        right = (shuffled == labels[:, None]).mean(1)
        changed = (shuffled != decisions[:, None]).mean(1)
        result["members"][name] = {
            "alone": share(alone[name]),
            "gain": dataclasses.asdict(gain.estimate)
            | {"simultaneous": gain.simultaneous, "p": gain.p, "shown": gain.shown},
            "shuffled": share(right),
            "cost": dataclasses.asdict(statistics.estimate_difference(fused - right, exact=False)),
            "changed": share(changed),
            "changed_by_class": [
                float(changed[labels == c].mean()) if (labels == c).any() else None
                for c in range(classes)
            ],
        }
    return result

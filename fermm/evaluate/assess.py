"""What the numbers of a run mean: intervals, comparisons, modalities, audit.

All of it is about one split, the last of `config.evaluate.splits`, unless another is named.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fermm.data.faces import EMOTIONS
from fermm.evaluate import metrics, statistics
from fermm.evaluate.metrics import METRICS, Predictions
from fermm.evaluate.run import Modalities, Run, Trained
from fermm.evaluate.statistics import Compared, Estimate
from fermm.evaluate.table import interval, points
from fermm.models.specs import MODALITIES

RANDOM = 1 / len(EMOTIONS)
GAP = 0.03  # of training over validation accuracy, beyond which a network counts as overfitted
HOUR = 3600.0

Json = dict[str, Any]


def assess(run: Run) -> Json:
    """The content of `assessment.json`; shares and accuracies as fractions of 1.

    An `Estimate` stands for the fields of `fermm.evaluate.statistics.Estimate`; a list of seven has
    an entry for each emotion; null stands where there is nothing to divide by.

    Returns:
        `split`, `faces`, `duplicates` (how many of the faces are pixel by pixel the same as a
        training face), `seeds`;
        `headline`: the best networks in one sentence; `best`: all networks that are not shown to be
        worse than the one with the highest mean accuracy, in descending order of it, which thus
        stands first (and those after it may have the same);
        `networks`: by name, for each metric an `Estimate`, that of `calibration_error` with
        `calibrated_below`, which a perfectly calibrated network stays below in 95% of cases;
        `by_class`: lists of seven, `precision`, `recall`, `f1` (mean over those seeds that have
        one), `recall_interval` (95%, over seeds and faces) and `faces`;
        `reliability`: for each bin of confidence `decisions` (of all seeds), `confidence`,
        `accuracy` and its `interval` (95%, over faces);
        `accuracy_without_duplicates`, and `accuracy_without_duplicates_same_shares`, which is
        weighted to the classes' shares of all faces: an `Estimate`, or null if no face or every
        face is a duplicate;
        `gap`: training minus validation accuracy, an `Estimate`, or null if not evaluated on both;
        `parameters`, `seconds`, and `splits`, every metric on each split (mean over the seeds; the
        calibration error as the root of the mean square);
        `pairs`: for each two networks, see `compare`;
        `fusions`: by name, see `modalities`;
        `audit`: the requirements of the paper's section 5.1, see `audit`;
        `sentences`: the comparisons in words.
    """
    samples = run.samples.of(run.assessed)
    # Predictions are in the order of the split, `samples` in that of the source.
    first = next(iter(run.networks.values()))[0].predictions[run.assessed]
    duplicate = np.isin(first.rows, samples.rows[samples.copied])
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
            "reliability": _reliability(predictions),
            "accuracy_without_duplicates": without,
            "accuracy_without_duplicates_same_shares": weighted,
            "gap": _gap(run, seeds),
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
        "faces": len(samples.labels),
        "duplicates": int(duplicate.sum()),
        "seeds": list(run.seeds),
        "best": best,
        "networks": networks,
        "pairs": pairs,
        "fusions": fusions,
        "sentences": [_sentence(pair, run.titles, several=several) for pair in pairs],
    }
    result["headline"] = _headline(result, run.titles)
    return result | {"audit": audit(run, result)}


def estimate(metric: str, predictions: Sequence[Predictions]) -> Estimate:
    """A metric with its intervals.

    Args:
        metric: a name in `METRICS`.
        predictions: of each seed, on the same faces.
    """
    chosen = METRICS[metric]
    if chosen.by_face is None:
        squares = [metrics.calibration_squares(p) for p in predictions]
        return statistics.estimate_calibration(squares)
    table = np.stack([chosen.by_face(p) for p in predictions])
    if metric == "accuracy":
        return statistics.estimate_share(table)
    if metric == "macro_f1":
        values = np.array([chosen(p) for p in predictions])
        faces = metrics.faces_of_a_macro_mean(predictions[0].labels)
        return statistics.estimate_share(table, values, faces)
    return statistics.estimate_value(table, (0.0, chosen.highest))


def same_shares(correct: np.ndarray, labels: np.ndarray, kept: np.ndarray) -> Estimate:
    """Accuracy on some of the faces, weighted to the classes' shares of all of them.

    Post-stratification: the recall of each class on the faces that are kept, times the share of the
    class among all faces. A class of which no face is kept is left out of the shares.

    Args:
        correct: float (S, N), for each seed and face.
        labels: int (N,).
        kept: bool (N,), which faces are kept.
    """
    present = np.unique(labels[kept])
    counts = np.array([np.sum(labels == c) for c in present])
    shares = counts / counts.sum()
    own, own_labels = correct[:, kept], labels[kept]
    faces = own.shape[1]
    table, values = np.empty_like(own), np.zeros(len(own))
    for share, c in zip(shares, present, strict=True):
        where = own_labels == c
        recall = own[:, where].mean(1, keepdims=True)
        values += share * recall[:, 0]
        # So that the variance of the mean is the sum over the classes of share^2 variance / faces.
        count = where.sum()
        small = np.sqrt(count / max(count - 1, 1) * (faces - 1) / faces)
        table[:, where] = faces * share / count * (own[:, where] - recall) * small
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


def _by_class(predictions: Sequence[Predictions]) -> Json:
    found = [metrics.by_class(p) for p in predictions]
    result: Json = {}
    for score in found[0]:
        values = np.stack([of[score] for of in found])
        known = ~np.isnan(values)
        result[score] = [
            float(values[known[:, c], c].mean()) if known[:, c].any() else None
            for c in range(metrics.CLASSES)
        ]
    correct = np.stack([p.correct for p in predictions]).astype(np.float64)
    own = [predictions[0].labels == c for c in range(metrics.CLASSES)]
    result["recall_interval"] = [
        statistics.estimate_share(correct[:, where]).interval if where.any() else None
        for where in own
    ]
    return result | {"faces": [int(where.sum()) for where in own]}


def _reliability(predictions: Sequence[Predictions]) -> list[Json]:
    together = Predictions(*(np.concatenate(arrays) for arrays in zip(*predictions, strict=True)))
    found = metrics.reliability(together)
    bins = []
    for decisions, confidence, accuracy in zip(*found, strict=True):
        # Decisions of several seeds about the same faces count as those of one.
        faces = decisions / len(predictions)
        variance = accuracy * (1 - accuracy) / faces
        spread = statistics.Spread(accuracy, 1, 0.0, variance, variance)
        low, high = np.clip(statistics.share_ends(spread, faces)(statistics.POINTWISE, False), 0, 1)
        bins.append(
            {
                "decisions": int(decisions),
                "confidence": float(confidence),
                "accuracy": float(accuracy),
                "interval": (float(low), float(high)),
            }
        )
    return bins


def compare(run: Run) -> tuple[list[Json], Json]:
    """Every two networks on the same faces, each seed with its like; and the fusions.

    All these differences, and those between each fusion and its parts, are looked at together:
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
        (name, part): _gain(found, part) for name, found in fused.items() for part in MODALITIES
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
        name: modalities(found, {part: compared[name, part] for part in MODALITIES})
        for name, found in fused.items()
    }


def _gain(found: Sequence[Modalities], part: str) -> np.ndarray:
    """float64 (S, N), the fusion's correctness minus that of one of its parts."""
    return np.stack(
        [(m.decisions == m.labels) - (m.alone[part] == m.labels).astype(float) for m in found]
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
    subject = " and ".join([*[", ".join(first[:-1])] * (len(first) > 1), first[-1]])
    have = "have" if len(tied) > 1 else "has"
    also = [name for name in best if name not in tied]
    rest = "".join(f", {titles[name]} {of(name)}" for name in also)
    about = (
        f"Means of {len(assessment['seeds'])} seeds; intervals over seeds and the choice of faces."
        if several
        else "One seed: intervals over the choice of faces; what another seed would give, this run "
        "cannot tell."
    )
    return (
        f"{subject} {have} the highest accuracy on the {assessment['faces']} {assessment['split']} "
        f"faces: {of(best[0])}"
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
        what = f"As trained here, {better} recognises more of these faces than {worse}"
    else:
        what = f"As trained here, {better} is not shown to recognise more faces than {worse}"
    return f"{what}: {by} points, {within}."


def modalities(found: Sequence[Modalities], gains: Mapping[str, Compared]) -> Json:
    """What each modality does in a fusion.

    Args:
        found: the fusion, trained from each seed.
        gains: by modality, the fusion compared with the part that reads it.

    Returns:
        `fused`: the fusion's accuracy; `either`: that of an oracle that takes whichever part is
        right; and by modality: `alone`: the accuracy of its part; `gain`: how much the fusion's is
        higher, with `simultaneous`, `p` and `shown` as in `compare`; `shuffled`: that of the fusion
        where this modality comes from another face; `cost`: what the shuffling costs; `changed`:
        the share of the decisions that it changes, and `changed_by_class` (7,). All but the last
        are an `Estimate`.
    """
    labels = np.stack([m.labels for m in found])
    decisions = np.stack([m.decisions for m in found])

    def share(table: np.ndarray) -> Json:
        return dataclasses.asdict(statistics.estimate_share(table.astype(np.float64)))

    fused = decisions == labels
    alone = {name: np.stack([m.alone[name] for m in found]) == labels for name in gains}
    result: Json = {
        "fused": share(fused),
        "either": share(np.any(list(alone.values()), axis=0)),
        "modalities": {},
    }
    for name, gain in gains.items():
        shuffled = np.stack([m.shuffled[name] for m in found])
        right = (shuffled == labels[:, None]).mean(1)
        changed = (shuffled != decisions[:, None]).mean(1)
        result["modalities"][name] = {
            "alone": share(alone[name]),
            "gain": dataclasses.asdict(gain.estimate)
            | {"simultaneous": gain.simultaneous, "p": gain.p, "shown": gain.shown},
            "shuffled": share(right),
            "cost": dataclasses.asdict(statistics.estimate_difference(fused - right, exact=False)),
            "changed": share(changed),
            "changed_by_class": [
                float(changed[labels == c].mean()) if (labels == c).any() else None
                for c in range(len(EMOTIONS))
            ],
        }
    return result


def audit(run: Run, assessment: Json) -> list[Json]:
    """The requirements of the paper's section 5.1, checked on this run.

    Returns:
        For each: `number`, e.g. "functional 1"; `requirement`; `check`, how it is checked; `value`,
        what was found; `met`: True, False, or None where this run cannot tell.
    """
    specs = {name: seeds[0].meta["spec"] for name, seeds in run.networks.items()}
    singles = {name: spec for name, spec in specs.items() if "head" not in spec}
    fusions = {name: spec for name, spec in specs.items() if "head" in spec}
    data = run.config["data"]
    titles = run.titles
    rows: list[Json] = []

    def row(number: str, requirement: str, check: str, value: str, met: bool | None) -> None:
        fields = ("number", "requirement", "check", "value", "met")
        rows.append(dict(zip(fields, (number, requirement, check, value, met), strict=True)))

    def names(of: Iterable[str]) -> str:
        return ", ".join(titles[name] for name in of) or "none"

    inputs = {name: tuple(seeds[0].meta["inputs"]) for name, seeds in run.networks.items()}
    by_input = {
        kind: [name for name, reads in inputs.items() if reads == kind]
        for kind in (("images",), ("landmarks",))
    }
    row(
        "functional 1",
        "A network recognises emotions in face images (NN1).",
        "a trained network reads images alone",
        names(by_input["images",]),
        bool(by_input["images",]),
    )
    row(
        "functional 2",
        "A network recognises emotions from facial landmarks (NN2).",
        "a trained network reads landmarks alone",
        names(by_input["landmarks",]),
        bool(by_input["landmarks",]),
    )
    row(
        "functional 3",
        "A network recognises emotions from both.",
        "a trained network is a fusion of two",
        names(fusions),
        bool(fusions),
    )
    heads = {spec["head"] for spec in fusions.values()}
    row(
        "functional 4",
        "There are two versions of it: from decisions, and from features.",
        "heads of the fusions",
        ", ".join(sorted(heads)) or "none",
        {"decision", "feature"} <= heads,
    )
    drawn = data["source"] != "fer2013"
    by_dlib = data["landmarks"] == "paper"
    row(
        "functional 5",
        "All data is from FER2013, or made from it.",
        "source of the images; how landmarks were found",
        f"{run.title} ({run.identity['fer2013']}); landmarks "
        + ("drawn" if drawn else "by dlib in the images" if by_dlib else f"{data['landmarks']}"),
        False if drawn else (run.is_fer2013 and by_dlib) or None,
    )
    versions = next(iter(run.networks.values()))[0].meta["versions"]
    row(
        "non-functional 1",
        "All networks are built and trained in Python.",
        "packages that trained them",
        f"fermm {versions['fermm']}, JAX {versions['jax']}, Flax {versions['flax']}",
        True,
    )
    count = sum(len(seeds) for seeds in run.networks.values())
    row(
        "non-functional 2",
        "All trained networks are saved.",
        "checkpoints of the last epoch that could be read",
        f"{count} of {len(run.networks) * len(run.seeds)}",
        count == len(run.networks) * len(run.seeds),
    )
    where = f"on {assessment['split']} data"
    # With one seed nothing is known of another network of the kind.
    this, over = ("", "seeds and faces") if len(run.seeds) > 1 else ("As trained here, ", "faces")
    for name in singles:
        accuracy = assessment["networks"][name]["accuracy"]
        row(
            "non-functional 3",
            f"{this}{titles[name]} is at least three times as accurate as chance.",
            f"95% interval over {over} of the accuracy {where} above 3/7 = {points(3 * RANDOM)}%",
            f"{points(accuracy['mean'])}%, 95% interval {interval(accuracy['interval'])}",
            _beyond(accuracy["interval"], 3 * RANDOM),
        )
    for name in fusions:
        parts = assessment["fusions"].get(name, {"modalities": {}})["modalities"]
        gains = {part: of["gain"] for part, of in parts.items()}
        row(
            "non-functional 4",
            f"{this}{titles[name]} is better than both its members.",
            f"simultaneous 95% intervals over {over} of the differences {where} above 0, for both",
            "; ".join(
                f"{points(abs(gain['mean']))} points "
                f"{'above' if gain['mean'] >= 0 else 'below'} {part} alone, "
                f"interval {interval(gain['simultaneous'])}"
                for part, gain in gains.items()
            )
            or "what its parts say is not known",
            _all([_beyond(gain["simultaneous"], 0.0) for gain in gains.values()]),
        )
    for name in run.networks:
        gap = assessment["networks"][name]["gap"]
        row(
            "non-functional 5",
            f"{this}{titles[name]} is not overfitted.",
            "95% interval of training minus validation accuracy at the end, evaluated, over "
            f"{over}, below {points(GAP)} points; its course: figure 15",
            "not evaluated on both"
            if gap is None
            else f"{points(gap['mean'])} points, 95% interval {interval(gap['interval'])}",
            None if gap is None else _beyond([-x for x in reversed(gap["interval"])], -GAP),
        )
    total = sum(network["seconds"] for network in assessment["networks"].values())
    machine = next(iter(run.networks.values()))[0].meta["machine"]
    row(
        "non-functional 6",
        "All networks are trained in less than an hour altogether (on the paper's GPU).",
        "seconds of training and validation, all networks, mean over the seeds",
        f"{total:,.0f} s on {machine['devices']}, {machine['cores']} cores",
        total < HOUR,
    )
    return rows


def _beyond(bounds: Sequence[float], least: float) -> bool | None:
    """Whether an interval lies above a value; None if it contains it."""
    low, high = bounds
    return True if low > least else False if high < least else None


def _all(met: Sequence[bool | None]) -> bool | None:
    """Whether all are met; None if that cannot be told, or there are none."""
    if False in met:
        return False
    return None if None in met or not met else True

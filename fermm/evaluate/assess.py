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
from fermm.evaluate.run import Run, Trained
from fermm.evaluate.statistics import Estimate
from fermm.evaluate.table import interval, points

RANDOM = 1 / len(EMOTIONS)
GAP = 0.03  # of training over validation accuracy, beyond which a network counts as overfitted
HOUR = 3600.0

Json = dict[str, Any]


def assess(run: Run) -> Json:
    """The content of `assessment.json`; shares and accuracies as fractions of 1.

    Returns:
        `split`, `faces`, `copied` (how many of them are pixel by pixel a training face), `seeds`;
        `networks`: by name, for each figure of merit an `Estimate`, `by_class` (mean over the
        seeds), `parameters`, `seconds`, `accuracy_without_copies` (None if no face or every face is
        copied), and `splits`, the mean of every figure of merit on each split;
        `pairs`: for each two networks, see `compare`;
        `fusions`: by name, see `modalities`;
        `audit`: the requirements of the paper's section 5.1, see `audit`;
        `sentences`: the comparisons in words.
    """
    samples = run.samples.of(run.assessed)
    weights = statistics.resample(len(samples.labels))
    # Predictions are in the order of the split, `samples` in that of the source.
    rows = next(iter(run.networks.values()))[0].predictions[run.assessed].rows
    own = ~np.isin(rows, samples.rows[samples.copied])
    # What would be left out, or left over, must be something.
    own_weights = statistics.resample(int(own.sum())) if own.any() and not own.all() else None

    networks: dict[str, Json] = {}
    for name, seeds in run.networks.items():
        predictions = [trained.predictions[run.assessed] for trained in seeds]
        networks[name] = {
            metric: dataclasses.asdict(_estimate(metric, predictions, weights))
            for metric in METRICS
        }
        by_class = [metrics.by_class(p) for p in predictions]
        networks[name] |= {
            "by_class": {k: np.mean([b[k] for b in by_class], 0).tolist() for k in by_class[0]},
            "accuracy_without_copies": None
            if own_weights is None
            else dataclasses.asdict(
                _estimate("accuracy", [p.take(own) for p in predictions], own_weights)
            ),
            "splits": {
                split: {
                    metric: float(np.mean([METRICS[metric](t.predictions[split]) for t in seeds]))
                    for metric in METRICS
                }
                for split in run.splits
            },
            "parameters": seeds[0].meta["parameters"],
            "seconds": float(np.mean([trained.seconds for trained in seeds])),
        }
    pairs = compare(
        {k: [t.predictions[run.assessed] for t in v] for k, v in run.networks.items()},
        weights,
        run.seeds,
    )
    result = {
        "split": run.assessed,
        "faces": len(samples.labels),
        "copied": int(samples.copied.sum()),
        "seeds": list(run.seeds),
        "networks": networks,
        "pairs": pairs,
        "fusions": {
            name: modalities(seeds, weights)
            for name, seeds in run.networks.items()
            if all(trained.modalities for trained in seeds)
        },
        "sentences": [_sentence(pair, run.titles) for pair in pairs],
    }
    return result | {"audit": audit(run, result)}


def _estimate(metric: str, predictions: Sequence[Predictions], weights: np.ndarray) -> Estimate:
    chosen = METRICS[metric]
    samples = np.stack([chosen.samples(p) for p in predictions])
    return statistics.estimate(samples, weights, chosen.statistic, (0.0, chosen.highest))


def compare(
    predictions: Mapping[str, Sequence[Predictions]], weights: np.ndarray, seeds: Sequence[int]
) -> list[Json]:
    """Every two networks on the same faces, each seed with its like.

    Args:
        predictions: for each network, those of each seed.
        weights: see `statistics.resample`.
        seeds: their names.

    Returns:
        For each pair: `better` and `worse`, the names in order of mean accuracy; `difference`, an
        `Estimate`; `shown`, whether its interval lies above 0; `mcnemar`, for each seed the counts
        `only_better`, `only_worse`, the exact `p`, and `p_holm`, corrected over the pairs.
    """
    correct = {k: np.stack([p.correct for p in v]) for k, v in predictions.items()}
    pairs: list[Json] = []
    for one, other in itertools.combinations(correct, 2):
        better, worse = (
            (one, other) if correct[one].mean() >= correct[other].mean() else (other, one)
        )
        difference = statistics.estimate(
            (correct[better].astype(float) - correct[worse])[..., None],
            weights,
            bounds=(-1.0, 1.0),
        )
        tests = [
            statistics.mcnemar(a, b) for a, b in zip(correct[better], correct[worse], strict=True)
        ]
        pairs.append(
            {
                "better": better,
                "worse": worse,
                "difference": dataclasses.asdict(difference),
                "shown": difference.interval[0] > 0,
                "mcnemar": [
                    {"seed": s, "only_better": t.only_first, "only_worse": t.only_second, "p": t.p}
                    for s, t in zip(seeds, tests, strict=True)
                ],
            }
        )
    for i in range(len(seeds)):
        adjusted = statistics.holm([pair["mcnemar"][i]["p"] for pair in pairs])
        for pair, p in zip(pairs, adjusted, strict=True):
            pair["mcnemar"][i]["p_holm"] = p
    return pairs


def _sentence(pair: Json, titles: Mapping[str, str]) -> str:
    better, worse = titles[pair["better"]], titles[pair["worse"]]
    by = points(pair["difference"]["mean"])
    within = f"95% interval {interval(pair['difference']['interval'])}"
    if pair["shown"]:
        return f"{better} is better than {worse} by {by} points, {within}."
    return f"{better} against {worse}: {by} points more, {within}: not shown."


def modalities(seeds: Sequence[Trained], weights: np.ndarray) -> Json:
    """What each modality does in a fusion.

    Args:
        seeds: the fusion, trained from each seed.
        weights: see `statistics.resample`.

    Returns:
        `fused`: the fusion's accuracy; `either`: that of an oracle that takes whichever part is
        right; and by modality: `alone`: the accuracy of its part; `gain`: how much the fusion's is
        higher; `shuffled`: that of the fusion where this modality comes from another face; `cost`:
        what the shuffling costs; `changed`: the share of the decisions that it changes, and
        `changed_by_class` (7,). All but the last are an `Estimate`.
    """
    found = [trained.modalities for trained in seeds]
    labels = np.stack([m.labels for m in found])  # type: ignore[union-attr]
    decisions = np.stack([m.decisions for m in found])  # type: ignore[union-attr]

    def estimate(samples: np.ndarray, lowest: float = 0.0) -> Json:
        samples = samples.astype(np.float64)[..., None]
        return dataclasses.asdict(statistics.estimate(samples, weights, bounds=(lowest, 1.0)))

    fused = decisions == labels
    names = list(found[0].alone)  # type: ignore[union-attr]
    alone = {k: np.stack([m.alone[k] for m in found]) == labels for k in names}  # type: ignore[union-attr]
    result: Json = {
        "fused": estimate(fused),
        "either": estimate(np.any(list(alone.values()), axis=0)),
        "modalities": {},
    }
    for name in names:
        shuffled = np.stack([m.shuffled[name] for m in found])  # type: ignore[union-attr]
        right = (shuffled == labels[:, None]).mean(1)
        changed = (shuffled != decisions[:, None]).mean(1)
        result["modalities"][name] = {
            "alone": estimate(alone[name]),
            "gain": estimate(fused.astype(float) - alone[name], lowest=-1.0),
            "shuffled": estimate(right),
            "cost": estimate(fused - right, lowest=-1.0),
            "changed": estimate(changed),
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
        f"{run.title}; landmarks "
        + ("drawn" if drawn else "by dlib in the images" if by_dlib else f"{data['landmarks']}"),
        False if drawn else by_dlib or None,
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
    for name in singles:
        found = assessment["networks"][name]["accuracy"]
        row(
            "non-functional 3",
            f"{titles[name]} is at least three times as accurate as chance.",
            f"mean accuracy {where}, against 3/7 = {points(3 * RANDOM)}%",
            f"{points(found['mean'])}%, 95% interval {interval(found['interval'])}",
            found["mean"] >= 3 * RANDOM,
        )
    for name in fusions:
        parts = assessment["fusions"].get(name, {"modalities": {}})["modalities"]
        row(
            "non-functional 4",
            f"{titles[name]} is better than both its parts.",
            f"95% interval of the difference {where} above 0, for both",
            "; ".join(
                f"{points(abs(of['gain']['mean']))} points "
                f"{'above' if of['gain']['mean'] >= 0 else 'below'} {part} alone, "
                f"95% interval {interval(of['gain']['interval'])}"
                for part, of in parts.items()
            )
            or "what its parts say is not known",
            all(of["gain"]["interval"][0] > 0 for of in parts.values()) if parts else None,
        )
    for name, seeds in run.networks.items():
        gap = None
        if {"train", "validation"} <= set(run.splits):
            train, validation = (
                [METRICS["accuracy"](t.predictions[s]) for t in seeds]
                for s in ("train", "validation")
            )
            gap = float(np.mean(train) - np.mean(validation))
        row(
            "non-functional 5",
            f"{titles[name]} is not overfitted.",
            f"training minus validation accuracy at the end at most {points(GAP)} points, "
            "evaluated; its course: figure 15",
            "not evaluated on both" if gap is None else f"{points(gap)} points",
            None if gap is None else gap <= GAP,
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

"""What the figures of a run show, in words computed from its numbers.

No caption says more than the intervals allow: where several may be the highest, all are named.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fermm.evaluate import figures, statistics
from fermm.evaluate.run import Run
from fermm.evaluate.text import interval, join, number, points
from fermm.rundir import Predictions

_ALL = 5  # networks, of which each is told of; of more only the best


def leading(assessment: Mapping[str, Any]) -> list[str]:
    """The networks that are told of one by one: all, or of many the one with the best accuracy."""
    networks = assessment["networks"]
    if len(networks) <= _ALL:
        return list(networks)
    return [assessment["best"][0]]


def accuracies(run: Run, assessment: Mapping[str, Any]) -> str:
    """For the figures of accuracies and of differences."""
    several = len(run.seeds) > 1
    text = (
        f"Accuracy on the {assessment['samples']:,} {run.assessed} samples. Points: "
        + (f"mean over {len(run.seeds)} seeds; small marks: each seed" if several else "one seed")
        + "; lines: 95% intervals over "
        + ("seeds and samples" if several else "samples")
        + ("; those of the differences hold for all at once." if assessment["pairs"] else ".")
    )
    pairs = assessment["pairs"]
    if pairs:
        shown = sum(bool(pair["shown"]) for pair in pairs)
        one = len(pairs) == 1
        text += " "
        if shown == len(pairs):
            text += "The difference is shown." if one else f"All {shown} differences are shown."
        elif not shown:
            text += "The difference is not shown" if one else "No difference is shown"
            text += ": the interval contains 0." if one else ": all intervals contain 0."
        else:
            text += f"{shown} of {len(pairs)} differences are shown; the intervals of the others "
            text += "contain 0."
    return text


def validation(run: Run) -> str:
    """For the curves of validation accuracy and loss."""
    parts = []
    for name, seeds in run.networks.items():
        accuracy = np.mean([[row["val_accuracy"] for row in t.history] for t in seeds], 0)
        loss = np.mean([[row["val_loss"] for row in t.history] for t in seeds], 0)
        last, lowest = len(loss), int(loss.argmin()) + 1
        parts.append(
            f"{run.titles[name]} ends at an accuracy of {points(accuracy[-1])}%, its loss is "
            "lowest "
            + (
                f"in the last epoch ({last})"
                if lowest == last
                else f"in epoch {lowest} of {last}, {number(loss[-1] - loss.min(), 3)} below the "
                "last"
            )
        )
    text = "Validation accuracy and loss over the epochs" + _seeds(run)
    return f"{text} {'; '.join(parts)}."


def training(run: Run) -> str:
    """For the curves of training against validation accuracy."""
    parts = []
    for name, seeds in run.networks.items():
        gap = float(
            np.mean([t.history[-1]["accuracy"] - t.history[-1]["val_accuracy"] for t in seeds])
        )
        way = "above" if gap > 0 else "below"
        parts.append(f"{points(abs(gap))} points {way} it for {run.titles[name]}")
    return (
        "Training and validation accuracy over the epochs"
        + _seeds(run)
        + " Training accuracy is the running mean of the epoch, with dropout. In the last epoch it "
        + f"is {', '.join(parts)}."
    )


def _seeds(run: Run) -> str:
    several = len(run.seeds) > 1
    return ": means over the seeds; bands: lowest to highest." if several else "."


def confusion(run: Run, assessment: Mapping[str, Any]) -> str:
    """For the confusion matrices."""
    parts = []
    for name in leading(assessment):
        predictions = [t.predictions[run.assessed] for t in run.networks[name]]
        share = figures.confusion_shares(predictions)
        np.fill_diagonal(share, np.nan)
        if np.isnan(share).all():
            continue
        label, given = np.unravel_index(np.nanargmax(share), share.shape)
        if not share[label, given]:
            continue
        count = int((predictions[0].labels == label).sum())
        taken = np.stack([(p.decisions == given)[p.labels == label] for p in predictions])
        ends = statistics.estimate_share(taken.astype(float)).interval if count > 1 else (0.0, 1.0)
        parts.append(
            f"{run.classes[label]} for {run.classes[given]} by {run.titles[name]} "
            f"({number(share[label, given], 0)}% of {count} samples; {interval(ends, 0)})"
        )
    text = (
        f"Confusion matrices on {run.assessed} data: of the samples with each label, how many "
        "percent were given each class" + (", mean over the seeds." if len(run.seeds) > 1 else ".")
    )
    if parts:
        text += f" Most often mistaken of these samples (95% interval): {', '.join(parts)}."
    return text


def recall(run: Run, assessment: Mapping[str, Any]) -> str:
    """For the recall by class."""
    best = assessment["best"][0]
    found = figures.recalls(assessment["networks"][best])
    there = {run.classes[i]: of for i, of in enumerate(found) if of}
    several = len(run.seeds) > 1
    text = "Recall of each class; lines: 95% intervals over "
    text += "seeds and samples." if several else "samples (Wilson)."
    if figures.recall_gains(run):
        text += " Beside it what each fusion adds to each of its members."
    if len(there) < 2:
        return text
    highest, lowest = extremes(there)
    if set(highest) & set(lowest):
        return f"{text} Which class {run.titles[best]} recognises best, is not shown."

    def words(names: Sequence[str]) -> str:
        value, ends = there[names[0]]
        words = f"{names[0]} ({points(value, 0)}%, {interval(ends, 0)})"
        return words if len(names) == 1 else f"{words}, or {' or '.join(names[1:])},"

    text += f" {run.titles[best]} recognises {words(highest)} best and {words(lowest)} worst"
    text = text.removesuffix(",") + "."
    if len(highest) > 1 or len(lowest) > 1:
        text += " Where several are named, their intervals overlap."
    return text


def extremes(
    found: Mapping[str, tuple[float, Sequence[float]]],
) -> tuple[list[str], list[str]]:
    """Which values may be the highest, and which the lowest.

    Args:
        found: by name, a value and its interval.

    Returns:
        The name with the highest value, then those whose intervals overlap with its, in descending
        order; and likewise the lowest.
    """
    names = sorted(found, key=lambda name: -found[name][0])
    top, bottom = found[names[0]][1], found[names[-1]][1]
    highest = [name for name in names if name == names[0] or found[name][1][1] >= top[0]]
    backwards = names[::-1]
    lowest = [name for name in backwards if name == names[-1] or found[name][1][0] <= bottom[1]]
    return highest, lowest


def reliability(run: Run, assessment: Mapping[str, Any]) -> str:
    """For the reliability curves."""
    networks = assessment["networks"]
    parts = []
    for name in leading(assessment):
        found = confidence_gap([t.predictions[run.assessed] for t in run.networks[name]])
        low, high = found.interval
        value = f"{points(abs(found.mean))} points, interval {interval((low, high))}"
        if low > 0:
            parts.append(f"{run.titles[name]} is more confident than right ({value})")
        elif high < 0:
            parts.append(f"{run.titles[name]} is less confident than right ({value})")
        else:
            parts.append(f"for {run.titles[name]} neither is shown ({value})")
    several = len(run.seeds) > 1
    counts = [bin_["decisions"] for found in networks.values() for bin_ in found["reliability"]]
    each = f"{min(counts):,}" + (f" to {max(counts):,}" if max(counts) > min(counts) else "")
    return (
        "Accuracy by confidence, the probability of the decision; on the dashed line the two are "
        f"the same. Each point stands for {each} decisions"
        + (" of all seeds together" if several else "")
        + "; lines: 95% intervals over "
        + ("seeds and samples" if several else "samples")
        + ". Mean confidence minus accuracy: "
        + f"{'; '.join(parts)}."
    )


def confidence_gap(predictions: Sequence[Predictions]) -> statistics.Estimate:
    """Mean confidence minus accuracy of a network, over its seeds and samples."""
    gaps = np.stack([one.probabilities.max(-1) - one.correct for one in predictions])
    return statistics.estimate_value(gaps.astype(np.float64), (-1.0, 1.0))


def modalities(run: Run, assessment: Mapping[str, Any]) -> str:
    """For what each modality does in each fusion."""
    parts = []
    for name, found in assessment["fusions"].items():
        costs = [
            f"{member} {points(of['cost']['mean'])} points ({interval(of['cost']['interval'])})"
            for member, of in found["members"].items()
        ]
        parts.append(f"Shuffling costs {run.titles[name]}: {join(costs)}")
    return (
        "Accuracy of each fusion, of its members alone, and of the fusion with one member "
        "shuffled, whose inputs come from another sample; and how many decisions that changes. "
        f"{'. '.join(parts)}."
    )


def classes(run: Run) -> str:
    """For the numbers of samples of each class."""
    names = run.classes
    counts = np.bincount(run.samples.labels, minlength=len(names))
    most, least = int(counts.argmax()), int(counts.argmin())
    weights = run.samples.class_weights
    return (
        f"How many samples each class has in each split, and its weight in the loss: from "
        f"{counts[least]:,} ({names[least]}, weight {weights[least]:.3f}) to {counts[most]:,} "
        f"({names[most]}, weight {weights[most]:.3f})."
    )


def all_wrong(run: Run, *, shown: bool = True) -> str:
    """For the samples that every network gets wrong, of which some may be shown."""
    predictions = [t.predictions[run.assessed] for seeds in run.networks.values() for t in seeds]
    wrong = {int(row) for row in predictions[0].rows[~predictions[0].correct]}
    for one in predictions[1:]:
        wrong &= {int(row) for row in one.rows[~one.correct]}
    total = len(predictions[0].rows)
    what = "the network gets" if len(run.networks) == 1 else "every network gets"
    ever = " in every seed" if len(run.seeds) > 1 else ""
    text = (
        f"{len(wrong):,} of the {total:,} {run.assessed} samples ({points(len(wrong) / total)}%) "
    )
    text += f"{what} wrong{ever}."
    if wrong and shown:
        text += (
            " Shown are those to whose label the networks give the least probability, and the "
            "class to which they give the most: difficult samples, and samples whose label may be "
            "questioned."
        )
    return text

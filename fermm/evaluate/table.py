"""The tables of a run, as text, Markdown and for the report. Writes nothing."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fermm.evaluate.metrics import METRICS, VOTE_METRICS
from fermm.evaluate.run import Run
from fermm.evaluate.text import capital, interval, number, p_value, points, spread
from fermm.samples import SPLITS


class Table(NamedTuple):
    """A table; its first column names the rows.

    Attributes:
        caption: one line.
        head: titles of the columns.
        rows: cells, as many in each row as in the head.
        words: whether the cells are words, set to the left, not numbers.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: bool = False

    def text(self) -> str:
        """For a terminal."""
        widths = [max(map(len, column)) for column in zip(self.head, *self.rows, strict=True)]

        def line(cells: Sequence[str]) -> str:
            padded = [cells[0].ljust(widths[0])]
            padded += [c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True)]
            return "  ".join(padded).rstrip()

        return "\n".join([self.caption, *map(line, [self.head, *self.rows])])

    def markdown(self) -> str:
        """For a document."""

        def line(cells: Sequence[str]) -> str:
            return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

        others = "---" if self.words else "---:"
        rule = f"| {' | '.join(['---', *[others] * (len(self.head) - 1)])} |"
        return "\n".join([self.caption, "", line(self.head), rule, *map(line, self.rows)])


def classes(run: Run) -> Table:
    """Samples and weight of each class; published numbers beside them if there are any."""
    samples, reference = run.samples, run.reference
    beside = bool(reference.counts)
    head = ["class", "samples", *SPLITS, "weight"]
    head += [f"{reference.name}: samples", f"{reference.name}: weight"] * beside
    rows = []
    for i, name in enumerate(run.classes):
        own = samples.labels == i
        row = [name, str(own.sum())]
        row += [str((own & (samples.splits == s)).sum()) for s in range(len(SPLITS))]
        row += [f"{samples.class_weights[i]:.3f}"]
        if beside:
            row += [str(reference.counts[i]), f"{reference.weights[i]:.3f}"]
        rows.append(row)
    caption = f"{run.title}: samples of each class and class weights."
    return Table(_cited(run, "table_of_classes", caption), head, rows)


def _cited(run: Run, key: str, caption: str) -> str:
    """The caption, with what a publication calls the table in front."""
    number_of = run.reference.cited.get(key)
    return f"{number_of}. {caption}" if number_of else capital(caption)


def accuracies(run: Run) -> Table:
    """Accuracy of the networks on each split, with published numbers beside if there are any."""
    seeds = len(run.seeds)
    published, name_of_it = run.reference.accuracy, run.reference.name
    given = {split for of in published.values() for split in of}
    head = ["network"]
    for split in run.splits:
        head += [split, name_of_it] if split in given else [split]
    rows = []
    for name, trained in run.networks.items():
        row = [run.titles[name]]
        for split in run.splits:
            row.append(spread([METRICS["accuracy"](t.predictions[split]) for t in trained]))
            if split in given:
                value = published.get(name, {}).get(split)
                row.append("" if value is None else f"{value:.1f}")
        rows.append(row)
    over = f", mean and standard deviation over {seeds} seeds" if seeds > 1 else ", one seed"
    caption = f"Accuracy in percent on {run.title}{over}."
    return Table(_cited(run, "table_of_accuracies", caption), head, rows)


def merits(run: Run, assessment: Mapping[str, Any]) -> Table:
    """All metrics of all networks, with their intervals."""
    several = len(run.seeds) > 1
    head = ["network"]
    for metric in METRICS.values():
        head.append(capital(metric.title) + (" in %" if metric.percent else ""))
    head.append("... if perfectly calibrated, below")
    rows = []
    for network, found in assessment["networks"].items():
        row = [run.titles[network]]
        for name, metric in METRICS.items():
            factor, digits = (100, 1) if metric.percent else (1, 3)
            of = found[name]
            value = number(factor * of["mean"], digits)
            if several:
                value += f" ± {number(factor * of['sd'], digits)}"
            row.append(f"{value} ({interval(of['interval'], digits, factor)})")
        rows.append([*row, points(found["calibration_error"]["calibrated_below"])])
    higher = " and ".join(m.title for m in METRICS.values() if m.higher_is_better)
    over = "seeds and samples" if several else "samples"
    return Table(
        f"All metrics on {run.assessed} data"
        + (
            ": mean (of the calibration error the root mean square) ± standard deviation over "
            f"{len(run.seeds)} seeds"
            if several
            else ""
        )
        + f", in brackets the 95% interval over {over}. Higher is better for {higher}, lower for "
        "the others. The last column is what the calibration error of a perfectly calibrated "
        "network stays below in 95% of cases.",
        head,
        rows,
    )


def differences(run: Run, assessment: Mapping[str, Any]) -> Table:
    """Every two networks on the same samples."""
    several = len(run.seeds) > 1
    titles = run.titles
    # The verdict first: on a telephone what stands last is out of sight.
    head = ["networks", "verdict", "difference", "95% at once for all", "p, corrected"]
    head += ["seeds with McNemar's p < 0.05"] if several else ["McNemar's p", "discordant samples"]
    rows = []
    for pair in assessment["pairs"]:
        tests = pair["mcnemar"]
        row = [f"{titles[pair['better']]} against {titles[pair['worse']]}"]
        row += ["better" if pair["shown"] else "not shown"]
        row += [points(pair["difference"]["mean"]), interval(pair["simultaneous"])]
        row += [p_value(pair["p"])]
        if several:
            row += [f"{sum(test['p_corrected'] < 0.05 for test in tests)} of {len(tests)}"]
        else:
            (test,) = tests
            row += [p_value(test["p_corrected"])]
            row += [f"{test['only_better']} against {test['only_worse']}"]
        rows.append(row)
    over = "seeds and samples" if several else "samples"
    return Table(
        f"Differences of accuracy on {run.assessed} data, in points, on the same samples. "
        f"Intervals over {over} hold for all differences at once, and p is the error rate at which "
        "one would end at 0; McNemar's exact test, "
        + ("for each seed, " if several else "")
        + "is corrected likewise.",
        head,
        rows,
    )


def duplicates(run: Run, assessment: Mapping[str, Any]) -> Table | None:
    """Accuracy with and without samples that are also training samples; None if there are none."""
    rows = []
    for name, found in assessment["networks"].items():
        without = found["accuracy_without_duplicates"]
        weighted = found["accuracy_without_duplicates_same_shares"]
        if without is None:
            return None
        row = [run.titles[name], points(found["accuracy"]["mean"])]
        for of in (without, weighted):
            row += [points(of["mean"]), interval(of["interval"])]
        rows.append(row)
    share = assessment["duplicates"] / assessment["samples"]
    return Table(
        f"Accuracy in percent with and without the {assessment['duplicates']} of the "
        f"{assessment['samples']:,} {run.assessed} samples ({points(share)}%) that are duplicates "
        "of a training sample; the last columns weight the classes as they are in all "
        f"{run.assessed} samples, for duplicates are more frequent in some.",
        [
            "network",
            f"all {run.assessed} samples",
            "without duplicates",
            "95%",
            "the same, classes weighted as in all",
            "95%",
        ],
        rows,
    )


def by_class(run: Run, assessment: Mapping[str, Any], score: str) -> Table:
    """Precision, recall or F1 of each class; a dash where there is nothing to divide by."""
    rows = []
    samples: list[int] = []
    for name, found in assessment["networks"].items():
        values = found["by_class"][score]
        # Only recall is a share of a number of samples that is known before.
        ends = found["by_class"]["recall_interval"] if score == "recall" else [None] * len(values)
        samples = found["by_class"]["samples"]
        rows.append([run.titles[name], *map(_with_interval, values, ends)])
    what = {"precision": "Precision", "recall": "Recall", "f1": "F1"}[score]
    within = ", in brackets the 95% interval" if score == "recall" else ""
    head = [f"{name} ({count})" for name, count in zip(run.classes, samples, strict=True)]
    return Table(
        f"{what} by class on {run.assessed} data in percent{within}. Above: the number of samples.",
        ["network", *head],
        rows,
    )


def _with_interval(value: float | None, ends: Sequence[float] | None) -> str:
    if value is None:
        return "\N{EN DASH}"
    return points(value) if ends is None else f"{points(value)} ({interval(ends)})"


def modalities(run: Run, assessment: Mapping[str, Any]) -> list[Table]:
    """What each member does, a table for each fusion."""
    tables = []
    for name, found in assessment["fusions"].items():
        rows = []
        for member, of in found["members"].items():
            cost, changed = of["cost"], of["changed"]
            rows.append(
                [
                    member,
                    points(of["alone"]["mean"]),
                    points(of["shuffled"]["mean"]),
                    f"{points(cost['mean'])} ({interval(cost['interval'])})",
                    points(changed["mean"]),
                ]
            )
        tables.append(
            Table(
                f"{run.titles[name]}: accuracy {points(found['fused']['mean'])}%; of an oracle "
                f"that takes whichever member is right {points(found['any']['mean'])}%. In "
                f"percent of the {run.assessed} samples; shuffled: the inputs of the member come "
                "from another sample.",
                [
                    "member",
                    "alone",
                    "fusion, shuffled",
                    "lost by it (95%)",
                    "decisions changed by it",
                ],
                rows,
            )
        )
    return tables


def votes(run: Run, assessment: Mapping[str, Any]) -> list[Table]:
    """How the networks agree with the annotators; nothing where nobody voted."""
    people = assessment["annotators"]
    if people is None:
        return []
    networks = {run.titles[n]: found["votes"] for n, found in assessment["networks"].items()}
    over = "seeds and samples" if len(run.seeds) > 1 else "samples"

    def cell(found: Mapping[str, Any] | None, metric: str) -> str:
        if found is None:
            return "\N{EN DASH}"
        factor, digits = (100, 1) if VOTE_METRICS[metric].percent else (1, 3)
        ends = interval(found["interval"], digits, factor)
        return f"{number(factor * found['mean'], digits)} ({ends})"

    head = ["network", "Accuracy against the majority in %", "Cross-entropy", "above the bound"]
    bound = people["entropy"]["mean"]
    rows = [
        [
            name,
            *(cell(found[metric], metric) for metric in VOTE_METRICS),
            number(found["vote_cross_entropy"]["mean"] - bound, 3),
        ]
        for name, found in networks.items()
    ]
    rows.append(
        [
            "annotators",
            cell(people["accuracy"], "majority_accuracy"),
            cell(people["entropy"], "vote_cross_entropy"),
            "",
        ]
    )
    without, total = people["without_majority"], assessment["samples"]
    overall = Table(
        f"Agreement with the annotators on {run.assessed} data, in brackets the 95% interval over "
        f"{over}. The majority is the class with the most votes; {without:,} of the {total:,} "
        "samples, where several classes have as many, are left out of the accuracy. The last row "
        "has how often one annotator votes for the majority, and the mean entropy of the votes, "
        "which no cross-entropy is below.",
        head,
        rows,
    )
    if people["accuracy"] is None:
        return [overall]
    columns = [f"{n} ({k})" for n, k in zip(run.classes, people["samples"], strict=True)]
    by_annotators = map(_with_interval, people["by_class"], people["by_class_interval"])
    of_classes = Table(
        f"Recall of each class by the majority on {run.assessed} data in percent, in brackets the "
        "95% interval. Above: the number of samples. The last row has how often one annotator "
        "votes for the majority.",
        ["network", *columns],
        [
            *(
                [name, *map(_with_interval, found["recall"], found["recall_interval"])]
                for name, found in networks.items()
            ),
            ["annotators", *by_annotators],
        ],
    )
    return [overall, of_classes]


def audit(run: Run, assessment: Mapping[str, Any]) -> Table:
    """The requirements of a publication, and whether the run meets them."""
    words = {True: "met", False: "not met", None: "cannot tell"}
    return Table(
        run.reference.requirements,
        ["number", "requirement", "checked by", "found", "verdict"],
        [
            [row["number"], row["requirement"], row["check"], row["value"], words[row["met"]]]
            for row in assessment["audit"]
        ],
        words=True,
    )


def times(run: Run) -> Table:
    """Parameters and training time of each network."""
    several = len(run.seeds) > 1
    rows = []
    for name, trained in run.networks.items():
        seconds = [t.seconds for t in trained]
        rows.append(
            [
                run.titles[name],
                _model(trained[0].meta["spec"]),
                f"{trained[0].meta['parameters']:,}",
                str(len(trained[0].history)),
                f"{np.mean(seconds):,.1f}",
                *[f"{min(seconds):,.1f} to {max(seconds):,.1f}"] * several,
            ]
        )
    return Table(
        "Trained parameters, and seconds of training and validation"
        + (" (mean and range over seeds)." if several else ", one seed."),
        ["network", "built of", "parameters", "epochs", "seconds", *["range"] * several],
        rows,
    )


def _model(spec: Mapping[str, Any]) -> str:
    """What a network is registered as."""
    return spec["model"] if "model" in spec else f"head {spec['head']}"

"""Tables of a run: tables 1 and 2 of the paper, and more; as text, Markdown and HTML."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fermm.data import splits
from fermm.data.faces import EMOTIONS
from fermm.evaluate import paper
from fermm.evaluate.metrics import METRICS
from fermm.evaluate.run import Run


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


def points(value: float, digits: int = 1) -> str:
    """A share in percent, or a difference in points, with a true minus sign."""
    return number(100 * value, digits)


def number(value: float, digits: int) -> str:
    """With a true minus sign, and none before zero."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if not float(text) else text.replace("-", "\N{MINUS SIGN}")


def spread(values: Sequence[float]) -> str:
    """Mean of shares in percent, and their standard deviation if there are several."""
    mean = points(float(np.mean(values)))
    return mean if len(values) == 1 else f"{mean} ± {points(float(np.std(values, ddof=1)))}"


def interval(bounds: Sequence[float] | None, digits: int = 1, factor: float = 100) -> str:
    """Both ends, of shares in percent by default."""
    if bounds is None:
        return "none"
    return " to ".join(number(factor * bound, digits) for bound in bounds)


def table_1(run: Run) -> Table:
    """Faces and class weight of each emotion, the paper's beside if the faces are FER2013."""
    samples = run.samples
    head = ["emotion", "faces", *splits.NAMES, "weight"]
    head += ["paper: faces", "paper: weight"] * run.is_fer2013
    rows = []
    for i, emotion in enumerate(EMOTIONS):
        own = samples.labels == i
        row = [emotion, str(own.sum())]
        row += [str((own & (samples.splits == s)).sum()) for s in range(len(splits.NAMES))]
        row += [f"{samples.class_weights[i]:.3f}"]
        row += [str(paper.COUNTS[i]), f"{paper.WEIGHTS[i]:.3f}"] * run.is_fer2013
        rows.append(row)
    caption = f"{run.title}: faces of each emotion and class weights."
    return Table(f"Table 1. {caption}" if run.is_fer2013 else _upper(caption), head, rows)


def table_2(run: Run) -> Table:
    """Accuracy of the networks on each split, with the paper's beside if the split is its."""
    seeds = len(run.seeds)
    known = run.papers
    beside = run.has_rows_of_the_paper and any(known.values())
    head = ["network"]
    for split in run.splits:
        head += [split, "paper"] if beside and split != "train" else [split]
    rows = []
    for name, trained in run.networks.items():
        row = [run.titles[name]]
        of_paper = known[name]
        for split in run.splits:
            row.append(spread([METRICS["accuracy"](t.predictions[split]) for t in trained]))
            if beside and split != "train":
                row.append(f"{of_paper.accuracy[split]:.1f}" if of_paper else "")
        rows.append(row)
    over = f", mean and standard deviation over {seeds} seeds" if seeds > 1 else ", one seed"
    caption = f"Accuracy in percent on {run.title}{over}."
    return Table(f"Table 2. {caption}" if beside else caption, head, rows)


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


def merits(run: Run, assessment: Mapping[str, Any]) -> Table:
    """All metrics of all networks, with their intervals."""
    several = len(run.seeds) > 1
    head = ["network"]
    for metric in METRICS.values():
        head.append(_upper(metric.title) + (" in %" if metric.percent else ""))
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
    over = "seeds and faces" if several else "faces"
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
    """Every two networks on the same faces."""
    several = len(run.seeds) > 1
    titles = run.titles
    # The verdict first: on a telephone what stands last is out of sight.
    head = ["networks", "verdict", "difference", "95% at once for all", "p, corrected"]
    head += ["seeds with McNemar's p < 0.05"] if several else ["McNemar's p", "discordant faces"]
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
    over = "seeds and faces" if several else "faces"
    return Table(
        f"Differences of accuracy on {run.assessed} data, in points, on the same faces. Intervals "
        f"over {over} hold for all differences at once, and p is the error rate at which one would "
        "end at 0; McNemar's exact test, "
        + ("for each seed, " if several else "")
        + "is corrected likewise.",
        head,
        rows,
    )


def p_value(p: float) -> str:
    """A p-value such that it is never rounded from one side of 0.05 to the other."""
    if p < 0.001:
        return f"{p:.0e}" if p >= 1e-15 else "< 1e-15"
    text = f"{p:.3f}"
    return text if (float(text) < 0.05) == (p < 0.05) else f"{p:.5f}"


def duplicates(run: Run, assessment: Mapping[str, Any]) -> Table | None:
    """Accuracy with and without faces that are also training faces; None if there are none."""
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
    share = assessment["duplicates"] / assessment["faces"]
    return Table(
        f"Accuracy in percent with and without the {assessment['duplicates']} of the "
        f"{assessment['faces']} {run.assessed} faces ({points(share)}%) that are pixel by pixel "
        "the same as a training face; the last columns weight the emotions as they are in all "
        f"{run.assessed} faces, for duplicates are more frequent in some.",
        [
            "network",
            f"all {run.assessed} faces",
            "without duplicates",
            "95%",
            "the same, emotions weighted as in all",
            "95%",
        ],
        rows,
    )


def by_class(run: Run, assessment: Mapping[str, Any], score: str) -> Table:
    """Precision, recall or F1 of each emotion; a dash where there is nothing to divide by."""
    rows = []
    faces: list[int] = []
    for name, found in assessment["networks"].items():
        values = found["by_class"][score]
        # Only recall is a share of a number of faces that is known before.
        ends = found["by_class"]["recall_interval"] if score == "recall" else [None] * len(values)
        faces = found["by_class"]["faces"]
        rows.append([run.titles[name], *map(_with_interval, values, ends)])
    what = {"precision": "Precision", "recall": "Recall", "f1": "F1"}[score]
    within = ", in brackets the 95% interval" if score == "recall" else ""
    head = [f"{name} ({count})" for name, count in zip(EMOTIONS, faces, strict=True)]
    return Table(
        f"{what} by emotion on {run.assessed} data in percent{within}. Above: the number of faces.",
        ["network", *head],
        rows,
    )


def _with_interval(value: float | None, ends: Sequence[float] | None) -> str:
    if value is None:
        return "\N{EN DASH}"
    return points(value) if ends is None else f"{points(value)} ({interval(ends)})"


def modalities(run: Run, assessment: Mapping[str, Any]) -> list[Table]:
    """What each modality does, a table for each fusion."""
    tables = []
    for name, found in assessment["fusions"].items():
        rows = []
        for part, of in found["modalities"].items():
            cost, changed = of["cost"], of["changed"]
            rows.append(
                [
                    part,
                    points(of["alone"]["mean"]),
                    points(of["shuffled"]["mean"]),
                    f"{points(cost['mean'])} ({interval(cost['interval'])})",
                    points(changed["mean"]),
                ]
            )
        tables.append(
            Table(
                f"{run.titles[name]}: accuracy {points(found['fused']['mean'])}%; of an oracle "
                f"that takes whichever member is right {points(found['either']['mean'])}%. In "
                f"percent of the {run.assessed} faces; shuffled: the modality comes from another "
                "face.",
                [
                    "modality",
                    "alone",
                    "fusion, shuffled",
                    "lost by it (95%)",
                    "decisions changed by it",
                ],
                rows,
            )
        )
    return tables


def audit(assessment: Mapping[str, Any]) -> Table:
    """The requirements of the paper's section 5.1."""
    words = {True: "met", False: "not met", None: "cannot tell"}
    return Table(
        "Audit of the paper's requirements (section 5.1).",
        ["number", "requirement", "checked by", "found", "verdict"],
        [
            [row["number"], row["requirement"], row["check"], row["value"], words[row["met"]]]
            for row in assessment["audit"]
        ],
        words=True,
    )


def times(run: Run) -> Table:
    """Parameters and training time of each network."""
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
                f"{min(seconds):,.1f} to {max(seconds):,.1f}",
            ]
        )
    return Table(
        "Trained parameters, and seconds of training and validation (mean and range over seeds).",
        ["network", "built of", "parameters", "epochs", "seconds", "range"],
        rows,
    )


def _model(spec: Mapping[str, Any]) -> str:
    """What a network is registered as."""
    return spec["model"] if "model" in spec else f"head {spec['head']}"

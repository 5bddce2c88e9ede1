"""The figures of what a run measured, drawn and not written.

A figure of the report with several panels is several figures here, each as wide as a telephone
shows without scrolling. The report lays them out beside or below each other.
"""

import functools
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from fermm.evaluate import statistics
from fermm.evaluate.metrics import SAMPLES_IN_A_BIN, confusion_matrix
from fermm.evaluate.run import Run
from fermm.evaluate.text import count, interval, points
from fermm.rundir import Predictions

History = Sequence[Mapping[str, float]]
Draw = Callable[[], Figure]

# Colours that colour-blind readers tell apart (Okabe & Ito, https://jfly.uni-koeln.de/color/), each
# with a line style and a marker of its own for grey prints.
COLOURS = ("#0072B2", "#009E73", "#D55E00", "#000000", "#CC79A7", "#E69F00")
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P")
RC: dict[Any, Any] = {
    "font.size": 9,
    # The one that matplotlib brings, which is its first choice: the others are looked up each time.
    "font.sans-serif": ["DejaVu Sans"],
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.hashsalt": "fermm",
}
WIDTH = 3.7
"""Inches: of a panel."""
FEW_DECISIONS = SAMPLES_IN_A_BIN
"""Points of a reliability curve that stand for fewer are hollow, and no line leads to them."""


def of_run(run: Run, assessment: Mapping[str, Any]) -> dict[str, Draw]:
    """What draws the figures of a run, but for those that show its samples.

    Args:
        run: the run.
        assessment: its assessment, see `fermm.evaluate.assess`.

    Returns:
        By the names of their files.
    """
    titles = run.titles
    histories = {name: [t.history for t in seeds] for name, seeds in run.networks.items()}
    jobs: dict[str, Draw] = {
        "accuracies": functools.partial(accuracies, run, assessment),
    }
    if assessment["pairs"]:
        jobs["differences"] = functools.partial(differences, run, assessment)
    for column in ("accuracy", "loss"):
        jobs[f"validation_{column}"] = functools.partial(validation, histories, titles, column)
    jobs["recall_by_class"] = functools.partial(recall, run, assessment)
    if recall_gains(run):
        jobs["recall_gains"] = functools.partial(recall_of_fusions, run)
    for name, seeds in run.networks.items():
        predictions = [t.predictions[run.assessed] for t in seeds]
        title, found = titles[name], assessment["networks"][name]
        jobs[f"training_{name}"] = functools.partial(training, histories[name], title)
        jobs[f"confusion_matrix_{name}"] = functools.partial(
            confusion, predictions, run.classes, title
        )
        jobs[f"reliability_{name}"] = functools.partial(reliability, found["reliability"], title)
    for name, found in assessment["fusions"].items():
        jobs[f"modalities_{name}"] = functools.partial(modalities, found, titles[name])
        jobs[f"changed_{name}"] = functools.partial(changed, found, run.classes, titles[name])
    return jobs


def style(index: int) -> dict[str, Any]:
    """Colour and marker of the network that stands at `index` in its run."""
    # Another pair of the two when the colours begin again.
    marker = MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]
    return {"color": COLOURS[index % len(COLOURS)], "marker": marker}


def accuracies(run: Run, assessment: Mapping[str, Any]) -> Figure:
    """The accuracy of each network with its interval, and beside it what was published."""
    rows = [(run.titles[name], found["accuracy"]) for name, found in assessment["networks"].items()]
    figure, axes = _panel(0.75 + 0.4 * len(rows))
    forest(axes, rows)
    published = [run.reference.accuracy.get(name, {}).get(run.assessed) for name in run.networks]
    places = [y for y, value in enumerate(published) if value is not None]
    if places:
        axes.plot(
            [value for value in published if value is not None],
            places,
            ls="",
            marker="D",
            ms=5,
            mfc="none",
            color=COLOURS[2],
            label=f"the {run.reference.name}, one run",
        )
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.42 / axes_height(len(rows))))
    axes.set_xlabel(f"accuracy on {run.assessed} data in %")
    return figure


def axes_height(rows: int) -> float:
    """Inches: about how high the axes of `forest` with so many rows are."""
    return 0.4 * rows


def differences(run: Run, assessment: Mapping[str, Any]) -> Figure:
    """The difference of accuracy of every two networks; its intervals hold for all at once.

    Args:
        run: the run.
        assessment: its assessment, with at least one pair.
    """
    titles = run.titles
    rows = [
        (
            f"{titles[pair['better']]}\nminus {titles[pair['worse']]}",
            pair["difference"] | {"interval": pair["simultaneous"]},
        )
        for pair in assessment["pairs"]
    ]
    figure, axes = _panel(0.6 + 0.52 * len(rows))
    forest(axes, rows, height=0.52)
    axes.axvline(0, color="black", lw=0.8)
    axes.set_xlabel(f"difference of accuracy on {run.assessed} data in points")
    return figure


def forest(
    axes: Any,
    rows: Sequence[tuple[str, Mapping[str, Any]]],
    *,
    height: float = 0.4,
    colours: Sequence[str] = (),
) -> None:
    """Draws estimates below each other: a point, a line from end to end of the interval, in words.

    Args:
        axes: where.
        rows: label and `fermm.evaluate.statistics.Estimate` (as a mapping) of each.
        height: inches, of a row, for the place of the words.
        colours: one for each row, if not all the same.
    """
    for y, (label, found) in enumerate(rows):
        colour = colours[y] if colours else COLOURS[0]
        low, high = (100 * x for x in found["interval"])
        if len(found["seeds"]) > 1:
            seeds = 100 * np.asarray(found["seeds"])
            axes.plot(seeds, np.full(len(seeds), y), "|", color=COLOURS[2], ms=7, mew=1)
        axes.plot([low, high], [y, y], color=colour, lw=1.8)
        axes.plot(100 * found["mean"], y, "o", color=colour, ms=5)
        numbers = f"{points(found['mean'])} ({interval(found['interval'])})"
        words: dict[str, Any] = {
            "xycoords": axes.get_yaxis_transform(),
            "textcoords": "offset points",
            "va": "bottom",
            "size": 8.5,
            "linespacing": 1.05,
            "bbox": {"fc": "white", "ec": "none", "pad": 0.5, "alpha": 0.85},
        }
        axes.annotate(_shorten(label, 27 if "\n" not in label else 34), (0, y), (0, 5), **words)
        axes.annotate(numbers, (1, y), (0, 5), ha="right", **words)
    axes.set_yticks([])
    axes.set_ylim(len(rows) - 0.6, -0.35 / height - 0.12)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", alpha=0.3)
    axes.margins(x=0.04)


def _shorten(text: str, most: int) -> str:
    lines = text.split("\n")
    return "\n".join(x if len(x) <= most else f"{x[: most - 1]}…" for x in lines)


def validation(
    histories: Mapping[str, Sequence[History]], titles: Mapping[str, str], column: str
) -> Figure:
    """Validation accuracy or loss of all networks by epoch.

    Args:
        histories: for each network, that of each seed; curves are means over the seeds, and
            bands, where there are several, reach from the lowest to the highest.
        titles: of the networks.
        column: "accuracy" or "loss".
    """
    figure, axes = _panel(2.6 + 0.2 * math.ceil(len(histories) / 2))
    for i, (network, seeds) in enumerate(histories.items()):
        line = LINES[i % len(LINES)]
        _curve(axes, seeds, f"val_{column}", titles[network], COLOURS[i % len(COLOURS)], line)
    _label_epochs(axes, "validation loss" if column == "loss" else "validation accuracy in %")
    _legend(figure, axes)
    return figure


def training(histories: Sequence[History], title: str) -> Figure:
    """Training against validation accuracy by epoch.

    Args:
        histories: of a network, that of each seed, see `validation`.
        title: of the network.
    """
    figure, axes = _panel(2.6)
    _curve(axes, histories, "accuracy", "training", COLOURS[0], LINES[0])
    _curve(axes, histories, "val_accuracy", "validation", COLOURS[2], LINES[1])
    axes.set_title(_shorten(title, 40))
    _label_epochs(axes, "accuracy in %")
    _legend(figure, axes)
    return figure


def _curve(
    axes: Any, seeds: Sequence[History], column: str, label: str, colour: str, line: Any
) -> None:
    factor = 100 if column.endswith("accuracy") else 1
    values = factor * np.array([[row[column] for row in history] for history in seeds])
    epochs = np.arange(1, values.shape[1] + 1)
    # One epoch is a point.
    marker = "o" if len(epochs) == 1 else None
    axes.plot(epochs, values.mean(0), color=colour, linestyle=line, label=label, marker=marker)
    if len(values) > 1:
        axes.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.15, lw=0)


def _label_epochs(axes: Any, label: str) -> None:
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)


def confusion(predictions: Sequence[Predictions], classes: Sequence[str], title: str) -> Figure:
    """The confusion matrix of a network in percent of the row.

    Args:
        predictions: of a network, those of each seed; the matrix is the mean over the seeds.
        classes: the names of the classes.
        title: of the network.
    """
    share = confusion_shares(predictions)
    counts = np.bincount(predictions[0].labels, minlength=len(classes))
    side = max(WIDTH, 1.35 + 0.3 * len(classes))
    figure, axes = _panel(side, side)
    axes.imshow(np.nan_to_num(share), cmap="Blues", vmin=0, vmax=100)
    for (y, x), value in np.ndenumerate(share):
        text = "\N{EN DASH}" if np.isnan(value) else f"{value:.0f}"
        colour = "white" if value > 55 else "black"
        axes.text(x, y, text, ha="center", va="center", color=colour, fontsize=8.5)
    axes.set_title(_shorten(title, 40))
    names = [_shorten(name, 16) for name in classes]
    axes.set_xticks(range(len(classes)), names, rotation=45, ha="right")
    labels = [f"{name} ({count})" for name, count in zip(names, counts, strict=True)]
    axes.set_yticks(range(len(classes)), labels)
    axes.set_xlabel("decision")
    axes.set_ylabel("label (samples)")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def confusion_shares(predictions: Sequence[Predictions]) -> np.ndarray:
    """The confusion matrix in percent of the row, mean over the seeds.

    Args:
        predictions: of a network, those of each seed.

    Returns:
        float64 (K, K), NaN in the row of a class that has no sample.
    """
    shares = []
    for one in predictions:
        counts = confusion_matrix(one)
        total = counts.sum(1, keepdims=True)
        shares.append(np.where(total > 0, 100 * counts / np.maximum(total, 1), np.nan))
    return np.mean(shares, axis=0)


def reliability(bins: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Accuracy by confidence, with intervals.

    Args:
        bins: of a network, `reliability` in `fermm.evaluate.assess.assess`.
        title: of the network.
    """
    figure, axes = _panel(3.4)
    axes.plot([0, 100], [0, 100], color="0.5", lw=0.8, ls="--", label="confidence = accuracy")
    x = 100 * np.array([found["confidence"] for found in bins])
    mean = 100 * np.array([found["accuracy"] for found in bins])
    low, high = 100 * np.array([found["interval"] for found in bins]).T
    spread = np.maximum(0, [mean - low, high - mean])
    many = np.array([found["decisions"] >= FEW_DECISIONS for found in bins])
    parts: list[tuple[np.ndarray, str, dict[str, Any]]] = [
        (many, "accuracy, 95% interval", {"fmt": "o-"}),
        (~many, f"the same of fewer than {FEW_DECISIONS} decisions", {"fmt": "o", "mfc": "white"}),
    ]
    for these, label, own in parts:
        if these.any():
            axes.errorbar(
                x[these],
                mean[these],
                spread[:, these],
                ms=4,
                lw=1.3,
                elinewidth=1,
                color=COLOURS[0],
                label=label,
                **own,
            )
    axes.set_title(_shorten(title, 40))
    axes.set(xlim=(0, 100), ylim=(0, 100))
    axes.set_xlabel("confidence in %")
    axes.set_ylabel("accuracy in %")
    _legend(figure, axes, columns=1)
    return figure


Values = list[tuple[float, Sequence[float]] | None]
"""For each class a value and its interval, None where there is none."""


def recall(run: Run, assessment: Mapping[str, Any]) -> Figure:
    """The recall of each class by every network, with intervals."""
    shown = {run.titles[name]: recalls(found) for name, found in assessment["networks"].items()}
    figure, axes = _by_class(run, shown)
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"recall on {run.assessed} data in %")
    _legend(figure, axes)
    return figure


def recalls(found: Mapping[str, Any]) -> Values:
    """The recall of each class with its interval, from the assessment of a network."""
    by_class = found["by_class"]
    return [
        None if value is None else (value, ends)
        for value, ends in zip(by_class["recall"], by_class["recall_interval"], strict=True)
    ]


def recall_gains(run: Run) -> dict[str, tuple[str, str]]:
    """What is compared by class: each fusion with each network of the run that is its member.

    Returns:
        By label, the names of the fusion and of the member.
    """
    gains = {}
    for name, seeds in run.networks.items():
        for member, spec in seeds[0].members.items():
            same = [other for other, own in run.networks.items() if own[0].meta["spec"] == spec]
            # Of several with the same layers, the one that is called as the fusion calls it.
            network = member if member in same else next(iter(same), None)
            if network:
                gains[f"{run.titles[name]} minus {run.titles[network]}"] = (name, network)
    return gains


def recall_of_fusions(run: Run) -> Figure:
    """For each class the recall of each fusion minus that of each member, see `recall_gains`."""
    labels = next(iter(run.networks.values()))[0].predictions[run.assessed].labels
    shown: dict[str, Values] = {}
    for label, pair in recall_gains(run).items():
        fusion, member = (
            np.stack([t.predictions[run.assessed].correct for t in run.networks[name]])
            for name in pair
        )
        difference = fusion.astype(float) - member
        found: Values = []
        for label_of_class in range(len(run.classes)):
            own = difference[:, labels == label_of_class]
            if own.shape[1] < 2:
                found.append(None)
                continue
            estimate = statistics.estimate_difference(own)
            found.append((estimate.mean, estimate.interval))
        shown[label] = found
    figure, axes = _by_class(run, shown)
    axes.axvline(0, color="black", lw=0.8)
    axes.set_xlabel(f"difference of recall on {run.assessed} data in points")
    _legend(figure, axes, columns=1)
    return figure


def _by_class(run: Run, shown: Mapping[str, Values]) -> tuple[Figure, Any]:
    """Points with intervals, classes from top to bottom; all networks of one close together."""
    labels = run.samples.of(run.assessed).labels
    counts = np.bincount(labels, minlength=len(run.classes))
    figure, axes = _panel(max(4.2, 0.8 + len(counts) * (0.2 + 0.14 * len(shown))))
    y = np.arange(len(counts))
    offsets = np.linspace(-0.3, 0.3, len(shown)) if len(shown) > 1 else [0.0]
    for i, ((name, classes), offset) in enumerate(zip(shown.items(), offsets, strict=True)):
        there = [(j, *found) for j, found in enumerate(classes) if found]
        if not there:
            continue
        places = np.array([j for j, *_ in there])
        mean = 100 * np.array([value for _, value, _ in there])
        low, high = 100 * np.array([ends for *_, ends in there]).T
        spread = np.maximum(0, [mean - low, high - mean])
        own = style(i)
        axes.errorbar(mean, y[places] + offset, xerr=spread, fmt=own["marker"], ms=4.5, lw=1,
                      color=own["color"], label=_shorten(name, 56))  # fmt: skip
    names = [_shorten(name, 16) for name in run.classes]
    ticks = [f"{name}\n{count(n, 'sample')}" for name, n in zip(names, counts, strict=True)]
    axes.set_yticks(y, ticks)
    axes.set_ylim(len(y) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    axes.tick_params(axis="y", length=0)
    for edge in y[:-1] + 0.5:
        axes.axhline(edge, color="0.9", lw=0.8)
    return figure, axes


def modalities(found: Mapping[str, Any], title: str) -> Figure:
    """The accuracy of a fusion, of its members, and with one member shuffled.

    Args:
        found: of the fusion, see `fermm.evaluate.assess.modalities`.
        title: of the fusion.
    """
    members = found["members"]
    rows = [(f"{name} alone", of["alone"]) for name, of in members.items()]
    rows += [("fusion", found["fused"])]
    rows += [(f"fusion, {name} shuffled", of["shuffled"]) for name, of in members.items()]
    some = "either" if len(members) == 2 else "any"
    rows += [(f"{some} member is right", found["any"])] * (len(members) > 1)
    figure, axes = _panel(0.75 + 0.4 * len(rows))
    forest(axes, rows)
    axes.set_title(_shorten(title, 40))
    axes.set_xlabel("accuracy in %")
    return figure


def changed(found: Mapping[str, Any], classes: Sequence[str], title: str) -> Figure:
    """For each class, how many decisions of a fusion change when a member is shuffled.

    Args:
        found: of the fusion, see `fermm.evaluate.assess.modalities`.
        classes: the names of the classes.
        title: of the fusion.
    """
    members = found["members"]
    figure, axes = _panel(max(3.2, 0.9 + len(classes) * (0.12 + 0.08 * len(members))))
    y = np.arange(len(classes))
    height = 0.8 / len(members)
    highest = 1.0
    for i, (name, of) in enumerate(members.items()):
        share = [np.nan if v is None else 100 * v for v in of["changed_by_class"]]
        highest = max(highest, *(x for x in share if not np.isnan(x)))
        axes.barh(
            y + (i - (len(members) - 1) / 2) * height,
            share,
            height,
            color=COLOURS[(0, 5, 1, 4)[i % 4]],
            hatch=("", "///", "...", "xx")[i % 4],
            edgecolor="white",
            label=f"{name} shuffled",
        )
    axes.set_xlim(0, min(100, 1.05 * highest))
    axes.set_yticks(y, [_shorten(name, 16) for name in classes])
    axes.invert_yaxis()
    axes.set_xlabel("decisions that change, in %")
    axes.grid(axis="x", alpha=0.3)
    axes.set_title(_shorten(title, 40))
    _legend(figure, axes)
    return figure


def accuracies_of_runs(
    rows: Sequence[tuple[str, Mapping[str, Any]]], title: str, label: str
) -> Figure:
    """The accuracy of a network in each of several runs, with intervals.

    Args:
        rows: name and estimate of each run, see `forest`.
        title: of the network.
        label: of the axis.
    """
    figure, axes = _panel(0.95 + 0.4 * len(rows))
    forest(axes, rows)
    axes.set_title(_shorten(title, 40))
    axes.set_xlabel(label)
    return figure


def accuracies_over(
    values: Sequence[float],
    networks: Mapping[str, Sequence[Mapping[str, Any] | None]],
    field: str,
    label: str,
) -> Figure:
    """The accuracy of networks over a field of the config that the runs differ in.

    Args:
        values: of the field, one for each run, in ascending order.
        networks: by title, the estimate of each run, None where a run has no such network.
        field: its path.
        label: of the other axis.
    """
    places = np.asarray(values, float)
    logarithmic = places.min() > 0 and places.max() / places.min() >= 8
    figure, axes = _panel(3.0 + 0.2 * math.ceil(len(networks) / 2))
    for i, (title, estimates) in enumerate(networks.items()):
        there = [j for j, found in enumerate(estimates) if found]
        mean = np.array([100 * estimates[j]["mean"] for j in there])  # type: ignore[index]
        ends = 100 * np.array([estimates[j]["interval"] for j in there]).T  # type: ignore[index]
        # Beside each other, so that intervals of networks at one value can be told apart.
        shift = (i - (len(networks) - 1) / 2) * 0.012
        if logarithmic:
            x = places[there] * (places.max() / places.min()) ** shift
        else:
            x = places[there] + shift * (np.ptp(places) or 1)
        own = style(i)
        axes.errorbar(
            x,
            mean,
            np.maximum(0, [mean - ends[0], ends[1] - mean]),
            fmt=f"{own['marker']}-",
            ms=4.5,
            lw=1,
            color=own["color"],
            label=_shorten(title, 26),
        )
    if logarithmic:
        axes.set_xscale("log")
    if len(values) <= 8:
        axes.set_xticks(places, [f"{value:g}" for value in values])
        axes.minorticks_off()
    axes.set_xlabel(field)
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    _legend(figure, axes)
    return figure


def _panel(height: float, width: float = WIDTH) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _legend(figure: Figure, axes: Any, columns: int = 2) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if max(map(len, labels)) > 24:
        columns = 1
    figure.legend(handles, labels, loc="outside lower left", ncols=columns)


def render(draw: Draw) -> dict[str, bytes]:
    """Draws a figure, in the style of all figures.

    `Figure.savefig` draws everything twice for each file, for options that are not used here.

    Returns:
        By the suffix of its file, ".svg" and ".png" (200 pixels an inch), the content.
    """
    with mpl.rc_context(RC):
        figure = draw()
        engine = figure.get_layout_engine()
        if engine is not None:
            engine.execute(figure)
            figure.set_layout_engine("none")  # else it would be laid out again for each file
        svg, png = io.BytesIO(), io.BytesIO()
        FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None})
        figure.dpi = 200
        # A little larger than zlib's own level makes it, in two thirds of the time.
        FigureCanvasAgg(figure).print_png(png, pil_kwargs={"compress_level": 4})
    return {".svg": svg.getvalue(), ".png": png.getvalue()}

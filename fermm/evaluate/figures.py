"""Figures of a run, as SVG and PNG: what it measured (paper, figures 11 to 13 and 15, and more).

A figure with several panels is several files, each as wide as a telephone shows without scrolling.
The report lays them out beside or below each other.
"""

import functools
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from fermm.data.faces import EMOTIONS
from fermm.errors import printable
from fermm.evaluate import statistics, table
from fermm.evaluate.metrics import Predictions, confusion_matrix
from fermm.evaluate.run import Run
from fermm.models.specs import MODALITIES
from fermm.paths import make_directory, whole

History = Sequence[Mapping[str, float]]

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


def save_all(run: Run, assessment: Mapping[str, Any]) -> dict[str, str]:
    """Writes all of this module's figures of a run into its `figures/`.

    Args:
        run: the run.
        assessment: its assessment, see `fermm.evaluate.assess`.

    Returns:
        See `draw`.
    """
    directory = run.directory / "figures"
    make_directory(directory)
    histories = {name: [t.history for t in seeds] for name, seeds in run.networks.items()}
    predictions = {
        name: [t.predictions[run.assessed] for t in seeds] for name, seeds in run.networks.items()
    }
    jobs: dict[str, Callable[[Path], None]] = {
        "accuracies": functools.partial(save_accuracies, run=run, assessment=assessment),
    }
    if assessment["pairs"]:
        jobs["differences"] = functools.partial(save_differences, run=run, assessment=assessment)
    for column in ("accuracy", "loss"):
        jobs[f"validation_{column}"] = functools.partial(
            save_validation, histories=histories, titles=run.titles, column=column
        )
    jobs["recall_by_class"] = functools.partial(save_recall, run=run, assessment=assessment)
    if recall_gains(run):
        jobs["recall_gains"] = functools.partial(save_recall_gains, run=run)
    for name, seeds in predictions.items():
        title = run.titles[name]
        jobs[f"training_{name}"] = functools.partial(
            save_training, histories=histories[name], title=title
        )
        jobs[f"confusion_matrix_{name}"] = functools.partial(
            save_confusion_matrix, predictions=seeds, title=title
        )
        jobs[f"reliability_{name}"] = functools.partial(
            save_reliability, bins=assessment["networks"][name]["reliability"], title=title
        )
    for name, found in assessment["fusions"].items():
        title = run.titles[name]
        jobs[f"modalities_{name}"] = functools.partial(save_modalities, found=found, title=title)
        jobs[f"changed_{name}"] = functools.partial(save_changed, found=found, title=title)
    return draw(directory, jobs)


def draw(
    directory: Path, jobs: Mapping[str, Callable[[Path], None]], *, keep: bool = False
) -> dict[str, str]:
    """Draws figures one after the other; one that cannot be drawn does not stop the others.

    Args:
        directory: where.
        jobs: by name of the figure, what draws it; called with the path of its files without
            their suffix.
        keep: whether files of a figure that failed stay as an earlier call wrote them. Else they
            are removed, for they would show something else than the rest of the report.

    Returns:
        For each figure that was not drawn, why. Each is named in the terminal as well.
    """
    failed = {}
    for name, job in jobs.items():
        stem = directory / name
        try:
            with mpl.rc_context(RC):
                job(stem)
        except Exception as error:  # whatever matplotlib, JAX or a network of the user's raises
            text = (str(error).splitlines() or [""])[0][:200]
            failed[name] = printable(f"{type(error).__name__}: {text}" if text else repr(error))
            print(f"figure {name}: not drawn ({failed[name]}); all else is written", flush=True)
            for suffix in (".svg", ".png"):
                file = stem.with_name(f"{name}{suffix}")
                if file.is_file() and not keep:
                    file.unlink()
    return failed


def style(index: int) -> dict[str, Any]:
    """Colour and marker of the network that stands at `index` in its run."""
    # Another pair of the two when the colours begin again.
    marker = MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]
    return {"color": COLOURS[index % len(COLOURS)], "marker": marker}


def save_accuracies(stem: Path, run: Run, assessment: Mapping[str, Any]) -> None:
    """Draws the accuracy of each network with its interval.

    Args:
        stem: path of the files, without suffix.
        run: the run.
        assessment: its assessment.
    """
    rows = [(run.titles[name], found["accuracy"]) for name, found in assessment["networks"].items()]
    figure, axes = _panel(0.75 + 0.4 * len(rows))
    forest(axes, rows)
    if run.has_rows_of_the_paper:
        known = [known and known.accuracy.get(run.assessed) for known in run.papers.values()]
        places = [y for y, value in enumerate(known) if value]
        if places:
            values = [value for value in known if value]
            axes.plot(values, places, ls="", marker="D", ms=5, mfc="none", color=COLOURS[2],
                      label="the paper, one run")  # fmt: skip
            axes.legend(loc="upper left", bbox_to_anchor=(0, -0.42 / axes_height(len(rows))))
    axes.set_xlabel(f"accuracy on {run.assessed} data in %")
    save(figure, stem)


def axes_height(rows: int) -> float:
    """Inches: about how high the axes of `forest` with so many rows are."""
    return 0.4 * rows


def save_differences(stem: Path, run: Run, assessment: Mapping[str, Any]) -> None:
    """Draws the difference of accuracy of every two networks; intervals hold for all at once.

    Args:
        stem: path of the files, without suffix.
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
    save(figure, stem)


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
        numbers = f"{table.points(found['mean'])} ({table.interval(found['interval'])})"
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


def save_validation(
    stem: Path,
    histories: Mapping[str, Sequence[History]],
    titles: Mapping[str, str],
    column: str,
) -> None:
    """Draws validation accuracy or loss of all networks by epoch.

    Args:
        stem: path of the files, without suffix.
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
    save(figure, stem)


def save_training(stem: Path, histories: Sequence[History], title: str) -> None:
    """Draws training against validation accuracy by epoch (paper, figure 15).

    Args:
        stem: path of the files, without suffix.
        histories: of a network, that of each seed, see `save_validation`.
        title: of the network.
    """
    figure, axes = _panel(2.6)
    _curve(axes, histories, "accuracy", "training", COLOURS[0], LINES[0])
    _curve(axes, histories, "val_accuracy", "validation", COLOURS[2], LINES[1])
    axes.set_title(_shorten(title, 40))
    _label_epochs(axes, "accuracy in %")
    _legend(figure, axes)
    save(figure, stem)


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


def save_confusion_matrix(stem: Path, predictions: Sequence[Predictions], title: str) -> None:
    """Draws the confusion matrix of a network in percent of the row (paper, figure 13).

    Args:
        stem: path of the files, without suffix.
        predictions: of a network, those of each seed; the matrix is the mean over the seeds.
        title: of the network.
    """
    share = confusion_shares(predictions)
    counts = np.bincount(predictions[0].labels, minlength=len(EMOTIONS))
    figure, axes = _panel(3.7)
    axes.imshow(np.nan_to_num(share), cmap="Blues", vmin=0, vmax=100)
    for (y, x), value in np.ndenumerate(share):
        text = "\N{EN DASH}" if np.isnan(value) else f"{value:.0f}"
        colour = "white" if value > 55 else "black"
        axes.text(x, y, text, ha="center", va="center", color=colour, fontsize=8.5)
    axes.set_title(_shorten(title, 40))
    axes.set_xticks(range(len(EMOTIONS)), EMOTIONS, rotation=45, ha="right")
    labels = [f"{name} ({count})" for name, count in zip(EMOTIONS, counts, strict=True)]
    axes.set_yticks(range(len(EMOTIONS)), labels)
    axes.set_xlabel("decision")
    axes.set_ylabel("label (faces)")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    save(figure, stem)


def confusion_shares(predictions: Sequence[Predictions]) -> np.ndarray:
    """The confusion matrix in percent of the row, mean over the seeds.

    Args:
        predictions: of a network, those of each seed.

    Returns:
        float64 (7, 7), NaN in the row of an emotion that has no face.
    """
    shares = []
    for one in predictions:
        counts = confusion_matrix(one)
        total = counts.sum(1, keepdims=True)
        shares.append(np.where(total > 0, 100 * counts / np.maximum(total, 1), np.nan))
    return np.mean(shares, axis=0)


def save_reliability(stem: Path, bins: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draws accuracy by confidence, with intervals.

    Args:
        stem: path of the files, without suffix.
        bins: of a network, `reliability` in `fermm.evaluate.assess.assess`.
        title: of the network.
    """
    figure, axes = _panel(3.4)
    axes.plot([0, 100], [0, 100], color="0.5", lw=0.8, ls="--", label="confidence = accuracy")
    x = [100 * found["confidence"] for found in bins]
    mean = np.array([100 * found["accuracy"] for found in bins])
    low, high = 100 * np.array([found["interval"] for found in bins]).T
    axes.errorbar(
        x,
        mean,
        np.maximum(0, [mean - low, high - mean]),
        fmt="o-",
        ms=4,
        lw=1.3,
        elinewidth=1,
        color=COLOURS[0],
        label="accuracy, 95% interval",
    )
    axes.set_title(_shorten(title, 40))
    axes.set(xlim=(0, 100), ylim=(0, 100))
    axes.set_xlabel("confidence in %")
    axes.set_ylabel("accuracy in %")
    _legend(figure, axes, columns=1)
    save(figure, stem)


Values = list[tuple[float, Sequence[float]] | None]
"""For each emotion a value and its interval, None where there is none."""


def save_recall(stem: Path, run: Run, assessment: Mapping[str, Any]) -> None:
    """Draws the recall of each emotion by every network, with intervals.

    Args:
        stem: path of the files, without suffix.
        run: the run.
        assessment: its assessment.
    """
    shown = {run.titles[name]: recalls(found) for name, found in assessment["networks"].items()}
    figure, axes = _by_class(run, shown)
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"recall on {run.assessed} data in %")
    _legend(figure, axes)
    save(figure, stem)


def recalls(found: Mapping[str, Any]) -> Values:
    """The recall of each emotion with its interval, from the assessment of a network."""
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
        spec = seeds[0].meta["spec"]
        for part in MODALITIES if "head" in spec else ():
            members = [
                other for other, own in run.networks.items() if own[0].meta["spec"] == spec[part]
            ]
            # Of several with the same layers, the one that is called as the fusion calls it.
            member = part if part in members else next(iter(members), None)
            if member:
                gains[f"{run.titles[name]} minus {run.titles[member]}"] = (name, member)
    return gains


def save_recall_gains(stem: Path, run: Run) -> None:
    """Draws, for each emotion, the recall of each fusion minus that of each member.

    Args:
        stem: path of the files, without suffix.
        run: a run with fusions.
    """
    labels = next(iter(run.networks.values()))[0].predictions[run.assessed].labels
    shown: dict[str, Values] = {}
    for label, pair in recall_gains(run).items():
        fusion, member = (
            np.stack([t.predictions[run.assessed].correct for t in run.networks[name]])
            for name in pair
        )
        difference = fusion.astype(float) - member
        found: Values = []
        for emotion in range(len(EMOTIONS)):
            own = difference[:, labels == emotion]
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
    save(figure, stem)


def _by_class(run: Run, shown: Mapping[str, Values]) -> tuple[Figure, Any]:
    """Points with intervals, emotions from top to bottom; all networks of one close together."""
    labels = run.samples.of(run.assessed).labels
    counts = np.bincount(labels, minlength=len(EMOTIONS))
    figure, axes = _panel(max(4.2, 0.8 + len(EMOTIONS) * (0.2 + 0.14 * len(shown))))
    y = np.arange(len(EMOTIONS))
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
    ticks = [f"{e}\n{n} faces" for e, n in zip(EMOTIONS, counts, strict=True)]
    axes.set_yticks(y, ticks)
    axes.set_ylim(len(y) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    axes.tick_params(axis="y", length=0)
    for edge in y[:-1] + 0.5:
        axes.axhline(edge, color="0.9", lw=0.8)
    return figure, axes


def save_modalities(stem: Path, found: Mapping[str, Any], title: str) -> None:
    """Draws the accuracy of a fusion, of its members, and with one modality shuffled.

    Args:
        stem: path of the files, without suffix.
        found: of the fusion, see `fermm.evaluate.assess.modalities`.
        title: of the fusion.
    """
    members = found["modalities"]
    rows = [(f"{name} alone", of["alone"]) for name, of in members.items()]
    rows += [("fusion", found["fused"])]
    rows += [(f"fusion, {name} shuffled", of["shuffled"]) for name, of in members.items()]
    rows += [("either member is right", found["either"])]
    figure, axes = _panel(0.75 + 0.4 * len(rows))
    forest(axes, rows)
    axes.set_title(_shorten(title, 40))
    axes.set_xlabel("accuracy in %")
    save(figure, stem)


def save_changed(stem: Path, found: Mapping[str, Any], title: str) -> None:
    """Draws, for each emotion, how many decisions of a fusion a shuffled modality changes.

    Args:
        stem: path of the files, without suffix.
        found: of the fusion, see `fermm.evaluate.assess.modalities`.
        title: of the fusion.
    """
    members = found["modalities"]
    figure, axes = _panel(3.2)
    y = np.arange(len(EMOTIONS))
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
    axes.set_yticks(y, EMOTIONS)
    axes.invert_yaxis()
    axes.set_xlabel("decisions that change, in %")
    axes.grid(axis="x", alpha=0.3)
    axes.set_title(_shorten(title, 40))
    _legend(figure, axes)
    save(figure, stem)


def accuracies_of_runs(
    rows: Sequence[tuple[str, Mapping[str, Any]]], title: str, label: str
) -> bytes:
    """The accuracy of a network in each of several runs, with intervals.

    Args:
        rows: name and estimate of each run, see `forest`.
        title: of the network.
        label: of the axis.

    Returns:
        An SVG file.
    """
    with mpl.rc_context(RC):
        figure, axes = _panel(0.95 + 0.4 * len(rows))
        forest(axes, rows)
        axes.set_title(_shorten(title, 40))
        axes.set_xlabel(label)
        return _svg(figure)


def accuracies_over(
    values: Sequence[float],
    networks: Mapping[str, Sequence[Mapping[str, Any] | None]],
    field: str,
    label: str,
) -> bytes:
    """The accuracy of networks over a field of the config that the runs differ in.

    Args:
        values: of the field, one for each run, in ascending order.
        networks: by title, the estimate of each run, None where a run has no such network.
        field: its path.
        label: of the other axis.

    Returns:
        An SVG file.
    """
    places = np.asarray(values, float)
    logarithmic = places.min() > 0 and places.max() / places.min() >= 8
    with mpl.rc_context(RC):
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
        return _svg(figure)


def _panel(height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _legend(figure: Figure, axes: Any, columns: int = 2) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if max(map(len, labels)) > 24:
        columns = 1
    figure.legend(handles, labels, loc="outside lower left", ncols=columns)


def _svg(figure: Figure) -> bytes:
    file = io.BytesIO()
    _lay_out(figure)
    FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    return file.getvalue()


def _lay_out(figure: Figure) -> None:
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")  # else it would be laid out again for each file


def save(figure: Figure, stem: Path) -> None:
    """Writes `<stem>.svg` and `<stem>.png`; aside, then renamed.

    `Figure.savefig` draws everything twice for each file, for options that are not used here.

    Raises:
        InputError: they cannot be written.
    """
    _lay_out(figure)
    with whole(stem.with_name(f"{stem.name}.svg")) as aside:
        FigureCanvasSVG(figure).print_svg(aside, metadata={"Date": None})
    figure.dpi = 200
    with whole(stem.with_name(f"{stem.name}.png")) as aside:
        # A little larger than zlib's own level makes it, in two thirds of the time.
        FigureCanvasAgg(figure).print_png(aside, pil_kwargs={"compress_level": 4})

"""Figures of a run, as SVG and PNG: what it measured (paper, figures 11 to 13 and 15, and more)."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from fermm.data.faces import EMOTIONS
from fermm.evaluate import metrics
from fermm.evaluate.metrics import Predictions, confusion_matrix
from fermm.evaluate.run import Run
from fermm.evaluate.table import title
from fermm.models.fusion import MODALITIES
from fermm.paths import make_directory, whole

History = Sequence[Mapping[str, float]]

# Colours that colour-blind readers tell apart (Okabe & Ito, https://jfly.uni-koeln.de/color/), each
# with a line style and a marker of its own for grey prints.
COLOURS = ("#0072B2", "#009E73", "#D55E00", "#000000", "#CC79A7", "#E69F00")
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P")
STYLES = tuple(zip(COLOURS, LINES, strict=True))
RC: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "fermm",
}


def save_all(run: Run, assessment: Mapping[str, Any]) -> None:
    """Writes all of this module's figures of a run into its `figures/`.

    Args:
        run: the run.
        assessment: its assessment, see `fermm.evaluate.assess`.
    """
    directory = run.directory / "figures"
    make_directory(directory)
    histories = {name: [t.history for t in seeds] for name, seeds in run.networks.items()}
    predictions = {
        name: [t.predictions[run.assessed] for t in seeds] for name, seeds in run.networks.items()
    }
    save_learning_curves(directory, histories, run.title)
    caption = f"{run.title}: decisions on {run.assessed} data, in percent of the row"
    save_confusion_matrices(directory, predictions, caption)
    save_accuracies(directory, run, assessment)
    save_reliability(directory, predictions, f"{run.title}: reliability on {run.assessed} data")
    save_recall_by_class(directory, run)
    if assessment["fusions"]:
        save_modalities(directory, run, assessment)


def save_confusion_matrices(
    directory: Path, predictions: Mapping[str, Sequence[Predictions]], caption: str
) -> None:
    """Writes `confusion_matrices.{svg,png}`: one panel a network, in percent of the row.

    Args:
        directory: where.
        predictions: for each network, those of each seed; the matrix is the mean over the seeds.
        caption: above the figure.
    """
    columns = min(2, len(predictions))
    rows = -(-len(predictions) // columns)
    with mpl.rc_context(RC):
        figure = Figure(figsize=(3.7 * columns, 3.6 * rows + 0.4), layout="constrained")
        figure.suptitle(caption, fontsize=10)
        for i, (network, seeds) in enumerate(predictions.items(), start=1):
            axes = figure.add_subplot(rows, columns, i)
            shares = []
            for one in seeds:
                counts = confusion_matrix(one)
                shares.append(100 * counts / np.maximum(counts.sum(1, keepdims=True), 1))
            share = np.mean(shares, axis=0)
            axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
            for (y, x), value in np.ndenumerate(share):
                colour = "white" if value > 55 else "black"
                axes.text(x, y, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=8)
            axes.set_title(title(network), fontsize=9)
            axes.set_xticks(range(len(EMOTIONS)), EMOTIONS, rotation=45, ha="right")
            axes.set_yticks(range(len(EMOTIONS)), EMOTIONS)
            axes.set_xlabel("predicted")
            axes.set_ylabel("actual")
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0)
        save(figure, directory / "confusion_matrices")


def save_learning_curves(
    directory: Path, histories: Mapping[str, Sequence[History]], caption: str
) -> None:
    """Writes `learning_curves.{svg,png}`: validation accuracy and loss of all networks by epoch.

    And `training_against_validation.{svg,png}`: both accuracies, one panel a network.

    Args:
        directory: where.
        histories: for each network, that of each seed; curves are means over the seeds, and
            bands, where there are several, reach from the lowest to the highest.
        caption: above the figures.
    """
    with mpl.rc_context(RC):
        figure = Figure(figsize=(7.4, 3.4), layout="constrained")
        figure.suptitle(caption, fontsize=10)
        panels = (("val_accuracy", "validation accuracy in %"), ("val_loss", "validation loss"))
        for i, (column, label) in enumerate(panels, start=1):
            axes = figure.add_subplot(1, 2, i)
            for (network, seeds), style in zip(histories.items(), STYLES * 9, strict=False):
                _curve(axes, seeds, column, title(network), style)
            _label_epochs(axes, label)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        save(figure, directory / "learning_curves")

        columns = min(2, len(histories))
        rows = -(-len(histories) // columns)
        figure = Figure(figsize=(3.7 * columns, 2.6 * rows + 0.7), layout="constrained")
        figure.suptitle(
            f"{caption}\nTraining figures are running means, as in figure 15", fontsize=10
        )
        for i, (network, seeds) in enumerate(histories.items(), start=1):
            axes = figure.add_subplot(rows, columns, i)
            _curve(axes, seeds, "accuracy", "training", STYLES[0])
            _curve(axes, seeds, "val_accuracy", "validation", STYLES[2])
            axes.set_title(title(network), fontsize=9)
            _label_epochs(axes, "accuracy in %")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        save(figure, directory / "training_against_validation")


def _curve(axes: Any, seeds: Sequence[History], column: str, label: str, style: tuple) -> None:
    factor = 100 if column.endswith("accuracy") else 1
    values = factor * np.array([[row[column] for row in history] for history in seeds])
    epochs = np.arange(1, values.shape[1] + 1)
    colour, line = style
    axes.plot(epochs, values.mean(0), color=colour, linestyle=line, label=label)
    if len(values) > 1:
        axes.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.15, lw=0)


def _label_epochs(axes: Any, label: str) -> None:
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)


def save_accuracies(directory: Path, run: Run, assessment: Mapping[str, Any]) -> None:
    """Writes `accuracies.{svg,png}`: accuracy with its interval, and every difference with its.

    Args:
        directory: where.
        run: the run.
        assessment: its assessment.
    """
    networks, pairs = assessment["networks"], assessment["pairs"]
    with mpl.rc_context(RC):
        height = 0.9 + 0.3 * (len(networks) + len(pairs))
        figure = Figure(figsize=(7.4, height + 0.5), layout="constrained")
        ratios = [len(networks) + 1, len(pairs) + 1]
        rows = figure.subplots(
            2 if pairs else 1, 1, squeeze=False, height_ratios=ratios[: 1 + bool(pairs)]
        )
        _forest(
            rows[0, 0],
            [title(name) for name in networks],
            [found["accuracy"] for found in networks.values()],
        )
        rows[0, 0].set_xlabel(f"accuracy on {run.assessed} data in %")
        if pairs:
            axes = rows[1, 0]
            labels = [f"{title(p['better'])}\nagainst {title(p['worse'])}" for p in pairs]
            _forest(axes, labels, [p["difference"] for p in pairs])
            axes.axvline(0, color="black", lw=0.8)
            axes.set_xlabel("difference of accuracy in points")
            axes.tick_params(axis="y", labelsize=7)
        seeds = len(run.seeds)
        figure.suptitle(
            f"{run.title}: mean over {seeds} seeds and 95% interval over seeds and faces; "
            "small: each seed"
            if seeds > 1
            else f"{run.title}: one seed, 95% interval over faces",
            fontsize=10,
        )
        save(figure, directory / "accuracies")


def _forest(axes: Any, labels: Sequence[str], estimates: Sequence[Mapping[str, Any]]) -> None:
    for y, found in enumerate(estimates):
        low, high = (100 * x for x in found["interval"])
        if len(found["seeds"]) > 1:
            seeds = 100 * np.asarray(found["seeds"])
            axes.plot(seeds, np.full(len(seeds), y), "|", color=COLOURS[2], ms=7, mew=1)
        axes.plot([low, high], [y, y], color=COLOURS[0], lw=1.5)
        axes.plot(100 * found["mean"], y, "o", color=COLOURS[0], ms=5)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)


def save_reliability(
    directory: Path, predictions: Mapping[str, Sequence[Predictions]], caption: str
) -> None:
    """Writes `reliability.{svg,png}`: accuracy by confidence, one panel a network.

    Args:
        directory: where.
        predictions: for each network, those of each seed, which are shown together.
        caption: above the figure.
    """
    columns = min(4, len(predictions))
    rows = -(-len(predictions) // columns)
    with mpl.rc_context(RC):
        figure = Figure(figsize=(1.85 * columns + 0.3, 2.5 * rows + 0.7), layout="constrained")
        figure.suptitle(caption, fontsize=10)
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes in grid.flat[len(predictions) :]:
            axes.set_visible(False)
        for axes, (network, seeds) in zip(grid.flat, predictions.items(), strict=False):
            together = Predictions(*(np.concatenate(arrays) for arrays in zip(*seeds, strict=True)))
            found = metrics.reliability(together)
            axes.plot([0, 100], [0, 100], color="0.5", lw=0.8, ls="--", label="perfect")
            axes.plot(
                100 * found.confidence,
                100 * found.accuracy,
                "o-",
                color=COLOURS[0],
                ms=3,
                lw=1.2,
                label="accuracy",
            )
            squares = [metrics.calibration_squares(p).square for p in seeds]
            error = max(float(np.mean(squares)), 0.0) ** 0.5
            axes.set_title(f"{title(network)}\ncalibration error {100 * error:.1f}%", fontsize=8)
            axes.set_xlim(0, 100)
            axes.set_ylim(0, 100)
            axes.set_aspect("equal")
        for axes in grid.flat[: len(predictions)]:
            axes.set_xlabel("confidence in %")
        for axes in grid[:, 0]:
            axes.set_ylabel("accuracy in %")
        handles, labels = grid.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
        save(figure, directory / "reliability")


def save_recall_by_class(directory: Path, run: Run) -> None:
    """Writes `recall_by_class.{svg,png}`: the recall of each emotion, and what fusing changes.

    The upper panel has every network, the lower one (where there are fusions) each fusion minus
    each network that reads one modality.

    Args:
        directory: where.
        run: the run.
    """
    recall = {
        name: 100
        * np.array([metrics.by_class(t.predictions[run.assessed])["recall"] for t in seeds])
        for name, seeds in run.networks.items()
    }
    fusions = [name for name, seeds in run.networks.items() if "head" in seeds[0].meta["spec"]]
    gains = {
        f"{title(fusion)} minus {title(part)}": recall[fusion] - recall[part]
        for fusion in fusions
        for part in MODALITIES
        if part in recall
    }
    panels = [(f"recall on {run.assessed}\ndata in %", {title(k): v for k, v in recall.items()})]
    panels += [("difference of recall\nin points", gains)] if gains else []
    samples = run.samples.of(run.assessed)
    counts = np.bincount(samples.labels, minlength=len(EMOTIONS))
    x = np.arange(len(EMOTIONS))
    with mpl.rc_context(RC):
        figure = Figure(figsize=(7.4, 2.9 * len(panels) + 0.3), layout="constrained")
        several = ", mean over the seeds; lines: lowest to highest" if len(run.seeds) > 1 else ""
        figure.suptitle(f"{run.title}: recall of each emotion{several}", fontsize=10)
        for axes, (label, shown) in zip(
            figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True
        ):
            offsets = np.linspace(-0.27, 0.27, len(shown)) if len(shown) > 1 else [0.0]
            for i, ((name, values), offset) in enumerate(zip(shown.items(), offsets, strict=True)):
                mean = values.mean(0)
                spread = np.abs([mean - values.min(0), values.max(0) - mean])
                axes.errorbar(
                    x + offset,
                    mean,
                    spread if len(values) > 1 else None,
                    fmt=MARKERS[i % len(MARKERS)],
                    color=COLOURS[i % len(COLOURS)],
                    ms=5,
                    lw=1,
                    label=name,
                    clip_on=False,
                )
            if shown is gains:
                axes.axhline(0, color="black", lw=0.8)
            else:
                axes.set_ylim(0, 100)
            ticks = [f"{e}\n{n} faces" for e, n in zip(EMOTIONS, counts, strict=True)]
            axes.set_xticks(x, ticks)
            axes.set_xlim(-0.5, len(x) - 0.5)
            axes.set_ylabel(label)
            axes.grid(axis="y", alpha=0.3)
            axes.tick_params(axis="x", length=0)
            for edge in x[:-1] + 0.5:
                axes.axvline(edge, color="0.9", lw=0.8)
            axes.legend(
                loc="upper center",
                bbox_to_anchor=(0.5, -0.2),
                ncols=min(4, 2 if shown is gains else 4),
                fontsize=8,
            )
        save(figure, directory / "recall_by_class")


def save_modalities(directory: Path, run: Run, assessment: Mapping[str, Any]) -> None:
    """Writes `modalities.{svg,png}`: what each modality does in each fusion.

    Args:
        directory: where.
        run: the run.
        assessment: its assessment, with at least one fusion.
    """
    fusions = assessment["fusions"]
    with mpl.rc_context(RC):
        figure = Figure(figsize=(7.4, 2.5 * len(fusions) + 0.7), layout="constrained")
        figure.suptitle(
            f"{run.title}: modalities in the fusions, on {run.assessed} data", fontsize=10
        )
        grid = figure.subplots(len(fusions), 2, squeeze=False)
        for (left, right), (name, found) in zip(grid, fusions.items(), strict=True):
            parts = found["modalities"]
            bars = [(f"{part} alone", of["alone"]) for part, of in parts.items()]
            bars += [("fusion", found["fused"])]
            bars += [(f"fusion, {part} shuffled", of["shuffled"]) for part, of in parts.items()]
            bars += [("either part is right", found["either"])]
            _forest(left, [label for label, _ in bars], [of for _, of in bars])
            left.set_title(title(name), fontsize=9)
            left.set_xlabel("accuracy in %")
            y = np.arange(len(EMOTIONS))
            height = 0.8 / len(parts)
            for i, (part, of) in enumerate(parts.items()):
                share = [np.nan if v is None else 100 * v for v in of["changed_by_class"]]
                right.barh(
                    y + (i - (len(parts) - 1) / 2) * height,
                    share,
                    height,
                    color=COLOURS[(0, 5, 1, 4)[i % 4]],
                    hatch=("", "///", "...", "xx")[i % 4],
                    edgecolor="white",
                    label=part,
                )
            right.set_xlim(0, max(1.0, 1.05 * np.nanmax(right.dataLim.x1)))
            right.set_yticks(y, EMOTIONS)
            right.invert_yaxis()
            right.set_xlabel("decisions changed by shuffling, in %")
            right.grid(axis="x", alpha=0.3)
            right.set_title(title(name), fontsize=9)
        figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=2)
        save(figure, directory / "modalities")


def accuracies_of_runs(
    accuracies: Mapping[str, Mapping[str, Sequence[float]]], label: str
) -> bytes:
    """The accuracy of each network in each of several runs.

    Args:
        accuracies: network to run to the accuracy of each seed.
        label: of the axis.

    Returns:
        An SVG file.
    """
    runs = list(dict.fromkeys(run for found in accuracies.values() for run in found))
    offsets = np.linspace(-0.3, 0.3, len(runs))
    with mpl.rc_context(RC):
        height = 0.25 * len(accuracies) * len(runs) + 1
        figure = Figure(figsize=(7.4, min(height, 9)), layout="constrained")
        axes = figure.subplots()
        for i, (run, offset) in enumerate(zip(runs, offsets, strict=True)):
            style: dict[str, Any] = {
                "color": COLOURS[i % len(COLOURS)],
                # Another pair of the two when the colours begin again.
                "marker": MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],
            }
            for y, found in enumerate(accuracies.values()):
                seeds = 100 * np.asarray(found.get(run, []))
                if len(seeds) > 1:
                    axes.plot(seeds, np.full(len(seeds), y + offset), "|", color=style["color"])
                if len(seeds):
                    axes.plot(seeds.mean(), y + offset, ls="", ms=5, **style)
            axes.plot([], [], ls="", ms=5, label=run, **style)
        axes.set_yticks(range(len(accuracies)), list(accuracies))
        axes.set_ylim(len(accuracies) - 0.5, -0.5)
        axes.set_xlabel(label)
        axes.grid(axis="x", alpha=0.3)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        file = io.BytesIO()
        figure.savefig(file, format="svg")
        return file.getvalue()


def save(figure: Figure, stem: Path) -> None:
    """Writes `<stem>.svg` and `<stem>.png`; aside, then renamed.

    Raises:
        InputError: they cannot be written.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # else it would be laid out again for each file
    for suffix in (".svg", ".png"):
        with whole(stem.with_suffix(suffix)) as aside:
            figure.savefig(aside, dpi=200, format=suffix.removeprefix("."))

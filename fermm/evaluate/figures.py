"""Figures of a run: confusion matrices (paper, figure 13), learning curves (figures 11, 12, 15)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from fermm.data.faces import EMOTIONS
from fermm.evaluate.metrics import Predictions, confusion_matrix
from fermm.evaluate.table import title

History = Sequence[Mapping[str, float]]

# Colours that colour-blind readers tell apart (Okabe & Ito, https://jfly.uni-koeln.de/color/), each
# with a line style of its own for grey prints.
_STYLES = (
    ("#0072B2", "-"),
    ("#009E73", "--"),
    ("#D55E00", "-."),
    ("#000000", ":"),
    ("#CC79A7", (0, (5, 1, 1, 1, 1, 1))),
    ("#E69F00", (0, (1, 3))),
)
_RC: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "fermm",
}


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
    with mpl.rc_context(_RC):
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
        _save(figure, directory / "confusion_matrices")


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
    with mpl.rc_context(_RC):
        figure = Figure(figsize=(7.4, 3.4), layout="constrained")
        figure.suptitle(caption, fontsize=10)
        panels = (("val_accuracy", "validation accuracy in %"), ("val_loss", "validation loss"))
        for i, (column, label) in enumerate(panels, start=1):
            axes = figure.add_subplot(1, 2, i)
            for (network, seeds), style in zip(histories.items(), _STYLES * 9, strict=False):
                _curve(axes, seeds, column, title(network), style)
            _label_epochs(axes, label)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        _save(figure, directory / "learning_curves")

        columns = min(2, len(histories))
        rows = -(-len(histories) // columns)
        figure = Figure(figsize=(3.7 * columns, 2.6 * rows + 0.7), layout="constrained")
        figure.suptitle(
            f"{caption}\nTraining figures are running means, as in figure 15", fontsize=10
        )
        for i, (network, seeds) in enumerate(histories.items(), start=1):
            axes = figure.add_subplot(rows, columns, i)
            _curve(axes, seeds, "accuracy", "training", _STYLES[0])
            _curve(axes, seeds, "val_accuracy", "validation", _STYLES[2])
            axes.set_title(title(network), fontsize=9)
            _label_epochs(axes, "accuracy in %")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        _save(figure, directory / "training_against_validation")


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


def _save(figure: Figure, stem: Path) -> None:
    for suffix in (".svg", ".png"):
        aside = stem.with_name(f"{stem.name}.tmp{suffix}")
        figure.savefig(aside, dpi=200)
        aside.replace(stem.with_suffix(suffix))

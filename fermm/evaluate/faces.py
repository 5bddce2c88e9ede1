"""Figures of the data: its faces, classes and landmarks (paper, figures 3, 4, 5, 14 and table 1).

And the faces that the networks of a run get wrong. All other faces shown are training faces, and
which ones follows from the data and its split alone. Figures of a data set that must not be passed
on, as FER2013, must not be either: they hold its pictures (that of the classes does not).
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fermm.data.faces import EMOTIONS, IMAGE_SIZE
from fermm.data.landmarks import PARTS
from fermm.data.source import Source
from fermm.evaluate.figures import draw, save
from fermm.evaluate.run import Run
from fermm.models.specs import MODALITIES
from fermm.paths import make_directory

# Lengths are in pixels of the PNG, so that each pixel of a face is a whole number of them.
_PER_INCH = 200  # the resolution of `save`
_WIDTH = 1480
_EDGE = 20
_TITLE = 34  # of a cell

_SAMPLES = 3  # faces of each emotion
_TYPICAL = (1, 4, 7, 10)  # percentiles
_UNTYPICAL = (90, 93, 96, 99)

# Okabe & Ito's colours, as in `figures`, each with a mark of its own for grey prints. Marks are
# edged in black and the points of a part joined, so that they show on any picture.
_MARKS = {
    "jaw": ("#56B4E9", "o"),
    "right_brow": ("#E69F00", "^"),
    "left_brow": ("#D55E00", "v"),
    "nose": ("#F0E442", "s"),
    "right_eye": ("#CC79A7", "D"),
    "left_eye": ("#009E73", "p"),
    "mouth": ("#0072B2", "o"),
    "lips": ("#FFFFFF", "o"),
}
# What a cell with landmarks shows, in pixels of a face: 6 more on either side, 2 above and 10
# below, where the chin may lie outside the picture.
_WINDOW = 60
_LOWERED = 4
_FILLS = (("#0072B2", ""), ("#E69F00", "////"), ("#FFFFFF", "...."), ("#999999", "xxxx"))


def save_all(directory: Path, source: Source, run: Run | None = None) -> dict[str, str]:
    """Writes all figures of this module.

    Args:
        directory: where; it is made if needed.
        source: the data of a run.
        run: the run, for the faces that its networks get wrong; None leaves these out.

    Returns:
        For each figure that could not be drawn, why, see `fermm.evaluate.figures.draw`.
    """
    make_directory(directory)
    labels = source.faces.labels
    counts = {
        name: np.bincount(labels[rows], minlength=len(EMOTIONS))
        for name, rows in source.splits.items()
    }
    jobs: dict[str, Callable[[Path], None]] = {
        "samples": functools.partial(save_samples, source=source),
        "classes": functools.partial(
            save_classes, counts=counts, weights=source.class_weights, title=source.title
        ),
        "landmarks": functools.partial(save_landmarks, source=source),
        "landmarks_good_and_bad": functools.partial(save_landmark_quality, source=source),
    }
    if run is not None:
        sheets = {"all_wrong": all_wrong(run)}
        sheets |= {f"won_and_lost_{name}": won_and_lost(run, name) for name in fusions(run)}
        for name, strips in sheets.items():
            if any(len(strip.rows) for strip in strips):
                jobs[name] = functools.partial(save_sheet, source=source, strips=strips)
    return draw(directory, jobs)


def save_samples(stem: Path, source: Source) -> None:
    """Draws three faces of each emotion (paper, figure 3).

    They are the first of the training split. Where there are fewer, cells stay empty.

    Args:
        stem: path of the files, without suffix.
        source: the data of a run.
    """
    faces = source.faces
    figure, cells = _cells(
        f"{source.title}: training faces", _SAMPLES, len(EMOTIONS), 4 * IMAGE_SIZE, titles=False
    )
    for label, name in enumerate(EMOTIONS):
        cells[0][label].set_title(name, fontsize=9, pad=3)
        for row, index in zip(cells, _first(source, label, _SAMPLES), strict=False):
            _show(row[label], faces.images[index])
    save(figure, stem)


def save_classes(
    stem: Path, counts: Mapping[str, np.ndarray], weights: np.ndarray, title: str
) -> None:
    """Draws how many faces show each emotion (paper, figure 4, table 1).

    Args:
        stem: path of the files, without suffix.
        counts: for each split, int (7,), its faces of each emotion.
        weights: float (7,), the class weights.
        title: above the figure.
    """
    with mpl.rc_context({"hatch.linewidth": 0.5}):
        figure = Figure(figsize=(_WIDTH / _PER_INCH, 3.8), layout="constrained")
        figure.suptitle(title, fontsize=10)
        axes = figure.add_subplot()
        places = range(len(EMOTIONS))
        total = np.zeros(len(EMOTIONS), int)
        for (split, count), (colour, hatch) in zip(counts.items(), _FILLS * 9, strict=False):
            axes.bar(
                places, count, bottom=total, label=split, color=colour, hatch=hatch, ec="k", lw=0.5
            )
            total = total + count
        for place, height, weight in zip(places, total.tolist(), weights, strict=True):
            axes.text(
                place, height, f"{height}\nweight {weight:.3f}", ha="center", va="bottom", size=8
            )
        axes.set_ylim(0, max(1, 1.17 * total.max()))
        axes.set_ylabel("faces")
        # The counts of the splits stand below the bars, where the smallest have room as well.
        columns = zip(EMOTIONS, *counts.values(), strict=True)
        labels = ["\n".join(map(str, column)) for column in columns]
        axes.set_xticks(places, labels)
        axes.tick_params(axis="x", length=0, pad=4)
        axes.annotate(
            "\n".join(["", *counts]),
            (0, 0),
            xycoords="axes fraction",
            xytext=(-6, -4),
            textcoords="offset points",
            ha="right",
            va="top",
        )
        figure.legend(loc="outside lower left", ncols=4)
        save(figure, stem)


def save_landmarks(stem: Path, source: Source) -> None:
    """Draws landmarks on a face of each emotion (paper, figure 5).

    The face is the first of the training split. Points are joined within the paper's eight face
    parts, in their order. They may lie outside the picture.

    Args:
        stem: path of the files, without suffix.
        source: the data of a run.
    """
    assert source.faces.landmarks is not None
    caption = f"{source.title}: landmarks of training faces"
    figure, cells = _cells(caption, 2, 4, 6 * _WINDOW)
    handles: list[Any] = []
    for label, name in enumerate(EMOTIONS):
        axes = cells[label // 4][label % 4]
        axes.set_title(name, fontsize=9, pad=3)
        for index in _first(source, label, 1):
            _show(axes, source.faces.images[index])
            handles = _mark(axes, source.faces.landmarks[index])
    cells[1][3].legend(
        handles=handles,
        loc="center",
        frameon=True,
        title="right and left are\nthe person's own",
        title_fontsize=8,
        markerscale=1.8,
        facecolor="0.8",  # on which all colours show
        edgecolor="none",
        framealpha=1,
    )
    save(figure, stem)


def save_landmark_quality(stem: Path, source: Source) -> None:
    """Draws landmarks of typical and untypical shape (paper, figure 14).

    The paper knows no way of telling bad landmarks by code. A hint is how far their shape is from
    the mean one (`shape_distance`): by it the training faces are sorted, and those at the
    percentiles 1, 4, 7 and 10 shown above those at 90, 93, 96 and 99. They are spread over the
    lowest and the highest tenth because the extremes are of one kind only: in FER2013, heads in
    profile. It is a hint and no more. A head that is turned is far from the mean with good
    landmarks too; landmarks that miss the face, or of a blank picture, may be near it.

    Args:
        stem: path of the files, without suffix.
        source: the data of a run.
    """
    landmarks, train = source.faces.landmarks, source.splits["train"]
    assert landmarks is not None
    distance = shape_distance(landmarks[train], mean_shape(landmarks[train]))
    order = np.argsort(distance, kind="stable")
    caption = (
        f"{source.title}: training faces with landmarks of typical (top) and untypical shape\n"
        "Above each: percentile of the Procrustes distance to the mean shape, and the distance"
    )
    figure, cells = _cells(caption, 2, len(_TYPICAL), 6 * _WINDOW, top=90)
    shown = set()
    for row, percents in zip(cells, (_TYPICAL, _UNTYPICAL), strict=True):
        for axes, percent in zip(row, percents, strict=True):
            rank = round(percent / 100 * (len(order) - 1))
            if rank in shown:  # too few faces: once is enough
                continue
            shown.add(rank)
            index = train[order[rank]]
            axes.set_title(f"{percent}%: {distance[order[rank]]:.3f}", fontsize=9, pad=3)
            _show(axes, source.faces.images[index])
            _mark(axes, landmarks[index])
    save(figure, stem)


def shape_distance(landmarks: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """How far shapes are from a mean one: ordinary Procrustes analysis (Gower, 1975).

    Place, size and rotation do not count, a reflection does. With both shapes centred and scaled
    to a sum of squares of 1, it is the root of the sum of squares that remains between the mean
    and the shape turned and scaled to fit it best: 0 to 1. The square is the disparity of
    `scipy.spatial.procrustes`, which allows reflections.

    Args:
        landmarks: real (N, K, 2).
        mean: real (K, 2), not all points the same.

    Returns:
        float64 (N,), 1 for a shape whose points are all the same.

    References:
        Gower, Generalized Procrustes analysis, Psychometrika 40, 1975, doi:10.1007/BF02291478.
    """
    fit = np.abs(_preshapes(landmarks) @ _preshapes(mean).conj())
    return np.sqrt(np.maximum(1 - fit**2, 0))


def mean_shape(landmarks: np.ndarray) -> np.ndarray:
    """The shape whose mean square `shape_distance` to the given ones is least.

    In the plane no iteration is needed (Kent, 1994): it is an eigenvector.

    Args:
        landmarks: real (N, K, 2).

    Returns:
        float64 (K, 2), centred, of sum of squares 1, turned in any way.

    References:
        Kent, The complex Bingham distribution and shape analysis, Journal of the Royal Statistical
        Society B 56, 1994.
    """
    shapes = _preshapes(landmarks)
    _, vectors = np.linalg.eigh(shapes.T @ shapes.conj())
    return np.stack([vectors[:, -1].real, vectors[:, -1].imag], -1)


def _preshapes(points: np.ndarray) -> np.ndarray:
    """Points (..., K, 2) as complex numbers (..., K), centred and of norm 1 (or 0)."""
    plane = points[..., 0].astype(np.float64) + 1j * points[..., 1]
    plane -= plane.mean(-1, keepdims=True)
    norm = np.linalg.norm(plane, axis=-1, keepdims=True)
    return plane / np.where(norm, norm, 1)


class Strip(NamedTuple):
    """Faces of one kind, which stand in a row or two of a contact sheet.

    Attributes:
        title: what they have in common.
        rows: int64, row in the source of each, those first that are to be shown.
        given: int64, the label that was given to each.
    """

    title: str
    rows: np.ndarray
    given: np.ndarray


def fusions(run: Run) -> list[str]:
    """The fusions of a run of which it is known what their members say."""
    return [name for name, seeds in run.networks.items() if all(t.modalities for t in seeds)]


def all_wrong(run: Run) -> list[Strip]:
    """The faces that every network gets wrong, in every seed, of the split that is assessed.

    Those first to whose label the networks give the least probability, in the mean. Given is the
    label with the highest mean probability but for the true one.
    """
    predictions = [t.predictions[run.assessed] for seeds in run.networks.values() for t in seeds]
    order = np.argsort(predictions[0].rows)
    rows, labels = predictions[0].rows[order], predictions[0].labels[order]
    mean = np.zeros((len(rows), len(EMOTIONS)))
    wrong = np.ones(len(rows), bool)
    for one in predictions:
        order = np.argsort(one.rows)
        mean += one.probabilities[order] / len(predictions)
        wrong &= ~one.correct[order]
    own = mean[np.arange(len(rows)), labels]
    mean[np.arange(len(rows)), labels] = -1
    chosen = np.flatnonzero(wrong)
    chosen = chosen[np.argsort(own[chosen], kind="stable")]
    return [Strip("", rows[chosen], mean.argmax(1)[chosen])]


def won_and_lost(run: Run, fusion: str) -> list[Strip]:
    """The faces that a fusion gets right where a member is wrong, and the other way round.

    With several seeds, those of which it holds in more than half of them.

    Args:
        run: the run.
        fusion: the name of a fusion, one of `fusions`.
    """
    found = [trained.modalities for trained in run.networks[fusion]]
    first = found[0]
    assert first is not None
    right, given = [], []
    alone: dict[str, list[np.ndarray]] = {name: [] for name in MODALITIES}
    for one in found:
        assert one is not None
        order = np.argsort(one.rows)
        labels = one.labels[order]
        given.append(one.decisions[order])
        right.append(one.decisions[order] == labels)
        for name in MODALITIES:
            alone[name].append(one.alone[name][order] == labels)
    fused = np.stack(right)
    image, landmarks = (np.stack(alone[name]) for name in MODALITIES)
    votes = np.stack([np.bincount(x, minlength=len(EMOTIONS)) for x in np.stack(given).T])
    rows = np.sort(first.rows)
    kinds = {
        "Right, both members wrong": fused & ~image & ~landmarks,
        "Right, only image wrong": fused & ~image & landmarks,
        "Right, only landmarks wrong": fused & image & ~landmarks,
        "Wrong, only image right": ~fused & image & ~landmarks,
        "Wrong, only landmarks right": ~fused & ~image & landmarks,
        "Wrong, both members right": ~fused & image & landmarks,
    }
    strips = []
    for title, which in kinds.items():
        chosen = np.flatnonzero(which.mean(0) > 0.5)
        # Spread over the split, so that no part of the source is preferred.
        random = np.random.default_rng(0).permutation(chosen)
        strips.append(Strip(title, rows[random], votes[random].argmax(1)))
    return strips


_SHEET = 8  # faces in a row of a contact sheet
_SHEET_ROWS = 3  # of faces, where all are of one kind
_FACE = 3 * IMAGE_SIZE


def save_sheet(stem: Path, source: Source, strips: Sequence[Strip]) -> None:
    """Draws a contact sheet: faces with their label, and below it the one that they were given.

    Args:
        stem: path of the files, without suffix.
        source: the data of a run.
        strips: what is shown; a row of faces each, or if there is one strip only, several rows.
    """
    shown = [strip for strip in strips if len(strip.rows)]
    rows = _SHEET_ROWS if len(strips) == 1 else 1
    gap = (_WIDTH - 2 * _EDGE - _SHEET * _FACE) // (_SHEET - 1)
    below = 76  # two lines of words
    heights = []
    for strip in shown:
        used = min(rows, -(-len(strip.rows) // _SHEET))
        heights.append((44 if strip.title else 0) + used * (_FACE + below))
    height = _EDGE + sum(heights)
    figure = Figure(figsize=(_WIDTH / _PER_INCH, height / _PER_INCH))
    # One for all faces, in pixels: to make one for each takes as long as to draw the sheet.
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, _WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    figure.suppressComposite = True  # else the SVG would have one picture of all, made coarse
    order = np.argsort(source.faces.rows)
    top = 10
    for strip, used in zip(shown, heights, strict=True):
        y = top
        if strip.title:
            count = f"{len(strip.rows)} face" + "s" * (len(strip.rows) > 1)
            text = f"{strip.title}: {count}"
            figure.text(_EDGE / _WIDTH, 1 - (y + 8) / height, text, size=9, weight="bold", va="top")
            y += 44
        at = order[np.searchsorted(source.faces.rows[order], strip.rows[: rows * _SHEET])]
        for i, (index, given) in enumerate(zip(at, strip.given, strict=False)):
            x = _EDGE + (i % _SHEET) * (_FACE + gap)
            bottom = y + (i // _SHEET) * (_FACE + below) + _FACE
            _show(axes, source.faces.images[index], (x, x + _FACE, bottom, bottom - _FACE))
            label = EMOTIONS[source.faces.labels[index]]
            words: dict[str, Any] = {"ha": "center", "va": "top", "size": 8}
            middle = (x + _FACE / 2) / _WIDTH
            figure.text(middle, 1 - (bottom + 6) / height, f"is {label}", **words)
            said = EMOTIONS[given]
            text, colour = ("right", "#006b4f") if said == label else (f"said {said}", "#a83c00")
            figure.text(middle, 1 - (bottom + 34) / height, text, color=colour, **words)
        top += used
    save(figure, stem)


def _first(source: Source, label: int, count: int) -> np.ndarray:
    """The first training faces with a label, `count` of them or fewer."""
    train = source.splits["train"]
    return train[source.faces.labels[train] == label][:count]


def _cells(
    caption: str, rows: int, columns: int, size: int, *, top: int = 56, titles: bool = True
) -> tuple[Figure, list[list[Axes]]]:
    """A figure and its square cells, empty.

    Args:
        caption: above the figure, in the upper `top` pixels.
        rows: of cells.
        columns: of cells.
        size: of a cell, in pixels.
        top: room for the caption.
        titles: whether each row has room for titles; if not, the first only.
    """
    gap = min(16, (_WIDTH - 2 * _EDGE - columns * size) // (columns - 1))
    left = (_WIDTH - columns * size - (columns - 1) * gap) // 2
    step = size + gap + titles * _TITLE
    height = top + _TITLE + (rows - 1) * step + size + _EDGE
    figure = Figure(figsize=(_WIDTH / _PER_INCH, height / _PER_INCH))
    figure.suptitle(caption, fontsize=10, y=1 - 10 / height)

    def cell(row: int, column: int) -> Axes:
        bottom = _EDGE + (rows - 1 - row) * step
        x = left + column * (size + gap)
        axes = figure.add_axes(
            (x / _WIDTH, bottom / height, size / _WIDTH, size / height),
            label=f"{row} {column}",
        )
        axes.set_axis_off()
        return axes

    return figure, [[cell(row, column) for column in range(columns)] for row in range(rows)]


def _show(
    axes: Axes, image: np.ndarray, extent: tuple[float, float, float, float] | None = None
) -> None:
    """Draws a face, uint8 (48, 48), as all of the axes, or from `left, right, bottom, top`."""
    limits = axes.axis()
    # The cell is a square already; aspect="equal" would fit it anew and could round it.
    axes.imshow(
        image,
        cmap="gray",
        vmin=0,
        vmax=255,
        interpolation="nearest",
        aspect="auto",
        extent=extent,
    )
    if extent:
        axes.axis(limits)


def _mark(axes: Axes, points: np.ndarray) -> list[Any]:
    """Draws landmarks (68, 2) over a face; returns a legend's handles."""
    x = (IMAGE_SIZE - 1) / 2
    y = x + _LOWERED
    # A point beyond the window widens it: none is left out.
    reach = max(_WINDOW / 2, float(np.abs(points - (x, y)).max()) + 1)
    axes.set(xlim=(x - reach, x + reach), ylim=(y + reach, y - reach))
    return list(_lines(axes, points))


def _lines(axes: Axes, points: np.ndarray) -> Iterator[Any]:
    for part, where in PARTS.items():
        colour, marker = _MARKS[part]
        yield from axes.plot(
            *points[where].T,
            color=colour,
            marker=marker,
            linewidth=0.6,
            markersize=2.6,
            markeredgecolor="black",
            markeredgewidth=0.3,
            label=part.replace("_", " "),
        )

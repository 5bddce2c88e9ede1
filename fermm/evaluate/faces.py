"""The figures that show a run's samples and its classes, drawn and not written.

Samples are shown where they have a feature `images` that is a picture: (H, W) of grey levels, or
(H, W, 3) of red, green and blue; with their `landmarks` on top where they have any. The samples
that networks get wrong are of the assessed split; all others are training samples, and which ones
follows from the data and its split alone. Figures of a data set that must not be passed on, as
FER2013, must not be either: they hold its pictures (that of the classes does not).
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fermm.evaluate.figures import WIDTH, Draw
from fermm.evaluate.run import Run
from fermm.evaluate.text import count
from fermm.faces import FACE_REGIONS, LANDMARKS
from fermm.samples import Feature, Samples

IMAGES, POINTS = "images", "landmarks"
"""The names of the features that are shown."""

# Lengths are in pixels of the PNG, so that each pixel of a small picture is a whole number of them.
_PER_INCH = 200  # the resolution of `fermm.evaluate.figures.render`
_WIDTH = 1480
_EDGE = 20
_TITLE = 34  # of a cell
_CELL = 192  # at most, in the sheet of samples
_FACE = 144  # at most, in a contact sheet
_WINDOW = 360  # of a cell with landmarks

_SAMPLES = 3  # of each class
_COLUMNS = 7  # of classes beside each other
_TYPICAL = (1, 4, 7, 10)  # percentiles
_UNTYPICAL = (90, 93, 96, 99)

# Okabe & Ito's colours, as in `figures`, each with a mark of its own for grey prints. Marks are
# edged in black and the points of a region joined, so that they show on any picture.
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
# What a cell with landmarks shows is wider than the picture by this factor, and lower by this share
# of it, for a chin may lie outside.
_WIDER = 1.25
_LOWERED = 1 / 12
_FILLS = (("#0072B2", ""), ("#E69F00", "////"), ("#FFFFFF", "...."), ("#999999", "xxxx"))


def are_pictures(features: Mapping[str, Feature]) -> bool:
    """Whether samples with these features can be shown."""
    return IMAGES in features and (
        len(features[IMAGES].shape) == 2
        or (len(features[IMAGES].shape) == 3 and features[IMAGES].shape[2] == 3)
    )


def have_points(features: Mapping[str, Feature]) -> bool:
    """Whether samples with these features can be shown with landmarks on top."""
    shape = features[POINTS].shape if POINTS in features else ()
    return are_pictures(features) and len(shape) == 2 and shape[1] == 2


class Data(NamedTuple):
    """The samples of a run with their features, and how they are used.

    Attributes:
        samples: all of them.
        splits: by name of the split, int64 indices into `samples`.
        class_weights: float (K,), in the training loss.
        title: what the samples are.
    """

    samples: Samples
    splits: Mapping[str, np.ndarray]
    class_weights: np.ndarray
    title: str

    def first(self, label: int, count: int) -> np.ndarray:
        """The first training samples with a label, `count` of them or fewer."""
        train = self.splits["train"]
        return train[self.samples.labels[train] == label][:count]

    def picture(self, index: int) -> np.ndarray:
        """A sample's picture: float64 (H, W) or (H, W, 3), from 0 to 1."""
        image = np.asarray(self.samples.features[IMAGES][index])
        feature = self.samples.described[IMAGES]
        low = float(image.min()) if feature.low is None else feature.low
        high = float(image.max()) if feature.high is None else feature.high
        return np.clip((image - low) / ((high - low) or 1), 0, 1)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a picture, in its own pixels."""
        height, width = self.samples.described[IMAGES].shape[:2]
        return height, width


def of_data(data: Data) -> dict[str, Draw]:
    """What draws the figures of samples and classes, by the names of their files.

    Without pictures there is only that of the classes, without landmarks none that needs them.
    """
    features = data.samples.described
    jobs: dict[str, Draw] = {"classes": functools.partial(classes, data)}
    if are_pictures(features):
        jobs["samples"] = functools.partial(samples, data)
    if have_points(features):
        jobs["landmarks"] = functools.partial(landmarks, data)
        jobs["landmarks_good_and_bad"] = functools.partial(landmark_quality, data)
    return jobs


def of_mistakes(data: Data, run: Run) -> dict[str, Draw]:
    """What draws the samples that the networks of a run get wrong, by the names of their files.

    There is none where samples are no pictures, and none where nothing is wrong.
    """
    if not are_pictures(data.samples.described):
        return {}
    sheets = {"all_wrong": all_wrong(run)}
    sheets |= {f"won_and_lost_{name}": won_and_lost(run, name) for name in fusions(run)}
    return {
        name: functools.partial(sheet, data, strips)
        for name, strips in sheets.items()
        if any(len(strip.rows) for strip in strips)
    }


def samples(data: Data) -> Figure:
    """Three samples of each class, the first of the training split.

    Where there are fewer, cells stay empty.
    """
    names = data.samples.classes
    blocks = -(-len(names) // _COLUMNS)
    columns = -(-len(names) // blocks)
    size = _fitting(data, _CELL)
    caption = f"{data.title}: training samples"
    figure, cells = _cells(caption, _SAMPLES, columns, size, blocks=blocks)
    for label, name in enumerate(names):
        block, column = divmod(label, columns)
        own = [row[column] for row in cells[block * _SAMPLES : (block + 1) * _SAMPLES]]
        own[0].set_title(_cut(name, 22), fontsize=9, pad=3)
        for axes, index in zip(own, data.first(label, _SAMPLES), strict=False):
            _show(axes, data, index)
    return figure


def classes(data: Data) -> Figure:
    """How many samples each class has in each split, and its weight in the loss."""
    names = data.samples.classes
    labels = data.samples.labels
    counts = {
        split: np.bincount(labels[rows], minlength=len(names))
        for split, rows in data.splits.items()
    }
    return bars(counts, data.class_weights, names, data.title)


def bars(
    counts: Mapping[str, np.ndarray], weights: np.ndarray, names: Sequence[str], title: str
) -> Figure:
    """How many samples each class has, as wide as a telephone shows without scrolling.

    A class has a row, so that any number of classes has room. A table has the numbers of the
    splits.

    Args:
        counts: for each split, int (K,), its samples of each class.
        weights: float (K,), the class weights.
        names: of the classes.
        title: above the figure.
    """
    figure = Figure(figsize=(WIDTH, 1.2 + 0.32 * len(names)), layout="constrained")
    figure.suptitle(title, fontsize=9)
    axes = figure.add_subplot()
    places = range(len(names))
    total = np.zeros(len(names), int)
    with mpl.rc_context({"hatch.linewidth": 0.5}):
        for (split, count), (colour, hatch) in zip(counts.items(), _FILLS * 9, strict=False):
            axes.barh(
                places, count, left=total, label=split, color=colour, hatch=hatch, ec="k", lw=0.5
            )
            total = total + count
        figure.legend(loc="outside lower left", ncols=3)
    for place, length, weight in zip(places, total.tolist(), weights, strict=True):
        words = f" {length:,}\n weight {weight:.3f}"
        axes.text(length, place, words, ha="left", va="center", size=8, linespacing=1.0)
    axes.set_xlim(0, max(1, 1.5 * total.max()))  # with room for the words beside the longest
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("samples")
    axes.locator_params(axis="x", nbins=5)  # whose numbers have room
    axes.set_yticks(places, [_cut(name, 16) for name in names])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    return figure


def landmarks(data: Data) -> Figure:
    """Landmarks on a sample of each class, the first of the training split.

    Points of a face are joined within the eight face regions, in their order. They may lie outside
    the picture.
    """
    names, points = data.samples.classes, data.samples.features[POINTS]
    columns = 4
    of_faces = points.shape[1:] == LANDMARKS.shape
    rows = -(-(len(names) + of_faces) // columns)  # a cell more than classes for a legend
    figure, cells = _cells(f"{data.title}: landmarks of training samples", rows, columns, _WINDOW)
    handles: list[Any] = []
    for label, name in enumerate(names):
        axes = cells[label // columns][label % columns]
        axes.set_title(_cut(name, 40), fontsize=9, pad=3)
        for index in data.first(label, 1):
            _show(axes, data, index)
            handles = _mark(axes, points[index], data.size)
    if of_faces and handles:
        cells[-1][len(names) % columns].legend(
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
    return figure


def landmark_quality(data: Data) -> Figure:
    """Landmarks of typical and of untypical shape.

    No code can tell bad landmarks. A hint is how far their shape is from the mean one
    (`shape_distance`): by it the training samples are sorted, and those at the percentiles 1, 4, 7
    and 10 shown above those at 90, 93, 96 and 99. They are spread over the lowest and the highest
    tenth because the extremes are of one kind only: in FER2013, heads in profile. It is a hint and
    no more. A head that is turned is far from the mean with good landmarks too; landmarks that miss
    the face, or of a blank picture, may be near it.
    """
    points, train = data.samples.features[POINTS], data.splits["train"]
    distance = shape_distance(points[train], mean_shape(points[train]))
    order = np.argsort(distance, kind="stable")
    caption = (
        f"{data.title}: training samples with landmarks of typical (top) and untypical shape\n"
        "Above each: percentile of the Procrustes distance to the mean shape, and the distance"
    )
    figure, cells = _cells(caption, 2, len(_TYPICAL), _WINDOW, top=90)
    shown = set()
    for row, percents in zip(cells, (_TYPICAL, _UNTYPICAL), strict=True):
        for axes, percent in zip(row, percents, strict=True):
            rank = round(percent / 100 * (len(order) - 1))
            if rank in shown:  # too few samples: once is enough
                continue
            shown.add(rank)
            index = train[order[rank]]
            axes.set_title(f"{percent}%: {distance[order[rank]]:.3f}", fontsize=9, pad=3)
            _show(axes, data, index)
            _mark(axes, points[index], data.size)
    return figure


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
    """Samples of one kind, which stand in a row or two of a contact sheet.

    Attributes:
        title: what they have in common.
        rows: int64, row in the source of each, those first that are to be shown.
        given: int64, the class that was given to each.
    """

    title: str
    rows: np.ndarray
    given: np.ndarray


def fusions(run: Run) -> list[str]:
    """The fusions of a run of which it is known what their members say."""
    return [name for name, seeds in run.networks.items() if all(t.modalities for t in seeds)]


def all_wrong(run: Run) -> list[Strip]:
    """The samples that every network gets wrong, in every seed, of the split that is assessed.

    Those first to whose label the networks give the least probability, in the mean. Given is the
    class with the highest mean probability but for the true one.
    """
    predictions = [t.predictions[run.assessed] for seeds in run.networks.values() for t in seeds]
    order = np.argsort(predictions[0].rows)
    rows, labels = predictions[0].rows[order], predictions[0].labels[order]
    mean = np.zeros((len(rows), len(run.classes)))
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
    """The samples that a fusion gets right where members are wrong, and the other way round.

    With several seeds, those of which it holds in more than half of them. Of a fusion of more than
    two members, those where several but not all are wrong stand together.

    Args:
        run: the run.
        fusion: the name of a fusion, one of `fusions`.
    """
    found = [trained.modalities for trained in run.networks[fusion] if trained.modalities]
    right, given = [], []
    members = found[0].members
    alone: dict[str, list[np.ndarray]] = {name: [] for name in members}
    for one in found:
        order = np.argsort(one.rows)
        labels = one.labels[order]
        given.append(one.decisions[order])
        right.append(one.decisions[order] == labels)
        for name in members:
            alone[name].append(one.alone[name][order] == labels)
    fused = np.stack(right)
    by_member = {name: np.stack(alone[name]) for name in members}
    votes = np.stack([np.bincount(x, minlength=len(run.classes)) for x in np.stack(given).T])
    rows = np.sort(found[0].rows)
    kinds = {
        f"Right, {words}": fused & which for words, which in _kinds(by_member, "wrong").items()
    } | {f"Wrong, {words}": ~fused & which for words, which in _kinds(by_member, "right").items()}
    strips = []
    for title, which in kinds.items():
        chosen = np.flatnonzero(which.mean(0) > 0.5)
        # Spread over the split, so that no part of the source is preferred.
        random = np.random.default_rng(0).permutation(chosen)
        strips.append(Strip(title, rows[random], votes[random].argmax(1)))
    return strips


def _kinds(right: Mapping[str, np.ndarray], word: str) -> dict[str, np.ndarray]:
    """Which members are "wrong" or "right", as `word` says: in words, and where it is so.

    Args:
        right: by member, bool (S, N), whether it is right.
        word: "wrong", first all of them; or "right", all of them last.
    """
    which = {name: ~x if word == "wrong" else x for name, x in right.items()}
    number = np.sum(list(which.values()), axis=0)
    all_of_them = {1: "its member", 2: "both members"}.get(len(which), "all members")
    every = {f"{all_of_them} {word}": number == len(which)}
    if len(which) == 1:
        return every
    kinds = {f"only {name} {word}": x & (number == 1) for name, x in which.items()}
    if len(which) > 2:
        kinds[f"several members {word}"] = (number > 1) & (number < len(which))
    return every | kinds if word == "wrong" else kinds | every


_SHEET = 8  # samples in a row of a contact sheet
_SHEET_ROWS = 3  # of samples, where all are of one kind


def sheet(data: Data, strips: Sequence[Strip]) -> Figure:
    """A contact sheet: samples with their label, and below it the class that they were given.

    Args:
        data: the data of a run.
        strips: what is shown; a row of samples each, or if there is one strip only, several rows.
    """
    names = data.samples.classes
    shown = [strip for strip in strips if len(strip.rows)]
    rows = _SHEET_ROWS if len(strips) == 1 else 1
    size = _fitting(data, _FACE)
    # Words below a picture may be wider than it.
    gap = (_WIDTH - 2 * _EDGE - _SHEET * size) // (_SHEET - 1)
    below = 76  # two lines of words
    heights = []
    for strip in shown:
        used = min(rows, -(-len(strip.rows) // _SHEET))
        heights.append((44 if strip.title else 0) + used * (size + below))
    height = _EDGE + sum(heights)
    figure = Figure(figsize=(_WIDTH / _PER_INCH, height / _PER_INCH))
    # One for all pictures, in pixels: to make one for each takes as long as to draw the sheet.
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, _WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    figure.suppressComposite = True  # else the SVG would have one picture of all, made coarse
    order = np.argsort(data.samples.rows)
    top = 10
    for strip, used in zip(shown, heights, strict=True):
        y = top
        if strip.title:
            text = f"{strip.title}: {count(len(strip.rows), 'sample')}"
            figure.text(_EDGE / _WIDTH, 1 - (y + 8) / height, text, size=9, weight="bold", va="top")
            y += 44
        at = order[np.searchsorted(data.samples.rows[order], strip.rows[: rows * _SHEET])]
        for i, (index, given) in enumerate(zip(at, strip.given, strict=False)):
            x = _EDGE + (i % _SHEET) * (size + gap)
            bottom = y + (i // _SHEET) * (size + below) + size
            _show(axes, data, index, (x, bottom - size, size))
            label = names[data.samples.labels[index]]
            words: dict[str, Any] = {"ha": "center", "va": "top", "size": 8}
            middle = (x + size / 2) / _WIDTH
            is_label = f"is {_cut(label, 12)}"
            figure.text(middle, 1 - (bottom + 6) / height, is_label, **words)
            said = names[given]
            good = said == label
            text, colour = ("right", "#006b4f") if good else (f"said {_cut(said, 11)}", "#a83c00")
            figure.text(middle, 1 - (bottom + 34) / height, text, color=colour, **words)
        top += used
    return figure


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _fitting(data: Data, most: int) -> int:
    """The side of a cell of at most `most` pixels in which a picture's pixels are whole ones."""
    side = max(data.size)
    return most // side * side or most


def _cells(
    caption: str, rows: int, columns: int, size: int, *, top: int = 56, blocks: int = 0
) -> tuple[Figure, list[list[Axes]]]:
    """A figure and its square cells, empty.

    Args:
        caption: above the figure, in the upper `top` pixels.
        rows: of cells, in each block.
        columns: of cells.
        size: of a cell, in pixels.
        top: room for the caption.
        blocks: how many blocks of `rows` rows there are, of which the first row alone has room for
            titles; 0 means one block whose rows all have.
    """
    gap = min(16, (_WIDTH - 2 * _EDGE - columns * size) // max(columns - 1, 1))
    left = (_WIDTH - columns * size - (columns - 1) * gap) // 2
    titled = [not blocks or row % rows == 0 for row in range(rows * max(blocks, 1))]
    # The upper edge of each row.
    edges = [top + sum(titled[: i + 1]) * _TITLE + i * (size + gap) for i in range(len(titled))]
    height = edges[-1] + size + _EDGE
    figure = Figure(figsize=(_WIDTH / _PER_INCH, height / _PER_INCH))
    figure.suptitle(caption, fontsize=10, y=1 - 10 / height)

    def cell(row: int, column: int) -> Axes:
        x, bottom = left + column * (size + gap), height - edges[row] - size
        axes = figure.add_axes(
            (x / _WIDTH, bottom / height, size / _WIDTH, size / height),
            label=f"{row} {column}",
        )
        axes.set_axis_off()
        return axes

    return figure, [[cell(row, column) for column in range(columns)] for row in range(len(titled))]


def _show(
    axes: Axes, data: Data, index: int, square: tuple[float, float, float] | None = None
) -> None:
    """Draws the picture of a sample.

    Args:
        axes: what it is drawn on.
        data: has the pictures.
        index: of the sample.
        square: left, top and size of the square of the axes in which it is centred; None makes a
            square of the axes, whose units are then the picture's pixels.
    """
    (height, width), side = data.size, max(data.size)
    extent = None
    if square is not None:
        left, top, size = square
        x, y, scale = left + size / 2, top + size / 2, size / side / 2
        extent = (x - width * scale, x + width * scale, y + height * scale, y - height * scale)
    # The cell is a square already; aspect="equal" would fit it anew and could round it.
    axes.imshow(
        data.picture(index),
        cmap="gray",
        vmin=0,
        vmax=1,
        interpolation="nearest",
        aspect="auto",
        extent=extent,
    )
    if square is None:
        x, y = (width - 1) / 2, (height - 1) / 2
        axes.set(xlim=(x - side / 2, x + side / 2), ylim=(y + side / 2, y - side / 2))


def _mark(axes: Axes, points: np.ndarray, size: tuple[int, int]) -> list[Any]:
    """Draws landmarks (P, 2), in pixels, over a picture; returns the handles of a legend."""
    height, width = size
    side = max(size)
    x, y = (width - 1) / 2, (height - 1) / 2 + _LOWERED * side
    # A point beyond the window widens it: none is left out.
    reach = max(_WIDER * side / 2, float(np.abs(points - (x, y)).max()) + 1)
    axes.set(xlim=(x - reach, x + reach), ylim=(y + reach, y - reach))
    return list(_lines(axes, points))


def _lines(axes: Axes, points: np.ndarray) -> Iterator[Any]:
    style: dict[str, Any] = {
        "linewidth": 0.6,
        "markersize": 2.6,
        "markeredgecolor": "black",
        "markeredgewidth": 0.3,
    }
    if points.shape != LANDMARKS.shape:  # no face's
        style |= {"linewidth": 0, "markersize": 5}
        yield from axes.plot(*points.T, color="#FFFFFF", marker="o", **style)
        return
    for region, where in FACE_REGIONS.items():
        colour, marker = _MARKS[region]
        label = region.replace("_", " ")
        yield from axes.plot(*points[where].T, color=colour, marker=marker, label=label, **style)

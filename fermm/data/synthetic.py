"""Synthetic faces: drawn 48x48 faces with exact landmarks and one of the seven emotions.

A face is a 3-D point model: the 68 landmarks of the iBUG 300-W mark-up (Sagonas et al., 2016) and
seven points of the hairline. Identity and facial action units (FACS: Ekman & Friesen, 1978) move
its points, a pose projects them, and everything in the picture is painted from the projected
points, so the landmarks are exact by construction. Which action units tell which emotion follows
EMFACS (Friesen & Ekman, 1983).

Each modality holds something the other lacks: furrows, crow's feet, teeth and lip tone are only in
the picture, and small moves of brows and lip corners drown in its noise. The drawings serve to
exercise and compare code: nothing measured on them says anything about real faces.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from fermm.errors import InputError
from fermm.faces import EMOTIONS, IMAGE_SIZE, MIRRORED_POINTS, POINTS, face_samples
from fermm.samples import UNKNOWN_SPLIT, Samples

BLOCK = 128  # faces drawn from one random stream; small enough for the caches

EMOTION_UNITS: dict[str, dict[int, float]] = {
    "angry": {4: 1.0, 5: 0.6, 7: 0.8, 23: 0.9, 24: 0.5},
    "disgust": {9: 1.0, 10: 0.5, 15: 0.5, 16: 0.5},
    "fear": {1: 0.9, 2: 0.6, 4: 0.5, 5: 1.0, 7: 0.3, 20: 0.9, 25: 0.6, 26: 0.4},
    "happy": {6: 0.9, 12: 1.0, 25: 0.9},
    "sad": {1: 0.9, 4: 0.6, 15: 1.0},
    "surprise": {1: 0.9, 2: 1.0, 5: 0.8, 26: 1.0},
    "neutral": {},
}
"""Emotion to its action units and their weights; 1 is a unit at full strength."""

# A move is (points, outward, down) in pixels of a face of scale 1. It is given for the picture's
# left half and the midline, and mirrored onto the right half.
_Moves = tuple[tuple[tuple[int, ...], float, float], ...]

# fmt: off
UNIT_MOVES: dict[int, _Moves] = {
    # Inner and outer brow raiser, brow lowerer.
    1: (((21,), 0.0, -2.4), ((20,), 0.0, -1.8), ((19,), 0.0, -0.8)),
    2: (((17,), 0.0, -1.8), ((18,), 0.0, -2.4), ((19,), 0.0, -1.8)),
    4: (((20, 21), -1.0, 1.9), ((19,), -0.6, 1.5), ((18,), -0.3, 0.8)),
    # Upper lid raiser, cheek raiser, lid tightener.
    5: (((37, 38), 0.0, -1.1), ((40, 41), 0.0, 0.2)),
    6: (((40, 41), 0.0, -0.7), ((36,), 0.0, 0.2)),
    7: (((40, 41), 0.0, -0.6), ((37, 38), 0.0, 0.5)),
    # Nose wrinkler, upper lip raiser.
    9: (((31,), 0.3, -1.0), ((30, 32, 33), 0.0, -0.7), ((20, 21), -0.3, 0.9),
        ((49, 50, 51, 61, 62), 0.0, -0.7)),
    10: (((49,), 0.0, -0.8), ((50, 51), 0.0, -1.3), ((61, 62), 0.0, -1.2)),
    # Lip corner puller and depressor, lower lip depressor, lip stretcher.
    12: (((48, 60), 2.1, -2.4), ((49, 59), 1.3, -1.1), ((61, 67), 0.6, -0.2),
         ((50, 51), 0.0, 0.2)),
    15: (((48, 60), 0.2, 2.0), ((49,), 0.1, 0.8), ((59,), 0.2, 1.1)),
    16: (((56, 57, 58), 0.0, 1.2), ((59,), 0.0, 0.7), ((66, 67), 0.0, 1.2)),
    20: (((48, 60), 2.0, 0.5), ((49, 59), 1.2, 0.2), ((58, 67), 0.5, 0.3)),
    # Lip tightener, lip pressor, lips part, jaw drop.
    23: (((48, 60), -0.9, 0.0), ((49,), -0.3, 0.3), ((50, 51), 0.0, 0.6), ((57, 58), 0.0, -0.7),
         ((59,), -0.3, -0.4)),
    24: (((50, 51), 0.0, 0.4), ((57, 58), 0.0, -0.5), ((48, 60), -0.3, 0.0)),
    25: (((50, 51, 61, 62), 0.0, -0.4), ((57, 58, 66, 67), 0.0, 1.6), ((59,), 0.0, 0.8)),
    26: (((6, 7, 8), 0.0, 1.6), ((5,), 0.0, 0.9), ((57, 58, 66, 67), 0.0, 3.8),
         ((59,), -0.2, 2.4), ((48, 60), -0.9, 1.2), ((49,), -0.4, 0.1),
         ((50, 51, 61, 62), 0.0, -0.3)),
}
"""Action unit to the moves of its full strength."""

_BROW = (17, 18, 19, 20, 21)
_EYE = (36, 37, 38, 39, 40, 41)
_LIPS = (48, 49, 50, 51, 57, 58, 59, 60, 61, 62, 66, 67)

# How faces differ at rest: each entry moves by one standard deviation.
_IDENTITY_MOVES: tuple[_Moves, ...] = (
    # Face: width, square jaw, chin, hair line.
    (((0, 1, 2, 68, 69), 0.9, 0.0), ((3, 4), 0.7, 0.0), ((5,), 0.5, 0.0), ((6, 70), 0.3, 0.0)),
    (((3,), 0.4, 0.0), ((4,), 0.8, 0.2), ((5,), 0.9, 0.4), ((6,), 0.6, 0.3)),
    (((6, 7, 8), 0.0, 0.7), ((5,), 0.0, 0.4)),
    (((69,), 0.0, 0.8), ((70, 71), 0.0, 1.3)),
    # Eyes: distance, height in the face, width, opening, slant.
    ((_EYE, 0.4, 0.0), (_BROW, 0.3, 0.0)),
    ((_EYE, 0.0, 0.4),),
    (((36,), 0.5, 0.0), ((39,), -0.3, 0.0)),
    (((37, 38), 0.0, -0.4), ((40, 41), 0.0, 0.25)),
    (((36,), 0.0, 0.35), ((39,), 0.0, -0.15)),
    # Brows: height, slant, arch, distance.
    ((_BROW, 0.0, 1.0),),
    (((17,), 0.0, 0.5), ((18,), 0.0, 0.3), ((20,), 0.0, -0.3), ((21,), 0.0, -0.5)),
    (((18, 20), 0.0, -0.3), ((19,), 0.0, -0.6)),
    (((21,), -0.4, 0.0), ((20,), -0.2, 0.0)),
    # Nose: width, length.
    (((31,), 0.5, 0.0), ((32,), 0.25, 0.0)),
    (((29,), 0.0, 0.3), ((30, 31, 32, 33), 0.0, 0.7)),
    # Mouth: height in the face, width, full lips, resting corners.
    ((_LIPS, 0.0, 0.6),),
    (((48, 60), 1.0, 0.0), ((49, 59), 0.6, 0.0), ((50, 58, 61, 67), 0.2, 0.0)),
    (((50, 51), 0.0, -0.4), ((57, 58), 0.0, 0.5)),
    (((48, 60), 0.0, 0.65), ((49, 59), 0.0, 0.3)),
)

# The mean face at rest, left half and midline: point, x, y from its centre. 68-71: hair line.
_HALF_FACE = (
    (0, -18.0, -4.5), (1, -17.7, 0.0), (2, -17.0, 4.3), (3, -15.8, 8.6), (4, -13.8, 12.7),
    (5, -11.0, 16.2), (6, -7.6, 19.0), (7, -3.9, 20.9), (8, 0.0, 21.5),
    (17, -14.6, -9.4), (18, -12.2, -11.0), (19, -9.3, -11.4), (20, -6.4, -10.9), (21, -3.7, -9.9),
    (27, 0.0, -5.5), (28, 0.0, -2.2), (29, 0.0, 1.0), (30, 0.0, 4.2),
    (31, -3.5, 6.2), (32, -1.8, 6.9), (33, 0.0, 7.4),
    (36, -11.8, -4.8), (37, -9.8, -6.4), (38, -7.4, -6.4),
    (39, -5.2, -4.6), (40, -7.4, -3.6), (41, -9.7, -3.6),
    (48, -7.0, 13.2), (49, -4.4, 11.8), (50, -1.8, 11.0), (51, 0.0, 11.4),
    (57, 0.0, 16.2), (58, -1.9, 16.0), (59, -4.4, 15.1),
    (60, -6.0, 13.2), (61, -2.0, 12.9), (62, 0.0, 13.1), (66, 0.0, 13.4), (67, -2.0, 13.3),
    (68, -17.6, -9.0), (69, -15.2, -14.5), (70, -9.5, -18.6), (71, 0.0, -20.2),
)
_ALL = POINTS + 7
# fmt: on
_MIRROR = np.array([*MIRRORED_POINTS, *range(74, 67, -1)])  # point to its mirror image
_OUTLINE = (*range(17), *range(74, 67, -1))
# Points above, points below and the least distance: strong moves must not push lids or lips through
# each other.
_STACKED = (
    ((37, 38, 43, 44), (41, 40, 47, 46), 0.5),
    ((50, 51, 52), (61, 62, 63), 0.5),
    ((61, 62, 63), (67, 66, 65), 0.2),
    ((67, 66, 65), (58, 57, 56), 0.6),
    ((49, 53), (59, 55), 0.8),
)


def _mirrored(moves: _Moves) -> np.ndarray:
    """The moves of both halves, x and y: float32 (75, 2)."""
    table = np.zeros((_ALL, 2), np.float32)
    for points, outward, down in moves:
        for point in points:
            table[_MIRROR[point]] = (outward, down)
            table[point] = (-outward, down)
    return table


def _face_at_rest() -> np.ndarray:
    """The mean face, float32 (75, 3): x right, y down, z towards the viewer, in pixels."""
    flat = _mirrored(tuple(((point,), -x, y) for point, x, y in _HALF_FACE))
    depth = 9.0 * (1.0 - (flat[:, 0] / 18.0) ** 2) * (1.0 - (flat[:, 1] / 40.0) ** 2)
    depth[27:36] += (0.5, 1.5, 2.8, 4.0, 1.5, 2.3, 2.8, 2.3, 1.5)
    return np.column_stack([flat, depth]).astype(np.float32)


_UNITS = tuple(UNIT_MOVES)
_REST = _face_at_rest()
_BY_UNIT = np.stack([_mirrored(moves) for moves in UNIT_MOVES.values()])
_BY_IDENTITY = np.stack([_mirrored(moves) for moves in _IDENTITY_MOVES])
_WEIGHTS = np.array(
    [[EMOTION_UNITS[name].get(unit, 0.0) for unit in _UNITS] for name in EMOTIONS], np.float32
)


def draw(
    count: int, seed: int = 0, *, spoiled: float = 0.0, occluded: float = 0.1, noise: float = 6.0
) -> Samples:
    """Draws synthetic faces.

    Face i depends on `seed` and the keyword arguments but not on `count`: a larger set extends a
    smaller one. `spoiled` changes landmarks only, `occluded` and `noise` images only.

    Args:
        count: how many faces, at least 1.
        seed: any integer from 0.
        spoiled: probability that a face's landmarks are misplaced as a whole (wrong place, scale
            and roll), as a predictor leaves them that missed the face. See `spoiled_rows`.
        occluded: probability that dark glasses, a lock of hair or a hand hide part of the face.
        noise: mean standard deviation of the pixel noise, in grey levels; each face has its own.

    Returns:
        Samples with labels uniform over EMOTIONS, no official split, rows 0 to count - 1, and
        landmarks, float32 (N, 68, 2), whose integers fall on pixel centres.

    Raises:
        InputError: an argument is out of range.
    """
    spoil = spoiled_rows(count, seed, spoiled)
    if not 0.0 <= occluded <= 1.0:
        raise InputError(f"occluded is {occluded}: give a share from 0 to 1")
    if not 0.0 <= noise < np.inf:
        raise InputError(f"noise is {noise}: give grey levels from 0")
    images = np.empty((count, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    landmarks = np.empty((count, POINTS, 2), np.float32)
    labels = np.empty(count, np.int32)
    for block, start in enumerate(range(0, count, BLOCK)):
        rows = slice(start, min(start + BLOCK, count))
        size = rows.stop - start
        pictures, points, emotions = _draw_block(seed, block, occluded, noise)
        images[rows], labels[rows] = pictures[:size], emotions[:size]
        wrong = _misplace(points, seed, block)[:size]
        landmarks[rows] = np.where(spoil[rows, None, None], wrong, points[:size])
    official = np.full(count, UNKNOWN_SPLIT, np.int8)
    return face_samples(images, labels, official, np.arange(count, dtype=np.int64), landmarks)


def spoiled_rows(count: int, seed: int = 0, spoiled: float = 0.0) -> np.ndarray:
    """Which of `draw`'s faces have misplaced landmarks: bool (count,).

    The rows spoiled at a lower share are among those spoiled at a higher one.
    """
    if count < 1:
        raise InputError(f"count is {count}: ask for at least 1 face")
    if seed < 0:
        raise InputError(f"seed is {seed}: give an integer from 0")
    if not 0.0 <= spoiled <= 1.0:
        raise InputError(f"spoiled is {spoiled}: give a share from 0 to 1")
    chance = np.empty((-(-count // BLOCK), BLOCK))  # where there is no memory, this tells at once
    for block, row in enumerate(chance):
        row[:] = np.random.default_rng((seed, block, 1)).random(BLOCK)
    return chance.ravel()[:count] < spoiled


def _misplace(landmarks: np.ndarray, seed: int, block: int) -> np.ndarray:
    """Landmarks (BLOCK, 68, 2) turned, rescaled and moved far enough to be plainly wrong."""
    rng = np.random.default_rng((seed, block, 2))
    size = (len(landmarks), 1)
    centre = landmarks.mean(1, keepdims=True)
    scale = np.where(rng.random(size) < 0.5, rng.uniform(0.5, 0.8, size), rng.uniform(1, 1.3, size))
    place = rng.uniform(0, 2 * np.pi, size)
    move = rng.uniform(6, 14, size)[..., None] * np.stack([np.cos(place), np.sin(place)], -1)
    turned = _turn(landmarks - centre, rng.uniform(-0.5, 0.5, size))
    return (turned * scale[..., None] + centre + move).astype(np.float32)


def _draw_block(
    seed: int, block: int, occluded: float, noise: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (BLOCK, 48, 48), landmarks (BLOCK, 68, 2) and labels (BLOCK,) of one block."""
    rng = np.random.default_rng((seed, block))
    labels = rng.integers(len(EMOTIONS), size=BLOCK, dtype=np.int32)
    moved, creased = _active_units(rng, labels)
    points = _project(rng, _shape(rng.standard_normal((BLOCK, len(_BY_IDENTITY))), moved))
    images = _photograph(rng, _paint(rng, points, creased, occluded), noise)
    return images, points[:, :POINTS], labels


def _active_units(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """How far each unit of `_UNITS` moves and how deep it creases: float32 (2, N, units), from 0.

    A face shows its emotion more or less strongly, omits some of its units and may show weak ones
    that have nothing to do with it, so the classes overlap. That a unit may move the features
    without marking the skin, or mark it and hardly move, leaves each modality its own evidence.
    """
    size = (2, len(labels), len(_UNITS))
    strength = rng.uniform(0.4, 1.1, (len(labels), 1)) * rng.uniform(0.6, 1.3, size)
    shown = rng.random(size) > [[[0.4]], [[0.2]]]
    stray = rng.uniform(0.0, 0.6, size) * (rng.random(size) < 0.1)
    return np.maximum(_WEIGHTS[labels] * strength * shown, stray).astype(np.float32)


def _shape(identity: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Faces (N, 75, 3) with `identity` (N, modes) in standard deviations and `units` (N, units)."""
    shape = np.repeat(_REST[None], len(units), 0)
    # Not `@`: BLAS may round differently from one machine to the next.
    shape[..., :2] += np.einsum("nk,kpc->npc", identity, _BY_IDENTITY)
    shape[..., :2] += np.einsum("nk,kpc->npc", units, _BY_UNIT)
    for above, below, gap in _STACKED:
        shape[:, below, 1] = np.maximum(shape[:, below, 1], shape[:, above, 1] + gap)
    return shape


def _project(rng: np.random.Generator, shape: np.ndarray) -> np.ndarray:
    """Poses faces (N, 75, 3) and projects them to pixels: float32 (N, 75, 2)."""
    size = (len(shape), 1)
    yaw, pitch, roll = (rng.normal(0.0, spread, size) for spread in (0.12, 0.06, 0.07))
    x, y, z = np.moveaxis(shape, -1, 0)
    x, z = x * np.cos(yaw) + z * np.sin(yaw), z * np.cos(yaw) - x * np.sin(yaw)
    y = y * np.cos(pitch) - z * np.sin(pitch)
    scale = rng.normal(1.04, 0.05, size)[..., None]
    move = rng.normal(0.0, 0.9, (len(shape), 1, 2)) + (IMAGE_SIZE - 1) / 2
    return (_turn(np.stack([x, y], -1), roll) * scale + move).astype(np.float32)


def _turn(points: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Points (N, K, 2) turned by `angle` (N, 1) in radians, clockwise in the picture."""
    x, y = points[..., 0], points[..., 1]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([x * cos - y * sin, x * sin + y * cos], -1)


class _Window:
    """The pixels around a feature: a box of fixed size, placed face by face.

    Attributes:
        pixels: float32 (N, height, width), a copy that `paint` changes and `close` writes back.
        x, y: float32 (N, 1, width) and (N, height, 1), the pixels' places in the frame.
    """

    def __init__(
        self, canvas: np.ndarray, around: np.ndarray, width: int, height: int, blur: np.ndarray
    ) -> None:
        middle = (around.min(1) + around.max(1)) / 2 - ((width - 1) / 2, (height - 1) / 2)
        left, top = np.clip(np.rint(middle).T, 0, [[IMAGE_SIZE - width], [IMAGE_SIZE - height]])
        boxes = sliding_window_view(canvas, (height, width), axis=(1, 2), writeable=True)
        self._boxes = boxes
        self._place = (np.arange(len(canvas)), top.astype(int), left.astype(int))
        self._blur = blur
        self.pixels = boxes[self._place]
        self.x = (left[:, None] + np.arange(width)).astype(np.float32)[:, None, :]
        self.y = (top[:, None] + np.arange(height)).astype(np.float32)[:, :, None]

    def close(self) -> None:
        """Writes the pixels back to the canvas."""
        self._boxes[self._place] = self.pixels

    def cover(self, distance: np.ndarray) -> np.ndarray:
        """Share of each pixel inside a shape, from the signed distance to its edge."""
        return np.clip(0.5 - distance / _per_face(self._blur), 0.0, 1.0)

    def paint(self, cover: np.ndarray, tone: np.ndarray, alpha: np.ndarray | float = 1.0) -> None:
        """Lays `tone` (N,) over the pixels; `alpha`, a number or (N,), counts up to 1."""
        share = cover * _per_face(np.minimum(alpha, 1.0))
        share *= _per_face(tone) - self.pixels
        self.pixels += share

    def stroke(
        self,
        points: np.ndarray,
        half_width: np.ndarray | float,
        tone: np.ndarray,
        alpha: np.ndarray | float = 1.0,
    ) -> None:
        """Paints a polyline (N, K, 2) with round ends."""
        self.paint(self.cover(self.line(points) - _per_face(half_width)), tone, alpha)

    def line(self, points: np.ndarray) -> np.ndarray:
        """Distance to a polyline (N, K, 2)."""
        nearest = np.full(self.pixels.shape, np.inf, np.float32)
        for k in range(1, points.shape[1]):
            np.minimum(nearest, self._square_distance(points, k), out=nearest)
        return np.sqrt(nearest, out=nearest)

    def polygon(self, points: np.ndarray) -> np.ndarray:
        """Signed distance to the edge of a polygon (N, K, 2), negative inside."""
        nearest = np.full(self.pixels.shape, np.inf, np.float32)
        inside = np.zeros(self.pixels.shape, bool)
        for k in range(points.shape[1]):
            np.minimum(nearest, self._square_distance(points, k), out=nearest)
            (x0, y0), (x1, y1) = (
                points[:, k - 1].T[..., None, None],
                points[:, k].T[..., None, None],
            )
            level = np.where(y1 == y0, 1.0, y1 - y0)  # a level edge crosses no row
            crossing = x0 + (self.y - y0) * ((x1 - x0) / level)
            inside ^= self.x < np.where((y0 > self.y) != (y1 > self.y), crossing, -np.inf)
        np.sqrt(nearest, out=nearest)
        return np.negative(nearest, out=nearest, where=inside)

    def _square_distance(self, points: np.ndarray, k: int) -> np.ndarray:
        """Squared distance to the segment from point k - 1 to point k."""
        start, edge = points[:, k - 1], points[:, k] - points[:, k - 1]
        # A segment may be a point, which makes a dot.
        unit = edge / np.maximum((edge**2).sum(1, keepdims=True), 1e-6)
        (ex, ey), (ux, uy) = edge.T[..., None, None], unit.T[..., None, None]
        (dx, dy) = self.x - start[:, :1, None], self.y - start[:, 1:, None]
        along = np.clip(dx * ux + dy * uy, 0.0, 1.0)
        across = dx - along * ex
        across *= across
        along *= -ey
        along += dy
        along *= along
        across += along
        return across


def _per_face(value: np.ndarray | float) -> np.ndarray:
    """A number or (N,) as float32 that broadcasts over (N, height, width)."""
    return np.reshape(np.asarray(value, np.float32), (-1, 1, 1))


def _paint(
    rng: np.random.Generator, points: np.ndarray, creased: np.ndarray, occluded: float
) -> np.ndarray:
    """Paints faces (N, 75, 2) with `creased` units (N, units): float32 (N, 48, 48), 0 to 1."""
    count = len(points)

    def between(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, count).astype(np.float32)

    unit = dict(zip(_UNITS, creased.T, strict=True))
    canvas = np.empty((count, IMAGE_SIZE, IMAGE_SIZE), np.float32)
    canvas[:] = between(0.05, 0.95)[:, None, None]
    blur = between(1.0, 2.2)
    skin = between(0.45, 0.9)
    hair = skin * between(0.05, 0.8)
    line = skin * between(0.35, 0.6)
    white = 0.3 + 0.7 * skin  # of eyes and teeth
    age = between(0.5, 1.0)  # how deep any wrinkle shows
    right = points[:, 45] - points[:, 36]
    right = (right / np.hypot(*right.T)[:, None])[:, None]
    down = np.stack([-right[..., 1], right[..., 0]], -1)

    # Hair, neck and the bare face.
    window = _Window(canvas, points, IMAGE_SIZE, IMAGE_SIZE, blur)
    crown = points[:, [0, 16, 71]].mean(1)[:, :, None, None]
    wide, high = between(19.5, 24.0)[:, None, None], between(15.0, 30.0)[:, None, None]
    radius = np.hypot((window.x - crown[:, 0]) / wide, (window.y - crown[:, 1]) / high)
    window.paint(window.cover((radius - 1.0) * 18.0), hair)
    neck = points[:, 8:9] - 6.0 * down
    window.stroke(np.concatenate([neck, neck + 20.0 * down], 1), between(8.0, 11.0), skin * 0.7)
    depth = window.polygon(points[:, _OUTLINE])
    window.paint(window.cover(depth), skin)
    rim = np.clip(1.0 + depth / 8.0, 0.0, 1.0)
    window.paint(rim * rim * (depth < 0.5), line, between(0.2, 0.5))
    window.close()

    # Forehead lines.
    window = _Window(canvas, points[:, [19, 24]], 28, 9, blur)
    for rise in (2.6, 4.6):
        window.stroke(points[:, [18, 19, 24, 25]] - rise * down, 0.45, line, age * unit[1])
    window.close()

    # Eyes with brows, crow's feet and the fold under a raised cheek.
    brow_tone = np.minimum(hair, 0.7 * skin)
    brow_tone += between(0.0, 0.6) * (skin - brow_tone)
    brow_width = between(0.5, 1.3)
    iris_tone = skin * between(0.1, 0.5)
    gaze = rng.normal(0.0, 0.4, (count, 2)).astype(np.float32)
    for side, outward in ((np.arange(_ALL), -right), (_MIRROR, right)):
        eye, brow = points[:, side[list(_EYE)]], points[:, side[list(_BROW)]]
        window = _Window(canvas, np.concatenate([eye, brow], 1), 20, 18, blur)
        socket = window.line(eye[:, [0, 3]] - 0.8 * down)
        window.paint(np.clip(1.0 - socket / 5.0, 0.0, 1.0), line, 0.35)
        opening = window.cover(window.polygon(eye))
        window.paint(opening, white)
        at = (eye[:, [0, 3]].mean(1) - 0.5 * down[:, 0] + gaze)[:, :, None, None]
        iris = np.hypot(window.x - at[:, 0], window.y - at[:, 1]) - 1.5
        window.paint(window.cover(iris) * opening, iris_tone)
        window.stroke(eye[:, :4], 0.35, line * 0.5, 0.8)
        window.stroke(eye[:, [3, 4, 5, 0]], 0.2, line, 0.5)
        window.stroke(brow, brow_width, brow_tone, 0.95)
        corner = eye[:, :1] + 1.4 * outward
        for drop in (-1.8, 0.2, 2.2):
            foot = np.concatenate([corner, corner + 3.2 * outward + drop * down], 1)
            window.stroke(foot, 0.4, line, 1.2 * age * unit[6])
        window.stroke(eye[:, [4, 5]] + 2.0 * down, 0.4, line, 0.6 * age * unit[6])
        window.close()

    # Nose, its wrinkles and the furrows between the brows.
    window = _Window(canvas, points[:, [21, 22, 27, 33]], 14, 24, blur)
    shade = window.line(points[:, 27:31] + 1.2 * right)
    window.paint(np.clip(1.0 - shade / 2.2, 0.0, 1.0), line, between(0.1, 0.5))
    window.stroke(points[:, 31:36], 0.3, line, 0.5)
    for nostril in (32, 34):
        window.stroke(points[:, [nostril, nostril]], 0.7, line * 0.4, 0.7)
    for along in (0.2, 0.7):
        root = points[:, 27:28] + along * (points[:, 28:29] - points[:, 27:28])
        wrinkle = np.concatenate([root - 2.2 * right - down, root, root + 2.2 * right - down], 1)
        window.stroke(wrinkle, 0.5, line, 1.2 * age * unit[9])
        furrow = points[:, 21:22] + (0.2 + 0.6 * along) * (points[:, 22:23] - points[:, 21:22])
        furrow = np.concatenate([furrow - 1.6 * down, furrow + 2.0 * down], 1)
        window.stroke(furrow, 0.45, line, 1.2 * age * unit[4])
    window.close()

    # Folds from the nose to the lip corners, and below depressed corners.
    window = _Window(canvas, points[:, [31, 48, 54, 57]], 26, 18, blur)
    fold = np.maximum(unit[12], 0.8 * np.maximum(unit[9], unit[10]))
    for wing, end, outward in ((31, 48, -right), (35, 54, right)):
        start, corner = points[:, [wing]] + 1.2 * outward, points[:, [end]] + 2.0 * outward
        crease = np.concatenate([start, 0.5 * (start + corner) + 0.4 * outward, corner], 1)
        window.stroke(crease, 0.4, line, age * (0.2 + 0.7 * fold))
        droop = np.concatenate([corner - outward + 0.5 * down, corner + 3.2 * down], 1)
        window.stroke(droop, 0.45, line, 0.9 * age * unit[15])
    window.close()

    # Lips, pale when pressed; the open mouth, dark or with teeth.
    window = _Window(canvas, points[:, 48:POINTS], 24, 18, blur)
    lip = skin * between(0.6, 0.85)
    lip += 0.8 * np.minimum(unit[23] + unit[24], 1.0) * (skin - lip)
    window.stroke(points[:, [59, 58, 56, 55]] + 1.4 * down, 0.3, line, 0.3)
    window.paint(window.cover(window.polygon(points[:, 48:60])), lip)
    opening = window.cover(window.polygon(points[:, 60:POINTS]))
    window.paint(opening, 0.15 * skin)
    gape = np.linalg.norm(points[:, 66] - points[:, 62], axis=1)
    bared = np.minimum(1.3 * unit[12] + unit[10] + unit[16] + 0.6 * unit[20], 1.0)
    bared *= np.clip(gape - 0.4, 0.0, 1.0)
    upper = window.line(points[:, 60:65])
    window.paint(opening * window.cover(upper - 1.6), white, bared)
    window.paint(window.cover(upper - 0.3), line * 0.6, 0.7 * (1.0 - bared))
    window.close()

    window = _Window(canvas, points, IMAGE_SIZE, IMAGE_SIZE, blur)
    _occlude(rng, window, points, (0.1 * skin, hair, 0.9 * skin), occluded)
    return window.pixels


def _occlude(
    rng: np.random.Generator,
    window: _Window,
    points: np.ndarray,
    tones: tuple[np.ndarray, ...],
    share: float,
) -> None:
    """Hides part of a `share` of the faces: dark glasses, a lock of hair or a hand.

    Each is two thick lines; `tones`, each (N,), go with them in that order.
    """
    count = len(points)
    hidden, kind = rng.random(count) < share, rng.integers(3, size=count)
    reach = rng.normal(0.0, 3.0, (count, 1, 2)).astype(np.float32)
    glasses = points[:, [36, 39, 42, 45]]
    lock = np.where(reach[..., :1] < 0, points[:, [70, 17, 71, 18]], points[:, [71, 25, 72, 26]])
    wrist = reach + np.array([0.0, 30.0], np.float32)
    hand = points[:, [59, 59, 57, 57]] + np.where([[0], [1], [0], [1]], reach + wrist, reach)
    chosen = (kind, np.arange(count))
    ends = np.stack([glasses, lock, hand])[chosen]
    half_width = np.array([3.0, 2.5, 3.0])[kind]
    for pair in (ends[:, :2], ends[:, 2:]):
        window.stroke(pair, half_width, np.stack(tones)[chosen], hidden)


def _photograph(rng: np.random.Generator, canvas: np.ndarray, noise: float) -> np.ndarray:
    """Lights the canvas (N, 48, 48), adds noise and rounds it: uint8."""
    size = (len(canvas), 1, 1)
    place = np.linspace(-1.0, 1.0, IMAGE_SIZE, dtype=np.float32)
    across, along = rng.normal(0.0, 0.2, (2, *size)).astype(np.float32)
    gain = rng.uniform(170.0, 280.0, size).astype(np.float32)
    light = gain * (1.0 + across * place + along * place[:, None])
    grain = rng.standard_normal(canvas.shape, np.float32)
    grain *= (noise * rng.uniform(0.3, 1.7, size)).astype(np.float32)
    return np.rint(np.clip(canvas * light + grain, 0.0, 255.0)).astype(np.uint8)

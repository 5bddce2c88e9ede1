"""What every source of faces is turned into, and the names of the field."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from fermm.errors import InputError

EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""The seven classes in FER2013's order: a label is an index into this tuple."""

EMOTION_WORDS = {name: i for i, name in enumerate(EMOTIONS)} | {
    **dict.fromkeys(("anger", "angrily"), 0),
    **dict.fromkeys(("disgusted", "disgustedly"), 1),
    **dict.fromkeys(("fearful", "fearfully", "afraid", "scared"), 2),
    **dict.fromkeys(("happiness", "happily"), 3),
    **dict.fromkeys(("sadness", "sadly"), 4),
    **dict.fromkeys(("surprised", "surprising", "suprise"), 5),  # the last is a frequent misprint
    **dict.fromkeys(("neutrality", "neutrally"), 6),
}
"""The words, in lower case, by which data sets call the emotions, and the label of each."""

USAGES = ("Training", "PublicTest", "PrivateTest")
"""The parts of the FER2013 challenge: `Faces.usage` indexes it, or is UNKNOWN_USAGE."""

UNKNOWN_USAGE = -1
IMAGE_SIZE = 48  # pixels, both sides
POINTS = 68  # iBUG 300-W mark-up


class Rejected(NamedTuple):
    """A row or a picture of a source that was set aside.

    Attributes:
        place: where it stands in the source: "line 4", or the name of the picture.
        reason: what is wrong with it, and what to do about it.
    """

    place: str
    reason: str


class Origin(NamedTuple):
    """How landmarks came about.

    Attributes:
        method: of `fermm.data.landmarks.extract`; "" if they are from a file, or synthetic.
        predictor: SHA-256 of the predictor that found them, in hexadecimal; "" if none did.
    """

    method: str = ""
    predictor: str = ""


UNKNOWN_ORIGIN = Origin()


@dataclasses.dataclass(frozen=True)
class Faces:
    """Face images with their emotion and, once extracted, their landmarks.

    Attributes:
        images: uint8 (N, 48, 48), grey levels.
        labels: int32 (N,), index into EMOTIONS.
        usage: int8 (N,), index into USAGES, or UNKNOWN_USAGE where the source does not tell.
        rows: int64 (N,), 0-based position of the face in its source (a CSV's first data row is 0);
            what was set aside is counted.
        landmarks: float32 (N, 68, 2), x and y in pixels of the 48x48 frame, or None.
        rejected: what of the source was set aside, in its order; its other rows are the N faces.
        origin: how the landmarks came about.

    Where data is streamed, `images` and `landmarks` are a `fermm.data.stream.Column`, of which rows
    are taken as of an array.
    """

    images: np.ndarray
    labels: np.ndarray
    usage: np.ndarray
    rows: np.ndarray
    landmarks: np.ndarray | None = None
    rejected: tuple[Rejected, ...] = ()
    origin: Origin = UNKNOWN_ORIGIN

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "Faces":
        """The faces at `indices` (int (M,)), in that order, without what was set aside."""
        return Faces(
            self.images[indices],
            self.labels[indices],
            self.usage[indices],
            self.rows[indices],
            None if self.landmarks is None else self.landmarks[indices],
            origin=self.origin,
        )


def as_images(images: Any) -> np.ndarray:
    """Face images as users hold them -> uint8 (N, 48, 48).

    Args:
        images: (N, 48, 48), (N, 48, 48, 1), or one face, (48, 48) or (48, 48, 1): an array or
            nested lists of integers from 0 to 255.

    Raises:
        InputError: another shape, a value that is no grey level, or a type other than integers:
            of floats it is not known whether they go to 1 or to 255.
    """
    need = f"give integers from 0 to 255, (N, {IMAGE_SIZE}, {IMAGE_SIZE}), grey levels"
    images = _as_array("images", images, need)
    seen = f"images are {images.dtype} {images.shape}"
    if images.ndim > 2 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.ndim == 2:
        images = images[None]
    if images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE):
        raise InputError(f"{seen}; {need}")
    if images.dtype.kind not in "iu":
        hint = ""
        if images.dtype.kind == "f" and images.size:
            low, high = images.min(), images.max()
            if low >= 0 and high <= 1:
                hint = "; if 1 is white, (255 * images).round().astype('uint8') makes them so"
            elif low >= 0 and high <= 255 and (images == images.round()).all():
                hint = "; images.astype('uint8') makes them so"
        raise InputError(f"{seen}; {need}{hint}")
    if images.dtype != np.uint8:
        outside = (images < 0) | (images > 255)
        if outside.any():
            row, y, x = np.argwhere(outside)[0]
            raise InputError(f"{seen}, and row {row} has {images[row, y, x]} at [{y}, {x}]; {need}")
    return images.astype(np.uint8, copy=False)


def as_landmarks(landmarks: Any) -> np.ndarray:
    """Landmarks as users hold them -> float32 (N, 68, 2).

    Args:
        landmarks: (N, 68, 2), or those of one face, (68, 2): an array or nested lists of numbers,
            x and y in pixels.

    Raises:
        InputError: another shape or type, or a number that is not finite, whose row is named.
    """
    need = f"give numbers, (N, {POINTS}, 2), x and y in pixels"
    landmarks = _as_array("landmarks", landmarks, need)
    seen = f"landmarks are {landmarks.dtype} {landmarks.shape}"
    if landmarks.ndim == 2:
        landmarks = landmarks[None]
    if landmarks.shape[1:] != (POINTS, 2) or landmarks.dtype.kind not in "iuf":
        raise InputError(f"{seen}; {need}")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
        narrow = landmarks.astype(np.float32, copy=False)
    good = np.isfinite(narrow)
    if not good.all():
        row, point, axis = np.argwhere(~good)[0]
        rows = (~good).any((1, 2)).sum()
        others = f" ({rows} rows have such numbers)" if rows > 1 else ""
        raise InputError(
            f"landmarks: row {row}, point {point}: {'xy'[axis]} is {landmarks[row, point, axis]}, "
            f"not a finite number{others}; leave the face out, or find its landmarks again"
        )
    return narrow


def _as_array(what: str, values: Any, need: str) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError:
        raise InputError(f"{what}: lists of different lengths; {need}") from None

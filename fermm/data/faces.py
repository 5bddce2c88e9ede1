"""What every source of faces is turned into, and the names of the field."""

import dataclasses
from typing import NamedTuple

import numpy as np

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

    Where data is streamed, `images` and `landmarks` are a `fermm.data.stream.Column`, of which rows
    are taken as of an array.
    """

    images: np.ndarray
    labels: np.ndarray
    usage: np.ndarray
    rows: np.ndarray
    landmarks: np.ndarray | None = None
    rejected: tuple[Rejected, ...] = ()

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
        )

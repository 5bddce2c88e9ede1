"""Facts about face images and their 68 landmarks, written once."""

import numpy as np

from fermm.samples import UNKNOWN_ORIGIN, Feature, Origin, Rejected, Samples

IMAGE_SIZE = 48  # pixels, both sides
POINTS = 68  # iBUG 300-W mark-up

IMAGES = Feature((IMAGE_SIZE, IMAGE_SIZE), "uint8", "grey levels", 0, 255)
LANDMARKS = Feature((POINTS, 2), "float32", "x and y in pixels")

FEATURES = {"images": IMAGES, "landmarks": LANDMARKS}
"""The features of a face, by the names that networks know them by."""

EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""The seven classes of FER2013 in its order."""

FACE_REGIONS = {
    "jaw": slice(0, 17),
    "right_brow": slice(17, 22),
    "left_brow": slice(22, 27),
    "nose": slice(27, 36),
    "right_eye": slice(36, 42),
    "left_eye": slice(42, 48),
    "mouth": slice(48, 61),
    "lips": slice(61, 68),
}
"""The paper's face regions. In the iBUG 300-W mark-up the inner lip begins at 60, not 61: listing 5
is off by one there, and a faithful network keeps its slices. (Listing 5 also swaps the names of the
brows; here, as in iBUG, `right` is the subject's right.)"""

MIRRORED_POINTS = (
    *range(16, -1, -1),
    *range(26, 16, -1),
    *(27, 28, 29, 30, 35, 34, 33, 32, 31),
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),
    *(64, 63, 62, 61, 60, 67, 66, 65),
)
"""Which point of a face is at each place of the mirrored face: its left eye is on the right."""


def face_samples(
    images: np.ndarray,
    labels: np.ndarray,
    official: np.ndarray,
    rows: np.ndarray,
    landmarks: np.ndarray | None = None,
    rejected: tuple[Rejected, ...] = (),
    origin: Origin = UNKNOWN_ORIGIN,
    classes: tuple[str, ...] = EMOTIONS,
) -> Samples:
    """Samples of face images, with their landmarks if these are known.

    Args:
        images: uint8 (N, 48, 48).
        labels: int32 (N,), index into `classes`.
        official: int8 (N,), see `Samples`.
        rows: int64 (N,), see `Samples`.
        landmarks: float32 (N, 68, 2), or None.
        rejected, origin: see `Samples`.
        classes: names of the classes.

    Returns:
        N samples, of which two are duplicates if their images are equal pixel by pixel.
    """
    columns = {"images": images} | ({} if landmarks is None else {"landmarks": landmarks})
    return Samples(
        columns,
        {name: FEATURES[name] for name in columns},
        labels,
        classes,
        rows,
        official,
        ("images",),
        rejected=rejected,
        origin=origin,
    )

"""Which faces train, validate and test a network, and what each class weighs."""

import difflib
import hashlib
from collections.abc import Callable

import numpy as np

from fermm.data import stream
from fermm.data.faces import EMOTIONS, UNKNOWN_USAGE, USAGES, Faces
from fermm.errors import InputError

NAMES = ("train", "validation", "test")


def split(faces: Faces, kind: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Divides the faces into train, validation and test.

    Args:
        faces: N faces.
        kind: "paper" (section 5.3): all faces pooled, shuffled, 70%, 20%, 10%, whatever their
            usage. Copies of one image may stand on two sides.
            "official": the parts of the challenge: Training, PublicTest, PrivateTest.
            "grouped": like "paper", but images that are pixel by pixel the same stand on the
            same side: groups of copies are shuffled, and where a group comes to stand does not
            depend on its size. Each part's size is the paper's within the largest group.
        seed: Of the shuffle, 0 in the paper; "official" ignores it.

    Returns:
        For "train", "validation" and "test", int64 indices into `faces`: none missing, none twice.

    Raises:
        InputError: unknown kind or seed, a part would be empty, or "official" without usages.
    """
    if kind not in _KINDS:
        near = difflib.get_close_matches(str(kind), _KINDS, n=1, cutoff=0.0)[0]
        raise InputError(
            f"unknown split {kind!r}: did you mean {near!r}? There are {', '.join(KINDS)}"
        )
    if not 0 <= seed < 2**32:
        raise InputError(f"split seed {seed} is not in 0 to 2**32 - 1: choose another")
    parts = dict(zip(NAMES, _KINDS[kind](faces, seed), strict=True))
    for name, indices in parts.items():
        if not len(indices):
            remedy = "give more data"
            if kind == "official":
                usage = USAGES[NAMES.index(name)]
                remedy = f"it takes the {usage} faces, of which there are none; use split 'grouped'"
            raise InputError(
                f"split {kind!r} of {len(faces)} faces leaves no face for {name}: {remedy}"
            )
    return parts


def _paper(faces: Faces, seed: int) -> list[np.ndarray]:
    return np.split(_shuffled(faces, seed), _cuts(len(faces)))


def _official(faces: Faces, seed: int) -> list[np.ndarray]:
    del seed
    unknown = np.flatnonzero(faces.usage == UNKNOWN_USAGE)
    if len(unknown):
        raise InputError(
            f"split 'official' needs the usage of every face, unknown for {len(unknown)} of "
            f"{len(faces)} (the first is row {faces.rows[unknown[0]]}): use the CSV with its "
            "column Usage, or folders train, val and test, or files named Training_*, PublicTest_* "
            "and PrivateTest_* that do not contradict their folders, or split 'paper' or 'grouped'"
        )
    return [np.flatnonzero(faces.usage == usage) for usage in range(len(USAGES))]


def _grouped(faces: Faces, seed: int) -> list[np.ndarray]:
    order = _shuffled(faces, seed)
    # A group stands where one of its members does, the first of the source. If it were the member
    # that the shuffle puts first, large groups would come before small ones.
    place = np.empty(len(faces), np.int64)
    place[order] = np.arange(len(faces))
    places = place[identical(faces.images)[order]]
    together = np.argsort(places, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(places[together])) + 1, len(faces))
    cuts = [ends[np.argmin(np.abs(ends - cut))] for cut in _cuts(len(faces))]
    return np.split(order[together], cuts)


_KINDS: dict[str, Callable[[Faces, int], list[np.ndarray]]] = {
    "paper": _paper,
    "official": _official,
    "grouped": _grouped,
}
KINDS = tuple(_KINDS)


def _shuffled(faces: Faces, seed: int) -> np.ndarray:
    # The paper's `pandas.DataFrame.sample(frac=1, random_state=seed)` draws this permutation.
    return np.random.RandomState(seed).permutation(len(faces)).astype(np.int64)


def _cuts(total: int) -> list[int]:
    """Where validation and test begin among `total` shuffled faces, rounded as in the paper."""
    validation, test = int(np.round(0.2 * total)), int(np.round(0.1 * total))
    return [total - validation - test, total - test]


def digests(images: np.ndarray) -> np.ndarray:
    """Tells images by their pixels.

    Args:
        images: uint8 (N, ...), in memory or a `stream.Column`.

    Returns:
        uint64 (N,), the same for images that are pixel by pixel the same: BLAKE2b of 64 bits, by
        which two of a million others are taken for one with a chance of 1 to 4e7.
    """
    # In blocks, for `images` may lie on disk.
    found = b"".join(
        hashlib.blake2b(image, digest_size=8).digest()
        for start in range(0, len(images), stream.BLOCK)
        for image in np.ascontiguousarray(images[start : start + stream.BLOCK])
    )
    return np.frombuffer(found, "<u8").astype(np.uint64)


def identical(images: np.ndarray) -> np.ndarray:
    """Tells which images are pixel by pixel the same.

    Args:
        images: uint8 (N, ...), in memory or a `stream.Column`.

    Returns:
        int64 (N,), for every image the index of the first one that equals it.
    """
    return first_of_equals(digests(images))


def first_of_equals(values: np.ndarray) -> np.ndarray:
    """For every one of `values` (N,) the index of the first that equals it, int64 (N,)."""
    _, first, group = np.unique(values, return_index=True, return_inverse=True)
    return first[group].astype(np.int64)


def class_weights(labels: np.ndarray) -> np.ndarray:
    """What a sample of each class weighs in the loss: table 1 of the paper, unrounded.

    Args:
        labels: int (N,), index into EMOTIONS.

    Returns:
        float64 (7,), the count of the most frequent class over the count of each.

    Raises:
        InputError: a class has no samples, so that its weight would be infinite.
    """
    counts = np.bincount(labels, minlength=len(EMOTIONS))
    if not counts.all():
        name = EMOTIONS[int(np.argmin(counts))]
        raise InputError(
            f"class {name!r} has no samples among {len(labels)}, so it has no weight: "
            "give more data or switch the class weights off"
        )
    return counts.max() / counts

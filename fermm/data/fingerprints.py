"""Whether faces are FER2013's, and whether they stand in its order.

The package holds a fingerprint of each row of FER2013 and no picture: 29 bits of a digest of the
pixels, and the label. The lengths, the names of files and the usages tell nothing here: the rows of
a CSV may have been shuffled, and the numbers in the names of the well-known image folders
(`Training_10118481.jpg`) are random.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

FACES = 35_887
"""The number of FER2013's faces."""

IN_ORDER = "all of FER2013, in its order"
REORDERED = "all of FER2013, in another order"
OTHER = "other faces"

_TABLE = Path(__file__).with_name("fer2013_fingerprints.npy")
_LABEL_BITS = 3
# In place of the fingerprint of a row that is not known to the bit: no label is 7.
_UNCERTAIN = np.uint32(2**_LABEL_BITS - 1)


class Recognised(NamedTuple):
    """What some faces have in common with FER2013.

    Attributes:
        kind: IN_ORDER, REORDERED or OTHER.
        known: how many of the faces are FER2013's: pixel by pixel, with its label.
    """

    kind: str
    known: int


@functools.cache
def table() -> np.ndarray:
    """The fingerprints of FER2013's rows in its order, uint32 (35887,).

    The 175 rows that are not known to the bit (nearly all are pictures without a face) have one
    that no face has.
    """
    return np.load(_TABLE, allow_pickle=False)


def fingerprints(digests: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What tells a face with its label from others.

    Args:
        digests: uint64 (N,), of the pixels, see `fermm.data.splits.digests`.
        labels: int (N,), index into EMOTIONS.

    Returns:
        uint32 (N,). Two other images with the same label have the same with a chance of 2e-9.
    """
    high = (digests >> np.uint64(32)).astype(np.uint32)
    return high & ~_UNCERTAIN | labels.astype(np.uint32)


def first_foreign_row(digests: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> int | None:
    """The index of the first face that is known not to be FER2013's row of its number, or None.

    Args:
        digests: uint64 (N,), of the pixels, see `fermm.data.splits.digests`.
        labels: int (N,), index into EMOTIONS.
        rows: int (N,), the row that each face is said to be.
    """
    known = table()
    inside = rows < len(known)
    expected = known[np.where(inside, rows, 0)]
    foreign = ~inside | ((expected != _UNCERTAIN) & (fingerprints(digests, labels) != expected))
    return int(foreign.argmax()) if foreign.any() else None


def recognise(digests: np.ndarray, labels: np.ndarray) -> Recognised:
    """Says whether faces are FER2013's, and in its order.

    Args:
        digests: uint64 (N,), of the pixels, see `fermm.data.splits.digests`.
        labels: int (N,), index into EMOTIONS.

    Returns:
        IN_ORDER if there are as many faces as FER2013 has and each stands in the row that it has
        there; REORDERED if there are as many and all are there. The uncertain rows may be anything.
    """
    found, rows = fingerprints(digests, labels), table()
    certain = rows != _UNCERTAIN
    wanted, counts = np.unique(rows[certain], return_counts=True)
    # Copies of an image, of which FER2013 has many, count as often as they are there.
    there, times = np.unique(found, return_counts=True)
    at = np.minimum(np.searchsorted(wanted, there), len(wanted) - 1)
    known = int(np.minimum(times, counts[at])[wanted[at] == there].sum())
    if len(found) == FACES and known == np.count_nonzero(certain):
        in_order = np.array_equal(found[certain], rows[certain])
        return Recognised(IN_ORDER if in_order else REORDERED, known)
    return Recognised(OTHER, known)

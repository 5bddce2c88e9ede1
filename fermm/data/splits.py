"""Which samples train, validate and test a network, and what each class weighs."""

import difflib
import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from fermm.data import stream
from fermm.errors import InputError
from fermm.samples import SPLITS, UNKNOWN_SPLIT, Samples


def split(samples: Samples, kind: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Divides the samples into train, validation and test.

    Args:
        samples: N samples.
        kind: "paper" (section 5.3): all samples are pooled and shuffled: 70%, 20%, 10%, whatever
            the official split of a sample is. Duplicates may fall into two splits.
            "official": the split that the authors of the data set made; FER2013's is Training,
            PublicTest, PrivateTest.
            "grouped": like "paper", but duplicates fall into the same split: groups of duplicates
            are shuffled, and where a group falls does not depend on its size. The size of each
            split is the paper's up to the size of the largest group.
        seed: Of the shuffle, 0 in the paper; "official" ignores it.

    Returns:
        For "train", "validation" and "test", int64 indices into `samples`, each index once.

    Raises:
        InputError: unknown kind or seed, a split would be empty, or the official split of a sample
            is asked for and not known.
    """
    if kind not in _KINDS:
        near = difflib.get_close_matches(str(kind), _KINDS, n=1, cutoff=0.0)[0]
        raise InputError(
            f"unknown split {kind!r}: did you mean {near!r}? There are {', '.join(KINDS)}"
        )
    if not 0 <= seed < 2**32:
        raise InputError(f"split seed {seed} is not in 0 to 2**32 - 1: choose another")
    parts = dict(zip(SPLITS, _KINDS[kind](samples, seed), strict=True))
    for name, indices in parts.items():
        if not len(indices):
            remedy = "give more data"
            if kind == "official":
                remedy = "the source assigns no sample to it; use split 'grouped'"
            raise InputError(
                f"split {kind!r} of {len(samples)} samples leaves none for {name}: {remedy}"
            )
    return parts


def _paper(samples: Samples, seed: int) -> list[np.ndarray]:
    return np.split(_shuffled(samples, seed), _cuts(len(samples)))


def _official(samples: Samples, seed: int) -> list[np.ndarray]:
    del seed
    unknown = np.flatnonzero(samples.official == UNKNOWN_SPLIT)
    if len(unknown):
        raise InputError(
            f"split 'official' needs the official split of every sample, unknown for "
            f"{len(unknown)} of {len(samples)} (the first is row {samples.rows[unknown[0]]}): use "
            "the CSV with its column Usage, or folders train, val and test, or files named "
            "Training_*, PublicTest_* and PrivateTest_* that do not contradict their folders, or "
            "split 'paper' or 'grouped'"
        )
    return [np.flatnonzero(samples.official == split) for split in range(len(SPLITS))]


def _grouped(samples: Samples, seed: int) -> list[np.ndarray]:
    order = _shuffled(samples, seed)
    # A group falls where its first sample in the source does. If it were the sample that the
    # shuffle puts first, large groups would come before small ones.
    place = np.empty(len(samples), np.int64)
    place[order] = np.arange(len(samples))
    places = place[duplicates(samples)[order]]
    together = np.argsort(places, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(places[together])) + 1, len(samples))
    cuts = [ends[np.argmin(np.abs(ends - cut))] for cut in _cuts(len(samples))]
    return np.split(order[together], cuts)


_KINDS: dict[str, Callable[[Samples, int], list[np.ndarray]]] = {
    "paper": _paper,
    "official": _official,
    "grouped": _grouped,
}
KINDS = tuple(_KINDS)


def _shuffled(samples: Samples, seed: int) -> np.ndarray:
    # The paper's `pandas.DataFrame.sample(frac=1, random_state=seed)` draws this permutation.
    return np.random.RandomState(seed).permutation(len(samples)).astype(np.int64)


def _cuts(total: int) -> list[int]:
    """Where validation and test begin among `total` shuffled faces, rounded as in the paper."""
    validation, test = int(np.round(0.2 * total)), int(np.round(0.1 * total))
    return [total - validation - test, total - test]


def digests(samples: Samples) -> np.ndarray:
    """Tells samples apart by the features that say who they are, `samples.identity`.

    Returns:
        uint64 (N,), the same for duplicates: BLAKE2b of 64 bits of the features' bytes, by which
        two of a million different samples are taken for duplicates with a chance of 1 to 4e7.
    """
    columns = [samples.features[name] for name in samples.identity]
    found = []
    for start in range(0, len(samples), stream.BLOCK):  # a column may lie on disk
        blocks = [np.ascontiguousarray(x[start : start + stream.BLOCK]) for x in columns]
        for values in zip(*blocks, strict=True):
            digest = hashlib.blake2b(digest_size=8)
            for value in values:
                digest.update(value)
            found.append(digest.digest())
    return np.frombuffer(b"".join(found), "<u8").astype(np.uint64)


def duplicates(samples: Samples) -> np.ndarray:
    """For every sample the index of the first one that is its duplicate: int64 (N,)."""
    return first_of_equals(digests(samples))


def first_of_equals(values: np.ndarray) -> np.ndarray:
    """For every one of `values` (N,) the index of the first that equals it, int64 (N,)."""
    _, first, group = np.unique(values, return_index=True, return_inverse=True)
    return first[group].astype(np.int64)


def class_weights(labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """What a sample of each class weighs in the loss: table 1 of the paper, unrounded.

    Args:
        labels: int (N,), index into `classes`.
        classes: the names of the K classes.

    Returns:
        float64 (K,), the count of the most frequent class over the count of each.

    Raises:
        InputError: a class has no samples, so that its weight would be infinite.
    """
    counts = np.bincount(labels, minlength=len(classes))
    if not counts.all():
        name = classes[int(np.argmin(counts))]
        raise InputError(
            f"class {name!r} has no samples among {len(labels)}, so it has no weight: "
            "give more data or switch the class weights off"
        )
    return counts.max() / counts

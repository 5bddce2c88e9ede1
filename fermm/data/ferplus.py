"""FER+: ten annotators' votes for each row of FER2013, and the labels that follow from them.

Barsoum, Zhang, Canton Ferrer and Zhang, "Training deep networks for facial expression recognition
with crowd-sourced label distribution", 2016, https://arxiv.org/abs/1608.01041. The votes are
published at https://github.com/microsoft/FERPlus as `fer2013new.csv`, whose rows are FER2013's in
its order. (Its column `Image name` counts otherwise from row 59 on and is not used.)

The rules for majority and distribution are those of the authors' code (`src/ferplus.py`, modes
"majority" and "crossentropy"). Both drop single votes first: an emotion that one annotator alone
saw is taken for an outlier.
"""

import csv
import dataclasses
import os
from typing import NamedTuple

import numpy as np

from fermm.data import fingerprints, splits
from fermm.data.fer2013 import USAGES
from fermm.errors import InputError
from fermm.paths import expand
from fermm.samples import Rejected, Samples

CLASSES = ("neutral", "happy", "surprise", "sad", "angry", "disgust", "fear", "contempt")
"""The eight emotions, in the order of the columns of the file."""

_COLUMNS = (
    *("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"),
    *("unknown", "NF"),
)
_SHARE = 0.75  # of the votes, up to which the largest are kept
_KEPT = 3  # columns at most
_LINE_LIMIT = 1 << 12  # characters; a line has about 60, a file without line ends any number


class Votes(NamedTuple):
    """The content of `fer2013new.csv`.

    Attributes:
        official: int8 (N,), index into `fermm.samples.SPLITS`.
        counts: int64 (N, 10), votes for the eight CLASSES, for "unknown" and for "not a face".
    """

    official: np.ndarray
    counts: np.ndarray


def read(path: str | os.PathLike[str]) -> Votes:
    """Reads the votes.

    Args:
        path: `fer2013new.csv`.

    Raises:
        InputError: the file is missing or malformed; the message names the line.
    """
    path = expand(path)
    official: list[int] = []
    counts: list[list[int]] = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            header = [name.strip() for name in _cells(path, 1, file.readline(_LINE_LIMIT))]
            where = _columns(path, header)
            lines = iter(lambda: file.readline(_LINE_LIMIT), "")
            for number, line in enumerate(lines, start=2):
                if row := _cells(path, number, line):
                    split, votes = _parse(f"{path}, line {number}", row, header, where)
                    official.append(split)
                    counts.append(votes)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except InputError:
        raise
    except (ValueError, csv.Error) as error:  # not UTF-8, or a NUL in the path
        raise InputError(f"{path}: not a CSV text file ({error}); fetch the file again") from None
    if not counts:
        raise InputError(f"{path}: no rows below the header; fetch the file again")
    return Votes(np.array(official, np.int8), np.array(counts, np.int64))


def _cells(path: os.PathLike[str], number: int, line: str) -> list[str]:
    """The cells of a line. Each line is a row: no quotes of this format protect a line end."""
    if len(line) == _LINE_LIMIT:
        raise InputError(
            f"{path}, line {number}: has {_LINE_LIMIT} characters or more; fetch the file again"
        )
    return next(csv.reader([line]), [])


def _columns(path: os.PathLike[str], header: list[str]) -> dict[str, int]:
    """Where each column that is needed stands."""
    for name in ("Usage", *_COLUMNS):
        if header.count(name) != 1:
            raise InputError(
                f"{path}, line 1: {header.count(name)} columns are called {name!r}; the header of "
                f"FER+'s fer2013new.csv is Usage,Image name,{','.join(_COLUMNS)}"
            )
    return {name: header.index(name) for name in ("Usage", *_COLUMNS)}


def _parse(
    here: str, row: list[str], header: list[str], where: dict[str, int]
) -> tuple[int, list[int]]:
    """The split and the votes of a row."""
    if len(row) != len(header):
        raise InputError(f"{here}: {len(row)} cells, needs {len(header)}; fetch the file again")
    usage = row[where["Usage"]].strip()
    if usage not in USAGES:
        raise InputError(f"{here}: Usage is {usage[:20]!r}, needs one of {', '.join(USAGES)}")
    votes = []
    for name in _COLUMNS:
        value = row[where[name]].strip()
        if not (value.isascii() and value.isdigit() and len(value) < 4):
            raise InputError(f"{here}: {name} is {value[:20]!r}, needs a number of votes, 0 to 999")
        votes.append(int(value))
    if not sum(votes):
        raise InputError(f"{here}: has no votes; fetch the file again")
    return USAGES.index(usage), votes


def majority(counts: np.ndarray) -> np.ndarray:
    """Finds the column that has more than half of the votes, single votes dropped.

    Args:
        counts: int (N, 10), as in `Votes`.

    Returns:
        int64 (N,), the column, from 0 to 9; -1 where none has.
    """
    kept = _without_single(counts)
    leading = kept.argmax(1)
    most = kept[np.arange(len(kept)), leading]
    return np.where(2 * most > kept.sum(1), leading, -1)


def distributions(counts: np.ndarray) -> np.ndarray:
    """Computes the share of each emotion in the largest votes, single votes dropped.

    The largest votes are kept, one size after the other, equal ones together, until they make three
    quarters of all or belong to three columns. Where "unknown" or "not a face" comes up before
    that, the search ends without it. A row has no distribution if nothing was kept by then, if what
    was kept is not more than half of the votes, or if it belongs to more than three columns, as
    equal votes may.

    Args:
        counts: int (N, 10), as in `Votes`.

    Returns:
        float64 (N, 8), each row summing to 1, or zeros where there is no distribution.
    """
    patterns, row_of = np.unique(counts, axis=0, return_inverse=True)  # a few thousand of them
    return np.array([_distribution(votes) for votes in patterns])[row_of.reshape(-1)]


def _distribution(counts: np.ndarray) -> np.ndarray:
    """`distributions` of one row, (10,) -> (8,)."""
    votes = _without_single(counts)
    left, kept = votes.copy(), np.zeros_like(votes)
    while kept.sum() < _SHARE * votes.sum() and np.count_nonzero(kept) < _KEPT:
        most = left.max()
        equal = np.flatnonzero(left == most)
        emotions = equal[equal < len(CLASSES)]
        kept[emotions], left[emotions] = most, 0
        if len(emotions) < len(equal):  # "unknown" or "not a face" has as many
            break
    if 2 * kept.sum() <= votes.sum() or np.count_nonzero(kept) > _KEPT:
        kept[:] = 0
    return kept[: len(CLASSES)] / max(kept.sum(), 1)


def _without_single(counts: np.ndarray) -> np.ndarray:
    return np.where(counts > 1, counts, 0)


def relabel(samples: Samples, path: str | os.PathLike[str], kind: str) -> tuple[Samples, str]:
    """FER2013's samples with the labels of FER+.

    Args:
        samples: of FER2013, whose `rows` are those of its CSV.
        path: `fer2013new.csv`.
        kind: "majority": the label is the emotion with more than half of the votes, see `majority`.
            "votes": `targets` are `distributions`, and the label is the emotion with the largest
            share, of equal ones the first. Rows without a label are set aside.

    Returns:
        The samples that have a label, with `classes` CLASSES and `votes`, the share of each emotion
        in all votes for emotions, single ones included; and a sentence that says how many were set
        aside and why. Features that stay on disk stay there.

    Raises:
        InputError: a bad file, or the samples are not FER2013's rows.
    """
    votes = read(path)
    _check_rows(samples, votes, path)
    counts = votes.counts[samples.rows]
    if kind == "majority":
        labels, targets = majority(counts), None
    else:
        shares = distributions(counts)
        labels = np.where(shares.any(1), shares.argmax(1), -1)
        targets = shares.astype(np.float32)
    chosen = np.flatnonzero((labels >= 0) & (labels < len(CLASSES)))
    if not len(chosen):
        raise InputError(f"{path}: no sample has a label by {kind!r}; check that it is FER+'s file")
    without = ~np.isin(np.arange(len(labels)), chosen)
    leading = labels if kind == "majority" else _without_single(counts).argmax(1)
    reasons = {
        "unknown": without & (leading == len(CLASSES)),
        "not a face": without & (leading == len(CLASSES) + 1),
    }
    reasons = {"no majority": without & ~np.any([*reasons.values()], axis=0), **reasons}
    rejected = {
        int(samples.rows[i]): Rejected(
            f"row {samples.rows[i]} (the first is 0)", f"FER+ by {kind}: {reason}"
        )
        for reason, where in reasons.items()
        for i in np.flatnonzero(where)
    }
    emotions = counts[chosen, : len(CLASSES)]
    relabelled = dataclasses.replace(
        samples.take(chosen),
        labels=labels[chosen].astype(np.int32),
        classes=CLASSES,
        votes=(emotions / emotions.sum(1, keepdims=True)).astype(np.float32),
        targets=None if targets is None else targets[chosen],
        rejected=(*samples.rejected, *(rejected[row] for row in sorted(rejected))),
    )
    aside = ", ".join(f"{int(where.sum())} {reason}" for reason, where in reasons.items())
    return relabelled, f"FER+ by {kind}: {len(rejected)} of {len(samples)} rows set aside: {aside}"


def _check_rows(samples: Samples, votes: Votes, path: str | os.PathLike[str]) -> None:
    """Refuses to join votes to samples that are not FER2013's rows."""
    wrong = fingerprints.first_foreign_row(splits.digests(samples), samples.labels, samples.rows)
    if wrong is not None:
        raise InputError(
            f"{path}: FER+ is joined by row, and row {samples.rows[wrong]} (the first is 0) of "
            "the data is not that row of FER2013: give FER2013's CSV in its own order, or folders "
            "whose file names tell the row"
        )
    if samples.rows.max() >= len(votes.counts):
        raise InputError(
            f"{path}: has {len(votes.counts)} rows of votes, and the data have a row "
            f"{samples.rows.max()} (the first is 0): give the whole of FER+'s fer2013new.csv"
        )
    known = samples.official >= 0
    differs = known & (samples.official != votes.official[samples.rows])
    if differs.any():
        raise InputError(
            f"{path}: its Usage differs from the data's in row "
            f"{samples.rows[int(differs.argmax())]} (the first is 0): give FER+'s fer2013new.csv "
            "in its own order"
        )

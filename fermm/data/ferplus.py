"""FER+: ten annotators' votes for each row of FER2013, and the labels that follow from them.

Barsoum, Zhang, Canton Ferrer and Zhang, "Training deep networks for facial expression recognition
with crowd-sourced label distribution", 2016, https://arxiv.org/abs/1608.01041. The votes are
published at https://github.com/microsoft/FERPlus as `fer2013new.csv`, whose rows are FER2013's in
its order. (Its column `Image name` counts otherwise from row 59 on and is not used.)

The rules for majority and distribution are those of the authors' code: an emotion with a single
vote is an outlier and loses it.
"""

import csv
import dataclasses
import os
from typing import NamedTuple

import numpy as np

from fermm.data import fingerprints, splits
from fermm.errors import InputError
from fermm.paths import expand
from fermm.samples import Rejected, Samples

CLASSES = ("neutral", "happy", "surprise", "sad", "angry", "disgust", "fear", "contempt")
"""The eight emotions, in the order of the columns of the file."""

LABELS = ("majority", "votes")
ANNOTATORS = 10

_COLUMNS = (
    *("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"),
    *("unknown", "NF"),
)
_USAGES = ("Training", "PublicTest", "PrivateTest")
_SHARE = 0.75  # of the votes, up to which the largest are kept
_KEPT = 3  # emotions at most


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
            lines = csv.reader(file)
            header = [name.strip() for name in next(lines, [])]
            for name in ("Usage", *_COLUMNS):
                if header.count(name) != 1:
                    raise InputError(
                        f"{path}, line 1: {header.count(name)} columns are called {name!r}; the "
                        f"header of FER+'s fer2013new.csv is Usage,Image name,{','.join(_COLUMNS)}"
                    )
            usage, *columns = (header.index(name) for name in ("Usage", *_COLUMNS))
            for row in lines:
                where = f"{path}, line {lines.line_num}"
                if not row:
                    continue
                if len(row) != len(header):
                    raise InputError(
                        f"{where}: {len(row)} fields, needs {len(header)}; fetch the file again"
                    )
                if row[usage] not in _USAGES:
                    raise InputError(
                        f"{where}: Usage is {row[usage][:80]!r}, needs one of {', '.join(_USAGES)}"
                    )
                votes = [row[column].strip() for column in columns]
                for name, value in zip(_COLUMNS, votes, strict=True):
                    if not (value.isascii() and value.isdigit() and len(value) < 4):
                        raise InputError(
                            f"{where}: {name} is {value[:80]!r}, needs a number of votes"
                        )
                official.append(_USAGES.index(row[usage]))
                counts.append([int(value) for value in votes])
                if not sum(counts[-1]):
                    raise InputError(f"{where}: has no votes; fetch the file again")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not a CSV ({error}); fetch the file again") from None
    if not counts:
        raise InputError(f"{path}: has a header but no rows; fetch the file again")
    return Votes(np.array(official, np.int8), np.array(counts, np.int64))


def majority(counts: np.ndarray) -> np.ndarray:
    """The column that has more than half of the votes, those of one left out: int64 (N,), or -1.

    Args:
        counts: int (N, 10), as in `Votes`.
    """
    kept = np.where(counts > 1, counts, 0)
    leading = kept.argmax(1)
    most = kept[np.arange(len(kept)), leading]
    return np.where(2 * most > kept.sum(1), leading, -1)


def distributions(counts: np.ndarray) -> np.ndarray:
    """The share of each column in the largest votes, float64 (N, 10); zeros for a row left out.

    The largest votes are kept, equal ones in the order of the columns, until they make three
    quarters of all or are three, those of one left out. A row is left out if "unknown" or "not a
    face" is among them, unless it is the last and others were kept before it, or if they are not
    more than half.

    Args:
        counts: int (N, 10), as in `Votes`.
    """
    result = np.zeros(counts.shape)
    for row, all_votes in zip(result, counts, strict=True):
        votes = np.where(all_votes > 1, all_votes, 0)
        kept = _largest(votes)
        total = kept.sum()
        if 2 * total > votes.sum() and (kept > 0).sum() <= _KEPT and kept.argmax() < len(CLASSES):
            row[:] = kept / total
    return result


def _largest(votes: np.ndarray) -> np.ndarray:
    left, kept = votes.copy(), np.zeros_like(votes)
    total = votes.sum()
    while kept.sum() < _SHARE * total and (kept > 0).sum() < _KEPT:
        most = left.max()
        for column in np.flatnonzero(left == most):
            left[column] = 0
            if column >= len(CLASSES):
                if not kept.any():
                    kept[column] = most
                return kept
            kept[column] = most
    return kept


def relabel(samples: Samples, path: str | os.PathLike[str], kind: str) -> tuple[Samples, str]:
    """FER2013's samples with the labels of FER+.

    Args:
        samples: of FER2013, whose `rows` are those of its CSV.
        path: `fer2013new.csv`.
        kind: "majority": the label is the emotion with more than half of the votes; the other rows
            are set aside. "votes": `targets` are `distributions`, and the label is the first of the
            largest.

    Returns:
        Samples with `classes` CLASSES and `votes`, the share of each emotion in all votes for
        emotions; and a sentence that says how many were set aside for what.

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
        targets = shares[:, : len(CLASSES)].astype(np.float32)
    chosen = np.flatnonzero((labels >= 0) & (labels < len(CLASSES)))
    if not len(chosen):
        raise InputError(f"{path}: no sample has a label by {kind!r}; check that it is FER+'s file")
    reasons = {
        "no majority" if kind == "majority" else "votes too much divided": labels == -1,
        "unknown": labels == len(CLASSES),
        "not a face": labels == len(CLASSES) + 1,
    }
    if kind == "votes":  # the rule does not say which of the reasons it is
        leading = np.where(counts > 1, counts, 0).argmax(1)
        reasons["unknown"] = (labels == -1) & (leading == len(CLASSES))
        reasons["not a face"] = (labels == -1) & (leading == len(CLASSES) + 1)
        reasons["votes too much divided"] &= leading < len(CLASSES)
    rejected = {
        int(samples.rows[i]): Rejected(f"row {samples.rows[i] + 1}", f"FER+: {reason}")
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

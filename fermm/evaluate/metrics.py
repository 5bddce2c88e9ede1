"""Figures of merit from saved predictions."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fermm.data.faces import EMOTIONS


class Predictions(NamedTuple):
    """What a network says about the faces of one split.

    Attributes:
        rows: int64 (N,), row of each face in its source.
        labels: int32 (N,).
        probabilities: float32 (N, 7), evaluated without dropout.
    """

    rows: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray


def save_predictions(path: Path, predictions: Predictions) -> None:
    """Writes an `.npz` with the arrays `row`, `label`, `probabilities`; aside, then renamed."""
    aside = path.with_name(path.name + ".tmp")
    with open(aside, "wb") as file:
        np.savez(
            file,
            row=predictions.rows,
            label=predictions.labels,
            probabilities=predictions.probabilities,
        )
    os.replace(aside, path)


def load_predictions(path: Path) -> Predictions:
    """The inverse of `save_predictions`."""
    with np.load(path, allow_pickle=False) as data:
        return Predictions(data["row"], data["label"], data["probabilities"])


def accuracy(predictions: Predictions) -> float:
    """Share of faces whose most probable class is their label."""
    return float(np.mean(predictions.probabilities.argmax(-1) == predictions.labels))


def loss(predictions: Predictions) -> float:
    """Mean cross-entropy in nats, without class weights."""
    own = predictions.probabilities[np.arange(len(predictions.labels)), predictions.labels]
    # A probability below the smallest float32 is stored as 0; its logarithm shall stay finite.
    own = np.maximum(own.astype(np.float64), np.finfo(np.float32).tiny)
    return float(-np.mean(np.log(own)))


def confusion_matrix(predictions: Predictions) -> np.ndarray:
    """int64 (7, 7): how many faces of the row's class were given the column's."""
    classes = len(EMOTIONS)
    pairs = predictions.labels * classes + predictions.probabilities.argmax(-1)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def macro_f1(predictions: Predictions) -> float:
    """Unweighted mean over the 7 classes of the harmonic mean of precision and recall.

    A class that neither occurs nor is predicted counts as 0, as in scikit-learn by default.
    """
    matrix = confusion_matrix(predictions)
    occurrences = matrix.sum(0) + matrix.sum(1)
    return float(np.mean(2 * np.diag(matrix) / np.maximum(occurrences, 1)))

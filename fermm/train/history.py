"""The history of a training: a row of metrics for each epoch, kept as `history.csv`."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from fermm.paths import whole

COLUMNS = (
    "epoch",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "learning_rate",
    "seconds",
)
"""`loss` and `accuracy` are running means over the epoch as Keras shows them, with class weights,
dropout and augmentation; `val_loss` and `val_accuracy` are evaluated at its end without these.
`learning_rate` is that of the last update, `seconds` the seed's share of the time."""


def write(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Writes the rows as CSV with the header COLUMNS; aside, then renamed."""
    with whole(path) as aside, open(aside, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)


def read(path: Path) -> list[dict[str, float]]:
    """The inverse of `write`."""
    with open(path, newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]

"""TensorBoard event files with the curves of a training; the only importer of tensorboardX."""

from collections.abc import Mapping
from pathlib import Path


class Events:
    """Writes the history of one network; a context manager.

    Args:
        directory: gets an event file; None writes nothing.
        done: epochs trained before; what an earlier file says of later ones no longer counts.
    """

    def __init__(self, directory: Path | None, done: int) -> None:
        self._writer = None
        if directory:
            from tensorboardX import SummaryWriter  # takes half a second, and few want it

            self._writer = SummaryWriter(str(directory), purge_step=done + 1)

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer:
            self._writer.close()

    def add(self, row: Mapping[str, float]) -> None:
        """Writes one row of the history, each column but `epoch` as a scalar at that epoch."""
        if self._writer:
            for name, value in row.items():
                if name != "epoch":
                    self._writer.add_scalar(name, value, int(row["epoch"]))
            self._writer.flush()

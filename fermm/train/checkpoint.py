"""Checkpoints on disk; the only importer of orbax.

A directory `checkpoints/` holds one sub-directory an epoch kept (the last, and the best by
validation loss), named by the number of epochs trained, each with

- `variables`: {"params": ..., "batch_stats": ...}, nested dicts of arrays, frozen parts included;
- `training`: what is needed to go on: the optimiser's state and the step;
- `meta`: JSON: how to build the network, its config, seed, epoch, history, versions.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util
from orbax.checkpoint import checkpoint_managers

from fermm.errors import InputError

FORMAT = 2
WHICH = ("last", "best")


class Checkpoint(NamedTuple):
    """One checkpoint, read back.

    Attributes:
        variables: {"params": ..., "batch_stats": ...}, nested dicts of NumPy arrays.
        training: nested dict of NumPy arrays, or None if it was not asked for.
        meta: the JSON part.
    """

    variables: dict[str, Any]
    training: dict[str, Any] | None
    meta: dict[str, Any]


class Writer:
    """Writes the checkpoints of one network; a context manager.

    Writing goes on in the background and is atomic: aside first, then renamed.

    Args:
        directory: the network's `checkpoints/`.
        keep: how many of the last epochs stay on disk, besides the best.
    """

    def __init__(self, directory: Path, keep: int = 1) -> None:
        loss = lambda metrics: metrics["val_loss"]  # noqa: E731
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                best_fn=loss,
                best_mode="min",
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(
                    [
                        checkpoint_managers.LatestN(keep),
                        checkpoint_managers.BestN(get_metric_fn=loss, reverse=True, n=1),
                    ]
                ),
            ),
        )

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        self._manager.close()

    def forget_after(self, epoch: int) -> None:
        """Removes the checkpoints of later epochs."""
        for later in self._manager.all_steps():
            if later > epoch:
                self._manager.delete(later)

    def wait(self) -> None:
        """Returns when all that was saved is on disk."""
        self._manager.wait_until_finished()

    def save(self, epoch: int, checkpoint: Checkpoint, validation_loss: float) -> None:
        """Begins to write the checkpoint of `epoch`; the arrays may be changed on return."""
        self._manager.save(
            epoch,
            args=ocp.args.Composite(
                variables=ocp.args.StandardSave(checkpoint.variables),
                training=ocp.args.StandardSave(checkpoint.training),
                meta=ocp.args.JsonSave({"format": FORMAT, **checkpoint.meta}),
            ),
            metrics={"val_loss": validation_loss},
        )


def epochs(directory: Path) -> list[int]:
    """The epochs of which `directory` (a `checkpoints/`) holds a complete checkpoint, ascending."""
    if not directory.is_dir():
        return []
    names = [path.name for path in directory.iterdir() if is_checkpoint(path)]
    return sorted(int(name) for name in names if name.isdigit())


def is_checkpoint(path: Path) -> bool:
    """Whether `path` is the directory of one checkpoint."""
    return (path / "meta" / "metadata").is_file() and (path / "variables").is_dir()


def locate(path: Path, which: str = "last") -> Path:
    """The checkpoint in `path`, a `checkpoints/` directory or one checkpoint of it.

    Args:
        path: the directory.
        which: "last", or "best" (lowest validation loss).

    Raises:
        InputError: there is none.
    """
    if which not in WHICH:
        raise InputError(f"which={which!r} is unknown; it is 'last' or 'best'.")
    if is_checkpoint(path):
        return path
    kept = epochs(path)
    if not kept:
        raise InputError(f"{path}: no checkpoint there. Name a run's directory or a checkpoint.")
    if which == "last":
        return path / str(kept[-1])
    return path / str(min(kept, key=lambda e: read_meta(path / str(e))["history"][-1]["val_loss"]))


def read_meta(path: Path) -> dict[str, Any]:
    """The JSON part of the checkpoint `path`.

    Raises:
        InputError: it cannot be read, or is of another format.
    """
    file = path / "meta" / "metadata"
    try:
        meta = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not a readable checkpoint ({error}).") from None
    if meta.get("format") != FORMAT:
        raise InputError(
            f"{file}: checkpoint format {meta.get('format')!r}, this version reads {FORMAT}."
        )
    return meta


def read(path: Path, *, training: bool = False) -> Checkpoint:
    """Reads one checkpoint.

    Args:
        path: the checkpoint's own directory (see `locate`).
        training: also read what is needed to go on training.

    Raises:
        InputError: it cannot be read.
    """
    meta = read_meta(path)
    try:
        return Checkpoint(
            _read_arrays(path / "variables"),
            _read_arrays(path / "training") if training else None,
            meta,
        )
    except Exception as error:  # whatever orbax and tensorstore raise on damaged files
        raise InputError(
            f"{path}: damaged checkpoint ({type(error).__name__}: {str(error).splitlines()[0]}). "
            f"Delete this directory to go on from the one before it."
        ) from error


def _read_arrays(path: Path) -> dict[str, Any]:
    # The handler itself: a Checkpointer warns that a part of a checkpoint is not a whole one.
    handler = ocp.PyTreeCheckpointHandler()
    try:
        tree = handler.metadata(path.absolute()).tree
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return handler.restore(
            path.absolute(), args=ocp.args.PyTreeRestore(restore_args=restore_args)
        )
    finally:
        handler.close()


def check_tree(expected: Mapping[str, Any], found: Mapping[str, Any], where: str) -> None:
    """Compares paths and shapes of two nested dicts of arrays.

    Raises:
        InputError: they differ; the message lists what is missing, left over, or of another shape.
    """
    want = {k: v.shape for k, v in traverse_util.flatten_dict(expected, sep="/").items()}
    have = {k: v.shape for k, v in traverse_util.flatten_dict(found, sep="/").items()}
    problems = []
    if missing := sorted(want.keys() - have.keys()):
        problems.append(f"missing {', '.join(missing)}")
    if extra := sorted(have.keys() - want.keys()):
        problems.append(f"left over {', '.join(extra)}")
    problems += [
        f"{k} has shape {have[k]} instead of {want[k]}"
        for k in sorted(want.keys() & have.keys())
        if want[k] != have[k]
    ]
    if problems:
        raise InputError(f"{where}: does not fit the network: {'; '.join(problems)}.")

"""What a training leaves on disk while it goes on."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fermm import rundir
from fermm.rundir import Position
from fermm.train import checkpoint, devices, steps, updates
from fermm.train.events import Events
from fermm.train.job import SeedJob
from fermm.train.tasks import Sums


class Saver:
    """Writes checkpoints, histories and event files.

    Args:
        jobs: one for each seed.
        done: the position that the training begins at; checkpoints of later ones are removed.
        meta: what every checkpoint says of the training, besides `SeedJob.meta` and what `save`
            adds: "epoch", "step_of_epoch", "seconds" and "history".
        open_now: closes what is opened here.

    Attributes:
        last: the position of the last checkpoint, or None.
        when: that one was begun, as `time.monotonic` tells it.
    """

    def __init__(
        self,
        jobs: Sequence[SeedJob],
        done: Position,
        meta: Mapping[str, Any],
        open_now: contextlib.ExitStack,
    ) -> None:
        self._jobs, self._meta = jobs, meta
        directories = [rundir.SeedDirectory(job.directory).checkpoints for job in jobs]
        self._events: list[Events] = []
        if devices.is_main():
            for directory in directories:
                checkpoint.forget_after(directory, done)
            self._events = [open_now.enter_context(Events(j.events, done.epoch)) for j in jobs]
        self._writer = open_now.enter_context(checkpoint.Writer(directories))
        self.last = done if done != Position(0) else None
        self.when = time.monotonic()

    def save_history(self, histories: Sequence[list[dict[str, float]]]) -> None:
        """Writes the history of each seed, of which the last row is new."""
        if not devices.is_main():
            return
        for job, events, rows in zip(self._jobs, self._events, histories, strict=True):
            rundir.write_history(rundir.SeedDirectory(job.directory).history, rows)
            events.add(rows[-1])

    def save(
        self,
        position: Position,
        states: Sequence[steps.State],
        variables: Sequence[dict[str, Any]],
        histories: Sequence[list[dict[str, float]]],
        seconds: float,
        **meta: Any,
    ) -> None:
        """Begins to write a checkpoint of each seed.

        Args:
            position: of the checkpoint.
            states: of the training, on the host.
            variables: with which the network predicts, frozen ones included.
            histories: so far.
            seconds: spent on the epoch that the position is in.
            meta: what else the checkpoints say.
        """
        if position == self.last:
            return  # Stopped again before it came any further: that checkpoint is there.
        self.last, self.when = position, time.monotonic()
        checkpoints = []
        for job, state, trees, rows in zip(self._jobs, states, variables, histories, strict=True):
            of_checkpoint = {
                **job.meta,
                **self._meta,
                **meta,
                "epoch": position.epoch,
                "step_of_epoch": position.step,
                "seconds": seconds,
                "history": [*rows],  # for it grows while this is being written
            }
            checkpoints.append(checkpoint.Checkpoint(trees, to_tree(state), of_checkpoint))
        self._writer.save(position, checkpoints)

    def wait(self) -> None:
        """Returns when all that was saved is on disk."""
        self._writer.wait()

    def describe(self) -> str:
        """The last checkpoint, for a message."""
        return f"the last checkpoint is that of {self.last}" if self.last else "no checkpoint yet"


def to_tree(state: steps.State) -> dict[str, Any]:
    """What a checkpoint holds of a state under `training`, as nested dicts of arrays.

    The parameters and statistics are not among them: they are the checkpoint's `variables`. Where
    they are averaged, the variables are the averages, and `raw` here holds what is updated.
    """
    tree = {
        "step": state.step,
        "opt_state": updates.to_dict(state.opt_state),
        "sums": state.sums._asdict(),
    }
    if state.average:
        tree["raw"] = {"params": state.params, "batch_stats": state.batch_stats}
    return tree


def from_tree(
    like: steps.State, training: Mapping[str, Any], params: Any, batch_stats: Any
) -> steps.State:
    """The state that `to_tree` made into `training`.

    Args:
        like: a state of the same form.
        training: the checkpoint's.
        params: the trained parameters among the checkpoint's variables.
        batch_stats: the running statistics among them.
    """
    raw = training.get("raw", {"params": params, "batch_stats": batch_stats})
    return steps.State(
        step=training["step"],
        params=raw["params"],
        batch_stats=raw.get("batch_stats", {}),
        opt_state=updates.from_dict(like.opt_state, training["opt_state"]),
        average={"params": params, "batch_stats": batch_stats} if like.average else {},
        sums=Sums(**training["sums"]),
    )

"""The one training loop, for all networks."""

import contextlib
import math
from collections.abc import Sequence
from typing import Any

from fermm.train import devices, resuming
from fermm.train.config import refuse_augmentation_of_outputs
from fermm.train.job import SeedJob
from fermm.train.stop import Stop
from fermm.train.training import Training


def fit(
    jobs: Sequence[SeedJob],
    *,
    parallel: str = "none",
    stop: Stop | None = None,
    checkpoint_minutes: float = math.inf,
) -> list[tuple[dict[str, Any], list[dict[str, float]]]]:
    """Trains a network to its last epoch, from one seed or from several at once.

    It goes on from the last position of which all seeds have a checkpoint. They are trained at once
    in one compiled function (`jax.vmap`), for which small networks take less than one after the
    other; the sums in it may be rounded in another way than those of a seed alone.
    With `parallel` "cores" each is trained by the program of a seed alone, on one of several
    threads, to the same bits as alone.

    Args:
        jobs: one for each seed. They differ in seed, variables, inputs, directory and what
            concerns these (`meta`, `setup_seconds`), in nothing else.
        parallel: how a training lies over the devices, see `fermm.train.devices.Layout`.
        stop: asked after every second or so; a checkpoint is written before the training ends.
        checkpoint_minutes: after how many minutes a checkpoint is written within an epoch.

    Returns:
        For each job, the variables with which the network predicts, frozen ones included, as NumPy
        arrays: those after the last epoch, or their averages if `SeedJob.config.average` is on. And
        the history, one row of `fermm.rundir.HISTORY_COLUMNS` an epoch.

    Raises:
        InputError: a checkpoint does not fit the network, is damaged (see `resuming.groups`) or
            cannot be written; a loss or gradient is not finite; or outputs would be augmented.
        Stopped: `stop` said so.
    """
    if jobs[0].method == "classify":
        refuse_augmentation_of_outputs(jobs[0].config, f"config.{jobs[0].name}")
    done = resuming.last_common_position(jobs)
    devices.wait_for_all("looked through the checkpoints")  # some of which are removed next
    if done.epoch >= jobs[0].config.epochs:
        saved = [resuming.read(job, done, training=False) for job in jobs]
        return [(each.variables, each.meta["history"]) for each in saved]
    layout = devices.layout(parallel, len(jobs))
    stop = stop or Stop()
    with stop.deferred(), contextlib.ExitStack() as open_now:
        training = Training(jobs, done, layout, stop, 60 * checkpoint_minutes, open_now)
        for epoch in range(done.epoch, jobs[0].config.epochs):
            training.train(epoch)
            training.end_epoch(epoch, training.validate(epoch))
        training.saver.wait()
    devices.wait_for_all(f"{training.label} trained")
    return list(zip(training.variables(), training.histories, strict=True))

"""Where a training begins: at its start, or after a checkpoint that is there already."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from fermm import rundir
from fermm.errors import InputError
from fermm.rundir import Position
from fermm.train import checkpoint, devices, partition, saver, steps
from fermm.train.job import SeedJob
from fermm.train.updates import Updates


def groups(directories: Mapping[int, Path], at_once: int, apart: bool = False) -> list[list[int]]:
    """Which seeds of a network are trained at once.

    The bits of each depend on how many are trained in one compiled function: those that were begun
    in one stay together, whatever became of their checkpoints. Those that were begun apart stay so:
    at once again if `apart`, else one after the other. The others are taken in order.

    Args:
        directories: the `checkpoints/` of each seed; damaged checkpoints are set aside.
        at_once: how many are begun together.
        apart: whether they are trained apart from each other now, see `devices.Layout`.
    """
    with devices.main_first("look through the checkpoints"):
        for directory in directories.values():
            for note in checkpoint.set_damaged_aside(directory):
                print(f"note: {note}", flush=True)
    together: dict[int, tuple[int, ...]] = {}
    alone: set[int] = set()
    for seed, directory in directories.items():
        if kept := rundir.positions(directory):
            meta = rundir.read_meta(directory / kept[-1].name)
            together[seed] = tuple(meta.get("seeds_at_once", [seed]))
            if meta.get("apart", False) and not apart:
                alone.update(together[seed])
    for seeds in [*together.values()]:
        for seed in seeds:
            together.setdefault(seed, seeds)  # which has no checkpoint, or none any more
    together |= {seed: (seed,) for seed in alone}
    fresh = [seed for seed in directories if seed not in together]
    begun = [
        [seed for seed in seeds if seed in directories and together[seed] == seeds]
        for seeds in dict.fromkeys(together.values())
    ]
    return begun + [fresh[i : i + at_once] for i in range(0, len(fresh), at_once)]


def last_common_position(jobs: Sequence[SeedJob]) -> Position:
    """The last position after which all seeds are at their end, or can go on."""
    kept = [{Position(0), *_positions(job)} for job in jobs]
    return max(set.intersection(*kept))


def _positions(job: SeedJob) -> list[Position]:
    directory = rundir.SeedDirectory(job.directory).checkpoints
    return [
        position
        for position in rundir.positions(directory)
        if position.epoch >= job.config.epochs or rundir.has_training(directory / position.name)
    ]


class Start(NamedTuple):
    """What the training of one seed begins with, or goes on with.

    Attributes:
        state: NumPy arrays.
        frozen: the parameters that are not trained.
        history: so far.
        seconds: spent on the epoch that it goes on with.
        in_one_call: see `steps.TrainSteps`; "" where it has to be found out.
    """

    state: steps.State
    frozen: Any
    history: list[dict[str, float]]
    seconds: float
    in_one_call: str


def start(job: SeedJob, done: Position, updates: Updates) -> Start:
    """The start from the variables of the job, or from its checkpoint of `done`."""
    params, frozen = partition.split(job.variables["params"], job.trained)
    batch_stats = dict(job.variables.get("batch_stats", {}))
    state = steps.start(params, batch_stats, updates.transform, job.config.average)
    rows, seconds, in_one_call = [], 0.0, ""
    if done != Position(0):
        saved = read(job, done, training=True)
        assert saved.training is not None
        where = rundir.SeedDirectory(job.directory).checkpoints / done.name
        checkpoint.check_tree(saver.to_tree(state), saved.training, str(where))
        params, _ = partition.split(saved.variables["params"], job.trained)
        batch_stats = saved.variables.get("batch_stats", {})
        state = saver.from_tree(state, saved.training, params, batch_stats)
        rows, seconds = saved.meta["history"], saved.meta["seconds"]
        # On another platform the bits are others anyway, and another way may be fast.
        if saved.meta["platform"] == jax.default_backend():
            in_one_call = saved.meta["steps_in_one_call"]
    return Start(devices.to_host(state), devices.to_host(frozen), rows, seconds, in_one_call)


def read(job: SeedJob, done: Position, training: bool) -> checkpoint.Checkpoint:
    """Reads the checkpoint of `done`; the history in it is then that in `history.csv`.

    Raises:
        InputError: it cannot be read, or does not fit the job.
    """
    where = rundir.SeedDirectory(job.directory).checkpoints / done.name
    saved = checkpoint.read(where, training=training)
    if saved.meta.get("data") != json.loads(json.dumps(job.meta.get("data"))):
        raise InputError(
            f"{where}: was trained on other data; choose another --workdir, or the same data"
        )
    checkpoint.check_tree(job.variables, saved.variables, str(where))
    _, frozen_then = partition.split(saved.variables["params"], job.trained)
    _, frozen = partition.split(job.variables["params"], job.trained)
    if not all(jax.tree.leaves(jax.tree.map(np.array_equal, frozen_then, frozen))):
        raise InputError(
            f"{where}: was trained on other frozen networks than those that are there now; "
            f"delete {job.directory} to have it trained on these, or bring those back"
        )
    if devices.is_main():
        rundir.write_history(rundir.SeedDirectory(job.directory).history, saved.meta["history"])
    return saved

"""From samples on the host to batches on the devices, in the order of an epoch."""

import contextlib
import math
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from fermm.data import stream
from fermm.train import devices
from fermm.train.steps import Batches
from fermm.train.tasks import Data

BYTES = 1 << 25  # of samples that are laid on the devices at a time


def feed(
    data: Sequence[Data],
    orders: Sequence[np.ndarray],
    batch_size: int,
    layout: devices.Layout,
    first: int = 0,
    workers: int = 0,
) -> Generator[tuple[Batches, int], None, None]:
    """The batches of an epoch from step `first` on, some steps at a time.

    Each process takes from its samples only what its own devices get.

    Args:
        data: for each seed that is trained at once, N samples; the targets are the same. The inputs
            are arrays, or columns of a data set on disk.
        orders: for each, int (N,): the order of its samples.
        batch_size: samples in a step. The last batch is padded and masked; so is every batch
            where the layout divides it among a number of devices that does not.
        layout: where the batches lie.
        first: step to begin with.
        workers: processes that read from disk where the inputs are columns, see
            `fermm.data.stream.chunks`.

    Yields:
        As many steps as fit into BYTES, always in arrays of the same shape, and how many of them
        are steps of the epoch. With several seeds the arrays, the mask excepted, have one more axis
        in front, the seeds.
    """
    count, stacked = len(data[0].targets), len(data) > 1
    steps_per_epoch = math.ceil(count / batch_size)
    padded = layout.round_up(batch_size)
    seeds = layout.share(len(data)) if layout.kind == "seeds" else slice(None)
    columns = layout.share(padded) if layout.kind == "batch" else slice(None)
    mine = list(zip(data[seeds], orders[seeds], strict=True))
    leaves = jax.tree.leaves(data[0].inputs)
    sample = sum(x.dtype.itemsize * math.prod(x.shape[1:]) for x in leaves)
    size = max(1, min(steps_per_epoch, BYTES // (sample * padded * len(mine))))

    starts = range(first, steps_per_epoch, size)

    def lay(*shares: np.ndarray) -> jax.Array:
        share = np.stack(shares) if stacked else shares[0]
        shape = (*[len(data)] * stacked, size, padded, *shares[0].shape[2:])
        return devices.put_share(share, layout.batches(stacked), shape)

    def places(start: int) -> np.ndarray:
        """Where in the order the samples of the steps from `start` on stand; `count` is nowhere."""
        found = np.arange(start * batch_size, (start + size) * batch_size).reshape(size, -1)
        found = np.pad(found, [(0, 0), (0, padded - batch_size)], constant_values=count)
        return np.minimum(found, count)

    def rows(order: np.ndarray) -> Iterator[np.ndarray]:
        for start in starts:
            found = places(start)[:, columns]
            yield order[np.where(found < count, found, 0)]

    with contextlib.ExitStack() as open_now:
        readers = [
            open_now.enter_context(contextlib.closing(_read(each, rows(order), workers)))
            for each, order in mine
        ]
        for start, *taken in zip(starts, *readers, strict=True):
            inputs, targets = jax.tree.map(lay, *taken)
            mask = places(start) < count
            shared = layout.batches(False) if layout.kind == "batch" else layout.replicated
            valid = devices.put_share(mask[:, columns], shared, mask.shape)
            yield Batches(inputs, targets, valid), min(size, steps_per_epoch - start)


def _read(
    data: Data, blocks: Iterator[np.ndarray], workers: int
) -> Generator[tuple[Any, Any], None, None]:
    """Inputs and targets of the samples of each block, int (S, B), from memory or from disk."""
    if not isinstance(jax.tree.leaves(data.inputs)[0], stream.Column):
        for rows in blocks:
            yield jax.tree.map(lambda x: x[rows], (data.inputs, data.targets))  # noqa: B023
        return
    known = list(blocks)
    if not known:
        return
    order = np.concatenate([rows.ravel() for rows in known])
    with contextlib.closing(
        stream.chunks(data.inputs, order, known[0].size, workers=workers)
    ) as chunks:
        for rows, chunk in zip(known, chunks, strict=True):
            inputs = {k: x.reshape(*rows.shape, *x.shape[1:]) for k, x in chunk.items()}
            yield inputs, data.targets[rows]

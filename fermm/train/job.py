"""What is to be trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fermm.models.types import Module
from fermm.train.config import TrainConfig
from fermm.train.tasks import Data, Task


class SeedJob(NamedTuple):
    """One network to train from one seed.

    Attributes:
        name: of the network, as in `config.networks`.
        seed: fixes the order of the samples, dropout and augmentation.
        module: the network.
        method: "__call__", or "classify" if the inputs are outputs of `encode`, kept because they
            do not change in training.
        variables: what training starts from, {"params": ..., "batch_stats": ...}.
        trained: paths of the parameters that are trained.
        config: how it is trained.
        task: what it is trained for.
        train: samples to train on.
        validation: samples for the metrics after each epoch, and for schedules that look at them.
        directory: gets `history.csv` and `checkpoints/`.
        meta: what each checkpoint says besides what the training adds (see `saver.Saver`).
        setup_seconds: spent on the data before, told as part of the first epoch's seconds.
        workers: processes that read training data which lie on disk.
        events: gets TensorBoard event files; None writes none.
    """

    name: str
    seed: int
    module: Module
    method: str
    variables: Mapping[str, Any]
    trained: frozenset[str]
    config: TrainConfig
    task: Task
    train: Data
    validation: Data
    directory: Path
    meta: Mapping[str, Any]
    setup_seconds: float = 0.0
    workers: int = 0
    events: Path | None = None

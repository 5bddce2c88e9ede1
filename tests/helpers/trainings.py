"""Small trainings that several test modules make."""

import dataclasses
import signal

import jax
import numpy as np

from configs import synthetic
from fermm import config, models
from fermm.train import checkpoint, partition
from fermm.train.config import TrainConfig
from fermm.train.job import SeedJob
from fermm.train.stop import Stop, Stopped
from fermm.train.tasks import Data, Task
from helpers.networks import drawn_variables

FACES = 330  # 231 to train on: seven whole batches and one of seven


def small_config(**changes):
    """configs/synthetic.py with few faces and epochs; `changes` by path, such as image__epochs.

    `<fusion>__run` is the run directory from which all members of the fusion come.
    """
    config = synthetic.get_config()
    config.data.arguments.count = FACES
    config.report = False
    for name in config.networks:
        config[name].epochs = 2
    config.image.arguments.hidden = 16
    config.image.schedule.epochs = (1,)
    for path, value in changes.items():
        *sections, field = path.split("__")
        section = config
        for name in sections:
            section = section[name]
        if field == "run":  # of all members of a fusion
            for member in section.members.values():
                member.run = value
        else:
            section[field] = value
    return config.to_dict()


def assert_identical(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def make_job(tmp_path, spec, patterns, epochs=1, count=45, **training):
    """A small training; `training` are fields of its section in a config."""
    random = np.random.default_rng(0)

    def data(n):
        return Data(
            {
                "images": random.integers(0, 256, (n, 48, 48), np.uint8),
                "landmarks": random.uniform(0, 48, (n, 68, 2)).astype(np.float32),
            },
            random.integers(0, 7, n).astype(np.int32),
        )

    train, validation = data(count), data(13)
    variables = drawn_variables(models.build(spec), train.inputs)
    trained = partition.trained_paths(variables["params"], patterns)
    section = {"epochs": epochs, "batch_size": 8, "learning_rate": 1e-3, **training}
    train_config = config.read(TrainConfig, section, "config.network")
    return SeedJob(
        name="network",
        seed=0,
        module=models.build(spec, trained),
        method="__call__",
        variables=dict(variables),
        trained=trained,
        config=train_config,
        task=Task(train_config.loss, np.arange(1.0, 8.0, dtype=np.float32)),
        train=train,
        validation=validation,
        directory=tmp_path,
        meta={},
    )


def make_jobs(directory, seeds, epochs=3, **training):
    """The same network from several seeds, with the plateau that each has of its own."""
    schedule = {"kind": "plateau", "factor": 0.5, "patience": 1, "min_delta": 1e-3}
    training = {"schedule": schedule, "learning_rate": 3e-3, **training}
    job = make_job(directory, {"model": "nn2", "arguments": {}}, (".*",), epochs, **training)
    jobs = []
    for seed in seeds:
        variables = jax.jit(job.module.init)(
            jax.random.key(seed), jax.tree.map(lambda x: x[:1], job.train.inputs)
        )
        jobs.append(
            job._replace(
                seed=seed,
                variables=dict(variables),
                task=job.task._replace(class_weights=np.ones(7, np.float32)),
                directory=directory / f"seed_{seed}",
            )
        )
        jobs[-1].directory.mkdir(parents=True)
    return jobs


def with_config(job, **changes):
    """The job with other values in its config."""
    return job._replace(config=dataclasses.replace(job.config, **changes))


def without_seconds(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


class StopAfter(Stop):
    """Asked to stop when it has been looked at so many times."""

    def __init__(self, looks):
        super().__init__()
        self.looks = looks

    @property
    def requested(self):
        self.looks -= 1
        if self.looks < 0:
            self.request(signal.SIGTERM)
        return super().requested

    def check(self):
        if self.requested:
            raise Stopped(self.number)


def some_checkpoint(loss):
    """A checkpoint after which the validation loss was `loss`."""
    random = np.random.default_rng(int(loss * 1000))
    params = {
        "dense": {"kernel": random.normal(size=(3, 2)).astype(np.float32)},
        "bias": np.ones(2),
    }
    training = {"step": np.int32(7), "opt_state": {"0": params, "1": {}}}
    return checkpoint.Checkpoint(
        {"params": params}, training, {"history": [{"val_loss": loss}], "n": 1}
    )

"""Trains the same small networks on the devices of this process, for tests/train/test_devices.py.

python on_devices.py OUT JOBS DEVICES PARALLEL [PROCESS PROCESSES PORT]

JOBS, separated by commas: `landmarks_float32`, one seed of a network in a precision; `seeds_2`,
four seeds at once to the second epoch, from wherever OUT has them.
"""

import json
import os
import pathlib
import sys

out, jobs, count, parallel, *rest = sys.argv[1:]
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={count}"

import jax  # noqa: E402

if rest:
    process, processes, port = map(int, rest)
    jax.distributed.initialize(f"127.0.0.1:{port}", processes, process)
jax.config.update("jax_enable_x64", True)

import numpy as np  # noqa: E402
from flax import traverse_util  # noqa: E402

from fermm import config, models  # noqa: E402
from fermm.train import devices, loop, partition  # noqa: E402
from fermm.train.config import TrainConfig  # noqa: E402
from fermm.train.job import SeedJob  # noqa: E402
from fermm.train.tasks import Data, Task  # noqa: E402

FACES, BATCH = 97, 10  # nine whole batches and one of seven; ten is no multiple of eight
SECTION = {
    "batch_size": BATCH,
    "learning_rate": 1e-4,
    "schedule": {"kind": "plateau", "factor": 0.5, "patience": 1, "min_delta": 1.0},
}
EVERYTHING = {
    "optimizer": {"kind": "sgd", "momentum": 0.9, "weight_decay": 1e-3, "clip": 5.0},
    "schedule": {"kind": "cosine", "warmup_epochs": 1},
    "average": {"decay": 0.9},
    "augment": ("flip", "shift", "noise"),
}
NETWORKS = {
    "landmarks": {"model": "nn2", "arguments": {"hidden": (32, 32)}},
    "everything": {"model": "nn2", "arguments": {"hidden": (32, 32)}},
    "image": {"model": "nn1", "arguments": {"filters": (2, 3, 4), "hidden": 8}},
}


def make(name, dtype, seed, epochs, directory):
    random = np.random.default_rng(0)

    def data(n):
        inputs = {
            "images": random.integers(0, 256, (n, 48, 48), np.uint8),
            "landmarks": random.uniform(0, 48, (n, 68, 2)).astype(dtype),
        }
        return Data(inputs, random.integers(0, 7, n).astype(np.int32))

    train, validation = data(FACES), data(23)
    spec = NETWORKS[name]
    spec = spec | {"arguments": spec["arguments"] | {"dtype": dtype}}
    module = models.build(spec)
    section = SECTION | {"epochs": epochs} | (EVERYTHING if name == "everything" else {})
    variables = jax.jit(module.init)(
        jax.random.key(seed), jax.tree.map(lambda x: x[:1], train.inputs)
    )
    variables = jax.tree.map(lambda x: np.asarray(x).astype(dtype), dict(variables))
    directory.mkdir(parents=True, exist_ok=True)
    keep = lambda tree: {k: tree[k] for k in module.inputs}  # noqa: E731
    train_config = config.read(TrainConfig, section, f"config.{name}")
    return SeedJob(
        name=name,
        seed=seed,
        module=module,
        method="__call__",
        variables=variables,
        trained=partition.trained_paths(variables["params"], (".*",)),
        config=train_config,
        task=Task(train_config.loss, np.arange(1, 8, dtype=dtype)),
        train=train._replace(inputs=keep(train.inputs)),
        validation=validation._replace(inputs=keep(validation.inputs)),
        directory=directory,
        meta={},
    )


def save(file, results):
    if not devices.is_main():
        return
    arrays, histories = {}, []
    for i, (variables, history) in enumerate(results):
        flat = traverse_util.flatten_dict(variables, sep="/")
        arrays |= {f"{i}/{k}": x for k, x in flat.items()}
        histories.append([{k: v for k, v in row.items() if k != "seconds"} for row in history])
    np.savez(f"{file}.npz", **arrays)
    pathlib.Path(f"{file}.json").write_text(json.dumps(histories))


where = pathlib.Path(out)
for job in jobs.split(","):
    name, _, how = job.partition("_")
    if name == "seeds":
        trained = [
            make("landmarks", "float32", seed, int(how), where / name / f"seed_{seed}")
            for seed in range(4)
        ]
    else:
        epochs = 2 if how == "float32" else 1  # 20 steps, and an epoch
        trained = [make(name, how, 0, epochs, where / job)]
    save(where / job, loop.fit(trained, parallel=parallel))

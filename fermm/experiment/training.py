"""Trains the networks of a plan, each from all seeds, and has them predict."""

import os
import platform
import time
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import jax
import numpy as np

from fermm import models, rundir
from fermm.data.source import Source
from fermm.experiment.config import Config
from fermm.experiment.directory import code_so_far
from fermm.experiment.outputs import Network, Outputs, saying
from fermm.experiment.plan import Job
from fermm.experiment.predictions import are_there, predict
from fermm.models.types import shapes
from fermm.paths import make_directory
from fermm.predict import features_of
from fermm.rundir import RunDirectory, SeedDirectory
from fermm.train import checkpoint, devices, loop, partition, resuming
from fermm.train.job import SeedJob
from fermm.train.keys import key_for
from fermm.train.stop import Stop
from fermm.train.tasks import Data, Task

_PACKAGES = ("fermm", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def train_all(
    config: Config,
    directory: RunDirectory,
    jobs: Sequence[Job],
    source: Source,
    stop: Stop | None,
) -> None:
    """Trains what is not trained yet, and writes the predictions that are missing.

    Raises:
        InputError: a checkpoint is of another network, or cannot be written.
        Stopped: `stop` said so.
    """
    run = config.run
    outputs = Outputs(source, devices.layout_of_evaluation(run.parallel))
    for job in jobs:
        own = {seed: directory.seed(job.name, seed) for seed in run.seeds}
        with (
            devices.main_first("look through the results"),
            saying(f"{job.name}: looking through what is there"),
        ):
            complete = {seed for seed in run.seeds if are_there(config, job, own[seed])}
        places = {seed: each.checkpoints for seed, each in own.items()}
        at_once = devices.seeds_at_once(run.parallel, job.config.seeds_at_once)
        apart = devices.trains_apart(run.parallel)
        for group in resuming.groups(places, at_once, apart):
            left = [seed for seed in group if seed not in complete]
            if all(job.config.epochs in rundir.epochs(places[seed]) for seed in left):
                group = left  # of which only the predictions are missing
            if group:
                _train_and_predict(config, directory, job, group, source, outputs, stop)
        with devices.main_first("remove checkpoints that are not needed any more"):
            if devices.is_main():
                for place in places.values():
                    checkpoint.reduce(place, run.keep)


def check_layouts(config: Config, directory: RunDirectory) -> None:
    """Checks that a new run has work for all devices, with as many seeds as are trained at once.

    Raises:
        InputError: some devices would be without work.
    """
    if directory.config.is_file():
        return  # what is left of it shows when its checkpoints have been looked at
    count = len(config.run.seeds)
    for section in config.networks.values():
        at_once = min(devices.seeds_at_once(config.run.parallel, section.seeds_at_once), count)
        for seeds in {at_once, count % at_once or at_once}:
            devices.layout(config.run.parallel, seeds)


def _train_and_predict(
    config: Config,
    directory: RunDirectory,
    job: Job,
    seeds: Sequence[int],
    source: Source,
    outputs: Outputs,
    stop: Stop | None,
) -> None:
    networks, trainings = [], []
    for seed in seeds:
        own = directory.seed(job.name, seed)
        make_directory(own.path)
        network = _initialise(directory, job, seed, source)
        networks.append(network)

        began = time.perf_counter()
        train, validation = (
            Data(
                outputs.encode(network, split)
                if job.keeps_outputs
                else outputs.inputs(network.module, split),
                outputs.targets(split),
            )
            for split in ("train", "validation")
        )
        trainings.append(
            SeedJob(
                name=job.name,
                seed=seed,
                module=network.module,
                method="classify" if job.keeps_outputs else "__call__",
                variables=network.variables,
                trained=job.trained,
                config=job.config,
                task=Task(job.config.loss, np.asarray(source.class_weights, np.float32)),
                train=train,
                validation=validation,
                directory=own.path,
                meta=_meta(config, job, seed, network, source)
                | {"code": code_so_far(own.checkpoints, job.code)},
                setup_seconds=time.perf_counter() - began,
                workers=config.run.data.workers,
                events=directory.events(job.name, seed) if config.run.tensorboard else None,
            )
        )
    fitted = loop.fit(
        trainings,
        parallel=config.run.parallel,
        stop=stop,
        checkpoint_minutes=config.run.checkpoint_minutes,
    )
    for network, training, (variables, _) in zip(networks, trainings, fitted, strict=True):
        network = network._replace(variables=variables, key=str(training.directory))
        with saying(f"{job.name}, seed {training.seed}: predicting"):
            predict(config, network, SeedDirectory(training.directory), source, outputs)


def _initialise(directory: RunDirectory, job: Job, seed: int, source: Source) -> Network:
    """The network as training finds it."""
    members = {name: _load(job.member_directory(directory, name, seed)) for name in job.members}
    spec = job.spec
    if members:
        spec = {**spec, "members": {name: each.spec for name, each in members.items()}}
    module = models.build(spec)
    inputs = {name: source.samples.features[name][:1] for name in module.inputs}

    @jax.jit  # which leaves out all but the random numbers that are asked for
    def initialise(key: jax.Array) -> dict[str, Any]:
        return {
            collection: {k: v for k, v in tree.items() if k not in members}
            for collection, tree in module.init(key, inputs).items()
        }

    variables = initialise(key_for(seed, job.name, "initialisation"))
    for name, network in members.items():
        for collection, tree in network.variables.items():
            variables.setdefault(collection, {})[name] = tree
    module = models.build(spec, job.trained)
    if any(not path.startswith("head/") for path in job.trained):
        members = {}  # they change, so that nothing of theirs can be kept
    return Network(spec, module, variables, members, f"{job.name} at its start")


def _load(own: SeedDirectory) -> Network:
    where = rundir.locate(own.checkpoints)
    saved = checkpoint.read(where)
    spec = saved.meta["spec"]
    module = models.build(spec)
    inputs = shapes(features_of(saved.meta), module.inputs)
    expected = jax.eval_shape(module.init, jax.random.key(0), inputs)
    checkpoint.check_tree(expected, saved.variables, str(where))
    return Network(spec, module, saved.variables, {}, str(own.path))


def _meta(config: Config, job: Job, seed: int, network: Network, source: Source) -> dict[str, Any]:
    params, _ = partition.split(network.variables["params"], job.trained)
    described = source.samples.described
    return {
        "network": job.name,
        "seed": seed,
        "spec": network.spec,
        "inputs": list(network.module.inputs),
        "features": {name: described[name].to_json() for name in network.module.inputs},
        "classes": list(source.samples.classes),
        "trained": sorted(job.trained),
        "parameters": sum(x.size for x in jax.tree.leaves(params)),
        "config": config.to_dict(),
        "data": source.identity,
        "predictor": source.predictor,
        "versions": {package: metadata.version(package) for package in _PACKAGES},
        "machine": {
            "system": platform.platform(),
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "devices": ", ".join(sorted({device.device_kind for device in jax.devices()})),
        },
    }

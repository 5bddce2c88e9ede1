"""What trained networks decide about the samples of each split, written to the run directory."""

from typing import Any

import jax
import numpy as np

from fermm import models, rundir
from fermm.data.source import Source
from fermm.errors import InputError
from fermm.experiment.config import Config
from fermm.experiment.outputs import Network, Outputs
from fermm.experiment.plan import Job
from fermm.rundir import SeedDirectory
from fermm.train import devices, steps

SHUFFLES = 10  # ways to take a member's inputs from other samples, whose effect is averaged


def are_there(config: Config, job: Job, own: SeedDirectory) -> bool:
    """Whether a network is trained to its end and all of its predictions are there, undamaged."""
    splits = config.run.evaluate.splits
    kept = rundir.epochs(own.checkpoints)
    if not kept or kept[-1] < job.config.epochs:
        return False
    last = own.checkpoints / str(kept[-1])
    # Damaged files are made again, from the checkpoint before or from the network.
    if rundir.find_damage(last):
        return False
    try:
        meta = rundir.read_meta(last)
        if rundir.read_history(own.history) != meta["history"]:
            return False
        for split in splits:
            rundir.read_predictions(own.predictions(split), len(meta["classes"]))
        if job.members:
            rundir.read_modalities(own.modalities(splits[-1]), len(meta["classes"]))
    except (InputError, FileNotFoundError, ValueError, TypeError, KeyError):
        return False
    return True


def predict(
    config: Config, network: Network, own: SeedDirectory, source: Source, outputs: Outputs
) -> None:
    """Writes what a trained network decides about each split that is evaluated.

    Of a fusion it also writes, for the last of these, what each member decides by itself, and what
    the fusion decides where the inputs of a member come from other samples.
    """
    forward = steps.make_forward(network.module, outputs.layout, "classify")
    for split in config.run.evaluate.splits:
        embedding, labels = outputs.encode(network, split), outputs.labels(split)
        rows = source.samples.rows[source.splits[split]]
        probabilities = np.asarray(jax.nn.softmax(forward(network.variables, embedding).logits))
        if devices.is_main():
            rundir.write_predictions(
                own.predictions(split), rundir.Predictions(rows, labels, probabilities)
            )
    if not isinstance(network.module, models.Fusion):
        return
    members = tuple(network.module.members)
    alone = steps.make_forward(network.module, outputs.layout, models.Fusion.classify_members)(
        network.variables, embedding
    )
    shuffled: dict[str, list[np.ndarray]] = {name: [] for name in members}
    for i in range(SHUFFLES):
        other = others(len(labels), i)
        for name, decisions in shuffled.items():
            mixed = {**embedding, name: jax.tree.map(lambda x: x[other], embedding[name])}  # noqa: B023
            decisions.append(_decide(forward(network.variables, mixed).logits))
    if devices.is_main():
        rundir.write_modalities(
            own.modalities(split),
            rundir.Modalities(
                rows,
                labels,
                _decide(probabilities),
                {name: _decide(alone[name].logits) for name in members},
                {name: np.stack(decisions) for name, decisions in shuffled.items()},
            ),
        )


def others(count: int, seed: int) -> np.ndarray:
    """For each of `count` samples another one, each once: int64 (count,), none at its own place.

    One random cycle through all samples, so that at least two are needed.
    """
    cycle = np.random.default_rng(seed).permutation(count)
    order = np.empty_like(cycle)
    order[cycle] = np.roll(cycle, 1)
    return order


def _decide(logits: Any) -> np.ndarray:
    return np.argmax(logits, -1).astype(np.int16)

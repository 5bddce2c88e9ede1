"""The training loop, on small networks and random samples."""

import shutil
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fermm import models, rundir
from fermm.errors import InputError
from fermm.models import Outputs, register, registry
from fermm.train import checkpoint, loop, resuming, steps, training
from fermm.train.keys import key_for, keys_for
from fermm.train.losses import CrossEntropy
from fermm.train.stop import Stopped
from helpers.trainings import (
    StopAfter,
    assert_identical,
    make_job,
    make_jobs,
    with_config,
    without_seconds,
)


def test_a_step_is_compiled_once(tmp_path, monkeypatch):
    """Whole and partial batches, first and later chunks and epochs: one trace."""
    traces = []
    make_loss = steps.make_loss

    def counting(*args):
        loss = make_loss(*args)
        return lambda *inputs: (traces.append(1), loss(*inputs))[1]

    monkeypatch.setattr(steps, "make_loss", counting)
    monkeypatch.setattr(training, "CHUNK_SECONDS", 0.01)
    loop.fit([make_job(tmp_path, {"model": "nn2", "arguments": {}}, (".*",), epochs=3)])
    assert len(traces) == 1


def test_how_an_epoch_is_cut_into_chunks_changes_nothing(tmp_path, monkeypatch):
    results = []
    for name, seconds in (("whole", 100.0), ("cut", 1e-9)):
        monkeypatch.setattr(training, "CHUNK_SECONDS", seconds)
        job = make_job(tmp_path / name, {"model": "nn2", "arguments": {}}, (".*",), epochs=2)
        job.directory.mkdir()
        results.append(loop.fit([job])[0][0])
    assert_identical(*results)


@pytest.mark.long
@pytest.mark.slow
def test_seeds_trained_at_once_are_those_trained_alone(tmp_path):
    seeds = (0, 3, 7)
    together = loop.fit(make_jobs(tmp_path / "together", seeds, epochs=6))
    rates = set()
    for seed, (variables, history) in zip(seeds, together, strict=True):
        [(alone, alone_history)] = loop.fit(make_jobs(tmp_path / "alone", (seed,), epochs=6))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), variables, alone
        )
        for row, expected in zip(
            without_seconds(history), without_seconds(alone_history), strict=True
        ):
            np.testing.assert_allclose(list(row.values()), list(expected.values()), rtol=1e-4)
        rates.add(tuple(row["learning_rate"] for row in history))
        saved = checkpoint.read(tmp_path / "together" / f"seed_{seed}" / "checkpoints" / "6")
        assert_identical(saved.variables, variables)
    assert len(rates) > 1, "each seed should have reached its own plateau"


@pytest.mark.slow
def test_seeds_trained_at_once_go_on_to_the_same_bits(tmp_path, monkeypatch):
    """Stopped while a checkpoint of the second epoch was on disk for one of two seeds only."""
    expected = loop.fit(make_jobs(tmp_path / "whole", (0, 1)))
    jobs = make_jobs(tmp_path / "cut", (0, 1))
    loop.fit([with_config(job, epochs=2) for job in jobs])
    shutil.rmtree(jobs[1].directory / "checkpoints" / "2")
    resumed = loop.fit(jobs)
    for (variables, history), (want, want_history) in zip(resumed, expected, strict=True):
        assert_identical(variables, want)
        assert without_seconds(history) == without_seconds(want_history)


@pytest.mark.slow
def test_seeds_that_were_begun_together_stay_together(tmp_path):
    jobs = make_jobs(tmp_path, (0, 1, 2, 3, 4, 5), epochs=1)
    places = {job.seed: job.directory / "checkpoints" for job in jobs}
    assert resuming.groups(places, 4) == [[0, 1, 2, 3], [4, 5]]
    loop.fit(jobs[1:3])
    loop.fit(jobs[4:5])
    assert resuming.groups(places, 4) == [[1, 2], [4], [0, 3, 5]]
    assert resuming.groups(places, 1) == [[1, 2], [4], [0], [3], [5]]
    shutil.rmtree(places[1])
    assert resuming.groups(places, 4) == [[1, 2], [4], [0, 3, 5]]
    del places[1]
    assert resuming.groups(places, 4) == [[2], [4], [0, 3, 5]]


def test_running_metrics_are_means_over_the_samples(tmp_path):
    """With a learning rate of (almost) 0 and no dropout they are those of a plain evaluation."""
    spec = {"model": "nn2", "arguments": {"dropout": 0.0}}
    job = make_job(tmp_path, spec, ("logits/.*", "!.*"), learning_rate=1e-12)
    [(_, history)] = loop.fit([job])
    outputs = job.module.apply(job.variables, job.train.inputs)
    losses = np.asarray(CrossEntropy()(outputs.logits, job.train.targets))
    weights = job.task.class_weights[job.train.targets]
    np.testing.assert_allclose(history[0]["loss"], np.mean(weights * losses), rtol=1e-5)
    right = np.argmax(outputs.logits, -1) == job.train.targets
    np.testing.assert_allclose(history[0]["accuracy"], right.mean(), rtol=1e-6)
    outputs = job.module.apply(job.variables, job.validation.inputs)
    losses = CrossEntropy()(outputs.logits, job.validation.targets)
    np.testing.assert_allclose(history[0]["val_loss"], losses.mean(), rtol=1e-5)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    job = make_job(tmp_path, {"model": "nn2", "arguments": {}}, (".*",))
    job = with_config(job, learning_rate=float("inf"))
    with pytest.raises(InputError, match=r"network, seed 0: a parameter, .* by step 1 of epoch 1"):
        loop.fit([job])


EVERYTHING = {
    "optimizer": {
        "kind": "sgd",
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 1e-3,
        "clip": 5,
    },
    "schedule": {"kind": "cosine", "warmup_epochs": 1, "final": 0.1},
    "loss": {"kind": "cross_entropy", "label_smoothing": 0.1},
    "average": {"decay": 0.9},
    "augment": ("flip", "shift", "noise"),
    "augmentation": {"shift": {"pixels": 3}},
    "learning_rate": 0.05,
}


def saved(job):
    last = rundir.positions(job.directory / "checkpoints")[-1]
    found = checkpoint.read(job.directory / "checkpoints" / last.name, training=True)
    return found.variables, found.training


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("looks", [2, 9])
@pytest.mark.parametrize("seeds", [(3,), (0, 1)])
def test_with_everything_on_it_goes_on_to_the_same_bits(tmp_path, monkeypatch, seeds, looks):
    """Momentum, cosine, averages and augmentation; in the first epoch and in the second."""
    whole = make_jobs(tmp_path / "whole", seeds, epochs=2, **EVERYTHING)
    expected = loop.fit(whole)
    monkeypatch.setattr(training, "CHUNK_SECONDS", 1e-9)
    jobs = make_jobs(tmp_path / "cut", seeds, epochs=2, **EVERYTHING)
    with pytest.raises(Stopped):
        loop.fit(jobs, stop=StopAfter(looks))
    resumed = loop.fit(jobs)
    for (variables, history), (want, want_history) in zip(resumed, expected, strict=True):
        assert_identical(variables, want)
        assert without_seconds(history) == without_seconds(want_history)
    for job, other in zip(jobs, whole, strict=True):
        assert_identical(saved(job), saved(other))


@pytest.mark.slow
def test_with_everything_on_seeds_at_once_are_those_trained_alone(tmp_path):
    seeds = (0, 3)
    together = loop.fit(make_jobs(tmp_path / "together", seeds, epochs=2, **EVERYTHING))
    for seed, (variables, history) in zip(seeds, together, strict=True):
        alone = make_jobs(tmp_path / "alone", (seed,), epochs=2, **EVERYTHING)
        [(expected, other)] = loop.fit(alone)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), variables, expected
        )
        assert [row["learning_rate"] for row in history] == [row["learning_rate"] for row in other]


def test_augmentation_changes_training_and_not_validation(tmp_path):
    """With a learning rate of (almost) 0 the validation loss is that of the faces as they are."""
    results = []
    for name, section in (("plain", {}), ("augmented", {"augment": ("flip", "noise")})):
        spec = {"model": "nn2", "arguments": {"dropout": 0.0}}
        patterns = ("logits/.*", "!.*")
        job = make_job(tmp_path / name, spec, patterns, learning_rate=1e-12, **section)
        job.directory.mkdir()
        [(_, history)] = loop.fit([job])
        results.append(history[0])
    plain, augmented = results
    assert plain["val_loss"] == augmented["val_loss"]
    assert abs(plain["loss"] / augmented["loss"] - 1) > 1e-4


def test_kept_outputs_are_not_augmented(tmp_path):
    job = make_job(tmp_path, {"model": "nn2", "arguments": {}}, (".*",), augment=("noise",))
    with pytest.raises(InputError, match=r"^config.network.augment changes samples, but the outp"):
        loop.fit([job._replace(method="classify")])


@pytest.mark.slow
def test_targets_may_be_distributions(tmp_path):
    """Certain ones train the same network as labels do."""
    results = []
    for name in ("labels", "distributions"):
        job = make_job(tmp_path / name, {"model": "nn2", "arguments": {}}, (".*",))
        job.directory.mkdir()
        if name == "distributions":
            data = (
                each._replace(targets=np.eye(7, dtype=np.float32)[each.targets])
                for each in (job.train, job.validation)
            )
            job = job._replace(**dict(zip(("train", "validation"), data, strict=True)))
        results.append(loop.fit([job])[0])
    (variables, history), (expected, other) = results
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), variables, expected)
    for row, want in zip(without_seconds(history), without_seconds(other), strict=True):
        np.testing.assert_allclose(list(row.values()), list(want.values()), rtol=1e-4)


class Convolutional(nn.Module):
    """A small network with a convolution as XLA knows it."""

    inputs: ClassVar[tuple[str, ...]] = ("images",)

    @nn.compact
    def __call__(self, inputs, *, train=False, mask=None):
        x = inputs["images"][..., None].astype(jnp.float32) / 255
        x = nn.relu(nn.Conv(4, (3, 3), strides=4, name="conv")(x))
        x = nn.Dropout(0.2, deterministic=not train)(x.reshape(x.shape[0], -1))
        return Outputs(x, nn.Dense(7, name="logits")(x))


@pytest.fixture
def _convolutional(monkeypatch):
    monkeypatch.setattr(registry, "NETWORKS", dict(registry.NETWORKS))
    monkeypatch.setattr(models.building, "NETWORKS", registry.NETWORKS)
    register("convolutional")(Convolutional)


@pytest.mark.usefixtures("_convolutional")
def test_convolutions_are_kept_out_of_loops_on_the_cpu(tmp_path, monkeypatch):
    """A step of its own for each; either way trains the same network, and a run keeps its way."""
    monkeypatch.setattr(training, "CHUNK_SECONDS", 1e-9)
    found = {}
    for way in ("", "many"):
        job = make_job(
            tmp_path / f"way {way}", {"model": "convolutional", "arguments": {}}, (".*",)
        )
        job.directory.mkdir()
        with monkeypatch.context() as patch:
            if way:
                patch.setattr(steps, "loops_are_slow", lambda lowered: False)
            with pytest.raises(Stopped):
                loop.fit([job], stop=StopAfter(1))
        # Stopped, it goes on in the same way, whatever would be chosen now.
        with monkeypatch.context() as patch:
            patch.setattr(steps, "loops_are_slow", None)
            [(variables, _)] = loop.fit([job])
        meta = rundir.read_meta(job.directory / "checkpoints" / "1")
        found[meta["steps_in_one_call"]] = variables
    assert set(found) == {"one", "many"}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found["one"], found["many"]
    )


@pytest.mark.slow
@pytest.mark.usefixtures("_convolutional")
@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize(
    ("model", "way"), [("convolutional", "one"), ("nn1", "many"), ("nn2", "many")]
)
def test_which_networks_train_in_a_loop(tmp_path, model, way, seeds):
    job = make_job(tmp_path, {"model": model, "arguments": {}}, (".*",), count=16)
    jobs = [job._replace(seed=i, directory=tmp_path / str(i)) for i in range(seeds)]
    for each in jobs:
        each.directory.mkdir()
    loop.fit(jobs)
    meta = rundir.read_meta(tmp_path / "0" / "checkpoints" / "1")
    assert meta["steps_in_one_call"] == way
    assert meta["platform"] == "cpu"


@pytest.mark.usefixtures("_convolutional")
def test_a_run_from_another_platform_finds_its_way_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHUNK_SECONDS", 1e-9)
    job = make_job(tmp_path, {"model": "convolutional", "arguments": {}}, (".*",))
    with monkeypatch.context() as patch:
        patch.setattr(steps, "loops_are_slow", lambda lowered: False)
        patch.setattr(jax, "default_backend", lambda: "gpu")
        with pytest.raises(Stopped):
            loop.fit([job], stop=StopAfter(1))
    assert rundir.read_meta(tmp_path / "checkpoints" / "0+2")["steps_in_one_call"] == "many"
    loop.fit([job])
    assert rundir.read_meta(tmp_path / "checkpoints" / "1")["steps_in_one_call"] == "one"


class Streaming(nn.Module):
    """Draws from a stream of its own beside dropout's."""

    inputs: ClassVar[tuple[str, ...]] = ("landmarks",)
    streams: ClassVar[tuple[str, ...]] = ("dropout", "jitter")

    jitter: bool = True

    @nn.compact
    def __call__(self, inputs, *, train=False, mask=None):
        x = inputs["landmarks"].reshape(inputs["landmarks"].shape[0], -1)
        if train and self.jitter:
            drawn = jax.random.normal(self.make_rng("jitter"), x.shape)
            self.sow("batch_stats", "seen", drawn, reduce_fn=lambda _, new: new.sum())
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return Outputs(x, nn.Dense(7, name="logits")(x))


def test_a_network_has_the_streams_that_it_names():
    nn2 = models.build({"model": "nn2", "arguments": {}})
    assert models.streams(nn2) == ("dropout",)
    assert models.streams(Streaming()) == ("dropout", "jitter")
    fusion = models.Fusion(Streaming(), nn2, models.DecisionHead())
    assert models.streams(fusion) == ("dropout", "jitter")
    keys = keys_for(3, "network", Streaming())
    for stream in ("dropout", "jitter"):
        expected = key_for(3, "network", stream)
        assert keys.streams[stream] == expected
        at = keys.at(jnp.int32(5)).streams[stream]
        assert at == jax.random.fold_in(expected, 5)
    assert keys.augmentation == key_for(3, "network", "augmentation")


def test_another_stream_changes_no_bit_of_dropout():
    inputs = {"landmarks": jax.random.normal(jax.random.key(0), (4, 68, 2))}
    variables = Streaming().init(jax.random.key(1), inputs)
    results = []
    for jitter in (False, True):
        module = Streaming(jitter=jitter)
        outputs, _ = module.apply(
            variables,
            inputs,
            train=True,
            rngs=keys_for(0, "network", module).at(jnp.int32(2)).streams,
            mutable=["batch_stats"],
        )
        results.append(outputs.features)
    np.testing.assert_array_equal(*results)

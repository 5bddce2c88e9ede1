"""Averaged weights against a loop in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fermm.train import checkpoint, loop
from fermm.train.averaging import Average
from helpers.trainings import assert_identical, make_job


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_average_equals_a_loop(decay: float) -> None:
    random = np.random.default_rng(0)
    path = random.normal(size=(30, 4)).astype(np.float32)
    average = Average(decay)
    found = average.start({"w": jnp.asarray(path[0])}, {})
    expected = path[0].astype(float)
    for step, new in enumerate(path[1:]):
        found = average.update(found, {"w": jnp.asarray(new)}, {}, jnp.int32(step))
        kept = min(decay, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * new
    np.testing.assert_allclose(found["params"]["w"], expected, rtol=1e-5)


def test_what_stays_the_same_stays_to_the_bit() -> None:
    value = {"w": jnp.float32(0.1) * jnp.arange(7.0)}
    average = Average(0.9)
    found = average.start(value, value)
    for step in range(20):
        found = average.update(found, value, value, jnp.int32(step))
    assert_identical(found, {"params": value, "batch_stats": value})


def test_off_it_keeps_nothing() -> None:
    assert Average().start({"w": 1}, {}) == {}
    assert Average().update({}, {"w": 1}, {}, jnp.int32(0)) == {}


def test_a_training_predicts_with_the_average(tmp_path) -> None:
    """It changes nothing of the training itself, and frozen parameters are not averaged."""
    spec, patterns = {"model": "nn2", "arguments": {}}, ("!jaw/.*", ".*")
    results = {}
    for name, decay in (("plain", 0.0), ("averaged", 0.9)):
        job = make_job(tmp_path / name, spec, patterns, epochs=2, average={"decay": decay})
        (tmp_path / name).mkdir()
        [(variables, history)] = loop.fit([job])
        saved = checkpoint.read(tmp_path / name / "checkpoints" / "2", training=True)
        assert_identical(saved.variables, variables)
        results[name] = (variables, history, saved)
    (plain, history, before), (averaged, other, saved) = results.values()
    assert "raw" not in before.training
    assert set(saved.training["raw"]["params"]) == {*plain["params"]} - {"jaw"}
    raw = {**saved.training["raw"]["params"], "jaw": plain["params"]["jaw"]}
    assert_identical(raw, plain["params"])
    assert_identical(saved.training["raw"]["batch_stats"], plain["batch_stats"])
    assert_identical(saved.training["opt_state"], before.training["opt_state"])
    assert_identical(averaged["params"]["jaw"], plain["params"]["jaw"])
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), averaged, plain)
    assert all(jax.tree.leaves({**moved, "params": {**moved["params"], "jaw": True}}))
    # The metrics of training are those of what is trained, those of validation the average's.
    assert [row["loss"] for row in history] == [row["loss"] for row in other]
    outputs = job.module.apply(averaged, job.validation.inputs)
    loss = job.config.loss(outputs.logits, job.validation.targets)
    np.testing.assert_allclose(other[-1]["val_loss"], loss.mean(), rtol=1e-5)
    assert other[-1]["val_loss"] != history[-1]["val_loss"]

"""Losses: by hand, and in the step of a network."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fermm import config, models
from fermm.errors import InputError
from fermm.train import steps
from fermm.train.losses import LOSSES, CrossEntropy, one_hot
from fermm.train.tasks import Data, Task
from helpers.networks import drawn_variables

LOGITS = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]))


def test_cross_entropy_by_hand() -> None:
    found = CrossEntropy()(LOGITS, jnp.array([0, 2]))
    np.testing.assert_allclose(found, [-np.log(0.5), -np.log(0.7)], rtol=1e-6)


def test_label_smoothing_by_hand() -> None:
    """A share of 0.3 over three classes: 0.8 for the label, 0.1 for each of the others."""
    found = CrossEntropy(label_smoothing=0.3)(LOGITS, jnp.array([0, 2]))
    expected = [
        -(0.8 * np.log(0.5) + 0.1 * np.log(0.25) + 0.1 * np.log(0.25)),
        -(0.1 * np.log(0.1) + 0.1 * np.log(0.2) + 0.8 * np.log(0.7)),
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_distributions_by_hand() -> None:
    targets = jnp.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    expected = [-(0.5 * np.log(0.5) + 0.5 * np.log(0.25)), -np.log(0.7)]
    np.testing.assert_allclose(CrossEntropy()(LOGITS, targets), expected, rtol=1e-6)
    smooth = CrossEntropy(label_smoothing=0.6)(LOGITS, targets)
    mixed = 0.4 * np.asarray(targets) + 0.2
    np.testing.assert_allclose(smooth, -(mixed * np.asarray(LOGITS)).sum(-1), rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_certain_distributions_are_labels(smoothing: float) -> None:
    loss, labels = CrossEntropy(label_smoothing=smoothing), jnp.array([1, 2])
    found = loss(LOGITS, jax.nn.one_hot(labels, 3))
    np.testing.assert_allclose(found, loss(LOGITS, labels), rtol=1e-6)
    np.testing.assert_array_equal(one_hot(LOGITS, labels), [[0, 1, 0], [0, 0, 1]])


def test_without_smoothing_it_is_the_same_program_as_before() -> None:
    """Bit for bit: the paper's networks are trained as they were."""
    labels = jnp.array([1, 2])
    found, expected = (
        jax.jit(function).lower(LOGITS, labels).as_text()
        for function in (CrossEntropy(), optax.softmax_cross_entropy_with_integer_labels)
    )
    named = "softmax_cross_entropy_with_integer_labels"
    assert found.split("\n")[1:] == expected.replace(named, "f").split("\n")[1:]


@pytest.mark.parametrize("value", [1.0, -0.1])
def test_a_share_is_a_share(value: float) -> None:
    with pytest.raises(InputError) as error:
        config.read_kind(LOSSES, {"kind": "cross_entropy", "label_smoothing": value}, "config.loss")
    assert str(error.value) == (
        f"config.loss.label_smoothing is {value}, needs a number from 0, less than 1"
    )


def step_loss(targets: jax.Array, weights: jax.Array, loss: CrossEntropy) -> tuple:
    """The loss of a step on three samples, of which the last is padding; loss of each; sums."""
    module = models.build({"model": "nn2", "arguments": {"dropout": 0.0}})
    inputs = {"landmarks": jax.random.normal(jax.random.key(1), (3, 68, 2))}
    variables = drawn_variables(module, inputs)
    mask, streams = jnp.array([True, True, False]), {"dropout": jax.random.key(0)}
    of_batch = steps.make_loss(module, Task(loss, weights), "__call__")
    total, (_, sums) = of_batch(
        variables["params"],
        {},
        variables["batch_stats"],
        Data(inputs, targets),
        mask,
        streams,
    )
    outputs, _ = module.apply(
        variables, inputs, train=True, mask=mask, mutable=["batch_stats"], rngs=streams
    )
    return total, outputs.logits, sums


def test_class_weights_multiply_the_loss_and_do_not_divide_it() -> None:
    """Keras divides by the number of samples, not by the sum of their weights."""
    labels = jnp.array([0, 6, 6])
    total, logits, sums = step_loss(labels, jnp.arange(1.0, 8.0), CrossEntropy())
    each = CrossEntropy()(logits, labels)
    np.testing.assert_allclose(total, (1 * each[0] + 7 * each[1]) / 2, rtol=1e-6)
    np.testing.assert_allclose(sums.loss, 1 * each[0] + 7 * each[1], rtol=1e-6)


def test_the_class_weight_of_a_distribution_is_the_expected_one() -> None:
    targets = jnp.array([[0.5, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0]] + [[0.0] * 6 + [1.0]] * 2)
    total, logits, sums = step_loss(targets, jnp.arange(1.0, 8.0), CrossEntropy(0.1))
    each = CrossEntropy(0.1)(logits, targets)
    np.testing.assert_allclose(total, (2.5 * each[0] + 7 * each[1]) / 2, rtol=1e-6)
    right = np.argmax(logits, -1)[:2] == np.argmax(targets, -1)[:2]
    assert float(sums.correct) == int(right.sum())

"""Optimisers: by hand, against optax, and on the parameters that decay is meant for."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fermm.config import read_kind
from fermm.train.optimizers import OPTIMIZERS, SGD, Adam, AdamW, scale_by_adam

PARAMS = {
    "dense": {"kernel": np.array([[1.0, -2.0], [0.5, 4.0]], np.float32), "bias": np.ones(2)},
    "norm": {"scale": np.array([3.0, -1.0])},
}


def walk(transform: optax.GradientTransformation, count: int = 5) -> Any:
    """The parameters after some updates by gradients that depend on them."""
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), PARAMS)
    state = transform.init(params)
    for i in range(count):
        grads = jax.tree.map(lambda x: jnp.sin(3 * x + i), params)  # noqa: B023
        updates, state = transform.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


def assert_close(a: Any, b: Any) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a, b)


def test_adam_by_hand() -> None:
    """Two steps of Kingma & Ba's algorithm with epsilon hat, in plain Python."""
    transform = scale_by_adam(0.9, 0.999, 1e-7, hat=True)
    state = transform.init(jnp.zeros(2))
    m, v = np.zeros(2), np.zeros(2)
    for t, gradient in enumerate([np.array([0.5, -1e-8]), np.array([-0.25, 3e-8])], start=1):
        update, state = transform.update(jnp.asarray(gradient, jnp.float32), state)
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        expected = np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-7)
        # float32, in which 1 - 0.999**t keeps four digits
        np.testing.assert_allclose(update, expected, rtol=3e-4)


def test_the_epsilon_of_adam_is_that_of_keras_and_not_that_of_optax() -> None:
    transform = Adam().make(optax.identity())
    gradient = jnp.array([1e-8])
    update, _ = transform.update(gradient, transform.init(gradient))
    # root of the uncorrected second moment: 1e-8 * sqrt(0.001) = 3.2e-10, next to eps = 1e-7
    np.testing.assert_allclose(update, 3.1623e-10 / (3.1623e-10 + 1e-7), rtol=1e-3)


def matrices(params: Any) -> Any:
    return {"dense": {"kernel": True, "bias": False}, "norm": {"scale": False}}


def clipped(*transforms: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(0.7), *transforms)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (AdamW(weight_decay=0.1), lambda: optax.adamw(0.05, weight_decay=0.1, mask=matrices)),
        (
            AdamW(b1=0.8, b2=0.95, epsilon=1e-3, weight_decay=0.0),
            lambda: optax.adamw(0.05, 0.8, 0.95, 1e-3, weight_decay=0.0),
        ),
        (
            AdamW(clip=0.7, weight_decay=0.3),
            lambda: clipped(optax.adamw(0.05, weight_decay=0.3, mask=matrices)),
        ),
        (SGD(), lambda: optax.sgd(0.05)),
        (SGD(momentum=0.9), lambda: optax.sgd(0.05, momentum=0.9)),
        (SGD(momentum=0.9, nesterov=True), lambda: optax.sgd(0.05, momentum=0.9, nesterov=True)),
        (
            SGD(clip=0.7, momentum=0.9, weight_decay=0.1),
            lambda: clipped(
                optax.add_decayed_weights(0.1, matrices), optax.sgd(0.05, momentum=0.9)
            ),
        ),
    ],
)
def test_second_implementations(ours: Any, theirs: Any) -> None:
    expected: Any
    with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
        expected = walk(theirs())
    assert_close(walk(ours.make(optax.scale(-0.05))), expected)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_decay_spares_norms_and_biases(kind: str) -> None:
    """With gradients of zero, decay is all that moves a parameter."""
    made = read_kind(OPTIMIZERS, {"kind": kind, "weight_decay": 0.5}, "config.optimizer")
    transform = made.make(optax.scale(-0.1))
    params = jax.tree.map(jnp.asarray, PARAMS)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = transform.update(zeros, transform.init(params), params)
    np.testing.assert_allclose(updates["dense"]["kernel"], -0.05 * PARAMS["dense"]["kernel"])
    assert not np.any(updates["dense"]["bias"])
    assert not np.any(updates["norm"]["scale"])


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_clipping_by_the_norm_of_all_gradients(kind: str) -> None:
    """Gradients of norm 13 are cut to 1.3, those that are shorter are left."""
    section = {"kind": kind, "clip": 1.3, "weight_decay": 0.0}
    made = read_kind(OPTIMIZERS, section, "config.optimizer")
    params = {"a": jnp.zeros((1, 1)), "b": jnp.zeros(2)}
    long = {"a": jnp.full((1, 1), 12.0), "b": jnp.array([3.0, 4.0])}
    short = jax.tree.map(lambda x: x / 10, long)
    transform = made.make(optax.scale(-1.0))
    results = [transform.update(g, transform.init(params), params) for g in (long, short)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *results)
    if kind == "sgd":
        np.testing.assert_allclose(results[0][0]["b"], [-0.3, -0.4], rtol=1e-6)

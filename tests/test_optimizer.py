import jax.numpy as jnp
import numpy as np
import pytest

from fermm import settings
from fermm.errors import InputError
from fermm.train import optimizer


def test_adam_by_hand():
    """Two steps of Kingma & Ba's algorithm with epsilon hat, in plain Python."""
    transform = optimizer.scale_by_keras_adam(b1=0.9, b2=0.999, eps=1e-7)
    state = transform.init(jnp.zeros(2))
    m, v = np.zeros(2), np.zeros(2)
    for t, gradient in enumerate([np.array([0.5, -1e-8]), np.array([-0.25, 3e-8])], start=1):
        update, state = transform.update(jnp.asarray(gradient, jnp.float32), state)
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        expected = np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-7)
        # float32, in which 1 - 0.999**t keeps four digits
        np.testing.assert_allclose(update, expected, rtol=3e-4)


def test_epsilon_is_that_of_keras_and_not_that_of_optax():
    transform = optimizer.scale_by_keras_adam()
    gradient = jnp.array([1e-8])
    update, _ = transform.update(gradient, transform.init(gradient))
    # root of the uncorrected second moment: 1e-8 * sqrt(0.001) = 3.2e-10, next to eps = 1e-7
    np.testing.assert_allclose(update, 3.1623e-10 / (3.1623e-10 + 1e-7), rtol=1e-3)


def plateau_scales(values, **arguments):
    transform = optimizer.reduce_on_plateau(**arguments)
    state = transform.init({})
    scales = []
    for value in values:
        scaled, _ = transform.update(jnp.array([2.0]), state)
        scales.append(float(scaled[0]) / 2)
        _, state = transform.update({}, state, value=value)
    return scales


def test_plateau_reduces_after_patience_epochs_without_a_new_best():
    values = [3.0, 2.0, 2.1, 2.0, 1.95, 2.0, 2.0, 2.0, 2.0]
    expected = [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]
    # 2.1 and 2.0 are two epochs without; 1.95 is a new best; then two and two again.
    assert plateau_scales(values, factor=0.5, patience=2, min_delta=0.01) == expected


def test_plateau_wants_more_than_min_delta():
    just_enough = plateau_scales([1.0, 0.75, 0.5, 0.25], factor=0.1, patience=1, min_delta=0.249)
    assert just_enough == [1, 1, 1, 1]
    not_quite = plateau_scales([1.0, 0.75, 0.5], factor=0.5, patience=1, min_delta=0.25)
    assert not_quite == [1, 1, 0.5]


def test_scaling_inside_an_epoch_leaves_the_plateau_alone():
    transform = optimizer.reduce_on_plateau(factor=0.5, patience=1, min_delta=0.0)
    state = transform.init({})
    _, after = transform.update(jnp.ones(3), state)
    assert after == state


def test_unknown_schedule():
    with pytest.raises(InputError, match="schedule: kind 'cosine' is unknown; it is one of"):
        optimizer.make(1.0, {"kind": "cosine"}, 1)


def test_the_schedules_are_those_that_a_config_may_name():
    assert set(optimizer.SCHEDULES) == set(settings._SCHEDULE_FIELDS)

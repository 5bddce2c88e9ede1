"""Adam as Keras computes it, and learning-rate schedules as optax transforms."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fermm.errors import InputError

SCHEDULES = ("constant", "step", "plateau")


class AdamState(NamedTuple):
    """Number of updates made, and the running means of the gradients and of their squares."""

    step: jax.Array
    mu: optax.Updates
    nu: optax.Updates


def scale_by_keras_adam(
    b1: float = 0.9, b2: float = 0.999, eps: float = 1e-7
) -> optax.GradientTransformation:
    """Adam with Keras's epsilon.

    Keras adds `eps` to the root of the *uncorrected* second moment; `optax.scale_by_adam` adds it
    after bias correction, which in the first steps is a much smaller one. This is the form just
    before section 2.1 of Kingma & Ba, 2015 (https://arxiv.org/abs/1412.6980), "epsilon hat".
    """

    def init(params: optax.Params) -> AdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AdamState(jnp.zeros([], jnp.int32), zeros, jax.tree.map(jnp.zeros_like, params))

    def update(
        updates: optax.Updates, state: AdamState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, AdamState]:
        del params
        step = state.step + 1
        mu = jax.tree.map(lambda m, g: m + (g - m) * (1 - b1), state.mu, updates)
        nu = jax.tree.map(lambda v, g: v + (g * g - v) * (1 - b2), state.nu, updates)

        def direction(m: jax.Array, v: jax.Array) -> jax.Array:
            t = step.astype(m.dtype)
            correction = jnp.sqrt(1 - b2**t) / (1 - b1**t)
            return correction * m / (jnp.sqrt(v) + eps)

        return jax.tree.map(direction, mu, nu), AdamState(step, mu, nu)

    return optax.GradientTransformation(init, update)


class PlateauState(NamedTuple):
    """State of `reduce_on_plateau`, all float32 or int32 scalars.

    Attributes:
        scale: what updates are multiplied by.
        best: the lowest value seen.
        wait: epochs since then, or since the last reduction.
    """

    scale: jax.Array
    best: jax.Array
    wait: jax.Array


def reduce_on_plateau(
    factor: float, patience: int, min_delta: float
) -> optax.GradientTransformationExtraArgs:
    """Multiplies updates by a scale that shrinks when a value stops falling, once per epoch.

    The rule is that of Keras's `ReduceLROnPlateau` (mode "min"): a value that is lower than the
    best by more than `min_delta` (absolute) is the new best; after `patience` epochs without one,
    the scale is multiplied by `factor`. `optax.contrib.reduce_on_plateau` counts updates instead
    of epochs and has another threshold.

    `update(..., value=None)` only scales. An epoch's end is told by `value`, a float scalar:
    `_, state = transform.update(updates, state, value=validation_loss)`, with any updates.
    """

    def init(params: optax.Params) -> PlateauState:
        del params
        return PlateauState(jnp.float32(1), jnp.float32(jnp.inf), jnp.int32(0))

    def update(
        updates: optax.Updates,
        state: PlateauState,
        params: optax.Params | None = None,
        *,
        value: jax.Array | float | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, PlateauState]:
        del params, extra
        scaled = jax.tree.map(lambda u: u * state.scale.astype(u.dtype), updates)
        if value is None:
            return scaled, state
        value = jnp.asarray(value, jnp.float32)
        # Of two close floats the difference is exact, while `best - min_delta` would be rounded.
        improved = value - state.best < -min_delta
        wait = jnp.where(improved, 0, state.wait + 1)
        reduce = wait >= patience
        return scaled, PlateauState(
            jnp.where(reduce, state.scale * jnp.float32(factor), state.scale),
            jnp.where(improved, value, state.best),
            jnp.where(reduce, 0, wait),
        )

    return optax.GradientTransformationExtraArgs(init, update)


class Optimizer(NamedTuple):
    """A gradient transformation, and what the loop asks of its schedule.

    Attributes:
        transform: optax transformation; `update` takes no extra arguments inside an epoch.
        end_epoch: (state, validation loss) -> state, called once after each epoch.
        learning_rate: state -> the learning rate of the last update made, a NumPy float.

    The last two also take the state of several seeds, stacked along the first axis, with one
    validation loss for each.
    """

    transform: optax.GradientTransformationExtraArgs
    end_epoch: Any
    learning_rate: Any


def make(learning_rate: float, schedule: Mapping[str, Any], steps_per_epoch: int) -> Optimizer:
    """Adam with one of the three schedules of the paper.

    Args:
        learning_rate: of the first epoch.
        schedule: `kind` is "constant", "step" (times `factor` when each of the 0-based `epochs`
            begins) or "plateau" (`factor`, `patience`, `min_delta`: see `reduce_on_plateau`).
        steps_per_epoch: updates in an epoch.

    Raises:
        InputError: an unknown kind.
    """
    kind = schedule["kind"]
    if kind == "constant":
        by_schedule = optax.scale_by_schedule(lambda count: jnp.float32(1))
    elif kind == "step":
        boundaries = {epoch * steps_per_epoch: schedule["factor"] for epoch in schedule["epochs"]}
        scale = optax.piecewise_constant_schedule(1.0, boundaries)
        # As a float, for optax mixes the count with floats, which strict promotion forbids.
        by_schedule = optax.scale_by_schedule(lambda count: scale(count.astype(jnp.float32)))
    elif kind == "plateau":
        by_schedule = reduce_on_plateau(
            schedule["factor"], schedule["patience"], schedule["min_delta"]
        )
    else:
        raise InputError(
            f"schedule: kind {kind!r} is unknown; it is one of {', '.join(SCHEDULES)}."
        )
    by_schedule = optax.with_extra_args_support(by_schedule)

    adam = scale_by_keras_adam()
    transform = optax.chain(adam, by_schedule, optax.scale(-learning_rate))

    def end_epoch(state: Any, validation_loss: Any) -> Any:
        if kind != "plateau":
            return state
        return (state[0], by_schedule.update({}, state[1], value=validation_loss)[1], state[2])

    def last(state: Any) -> Any:
        before = state[1]
        if isinstance(before, optax.ScaleByScheduleState):  # at an epoch's end, of the next one
            before = before._replace(count=before.count - 1)
        # Whatever the schedule, it is a factor on updates: ask it for the factor.
        scale, _ = by_schedule.update(jnp.float32(1), before)
        return np.asarray(scale, np.float64) * learning_rate

    return Optimizer(transform, end_epoch, last)

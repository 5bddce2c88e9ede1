"""From the optimiser and the schedule of a config to the updates of a training.

The state of the schedule lies somewhere in the state of the optimiser, whose shape is the
optimiser's own affair: wrapped, masked, more than once. It is found by its type, `RateState`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fermm.errors import InputError
from fermm.train.config import TrainConfig
from fermm.train.schedules import Length, Schedule


class RateState(NamedTuple):
    """State of the transformation that multiplies by the learning rate.

    Attributes:
        step: updates made, int32 scalar.
        memory: of the schedule.
    """

    step: jax.Array
    memory: Any


class Updates(NamedTuple):
    """How a training updates its parameters, and what the loop asks of the schedule.

    Attributes:
        transform: optax transformation of the gradients of the trained parameters.
        end_epoch: (opt_state, validation loss) -> opt_state, called once after each epoch. What
            does not change is the same object.
        learning_rate: opt_state -> the learning rate of the last update made, float64 ().

    The last two also take the state of several seeds, stacked along the first axis, with one
    validation loss for each; the learning rate is then (S,).
    """

    transform: optax.GradientTransformationExtraArgs
    end_epoch: Callable[[Any, Any], Any]
    learning_rate: Callable[[Any], np.ndarray]


def make(config: TrainConfig, steps_per_epoch: int) -> Updates:
    """The updates of a training that the config describes.

    Args:
        config: see `TrainConfig`.
        steps_per_epoch: updates in an epoch.
    """
    schedule, length = config.schedule, Length(config.epochs, steps_per_epoch)
    transform = config.optimizer.make(scale_by_rate(config.learning_rate, schedule, length))

    def end_epoch(opt_state: Any, validation_loss: Any) -> Any:
        def one(state: RateState) -> RateState:
            if not jax.tree.leaves(state.memory):
                return state
            losses = jnp.asarray(validation_loss, jnp.float32)
            return state._replace(
                memory=_for_each_seed(
                    lambda state, loss: schedule.end_epoch(state.memory, loss), state, losses
                )
            )

        return jax.tree.map(
            lambda x: one(x) if isinstance(x, RateState) else x, opt_state, is_leaf=_is_rate
        )

    def learning_rate(opt_state: Any) -> np.ndarray:
        scales = _for_each_seed(
            lambda state: schedule.scale(state.step - 1, state.memory, length),
            rate_states(opt_state)[0],
        )
        return np.asarray(scales, np.float64) * config.learning_rate

    return Updates(optax.with_extra_args_support(transform), end_epoch, learning_rate)


def scale_by_rate(
    learning_rate: float, schedule: Schedule, length: Length
) -> optax.GradientTransformation:
    """Multiplies by minus the learning rate, as the schedule scales it."""

    def init(params: optax.Params) -> RateState:
        del params
        return RateState(jnp.zeros([], jnp.int32), schedule.start())

    def update(
        updates: optax.Updates, state: RateState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, RateState]:
        del params
        scale = schedule.scale(state.step, state.memory, length)
        scaled = jax.tree.map(lambda u: u * scale.astype(u.dtype) * -learning_rate, updates)
        return scaled, RateState(state.step + 1, state.memory)

    return optax.GradientTransformation(init, update)


def rate_states(opt_state: Any) -> list[RateState]:
    """All states of `scale_by_rate` in the state of an optimiser, wherever they lie."""
    return [x for x in jax.tree.leaves(opt_state, is_leaf=_is_rate) if isinstance(x, RateState)]


def check_state(opt_state: Any, where: str) -> None:
    """Checks that the loop can keep the state of an optimiser and find the schedule in it.

    Args:
        opt_state: the state, or its shapes and types.
        where: the section of the optimiser, for the message.

    Raises:
        InputError: it cannot.
    """
    if not rate_states(opt_state):
        raise InputError(
            f"{where}: its `make(rate)` does not use `rate`, by which the schedule sets the "
            "learning rate: put it into the chain, as `optax.chain(..., rate)`"
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state):
        kept = hasattr(leaf, "dtype") and (
            jnp.issubdtype(leaf.dtype, jnp.number) or jnp.issubdtype(leaf.dtype, jnp.bool_)
        )
        if not kept:
            raise InputError(
                f"{where}: {jax.tree_util.keystr(path)} of its state is "
                f"{getattr(leaf, 'dtype', type(leaf).__name__)}, needs an array of numbers"
            )


def to_dict(opt_state: Any) -> dict[str, Any]:
    """The arrays of an optimiser's state as nested dicts, by their paths."""
    result: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state):
        *above, last = _names(path)
        inner = result
        for name in above:
            inner = inner.setdefault(name, {})
        inner[last] = leaf
    return result


def from_dict(like: Any, tree: dict[str, Any]) -> Any:
    """The state of the form `like` that `to_dict` made into `tree`."""

    def find(path: Any, _: Any) -> Any:
        inner: Any = tree
        for name in _names(path):
            inner = inner[name]
        return inner

    return jax.tree_util.tree_map_with_path(find, like)


def _for_each_seed(function: Callable[..., Any], state: RateState, *rest: Any) -> Any:
    """What `function` gives for the state of one seed, or for each of stacked ones, stacked.

    One after the other: so each has the bits that it has alone.
    """
    arguments = jax.tree.map(jnp.asarray, (state, *rest))
    if not arguments[0].step.ndim:
        return function(*arguments)
    results = [
        function(*jax.tree.map(lambda x: x[i], arguments))  # noqa: B023
        for i in range(len(arguments[0].step))
    ]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)


def _names(path: Sequence[Any]) -> list[str]:
    return [jax.tree_util.keystr((key,), simple=True) for key in path]


def _is_rate(x: Any) -> bool:
    return isinstance(x, RateState)

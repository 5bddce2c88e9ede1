"""Schedules, and where their state is found in that of the optimiser."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from fermm import config
from fermm.errors import InputError
from fermm.train import updates
from fermm.train.config import TrainConfig
from fermm.train.optimizers import OPTIMIZERS, SGD, Adam, AdamW, Optimizer
from fermm.train.schedules import SCHEDULES, Constant, Cosine, Length, Plateau, Schedule, Step

PLATEAU = Plateau(factor=0.5, patience=1, min_delta=0.0)


def scales(schedule: Schedule, length: Length) -> np.ndarray:
    """The factor of every update of a training."""
    count = length.epochs * length.steps_per_epoch
    memory = schedule.start()
    return np.array([schedule.scale(jnp.int32(i), memory, length) for i in range(count)])


def test_constant() -> None:
    np.testing.assert_array_equal(scales(Constant(), Length(2, 3)), 1)


def test_step_by_hand() -> None:
    found = scales(Step(factor=0.5, epochs=(3, 1, 1)), Length(4, 2))
    np.testing.assert_array_equal(found, [1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25])


def test_step_equals_optax() -> None:
    found = scales(Step(factor=0.2, epochs=(1, 4)), Length(6, 3))
    expected = optax.piecewise_constant_schedule(1.0, {3: 0.2, 12: 0.2})
    for i, scale in enumerate(found):
        np.testing.assert_array_equal(scale, expected(jnp.float32(i)))


def test_cosine_by_hand() -> None:
    """Two updates of warm-up, and four along the cosine from 1 to 0.2."""
    found = scales(Cosine(warmup_epochs=1, final=0.2), Length(3, 2))
    falling = [0.2 + 0.8 * (1 + np.cos(np.pi * t / 4)) / 2 for t in range(4)]
    np.testing.assert_allclose(found, [0, 0.5, *falling], rtol=1e-6)


@pytest.mark.parametrize(("warmup", "final"), [(0, 0.0), (3, 0.0), (2, 0.1)])
def test_cosine_equals_optax(warmup: int, final: float) -> None:
    found = scales(Cosine(warmup_epochs=warmup, final=final), Length(10, 7))
    expected = optax.warmup_cosine_decay_schedule(float(not warmup), 1.0, warmup * 7, 70, final)
    with jax.numpy_dtype_promotion("standard"):
        want = [expected(i) for i in range(70)]
    np.testing.assert_allclose(found, want, atol=1e-6)


def plateau_scales(values: list[float], **arguments: Any) -> list[float]:
    schedule = Plateau(**arguments)
    memory, found = schedule.start(), []
    for value in values:
        found.append(float(schedule.scale(jnp.int32(0), memory, Length(1, 1))))
        memory = schedule.end_epoch(memory, jnp.float32(value))
    return found


def test_plateau_reduces_after_patience_epochs_without_a_new_best() -> None:
    values = [3.0, 2.0, 2.1, 2.0, 1.95, 2.0, 2.0, 2.0, 2.0]
    expected = [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]
    # 2.1 and 2.0 are two epochs without; 1.95 is a new best; then two and two again.
    assert plateau_scales(values, factor=0.5, patience=2, min_delta=0.01) == expected


def test_plateau_wants_more_than_min_delta() -> None:
    just_enough = plateau_scales([1.0, 0.75, 0.5, 0.25], factor=0.1, patience=1, min_delta=0.249)
    assert just_enough == [1, 1, 1, 1]
    not_quite = plateau_scales([1.0, 0.75, 0.5], factor=0.5, patience=1, min_delta=0.25)
    assert not_quite == [1, 1, 0.5]


def test_unknown_schedule() -> None:
    with pytest.raises(InputError) as error:
        config.read_kind(SCHEDULES, {"kind": "cosin"}, "config.x.schedule")
    assert str(error.value) == (
        "config.x.schedule.kind: 'cosin' is unknown; there are constant, cosine, plateau, step. "
        "Did you mean 'cosine'?"
    )


# --- Where the state is ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Masked(Optimizer):
    """One optimiser for matrices, another for the rest: the learning rate stands there twice."""

    def make(self, rate: optax.GradientTransformation) -> optax.GradientTransformation:
        return optax.partition(
            {"matrix": Adam().make(rate), "vector": SGD(momentum=0.9).make(rate)},
            lambda params: jax.tree.map(lambda x: "matrix" if x.ndim > 1 else "vector", params),
        )


@dataclasses.dataclass(frozen=True)
class OfMatrices(Optimizer):
    """The rate is masked, deep within, and the others are not updated."""

    def make(self, rate: optax.GradientTransformation) -> optax.GradientTransformation:
        return optax.chain(
            optax.identity(),
            optax.chain(
                optax.masked(rate, lambda params: jax.tree.map(lambda x: x.ndim > 1, params)),
                optax.masked(
                    optax.set_to_zero(), lambda params: jax.tree.map(lambda x: x.ndim < 2, params)
                ),
            ),
        )


@dataclasses.dataclass(frozen=True)
class Injected(Optimizer):
    """Hyperparameters lie in the state, and it too inside another wrapper."""

    def make(self, rate: optax.GradientTransformation) -> optax.GradientTransformation:
        def inner(momentum: Any) -> optax.GradientTransformation:
            return optax.chain(optax.trace(momentum), rate)

        injected = optax.inject_hyperparams(inner)(momentum=0.5)
        return optax.flatten(injected)


@dataclasses.dataclass(frozen=True)
class First(Optimizer):
    """The rate comes first, before the momentum."""

    def make(self, rate: optax.GradientTransformation) -> optax.GradientTransformation:
        return optax.chain(rate, optax.trace(0.9))


OPTIMISERS = [
    Adam(clip=1.0),
    AdamW(),
    SGD(momentum=0.9),
    Masked(),
    OfMatrices(),
    Injected(),
    First(),
]
GRADS = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}


def train_config(optimizer: Optimizer, schedule: Schedule) -> TrainConfig:
    return TrainConfig(
        epochs=3, batch_size=1, learning_rate=0.5, optimizer=optimizer, schedule=schedule
    )


def named(optimizer: Optimizer) -> str:
    return type(optimizer).__name__


@pytest.mark.parametrize("optimizer", OPTIMISERS, ids=named)
def test_the_schedule_is_found_in_any_optimiser(optimizer: Optimizer) -> None:
    made = updates.make(train_config(optimizer, PLATEAU), 2)
    state, rates = made.transform.init(GRADS), []
    for loss in (1.0, 2.0, 2.0):
        for _ in range(2):
            _, state = made.transform.update(GRADS, state, GRADS)
        rates.append(float(made.learning_rate(state)))
        state = made.end_epoch(state, loss)
    assert rates == [0.5, 0.5, 0.25]
    assert {int(each.step) for each in updates.rate_states(state)} == {6}
    assert {float(each.memory.scale) for each in updates.rate_states(state)} == {0.25}


@pytest.mark.parametrize("schedule", [Step(factor=0.5, epochs=(1,)), Cosine()], ids=["step", "cos"])
@pytest.mark.parametrize("optimizer", OPTIMISERS, ids=named)
def test_the_learning_rate_is_that_of_the_last_update(
    optimizer: Optimizer, schedule: Schedule
) -> None:
    made = updates.make(train_config(optimizer, schedule), 2)
    state = made.transform.init(GRADS)
    for scale in scales(schedule, Length(3, 2)):
        _, state = made.transform.update(GRADS, state, GRADS)
        np.testing.assert_allclose(made.learning_rate(state), 0.5 * scale, rtol=1e-6)
    same = zip(*map(jax.tree.leaves, (made.end_epoch(state, 1.0), state)), strict=True)
    assert all(a is b for a, b in same)  # nothing is remembered


def test_plain_descent_moves_by_the_learning_rate() -> None:
    made = updates.make(train_config(SGD(), PLATEAU), 1)
    state = made.transform.init(GRADS)
    for loss, moved in ((1.0, -0.5), (1.0, -0.5), (1.0, -0.25)):
        found, state = made.transform.update(GRADS, state, GRADS)
        jax.tree.map(lambda x: np.testing.assert_array_equal(x, moved), found)  # noqa: B023
        state = made.end_epoch(state, loss)


@pytest.mark.parametrize("optimizer", OPTIMISERS, ids=named)
def test_stacked_seeds_each_have_their_own_plateau(optimizer: Optimizer) -> None:
    made = updates.make(train_config(optimizer, PLATEAU), 1)
    state = jax.tree.map(lambda x: jnp.stack([x, x]), made.transform.init(GRADS))
    grads = jax.tree.map(lambda x: jnp.stack([x, x]), GRADS)
    for losses in ([2.0, 2.0], [1.0, 3.0]):
        _, state = jax.vmap(made.transform.update)(grads, state, grads)
        state = made.end_epoch(state, np.float32(losses))
    np.testing.assert_array_equal(made.learning_rate(state), [0.5, 0.25])


@pytest.mark.parametrize("optimizer", OPTIMISERS, ids=named)
def test_the_state_is_restored_from_nested_dicts(optimizer: Optimizer) -> None:
    made = updates.make(train_config(optimizer, PLATEAU), 1)
    _, state = made.transform.update(GRADS, made.transform.init(GRADS), GRADS)
    state = made.end_epoch(state, 1.0)
    tree = updates.to_dict(state)
    assert all(isinstance(x, jax.Array) for x in traverse_util.flatten_dict(tree).values())
    again = updates.from_dict(made.transform.init(GRADS), tree)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, again, state)


@dataclasses.dataclass(frozen=True)
class WithoutRate(Optimizer):
    def make(self, rate: optax.GradientTransformation) -> optax.GradientTransformation:
        return optax.sgd(0.1)


@dataclasses.dataclass(frozen=True)
class WithKey(Optimizer):
    def make(self, rate: optax.GradientTransformation) -> optax.GradientTransformation:
        noise = optax.GradientTransformation(
            lambda params: jax.random.key(0), lambda updates, state, params=None: (updates, state)
        )
        return optax.chain(noise, rate)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (
            WithoutRate(),
            "config.x.optimizer: its `make(rate)` does not use `rate`, by which the schedule sets "
            "the learning rate: put it into the chain, as `optax.chain(..., rate)`",
        ),
        (
            WithKey(),
            "config.x.optimizer: [0] of its state is key<fry>, needs an array of numbers",
        ),
    ],
)
def test_an_optimiser_that_cannot_be_used_is_refused(optimizer: Optimizer, message: str) -> None:
    state = updates.make(train_config(optimizer, Constant()), 1).transform.init(GRADS)
    with pytest.raises(InputError) as error:
        updates.check_state(state, "config.x.optimizer")
    assert str(error.value) == message


def test_a_schedule_of_one_s_own() -> None:
    @SCHEDULES.register("halving")
    @dataclasses.dataclass(frozen=True)
    class Halving(Schedule):
        every: int = config.option("after so many updates", default=2)

        def scale(self, step: jax.Array, memory: Any, length: Length) -> jax.Array:
            return jnp.float32(0.5) ** (step // self.every)

    try:
        section = {"epochs": 1, "batch_size": 1, "learning_rate": 1.0, "optimizer": {"kind": "sgd"}}
        section["schedule"] = {"kind": "halving", "every": 1}
        made = updates.make(config.read(TrainConfig, section, "config.x"), 4)
        state = made.transform.init(GRADS)
        moved = []
        for _ in range(3):
            found, state = made.transform.update(GRADS, state)
            moved.append(float(found["bias"][0]))
        assert moved == [-1, -0.5, -0.25]
    finally:
        del SCHEDULES._kinds["halving"]
    assert set(OPTIMIZERS.kinds) == {"adam", "adamw", "sgd"}

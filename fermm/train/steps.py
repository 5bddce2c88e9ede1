"""The compiled functions: training steps, and one pass over a split without training."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fermm import models
from fermm.train import partition
from fermm.train.devices import Layout, put, put_share

EVALUATION_BATCH = 256


class Data(NamedTuple):
    """What a network is trained or evaluated on.

    Attributes:
        inputs: arrays (N, ...) in the tree that the network's method takes.
        labels: int (N,).
    """

    inputs: Any
    labels: jax.Array | np.ndarray


class Batches(NamedTuple):
    """The samples of several training steps, in their order.

    Attributes:
        inputs: arrays (S, B, ...) in the tree that the network's method takes.
        labels: int32 (S, B).
        mask: bool (S, B), false where a batch is padded.
    """

    inputs: Any
    labels: jax.Array | np.ndarray
    mask: jax.Array | np.ndarray


class Sums(NamedTuple):
    """Running sums over the samples of an epoch so far, as float32 scalars."""

    loss: jax.Array
    correct: jax.Array


class State(NamedTuple):
    """Everything that a training step changes; data only.

    Attributes:
        step: updates made, int32 scalar.
        params: the trained parameters.
        statistics: running statistics of batch normalisation.
        optimizer: state of the optimiser.
        sums: see `Sums`; set to zero when an epoch begins.
    """

    step: jax.Array
    params: Any
    statistics: Any
    optimizer: Any
    sums: Sums


def zero_sums() -> Sums:
    """Sums at the beginning of an epoch."""
    return Sums(jnp.float32(0), jnp.float32(0))


def cross_entropy(logits: jax.Array, labels: jax.Array | np.ndarray) -> jax.Array:
    """Categorical cross-entropy of each sample: (B, 7), int (B,) -> (B,)."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def make_loss(
    module: nn.Module, class_weights: jax.Array, method: str
) -> Callable[..., tuple[jax.Array, tuple[Any, Sums]]]:
    """The training loss of one batch.

    Layers with running statistics of which no parameter is in `params` keep these, and normalise by
    them, see `fermm.models.freezing`.

    Returns:
        `loss(params, frozen, statistics, data, mask, key) -> (loss, (statistics, sums))`: the mean
        over the samples where `mask`, bool (B,), is true of class weight x cross-entropy. As in
        Keras, the divisor is the number of samples, not the sum of their weights.
    """

    def loss(
        params: Any, frozen: Any, statistics: Any, data: Data, mask: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, tuple[Any, Sums]]:
        variables = {"params": partition.merge(params, frozen), "batch_stats": statistics}
        options: dict[str, Any] = {"mask": mask} if method == "__call__" else {}
        still = models.Frozen(models.frozen_layers(params, frozen, statistics))
        with still.applied():
            outputs, changed = module.apply(
                variables,
                data.inputs,
                train=True,
                **options,
                rngs={"dropout": key},
                mutable=["batch_stats"],
                method=method,
            )
        logits = outputs.logits
        weight = jnp.where(mask, class_weights[data.labels], 0).astype(logits.dtype)
        total = jnp.sum(weight * cross_entropy(logits, data.labels))
        correct = jnp.sum(mask & (jnp.argmax(logits, -1) == data.labels))
        sums = Sums(total.astype(jnp.float32), correct.astype(jnp.float32))
        return total / jnp.sum(mask).astype(logits.dtype), (
            still.keep(statistics, changed.get("batch_stats", statistics)),
            sums,
        )

    return loss


def check_step(module: nn.Module, variables: Mapping[str, Any], trained: frozenset[str]) -> None:
    """Traces the loss of a batch and its gradient; computes nothing.

    Args:
        module: the network.
        variables: shapes and types of its variables.
        trained: paths of the parameters that are trained.

    Raises:
        InputError: a frozen layer cannot be kept from moving, see `fermm.models.freezing`; or
            whatever the network raises.
    """
    params, frozen = partition.split(variables["params"], trained)
    rows = 5
    labels: Any = jax.ShapeDtypeStruct((rows,), np.int32)
    data = Data(models.shapes(module.inputs, rows), labels)
    mask, key = jax.ShapeDtypeStruct((rows,), np.bool_), jax.eval_shape(lambda: jax.random.key(0))
    gradient = jax.value_and_grad(make_loss(module, jnp.ones(7), "__call__"), has_aux=True)
    jax.eval_shape(gradient, params, frozen, variables.get("batch_stats", {}), data, mask, key)


def make_train_steps(
    module: nn.Module,
    transform: optax.GradientTransformation,
    class_weights: jax.Array,
    layout: Layout,
    method: str = "__call__",
    stacked: bool = False,
) -> Callable[..., State]:
    """Several training steps as one compiled function.

    Args:
        module: the network.
        transform: of the gradients of the trained parameters; no others exist.
        class_weights: float (7,).
        layout: where the arrays lie.
        method: "__call__", or "classify" if the data's inputs are embeddings.
        stacked: train several seeds at once. Then `state`, `frozen`, `key` and, the mask excepted,
            `batches` have one more axis in front, the seeds.

    Returns:
        `train_steps(state, frozen, key, batches, start, stop) -> state` makes the steps `start` to
        `stop - 1` of `batches`. The bounds are traced: it compiles once, however an epoch is cut.
        `state` is donated. `frozen` holds the parameters that are not trained; `key` is the
        dropout's. After a gradient that is not finite a parameter is NaN, see `are_finite`.
    """
    gradient = jax.value_and_grad(make_loss(module, class_weights, method), has_aux=True)

    @functools.partial(jax.jit, donate_argnames="state", out_shardings=layout.state)
    def train_steps(
        state: State,
        frozen: Any,
        key: jax.Array,
        batches: Batches,
        start: jax.Array,
        stop: jax.Array,
    ) -> State:
        def step(
            state: State, frozen: Any, key: jax.Array, batches: Batches, i: jax.Array
        ) -> State:
            batch = jax.tree.map(
                lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), batches
            )
            (_, (statistics, sums)), grads = gradient(
                state.params,
                frozen,
                state.statistics,
                Data(batch.inputs, batch.labels),
                batch.mask,
                jax.random.fold_in(key, state.step),
            )
            grads = _all_before_any(grads)
            updates, optimizer = transform.update(grads, state.optimizer, state.params)
            return State(
                state.step + 1,
                _mark(optax.apply_updates(state.params, updates), grads),
                statistics,
                optimizer,
                jax.tree.map(jnp.add, state.sums, sums),
            )

        if stacked:
            axes: Any = Batches(inputs=0, labels=0, mask=None)  # type: ignore[arg-type]
            step = jax.vmap(step, in_axes=(0, 0, 0, axes, None))
        return jax.lax.fori_loop(
            start, stop, lambda i, state: step(state, frozen, key, batches, i), state
        )

    return train_steps


def _all_before_any(grads: Any) -> Any:
    """The same gradients, each of which depends on all.

    XLA copies a parameter (in every step) if it cannot see that the last product which reads it
    comes before its update in place. What is added is 0 times one entry of each gradient.
    """
    nothing = jax.tree.reduce(jnp.add, jax.tree.map(lambda g: 0 * g.ravel()[0], grads))
    return jax.tree.map(lambda g: g + nothing, grads)


def _mark(params: Any, grads: Any) -> Any:
    """The same parameters, but NaN where a gradient or its square is not a finite number.

    It stays there until `are_finite` is asked, whatever the optimiser makes of such a gradient (for
    Adam, the square that overflows freezes the weight). Done where parameters are updated, it
    reads nothing once more.
    """
    return jax.tree.map(lambda p, g: p + 0 * (g * g).astype(p.dtype), params, grads)


@functools.partial(jax.jit, static_argnames="stacked")
def are_finite(params: Any, stacked: bool = False) -> jax.Array:
    """Whether all parameters are finite numbers; of stacked seeds, for each: bool, () or (S,)."""
    sums = [jnp.sum(x, tuple(range(stacked, x.ndim))) for x in jax.tree.leaves(params)]
    return functools.reduce(jnp.logical_and, map(jnp.isfinite, sums))


def make_forward(
    module: nn.Module, layout: Layout, method: str | Callable[..., Any] = "__call__"
) -> Callable[..., Any]:
    """A pass over all samples without training (no dropout, running statistics).

    Args:
        module: the network.
        layout: where it is computed; "batch" divides the samples, else the first device has all.
        method: "__call__" or "classify", for outputs; "encode", for embeddings; or another method
            of its class that takes inputs and `train`.

    Returns:
        `forward(variables, inputs, check=None) -> outputs`, for any number N of samples; outputs
        are NumPy arrays (N, ...). It compiles once for each N below, and once for all above the
        batch size. `check` is called between batches.
    """
    spread = layout.kind == "batch"

    def batch(variables: Any, inputs: Any) -> Any:
        return module.apply(variables, inputs, train=False, method=method)

    compiled = jax.jit(batch, out_shardings=layout.replicated if spread else None)

    def forward(variables: Any, inputs: Any, check: Callable[[], None] | None = None) -> Any:
        # Once, not with every batch.
        variables = put(variables, layout.replicated) if spread else jax.device_put(variables)
        count = len(jax.tree.leaves(inputs)[0])
        size = layout.round_up(min(count, EVALUATION_BATCH))
        share = layout.share(size) if spread else slice(size)

        def place(x: np.ndarray) -> jax.Array:
            x = np.pad(x, [(0, size - len(x))] + [(0, 0)] * (x.ndim - 1))
            return put_share(x[share], layout.samples(), x.shape) if spread else jnp.asarray(x)

        outputs: list[Any] = []
        waiting: list[tuple[int, Any]] = []

        def collect() -> None:
            length, result = waiting.pop()
            outputs.append(jax.tree.map(lambda x: np.asarray(x)[:length], result))

        for start in range(0, count, size):
            if check:
                check()
            stop = min(start + size, count)
            part = jax.tree.map(lambda x: place(x[start:stop]), inputs)  # noqa: B023
            result = compiled(variables, part)
            if waiting:  # one batch is computed while the one before is fetched
                collect()
            waiting.append((stop - start, result))
        collect()
        return jax.tree.map(lambda *x: np.concatenate(x), *outputs)

    return forward

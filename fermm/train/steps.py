"""The compiled functions: training steps, and one pass over a split without training."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fermm.train import partition

EVALUATION_BATCH = 256


class Data(NamedTuple):
    """What a network is trained or evaluated on.

    Attributes:
        inputs: arrays (N, ...) in the tree that the network's method takes.
        labels: int32 (N,).
    """

    inputs: Any
    labels: jax.Array | np.ndarray


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
            changed.get("batch_stats", statistics),
            sums,
        )

    return loss


def make_train_steps(
    module: nn.Module,
    transform: optax.GradientTransformation,
    class_weights: jax.Array,
    batch_size: int,
    method: str = "__call__",
    stacked: bool = False,
) -> Callable[..., State]:
    """Several training steps as one compiled function.

    Args:
        module: the network.
        transform: of the gradients of the trained parameters; no others exist.
        class_weights: float (7,).
        batch_size: samples in a step.
        method: "__call__", or "classify" if the data's inputs are embeddings.
        stacked: train several seeds at once. Then `state`, `frozen`, `key`, `order` and, if they
            are embeddings, the inputs have one more axis in front, the seeds.

    Returns:
        `train_steps(state, frozen, key, data, order, start, stop) -> state` makes the steps `start`
        to `stop - 1` of an epoch in the order of samples `order`, int32 (N,) padded to whole
        batches. The bounds are traced: it compiles once, however an epoch is cut. `state` is
        donated. `frozen` holds the parameters that are not trained; `key` is the dropout's.
    """
    gradient = jax.value_and_grad(make_loss(module, class_weights, method), has_aux=True)

    @functools.partial(jax.jit, donate_argnames="state")
    def train_steps(
        state: State,
        frozen: Any,
        key: jax.Array,
        data: Data,
        order: jax.Array,
        start: jax.Array,
        stop: jax.Array,
    ) -> State:
        count = data.labels.shape[0]

        def step(
            state: State, frozen: Any, key: jax.Array, data: Data, order: jax.Array, i: jax.Array
        ) -> State:
            first = i * batch_size
            rows = jax.lax.dynamic_slice(order, (first,), (batch_size,))
            mask = first + jnp.arange(batch_size) < count
            batch = jax.tree.map(lambda x: x[rows], data)
            (_, (statistics, sums)), grads = gradient(
                state.params,
                frozen,
                state.statistics,
                batch,
                mask,
                jax.random.fold_in(key, state.step),
            )
            grads = _all_before_any(grads)
            updates, optimizer = transform.update(grads, state.optimizer, state.params)
            return State(
                state.step + 1,
                optax.apply_updates(state.params, updates),
                statistics,
                optimizer,
                jax.tree.map(jnp.add, state.sums, sums),
            )

        if stacked:
            axes: Any = Data(inputs=0 if method == "classify" else None, labels=None)  # type: ignore[arg-type]
            step = jax.vmap(step, in_axes=(0, 0, 0, axes, 0, None))
        return jax.lax.fori_loop(
            start, stop, lambda i, state: step(state, frozen, key, data, order, i), state
        )

    return train_steps


def _all_before_any(grads: Any) -> Any:
    """The same gradients, each of which depends on all.

    XLA copies a parameter (in every step) if it cannot see that the last product which reads it
    comes before its update in place. What is added is 0 times one entry of each gradient.
    """
    nothing = jax.tree.reduce(jnp.add, jax.tree.map(lambda g: 0 * g.ravel()[0], grads))
    return jax.tree.map(lambda g: g + nothing, grads)


def make_forward(
    module: nn.Module, method: str | Callable[..., Any] = "__call__"
) -> Callable[[Any, Any], Any]:
    """A pass over all samples without training (no dropout, running statistics).

    Args:
        module: the network.
        method: "__call__" or "classify", for outputs; "encode", for embeddings; or another method
            of its class that takes inputs and `train`.

    Returns:
        `forward(variables, inputs) -> outputs`, for any number N of samples; outputs are NumPy
        arrays (N, ...). It compiles once for each N below, and once for all above the batch size.
    """

    @functools.partial(jax.jit, static_argnames="size")
    def batch(variables: Any, inputs: Any, start: jax.Array, size: int) -> Any:
        part = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, size), inputs)
        return module.apply(variables, part, train=False, method=method)

    def forward(variables: Any, inputs: Any) -> Any:
        variables, inputs = jax.device_put((variables, inputs))  # once, not with every batch
        count = len(jax.tree.leaves(inputs)[0])
        size = min(count, EVALUATION_BATCH)
        outputs = []
        for start in range(0, count, size):
            # The last batch overlaps the one before, so that all have one size.
            first = min(start, count - size)
            result = batch(variables, inputs, jnp.int32(first), size)
            outputs.append(jax.tree.map(lambda x: np.asarray(x)[start - first :], result))  # noqa: B023
        return jax.tree.map(lambda *x: np.concatenate(x), *outputs)

    return forward

"""The compiled functions: training steps, and one pass over a split without training."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int32

from fermm import models
from fermm.errors import InputError
from fermm.models.types import Module
from fermm.samples import Feature
from fermm.train import partition
from fermm.train.augmentation import Augmentation
from fermm.train.averaging import Average
from fermm.train.devices import Layout, put, put_share
from fermm.train.keys import Keys
from fermm.train.tasks import Data, Sums, Task

EVALUATION_BATCH = 256
IN_ONE_CALL = ("many", "one")
_ROWS = 5  # of the batch that a step is tried with


class Batches(NamedTuple):
    """The samples of several training steps, in their order.

    Attributes:
        inputs: arrays (S, B, ...) in the tree that the network's method takes.
        targets: int32 (S, B) or float (S, B, K).
        mask: bool (S, B), false where a batch is padded.
    """

    inputs: Any
    targets: Array | np.ndarray
    mask: Bool[Array | np.ndarray, "steps batch"]


class State(NamedTuple):
    """Everything that a training step changes; data only.

    Attributes:
        step: updates made, int32 scalar.
        params: the trained parameters, as the optimiser updates them.
        batch_stats: running statistics of batch normalisation, as the network updates them.
        opt_state: state of the optimiser.
        average: the averages of `params` and `batch_stats`, by these names, with which the network
            predicts; {} where nothing is averaged, see `fermm.train.averaging`.
        sums: see `Sums`; set to zero when an epoch begins.
    """

    step: Int32[Array, "*seeds"]
    params: Any
    batch_stats: Any
    opt_state: Any
    average: Any
    sums: Sums

    def predicts_with(self) -> tuple[Any, Any]:
        """The parameters and statistics for validation and prediction."""
        if self.average:
            return self.average["params"], self.average["batch_stats"]
        return self.params, self.batch_stats


def zero_sums() -> Sums:
    """Sums at the beginning of an epoch."""
    return Sums(jnp.float32(0), jnp.float32(0))


def start(
    params: Any, batch_stats: Any, transform: optax.GradientTransformation, average: Average
) -> State:
    """The state before the first step.

    Args:
        params: the trained parameters.
        batch_stats: running statistics.
        transform: of their gradients.
        average: whether parameters are averaged.
    """
    return State(
        jnp.int32(0),
        params,
        batch_stats,
        transform.init(params),
        average.start(params, batch_stats),
        zero_sums(),
    )


def make_loss(
    module: Module, task: Task, method: str
) -> Callable[..., tuple[jax.Array, tuple[Any, Sums]]]:
    """The training loss of one batch.

    Layers with running statistics of which no parameter is in `params` keep these, and normalise by
    them, see `fermm.models.freezing`.

    Args:
        module: the network.
        task: what it is trained for.
        method: "__call__", or "classify" if the inputs are outputs of `encode`.

    Returns:
        `loss(params, frozen, batch_stats, data, mask, streams) -> (loss, (batch_stats, sums))`, see
        `Task.sums`. `streams` has a key for each random stream of the network.
    """

    def of_batch(
        params: Any,
        frozen: Any,
        batch_stats: Any,
        data: Data,
        mask: Bool[Array, " batch"],
        streams: Mapping[str, jax.Array],
    ) -> tuple[Float[Array, ""], tuple[Any, Sums]]:
        variables = {"params": partition.merge(params, frozen), "batch_stats": batch_stats}
        options: dict[str, Any] = {"mask": mask} if method == "__call__" else {}
        still = models.Frozen(models.frozen_layers(params, frozen, batch_stats))
        with still.applied():
            outputs, changed = module.apply(
                variables,
                data.inputs,
                train=True,
                **options,
                rngs=dict(streams),
                mutable=["batch_stats"],
                method=method,
            )
        loss, sums = task.sums(outputs, data.targets, mask)
        return loss, (still.keep(batch_stats, changed.get("batch_stats", batch_stats)), sums)

    return of_batch


def augment(
    augmentations: Sequence[Augmentation], key: jax.Array, inputs: Mapping[str, jax.Array]
) -> Mapping[str, jax.Array]:
    """The inputs of a batch, changed by each augmentation in turn.

    Args:
        augmentations: each draws from a key of its own.
        key: of the step.
        inputs: arrays (B, ...) by the feature's name.
    """
    for place, augmentation in enumerate(augmentations):
        inputs = augmentation(jax.random.fold_in(key, place), inputs)
    return inputs


def check_step(
    module: Module,
    variables: Mapping[str, Any],
    trained: frozenset[str],
    *,
    task: Task,
    transform: optax.GradientTransformation,
    augmentations: Sequence[Augmentation],
    features: Mapping[str, Feature],
    classes: int,
    distributions: bool = False,
) -> Any:
    """Traces the loss of a batch, its gradient and the update of the parameters; computes nothing.

    Args:
        module: the network.
        variables: shapes and types of its variables.
        trained: paths of the parameters that are trained.
        task: what it is trained for.
        transform: of the gradients.
        augmentations: what is done to a batch before.
        features: what is known of the features that the network reads.
        classes: the number of classes, K.
        distributions: whether targets are distributions over the classes.

    Returns:
        Shapes and types of the state of `transform`.

    Raises:
        InputError: a frozen layer cannot be kept from moving, see `fermm.models.freezing`; an
            augmentation changes nothing that the network reads, or changes shapes or types; the
            loss is not one number for each sample; or whatever the network raises.
    """
    params, frozen = partition.split(variables["params"], trained)
    batch_stats = variables.get("batch_stats", {})
    inputs = {
        name: jax.ShapeDtypeStruct((_ROWS, *features[name].shape), np.dtype(features[name].dtype))
        for name in module.inputs
    }
    targets: Any = jax.ShapeDtypeStruct((_ROWS,), np.int32)
    if distributions:
        targets = jax.ShapeDtypeStruct((_ROWS, classes), np.float32)
    mask, key = jax.ShapeDtypeStruct((_ROWS,), np.bool_), jax.eval_shape(lambda: jax.random.key(0))
    _check_augmentations(augmentations, key, inputs)
    logits = jax.ShapeDtypeStruct((_ROWS, classes), np.float32)
    found: Any = jax.eval_shape(task.loss, logits, targets)
    if getattr(found, "shape", None) != (_ROWS,):
        given = f"{found.dtype} {found.shape}" if hasattr(found, "shape") else type(found).__name__
        raise InputError(
            f"the loss returns {given} for {_ROWS} samples, needs one number for each: ({_ROWS},)"
        )

    def step(params: Any, frozen: Any, batch_stats: Any, *rest: Any) -> Any:
        gradient = jax.grad(make_loss(module, task, "__call__"), has_aux=True)
        grads, _ = gradient(params, frozen, batch_stats, *rest)
        opt_state = transform.init(params)
        updates, after = transform.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, after

    after, opt_state, opt_after = jax.eval_shape(
        step,
        *(params, frozen, batch_stats, Data(inputs, targets), mask),
        dict.fromkeys(models.streams(module), key),
    )
    for before, now, what in (
        (params, after, "the parameters"),
        (opt_state, opt_after, "its own state"),
    ):
        if _kinds(before) != _kinds(now):
            raise InputError(f"the optimizer changes the shapes or types of {what}")
    return opt_state


def _check_augmentations(
    augmentations: Sequence[Augmentation], key: Any, inputs: Mapping[str, Any]
) -> None:
    for each in augmentations:
        name = type(each).__name__
        if each.changes and not {*each.changes} & inputs.keys():
            raise InputError(
                f"the augmentation {name} changes {', '.join(each.changes)}, but the network reads "
                f"{', '.join(inputs)}"
            )
        changed = jax.eval_shape(each, key, dict(inputs))
        if _kinds(changed) != _kinds(inputs):
            raise InputError(
                f"the augmentation {name} returns {_kinds(changed)}, needs the shapes and types "
                f"that it is given, {_kinds(inputs)}"
            )


def _kinds(tree: Any) -> dict[str, str]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{x.dtype} {tuple(x.shape)}"
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def loops_are_slow(lowered: jax.stages.Lowered) -> bool:
    """Whether a program for the CPU contains a convolution, which within a loop is slow there."""
    return "stablehlo.convolution" in lowered.as_text()


class TrainSteps:
    """Several training steps, compiled.

    They are one loop in one compiled function, which small networks need in order to be fast. On
    the CPU, XLA computes large convolutions within a loop by another way that takes many times as
    long. So there a network whose step contains convolutions is trained by a compiled function of
    a single step, called once for each.

    Args:
        module: the network.
        transform: of the gradients of the trained parameters; no others exist.
        task: what the network is trained for.
        layout: where the arrays lie.
        method: "__call__", or "classify" if the inputs are outputs of `encode`.
        stacked: train several seeds at once. Then `state`, `frozen`, `keys` and, the mask excepted,
            `batches` have one more axis in front, the seeds.
        augmentations: what is done to every batch.
        average: whether parameters are averaged.
        in_one_call: "many" or "one" steps; "" to find it out at the first call, see above. The bits
            of a training may depend on it.

    Attributes:
        in_one_call: how many, "" before the first call if it has to be found out.
    """

    def __init__(
        self,
        module: Module,
        transform: optax.GradientTransformation,
        task: Task,
        layout: Layout,
        method: str = "__call__",
        stacked: bool = False,
        augmentations: Sequence[Augmentation] = (),
        average: Average | None = None,
        in_one_call: str = "",
    ) -> None:
        gradient = jax.value_and_grad(make_loss(module, task, method), has_aux=True)
        average = average or Average()

        def train_step(
            state: State, frozen: Any, keys: Keys, batches: Batches, i: jax.Array
        ) -> State:
            batch = jax.tree.map(
                lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), batches
            )
            keys = keys.at(state.step)
            inputs = augment(augmentations, keys.augmentation, batch.inputs)
            (_, (batch_stats, sums)), grads = gradient(
                state.params,
                frozen,
                state.batch_stats,
                Data(inputs, batch.targets),
                batch.mask,
                keys.streams,
            )
            grads = _all_before_any(grads)
            updates, opt_state = transform.update(grads, state.opt_state, state.params)
            params = _mark(optax.apply_updates(state.params, updates), grads)
            return State(
                state.step + 1,
                params,
                batch_stats,
                opt_state,
                average.update(state.average, params, batch_stats, state.step),
                jax.tree.map(jnp.add, state.sums, sums),
            )

        if stacked:
            axes: Any = Batches(inputs=0, targets=0, mask=None)  # type: ignore[arg-type]
            train_step = jax.vmap(train_step, in_axes=(0, 0, 0, axes, None))

        compiled = functools.partial(jax.jit, donate_argnames="state", out_shardings=layout.state)

        @compiled
        def train_steps(
            state: State,
            frozen: Any,
            keys: Keys,
            batches: Batches,
            start: jax.Array,
            stop: jax.Array,
        ) -> State:
            return jax.lax.fori_loop(
                start, stop, lambda i, state: train_step(state, frozen, keys, batches, i), state
            )

        self.in_one_call = in_one_call
        self._many, self._one = train_steps, compiled(train_step)
        self._on_cpu = layout.mesh.devices.flat[0].platform == "cpu"

    def __call__(
        self, state: State, frozen: Any, keys: Keys, batches: Batches, start: int, stop: int
    ) -> State:
        """Makes the steps `start` to `stop - 1` of `batches`.

        It compiles once, however an epoch is cut.

        Args:
            state: is donated.
            frozen: the parameters that are not trained.
            keys: what the network and the augmentations draw from.
            batches: see `Batches`.
            start: the first step.
            stop: the one after the last.

        Returns:
            The state after them. After a gradient that is not finite a parameter is NaN, see
            `are_finite`.
        """
        if not self.in_one_call:
            slow = self._on_cpu and loops_are_slow(self.lower(state, frozen, keys, batches))
            self.in_one_call = "one" if slow else "many"
        if self.in_one_call == "many":
            return self._many(state, frozen, keys, batches, start=start, stop=stop)
        for i in range(start, stop):
            state = self._one(state, frozen, keys, batches, i)
        return state

    def lower(self, state: State, frozen: Any, keys: Keys, batches: Batches) -> jax.stages.Lowered:
        """The loop over steps, lowered for these arguments."""
        return self._many.lower(state, frozen, keys, batches, start=0, stop=1)


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
def are_finite(params: Any, stacked: bool = False) -> Bool[Array, "*seeds"]:
    """Whether all parameters are finite numbers; of stacked seeds, for each: bool, () or (S,)."""
    sums = [jnp.sum(x, tuple(range(stacked, x.ndim))) for x in jax.tree.leaves(params)]
    return functools.reduce(jnp.logical_and, map(jnp.isfinite, sums))


def make_forward(
    module: Module, layout: Layout, method: str | Callable[..., Any] = "__call__"
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

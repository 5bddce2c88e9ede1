"""The one training loop, for all networks."""

import contextlib
import csv
import math
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization

from fermm.data import batches
from fermm.errors import InputError
from fermm.train import checkpoint, optimizer, partition, progress, steps
from fermm.train.events import Events

CHUNK_SECONDS = 1.0  # of training between two looks at the figures
HISTORY_COLUMNS = (
    "epoch",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "learning_rate",
    "seconds",
)


class Task(NamedTuple):
    """One network to train.

    Attributes:
        name: of the network, as in `config.networks`.
        seed: of the order of the samples and of dropout.
        module: the network.
        method: "__call__", or "classify" if the data's inputs are embeddings.
        variables: what training starts from, {"params": ..., "batch_stats": ...}.
        trained: paths of the parameters that are trained.
        settings: `epochs`, `batch_size`, `learning_rate`, `schedule` of the config.
        class_weights: float (7,).
        train: samples to train on.
        validation: samples for the figures after each epoch, and for plateau reduction.
        directory: gets `history.csv` and `checkpoints/`.
        meta: what each checkpoint shall say besides `history` and `epoch`.
        setup_seconds: spent on the data before, told as part of the first epoch's seconds.
        events: gets TensorBoard event files; None writes none.
    """

    name: str
    seed: int
    module: nn.Module
    method: str
    variables: Mapping[str, Any]
    trained: frozenset[str]
    settings: Mapping[str, Any]
    class_weights: np.ndarray
    train: steps.Data
    validation: steps.Data
    directory: Path
    meta: Mapping[str, Any]
    setup_seconds: float = 0.0
    events: Path | None = None


def key_for(seed: int, *names: str) -> jax.Array:
    """A random key for one purpose: a function of the seed and of the purpose's names."""
    key = jax.random.key(seed)
    for name in names:
        key = jax.random.fold_in(key, zlib.crc32(name.encode()))
    return key


def fit(tasks: Sequence[Task]) -> list[tuple[dict[str, Any], list[dict[str, float]]]]:
    """Trains a network to its last epoch, from one seed or from several at once.

    Each seed goes on from its last checkpoint if there is one. Seeds are trained at once in one
    compiled function (`jax.vmap`), for which small networks take less than one after the other; the
    sums in it may be rounded in another way than those of a seed alone.

    Args:
        tasks: one for each seed. They differ in seed, variables, inputs, directory and what
            concerns these (`meta`, `setup_seconds`), in nothing else.

    Returns:
        For each task, the variables after the last epoch, frozen ones included, as NumPy arrays;
        and the history, one row of HISTORY_COLUMNS an epoch. `loss` and `accuracy` are running
        means over the epoch as Keras shows them (class weights and dropout on); `val_loss` and
        `val_accuracy` are evaluated at its end without either; `seconds` is the seed's share.

    Raises:
        InputError: a checkpoint does not fit the network, or a loss is not finite.
    """
    results = {}
    for group, done in _groups(tasks):
        for task, result in zip(group, _fit(group, done), strict=True):
            results[task.seed] = result
    return [results[task.seed] for task in tasks]


def _groups(tasks: Sequence[Task]) -> list[tuple[list[Task], int]]:
    """Which tasks can go on together, and after how many epochs they do."""
    kept = {task.seed: set(checkpoint.epochs(task.directory / "checkpoints")) for task in tasks}
    fresh = [task for task in tasks if not kept[task.seed]]
    begun = [task for task in tasks if kept[task.seed]]
    groups = [(fresh, 0)] if fresh else []
    if begun:
        common = max(set.intersection(*(kept[task.seed] for task in begun)), default=0)
        # Seeds that were stopped together are one epoch apart at most.
        if common and all(max(kept[task.seed]) - common <= 1 for task in begun):
            groups.append((begun, common))
        else:
            groups += [([task], max(kept[task.seed])) for task in begun]
    return groups


def _fit(tasks: Sequence[Task], done: int) -> list[tuple[dict[str, Any], list[dict[str, float]]]]:
    """`fit` for tasks that all have `done` epochs behind them."""
    task, seeds = tasks[0], [task.seed for task in tasks]
    settings = task.settings
    epochs, batch_size = settings["epochs"], settings["batch_size"]
    count = len(task.train.labels)
    steps_per_epoch = math.ceil(count / batch_size)
    label = f"{task.name}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"

    optim = optimizer.make(settings["learning_rate"], settings["schedule"], steps_per_epoch)
    states, frozens, histories, finished = [], [], [], []
    for each in tasks:
        # Copies, because the steps write over what they are given.
        params, frozen = partition.split(each.variables["params"], each.trained)
        params, statistics = jax.tree.map(
            lambda x: jnp.array(x, copy=True), (params, dict(each.variables.get("batch_stats", {})))
        )
        state = steps.State(
            jnp.int32(0), params, statistics, optim.transform.init(params), steps.zero_sums()
        )
        history: list[dict[str, float]] = []
        if done:
            where = each.directory / "checkpoints" / str(done)
            saved = checkpoint.read(where, training=True)
            checkpoint.check_tree(each.variables, saved.variables, str(where))
            history = saved.meta["history"]
            write_history(each.directory / "history.csv", history)
            finished.append((saved.variables, history))
            if done < epochs:
                state = _restore(state, saved, frozen, each.trained, where)
        states.append(state)
        frozens.append(frozen)
        histories.append(history)
    if done >= epochs:
        return finished
    if done:
        print(f"{label}: goes on after epoch {done} of {epochs}", flush=True)

    stacked = len(tasks) > 1
    train_steps = steps.make_train_steps(
        task.module,
        optim.transform,
        jnp.asarray(task.class_weights, jnp.float32),
        batch_size,
        task.method,
        stacked,
    )
    forward = steps.make_forward(task.module, task.method)
    state, frozen = _stack(states), jax.device_put(_stack(frozens))
    train = task.train
    if task.method == "classify":
        train = train._replace(inputs=_stack([each.train.inputs for each in tasks]))
    train = jax.device_put(train)
    validations = [each.validation for each in tasks]
    if task.method != "classify":
        validations = [jax.device_put(task.validation)] * len(tasks)
    dropout_keys = _stack([key_for(each.seed, each.name, "dropout") for each in tasks])
    del states

    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(checkpoint.Writer(each.directory / "checkpoints", 1 + stacked))
            for each in tasks
        ]
        for writer in writers:
            writer.forget_after(done)
        events = [stack.enter_context(Events(each.events, done)) for each in tasks]
        shown = stack.enter_context(
            progress.Progress(label, epochs * steps_per_epoch, done * steps_per_epoch)
        )
        chunk = 1
        for epoch in range(done, epochs):
            began = time.perf_counter()
            rates = np.broadcast_to(optim.learning_rate(state.optimizer), len(tasks))
            visits = [batches.order(seed, epoch, count) for seed in seeds]
            rows = _stack([np.pad(v, (0, steps_per_epoch * batch_size - count)) for v in visits])
            rows = jnp.asarray(rows)
            state = state._replace(sums=jax.tree.map(jnp.zeros_like, state.sums))
            start = 0
            while start < steps_per_epoch:
                stop = min(start + chunk, steps_per_epoch)
                tick = time.perf_counter()
                state = train_steps(state, frozen, dropout_keys, train, rows, start, stop)
                seen = min(stop * batch_size, count)
                losses, accuracies = (np.ravel(x).astype(float) / seen for x in state.sums)
                took = time.perf_counter() - tick
                for seed, loss in zip(seeds, losses, strict=True):
                    if not math.isfinite(loss):
                        raise InputError(
                            f"{task.name}, seed {seed}: the loss is {loss} by step {stop} of epoch "
                            f"{epoch + 1}; a lower config.{task.name}.learning_rate may help."
                        )
                shown.update(
                    stop - start,
                    epoch=epoch + 1,
                    loss=np.mean(losses),
                    accuracy=np.mean(accuracies),
                )
                # The first call compiles, so it says nothing about the steps.
                if start or epoch > done:
                    chunk = max(1, min(2 * chunk, int(chunk * CHUNK_SECONDS / took)))
                start = stop

            variables = [
                {"params": partition.merge(s.params, f), "batch_stats": s.statistics}
                for s, f in zip(_unstack(state, len(tasks)), frozens, strict=True)
            ]
            validated = [
                figures(forward(v, data.inputs), data)
                for v, data in zip(variables, validations, strict=True)
            ]
            for seed, (val_loss, _) in zip(seeds, validated, strict=True):
                if not math.isfinite(val_loss):
                    raise InputError(
                        f"{task.name}, seed {seed}: the validation loss is {val_loss} after epoch "
                        f"{epoch + 1}; a lower config.{task.name}.learning_rate may help."
                    )
            val_losses = jnp.asarray([loss for loss, _ in validated], jnp.float32)
            state = state._replace(
                optimizer=optim.end_epoch(state.optimizer, val_losses if stacked else val_losses[0])
            )
            seconds = (time.perf_counter() - began) / len(tasks)
            for i, each in enumerate(tasks):
                row = (
                    *(epoch + 1, losses[i], accuracies[i], *validated[i], rates[i]),
                    seconds + (0 if epoch else each.setup_seconds),
                )
                histories[i].append(
                    dict(zip(HISTORY_COLUMNS, (row[0], *map(float, row[1:])), strict=True))
                )
                events[i].add(histories[i][-1])
            means = {
                name: np.mean([history[-1][name] for history in histories])
                for name in HISTORY_COLUMNS[1:]
            }
            shown.line(
                f"{label}  epoch {epoch + 1:>2}/{epochs}"
                f"  loss {means['loss']:.4f}  accuracy {means['accuracy']:.4f}"
                f"  val_loss {means['val_loss']:.4f}  val_accuracy {means['val_accuracy']:.4f}"
                f"  learning_rate {means['learning_rate']:.3g}"
                f"  {means['seconds'] * len(tasks):.1f} s"
            )
            for writer in writers:
                writer.wait()  # so that seeds trained together are never two epochs apart on disk
            finished = []
            for each, writer, v, s, history in zip(
                tasks, writers, variables, _unstack(state, len(tasks)), histories, strict=True
            ):
                saved = checkpoint.Checkpoint(
                    # Copies: the next steps write over the arrays while these are being written.
                    _copies({k: tree for k, tree in v.items() if tree}),
                    _copies(_training(s)),
                    {**each.meta, "epoch": epoch + 1, "history": history},
                )
                writer.save(epoch + 1, saved, history[-1]["val_loss"])
                write_history(each.directory / "history.csv", history)
                finished.append((saved.variables, history))
    return finished


def _stack(trees: Sequence[Any]) -> Any:
    """One tree with the seeds as first axis; of one seed, its own tree."""
    if len(trees) == 1:
        return trees[0]
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(x) for x in leaves]), *trees)


def _unstack(tree: Any, count: int) -> list[Any]:
    """The inverse of `_stack`."""
    if count == 1:
        return [tree]
    return [jax.tree.map(lambda x: x[i], tree) for i in range(count)]  # noqa: B023


def figures(outputs: Any, data: steps.Data) -> tuple[float, float]:
    """Mean cross-entropy and accuracy, unweighted, of a pass over `data`."""
    labels = np.asarray(data.labels)
    loss = np.asarray(steps.cross_entropy(jnp.asarray(outputs.logits), jnp.asarray(labels)))
    accuracy = np.mean(np.argmax(outputs.logits, -1) == labels)
    return float(np.mean(loss, dtype=np.float64)), float(accuracy)


def write_history(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Writes the rows as CSV with the header HISTORY_COLUMNS; aside, then renamed."""
    aside = path.with_name(path.name + ".tmp")
    with open(aside, "w", newline="") as file:
        writer = csv.DictWriter(file, HISTORY_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
    os.replace(aside, path)


def read_history(path: Path) -> list[dict[str, float]]:
    """The inverse of `write_history`."""
    with open(path, newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def _copies(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.array(x, copy=True), tree)


def _training(state: steps.State) -> dict[str, Any]:
    return {"step": state.step, "optimizer": serialization.to_state_dict(state.optimizer)}


def _restore(
    state: steps.State,
    saved: checkpoint.Checkpoint,
    frozen: Mapping[str, Any],
    trained: frozenset[str],
    where: Path,
) -> steps.State:
    assert saved.training is not None
    checkpoint.check_tree(_training(state), saved.training, str(where))
    params, frozen_then = partition.split(saved.variables["params"], trained)
    if not all(jax.tree.leaves(jax.tree.map(np.array_equal, frozen_then, dict(frozen)))):
        raise InputError(
            f"{where}: was trained on other frozen networks than those that are there now; "
            "choose another --workdir to train it on these"
        )
    return jax.tree.map(
        jnp.array,  # copies, as above
        state._replace(
            step=saved.training["step"],
            params=params,
            statistics=saved.variables.get("batch_stats", {}),
            optimizer=serialization.from_state_dict(state.optimizer, saved.training["optimizer"]),
        ),
    )

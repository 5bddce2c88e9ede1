"""The one training loop, for all networks."""

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


def key_for(seed: int, *names: str) -> jax.Array:
    """A random key for one purpose: a function of the seed and of the purpose's names."""
    key = jax.random.key(seed)
    for name in names:
        key = jax.random.fold_in(key, zlib.crc32(name.encode()))
    return key


def fit(task: Task) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Trains a network to its last epoch, from its last checkpoint if there is one.

    Returns:
        The variables after the last epoch, frozen ones included, as NumPy arrays; and the history,
        one row of HISTORY_COLUMNS an epoch. `loss` and `accuracy` are running means over the epoch
        as Keras shows them (class weights and dropout on); `val_loss` and `val_accuracy` are
        evaluated at its end without either.

    Raises:
        InputError: the checkpoint does not fit the network, or the loss is not finite.
    """
    settings = task.settings
    epochs, batch_size = settings["epochs"], settings["batch_size"]
    count = len(task.train.labels)
    steps_per_epoch = math.ceil(count / batch_size)
    label = f"{task.name}, seed {task.seed}"

    optim = optimizer.make(settings["learning_rate"], settings["schedule"], steps_per_epoch)
    # Copies, because the steps write over what they are given.
    params, frozen = partition.split(task.variables["params"], task.trained)
    params = jax.tree.map(lambda x: jnp.array(x, copy=True), params)
    statistics = jax.tree.map(
        lambda x: jnp.array(x, copy=True), dict(task.variables.get("batch_stats", {}))
    )
    state = steps.State(
        jnp.int32(0), params, statistics, optim.transform.init(params), steps.zero_sums()
    )
    history: list[dict[str, float]] = []

    directory = task.directory / "checkpoints"
    if checkpoint.epochs(directory):
        where = checkpoint.locate(directory)
        saved = checkpoint.read(where, training=True)
        checkpoint.check_tree(task.variables, saved.variables, str(where))
        history = saved.meta["history"]
        write_history(task.directory / "history.csv", history)
        if len(history) >= epochs:
            return saved.variables, history
        state = _restore(state, saved, frozen, task.trained, where)
        print(f"{label}: goes on after epoch {len(history)} of {epochs}", flush=True)

    train_steps = steps.make_train_steps(
        task.module,
        optim.transform,
        jnp.asarray(task.class_weights, jnp.float32),
        batch_size,
        task.method,
    )
    forward = steps.make_forward(task.module, task.method)
    train, validation = jax.device_put((task.train, task.validation))
    frozen = jax.device_put(frozen)
    dropout_key = key_for(task.seed, task.name, "dropout")

    done = len(history)
    with (
        checkpoint.Writer(directory) as writer,
        progress.Progress(label, epochs * steps_per_epoch, done * steps_per_epoch) as shown,
    ):
        chunk = 1
        for epoch in range(done, epochs):
            began = time.perf_counter()
            learning_rate = optim.learning_rate(state.optimizer)
            visits = batches.order(task.seed, epoch, count)
            rows = jnp.asarray(np.pad(visits, (0, steps_per_epoch * batch_size - count)))
            state = state._replace(sums=steps.zero_sums())
            start = 0
            while start < steps_per_epoch:
                stop = min(start + chunk, steps_per_epoch)
                tick = time.perf_counter()
                state = train_steps(state, frozen, dropout_key, train, rows, start, stop)
                seen = min(stop * batch_size, count)
                loss, accuracy = (float(x) / seen for x in state.sums)
                took = time.perf_counter() - tick
                if not math.isfinite(loss):
                    raise InputError(
                        f"{label}: the loss is {loss} by step {stop} of epoch {epoch + 1}; "
                        f"a lower config.{task.name}.learning_rate may help."
                    )
                shown.update(stop - start, epoch=epoch + 1, loss=loss, accuracy=accuracy)
                # The first call compiles, so it says nothing about the steps.
                if start or epoch > done:
                    chunk = max(1, min(2 * chunk, int(chunk * CHUNK_SECONDS / took)))
                start = stop

            variables = {
                "params": partition.merge(state.params, frozen),
                "batch_stats": state.statistics,
            }
            val_loss, val_accuracy = figures(forward(variables, validation.inputs), validation)
            if not math.isfinite(val_loss):
                raise InputError(
                    f"{label}: the validation loss is {val_loss} after epoch {epoch + 1}; "
                    f"a lower config.{task.name}.learning_rate may help."
                )
            state = state._replace(optimizer=optim.end_epoch(state.optimizer, val_loss))
            row = {
                "epoch": epoch + 1,
                "loss": loss,
                "accuracy": accuracy,
                "val_loss": val_loss,
                "val_accuracy": val_accuracy,
                "learning_rate": learning_rate,
                "seconds": time.perf_counter() - began + (0 if epoch else task.setup_seconds),
            }
            history.append(row)
            shown.line(
                f"{label}  epoch {epoch + 1:>2}/{epochs}  loss {loss:.4f}  accuracy {accuracy:.4f}"
                f"  val_loss {val_loss:.4f}  val_accuracy {val_accuracy:.4f}"
                f"  learning_rate {learning_rate:.3g}  {row['seconds']:.1f} s"
            )
            saved = checkpoint.Checkpoint(
                # Copies: the next steps write over the arrays while these are being written.
                _copies({k: v for k, v in variables.items() if v}),
                _copies(_training(state)),
                {**task.meta, "epoch": epoch + 1, "history": history},
            )
            writer.save(epoch + 1, saved, val_loss)
            write_history(task.directory / "history.csv", history)
    return saved.variables, history


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

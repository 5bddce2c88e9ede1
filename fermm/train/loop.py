"""The one training loop, for all networks."""

import contextlib
import csv
import math
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization

from fermm.data import batches
from fermm.errors import InputError
from fermm.paths import whole
from fermm.train import checkpoint, devices, optimizer, partition, progress, steps
from fermm.train.checkpoint import Position
from fermm.train.events import Events
from fermm.train.feed import feed
from fermm.train.stop import Stop, Stopped

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
        workers: processes that read training data which lie on disk.
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
    workers: int = 0
    events: Path | None = None


def key_for(seed: int, *names: str) -> jax.Array:
    """A random key for one purpose: a function of the seed and of the purpose's names."""
    key = jax.random.key(seed)
    for name in names:
        key = jax.random.fold_in(key, zlib.crc32(name.encode()))
    return key


def fit(
    tasks: Sequence[Task],
    *,
    parallel: str = "none",
    stop: Stop | None = None,
    checkpoint_minutes: float = math.inf,
) -> list[tuple[dict[str, Any], list[dict[str, float]]]]:
    """Trains a network to its last epoch, from one seed or from several at once.

    Each seed goes on from its last checkpoint if there is one. Seeds are trained at once in one
    compiled function (`jax.vmap`), for which small networks take less than one after the other; the
    sums in it may be rounded in another way than those of a seed alone.

    Args:
        tasks: one for each seed. They differ in seed, variables, inputs, directory and what
            concerns these (`meta`, `setup_seconds`), in nothing else.
        parallel: how a training lies over the devices, see `fermm.train.devices.Layout`.
        stop: asked after every second or so; a checkpoint is written before the training ends.
        checkpoint_minutes: after how many minutes a checkpoint is written within an epoch.

    Returns:
        For each task, the variables after the last epoch, frozen ones included, as NumPy arrays;
        and the history, one row of HISTORY_COLUMNS an epoch. `loss` and `accuracy` are running
        means over the epoch as Keras shows them (class weights and dropout on); `val_loss` and
        `val_accuracy` are evaluated at its end without either; `seconds` is the seed's share.

    Raises:
        InputError: a checkpoint does not fit the network, cannot be written, or a loss or gradient
            is not finite.
        Stopped: `stop` said so.
    """
    stop = stop or Stop()
    results = {}
    for group, done in _groups(tasks):
        layout = devices.layout(parallel, len(group))
        fitted = _fit(group, done, layout, stop, 60 * checkpoint_minutes)
        for task, result in zip(group, fitted, strict=True):
            results[task.seed] = result
    return [results[task.seed] for task in tasks]


def _groups(tasks: Sequence[Task]) -> list[tuple[list[Task], Position]]:
    """Which tasks can go on together, and from where they do."""
    with devices.main_first("look through the checkpoints"):
        for task in tasks:
            for note in checkpoint.set_damaged_aside(task.directory / "checkpoints"):
                print(f"note: {note}", flush=True)
    kept = {task.seed: set(checkpoint.positions(task.directory / "checkpoints")) for task in tasks}
    fresh = [task for task in tasks if not kept[task.seed]]
    begun = [task for task in tasks if kept[task.seed]]
    groups = [(fresh, Position(0))] if fresh else []
    if begun:
        nothing = Position(0)
        common = max(set.intersection(*(kept[task.seed] for task in begun)), default=nothing)
        # Seeds that were stopped together are one epoch apart at most.
        near = all(max(kept[task.seed]).epoch - common.epoch <= 1 for task in begun)
        if common != nothing and near:
            groups.append((begun, common))
        else:
            groups += [([task], max(kept[task.seed])) for task in begun]
    return groups


class _Saver:
    """Writes what a training leaves on disk; in the main process only."""

    def __init__(
        self, tasks: Sequence[Task], done: Position, open_now: contextlib.ExitStack
    ) -> None:
        self._tasks = tasks if devices.is_main() else ()
        for task in self._tasks:
            checkpoint.forget_after(task.directory / "checkpoints", done)
        self._writers = [
            open_now.enter_context(checkpoint.Writer(task.directory / "checkpoints"))
            for task in self._tasks
        ]
        self._events = [open_now.enter_context(Events(t.events, done.epoch)) for t in self._tasks]
        self.last = done if done != Position(0) else None
        self.when = time.monotonic()

    def history(self, histories: Sequence[list[dict[str, float]]]) -> None:
        if not self._tasks:
            return
        for task, events, history in zip(self._tasks, self._events, histories, strict=True):
            write_history(task.directory / "history.csv", history)
            events.add(history[-1])

    def save(
        self,
        position: Position,
        states: Sequence[steps.State],
        variables: Sequence[dict[str, Any]],
        histories: Sequence[list[dict[str, float]]],
        seconds: float,
    ) -> None:
        """Begins to write checkpoints; `seconds` have been spent on the epoch they are in."""
        self.last, self.when = position, time.monotonic()
        if not self._tasks:
            return
        self.wait()  # so that seeds trained together are never two epochs apart on disk
        for task, writer, state, trees, history in zip(
            self._tasks, self._writers, states, variables, histories, strict=True
        ):
            meta = {
                **task.meta,
                "epoch": position.epoch,
                "step_of_epoch": position.step,
                "seconds": seconds,
                "history": [*history],  # for it grows while this is being written
            }
            writer.save(position, checkpoint.Checkpoint(trees, _training(state), meta))

    def wait(self) -> None:
        for writer in self._writers:
            writer.wait()

    def describe(self) -> str:
        """The last checkpoint, for a message."""
        return f"the last checkpoint is that of {self.last}" if self.last else "no checkpoint yet"


def _fit(
    tasks: Sequence[Task], done: Position, layout: devices.Layout, stop: Stop, save_after: float
) -> list[tuple[dict[str, Any], list[dict[str, float]]]]:
    """`fit` for tasks that have all come as far as `done`."""
    task, seeds = tasks[0], [task.seed for task in tasks]
    settings = task.settings
    epochs, batch_size = settings["epochs"], settings["batch_size"]
    count = len(task.train.labels)
    steps_per_epoch = math.ceil(count / batch_size)
    label = f"{task.name}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"

    optim = optimizer.make(settings["learning_rate"], settings["schedule"], steps_per_epoch)
    starts, frozens, histories, finished = [], [], [], []
    spent = 0.0  # seconds on the epoch to go on with
    for each in tasks:
        params, frozen = partition.split(each.variables["params"], each.trained)
        statistics = dict(each.variables.get("batch_stats", {}))
        start = steps.State(
            jnp.int32(0), params, statistics, optim.transform.init(params), steps.zero_sums()
        )
        history: list[dict[str, float]] = []
        if done != Position(0):
            where = each.directory / "checkpoints" / done.name
            saved = checkpoint.read(where, training=True)
            checkpoint.check_tree(each.variables, saved.variables, str(where))
            history, spent = saved.meta["history"], saved.meta["seconds"]
            if devices.is_main():
                write_history(each.directory / "history.csv", history)
            finished.append((saved.variables, history))
            if done.epoch < epochs:
                start = _restore(start, saved, frozen, each.trained, where)
        starts.append(devices.to_host(start))
        frozens.append(devices.to_host(frozen))
        histories.append(history)
    if done.epoch >= epochs:
        return finished
    if done != Position(0) and devices.is_main():
        print(f"{label}: goes on after {done} of {epochs}", flush=True)

    stacked = len(tasks) > 1
    train_steps = steps.make_train_steps(
        task.module,
        optim.transform,
        jnp.asarray(task.class_weights, jnp.float32),
        layout,
        task.method,
        stacked,
    )
    forward = steps.make_forward(task.module, layout, task.method)
    host = stack(starts)
    state, frozen = (devices.put(tree, layout.state) for tree in (host, stack(frozens)))
    data = [each.train for each in tasks]
    dropout_keys = put_keys([key_for(seed, task.name, "dropout") for seed in seeds], layout)
    del starts

    def variables_of(states: Sequence[steps.State]) -> list[dict[str, Any]]:
        trees = [
            {"params": partition.merge(s.params, f), "batch_stats": s.statistics}
            for s, f in zip(states, frozens, strict=True)
        ]
        return [{k: tree for k, tree in each.items() if tree} for each in trees]

    with contextlib.ExitStack() as open_now:
        open_now.enter_context(stop.deferred())
        saver = _Saver(tasks, done, open_now)
        # Of several processes, which must go on together, none stops on its own.
        check = stop.check if jax.process_count() == 1 else None
        shown = open_now.enter_context(
            progress.Progress(
                label, epochs * steps_per_epoch, done.epoch * steps_per_epoch + done.step
            )
        )

        def save(position: Position) -> None:
            states = unstack(devices.to_host(state), len(tasks))
            saver.save(position, states, variables_of(states), histories, spent_now())

        def stop_here(position: Position) -> None:
            save(position)
            saver.wait()
            if devices.is_main():
                shown.line(f"{label}: checkpoint of {position} written")
            stop.check()

        def refuse(seed: int, what: str, when: str) -> NoReturn:
            raise InputError(
                f"{task.name}, seed {seed}: {what} {when}; {saver.describe()}; a lower "
                f"config.{task.name}.learning_rate may help, config.debug_nans finds the operation"
            )

        chunk = 1
        compiled = False
        for epoch in range(done.epoch, epochs):
            began, carried = time.perf_counter(), spent
            spent = 0.0

            def spent_now() -> float:
                return carried + (time.perf_counter() - began) / len(tasks)  # noqa: B023

            rates = np.broadcast_to(optim.learning_rate(host.optimizer), len(tasks))
            first = done.step if epoch == done.epoch else 0
            if not first:
                state = state._replace(
                    sums=devices.put(jax.tree.map(np.zeros_like, host.sums), layout.state)
                )
            seen = max(1, min(first * batch_size, count))
            losses, accuracies = (np.ravel(x).astype(float) / seen for x in host.sums)
            step = first
            orders = [batches.order(seed, epoch, count) for seed in seeds]
            fed = feed(data, orders, batch_size, layout, first, task.workers)
            with contextlib.closing(fed) as buffers:
                for buffer, size in buffers:
                    base = step
                    while step < base + size:
                        until = min(step + chunk, base + size)
                        tick = time.perf_counter()
                        state = train_steps(
                            state, frozen, dropout_keys, buffer, step - base, until - base
                        )
                        sums, fine = devices.to_host((state.sums, optim.is_finite(state.optimizer)))
                        took = time.perf_counter() - tick
                        seen = min(until * batch_size, count)
                        losses, accuracies = (np.ravel(x).astype(float) / seen for x in sums)
                        when = f"by step {until} of epoch {epoch + 1}"
                        for seed, loss, good in zip(seeds, losses, np.ravel(fine), strict=True):
                            if not math.isfinite(loss):
                                refuse(seed, f"the loss is {loss}", when)
                            if not good:
                                refuse(
                                    seed, "a gradient, or its square, is not a finite number", when
                                )
                        shown.update(
                            until - step,
                            epoch=epoch + 1,
                            loss=np.mean(losses),
                            accuracy=np.mean(accuracies),
                        )
                        # The first call compiles, so it says nothing about the steps.
                        late = time.monotonic() - saver.when - save_after
                        asked, late, took = devices.agree(stop.requested, late, took)
                        if compiled:
                            chunk = max(1, min(2 * chunk, int(chunk * CHUNK_SECONDS / took)))
                        compiled, step = True, until
                        if asked:
                            stop.request()
                            stop_here(Position(epoch, step))
                        elif late > 0:
                            save(Position(epoch, step))

            host = devices.to_host(state)
            states = unstack(host, len(tasks))
            variables = variables_of(states)
            try:
                validated = [
                    figures(forward(v, each.validation.inputs, check), each.validation)
                    for v, each in zip(variables, tasks, strict=True)
                ]
            except Stopped:
                stop_here(Position(epoch, steps_per_epoch))
                raise
            for seed, (val_loss, _) in zip(seeds, validated, strict=True):
                if not math.isfinite(val_loss):
                    refuse(seed, f"the validation loss is {val_loss}", f"after epoch {epoch + 1}")
            val_losses = jnp.asarray([loss for loss, _ in validated], jnp.float32)
            ended = optim.end_epoch(host.optimizer, val_losses if stacked else val_losses[0])
            state = state._replace(
                optimizer=jax.tree.map(
                    lambda x, old, new: x if new is old else devices.put(new, layout.state),
                    state.optimizer,
                    host.optimizer,
                    ended,
                )
            )
            host = host._replace(optimizer=jax.tree.map(np.asarray, ended))
            seconds = spent_now()
            for i, each in enumerate(tasks):
                row = (
                    *(epoch + 1, losses[i], accuracies[i], *validated[i], rates[i]),
                    seconds + (0 if epoch else each.setup_seconds),
                )
                histories[i].append(
                    dict(zip(HISTORY_COLUMNS, (row[0], *map(float, row[1:])), strict=True))
                )
            means = {
                name: np.mean([history[-1][name] for history in histories])
                for name in HISTORY_COLUMNS[1:]
            }
            if devices.is_main():
                shown.line(
                    f"{label}  epoch {epoch + 1:>2}/{epochs}"
                    f"  loss {means['loss']:.4f}  accuracy {means['accuracy']:.4f}"
                    f"  val_loss {means['val_loss']:.4f}  val_accuracy {means['val_accuracy']:.4f}"
                    f"  learning_rate {means['learning_rate']:.3g}"
                    f"  {means['seconds'] * len(tasks):.1f} s"
                )
            states = unstack(host, len(tasks))
            saver.save(Position(epoch + 1), states, variables, histories, 0.0)
            saver.history(histories)
        saver.wait()
    devices.wait_for_all(f"{label} trained")
    return list(zip(variables, histories, strict=True))


def put_keys(keys: Sequence[jax.Array], layout: devices.Layout) -> jax.Array:
    """Random keys on the devices, stacked if there are several."""
    words = stack([np.asarray(jax.random.key_data(key)) for key in keys])
    return jax.random.wrap_key_data(devices.put(words, layout.state))


def stack(trees: Sequence[Any]) -> Any:
    """One tree with the seeds as first axis; of one seed, its own tree."""
    if len(trees) == 1:
        return trees[0]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def unstack(tree: Any, count: int) -> list[Any]:
    """The inverse of `stack`."""
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
    with whole(path) as aside, open(aside, "w", newline="") as file:
        writer = csv.DictWriter(file, HISTORY_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)


def read_history(path: Path) -> list[dict[str, float]]:
    """The inverse of `write_history`."""
    with open(path, newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def _training(state: steps.State) -> dict[str, Any]:
    return {
        "step": state.step,
        "optimizer": serialization.to_state_dict(state.optimizer),
        "sums": state.sums._asdict(),
    }


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
    return steps.State(
        step=saved.training["step"],
        params=params,
        statistics=saved.variables.get("batch_stats", {}),
        optimizer=serialization.from_state_dict(state.optimizer, saved.training["optimizer"]),
        sums=steps.Sums(**saved.training["sums"]),
    )

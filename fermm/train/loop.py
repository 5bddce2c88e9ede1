"""The one training loop, for all networks."""

import contextlib
import functools
import json
import math
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

from fermm import rundir
from fermm.data import batches
from fermm.errors import InputError
from fermm.notices import doing
from fermm.rundir import HISTORY_COLUMNS, Position, write_history
from fermm.train import checkpoint, devices, optimizer, partition, progress, steps
from fermm.train.events import Events
from fermm.train.feed import feed
from fermm.train.stop import Stop, Stopped

CHUNK_SECONDS = 1.0  # of training between two looks at the figures


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

    It goes on from the last position of which all seeds have a checkpoint. They are trained at once
    in one compiled function (`jax.vmap`), for which small networks take less than one after the
    other; the sums in it may be rounded in another way than those of a seed alone.
    With `parallel` "cores" each is trained by the program of a seed alone, on one of several
    threads, to the same bits as alone.

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
        InputError: a checkpoint does not fit the network, is damaged (see `groups`) or cannot be
            written; or a loss or gradient is not finite.
        Stopped: `stop` said so.
    """
    start = Position(0)
    kept = [{start, *_positions(task)} for task in tasks]
    done = max(set.intersection(*kept))
    devices.wait_for_all("looked through the checkpoints")  # some of which are removed next
    if done.epoch >= tasks[0].settings["epochs"]:
        saved = [_read(task, done, training=False) for task in tasks]
        return [(each.variables, each.meta["history"]) for each in saved]
    layout = devices.layout(parallel, len(tasks))
    return _fit(tasks, done, layout, stop or Stop(), 60 * checkpoint_minutes)


def _positions(task: Task) -> list[Position]:
    """Those after which the training is at its end, or can go on."""
    directory = task.directory / rundir.CHECKPOINTS
    return [
        position
        for position in rundir.positions(directory)
        if position.epoch >= task.settings["epochs"]
        or rundir.has_training(directory / position.name)
    ]


def groups(directories: Mapping[int, Path], at_once: int, apart: bool = False) -> list[list[int]]:
    """Which seeds of a network are trained at once.

    The bits of each depend on how many are trained in one compiled function: those that were begun
    in one stay together, whatever became of their checkpoints. Those that were begun apart stay so:
    at once again if `apart`, else one after the other. The others are taken in order.

    Args:
        directories: of each seed, its `checkpoints/`; damaged checkpoints are set aside.
        at_once: how many are begun together.
        apart: whether they are trained apart from each other now, see `devices.Layout`.
    """
    with devices.main_first("look through the checkpoints"):
        for directory in directories.values():
            for note in checkpoint.set_damaged_aside(directory):
                print(f"note: {note}", flush=True)
    together: dict[int, tuple[int, ...]] = {}
    alone: set[int] = set()
    for seed, directory in directories.items():
        if kept := rundir.positions(directory):
            meta = rundir.read_meta(directory / kept[-1].name)
            together[seed] = tuple(meta.get("seeds_at_once", [seed]))
            if meta.get("apart", False) and not apart:
                alone.update(together[seed])
    for seeds in [*together.values()]:
        for seed in seeds:
            together.setdefault(seed, seeds)  # which has no checkpoint, or none any more
    together |= {seed: (seed,) for seed in alone}
    fresh = [seed for seed in directories if seed not in together]
    begun = [
        [seed for seed in seeds if seed in directories and together[seed] == seeds]
        for seeds in dict.fromkeys(together.values())
    ]
    return begun + [fresh[i : i + at_once] for i in range(0, len(fresh), at_once)]


class _Saver:
    """Writes what a training leaves on disk."""

    def __init__(
        self, tasks: Sequence[Task], done: Position, apart: bool, open_now: contextlib.ExitStack
    ) -> None:
        self._tasks, self._apart = tasks, apart
        directories = [task.directory / rundir.CHECKPOINTS for task in tasks]
        self._events: list[Events] = []
        if devices.is_main():
            for directory in directories:
                checkpoint.forget_after(directory, done)
            self._events = [open_now.enter_context(Events(t.events, done.epoch)) for t in tasks]
        self._writer = open_now.enter_context(checkpoint.Writer(directories))
        self.last = done if done != Position(0) else None
        self.when = time.monotonic()

    def history(self, histories: Sequence[list[dict[str, float]]]) -> None:
        if not devices.is_main():
            return
        for task, events, history in zip(self._tasks, self._events, histories, strict=True):
            write_history(task.directory / rundir.HISTORY, history)
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
        if position == self.last:
            return  # Stopped again before it came any further: that checkpoint is there.
        self.last, self.when = position, time.monotonic()
        checkpoints = []
        for task, state, trees, history in zip(
            self._tasks, states, variables, histories, strict=True
        ):
            meta = {
                **task.meta,
                "seeds_at_once": [each.seed for each in self._tasks],
                "apart": self._apart,
                "epoch": position.epoch,
                "step_of_epoch": position.step,
                "seconds": seconds,
                "history": [*history],  # for it grows while this is being written
            }
            checkpoints.append(checkpoint.Checkpoint(trees, _training(state), meta))
        self._writer.save(position, checkpoints)

    def wait(self) -> None:
        """Returns when all that was saved is on disk."""
        self._writer.wait()

    def describe(self) -> str:
        """The last checkpoint, for a message."""
        return f"the last checkpoint is that of {self.last}" if self.last else "no checkpoint yet"


def _fit(
    tasks: Sequence[Task], done: Position, layout: devices.Layout, stop: Stop, save_after: float
) -> list[tuple[dict[str, Any], list[dict[str, float]]]]:
    """`fit` for tasks that have all come as far as `done`, which is not the end."""
    epochs = tasks[0].settings["epochs"]
    training = _Training(tasks, done, layout, stop, save_after)
    with stop.deferred(), contextlib.ExitStack() as open_now:
        training.open(open_now)
        for epoch in range(done.epoch, epochs):
            training.train(epoch)
            training.end_epoch(epoch, training.validate(epoch))
        training.saver.wait()
    devices.wait_for_all(f"{training.label} trained")
    return list(zip(training.variables(), training.histories, strict=True))


class _Training:
    """A training under way: of one network, from one seed or from several at once.

    Attributes:
        label: names the network and its seeds.
        histories: of each seed, one row an epoch.
        saver: writes checkpoints and histories, once `open` has been called.
    """

    saver: _Saver

    def __init__(
        self,
        tasks: Sequence[Task],
        done: Position,
        layout: devices.Layout,
        stop: Stop,
        save_after: float,
    ) -> None:
        task, seeds = tasks[0], [task.seed for task in tasks]
        self._tasks, self._seeds, self._done, self._layout = tasks, seeds, done, layout
        self._stop, self._save_after = stop, save_after
        # What is trained in one compiled function: all, stacked, or each seed for itself.
        self._apart = layout.threads > 1
        each = 1 if self._apart else len(tasks)
        self._programs = [slice(i, i + each) for i in range(0, len(tasks), each)]
        self._epochs, self._batch_size = task.settings["epochs"], task.settings["batch_size"]
        self._count = len(task.train.labels)
        self._steps_per_epoch = math.ceil(self._count / self._batch_size)
        self.label = f"{task.name}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"

        self._optim = optimizer.make(
            task.settings["learning_rate"], task.settings["schedule"], self._steps_per_epoch
        )
        starts = [_start(each, done, self._optim) for each in tasks]
        if done != Position(0) and devices.is_main():
            print(f"{self.label}: goes on after {done} of {self._epochs}", flush=True)
        self.histories = [start.history for start in starts]
        self._frozens = [start.frozen for start in starts]
        # Of each program: the state, on the host; and so on.
        self._host = self._stack([start.state for start in starts])
        self._state = [devices.put(state, layout.state) for state in self._host]
        self._frozen = [devices.put(x, layout.state) for x in self._stack(self._frozens)]
        keys = [key_for(s, task.name, "dropout") for s in seeds]
        self._dropout_keys = [put_keys(keys[program], layout) for program in self._programs]
        self._train_steps = steps.make_train_steps(
            task.module,
            self._optim.transform,
            jnp.asarray(task.class_weights, jnp.float32),
            layout,
            task.method,
            each > 1,
        )
        self._forward = steps.make_forward(task.module, layout, task.method)
        self._chunk = 0  # steps in a call of it; 0 before the first one
        self._began, self._carried = 0.0, starts[0].seconds

    def open(self, open_now: contextlib.ExitStack) -> None:
        """Opens what has to be closed when the training ends."""
        self._threads = open_now.enter_context(devices.Threads(self._layout.threads))
        self.saver = _Saver(self._tasks, self._done, self._apart, open_now)
        first = self._done.epoch * self._steps_per_epoch + self._done.step
        total = self._epochs * self._steps_per_epoch
        self._shown = open_now.enter_context(progress.Progress(self.label, total, first))

    def variables(self) -> list[dict[str, Any]]:
        """Of each seed, frozen parameters included, as of the last epoch's end."""
        return self._variables_of(self._unstack(self._host))

    def train(self, epoch: int) -> None:
        """The steps of an epoch, or what is left of them."""
        self._began = time.perf_counter()
        first = self._done.step if epoch == self._done.epoch else 0
        if not first:
            self._carried = 0.0
            self._state = [
                state._replace(
                    sums=devices.put(jax.tree.map(np.zeros_like, host.sums), self._layout.state)
                )
                for state, host in zip(self._state, self._host, strict=True)
            ]
        with contextlib.ExitStack() as open_now:
            fed = [
                feed(
                    [task.train for task in self._tasks[program]],
                    [batches.order(seed, epoch, self._count) for seed in self._seeds[program]],
                    self._batch_size,
                    self._layout,
                    first,
                    self._tasks[0].workers,
                )
                for program in self._programs
            ]
            for each in fed:
                open_now.enter_context(contextlib.closing(each))
            for taken in zip(*fed, strict=True):
                size = taken[0][1]
                self._train_on([buffer for buffer, _ in taken], Position(epoch, first), size)
                first += size
        self._host = devices.to_host(self._state)

    def _train_on(self, buffers: list[steps.Batches], start: Position, size: int) -> None:
        """The `size` steps of `buffers`, of which the first is the one after `start`."""
        done = 0
        while done < size:
            until = min(done + max(1, self._chunk), size)
            here = Position(start.epoch, start.step + until)
            tick = time.perf_counter()
            with self._say_what_takes_long():
                self._state = self._threads.map(
                    functools.partial(self._train_steps, start=done, stop=until),
                    *(self._state, self._frozen, self._dropout_keys, buffers),
                    first=not self._chunk,
                )
                stacked = not self._apart and len(self._tasks) > 1
                sums, finite = join(
                    devices.to_host(
                        [
                            (state.sums, steps.are_finite(state.params, stacked))
                            for state in self._state
                        ]
                    )
                )
            took = time.perf_counter() - tick
            loss, accuracy = self._means(sums, here.step)
            self._refuse_unless(np.isfinite(loss), f"by {here}", "the loss is {}", loss)
            self._refuse_unless(
                finite, f"by {here}", "a parameter, a gradient or its square is not a finite number"
            )
            self._shown.update(
                until - done, epoch=here.epoch + 1, loss=np.mean(loss), accuracy=np.mean(accuracy)
            )
            done = until
            late = time.monotonic() - self.saver.when - self._save_after
            asked, late, took = devices.agree(self._stop.requested, late, took)
            # The first call compiles, so it says nothing about the steps.
            fitting = int(self._chunk * CHUNK_SECONDS / took)
            self._chunk = max(1, min(2 * self._chunk, fitting))
            if asked:
                self._stop.request()
                self._stop_at(here)
            elif late > 0:
                self._save(here)

    def _say_what_takes_long(self) -> contextlib.AbstractContextManager[None]:
        if self._chunk or not devices.is_main():
            return contextlib.nullcontext()
        return doing(f"{self.label}: compiling the first training step")

    def validate(self, epoch: int) -> list[tuple[float, float]]:
        """Of each seed, validation loss and accuracy."""
        # Of several processes, which must go on together, none stops on its own.
        check = self._stop.check if jax.process_count() == 1 else None
        try:
            validated = self._threads.map(
                lambda variables, task: figures(
                    self._forward(variables, task.validation.inputs, check), task.validation
                ),
                self.variables(),
                self._tasks,
                first=not epoch,
            )
        except Stopped:
            self._stop_at(Position(epoch, self._steps_per_epoch))
            raise
        losses = np.array([loss for loss, _ in validated])
        self._refuse_unless(
            np.isfinite(losses), f"after epoch {epoch + 1}", "the validation loss is {}", losses
        )
        return validated

    def end_epoch(self, epoch: int, validated: Sequence[tuple[float, float]]) -> None:
        """Lets the schedule see the validation losses, and writes down what the epoch has given."""
        seconds = self._seconds()
        rates = join([self._optim.learning_rate(state.optimizer) for state in self._host])
        figures_of_seeds = zip(
            *self._means(join([state.sums for state in self._host]), self._steps_per_epoch),
            validated,
            np.broadcast_to(rates, len(self._tasks)),
            strict=True,
        )
        for task, history, (loss, accuracy, (val_loss, val_accuracy), rate) in zip(
            self._tasks, self.histories, figures_of_seeds, strict=True
        ):
            spent = seconds + (0 if epoch else task.setup_seconds)
            row = map(float, (loss, accuracy, val_loss, val_accuracy, rate, spent))
            history.append(dict(zip(HISTORY_COLUMNS, (epoch + 1, *row), strict=True)))

        losses = [np.float32(loss) for loss, _ in validated]
        for i, (host, loss) in enumerate(zip(self._host, self._stack(losses), strict=True)):
            old = host.optimizer
            new = self._optim.end_epoch(old, loss)
            on_devices = jax.tree.map(
                lambda x, o, n: x if n is o else devices.put(n, self._layout.state),
                self._state[i].optimizer,
                old,
                new,
            )
            self._state[i] = self._state[i]._replace(optimizer=on_devices)
            self._host[i] = host._replace(optimizer=jax.tree.map(np.asarray, new))

        if devices.is_main():
            self._shown.line(f"{self.label}  {self._describe_epoch()}")
        self._save(Position(epoch + 1))
        self.saver.history(self.histories)

    def _describe_epoch(self) -> str:
        last = [history[-1] for history in self.histories]
        mean = {name: np.mean([row[name] for row in last]) for name in HISTORY_COLUMNS[1:]}
        return (
            f"epoch {last[0]['epoch']:>2}/{self._epochs}"
            f"  loss {mean['loss']:.4f}  accuracy {mean['accuracy']:.4f}"
            f"  val_loss {mean['val_loss']:.4f}  val_accuracy {mean['val_accuracy']:.4f}"
            f"  learning_rate {mean['learning_rate']:.3g}"
            f"  {mean['seconds'] * len(last):.1f} s"
        )

    def _means(self, sums: steps.Sums, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Of each seed, the loss and the accuracy over the epoch up to `step`."""
        seen = min(step * self._batch_size, self._count)
        loss, accuracy = (x.astype(float) / seen for x in sums)
        return loss, accuracy

    def _seconds(self) -> float:
        """Spent on this epoch so far, those before an interruption included; a seed's share."""
        return self._carried + (time.perf_counter() - self._began) / len(self._tasks)

    def _stack(self, trees: Sequence[Any]) -> list[Any]:
        """Of what each seed has, what each program has."""
        return [stack(trees[program]) for program in self._programs]

    def _unstack(self, trees: Sequence[Any]) -> list[Any]:
        """The inverse of `_stack`."""
        count = len(self._tasks) // len(self._programs)
        return [each for tree in trees for each in unstack(tree, count)]

    def _variables_of(self, states: Sequence[steps.State]) -> list[dict[str, Any]]:
        trees = [
            {"params": partition.merge(state.params, frozen), "batch_stats": state.statistics}
            for state, frozen in zip(states, self._frozens, strict=True)
        ]
        return [{k: tree for k, tree in each.items() if tree} for each in trees]

    def _save(self, position: Position) -> None:
        if position.step:
            states, seconds = devices.to_host(self._state), self._seconds()
        else:
            states, seconds = self._host, 0.0
        each = self._unstack(states)
        self.saver.save(position, each, self._variables_of(each), self.histories, seconds)

    def _stop_at(self, position: Position) -> None:
        self._save(position)
        self.saver.wait()
        if devices.is_main():
            self._shown.line(f"{self.label}: checkpoint of {position} written")
        self._stop.check()

    def _refuse_unless(
        self, good: np.ndarray, when: str, what: str, values: np.ndarray | None = None
    ) -> None:
        """Raises InputError for the first seed of which `good` is false."""
        if good.all():
            return
        i, name = int(np.argmin(good)), self._tasks[0].name
        value = "" if values is None else values[i]
        raise InputError(
            f"{name}, seed {self._seeds[i]}: {what.format(value)} {when}; "
            f"{self.saver.describe()}; a lower config.{name}.learning_rate may help, "
            "config.debug_nans finds what makes a NaN"
        )


class _Start(NamedTuple):
    """What the training of one seed begins with, or goes on with.

    Attributes:
        state: NumPy arrays.
        frozen: the parameters that are not trained.
        history: so far.
        seconds: spent on the epoch that it goes on with.
    """

    state: steps.State
    frozen: Any
    history: list[dict[str, float]]
    seconds: float


def _start(task: Task, done: Position, optim: optimizer.Optimizer) -> _Start:
    """From the variables of the task, or from the checkpoint of `done`."""
    params, frozen = partition.split(task.variables["params"], task.trained)
    statistics = dict(task.variables.get("batch_stats", {}))
    state = steps.State(
        jnp.int32(0), params, statistics, optim.transform.init(params), steps.zero_sums()
    )
    history, seconds = [], 0.0
    if done != Position(0):
        saved = _read(task, done, training=True)
        where = task.directory / rundir.CHECKPOINTS / done.name
        state = _restore(state, saved, task.trained, where)
        history, seconds = saved.meta["history"], saved.meta["seconds"]
    return _Start(devices.to_host(state), devices.to_host(frozen), history, seconds)


def _read(task: Task, done: Position, training: bool) -> checkpoint.Checkpoint:
    """The checkpoint of `done`; the history in it is then that in `history.csv`."""
    where = task.directory / rundir.CHECKPOINTS / done.name
    saved = checkpoint.read(where, training=training)
    if saved.meta.get("data") != json.loads(json.dumps(task.meta.get("data"))):
        raise InputError(
            f"{where}: was trained on other data; choose another --workdir, or the same data"
        )
    checkpoint.check_tree(task.variables, saved.variables, str(where))
    _, frozen_then = partition.split(saved.variables["params"], task.trained)
    _, frozen = partition.split(task.variables["params"], task.trained)
    if not all(jax.tree.leaves(jax.tree.map(np.array_equal, frozen_then, frozen))):
        raise InputError(
            f"{where}: was trained on other frozen networks than those that are there now; "
            f"delete {task.directory} to have it trained on these, or bring those back"
        )
    if devices.is_main():
        write_history(task.directory / rundir.HISTORY, saved.meta["history"])
    return saved


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


def join(trees: Sequence[Any]) -> Any:
    """One tree with an axis of seeds in front, from trees of one seed or of several stacked."""
    return jax.tree.map(lambda *leaves: np.concatenate([*map(np.atleast_1d, leaves)]), *trees)


def figures(outputs: Any, data: steps.Data) -> tuple[float, float]:
    """Mean cross-entropy and accuracy, unweighted, of a pass over `data`."""
    labels = np.asarray(data.labels)
    loss = np.asarray(steps.cross_entropy(jnp.asarray(outputs.logits), jnp.asarray(labels)))
    accuracy = np.mean(np.argmax(outputs.logits, -1) == labels)
    return float(np.mean(loss, dtype=np.float64)), float(accuracy)


def _training(state: steps.State) -> dict[str, Any]:
    return {
        "step": state.step,
        "optimizer": serialization.to_state_dict(state.optimizer),
        "sums": state.sums._asdict(),
    }


def _restore(
    state: steps.State,
    saved: checkpoint.Checkpoint,
    trained: frozenset[str],
    where: Path,
) -> steps.State:
    assert saved.training is not None
    checkpoint.check_tree(_training(state), saved.training, str(where))
    params, _ = partition.split(saved.variables["params"], trained)
    return steps.State(
        step=saved.training["step"],
        params=params,
        statistics=saved.variables.get("batch_stats", {}),
        optimizer=serialization.from_state_dict(state.optimizer, saved.training["optimizer"]),
        sums=steps.Sums(**saved.training["sums"]),
    )

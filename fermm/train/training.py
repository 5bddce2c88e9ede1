"""A training under way, of one network: from one seed, or from several at once."""

import contextlib
import functools
import math
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fermm.data import batches
from fermm.errors import InputError
from fermm.notices import doing
from fermm.rundir import HISTORY_COLUMNS, Position
from fermm.train import devices, partition, progress, steps, updates
from fermm.train.feed import feed
from fermm.train.job import SeedJob
from fermm.train.keys import keys_for, put_keys
from fermm.train.resuming import start
from fermm.train.saver import Saver
from fermm.train.stacking import join, stack, unstack
from fermm.train.stop import Stop, Stopped
from fermm.train.tasks import Sums

CHUNK_SECONDS = 1.0  # of training between two looks at the metrics


class Training:
    """A training under way.

    Args:
        jobs: one for each seed, see `fermm.train.loop.fit`.
        done: how far it has come; all seeds have a checkpoint of that, unless it is the start.
        layout: how it lies on devices.
        stop: says when to stop.
        save_after: seconds after which a checkpoint is written within an epoch.
        open_now: closes what is opened here.

    Attributes:
        label: names the network and its seeds.
        histories: for each seed, one row for each epoch so far.
        saver: writes checkpoints and histories.
    """

    def __init__(
        self,
        jobs: Sequence[SeedJob],
        done: Position,
        layout: devices.Layout,
        stop: Stop,
        save_after: float,
        open_now: contextlib.ExitStack,
    ) -> None:
        job, seeds = jobs[0], [job.seed for job in jobs]
        self._jobs, self._seeds, self._done, self._layout = jobs, seeds, done, layout
        self._stop, self._save_after = stop, save_after
        # What is trained in one compiled function: all, stacked, or each seed for itself.
        apart = layout.threads > 1
        each = 1 if apart else len(jobs)
        self._stacked = each > 1
        self._programs = [slice(i, i + each) for i in range(0, len(jobs), each)]
        self._epochs, self._batch_size = job.config.epochs, job.config.batch_size
        self._count = len(job.train.targets)
        self._steps_per_epoch = math.ceil(self._count / self._batch_size)
        self.label = f"{job.name}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"

        self._updates = updates.make(job.config, self._steps_per_epoch)
        starts = [start(job, done, self._updates) for job in jobs]
        if done != Position(0) and devices.is_main():
            print(f"{self.label}: goes on after {done} of {self._epochs}", flush=True)
        self.histories = [start.history for start in starts]
        self._frozens = [start.frozen for start in starts]
        # One entry for each program; the state also on the host, as of the last epoch's end.
        self._host = self._stack([start.state for start in starts])
        self._state = [devices.put(state, layout.state) for state in self._host]
        self._frozen = [devices.put(x, layout.state) for x in self._stack(self._frozens)]
        keys = [keys_for(seed, job.name, job.module) for seed in seeds]
        self._keys = [put_keys(keys[program], layout) for program in self._programs]
        self._train_steps = steps.TrainSteps(
            job.module,
            self._updates.transform,
            job.task,
            layout,
            job.method,
            self._stacked,
            job.config.augmentations(f"config.{job.name}"),
            job.config.average,
            starts[0].in_one_call,
        )
        self._forward = steps.make_forward(job.module, layout, job.method)
        self._chunk = 0  # steps in a call of it; 0 before the first one
        self._began, self._carried = 0.0, starts[0].seconds

        self._threads = open_now.enter_context(devices.Threads(layout.threads))
        meta = {"seeds_at_once": seeds, "apart": apart, "platform": jax.default_backend()}
        self.saver = Saver(jobs, done, meta, open_now)
        first = done.epoch * self._steps_per_epoch + done.step
        total = self._epochs * self._steps_per_epoch
        self._shown = open_now.enter_context(progress.Progress(self.label, total, first))

    def variables(self) -> list[dict[str, Any]]:
        """The variables with which each seed predicts, frozen ones included.

        They are as of the end of the last epoch.
        """
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
                    [job.train for job in self._jobs[program]],
                    [batches.order(seed, epoch, self._count) for seed in self._seeds[program]],
                    self._batch_size,
                    self._layout,
                    first,
                    self._jobs[0].workers,
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
                    *(self._state, self._frozen, self._keys, buffers),
                    first=not self._chunk,
                )
                sums, finite = join(
                    devices.to_host(
                        [
                            (state.sums, steps.are_finite(state.params, self._stacked))
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
        """Returns the validation loss and the accuracy of each seed."""
        # Of several processes, which must go on together, none stops on its own.
        check = self._stop.check if jax.process_count() == 1 else None
        try:
            validated = self._threads.map(
                lambda variables, job: job.task.metrics(
                    self._forward(variables, job.validation.inputs, check), job.validation.targets
                ),
                self.variables(),
                self._jobs,
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
        rates = join([self._updates.learning_rate(state.opt_state) for state in self._host])
        of_seeds = zip(
            *self._means(join([state.sums for state in self._host]), self._steps_per_epoch),
            validated,
            np.broadcast_to(rates, len(self._jobs)),
            strict=True,
        )
        for job, history, (loss, accuracy, (val_loss, val_accuracy), rate) in zip(
            self._jobs, self.histories, of_seeds, strict=True
        ):
            spent = seconds + (0 if epoch else job.setup_seconds)
            row = map(float, (loss, accuracy, val_loss, val_accuracy, rate, spent))
            history.append(dict(zip(HISTORY_COLUMNS, (epoch + 1, *row), strict=True)))

        losses = [np.float32(loss) for loss, _ in validated]
        for i, (host, loss) in enumerate(zip(self._host, self._stack(losses), strict=True)):
            old = host.opt_state
            new = self._updates.end_epoch(old, loss)
            on_devices = jax.tree.map(
                lambda x, o, n: x if n is o else devices.put(n, self._layout.state),
                self._state[i].opt_state,
                old,
                new,
            )
            self._state[i] = self._state[i]._replace(opt_state=on_devices)
            self._host[i] = host._replace(opt_state=jax.tree.map(np.asarray, new))

        if devices.is_main():
            self._shown.line(f"{self.label}  {self._describe_epoch()}")
        self._save(Position(epoch + 1))
        self.saver.save_history(self.histories)

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

    def _means(self, sums: Sums, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The loss and the accuracy of each seed over the epoch up to `step`."""
        seen = min(step * self._batch_size, self._count)
        loss, accuracy = (np.asarray(x, float) / seen for x in sums)
        return loss, accuracy

    def _seconds(self) -> float:
        """Spent on this epoch so far, those before an interruption included; a seed's share."""
        return self._carried + (time.perf_counter() - self._began) / len(self._jobs)

    def _stack(self, trees: Sequence[Any]) -> list[Any]:
        """What each program has, from what each seed has."""
        return [stack(trees[program]) for program in self._programs]

    def _unstack(self, trees: Sequence[Any]) -> list[Any]:
        """The inverse of `_stack`."""
        count = len(self._jobs) // len(self._programs)
        return [each for tree in trees for each in unstack(tree, count)]

    def _variables_of(self, states: Sequence[steps.State]) -> list[dict[str, Any]]:
        result = []
        for state, frozen in zip(states, self._frozens, strict=True):
            params, batch_stats = state.predicts_with()
            trees = {"params": partition.merge(params, frozen), "batch_stats": batch_stats}
            result.append({name: tree for name, tree in trees.items() if tree})
        return result

    def _save(self, position: Position) -> None:
        if position.step:
            states, seconds = devices.to_host(self._state), self._seconds()
        else:
            states, seconds = self._host, 0.0
        each = self._unstack(states)
        self.saver.save(
            position,
            each,
            self._variables_of(each),
            self.histories,
            seconds,
            steps_in_one_call=self._train_steps.in_one_call,
        )

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
        i, name = int(np.argmin(good)), self._jobs[0].name
        value = "" if values is None else values[i]
        raise InputError(
            f"{name}, seed {self._seeds[i]}: {what.format(value)} {when}; "
            f"{self.saver.describe()}; a lower config.{name}.learning_rate may help, "
            "config.debug_nans finds what makes a NaN"
        )

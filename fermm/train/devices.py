"""Where arrays lie: on one device, or over several, in one process or in several."""

import contextlib
import functools
import json
import math
import os
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fermm.errors import InputError

_T = TypeVar("_T", bound=Callable[..., Any])

_AXIS = "devices"


class Layout(NamedTuple):
    """How a training lies on devices.

    Attributes:
        kind: "none", one device; "batch", each device computes its share of every batch, and all
            hold the same parameters; "seeds", each trains its share of the seeds.
        mesh: the devices, along one axis.
        threads: above 1 (of kind "none" only), each seed is trained apart from the others, by the
            program of a seed alone, on one of so many threads.
    """

    kind: str
    mesh: Mesh
    threads: int = 1

    @property
    def state(self) -> NamedSharding:
        """Of parameters, statistics and optimiser."""
        return self._sharding(*[_AXIS] * (self.kind == "seeds"))

    @property
    def replicated(self) -> NamedSharding:
        """The same on every device."""
        return self._sharding()

    def batches(self, stacked: bool) -> NamedSharding:
        """Of arrays (steps, samples, ...), or (seeds, steps, samples, ...)."""
        if self.kind == "seeds":
            return self._sharding(_AXIS)
        return self._sharding(*[None] * (1 + stacked), _AXIS)

    def samples(self) -> NamedSharding:
        """Of arrays (samples, ...)."""
        return self._sharding(_AXIS)

    def round_up(self, samples: int) -> int:
        """To what a batch is padded, so that every device gets as many samples."""
        if self.kind != "batch":
            return samples
        return math.ceil(samples / self.mesh.size) * self.mesh.size

    def share(self, count: int) -> slice:
        """Of `count` rows that lie over the devices: those of this process."""
        each = count // self.mesh.size
        mine = [i for i, d in enumerate(self.mesh.devices.flat) if d.process_index == _process()]
        return slice(mine[0] * each, (mine[-1] + 1) * each)

    def _sharding(self, *axes: str | None) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(*axes))


def layout(kind: str, seeds: int = 1) -> Layout:
    """The layout for a training of so many seeds at once, over all devices of all processes.

    Args:
        kind: see `Layout`. "seeds" takes the largest number of devices that divides `seeds`;
            "cores" the first device and, if it is a CPU with several cores, a thread for each.
        seeds: trained at once.

    Raises:
        InputError: several processes that would all do the same; "cores" on a GPU or TPU.
    """
    if kind == "cores" and (backend := jax.default_backend()) != "cpu":
        raise InputError(
            f"config.parallel is 'cores', which trains on a CPU, but JAX computes on {backend!r}: "
            "set config.parallel to 'none', or the environment variable JAX_PLATFORMS to cpu"
        )
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if kind in ("none", "cores"):
        devices = jax.local_devices()[:1]
    elif kind == "seeds":
        count = max(n for n in range(1, len(devices) + 1) if seeds % n == 0)
        devices = devices[:count]
    if jax.process_count() > 1 and len(devices) < len(jax.devices()):
        raise InputError(
            f"config.parallel is {kind!r} and {seeds} seeds are trained at once, which leaves "
            f"some of the {len(jax.devices())} devices of {jax.process_count()} processes without "
            "work: set config.parallel to 'batch', or have multiples of their number trained at "
            "once (config.seeds, config.<network>.seeds_at_once)"
        )
    threads = min(cores(), seeds) if kind == "cores" else 1
    return Layout(kind if len(devices) > 1 else "none", Mesh(np.array(devices), (_AXIS,)), threads)


def cores() -> int:
    """Returns how many cores of the CPU this process may use: at least 1.

    Counts what its affinity allows, and no more than the quota of its container (a cgroup of
    version 1 or 2), rounded up.
    """
    available = getattr(os, "sched_getaffinity", None)
    count = len(available(0)) if available else os.cpu_count() or 1
    return max(1, math.ceil(min(count, _quota(Path("/sys/fs/cgroup")))))


def _quota(root: Path) -> float:
    """The time on CPUs that a cgroup allows, in cores; infinite where it sets no limit."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (root / "cpu.max").read_text().split()
        return math.inf if quota == "max" else float(quota) / float(period)
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (
            (root / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
        )
        return float(quota) / float(period) if float(quota) > 0 else math.inf
    return math.inf


def trains_apart(kind: str) -> bool:
    """Whether seeds that are trained at once do not share a compiled function."""
    return kind == "cores" and cores() > 1


def seeds_at_once(kind: str, wanted: int) -> int:
    """How many seeds are begun together: `wanted`, rounded up to give every core as many."""
    return math.ceil(wanted / cores()) * cores() if trains_apart(kind) else wanted


class Threads:
    """Threads that call a function for several seeds at the same time; a context manager.

    XLA and NumPy release Python's lock while they compute.
    """

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, "seeds") if count > 1 else None

    def map(self, function: Callable[..., Any], *arguments: Any, first: bool = False) -> list[Any]:
        """Returns `function` of each first argument, each second, and so on.

        Args:
            function: what it returns has been computed when this returns.
            arguments: sequences of the same length.
            first: call it alone for the first, and then for the others: it compiles.
        """

        # `in_float32` sets it for this thread only.
        x64 = jax.config.jax_enable_x64  # type: ignore[attr-defined]

        def call(*each: Any) -> Any:
            with jax.enable_x64(x64):
                return jax.block_until_ready(function(*each))

        calls = list(zip(*arguments, strict=True))
        # So is debugging switched on.
        debugging = any(getattr(jax.config, f"jax_{x}") for x in ("debug_nans", "disable_jit"))
        alone = self._pool is None or debugging
        count = len(calls) if alone else int(first)
        done = [call(*each) for each in calls[:count]]
        if self._pool and calls[count:]:
            futures = [self._pool.submit(call, *each) for each in calls[count:]]
            wait(futures)  # before an error is raised: none computes on behind it
            done += [future.result() for future in futures]
        return done

    def __enter__(self) -> "Threads":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown()


def layout_of_evaluation(kind: str) -> Layout:
    """Where networks are evaluated whose training lies as `kind` says: "batch" divides the samples,
    otherwise each process evaluates on a device of its own.
    """
    return layout("batch") if kind == "batch" else Layout("none", _one_device())


def _one_device() -> Mesh:
    return Mesh(np.array(jax.local_devices()[:1]), (_AXIS,))


def put(tree: Any, sharding: NamedSharding) -> Any:
    """Host arrays, alike in all processes, as arrays of their own on the devices."""

    def one(x: Any) -> jax.Array:
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    # Copied there: steps write over what they are given, which might be memory of NumPy's.
    return _copier(sharding)(jax.tree.map(one, tree))


@functools.cache
def _copier(sharding: NamedSharding) -> Any:
    return jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=sharding)


def put_share(x: np.ndarray, sharding: NamedSharding, shape: tuple[int, ...]) -> jax.Array:
    """This process's share of an array of `shape`."""
    return jax.make_array_from_process_local_data(sharding, x, shape)


def for_each_process(tree: Any) -> Any:
    """Host arrays, alike in all processes, as arrays of which every process holds the whole."""
    mesh = Mesh([jax.local_devices(i)[0] for i in range(jax.process_count())], (_AXIS,))
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, sharding, lambda index: x[index]), tree
    )


def to_host(tree: Any) -> Any:
    """Copies, as NumPy arrays, the same in all processes."""

    def one(x: Any) -> np.ndarray:
        if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
            return np.asarray(multihost_utils.process_allgather(x, tiled=True))
        return np.array(x)

    return jax.tree.map(one, tree)


def require_backend() -> None:
    """Checks that JAX can use the kind of device that it was told to use.

    Raises:
        InputError: it cannot; the message names the backend.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter without a word
        wanted = getattr(jax.config, "jax_platforms", None) or "of this machine"
        reason = (str(error).splitlines() or ["no such device was found"])[0]
        raise InputError(
            f"JAX cannot use the backend {wanted!r} ({reason}): set JAX_PLATFORMS to one that this "
            "machine has, such as cpu, or unset it"
        ) from None


def in_float32(function: _T) -> _T:
    """Decorates a function: within it, `jax_enable_x64` is off, whatever flag or program set it.

    Parameters, optimiser and predictions are float32, and the same bits, with the flag and without.
    """

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with jax.enable_x64(False):
            return function(*args, **kwargs)

    return cast(_T, wrapped)


def is_main() -> bool:
    """Whether this is the process that writes files and says what is done."""
    return _process() == 0


def _process() -> int:
    return jax.process_index()


def agree(*values: float) -> tuple[float, ...]:
    """The largest of each value in any process."""
    if jax.process_count() == 1:
        return values
    gathered = multihost_utils.process_allgather(np.asarray(values, np.float32))
    return tuple(float(x) for x in gathered.max(0))


def require_same(what: str, value: Any) -> None:
    """Checks that all processes were given the same.

    Args:
        what: it is, and what to do about it, for a message: "config: use the same flags".
        value: of this process.

    Raises:
        InputError: they were not.
    """
    text = json.dumps(value, sort_keys=True, default=str)
    mine = float(zlib.crc32(text.encode()) % 2**24)  # what float32 holds exactly
    largest, smallest = agree(mine, -mine)
    if largest != -smallest:
        raise InputError(f"process {_process()}: not all processes were given the same {what}")


def wait_for_all(name: str) -> None:
    """Returns when every process has come to this point, called `name`."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def main_first(what: str) -> Iterator[None]:
    """What is inside is done by the main process, then by the others, unless it failed there.

    Args:
        what: it does, for a message: "read the data".

    Raises:
        InputError: in the others, if it failed in the main process.
    """
    if not is_main():
        (failed,) = agree(0.0)
        if failed:
            raise InputError(f"process {_process()} ends: process 0 could not {what}, see there")
        yield
        return
    try:
        yield
    except BaseException:
        agree(1.0)
        raise
    agree(0.0)

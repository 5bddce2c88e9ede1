"""Where arrays lie: on one device, or over several, in one process or in several."""

import contextlib
import functools
import json
import math
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fermm.errors import InputError

_T = TypeVar("_T", bound=Callable[..., Any])

KINDS = ("none", "batch", "seeds")
_AXIS = "devices"


class Layout(NamedTuple):
    """How a training lies on devices.

    Attributes:
        kind: "none", one device; "batch", each device computes its share of every batch, and all
            hold the same parameters; "seeds", each trains its share of the seeds.
        mesh: the devices, along one axis.
    """

    kind: str
    mesh: Mesh

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
        kind: see `Layout`. "seeds" takes the largest number of devices that divides `seeds`.
        seeds: trained at once.

    Raises:
        InputError: several processes that would all do the same.
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if kind == "none":
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
    return Layout(kind if len(devices) > 1 else "none", Mesh(np.array(devices), (_AXIS,)))


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

"""Reads an epoch of data larger than memory, and measures what memory that takes.

    uv run python -m reliability.streaming --data fer2013.csv --times 20 --out stream

Makes a data set of --times the faces of --data (2 GB for 20 times FER2013), by repetition on disk
and in bounded memory, unless --out holds it already. Then reads one epoch of it through
`fermm.data.stream.chunks`, in the order of `fermm.data.batches.order`, and makes a run of the
landmark network of one epoch. Fails if the processes take
more than --limit MB beyond what the process had after its imports. Linux only: memory is the
proportional set size (PSS) of all processes, from /proc, in which shared pages count once.
"""

import argparse
import contextlib
import dataclasses
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np

from fermm.data import batches, dataset, stream
from fermm.errors import InputError

MB = 1 << 20


class Repeated:
    """An array over and over, of which only rows are taken."""

    def __init__(self, array: Any, times: int) -> None:
        self._array, self._times = array, times

    def __len__(self) -> int:
        return len(self._array) * self._times

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self._array[rows % len(self._array)]


def make(data: str, cache_dir: str, times: int, out: Path) -> Path:
    """Writes `times` the faces of `data` to `out`: the directory of the prepared data set."""
    faces = dataset.prepare(data, cache_dir=cache_dir, streaming=True)
    repeated = dataclasses.replace(
        faces,
        features={
            name: cast(np.ndarray, Repeated(column, times))
            for name, column in faces.features.items()
        },
        labels=np.tile(faces.labels, times),
        official=np.tile(faces.official, times),
        rows=np.arange(len(faces) * times),
    )
    return dataset.write(repeated, out, f"times_{times}")


class Memory:
    """What this process and its descendants take, looked at ten times a second.

    Attributes:
        parent: most PSS of this process, in bytes.
        all: most PSS of this process and its descendants together.
        processes: most of them.
    """

    def __init__(self) -> None:
        self.parent = self.all = self.processes = 0

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Looks while the context lasts."""
        stop = threading.Event()

        def look() -> None:
            while not stop.is_set():
                self.look()
                stop.wait(0.1)

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self.look()

    def look(self) -> None:
        """Looks once."""
        family = _family(os.getpid())
        sizes = [_pss(pid) for pid in family]
        self.parent = max(self.parent, sizes[0])
        self.all = max(self.all, sum(sizes))
        self.processes = max(self.processes, len(family))


def _family(pid: int) -> list[int]:
    family = [pid]
    with contextlib.suppress(OSError):  # it may have ended meanwhile
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                family += _family(int(child))
    return family


def _pss(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0


def read_epoch(directory: Path, size: int, workers: int) -> dict[str, float]:
    """Reads one epoch in chunks of `size` faces: what that took, in seconds and bytes."""
    import grain  # noqa: F401, it and JAX belong to the memory at the start

    memory = Memory()
    memory.look()
    start_up = memory.all
    began = time.perf_counter()
    with memory.watch():
        faces = stream.open_samples(directory)
        opened = time.perf_counter()
        columns = {name: cast(stream.Column, x) for name, x in faces.features.items()}
        rows = batches.order(0, 0, len(faces))
        first, done = 0.0, 0
        with contextlib.closing(stream.chunks(columns, rows, size, workers=workers)) as chunks:
            for chunk in chunks:
                first = first or time.perf_counter()
                done += len(chunk["images"])
        last = time.perf_counter()
    assert done == len(faces)
    return {
        "faces": len(faces),
        "bytes": sum(file.stat().st_size for file in Path(directory).iterdir()),
        "workers": workers,
        "chunk": size,
        "open_seconds": opened - began,
        "first_chunk_seconds": first - opened,
        "epoch_seconds": last - opened,
        "rows_per_second": len(faces) / (last - opened),
        "start_up_bytes": start_up,
        "peak_parent_bytes": memory.parent,
        "peak_bytes": memory.all,
        "processes": memory.processes,
    }


def train_epoch(directory: Path, workdir: Path) -> dict[str, float]:
    """A run of the landmark network for one epoch, from what lies in `directory`."""
    import grain  # noqa: F401, as above

    from configs import paper
    from fermm import experiment

    config = paper.get_config()
    config.data.update({"path": str(directory), "streaming": True})
    config.networks, config.report = ("landmarks",), False
    config.landmarks.epochs = 1
    config.evaluate.splits = ("validation", "test")
    memory = Memory()
    memory.look()
    start_up = memory.all
    began = time.perf_counter()
    with memory.watch():
        experiment.run(config.to_dict(), workdir)
    return {
        "seconds": time.perf_counter() - began,
        "start_up_bytes": start_up,
        "peak_bytes": memory.all,
    }


def main() -> int:
    """The command line; 1 if the memory was too much."""
    parser = argparse.ArgumentParser(prog="python -m reliability.streaming", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", required=True, help="FER2013, as config.data.path takes it")
    parser.add_argument("--cache-dir", default="~/.cache/fermm", help="as config.data.cache_dir")
    parser.add_argument("--times", type=int, default=20, help="how often the faces are repeated")
    parser.add_argument("--out", type=Path, required=True, help="gets data set and streaming.json")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="one epoch for each")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=64, help="batches in a chunk")
    parser.add_argument("--limit", type=float, default=1000.0, help="MB beyond the start-up")
    options = parser.parse_args()

    directory = _in_process(make, options.data, options.cache_dir, options.times, options.out)
    results, failed = [], False
    for workers in options.workers:
        result = _in_process(read_epoch, directory, options.batch_size * options.steps, workers)
        results.append(result)
        beyond = (result["peak_bytes"] - result["start_up_bytes"]) / MB
        failed |= beyond > options.limit
        print(
            f"{workers} workers: {result['faces']} faces, {result['bytes'] / MB:.0f} MB on disk, "
            f"opened in {result['open_seconds']:.1f} s, "
            f"first chunk after {result['first_chunk_seconds']:.1f} s, "
            f"epoch in {result['epoch_seconds']:.1f} s ({result['rows_per_second']:.0f} faces/s); "
            f"memory {result['start_up_bytes'] / MB:.0f} MB at the start, at most "
            f"{result['peak_parent_bytes'] / MB:.0f} MB in the parent and "
            f"{result['peak_bytes'] / MB:.0f} MB in {result['processes']:.0f} processes, "
            f"{beyond:.0f} MB beyond the start",
            flush=True,
        )
    with tempfile.TemporaryDirectory() as workdir:
        result = _in_process(train_epoch, directory, Path(workdir) / "run")
    results.append(result)
    beyond = (result["peak_bytes"] - result["start_up_bytes"]) / MB
    failed |= beyond > options.limit
    print(
        f"a run of the landmark network, one epoch: {result['seconds']:.1f} s, at most "
        f"{result['peak_bytes'] / MB:.0f} MB, {beyond:.0f} MB beyond the start",
        flush=True,
    )
    (options.out / "streaming.json").write_text(json.dumps(results, indent=2) + "\n")
    if failed:
        print(f"more than {options.limit:.0f} MB beyond the start", file=sys.stderr)
    return int(failed)


def _in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What `function` returns, called in a process of its own, which no other part has filled."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        answer = receiver.recv()
    except EOFError as error:
        raise InputError(f"the process of {function.__name__} died: see what it said") from error
    finally:
        process.join()
    if isinstance(answer, InputError):
        raise answer
    return answer


def _send(sender: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        sender.send(function(*arguments))
    except InputError as error:
        sender.send(error)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(1)

"""Times fermm, Keras on TensorFlow and PyTorch in turns, and writes results, tables and a plot.

    uv run --group benchmarks python -m benchmarks --out bench
    uv run --group benchmarks python -m benchmarks --only steps growth --rounds 3 --out bench
    uv run --group benchmarks python -m benchmarks --data fer2013.csv --whole --out bench

Without --data it draws as many faces as FER2013 has, and writes them as a CSV where one is read.
Nothing else should run on the machine. About an hour on two cores, of which the paper's way of
reading the CSV, the whole epochs and the landmarks take most; --whole adds a run of
configs/paper.py, from CSV to report.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import ceilings, csv_ways, report
from benchmarks.server import ROOT, Server

NETWORKS = ("image", "landmarks", "decision_fusion", "feature_fusion")
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "keras": ("keras_tensorflow", {}),
    "pytorch": ("pytorch", {}),
    "pytorch_compiled": ("pytorch", {"compiled": True}),
    "pytorch_plain": ("pytorch", {"plain": True}),
    "fermm": ("fermm_jax", {}),
}
MAIN_PEERS = ("keras", "pytorch", "fermm")
VARIANTS = ("image", "landmarks")  # networks for which all of PEERS are timed; compiling takes long
STEPS = {"image": 20, "landmarks": 400, "decision_fusion": 60, "feature_fusion": 60}
WHOLE_IMAGE_EPOCHS = 2
FACES = 35_887  # as many as FER2013 has

Seconds = dict[str, list[float]]


class Bench:
    """What is common to all parts: the data, the peers' processes, how often.

    Args:
        data: the .npz file of what peers take.
        csv: FER2013's CSV.
        rounds: how often each thing is timed, the peers in turns.
        networks: those whose steps and epochs are timed.
    """

    def __init__(self, data: Path, csv: Path, rounds: int, networks: Sequence[str]) -> None:
        self.data, self.csv, self.rounds, self.networks = data, csv, rounds, networks
        self._servers: dict[str, Server] = {}

    def peer(self, name: str) -> Server:
        """The process of a peer, started when it is first needed."""
        if name not in self._servers:
            module, options = PEERS[name]
            self._servers[name] = Server(module, self.data, **options)
        return self._servers[name]

    def short(self, share: float) -> Path:
        """The data with a share of its training and validation faces."""
        path = self.data.with_name(f"share_{share}.npz")
        if not path.exists():
            with np.load(self.data) as file:
                arrays = dict(file)
            for split in ("train", "validation"):
                arrays[split] = arrays[split][: int(share * len(arrays[split]))]
            np.savez(path, **arrays)
        return path

    def close(self) -> None:
        """Ends the processes."""
        while self._servers:
            self._servers.popitem()[1].close()


def in_turns(rounds: int, timed: dict[str, Callable[[], float]], warm_up: int = 1) -> Seconds:
    """Calls each function once a round, after rounds that do not count.

    Each round begins with another of them.
    """
    names = list(timed)
    seconds: Seconds = {name: [] for name in names}
    for i in range(-warm_up, rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            took = timed[name]()
            if i >= 0:
                seconds[name].append(took)
    return seconds


def time_ceilings(bench: Bench) -> dict[str, list[float]]:
    """Products of matrices and memory traffic, as fast as this machine can."""
    return {
        "matmul_flops": [ceilings.matmul() for _ in range(bench.rounds)],
        "memory_bytes": [ceilings.memory() for _ in range(bench.rounds)],
    }


def time_steps(bench: Bench) -> dict[str, Any]:
    """Training steps of 32 faces, with the ceilings measured in every round."""
    results: dict[str, Any] = {}
    for network in bench.networks:
        peers = PEERS if network in VARIANTS else MAIN_PEERS
        first = {name: bench.peer(name)("start", network) for name in peers}

        def run(name: str, count: int = STEPS[network]) -> float:
            return bench.peer(name)("steps", count) / count

        timed: dict[str, Any] = {name: lambda name=name: run(name) for name in peers}
        timed["matmul"] = ceilings.matmul
        timed["memory"] = ceilings.memory
        seconds = in_turns(bench.rounds, timed)
        results[network] = {
            "ceilings": {
                "matmul_flops": seconds.pop("matmul"),
                "memory_bytes": seconds.pop("memory"),
            },
            "seconds": seconds,
            "first_step": first,
            "cost": bench.peer("fermm")("cost"),
            "peak_memory": {name: bench.peer(name)("memory") for name in peers},
        }
        _say(f"step, {network}", seconds)
    return results


def time_epochs(bench: Bench) -> dict[str, Any]:
    """Whole epochs with validation, and what is done once before the first."""
    results = {}
    for network in bench.networks:
        for name in MAIN_PEERS:
            bench.peer(name)("start", network)
            bench.peer(name)("steps", 5)
        seconds = in_turns(
            {"image": 1, "landmarks": 3}.get(network, 2),
            {name: lambda name=name: bench.peer(name)("epoch") for name in MAIN_PEERS},
            warm_up=network == "landmarks",  # a round of the others takes minutes
        )
        once = {name: bench.peer(name)("once") for name in MAIN_PEERS}
        results[network] = {"seconds": seconds, "once": once}
        _say(f"epoch, {network}", seconds)
    return results


def time_growth(bench: Bench) -> dict[str, Any]:
    """How fermm's cost grows with the batch, the number of faces and the number of seeds."""
    fermm = bench.peer("fermm")
    results: dict[str, Any] = {"batch": {}, "seeds": {}, "faces": {}}
    for network, sizes in (("image", (8, 32, 128, 512)), ("landmarks", (8, 32, 128, 512, 2048))):
        per_face: dict[str, list[float]] = {}
        for size in sizes:
            fermm("start", network, batch_size=size)
            count = max(3, STEPS[network] * 32 // size // 2)
            fermm("steps", 2)
            per_face[str(size)] = [
                fermm("steps", count) / count / size for _ in range(bench.rounds)
            ]
        results["batch"][network] = per_face
    for network in ("landmarks", "decision_fusion", "feature_fusion"):
        # One server for each number, so that they can be timed in turns.
        servers = {n: Server("fermm_jax", bench.short(0.1)) for n in (1, 2, 4, 8)}
        for n, server in servers.items():
            server("start", network, seeds=n)
        results["seeds"][network] = in_turns(
            bench.rounds,
            {
                str(n): lambda server=server: server("steps", 200) / 200
                for n, server in servers.items()
            },
        )
        for server in servers.values():
            server.close()
        _say(f"seeds, {network}", results["seeds"][network])
    for share in (0.25, 0.5, 1.0):
        server = Server("fermm_jax", bench.short(share))
        server("start", "landmarks")
        server("epoch")
        results["faces"][f"{share:.0%}"] = [server("epoch") for _ in range(bench.rounds)]
        server.close()
    return results


def time_csv(bench: Bench) -> Seconds:
    """From CSV to arrays: the paper's way (once), pandas' C parser, fermm."""
    seconds = in_turns(
        bench.rounds,
        {
            name: lambda name=name: _call(csv_ways.WAYS[name], bench.csv)
            for name in ("pandas_c", "fermm")
        },
    )
    seconds["paper"] = [_call(csv_ways.WAYS["paper"], bench.csv)]
    _say("CSV", seconds)
    return seconds


def time_landmarks(bench: Bench) -> Seconds:
    """The landmarks of all faces, in one process and in two."""
    from fermm.data import landmarks

    with np.load(bench.data) as file:
        images = file["images"]
    rounds = max(1, bench.rounds // 2)
    seconds: Seconds = {"1": [], "2": []}
    landmarks.extract(images[:10])
    for _ in range(rounds):
        for workers in (1, 2):
            seconds[str(workers)].append(
                _call(lambda w: landmarks.extract(images, workers=w), workers)
            )
    _say("landmarks", seconds)
    return seconds


def time_predictions(bench: Bench) -> dict[str, Any]:
    """One face from pixels to probabilities; few and many faces with landmarks given."""
    results: dict[str, Any] = {}
    fermm = Server("fermm_jax", bench.short(0.1))  # a fusion's frozen outputs are not timed here
    peers = {"keras": bench.peer("keras"), "pytorch": bench.peer("pytorch"), "fermm": fermm}
    for network in NETWORKS:
        for peer in peers.values():
            peer("start", network)
        results[network] = {}
        for count, repeats in ((1, 200), (256, 5), (4096, 1)):
            timed: Seconds = {name: [] for name in peers}
            for _ in range(2):
                for name, peer in peers.items():
                    timed[name] += peer("predict_seconds", count, repeats)
            results[network][str(count)] = timed
    results["pixels_to_probabilities"] = {}
    for network in ("landmarks", "decision_fusion", "feature_fusion"):
        fermm("start", network)
        results["pixels_to_probabilities"][network] = fermm(
            "predict_seconds", 1, 500, landmarks=False
        )
    fermm.close()
    return results


def time_starts(bench: Bench) -> dict[str, Any]:
    """First steps in a new process: nothing compiled before, and compiled by an earlier process."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as cache:
        for network in NETWORKS:
            results[network] = {}
            for kind in ("nothing kept", "kept"):
                server = Server(
                    "fermm_jax",
                    bench.short(0.1),
                    {
                        "JAX_COMPILATION_CACHE_DIR": cache,
                        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                    },
                )
                results[network][kind] = server("start", network)
                server.close()
    return results


def time_whole(bench: Bench) -> dict[str, Any]:
    """`launch.py --config configs/paper.py` from the CSV to the report, nothing prepared before.

    NN1 is trained for two epochs of its sixteen; the others are counted at their mean.
    """
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "launch.py", "--config", "configs/paper.py"]
        command += [f"--config.data.path={bench.csv}", f"--config.data.cache_dir={scratch}/cache"]
        command += [f"--config.image.epochs={WHOLE_IMAGE_EPOCHS}"]
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": f"{scratch}/xla"}
        began = time.perf_counter()
        subprocess.run(
            [*command, "--workdir", f"{scratch}/run"], cwd=ROOT, env=environment, check=True
        )
        seconds = time.perf_counter() - began
        metrics = json.loads(Path(scratch, "run", "metrics.json").read_text())
    training = {name: figures["seconds"][0] for name, figures in metrics.items()}
    left_out = (report.EPOCHS / WHOLE_IMAGE_EPOCHS - 1) * training["image"]
    training["image"] += left_out
    return {
        "seconds": seconds + left_out,
        "left_out": left_out,
        "training": training,
        "test_accuracy": {
            name: figures["test"]["accuracy"][0] for name, figures in metrics.items()
        },
    }


BY_NETWORK = ("steps", "epochs")
PARTS: dict[str, Callable[[Bench], Any]] = {
    "ceilings": time_ceilings,
    "steps": time_steps,
    "growth": time_growth,
    "predictions": time_predictions,
    "starts": time_starts,
    "csv": time_csv,
    "landmarks": time_landmarks,
    "epochs": time_epochs,
}


def _call(function: Callable[[Any], Any], argument: Any) -> float:
    began = time.perf_counter()
    function(argument)
    return time.perf_counter() - began


def _say(what: str, seconds: Seconds) -> None:
    figures = ", ".join(f"{k} {1e3 * statistics.median(v):.4g} ms" for k, v in seconds.items())
    print(f"{what}: {figures}", flush=True)


def _machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return {
        "processor": model or platform.processor(),
        "vectors": next((f for f in ("avx512f", "avx2", "asimd") if f in flags), ""),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _prepare(scratch: Path, csv: Path | None) -> tuple[Path, Path]:
    """The peers' .npz file and the CSV, from FER2013 or from drawn faces."""
    from fermm.data import fer2013, splits, synthetic

    faces = synthetic.draw(count=FACES, seed=0)
    images, landmarks, labels = *faces.features.values(), faces.labels
    if csv is not None:
        real = fer2013.read(csv)
        images, labels = real.features["images"], real.labels
        landmarks = np.resize(landmarks, (len(images), 68, 2))  # their values cost nothing
    rows = splits.split(faces if csv is None else real, "paper", 0)
    data = scratch / "data.npz"
    np.savez(
        data,
        images=images,
        landmarks=landmarks,
        labels=labels,
        train=rows["train"],
        validation=rows["validation"],
        class_weights=splits.class_weights(labels, faces.classes),
    )
    if csv is None:
        csv = scratch / "drawn.csv"
        with csv.open("w") as file:
            file.write("emotion,pixels,Usage\n")
            for image, label in zip(images, labels.tolist(), strict=True):
                file.write(f"{label},{' '.join(map(str, image.ravel().tolist()))},Training\n")
    return data, csv


def main() -> None:
    """Reads the command line, times, writes `results.json`, `tables.md` and plots."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    parser.add_argument("--data", type=Path, help="fer2013.csv; without it, drawn faces")
    parser.add_argument("--rounds", type=int, default=5, help="how often each thing is timed")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), help="parts to time")
    parser.add_argument(
        "--networks",
        nargs="+",
        choices=NETWORKS,
        default=NETWORKS,
        help="networks whose steps and epochs are timed",
    )
    parser.add_argument("--whole", action="store_true", help="also run configs/paper.py")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "results.json"
    # Parts that are timed again replace those of before; the others stay.
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        data, csv = _prepare(Path(scratch), arguments.data)
        bench = Bench(data, csv.absolute(), arguments.rounds, arguments.networks)
        results["machine"] = _machine()
        try:
            results["versions"] = {
                k: v for name in MAIN_PEERS for k, v in bench.peer(name)("versions").items()
            }
            parts = [(name, PARTS[name]) for name in arguments.only or PARTS]
            for name, part in parts + [("whole", time_whole)] * arguments.whole:
                found = part(bench)
                if name in BY_NETWORK:
                    found = results.get(name, {}) | found
                results[name] = found
                aside = file.with_suffix(".tmp")
                aside.write_text(json.dumps(results, indent=1) + "\n")
                os.replace(aside, file)
        finally:
            bench.close()
    report.write(results, arguments.out)
    print((arguments.out / "tables.md").read_text())


if __name__ == "__main__":
    main()

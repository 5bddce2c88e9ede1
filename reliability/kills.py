"""Kills a run again and again, and looks whether it ends in the same bits all the same.

  uv run python -m reliability.kills --kills 50 --out kills -- \
      --config configs/paper.py --config.data.path fer2013.csv --config.image.epochs=2

What stands after `--` goes to launch.py. First the run is made once, undisturbed. Then, for each
kill, it is begun in a new directory, killed by SIGKILL at a moment that is drawn from the seed, and
called again; then all that it left is compared: arrays of every checkpoint, histories, predictions,
metrics and assessment, bit by bit, times excepted. With --chain all kills hit one run.

The moments are spread over the kinds of moment: start-up, training steps, the writing of a
checkpoint, evaluation, the report.
"""

import argparse
import csv
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fermm.rundir import RunDirectory
from fermm.train import checkpoint

ROOT = Path(__file__).resolve().parent.parent
_TIMES = {"seconds", "machine", "versions"}


def moments(workdir: Path) -> dict[str, Callable[[], bool]]:
    """For each kind of moment, whether it has begun."""
    return {
        "start-up": lambda: True,
        "steps": lambda: any(workdir.glob("*/seed_*")),
        "checkpoint": lambda: any(workdir.glob("*/seed_*/checkpoints/*.writing")),
        "evaluation": lambda: any(workdir.glob("*/seed_*/predictions_*.npz*")),
        "report": lambda: (workdir / "metrics.json").exists(),
    }


def start(workdir: Path, arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Calls launch.py."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "launch.py"), "--workdir", str(workdir), *arguments],
            stdout=output,
            stderr=output,
        )


def finish(workdir: Path, arguments: list[str], log: Path) -> float:
    """Calls launch.py to the end; the seconds it took."""
    began = time.monotonic()
    code = start(workdir, arguments, log).wait()
    if code:
        sys.exit(f"{workdir}: launch.py ended with {code}; see {log}")
    return time.monotonic() - began


def kill(workdir: Path, arguments: list[str], log: Path, kind: str, delay: float) -> str:
    """Calls launch.py and kills it `delay` seconds after a moment of this kind has begun.

    Returns:
        What became of it: "killed", or "had ended".
    """
    process = start(workdir, arguments, log)
    begun = moments(workdir)[kind]
    while process.poll() is None and not begun():
        time.sleep(0.001)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    return "killed" if process.wait() == -signal.SIGKILL else "had ended"


def content(workdir: Path) -> dict[str, Any]:
    """All that a run left, by file, without what tells of times."""
    found: dict[str, Any] = {}
    for file in sorted(workdir.rglob("*")):
        name = file.relative_to(workdir).as_posix()
        if "/checkpoints/" in name:
            if file.name == "checksums.json":
                saved = checkpoint.read(file.parent, training=True)
                found[name] = _without_times(saved._asdict())
        elif file == RunDirectory(workdir).finished:
            found[name] = "there"  # it has digests of files that tell times
        elif file.suffix == ".npz":
            with np.load(file) as arrays:
                found[name] = dict(arrays)
        elif file.suffix == ".json":
            found[name] = _without_times(json.loads(file.read_text()))
        elif file.name == "history.csv":
            found[name] = _without_times(list(csv.DictReader(file.read_text().splitlines())))
        elif file.is_file() and file.name != "lock":
            found[name] = "there"  # pages and figures tell times; a file half-written would not be
    return found


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in _TIMES}
        if kept.get("number") == "non-functional 6":  # of the audit, about times
            del kept["value"]
        return {k: _without_times(v) for k, v in kept.items()}
    if isinstance(value, list | tuple):
        return [_without_times(v) for v in value]
    return value


def differences(a: Any, b: Any, where: str = "") -> Iterator[str]:
    """Where two contents are not the same, to the bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted({*a, *b}, key=str):
            if key not in a or key not in b:
                yield f"{where}/{key}: only in one"
            else:
                yield from differences(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from differences(x, y, f"{where}/{i}")
    elif isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        if a.dtype != b.dtype or a.shape != b.shape or a.tobytes() != b.tobytes():
            yield f"{where}: other bits"
    elif a != b:
        yield f"{where}: {a!r} and {b!r}"


def main(argv: list[str] | None = None) -> None:
    """Reads the command line, kills, compares, and prints a table."""
    parser = argparse.ArgumentParser(
        prog="python -m reliability.kills",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--chain", action="store_true", help="all kills hit one run")
    parser.add_argument("--out", type=Path, required=True, help="a new directory")
    parser.add_argument("arguments", nargs="*", help="of launch.py, after --")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True)
    log = options.out / "launch.log"
    draw = random.Random(options.seed)

    reference = options.out / "reference"
    took = finish(reference, options.arguments, log)
    expected = content(reference)
    print(f"undisturbed: {took:.1f} s, {len(expected)} files compared", flush=True)

    kinds = list(moments(reference))
    # How long a kind of moment may last, as a share of the run.
    lasts = {"start-up": 0.3, "steps": 0.5, "checkpoint": 0.0, "evaluation": 0.2, "report": 0.2}
    if options.chain:  # each kill finds less to do than the one before
        lasts = {kind: share / options.kills for kind, share in lasts.items()}
    counts: dict[str, dict[str, int]] = {kind: {} for kind in kinds}
    same = 0
    workdir = options.out / "run"
    for i in range(options.kills):
        kind = kinds[i % len(kinds)]
        delay = draw.uniform(0, lasts[kind] * took) or draw.uniform(0, 0.1)
        outcome = kill(workdir, options.arguments, log, kind, delay)
        counts[kind][outcome] = counts[kind].get(outcome, 0) + 1
        line = f"{i + 1}: {kind} + {delay:.2f} s: {outcome}"
        if options.chain and i + 1 < options.kills:
            print(line, flush=True)
            continue
        finish(workdir, options.arguments, log)
        wrong = list(differences(expected, content(workdir)))
        same += not wrong
        print(f"{line}; ends {'as undisturbed' if not wrong else 'OTHERWISE'}", flush=True)
        for difference in wrong[:20]:
            print(f"  {difference}", flush=True)
        if wrong:
            workdir.rename(options.out / f"different_{i + 1}")
        else:
            subprocess.run(["rm", "-rf", str(workdir)], check=True)
    for kind in kinds:
        print(f"{kind}: {', '.join(f'{v} {k}' for k, v in counts[kind].items())}")
    ends = 1 if options.chain else options.kills
    print(f"{same} of {ends} ended in the same bits as the undisturbed run", flush=True)
    if same < ends:
        sys.exit(1)


if __name__ == "__main__":
    main()

"""Feeds fermm damaged and hostile input; whatever comes of it must be a result or an `InputError`.

  uv run python -m reliability.fuzz --minutes 60 --seed 0

Each case is a good input, damaged at random. It is counted as accepted, or as refused: by an
`InputError` of one line. Anything else is a finding: any other exception, a crash, a case that
computes for over 30 seconds or takes memory without end, and a file that a pickle has made. Its
input and traceback are kept in --out, and the exit status is 1. The same seed gives the same cases.

Cases run in a process of their own, which is replaced now and then, and when it has crashed.
"""

import argparse
import collections
import contextlib
import faulthandler
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from PIL import Image

from fermm.data.fer2013 import USAGES
from fermm.errors import InputError
from fermm.faces import EMOTIONS
from fermm.rundir import RunDirectory
from fermm.samples import Samples
from reliability import damage

SECONDS = 30  # of computing, for a case: not of waiting, since the machine may be busy with others
WAITING = 600  # seconds of all, after which the case is taken to wait for what never comes
MEMORY = 24 << 30  # bytes of addresses; JAX alone reserves several
RENEWED = 600  # seconds after which the process of the cases is replaced
EXAMPLES = 3  # kept of findings that look the same
EXECUTED = Path(
    "/tmp/fermm-was-executed"
)  # made by what `damage` pickles, if anything unpickles it


class Target(NamedTuple):
    """What is fed.

    Attributes:
        make: writes good inputs into an empty directory.
        spoil: damages them, in a copy of that directory.
        read: reads them.
    """

    make: Callable[[Path], None]
    spoil: Callable[[random.Random, Path], None]
    read: Callable[[Path], None]


class TooLong(BaseException):
    """A case took too long; no `except Exception` may swallow it."""


# --- Faces ---------------------------------------------------------------------------------------


def _faces(count: int) -> tuple[np.ndarray, list[int]]:
    images = np.random.default_rng(0).integers(0, 256, (count, 48, 48), np.uint8)
    return images, [i % len(EMOTIONS) for i in range(count)]


def _make_csv(where: Path) -> None:
    images, labels = _faces(6)
    lines = ["emotion,pixels,Usage"]
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        lines.append(f"{label},{' '.join(map(str, image.ravel().tolist()))},{USAGES[i % 3]}")
    (where / "input.csv").write_text("\n".join(lines) + "\n")


def _make_folders(where: Path) -> None:
    images, labels = _faces(6)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = where / "input" / ("train", "test")[i % 2] / EMOTIONS[label]
        folder.mkdir(parents=True, exist_ok=True)
        suffix = ("png", "jpg", "bmp")[i % 3]
        Image.fromarray(image).save(folder / f"{USAGES[i % 2]}_{i}.{suffix}")


def _make_zip(where: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _make_folders(Path(folder))
        shutil.make_archive(str(where / "input"), "zip", Path(folder, "input"))


def _make_packed(where: Path) -> None:
    """A zipped CSV in forms that are rarer than those of the target "csv"."""
    images, labels = _faces(6)
    lines = ["emotion;pixels;note"]
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        emotion = (EMOTIONS[label].upper(), f"{label}.0", str(label))[i % 3]
        pixels = image.ravel().tolist()
        text = (str(pixels), " ".join(map(str, pixels)), ";".join(map(str, pixels)))[i // 2]
        lines.append(f"{emotion};{text};")
    with zipfile.ZipFile(where / "input.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("fer2013/fer2013.csv", "\n".join(lines) + "\n")


def _read_faces(where: Path) -> None:
    from fermm.data import fer2013

    # A bad one first: what is refused as a whole in "quarantine" has to be so in "stop" as well.
    [path] = where.iterdir()
    fer2013.digest(path)
    faces = fer2013.read(path, on_error="quarantine")
    _check(faces)
    if not faces.rejected:
        _check(fer2013.read(path))
        return
    try:
        fer2013.read(path)
    except InputError:
        return
    raise AssertionError("accepted by 'stop' though 'quarantine' set rows aside")


def _check(faces: Samples) -> None:
    count = len(faces)
    total = count + len(faces.rejected)
    assert faces.features["images"].shape == (count, 48, 48)
    assert faces.features["images"].dtype == np.uint8
    assert set(faces.labels.tolist()) <= set(range(7))
    assert set(faces.official.tolist()) <= {-1, 0, 1, 2}
    assert len(set(faces.rows.tolist())) == count
    assert count
    assert 0 <= faces.rows.min() <= faces.rows.max() < total
    assert all("\n" not in field for pair in faces.rejected for field in pair)


def _make_landmarks(where: Path) -> None:
    from fermm.data import landmarks

    points = np.random.default_rng(0).integers(-20, 70, (6, 68, 2))
    landmarks.write_csv(where / "input.csv", points, np.arange(6))


def _read_landmarks(where: Path) -> None:
    from fermm.data import landmarks

    points, labels = landmarks.read_csv(where / "input.csv")
    assert points.shape == (len(labels), 68, 2)
    assert np.isfinite(points).all()


def _make_prepared(where: Path) -> None:
    from fermm.data import dataset

    with tempfile.TemporaryDirectory() as folder:
        _make_csv(Path(folder))
        with open(Path(folder, "input.csv"), "a") as file:
            file.write("a bad row\n")
        _make_landmarks(where)
        points = (where / "input.csv").rename(Path(folder, "points.csv"))
        points.write_text(points.read_text() + points.read_text().splitlines()[-1] + "\n")
        dataset.prepare(
            Path(folder, "input.csv"),
            cache_dir=where,
            landmarks=str(points),
            report=lambda *_: None,
            on_error="quarantine",
        )


def _read_prepared(where: Path) -> None:
    from fermm.data import dataset

    for directory in sorted(where.glob("fer2013_landmarks/*/*")):
        _check(dataset.read(directory))
        return
    raise InputError("nothing there")


# --- Runs ----------------------------------------------------------------------------------------


def _make_run(where: Path) -> None:
    from configs import synthetic
    from fermm import experiment

    config = synthetic.get_config()
    config.data.arguments.count = 200
    config.data.cache_dir = str(where / "cache")
    config.image.arguments.filters = (2, 2, 2)
    config.image.arguments.hidden = 8
    config.landmarks.arguments.hidden = (8, 8)
    config.report = False
    for name in config.networks:
        config[name].epochs = 1
    with contextlib.redirect_stdout(io.StringIO()):
        experiment.run(config.to_dict(), where / "run")


def _make_run_files(where: Path) -> None:
    _make_run(where)
    for network in ("image", "decision_fusion"):
        shutil.rmtree(where / "run" / network)
    for name in ("variables", "training"):  # what is in them is for the target "checkpoint"
        for folder in where.rglob(f"checkpoints/*/{name}"):
            shutil.rmtree(folder)
            folder.mkdir()
    config = json.loads((where / "run/config.json").read_text())
    config["networks"] = ["landmarks", "feature_fusion"]
    (where / "run/config.json").write_text(json.dumps(config))


def _spoil_run_files(rng: random.Random, where: Path) -> None:
    files = [
        path
        for path in sorted((where / "run").rglob("*"))
        if path.suffix in (".npz", ".json", ".csv") and "checkpoints" not in path.parts
    ]
    for file in rng.sample(files, rng.choice((1, 1, 2))):
        damage.damage_file(rng, file)


def _read_run_files(where: Path) -> None:
    from configs import synthetic
    from fermm.evaluate import assess, run, table, write
    from fermm.experiment import config as run_config
    from fermm.experiment import directory

    error: InputError | None = None
    try:
        directory.check(
            run_config.read(synthetic.get_config().to_dict()), RunDirectory(where / "run")
        )
    except InputError as refused:  # as it is if the config is still readable: it is another one
        error = refused
    found = run.load(where / "run")
    assert error is None or "a run with another config" in str(error)
    write.metrics(found)
    table.accuracies(found).text()
    assess.assess(found)


def _make_checkpoint(where: Path) -> None:
    _make_run(where)
    kept = where / "run/feature_fusion"
    kept.rename(where / "input")
    shutil.rmtree(where / "run")


def _read_checkpoint(where: Path) -> None:
    import fermm

    fermm.restore(where / "input")


# --- The command line ----------------------------------------------------------------------------


def _make_arguments(where: Path) -> None:
    (where / "arguments.json").write_text("[]")


_VALUES = (
    *("", "0", "-1", "3", "1.5", "1e999", "nan", "inf", "True", "None", "x", "'x'", "()", "(0,)"),
    *("(0, 0)", "(1, 'x')", "[3]", "{}", "{'a': 1}", "('image',)", "('landmarks', 'x')", "[" * 300),
    *("paper", "official", "~nobody-here/x", "/dev/null", "\u2028", "é", "a\nb", "9" * 5000, "1,2"),
    *("(True,)", "(None,)", "((0,),)", "(2147483648,)", "synthetic", "fer2013", "step", "bfloat16"),
    *("((((((((((", "__import__('os').system('touch /tmp/fermm-was-executed')", "lambda: 0", "-"),
    *("quarantine", "1_000", "0x10", "0b1", "b'x'", "...", "{0}", "(1,", "'", '"', "\\", "test"),
)
_WAYS = ("--config.{}={}", "--config.{}={}", "--config.{}={}", "-config.{}={}", "--noconfig.{}")


def _spoil_arguments(rng: random.Random, where: Path) -> None:
    from configs import paper, synthetic

    def paths(section: dict[str, Any], prefix: str = "") -> Iterator[str]:
        for key, value in section.items():
            yield f"{prefix}{key}"
            if isinstance(value, dict):
                yield from paths(value, f"{prefix}{key}.")

    config = rng.choice((paper, synthetic))
    fields = list(paths(config.get_config().to_dict()))
    argv = [] if config is synthetic else ["--config", "configs/paper.py"]
    for _ in range(rng.choice((1, 1, 2, 3))):
        field = rng.choice(fields)
        if rng.random() < 0.1:
            field = damage.damage_bytes(rng, field.encode()).decode(errors="replace")[:200]
        value = rng.choice(_VALUES)
        if rng.random() < 0.2:
            value = damage.damage_bytes(rng, value.encode()).decode(errors="replace")[:6000]
        argv += [rng.choice(_WAYS).format(field, value)]
        if rng.random() < 0.05:
            argv += [
                rng.choice(("--config.seeds", "--workdir", "x", "--", "--help", "--flagfile=x"))
            ]
    (where / "arguments.json").write_text(json.dumps([a.replace("\0", "") for a in argv]))


def _read_arguments(where: Path) -> None:
    from fermm.experiment import config as run_config

    config = parse(json.loads((where / "arguments.json").read_text()))
    if config is not None:
        run_config.read(config)


def parse(arguments: list[str]) -> dict[str, Any] | None:
    """What launch.py makes of its arguments, in this process: the config, or None for --help.

    Raises:
        InputError: it refuses them; with what it prints.
    """
    from absl import flags

    import launch

    argv = ["launch.py", *arguments]
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "The run's directory.", flag_values=values)
    err = io.StringIO()
    with (
        mock.patch.object(flags, "FLAGS", values),
        mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(err),
    ):
        try:
            launch._parse_flags(list(argv))
        except SystemExit as end:
            if end.code == 0:
                return None
            text = err.getvalue()
            assert text.startswith("launch.py: "), text
            raise InputError(text.removeprefix("launch.py: ").removesuffix("\n")) from None
    return values["config"].value.to_dict()


def _spoil_tree(rng: random.Random, where: Path) -> None:
    damage.damage_tree(rng, where)


def _spoil_input(rng: random.Random, where: Path) -> None:
    [path] = where.iterdir()
    damage.damage_file(rng, path)


def _spoil_pictures(rng: random.Random, where: Path) -> None:
    damage.damage_tree(rng, where / "input")


TARGETS = {
    "csv": Target(_make_csv, _spoil_input, _read_faces),
    "folders": Target(_make_folders, _spoil_pictures, _read_faces),
    "zip": Target(_make_zip, _spoil_input, _read_faces),
    "packed": Target(_make_packed, _spoil_input, _read_faces),
    "landmarks": Target(_make_landmarks, _spoil_input, _read_landmarks),
    "prepared": Target(_make_prepared, _spoil_tree, _read_prepared),
    "run": Target(_make_run_files, _spoil_run_files, _read_run_files),
    "overrides": Target(_make_arguments, _spoil_arguments, _read_arguments),
    "checkpoint": Target(_make_checkpoint, _spoil_tree, _read_checkpoint),
}


# --- Cases ---------------------------------------------------------------------------------------


def work(
    names: list[str], seed: int, begun: dict[str, int], scratch: Path, reports: Connection
) -> None:
    """Runs cases until the process is ended; reports target, number, outcome, text and seconds.

    The target with the least computing so far has the next case, so that all have about as much.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    faulthandler.enable(open(scratch / "crash.txt", "w"))  # noqa: SIM115, for as long as the process
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)  # what C++ libraries say of damaged files

    def stop(*_: object) -> None:
        raise TooLong(f"computed for over {SECONDS} s, or waited for {WAITING} s")

    for alarm in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(alarm, stop)
    shutil.rmtree(scratch / "case", ignore_errors=True)  # of the process before
    for name in names:  # imports and compiles; a case that ended in an import would spoil the rest
        shutil.copytree(scratch / "good" / name, scratch / "case", symlinks=True)
        TARGETS[name].read(scratch / "case")
        shutil.rmtree(scratch / "case")
    spent = dict.fromkeys(names, 0.0)
    while True:
        name = min(spent, key=spent.__getitem__)
        number, target, case = begun[name], TARGETS[name], scratch / "case"
        begun[name] += 1
        shutil.rmtree(case, ignore_errors=True)
        reports.send((name, number, "begun", "", 0.0))
        faulthandler.dump_traceback_later(2 * WAITING, exit=True)  # where no signal is heeded
        signal.setitimer(signal.ITIMER_REAL, WAITING)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        start, text = time.process_time(), ""
        try:
            prepare(scratch / "good", name, seed, number, case)
            target.read(case)
            outcome = "accepted"
        except InputError as error:
            outcome = "refused"
            if not str(error).isprintable():
                outcome, text = "finding", f"not one line: {error!r}\n{traceback.format_exc()}"
        except BaseException:
            outcome, text = "finding", traceback.format_exc()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.setitimer(signal.ITIMER_PROF, 0)
            faulthandler.cancel_dump_traceback_later()
        if EXECUTED.exists():
            EXECUTED.unlink()
            outcome, text = "finding", "code in the input was executed\n"
        seconds = time.process_time() - start
        spent[name] += seconds
        reports.send((name, number, outcome, text, seconds))


def prepare(good: Path, name: str, seed: int, number: int, case: Path) -> None:
    """Writes the input of a case, always the same, to the new directory `case`."""
    shutil.copytree(good / name, case, symlinks=True)
    TARGETS[name].spoil(random.Random(f"{seed}/{name}/{number}"), case)


class Findings:
    """What was found, kept in a folder."""

    def __init__(self, good: Path, seed: int, out: Path) -> None:
        self._good, self._seed, self._out = good, seed, out
        self._alike: collections.Counter[tuple[str, str]] = collections.Counter()

    def add(self, name: str, number: int, text: str) -> None:
        """Keeps the input and what came of it; of those that look the same, EXAMPLES."""
        places = [line.strip() for line in text.splitlines() if line.startswith("  File ")]
        own = [line for line in places if "/fermm/" in line or "launch.py" in line]
        last = (text.strip().splitlines() or ["nothing"])[-1]
        alike = (name, f"{last.split(':')[0]} {(own or places or [''])[-1]}")
        self._alike[alike] += 1
        if self._alike[alike] > EXAMPLES:
            return
        folder = self._out / f"{name}_{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "traceback.txt").write_text(text, errors="backslashreplace")
        prepare(self._good, name, self._seed, number, folder / "input")
        print(f"finding: {name} {number}: {last[:200]}; see {folder}", flush=True)


def fuzz(names: list[str], minutes: float, seed: int, out: Path, first: int) -> bool:
    """Runs cases for so many minutes and prints what came of them.

    Returns:
        Whether nothing was found.
    """
    context = multiprocessing.get_context("spawn")
    counts: dict[str, collections.Counter[str]] = {n: collections.Counter() for n in names}
    begun = dict.fromkeys(names, first)
    with tempfile.TemporaryDirectory(prefix="fermm-fuzz-") as folder:
        scratch = Path(folder)
        findings = Findings(scratch / "good", seed, out)
        for name in names:
            (scratch / "good" / name).mkdir(parents=True)
            TARGETS[name].make(scratch / "good" / name)
        start = told = time.monotonic()
        computed = 0.0
        end = start + 60 * minutes
        while time.monotonic() < end:
            reports, sender = context.Pipe(duplex=False)
            process = context.Process(
                target=work, args=(names, seed, begun, scratch, sender), daemon=True
            )
            process.start()
            sender.close()
            until = end
            name, number, outcome, text = "", 0, "", ""
            with contextlib.suppress(EOFError):  # it has crashed
                while time.monotonic() < until or outcome == "begun":
                    if not reports.poll(1.0):
                        continue
                    if not outcome:  # from its first case on: until then it imports and compiles
                        until = min(end, time.monotonic() + RENEWED)
                    name, number, outcome, text, seconds = reports.recv()
                    computed += seconds
                    begun[name] = number + 1
                    if outcome != "begun":
                        counts[name]["cases"] += 1
                        counts[name][outcome] += 1
                    if outcome == "finding":
                        findings.add(name, number, text)
                    if time.monotonic() > told + 300:
                        told = time.monotonic()
                        minutes_so_far = (told - start) / 60
                        print(
                            f"\nAfter {minutes_so_far:.0f} minutes:\n{_table(counts)}", flush=True
                        )
            if outcome == "begun":
                process.join()
                counts[name]["cases"] += 1
                counts[name]["finding"] += 1
                crash = (scratch / "crash.txt").read_text()
                text = f"{crash}\nthe process ended with {process.exitcode}"
                findings.add(name, number, text)
            process.kill()
            process.join()
            if not outcome and time.monotonic() < end:
                raise RuntimeError("a process ended before its first case: an input is not good")
        took = (time.monotonic() - start) / 60
    of = f"{took:.1f} minutes, of which {computed:.0f} s of computing in the cases"
    print(f"\nSeed {seed}, {of}:\n{_table(counts)}", flush=True)
    return not any(count["finding"] for count in counts.values())


def _table(counts: dict[str, collections.Counter[str]]) -> str:
    columns = ("cases", "accepted", "refused", "finding")
    rows = [[name, *(count[column] for column in columns)] for name, count in counts.items()]
    rows.append(["all", *(sum(count[c] for count in counts.values()) for c in columns)])
    lines = [f"{'target':12}" + "".join(f"{column:>10}" for column in columns)]
    lines += [f"{row[0]:12}" + "".join(f"{x:>10,}" for x in row[1:]) for row in rows]
    return "\n".join(lines)


def main() -> None:
    """Reads the command line and fuzzes."""
    parser = argparse.ArgumentParser(
        prog="python -m reliability.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=[*TARGETS])
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--out", type=Path, default=Path("findings"), help="where they are kept")
    arguments = parser.parse_args()
    good = fuzz(
        arguments.targets, arguments.minutes, arguments.seed, arguments.out, arguments.first
    )
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()

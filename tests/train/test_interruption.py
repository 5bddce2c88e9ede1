"""A training that is stopped anywhere, and goes on, ends in the same bits."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fermm import config as config_lib
from fermm import experiment, rundir
from fermm.errors import InputError
from fermm.experiment import config as run_config
from fermm.experiment import directory as directory_lib
from fermm.rundir import Position, RunDirectory
from fermm.train import checkpoint, loop, steps, training, updates
from fermm.train.schedules import SCHEDULES
from fermm.train.stop import Stopped
from helpers.trainings import (
    StopAfter,
    assert_identical,
    make_job,
    make_jobs,
    small_config,
    with_config,
    without_seconds,
)
from reliability import kills

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two epochs of six steps, undisturbed; made in whole epochs, not in chunks of one step."""
    job = job_in(tmp_path_factory.mktemp("whole"))
    [result] = loop.fit([job])
    return result, checkpoint.read(job.directory / "checkpoints" / "2", training=True)


def job_in(directory):
    schedule = {"kind": "plateau", "factor": 0.5, "patience": 1, "min_delta": 10.0}
    spec = {"model": "nn2", "arguments": {}}
    return make_job(directory, spec, (".*",), epochs=2, schedule=schedule)


# Six steps, a look after each; one before the only batch of validation (6, 13); and again.
@pytest.mark.parametrize("looks", [0, 5, 6, 9, 13])
def test_stopped_after_any_step_and_in_validation(whole, tmp_path, monkeypatch, looks):
    monkeypatch.setattr(training, "CHUNK_SECONDS", 1e-9)
    job = job_in(tmp_path)
    with pytest.raises(Stopped):
        loop.fit([job], stop=StopAfter(looks))
    epoch, steps = divmod(looks, 7)
    # Asked in validation, all steps of the epoch are done.
    position = Position(epoch, min(steps + 1, 6))
    assert rundir.positions(tmp_path / "checkpoints")[-1] == position
    # Even the checkpoint before it is none of a complete epoch until that is validated.
    assert rundir.epochs(tmp_path / "checkpoints") == list(range(1, epoch + 1))
    [(variables, history)] = loop.fit([job])
    (expected, expected_history), saved = whole
    assert_identical(variables, expected)
    assert without_seconds(history) == without_seconds(expected_history)
    again = checkpoint.read(tmp_path / "checkpoints" / "2", training=True)
    assert_identical(again.training, saved.training)
    assert [p.name for p in rundir.positions(tmp_path / "checkpoints")] == ["1", "2"]


def test_stopped_where_it_was_stopped_before(tmp_path, monkeypatch):
    """No moment without that checkpoint: there may be no other."""
    monkeypatch.setattr(training, "CHUNK_SECONDS", 1e-9)
    job, directory = job_in(tmp_path), tmp_path / "checkpoints" / "0+6"
    with pytest.raises(Stopped):
        loop.fit([job], stop=StopAfter(6))
    before = directory.stat().st_ino
    with pytest.raises(Stopped):
        loop.fit([job], stop=StopAfter(0))
    assert directory.stat().st_ino == before
    assert rundir.find_damage(directory) == ""


def test_all_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    """A power cut keeps what was brought to the disk, and of the rest perhaps the names alone."""
    on_disk, renamed = {}, []
    fsync, replace = os.fsync, os.replace

    def note(handle):
        fsync(handle)
        of = os.fstat(handle)
        on_disk[of.st_ino] = (of.st_size, of.st_mtime_ns)

    def check(source, target):
        source = pathlib.Path(source)
        for path in [source, *source.rglob("*")]:
            of = path.stat()
            now = (of.st_size, of.st_mtime_ns)
            assert ".removing" in str(target) or on_disk.get(of.st_ino) == now, path
        replace(source, target)
        renamed.append(pathlib.Path(target).name)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "replace", check)
    experiment.run(small_config(networks=("landmarks",), landmarks__epochs=4), tmp_path / "run")
    assert {"config.json", "history.csv", "metrics.json", "samples.npz", "1", "4"} <= {*renamed}
    left = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    others = [path for path in left if not set(path.relative_to(tmp_path).parts) & {*renamed}]
    assert [path.name for path in others] == ["lock"]


@pytest.mark.slow
def test_the_learning_rate_of_an_epoch_that_was_stopped_at_its_last_step(tmp_path, monkeypatch):
    """The next update has another one already."""
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    job = job_in(tmp_path / "cut")
    schedule = {"kind": "step", "factor": 0.5, "epochs": (1,)}
    job = with_config(job, schedule=config_lib.read_kind(SCHEDULES, schedule, "config.schedule"))
    [(_, expected)] = loop.fit([job._replace(directory=tmp_path / "whole")])
    assert [row["learning_rate"] for row in expected] == [1e-3, 5e-4]
    monkeypatch.setattr(training, "CHUNK_SECONDS", 1e-9)
    with pytest.raises(Stopped):
        loop.fit([job], stop=StopAfter(5))
    [(_, history)] = loop.fit([job])
    assert without_seconds(history) == without_seconds(expected)


@pytest.mark.slow
def test_stopped_again_and_again(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHUNK_SECONDS", 1e-9)
    job, reached = job_in(tmp_path), []
    for _ in range(12):
        try:
            [(variables, history)] = loop.fit([job], stop=StopAfter(1))
            break
        except Stopped:
            reached.append(rundir.positions(tmp_path / "checkpoints")[-1].name)
    assert reached == ["0+2", "0+4", "0+6", "1+1", "1+3", "1+5", "1+6"]
    assert_identical(variables, whole[0][0])
    assert without_seconds(history) == without_seconds(whole[0][1])


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory):
    """Two seeds trained at once, undisturbed."""
    return loop.fit(make_jobs(tmp_path_factory.mktemp("two_seeds"), (0, 1), epochs=2))


@pytest.mark.slow
def test_seeds_trained_at_once_stop_and_go_on_together(two_seeds, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "CHUNK_SECONDS", 1e-9)
    jobs = make_jobs(tmp_path / "cut", (0, 1), epochs=2)
    with pytest.raises(Stopped):
        loop.fit(jobs, stop=StopAfter(9))
    capsys.readouterr()
    resumed = loop.fit(jobs)
    assert "seeds 0, 1: goes on after step 2 of epoch 2 of 2" in capsys.readouterr().out
    for (variables, history), (want, want_history) in zip(resumed, two_seeds, strict=True):
        assert_identical(variables, want)
        assert without_seconds(history) == without_seconds(want_history)


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.slow
@pytest.mark.parametrize("position", ["0+1", "0+3", "1", "1+1", "1+4", "2"])
def test_seeds_killed_while_only_one_has_its_checkpoint(two_seeds, tmp_path, monkeypatch, position):
    jobs = make_jobs(tmp_path / "cut", (0, 1), epochs=2)
    write = checkpoint._write

    def killed(directory, at, saved):
        if at.name == position and directory.parent == jobs[1].directory:
            raise Killed
        write(directory, at, saved)

    with monkeypatch.context() as patch:
        patch.setattr(training, "CHUNK_SECONDS", 1e-9)
        patch.setattr(checkpoint, "_write", killed)
        with pytest.raises(Killed):
            loop.fit(jobs, checkpoint_minutes=1e-12)
    assert (jobs[0].directory / "checkpoints" / position).exists()
    for (variables, history), (want, want_history) in zip(loop.fit(jobs), two_seeds, strict=True):
        assert_identical(variables, want)
        assert without_seconds(history) == without_seconds(want_history)


def test_other_data_are_refused_by_the_checkpoint_itself(tmp_path):
    config = small_config(networks=("landmarks",))
    config["landmarks"]["epochs"] = 1
    experiment.run(config, tmp_path / "run")
    (tmp_path / "run" / "data.json").unlink()  # which would have told
    (tmp_path / "run" / "config.json").unlink()
    config["data"]["arguments"]["seed"] += 1
    config["landmarks"]["epochs"] = 2
    rundir.write_json(tmp_path / "run" / "config.json", config)
    with pytest.raises(InputError, match=r"checkpoints/1: was trained on other data; choose"):
        experiment.run(config, tmp_path / "run")


def test_a_history_that_lost_a_row_is_written_again(tmp_path):
    config = small_config(networks=("landmarks",))
    experiment.run(config, tmp_path / "run")
    file = tmp_path / "run" / "landmarks" / "seed_0" / "history.csv"
    whole = file.read_text()
    file.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    experiment.run(config, tmp_path / "run")
    assert file.read_text() == whole


def test_a_run_directory_as_a_kill_leaves_it_at_the_start(tmp_path):
    config = small_config()
    for name in ("lock", "config.json.tmp"):
        (tmp_path / name).write_text("{")
    directory_lib.check(run_config.read(config), RunDirectory(tmp_path))
    (tmp_path / "report.html.tmp").write_text("<")
    with pytest.raises(InputError, match="not empty"):
        directory_lib.check(run_config.read(config), RunDirectory(tmp_path))
    (tmp_path / "lock").unlink()
    (tmp_path / "config.json.tmp").unlink()
    directory_lib.check_for_splits(RunDirectory(tmp_path))


def test_a_signal_while_it_starts(tmp_path):
    child = subprocess.Popen(
        [sys.executable, ROOT / "launch.py", "--workdir", tmp_path / "run"],
        stderr=subprocess.PIPE,
        text=True,
    )
    status = pathlib.Path(f"/proc/{child.pid}/status")
    caught = 0
    while not caught & 1 << (signal.SIGTERM - 1):  # by it, and no more by the system
        caught = int(re.search(r"SigCgt:\s*(\w+)", status.read_text())[1], 16)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=30)
    assert (child.returncode, said) == (130, "launch.py: stopped\n")


def test_checkpoints_within_an_epoch_as_often_as_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHUNK_SECONDS", 1e-9)
    saved = []
    save = checkpoint.Writer.save
    monkeypatch.setattr(
        checkpoint.Writer, "save", lambda self, p, c: (saved.append(p.name), save(self, p, c))[1]
    )
    loop.fit([job_in(tmp_path)], checkpoint_minutes=1e-12)
    assert saved == [*(f"0+{i}" for i in range(1, 7)), "1", *(f"1+{i}" for i in range(1, 7)), "2"]


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path):
    """The square of a gradient overflows, and the weight would be frozen without a word."""
    job = job_in(tmp_path)
    job.train.inputs["landmarks"][7] = 1e38
    job = with_config(job, learning_rate=1e-30)
    with pytest.raises(InputError) as error:
        loop.fit([job._replace(task=job.task._replace(class_weights=np.full(7, 1e30, np.float32)))])
    assert re.fullmatch(
        r"network, seed 0: (the loss is (nan|inf)|a parameter, a gradient or its square is not a "
        r"finite number) by step \d of epoch 1; no checkpoint yet; a lower "
        "config.network.learning_rate may help, config.debug_nans finds what makes a NaN",
        str(error.value),
    )
    assert rundir.positions(tmp_path / "checkpoints") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("transform", "gradient"),
    [
        (optax.sgd(1e-3, momentum=0.9), np.nan),
        (optax.lion(1e-3), 1e25),  # which takes the sign of it
        (optax.chain(optax.zero_nans(), optax.sgd(1e-3)), np.nan),
    ],
    ids=["sgd", "lion", "zero_nans"],
)
def test_whatever_the_optimiser(tmp_path, monkeypatch, transform, gradient):
    """It is the gradients that are looked at; of one weight in thousands, in one step of many."""
    made = updates.Updates(
        optax.with_extra_args_support(transform), lambda state, _: state, lambda _: np.float64(1)
    )
    monkeypatch.setattr(updates, "make", lambda *_: made)
    make_loss, steps_with_it = steps.make_loss, [False]

    def with_a_bad_gradient(*args):
        loss = make_loss(*args)

        def bad(params, frozen, batch_stats, data, mask, streams):
            value, rest = loss(params, frozen, batch_stats, data, mask, streams)
            weight = params["dense2"]["kernel"][3, 4]
            # Of a gradient alone, not of the loss; only in the last step, whose batch is padded.
            factor = jnp.where(mask.all(), 0.0, gradient if steps_with_it[0] else 0.0)
            return value + (weight - jax.lax.stop_gradient(weight)) * factor, rest

        return bad

    monkeypatch.setattr(steps, "make_loss", with_a_bad_gradient)
    for steps_with_it[0] in (False, True):
        job = job_in(tmp_path)._replace(directory=tmp_path / str(steps_with_it[0]))
        job.directory.mkdir()
        if not steps_with_it[0]:
            loop.fit([job])  # all is well
            continue
        with pytest.raises(
            InputError, match=r"a parameter, a gradient or its square is not a finite number by"
        ):
            loop.fit([job])


def launch(*arguments):
    return subprocess.Popen(
        [sys.executable, ROOT / "launch.py", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_within_three_seconds(tmp_path, number, code):
    process = launch(
        "--config.data.arguments.count=2000",
        "--config.networks=('landmarks',)",
        "--config.landmarks.epochs=10000",
        f"--workdir={tmp_path / 'run'}",
    )
    for line in process.stdout:
        if "epoch  3/" in line or "epoch     3/" in line:
            break
    asked = time.monotonic()
    process.send_signal(number)
    said, errors = process.communicate(timeout=30)
    assert time.monotonic() - asked < 3
    assert process.returncode == code
    assert errors == "launch.py: stopped; the same command goes on after the last checkpoint\n"
    written = re.search(r"checkpoint of (.*) written", said)[1]
    kept = rundir.positions(tmp_path / "run" / "landmarks" / "seed_0" / "checkpoints")
    assert str(kept[-1]) == written
    assert not list((tmp_path / "run").rglob("*.writing"))


IN_A_DESTRUCTOR = """
import os, signal, time
from fermm.train.stop import Stop

class Last:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)

with Stop():
    Last()
    time.sleep(30)
"""


def test_a_signal_that_finds_the_interpreter_in_a_destructor():
    start = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", IN_A_DESTRUCTOR],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 143
    assert result.stderr == (
        "launch.py: stopped at once; the same command goes on after the last checkpoint\n"
    )
    assert time.monotonic() - start < 20


def test_a_process_that_cannot_hear_is_ended(tmp_path):
    """The interpreter is kept busy, as it is by a compilation."""
    script = """
import ctypes, os, signal, sys, time
from fermm.train.stop import Stop
with Stop() as stop:
    with stop.deferred():
        print("deaf", flush=True)
        ctypes.CDLL(None).usleep(30_000_000) or ctypes.CDLL(None).sleep(60)
        while True:
            pass
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "deaf\n"
    asked = time.monotonic()
    process.terminate()
    _, errors = process.communicate(timeout=30)
    assert 2 < time.monotonic() - asked < 3
    assert process.returncode == 143
    assert (
        errors == "launch.py: stopped at once; the same command goes on after the last checkpoint\n"
    )


@pytest.mark.long
@pytest.mark.slow
def test_five_kills_change_no_bit(tmp_path, capsys):
    """The short form of what docs/reliability.md tells of."""
    kills.main(
        [
            *("--kills", "5", "--chain", "--out", str(tmp_path / "kills"), "--"),
            "--config.data.arguments.count=330",
            "--config.image.epochs=2",
            "--config.landmarks.epochs=3",
            "--config.decision_fusion.epochs=2",
            "--config.feature_fusion.epochs=2",
            "--config.image.arguments.hidden=16",
        ]
    )
    assert "1 of 1 ended in the same bits as the undisturbed run" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "kills" / "reference" / "metrics.json").read_text())
    assert len(metrics) == 4

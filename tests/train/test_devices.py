"""One device, eight, and two processes of four: the same training."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
from flax import traverse_util

from fermm import rundir
from fermm.train import checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.long]
TESTS = pathlib.Path(__file__).parents[1]


JOBS = {
    "landmarks_float32": 1e-5,
    "everything_float32": 1e-5,
    "landmarks_float64": 1e-8,
    "image_float32": 1e-5,
}
"""What tests/helpers/on_devices.py trains, and by how much parameters may differ."""


def start(out, jobs, devices, parallel, *process):
    arguments = (out, ",".join(jobs), devices, parallel, *process)
    return subprocess.Popen(
        [sys.executable, TESTS / "helpers" / "on_devices.py", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(TESTS.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes):
    for process in processes:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said


def two_processes(out, jobs, parallel):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    finish(*(start(out, jobs, 4, parallel, i, 2, port) for i in range(2)))


def compare(a, b, job, atol):
    with np.load(a / f"{job}.npz") as found, np.load(b / f"{job}.npz") as expected:
        assert set(found) == set(expected)
        for key in found:
            np.testing.assert_allclose(found[key], expected[key], rtol=0, atol=atol, err_msg=key)
    histories = (json.loads((x / f"{job}.json").read_text()) for x in (a, b))
    for found, expected in zip(*histories, strict=True):
        for row, other in zip(found, expected, strict=True):
            for column in ("epoch", "accuracy", "val_accuracy", "learning_rate"):
                assert row[column] == other[column]
            for column in ("loss", "val_loss"):
                assert row[column] == pytest.approx(other[column], rel=1e-5)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("devices") / "one"
    finish(start(out, [*JOBS, "seeds_3"], 1, "none"))
    return out


def test_eight_devices_share_each_batch(alone, tmp_path):
    finish(start(tmp_path, JOBS, 8, "batch"))
    for job, atol in JOBS.items():
        compare(tmp_path, alone, job, atol)


def test_two_processes_share_each_batch(alone, tmp_path):
    jobs = {k: v for k, v in JOBS.items() if k != "image_float32"}
    two_processes(tmp_path, jobs, "batch")
    for job, atol in jobs.items():
        compare(tmp_path, alone, job, atol)
        written_together(tmp_path, job)


def test_processes_of_another_config_are_refused(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["--processes=2", f"--coordinator=127.0.0.1:{port}", f"--workdir={tmp_path / 'run'}"]
    processes = [
        subprocess.Popen(
            [sys.executable, TESTS.parent / "launch.py", *flags, f"--process={i}", seeds],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i, seeds in enumerate(("--config.seeds=(0,)", "--config.seeds=(1,)"))
    ]
    for i, process in enumerate(processes):
        _, said = process.communicate(timeout=100)
        assert process.returncode == 1
        assert said.splitlines()[-1] == (
            f"launch.py: process {i}: not all processes were given the same config: use the same "
            "flags"
        )
    assert not (tmp_path / "run").exists()


def written_together(out, job):
    """The last checkpoint holds the result, of which each process wrote about half."""
    directory = out / job / "checkpoints"
    path = directory / rundir.positions(directory)[-1].name
    found = traverse_util.flatten_dict(checkpoint.read(path).variables, sep="/")
    with np.load(out / f"{job}.npz") as expected:
        assert {f"0/{k}" for k in found} == set(expected)
        for key in found:
            np.testing.assert_array_equal(found[key], expected[f"0/{key}"], strict=True)
    parts = [
        sum(f.stat().st_size for f in path.glob(f"variables/ocdbt.process_{i}/d/*")) for i in (0, 1)
    ]
    assert min(parts) > sum(parts) / 4


def test_checkpoints_move_between_devices_and_processes(alone, tmp_path):
    """An epoch on two devices, one on four of eight, and one in two processes."""
    finish(start(tmp_path, ["seeds_1"], 2, "batch"))
    finish(start(tmp_path, ["seeds_2"], 8, "seeds"))
    two_processes(tmp_path, ["seeds_3"], "batch")
    compare(tmp_path, alone, "seeds_3", 1e-5)

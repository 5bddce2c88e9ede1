"""What the machine and its settings may not change, and what is said where something is missing."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import fermm
from fermm import experiment, paths, rundir
from fermm.data import synthetic
from fermm.experiment import config as run_config
from fermm.train import checkpoint, devices
from helpers.trainings import assert_identical, small_config

ROOT = pathlib.Path(__file__).parent.parent
CONFIG = small_config(networks=("landmarks", "image", "decision_fusion"))
IN_FLOAT64 = """
import json, shutil, sys
import jax
assert jax.config.jax_enable_x64
import numpy as np
import fermm
from fermm import experiment
from fermm.data import synthetic
config, out = json.loads(sys.argv[1]), sys.argv[2]
experiment.run(config, out)
shutil.rmtree(f"{out}/landmarks/seed_0/checkpoints/2")
experiment.run(config, out)
faces = synthetic.draw(5, 1)
network = fermm.restore(out, "decision_fusion")
np.save(f"{out}/predicted.npy", network.predict(**faces.features))
assert jax.numpy.zeros(1).dtype == "float64"  # for the program itself it stays on
"""


@pytest.mark.slow
def test_with_x64_a_run_has_the_same_bits(finished, tmp_path):
    """It is trained, goes on after a lost checkpoint, and is restored."""
    run = subprocess.run(
        [sys.executable, "-c", IN_FLOAT64, json.dumps(CONFIG), str(tmp_path / "wide")],
        env=os.environ | {"JAX_ENABLE_X64": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "landmarks, seed 0: goes on after epoch 1 of 2" in run.stdout
    checked = 0
    for there in (tmp_path / "wide").glob("*/seed_0/checkpoints/*"):
        plain = finished / there.relative_to(tmp_path / "wide")
        expected, found = (checkpoint.read(path, training=True) for path in (plain, there))
        assert_identical(expected[:2], found[:2])
        kinds = {x.dtype for x in jax.tree.leaves(found[:2])}
        assert kinds == {np.dtype("float32"), np.dtype("int32")}
        checked += 1
    assert checked == 6  # of two epochs each
    faces = synthetic.draw(5, 1)
    network = fermm.restore(finished, "decision_fusion")
    expected = network.predict(faces.features["images"], faces.features["landmarks"])
    found = np.load(tmp_path / "wide" / "predicted.npy")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    # Set by the program after the network was restored.
    jax.config.update("jax_enable_x64", True)
    try:
        np.testing.assert_array_equal(
            network.predict(faces.features["images"], faces.features["landmarks"]), expected
        )
        network = fermm.restore(finished, "decision_fusion")
        np.testing.assert_array_equal(
            network.predict(faces.features["images"], faces.features["landmarks"]), expected
        )
    finally:
        jax.config.update("jax_enable_x64", False)


@pytest.mark.parametrize("backend", ["cuda", "cdua"])
def test_a_backend_that_is_missing_is_named(tmp_path, backend):
    kept = ROOT / "tests" / f"checkpoint_format_{rundir.FORMAT}" / "1"
    code = f"import fermm; fermm.restore({str(kept)!r})"
    launch = (ROOT / "launch.py", "--workdir", tmp_path / "run")
    for command in (("-c", code), launch):
        run = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=ROOT,
            env=os.environ | {"JAX_PLATFORMS": backend},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 1
        last = run.stderr.splitlines()[-1]
        assert f"JAX cannot use the backend '{backend}' (" in last
        assert last.endswith(
            "): set JAX_PLATFORMS to one that this machine has, such as cpu, or unset it"
        )
        assert "damaged" not in run.stderr
    assert run.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_backend_that_is_there(monkeypatch):
    devices.require_backend()
    monkeypatch.setattr(jax, "devices", lambda: (_ for _ in ()).throw(AssertionError))
    with pytest.raises(fermm.InputError, match=r"backend .* \(no such device was found\): set JAX"):
        devices.require_backend()


@pytest.fixture
def nobody(monkeypatch):
    """As in a container that runs as any number."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 12345)


def test_without_a_home_directory(nobody, tmp_path):
    message = (
        "~/.cache/fermm: this user has no home directory: set HOME, or write the path out (the "
        "cache's is config.data.cache_dir)"
    )
    for call in (
        lambda: paths.expand("~/.cache/fermm"),
        lambda: run_config.read({**CONFIG, "data": {"source": "fer2013", "path": "x.csv"}}),
    ):
        with pytest.raises(fermm.InputError) as caught:
            call()
        assert str(caught.value) == message
    with pytest.raises(fermm.InputError, match=r"~nobody-here/x: no such user; write the path out"):
        paths.expand("~nobody-here/x")
    assert paths.expand(tmp_path) == tmp_path


def test_synthetic_faces_need_no_home_directory(nobody, tmp_path):
    config = {**CONFIG, "networks": ("landmarks",)}
    config["landmarks"] = {**config["landmarks"], "epochs": 1}
    experiment.run(config, tmp_path / "run")
    assert fermm.restore(tmp_path / "run", "landmarks").meta["epoch"] == 1


# ---- Only a failed checksum is damage


def test_what_cannot_be_read_here_is_not_called_damaged(tmp_path, monkeypatch):
    kept = ROOT / "tests" / f"checkpoint_format_{rundir.FORMAT}" / "1"
    copy = shutil.copytree(kept, tmp_path / "1")

    def fail(path):
        raise RuntimeError("no device\nand much more")

    monkeypatch.setattr(checkpoint, "_read_arrays", fail)
    with pytest.raises(fermm.InputError) as caught:
        fermm.restore(copy)
    versions = ", ".join(f"{k} {v}" for k, v in rundir.read_meta(copy)["versions"].items())
    assert str(caught.value) == (
        f"{copy}: cannot be read here (RuntimeError: no device), although its files are as they "
        f"were written; use the versions that wrote it ({versions})"
    )


def test_a_file_that_may_not_be_read_is_not_set_aside(tmp_path, monkeypatch):
    kept = ROOT / "tests" / f"checkpoint_format_{rundir.FORMAT}" / "1"
    copy = shutil.copytree(kept, tmp_path / "checkpoints" / "1")

    def denied(file):
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(rundir, "_sha256", denied)
    with pytest.raises(fermm.InputError) as caught:
        checkpoint.set_damaged_aside(tmp_path / "checkpoints")
    assert "damaged" not in str(caught.value)
    assert str(caught.value).endswith(
        "cannot be read: Permission denied; see to that, and try again"
    )
    assert copy.is_dir()

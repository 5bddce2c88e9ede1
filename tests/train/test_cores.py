"""config.parallel = "cores": seeds that are trained at the same time, each as if it were alone."""

import json
import shutil
import threading

import jax
import numpy as np
import pytest

from fermm import experiment, rundir
from fermm.errors import InputError
from fermm.rundir import Position
from fermm.train import checkpoint, devices, loop, resuming, training
from fermm.train.stop import Stopped
from helpers.trainings import (
    StopAfter,
    assert_identical,
    make_jobs,
    small_config,
    without_seconds,
)

SEEDS = (3, 4, 5)


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(devices, "cores", lambda: 2)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Each seed trained by itself."""
    directory = tmp_path_factory.mktemp("alone")
    return [loop.fit([job])[0] for job in make_jobs(directory, SEEDS)]


def assert_as_alone(results, alone):
    for (variables, history), (expected, expected_history) in zip(results, alone, strict=True):
        assert_identical(variables, expected)
        assert without_seconds(history) == without_seconds(expected_history)


def go_on(jobs, parallel):
    """As a run called again does; one result for each job."""
    directories = {job.seed: job.directory / "checkpoints" for job in jobs}
    groups = resuming.groups(directories, 3, devices.trains_apart(parallel))
    by_seed = {job.seed: job for job in jobs}
    results = {}
    for group in groups:
        fitted = loop.fit([by_seed[seed] for seed in group], parallel=parallel)
        results.update(zip(group, fitted, strict=True))
    return groups, [results[job.seed] for job in jobs]


@pytest.mark.slow
def test_each_seed_ends_in_the_bits_that_it_has_alone(alone, tmp_path, monkeypatch):
    used, map_ = [], devices.Threads.map

    def watch(self, function, *arguments, **options):
        def note(*each):
            used.append(threading.current_thread().name)
            return function(*each)

        return map_(self, note, *arguments, **options)

    monkeypatch.setattr(devices.Threads, "map", watch)
    jobs = make_jobs(tmp_path, SEEDS)
    assert_as_alone(loop.fit(jobs, parallel="cores"), alone)
    assert any(name.startswith("seeds") for name in used)
    meta = rundir.read_meta(jobs[0].directory / "checkpoints" / "3")
    assert (meta["seeds_at_once"], meta["apart"]) == ([3, 4, 5], True)


@pytest.mark.slow
@pytest.mark.parametrize(("looks", "then"), [(0, "cores"), (4, "cores"), (9, "cores"), (4, "none")])
def test_stopped_on_cores_and_gone_on_with_either_way(alone, tmp_path, monkeypatch, looks, then):
    """In the same bits, also where the seeds have no thread of their own any more."""
    monkeypatch.setattr(training, "CHUNK_SECONDS", 1e-9)
    jobs = make_jobs(tmp_path, SEEDS)
    with pytest.raises(Stopped):
        loop.fit(jobs, parallel="cores", stop=StopAfter(looks))
    groups, results = go_on(jobs, then)
    assert groups == ([[3, 4, 5]] if then == "cores" else [[3], [4], [5]])
    assert_as_alone(results, alone)


@pytest.mark.slow
def test_stopped_in_one_compiled_function_and_gone_on_with_on_cores(alone, tmp_path, monkeypatch):
    """And back: equal up to the rounding of sums."""
    monkeypatch.setattr(training, "CHUNK_SECONDS", 1e-9)
    jobs = make_jobs(tmp_path, SEEDS)
    with pytest.raises(Stopped):
        loop.fit(jobs, stop=StopAfter(3))
    with pytest.raises(Stopped):
        loop.fit(jobs, parallel="cores", stop=StopAfter(6))
    groups, results = go_on(jobs, "none")
    assert groups == [[3], [4], [5]]
    for (variables, history), (expected, expected_history) in zip(results, alone, strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), variables, expected)
        assert len(history) == len(expected_history)


@pytest.mark.slow
def test_a_seed_that_lost_its_checkpoints_is_trained_alone_again(alone, tmp_path):
    """It was begun on a core of its own, so it is not put into one compiled function."""
    jobs = make_jobs(tmp_path, SEEDS)
    loop.fit(jobs, parallel="cores")
    for job in jobs[:2]:
        checkpoint.forget_after(job.directory / "checkpoints", Position(0))
        assert not rundir.positions(job.directory / "checkpoints")
    groups, results = go_on(jobs, "none")
    assert sorted(groups) == [[3], [4], [5]]
    assert_as_alone(results, alone)


@pytest.mark.long
@pytest.mark.slow
def test_a_run_moves_between_both_ways(finished, tmp_path, monkeypatch):
    """Fusions included, whose parts are then the same bits; so are all predictions."""
    networks = ("landmarks", "image", "decision_fusion")
    config = small_config(networks=networks, seeds=(0, 1), parallel="cores")
    for name in networks:
        config[name]["seeds_at_once"] = 1  # raised to two by "cores"
    shutil.copytree(finished, tmp_path / "none")  # seed 0, which was trained alone
    experiment.run(config | {"parallel": "none"}, tmp_path / "none")
    fit, groups = loop.fit, []

    def stopped(jobs, **options):
        groups.append((jobs[0].name, len(jobs)))
        if jobs[0].name == "image":
            options["stop"] = StopAfter(1)
        return fit(jobs, **options)

    monkeypatch.setattr(loop, "fit", stopped)
    with pytest.raises(Stopped):
        experiment.run(config, tmp_path / "cores")
    assert groups == [("landmarks", 2), ("image", 2)]
    monkeypatch.setattr(loop, "fit", fit)
    experiment.run(config | {"parallel": "none"}, tmp_path / "cores")
    compared = [*(tmp_path / "cores").rglob("predictions_*.npz")]
    assert len(compared) == 18
    for found in compared:
        expected = tmp_path / "none" / found.relative_to(tmp_path / "cores")
        assert found.read_bytes() == expected.read_bytes()
    assert json.loads((tmp_path / "cores" / "config.json").read_text())["seeds"] == [0, 1]


def test_cores_need_a_cpu_and_one_process(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(InputError) as caught:
        devices.layout("cores", 8)
    assert str(caught.value) == (
        "config.parallel is 'cores', which trains on a CPU, but JAX computes on 'gpu': set "
        "config.parallel to 'none', or the environment variable JAX_PLATFORMS to cpu"
    )
    monkeypatch.undo()
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "devices", lambda: jax.local_devices() * 2)
    with pytest.raises(InputError, match=r"config.parallel is 'cores' and 8 seeds .* to 'batch'"):
        devices.layout("cores", 8)


@pytest.mark.parametrize(
    ("cores", "seeds", "threads"), [(1, 8, 1), (2, 1, 1), (2, 8, 2), (16, 8, 8)]
)
def test_how_many_threads(monkeypatch, cores, seeds, threads):
    """On one core, or of one seed, it is the layout "none"."""
    monkeypatch.setattr(devices, "cores", lambda: cores)
    assert devices.layout("cores", seeds) == devices.layout("none")._replace(threads=threads)


def test_how_many_seeds_are_begun_together(monkeypatch):
    assert [devices.seeds_at_once("cores", n) for n in (1, 2, 3, 8)] == [2, 2, 4, 8]
    assert devices.seeds_at_once("none", 3) == 3
    monkeypatch.setattr(devices, "cores", lambda: 1)
    assert devices.seeds_at_once("cores", 3) == 3


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, np.inf),
        ({"cpu.max": "max 100000\n"}, np.inf),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, np.inf),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu.max": "nonsense\n"}, np.inf),
    ],
)
def test_the_quota_of_a_container(tmp_path, files, quota):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert devices._quota(tmp_path) == quota


def test_threads_call_all_and_raise_the_first_error():
    def call(x):
        done.append(x)
        if x % 2:
            raise InputError(str(x))
        return x * 10

    done = []
    with devices.Threads(2) as threads:
        assert threads.map(call, [0, 2, 4]) == [0, 20, 40]
        with pytest.raises(InputError, match="1"):
            threads.map(call, [1, 3, 4])
    assert sorted(done) == [0, 1, 2, 3, 4, 4]


def test_debugging_of_jax_stays_in_the_thread_that_asked_for_it():
    def name(_):
        return threading.current_thread() is threading.main_thread()

    with devices.Threads(2) as threads:
        assert threads.map(name, range(3)) == [False] * 3
        assert threads.map(name, range(3), first=True) == [True, False, False]
        with jax.debug_nans(True):
            assert threads.map(name, range(3)) == [True] * 3


def test_float32_reaches_every_thread():
    """Whatever `jax_enable_x64` says: see `devices.in_float32`."""

    @devices.in_float32
    def compute():
        with devices.Threads(2) as threads:
            return threads.map(lambda x: jax.numpy.asarray(x).dtype.name, [np.zeros(3)] * 3)

    jax.config.update("jax_enable_x64", True)
    try:
        assert compute() == ["float32"] * 3
    finally:
        jax.config.update("jax_enable_x64", False)

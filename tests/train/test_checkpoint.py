"""Checkpoints on disk: what is kept, what is noticed, what is refused."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

import fermm
from fermm import rundir
from fermm.errors import InputError
from fermm.rundir import Position
from fermm.train import checkpoint, loop, resuming
from helpers.trainings import (
    assert_identical,
    make_job,
    some_checkpoint,
    with_config,
    without_seconds,
)


@pytest.fixture
def directory(tmp_path):
    """Four epochs, the second of which was the best, and twenty steps of the next."""
    with checkpoint.Writer([tmp_path / "checkpoints"]) as writer:
        for epoch, loss in ((1, 1.4), (2, 1.0), (3, 1.2), (4, 1.3)):
            writer.save(Position(epoch), [some_checkpoint(loss)])
        writer.save(Position(4, 20), [some_checkpoint(1.3)])
    return tmp_path / "checkpoints"


def test_the_last_two_the_best_and_the_newest_are_kept(directory):
    assert [p.name for p in rundir.positions(directory)] == ["2", "3", "4", "4+20"]
    assert rundir.epochs(directory) == [2, 3, 4]
    assert rundir.locate(directory).name == "4"
    assert rundir.locate(directory, "best").name == "2"
    with checkpoint.Writer([directory]) as writer:
        writer.save(Position(5), [some_checkpoint(1.1)])
    assert [p.name for p in rundir.positions(directory)] == ["2", "4", "5"]
    assert sorted(p.name for p in directory.iterdir()) == ["2", "4", "5"]


def test_what_was_written_is_read(directory):
    found = checkpoint.read(directory / "3", training=True)
    expected = some_checkpoint(1.2)
    assert_identical(found.variables, expected.variables)
    assert_identical(found.training, expected.training)
    assert found.meta == {"format": rundir.FORMAT, **expected.meta}
    assert checkpoint.read(directory / "3").training is None


@pytest.mark.parametrize(
    ("keep", "left"), [("all", ["2", "3", "4", "4+20"]), ("restore", ["2", "4"]), ("last", ["4"])]
)
def test_what_is_not_needed_any_more_is_removed(directory, keep, left):
    checkpoint.reduce(directory, keep)
    assert [p.name for p in rundir.positions(directory)] == left
    for name in left:
        path = directory / name
        assert rundir.find_damage(path) == ""
        assert (path / "training").exists() == rundir.has_training(path) == (keep == "all")
        loss = {"2": 1.0, "3": 1.2, "4": 1.3, "4+20": 1.3}[name]
        assert_identical(checkpoint.read(path).variables, some_checkpoint(loss).variables)
    before = files(directory)
    checkpoint.reduce(directory, keep)
    assert files(directory) == before
    if keep != "all":
        with pytest.raises(InputError, match=r"4: kept without what further training needs"):
            checkpoint.read(directory / "4", training=True)
        # Only the checkpoint itself may say that nothing is missing.
        sums = json.loads((directory / "4" / "checksums.json").read_text())
        del sums["training"]
        (directory / "4" / "checksums.json").write_text(json.dumps(sums))
        assert rundir.find_damage(directory / "4") == "checksums.json does not list all files"


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5, 6])
def test_killed_while_it_removes(directory, monkeypatch, stop):
    """Anywhere: what is there is whole, and the next call does the rest."""
    rmtree, calls = shutil.rmtree, []

    def killed(path, **kwargs):
        calls.append(path)
        if len(calls) == stop:
            raise KeyboardInterrupt
        rmtree(path, **kwargs)

    monkeypatch.setattr(checkpoint.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.reduce(directory, "restore")
    monkeypatch.undo()
    assert Position(4) in rundir.positions(directory)
    for position in rundir.positions(directory):
        assert rundir.find_damage(directory / position.name) == ""
    checkpoint.reduce(directory, "restore")
    assert sorted(p.name for p in directory.iterdir()) == ["2", "4"]
    assert not list(directory.glob("*/training"))


def files(path):
    return [file for file in sorted(path.rglob("*")) if file.is_file()]


@pytest.mark.parametrize("how", ["cut short", "altered", "missing"])
def test_damage_of_any_file_is_noticed_and_named(directory, tmp_path, how):
    for file in files(directory / "4"):
        name = file.relative_to(directory / "4").as_posix()
        shutil.copytree(directory / "4", tmp_path / "copy" / "4")
        copy = tmp_path / "copy" / "4" / name
        content = bytearray(copy.read_bytes())
        if how == "missing":
            copy.unlink()
        elif how == "cut short":
            copy.write_bytes(content[:-1])
        else:
            content[len(content) // 2] ^= 1
            copy.write_bytes(content)
        damage = {
            "missing": f"{name} is missing",
            "cut short": f"{name} has {len(content) - 1} bytes instead of {len(content)}",
            "altered": f"{name} has been altered, its SHA-256 is another",
        }[how]
        found = rundir.find_damage(tmp_path / "copy" / "4")
        if name == "checksums.json":
            # Without it there is no checkpoint; a letter in it is another sum, or no JSON.
            assert found or how == "cut short"  # by its last line end
        else:
            assert found == damage
        if how == "missing" and name in ("meta.json", "checksums.json"):
            assert rundir.positions(tmp_path / "copy") == []
        elif found:
            with pytest.raises(InputError, match=r"copy/4: damaged checkpoint \("):
                checkpoint.read(tmp_path / "copy" / "4")
        shutil.rmtree(tmp_path / "copy")


def test_a_damaged_checkpoint_is_set_aside(directory):
    (directory / "4" / "meta.json").write_text("{}")
    (directory / "4+20" / "variables" / "_METADATA").unlink()
    size = json.loads((directory / "4" / "checksums.json").read_text())["meta.json"]["bytes"]
    notes = checkpoint.set_damaged_aside(directory)
    assert notes == [
        f"{directory}/4: damaged checkpoint (meta.json has 2 bytes instead of {size}); "
        "it is now 4.damaged",
        f"{directory}/4+20: damaged checkpoint (variables/_METADATA is missing); "
        "it is now 4+20.damaged",
    ]
    assert rundir.epochs(directory) == [2, 3]
    assert checkpoint.set_damaged_aside(directory) == []


def test_one_without_its_own_files_is_set_aside_too(directory):
    (directory / "3" / "meta.json").unlink()
    (directory / "4" / "checksums.json").unlink()
    (directory / "4+20" / "checksums.json").write_text("{}")
    assert [note.split(": ", 1)[1] for note in checkpoint.set_damaged_aside(directory)] == [
        "damaged checkpoint (meta.json is missing); it is now 3.damaged",
        "damaged checkpoint (checksums.json cannot be read: No such file or directory); it is now "
        "4.damaged",
        "damaged checkpoint (checksums.json does not list all files); it is now 4+20.damaged",
    ]
    assert [p.name for p in rundir.positions(directory)] == ["2"]


@pytest.mark.parametrize("which", ["altered", "of another form"])
def test_an_altered_meta_is_told_before_it_is_used(directory, which):
    file = directory / "3" / "meta.json"
    file.write_text('{"format": 3}' if which == "of another form" else file.read_text() + " ")
    with pytest.raises(InputError, match=r"/3: damaged checkpoint \(meta.json has"):
        rundir.read_meta(directory / "3")


@pytest.mark.slow
@pytest.mark.parametrize("which", ["2", "2 and 1"])
def test_a_run_goes_on_from_the_one_before_to_the_same_bits(tmp_path, capsys, which):
    spec = {"model": "nn2", "arguments": {}}
    jobs = [make_job(tmp_path / name, spec, (".*",), epochs=3) for name in ("whole", "damaged")]
    for job in jobs:
        job.directory.mkdir()
    [(expected, history)] = loop.fit(jobs[:1])
    job = jobs[1]
    loop.fit([with_config(job, epochs=2)])
    for name in which.split(" and "):
        file = max(files(job.directory / "checkpoints" / name), key=lambda f: f.stat().st_size)
        with file.open("r+b") as content:
            content.truncate(100)
    assert resuming.groups({0: job.directory / "checkpoints"}, 1) == [[0]]
    [(found, found_history)] = loop.fit([job])
    assert_identical(found, expected)
    assert without_seconds(found_history) == without_seconds(history)
    said = capsys.readouterr().out
    assert f"note: {job.directory}/checkpoints/2: damaged checkpoint (" in said
    assert ("goes on after epoch 1 of 3" in said) == (which == "2")
    assert (job.directory / "checkpoints" / "2.damaged").is_dir()


def test_what_a_killed_run_left_half_written_is_no_checkpoint(directory):
    shutil.copytree(directory / "4", directory / "5.writing")
    shutil.copytree(directory / "4", directory / "1.removing")
    assert rundir.epochs(directory) == [2, 3, 4]
    checkpoint.forget_after(directory, Position(3))
    assert sorted(p.name for p in directory.iterdir()) == ["2", "3"]


def test_a_full_disk_is_noticed_before_anything_is_written(directory, monkeypatch, capfd):
    usage = shutil.disk_usage(directory)._replace(free=20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with (
        pytest.raises(InputError, match=r"epoch 5 could be written \(No space left on device\)"),
        checkpoint.Writer([directory]) as writer,
    ):
        writer.save(Position(5), [some_checkpoint(1.1)])
    assert sorted(p.name for p in directory.iterdir()) == ["2", "3", "4", "4+20"]
    assert capfd.readouterr() == ("", "")


FULL = """
import resource, sys, pathlib
import numpy as np
sys.path[:0] = sys.argv[2:]
from helpers.trainings import some_checkpoint
from fermm import rundir
from fermm.train import checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), -1))
big = some_checkpoint(0.5)
big.variables["params"]["big"] = np.random.default_rng(0).normal(size=100000)
with checkpoint.Writer([pathlib.Path("checkpoints")]) as writer:
    writer.save(rundir.Position(5), [big])
"""


def test_where_there_is_no_room_the_ones_before_stay(directory):
    """The system refuses to let a file grow, as it does on a full disk."""
    here = pathlib.Path(__file__).parent
    result = subprocess.run(
        [sys.executable, "-c", FULL, "50000", *map(str, (here.parents[1], here.parent, here))],
        cwd=directory.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    last = result.stderr.strip().splitlines()[-1]
    assert last == (
        f"fermm.errors.InputError: {directory}: no checkpoint of epoch 5 could be written "
        f"({os.strerror(27)}); make room or see to the rights, and run the same command again: it "
        "goes on after the last checkpoint"
    )
    assert sorted(p.name for p in directory.iterdir()) == ["2", "3", "4", "4+20"]


def test_a_checkpoint_written_by_an_earlier_version_is_restored():
    """Written once by make_checkpoint.py, when the format was new, and never again."""
    kept = pathlib.Path(__file__).parents[1] / f"checkpoint_format_{rundir.FORMAT}"
    assert rundir.find_damage(kept / "1") == ""
    network = fermm.restore(kept / "1")
    assert network.name == "landmarks"
    with np.load(kept / "expected.npz") as expected:
        found = network.predict(landmarks=expected["landmarks"])
        np.testing.assert_allclose(found, expected["probabilities"], atol=1e-6)
    saved = checkpoint.read(kept / "1", training=True)
    assert set(saved.training) == {"step", "opt_state", "sums"}


def test_check_tree_tells_both_ways():
    a = {"x": {"kernel": np.zeros((2, 3))}, "y": np.zeros(1), "w": np.zeros(2)}
    b = {"x": {"kernel": np.zeros((3, 2))}, "z": np.zeros(1), "w": np.zeros(2, np.float32)}
    with pytest.raises(InputError) as error:
        checkpoint.check_tree(a, b, "place")
    assert str(error.value) == (
        "place: does not fit the network: missing y float64 (1,); left over z float64 (1,); "
        "w is float32 (2,) instead of float64 (2,); "
        "x/kernel is float64 (3, 2) instead of float64 (2, 3)."
    )

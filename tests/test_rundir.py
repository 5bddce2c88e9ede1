"""Run directories: names, lock, and files that come back as they were written, or are refused."""

import csv
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from fermm import rundir
from fermm.errors import InputError
from fermm.rundir import Position, RunDirectory

ROOT = pathlib.Path(rundir.__file__).parent


def samples(count=6, classes=3, votes=None):
    rows = np.arange(count, dtype=np.int64) * 3
    return rundir.RunSamples(
        rows,
        (np.arange(count) % classes).astype(np.int32),
        np.array([0, 1, 2] * (count // 3), np.int8),
        rows.astype(np.uint64),
        np.zeros(count, bool),
        np.ones(classes),
        votes,
    )


def assert_same(one, other):
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert getattr(ours, "dtype", None) == getattr(theirs, "dtype", None)


def test_names_stand_here_and_nowhere_else():
    """No other module of the package spells the name of a file or directory of a run."""
    names = ("config.json", "data.json", "samples.npz", "rejected.csv", "metrics.json")
    names += ("assessment.json", "tables.md", "report.html", "finished.json", "history.csv")
    names += ("meta.json", "checksums.json", "checkpoints", "lock", "seed_{", "split_{")
    names += ("predictions_{",)
    literals = "|".join(re.escape(name) for name in names)
    found = [
        (str(file.relative_to(ROOT)), match[0])
        for file in ROOT.rglob("*.py")
        if file.name != "rundir.py"
        # A string that is such a name, or a file name that begins with one.
        for match in re.finditer(rf"""["']({literals})(?:["']|(?<={{))""", file.read_text())
    ]
    assert found == []


def test_the_ground_floor_imports_nothing_slow():
    code = "import sys, fermm.rundir; print(*(m for m in sys.modules if m in "
    code += "('jax', 'flax', 'orbax', 'scipy', 'fermm.data', 'fermm.models', 'fermm.train')))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("\n", "")


def test_where_files_are(tmp_path):
    run = RunDirectory(tmp_path)
    own = run.seed("image", 3)
    places = [run.config, run.figures, own.checkpoints, own.history, own.predictions("test")]
    places += [own.modalities("test"), run.events("image", 3), run.split(7).report]
    assert [str(place.relative_to(tmp_path)) for place in places] == [
        *("config.json", "figures", "image/seed_3/checkpoints", "image/seed_3/history.csv"),
        *("image/seed_3/predictions_test.npz", "image/seed_3/modalities_test.npz"),
        *("tensorboard/image/seed_3", "split_7/report.html"),
    ]
    assert (own.network, own.name) == ("image", "seed_3")
    for seed in (10, 9):
        run.split(seed).path.mkdir()
    assert [each.path.name for each in run.splits()] == ["split_9", "split_10"]
    assert run.foreign_to_splits() == []
    (tmp_path / "notes.txt").touch()
    assert run.foreign_to_splits() == ["notes.txt"]


def test_what_a_kill_at_the_very_beginning_leaves_is_no_run_yet(tmp_path):
    run = RunDirectory(tmp_path / "run")
    assert run.may_be_begun()
    with run.lock():
        assert run.may_be_begun()
    (run.path / "config.json.tmp").touch()
    assert run.may_be_begun()
    (run.path / "report.html").touch()
    assert not run.may_be_begun()


def test_a_second_run_is_kept_out(tmp_path):
    run = RunDirectory(tmp_path / "run")
    with run.lock(), pytest.raises(InputError) as caught, RunDirectory(run.path).lock():
        pass
    assert str(caught.value) == (
        f"{run.path}: another run is at work there; wait for its end, or choose another --workdir"
    )
    with run.lock():
        pass


def test_what_is_written_comes_back(tmp_path):
    file = tmp_path / "x"
    votes = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]]
    for given in (None, votes):
        rundir.write_samples(file, samples(votes=given))
        assert_same(rundir.read_samples(file), samples(votes=given))
    rows, labels = samples()[:2]
    made = rundir.Predictions(rows, labels, np.full((6, 3), 1 / 3, np.float32))
    rundir.write_predictions(file, made._replace(votes=votes))
    for classes in (3, None):
        assert_same(rundir.read_predictions(file, classes), made)
    decisions = labels.astype(np.int16)
    shuffled = np.stack([decisions, decisions[::-1]])
    made = rundir.Modalities(
        rows, labels, decisions, {"b": decisions, "a": decisions}, {"b": shuffled, "a": shuffled}
    )
    rundir.write_modalities(file, made)
    found = rundir.read_modalities(file, 3)
    assert found.members == ("b", "a")
    assert_same(found[:3], made[:3])
    np.testing.assert_array_equal(found.shuffled["a"], shuffled)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_history_may_have_more_columns(tmp_path):
    row = dict.fromkeys(rundir.HISTORY_COLUMNS, 0.1 + 0.2)
    history = [row | {"averaged_val_loss": 1 / 3}, row | {"averaged_val_loss": 2 / 3}]
    rundir.write_history(tmp_path / "h.csv", history)
    assert rundir.read_history(tmp_path / "h.csv") == history
    with open(tmp_path / "h.csv", newline="") as file:
        assert next(csv.reader(file)) == [*rundir.HISTORY_COLUMNS, "averaged_val_loss"]
    (tmp_path / "h.csv").write_text("epoch,loss\n1,2\n")
    with pytest.raises(InputError, match=r"h\.csv: damaged \(needs the columns epoch, loss, acc"):
        rundir.read_history(tmp_path / "h.csv")
    with pytest.raises(FileNotFoundError):
        rundir.read_history(tmp_path / "none.csv")


VOTES = np.full((6, 3), 1 / 3, np.float32)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"labels": np.full(6, 3, np.int32)}, "label is not from 0 to 2"),
        ({"rows": np.zeros(6, np.int64)}, "row is empty, or has one twice"),
        ({"splits": np.full(6, 3, np.int8)}, "split is not from 0 to 2"),
        ({"class_weights": np.array([1, np.nan, 1])}, "class_weights are not finite"),
        ({"votes": VOTES[:, :2]}, "votes is float32 (6, 2), needs f (6, 3)"),
        ({"votes": 2 * VOTES}, "the votes of a sample do not add up to 1"),
        ({"votes": VOTES * np.nan}, "votes are not from 0 to 1"),
        ({"votes": VOTES - [0.5, 0, -0.5]}, "votes are not from 0 to 1"),
    ],
)
def test_damaged_samples_are_refused(tmp_path, changes, problem):
    file = tmp_path / "samples.npz"
    rundir.write_samples(file, samples()._replace(**changes))
    with pytest.raises(InputError) as caught:
        rundir.read_samples(file)
    assert str(caught.value) == (
        f"{file}: damaged ({problem}); delete it and run again: the run writes it anew"
    )


def test_predictions_and_modalities_of_other_classes_are_refused(tmp_path):
    file, (rows, labels) = tmp_path / "x.npz", samples()[:2]
    made = rundir.Predictions(rows, labels, np.full((6, 3), 1 / 3, np.float32))
    rundir.write_predictions(file, made)
    with pytest.raises(InputError, match=r"probabilities is float32 \(6, 3\), needs f \(6, 4\)"):
        rundir.read_predictions(file, 4)
    decisions = labels.astype(np.int16)
    alone, shuffled = {"a": decisions}, {"a": decisions[None]}
    rundir.write_modalities(file, rundir.Modalities(rows, labels, decisions, alone, shuffled))
    with pytest.raises(InputError, match="label is not from 0 to 1"):
        rundir.read_modalities(file, 2)


def test_positions_by_the_names_of_directories(tmp_path):
    for name in ("3", "3+250", "10", "3+", "+3", "x", "4.writing", "٣"):
        (tmp_path / name).mkdir()
    (tmp_path / "7").touch()
    expected = [Position(3), Position(3, 250), Position(10)]
    assert rundir.named_positions(tmp_path) == expected
    assert [position.name for position in expected] == ["3", "3+250", "10"]
    assert rundir.positions(tmp_path) == []  # there is nothing in them
    rundir.write_meta(tmp_path / "3", {"format": rundir.FORMAT, "history": [{"val_loss": 1}]})
    rundir.write_meta(tmp_path / "3+250", {"format": rundir.FORMAT})
    assert rundir.positions(tmp_path) == expected[:2]
    assert rundir.epochs(tmp_path) == [3]
    assert rundir.locate(tmp_path) == rundir.locate(tmp_path, "best") == tmp_path / "3"
    assert rundir.read_meta(tmp_path / "3")["history"] == [{"val_loss": 1}]
    (tmp_path / "3" / "meta.json").write_text("{}")
    with pytest.raises(InputError, match=r"damaged checkpoint \(meta\.json has 2 bytes instead"):
        rundir.read_meta(tmp_path / "3")

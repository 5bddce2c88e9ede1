"""Whole runs, on the shipped configs made small."""

import csv
import functools
import json
import shutil
import struct
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from tensorboardX.proto import event_pb2

import fermm
from fermm import experiment, models, rundir
from fermm.data import batches
from fermm.data import synthetic as synthetic_faces
from fermm.data.source import Source, load
from fermm.errors import InputError
from fermm.evaluate import run
from fermm.experiment import config as run_config
from fermm.experiment import directory as directory_lib
from fermm.experiment import finished as finished_lib
from fermm.experiment import leakage, plan, running, training
from fermm.experiment.predictions import others
from fermm.rundir import RunDirectory
from fermm.train import checkpoint, loop, steps
from fermm.train.keys import key_for
from helpers.trainings import assert_identical, small_config, without_seconds


def read(workdir, network, seed=0):
    where = rundir.locate(workdir / network / f"seed_{seed}" / "checkpoints")
    return checkpoint.read(where, training=True)


def test_order_is_a_permutation_and_a_function_of_its_arguments():
    first = batches.order(0, 3, 1000)
    assert sorted(first) == list(range(1000))
    np.testing.assert_array_equal(first, batches.order(0, 3, 1000))
    assert (first != batches.order(0, 4, 1000)).any()
    assert (first != batches.order(1, 3, 1000)).any()
    # Philox is fixed by its definition, and so is this.
    assert batches.order(0, 0, 6).tolist() == [0, 2, 1, 5, 4, 3]


@pytest.mark.long
@pytest.mark.slow
def test_a_damaged_checkpoint_of_one_of_several_seeds_changes_no_bit(tmp_path, monkeypatch):
    config = small_config(networks=("landmarks",), seeds=(0, 1))
    experiment.run(config, tmp_path)
    before = [read(tmp_path, "landmarks", seed) for seed in (0, 1)]
    predicted = tmp_path / "landmarks" / "seed_0" / "predictions_test.npz"
    content = predicted.read_bytes()
    checkpoints = predicted.parent / "checkpoints"
    (checkpoints / "2" / "variables" / "_METADATA").unlink()
    experiment.run(config, tmp_path)
    assert (checkpoints / "2.damaged").exists()
    for seed, want in enumerate(before):
        found = read(tmp_path, "landmarks", seed)
        assert_identical((found.variables, found.training), (want.variables, want.training))
    assert predicted.read_bytes() == content
    # What is trained already is not trained again.
    monkeypatch.setattr(steps, "TrainSteps", None)
    predicted.unlink()
    experiment.run(config, tmp_path)
    assert predicted.read_bytes() == content


def test_what_a_run_leaves(finished):
    result = json.loads((finished / "metrics.json").read_text())
    assert list(result) == ["image", "landmarks", "decision_fusion", "feature_fusion"]
    assert result["landmarks"]["parameters"] == 210_439
    assert result["decision_fusion"]["parameters"] == 105
    assert result["feature_fusion"]["parameters"] == 3_271
    for name, figures in result.items():
        assert list(figures) == ["train", "validation", "test", "parameters", "seconds"]
        assert [figures[s]["count"] for s in ("train", "validation", "test")] == [231, 66, 33]
        with open(finished / name / "seed_0" / "history.csv") as file:
            rows = list(csv.DictReader(file))
        assert [row["epoch"] for row in rows] == ["1", "2"]
        assert list(rows[0]) == list(rundir.HISTORY_COLUMNS)
        if name == "image":  # the rate of each epoch's own steps, by a step schedule at epoch 1
            rates = [float(row["learning_rate"]) for row in rows]
            np.testing.assert_allclose(rates, [5e-4, 1e-4], rtol=1e-6)
        # The validation figures of the last epoch are those of the saved predictions.
        np.testing.assert_allclose(
            float(rows[-1]["val_loss"]), figures["validation"]["log_loss"][0], rtol=1e-5
        )
        assert float(rows[-1]["val_accuracy"]) == figures["validation"]["accuracy"][0]
        assert figures["seconds"][0] == pytest.approx(sum(float(r["seconds"]) for r in rows))
    drawn = {"accuracies", "differences", "recall_by_class", "recall_gains"}
    drawn |= {"validation_accuracy", "validation_loss"}
    drawn |= {"samples", "classes", "landmarks", "landmarks_good_and_bad", "all_wrong"}
    stems = ("training", "confusion_matrix", "reliability", "architecture")
    drawn |= {f"{stem}_{name}" for stem in stems for name in result}
    fusions = ("decision_fusion", "feature_fusion")
    drawn |= {f"{s}_{name}" for s in ("modalities", "changed", "won_and_lost") for name in fusions}
    assert {path.stem for path in (finished / "figures").iterdir()} == drawn
    for name in drawn:
        assert (finished / "figures" / f"{name}.png").stat().st_size > 5_000
        assert (finished / "figures" / f"{name}.svg").read_text().startswith("<?xml")
    report = (finished / "report.html").read_text()
    assert report.count("<img ") == len(drawn)
    assert "Accuracy in percent on synthetic faces" in report
    assert "paper, figure" not in report  # the networks are smaller, the faces others
    assert json.loads((finished / "assessment.json").read_text())["samples"] == 33
    assert not list(finished.rglob("*.tmp*"))
    assert json.loads((finished / "config.json").read_text())["seeds"] == [0]


def test_samples_of_a_run(finished):
    with np.load(finished / "samples.npz") as samples:
        assert np.bincount(samples["split"]).tolist() == [231, 66, 33]
        for i, split in enumerate(("train", "validation", "test")):
            where = samples["split"] == i
            with np.load(finished / "image" / "seed_0" / f"predictions_{split}.npz") as saved:
                order = np.argsort(saved["row"])
                np.testing.assert_array_equal(samples["row"][where], saved["row"][order])
                np.testing.assert_array_equal(samples["label"][where], saved["label"][order])
        assert not samples["duplicate"].any()


def test_copies_are_found_in_the_training_part():
    faces = synthetic_faces.draw(count=10, seed=0)
    images = faces.features["images"]
    images[[1, 8, 9]] = images[0]  # one in training, two in test
    images[7] = images[6]  # both outside training
    images[3] = images[2]  # both in training
    parts = {"train": np.arange(5), "validation": np.arange(5, 7), "test": np.arange(7, 10)}
    source = Source(faces, parts, np.ones(7), "faces", (), {})
    samples = leakage.describe_samples(source)
    assert np.flatnonzero(samples.duplicate).tolist() == [0, 1, 2, 3, 8, 9]
    assert samples.of("test").duplicate.tolist() == [False, True, True]
    assert samples.of("validation").rows.tolist() == [5, 6]


@pytest.mark.slow
def test_what_modalities_do_is_what_the_networks_say(finished):
    config = small_config()
    drawn = load(run_config.read(config).run.data)
    test = drawn.samples.take(drawn.splits["test"])
    for fusion in ("decision_fusion", "feature_fusion"):
        network = fermm.restore(finished, fusion)
        found = rundir.read_modalities(finished / fusion / "seed_0" / "modalities_test.npz", 7)
        np.testing.assert_array_equal(found.rows, test.rows)
        np.testing.assert_array_equal(found.labels, test.labels)
        probabilities = network.predict(test.features["images"], test.features["landmarks"])
        np.testing.assert_array_equal(found.decisions, probabilities.argmax(-1))
        for part, inputs in (("image", "images"), ("landmarks", "landmarks")):
            alone = fermm.restore(finished, part).predict(**{inputs: test.features[inputs]})
            np.testing.assert_array_equal(found.alone[part], alone.argmax(-1))
            given = dict(test.features)
            cycle = np.random.default_rng(3).permutation(33)
            others = dict(zip(cycle, [cycle[-1], *cycle[:-1]], strict=True))
            given[inputs] = given[inputs][[others[face] for face in range(33)]]
            mixed = network.predict(**given).argmax(-1)
            np.testing.assert_array_equal(found.shuffled[part][3], mixed)
            assert found.shuffled[part].shape == (10, 33)


@pytest.mark.slow
def test_split_seeds_make_a_run_each(tmp_path):
    config = small_config(networks=("landmarks",), landmarks__epochs=1, split_seeds=(0, 3))
    result = experiment.run(config, tmp_path / "splits")
    assert list(result) == ["split_0", "split_3"]
    samples = [run.load(tmp_path / "splits" / name).samples.of("test").rows for name in result]
    assert set(samples[0]) != set(samples[1])
    page = (tmp_path / "splits" / "report.html").read_text()
    assert "The runs differ in nothing but the seed of the split" in page
    assert json.loads((tmp_path / "splits" / "report.json").read_text())["runs"] == list(result)
    assert experiment.run(config, tmp_path / "splits") == result  # called again, it adds nothing
    with pytest.raises(InputError, match="not the directory of a run over several splits"):
        experiment.run(config, tmp_path / "splits" / "split_0")


@pytest.mark.slow
def test_event_files_hold_the_history(tmp_path):
    config = small_config(networks=("landmarks",), seeds=(0, 1), tensorboard=True)
    experiment.run(config, tmp_path / "run")
    for seed in (0, 1):
        (file,) = (tmp_path / "run" / "tensorboard" / "landmarks" / f"seed_{seed}").iterdir()
        scalars = {}
        for event in events_in(file.read_bytes()):
            for value in event.summary.value:
                scalars[value.tag, event.step] = value.simple_value
        history = rundir.read_history(
            tmp_path / "run" / "landmarks" / f"seed_{seed}" / "history.csv"
        )
        expected = {(k, r["epoch"]): v for r in history for k, v in r.items() if k != "epoch"}
        assert scalars == pytest.approx(expected, rel=1e-6)


def events_in(content):
    """The records of a TFRecord file: length, its checksum, data, its checksum."""
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        yield event_pb2.Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]


def test_a_fusion_leaves_its_parts_bit_identical(finished):
    for fusion in ("decision_fusion", "feature_fusion"):
        fused = read(finished, fusion)
        for part in ("image", "landmarks"):
            own = read(finished, part)
            assert_identical(fused.variables["params"][part], own.variables["params"])
            if part == "landmarks":
                assert_identical(fused.variables["batch_stats"][part], own.variables["batch_stats"])
        moments = traverse_util.flatten_dict(fused.training["opt_state"], sep="/")
        assert moments
        assert not [path for path in moments if "image" in path or "landmarks" in path]


def test_the_same_seed_gives_the_same_bits(finished, tmp_path):
    experiment.run(small_config(networks=("landmarks", "image")), tmp_path / "again")
    for network in ("image", "landmarks"):
        again, first = read(tmp_path / "again", network), read(finished, network)
        assert_identical(again.variables, first.variables)
        assert_identical(again.training, first.training)


def test_another_seed_gives_another_network(finished, tmp_path):
    config = small_config(networks=("landmarks",), seeds=(1,))
    experiment.run(config, tmp_path / "other")
    first = read(finished, "landmarks").variables["params"]["logits"]["kernel"]
    other = read(tmp_path / "other", "landmarks", seed=1).variables["params"]["logits"]["kernel"]
    assert np.abs(first - other).max() > 1e-3


@pytest.mark.long
@pytest.mark.slow
def test_kept_outputs_train_the_same_head_as_the_direct_way(finished, tmp_path):
    changes = {f"{f}__run": str(finished) for f in ("decision_fusion", "feature_fusion")}
    changes |= {f"{f}__reuse_frozen_outputs": False for f in ("decision_fusion", "feature_fusion")}
    config = small_config(networks=("decision_fusion", "feature_fusion"), **changes)
    experiment.run(config, tmp_path / "direct")
    for fusion in ("decision_fusion", "feature_fusion"):
        kept, direct = read(finished, fusion), read(tmp_path / "direct", fusion)
        before = experiment_head(finished, fusion)
        for a, b, start in zip(
            jax.tree.leaves(kept.variables["params"]["head"]),
            jax.tree.leaves(direct.variables["params"]["head"]),
            jax.tree.leaves(before),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, atol=1e-5, rtol=0)
            assert np.abs(a - start).max() > 1e-4  # it has moved, by more than the tolerance
        assert_identical(kept.variables["params"]["image"], direct.variables["params"]["image"])
        assert_identical(kept.variables["batch_stats"], direct.variables["batch_stats"])


def experiment_head(workdir, fusion):
    """The head as the run drew it."""
    module = models.build(read(workdir, fusion).meta["spec"])
    inputs = {
        "images": np.zeros((1, 48, 48), np.uint8),
        "landmarks": np.zeros((1, 68, 2), np.float32),
    }
    return jax.jit(module.init)(key_for(0, fusion, "initialisation"), inputs)["params"]["head"]


def test_a_stopped_run_goes_on_to_the_same_bits(finished, tmp_path, monkeypatch):
    """Stopped in the second epoch of the image network, then called again."""
    write = rundir.write_history

    def stop_after_first_epoch(path, history):
        write(path, history)
        raise KeyboardInterrupt

    monkeypatch.setattr(rundir, "write_history", stop_after_first_epoch)
    with pytest.raises(KeyboardInterrupt):
        experiment.run(small_config(), tmp_path / "run")
    assert rundir.epochs(tmp_path / "run" / "image" / "seed_0" / "checkpoints") == [1]
    monkeypatch.undo()
    experiment.run(small_config(), tmp_path / "run")
    for network in ("image", "landmarks", "decision_fusion", "feature_fusion"):
        resumed, first = read(tmp_path / "run", network), read(finished, network)
        assert_identical(resumed.variables, first.variables)
        assert_identical(resumed.training, first.training)
        assert without_seconds(resumed.meta["history"]) == without_seconds(first.meta["history"])


def test_called_again_a_finished_run_trains_nothing(finished, tmp_path, monkeypatch, capsys):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    monkeypatch.setattr(loop, "fit", None)
    result = experiment.run(small_config(), tmp_path / "run")
    assert result == json.loads((finished / "metrics.json").read_text())
    assert "Accuracy in percent on synthetic faces" in capsys.readouterr().out


def is_current(config, workdir):
    return finished_lib.is_current(run_config.read(config), RunDirectory(workdir), [])


def test_a_finished_run_is_read_and_not_drawn_again(finished, tmp_path, monkeypatch, capsys):
    """Unless anything that it depends on has changed."""
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    config = small_config(report=True)
    with monkeypatch.context() as patch:
        patch.setattr(running, "load", None)  # nor are the data read
        result = experiment.run(config, workdir)
    assert result == json.loads((finished / "metrics.json").read_text())
    assert {p: p.stat().st_mtime_ns for p in before if p.name != "lock"} == {
        path: when for path, when in before.items() if path.name != "lock"
    }
    said = capsys.readouterr().out
    assert "finished, nothing to do" in said
    assert "Accuracy in percent on synthetic faces, one seed." in said

    assert is_current(config, workdir)
    changes = {
        "data": lambda p: p.setattr(finished_lib.source, "fingerprint", lambda _: "other"),
        "version": lambda p: p.setattr(finished_lib.metadata, "version", lambda _: "other"),
        "code": lambda p: p.setattr(finished_lib.provenance, "code_of", lambda *_: {"a.py": "0"}),
        "package": lambda p: p.setattr(finished_lib, "_PACKAGE", workdir),
    }
    for name, change in changes.items():
        with monkeypatch.context() as patch:
            change(patch)
            assert not is_current(config, workdir), name
    assert not is_current(config | {"seeds": (0, 1)}, workdir)
    for name in (
        "report.html",
        "figures/reliability_image.svg",
        "image/seed_0/predictions_test.npz",
    ):
        content = (workdir / name).read_bytes()
        (workdir / name).write_bytes(content[:-1])
        assert not is_current(config, workdir), name
        (workdir / name).write_bytes(content)
    assert is_current(config, workdir)
    (workdir / "figures" / "reliability_image.svg").unlink()
    assert not is_current(config, workdir)


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["restore", "last"])
def test_only_what_restoring_needs_is_kept(finished, tmp_path, monkeypatch, keep):
    workdir = tmp_path / "run"
    config = small_config(networks=("landmarks", "image"), keep=keep)
    experiment.run(config, workdir)
    for name in ("image", "landmarks"):
        directory = workdir / name / "seed_0" / "checkpoints"
        best = rundir.locate(finished / name / "seed_0" / "checkpoints", "best").name
        assert {p.name for p in directory.iterdir()} == {"2", *([best] * (keep == "restore"))}
        assert not list(directory.rglob("training"))
        for path in (fermm.restore(workdir, name), fermm.restore(finished, name)):
            assert path.meta["epoch"] == 2
        assert_identical(
            fermm.restore(workdir, name).variables, fermm.restore(finished, name).variables
        )
    # A finished run is known as one, and fused: in the same directory, and from another.
    train_steps = steps.TrainSteps
    monkeypatch.setattr(steps, "TrainSteps", None)
    experiment.run(config | {"evaluate": {"splits": ("test",)}}, workdir)
    monkeypatch.setattr(steps, "TrainSteps", train_steps)
    config = small_config(
        networks=("decision_fusion",), keep=keep, decision_fusion__run=str(workdir)
    )
    experiment.run(config, tmp_path / "fused")
    fused, expected = read(finished, "decision_fusion"), fermm.restore(tmp_path / "fused")
    assert_identical(expected.variables, fused.variables)


@pytest.mark.slow
def test_a_damaged_checkpoint_without_the_state_of_its_optimiser(finished, tmp_path):
    """Nothing can go on from those that are left: it is trained anew, to the same bits."""
    config = small_config(networks=("landmarks",), keep="restore")
    experiment.run(config, tmp_path / "run")
    checkpoints = tmp_path / "run" / "landmarks" / "seed_0" / "checkpoints"
    (checkpoints / "2" / "variables" / "_METADATA").unlink()
    experiment.run(config, tmp_path / "run")
    assert_identical(
        fermm.restore(tmp_path / "run").variables, fermm.restore(finished, "landmarks").variables
    )


def test_a_seed_can_be_added(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    config = small_config(networks=("landmarks",), seeds=(0, 1))
    result = experiment.run(config, tmp_path / "run")
    assert len(result["landmarks"]["test"]["accuracy"]) == 2


def test_a_network_with_a_section_of_its_own_can_be_added(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    config = small_config()
    config["other_fusion"] = config["decision_fusion"] | {"learning_rate": 1e-4}
    config["networks"] = ("decision_fusion", "other_fusion")
    result = experiment.run(config, tmp_path / "run")
    assert list(result) == ["decision_fusion", "other_fusion"]
    before = json.loads((finished / "metrics.json").read_text())
    assert result["decision_fusion"] == before["decision_fusion"]


@pytest.mark.slow
def test_fine_tuning_trains_what_the_patterns_name(finished, tmp_path):
    config = small_config(
        networks=("feature_fusion",),
        feature_fusion__run=str(finished),
        feature_fusion__trainable=("head/.*", "landmarks/(norm|dense3|logits)/.*", "!.*"),
    )
    experiment.run(config, tmp_path / "tuned")
    tuned, start = read(tmp_path / "tuned", "feature_fusion"), read(finished, "landmarks")
    changed = {
        path
        for path, value in traverse_util.flatten_dict(
            tuned.variables["params"]["landmarks"], sep="/"
        ).items()
        if (value != traverse_util.flatten_dict(start.variables["params"], sep="/")[path]).any()
    }
    # A fusion of features does not use the decision layer of its parts.
    assert changed == {"norm/scale", "norm/bias", "dense3/kernel", "dense3/bias"}
    mean = tuned.variables["batch_stats"]["landmarks"]["norm"]["mean"]
    assert (mean != start.variables["batch_stats"]["norm"]["mean"]).any()
    assert_identical(
        tuned.variables["params"]["image"], read(finished, "image").variables["params"]
    )


@pytest.mark.slow
def test_running_statistics_stay_where_normalisation_is_not_trained(finished, tmp_path):
    config = small_config(
        networks=("feature_fusion",),
        feature_fusion__run=str(finished),
        feature_fusion__trainable=("head/.*", "landmarks/dense3/.*", "!.*"),
    )
    experiment.run(config, tmp_path / "tuned")
    assert_identical(
        read(tmp_path / "tuned", "feature_fusion").variables["batch_stats"]["landmarks"],
        read(finished, "landmarks").variables["batch_stats"],
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"image__learning_rate": 0.5},
            "config.image.learning_rate is .* there and 0.5 now; choose another --workdir",
        ),
        (
            {"networks": ("landmarks", "imag")},
            "config.networks: 'imag' is unknown; there are .* Did you mean 'image'",
        ),
        ({"networks": ()}, "config.networks is empty"),
        ({"networks": ("image", "image")}, "names something twice"),
        ({"seeds": ()}, "config.seeds is empty"),
        ({"seeds": (-1,)}, "config.seeds is -1, needs an integer from 0"),
        ({"data__source": "fer"}, "config.data.source: 'fer' is unknown; .* mean 'fer2013'"),
        ({"data__split": "papre"}, "config.data.split: 'papre' is unknown; .* mean 'paper'"),
        ({"data__landmarks": "dlib"}, "config.data.landmarks: 'dlib' is unknown; there are paper"),
        ({"evaluate__splits": ("tset",)}, "config.evaluate.splits: 'tset' .* mean 'test'"),
        ({"image__schedule__kind": "stop"}, "config.image.schedule.kind: 'stop' .* mean 'step'"),
        (
            {"image__schedule__kind": "plateau"},
            "config.image.schedule.patience is missing in the config file",
        ),
        ({"image__epochs": 0}, "config.image.epochs is 0, needs at least 1"),
        (
            {"image__learning_rate": -1.0},
            "config.image.learning_rate is -1.0, needs a number above 0",
        ),
        (
            {"image__schedule": {"kind": "constant", "patiense": 3}},
            "config.image.schedule: 'patiense' is unknown; .* mean 'patience'",
        ),
        ({"image__schedule": {"factor": 0.2}}, "config.image.schedule.kind is missing: it is one"),
        ({"data__arguments": {"cuont": 3}}, "config.data.arguments: 'cuont' .* mean 'count'"),
        (
            {"image__schedule__factor": 0.0},
            "config.image.schedule.factor is 0.0, needs a number between 0 and 1",
        ),
        (
            {"data": {"source": "fer2013"}},
            "config.data.source is 'synthetic' there and 'fer2013' now",
        ),
        (
            {"data__source": "fer2013"},
            "config.data.arguments: the source 'fer2013' takes none, and 'count' is given",
        ),
        ({"keep": "best"}, "config.keep: 'best' is unknown; there are all, last, restore"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(finished, changes, message):
    before = (finished / "config.json").read_text()
    with pytest.raises(InputError, match=message):
        experiment.run(small_config(**changes), finished)
    assert (finished / "config.json").read_text() == before


@pytest.mark.parametrize(("told", "times"), [(True, 1), (False, 2)])
def test_networks_are_checked_again_where_the_data_are_not_as_told(
    tmp_path, monkeypatch, told, times
):
    """Once before the data are read, and once more only if these are others."""
    checked, make, known = [], plan.make, running.describe

    def describe(data):
        description = known(data)
        return description if told else description._replace(classes=("one", "two"))

    def stop(*_):
        raise InputError("the data were read")

    monkeypatch.setattr(plan, "make", lambda *a, **k: (checked.append(1), make(*a, **k))[1])
    monkeypatch.setattr(running, "describe", describe)
    monkeypatch.setattr(leakage, "describe_samples", stop)  # nothing is trained
    with pytest.raises(InputError, match="the data were read"):
        experiment.run(small_config(networks=("landmarks",)), tmp_path / "run")
    assert len(checked) == times


def test_the_config_of_a_network_may_change_until_its_training_has_begun(tmp_path):
    networks = ("landmarks",)
    experiment.run(small_config(networks=networks), tmp_path)
    experiment.run(small_config(networks=networks, image__learning_rate=0.5), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["image"]["learning_rate"] == 0.5
    with pytest.raises(InputError, match=r"config.landmarks.learning_rate is .* and 0.5 now"):
        experiment.run(small_config(networks=networks, landmarks__learning_rate=0.5), tmp_path)


def test_other_data_in_the_same_run_directory_is_refused(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    data = json.loads((finished / "data.json").read_text())
    data["identity"]["labels"] = "something else"
    (tmp_path / "run" / "data.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match="begun with other data: labels is 'something else' there"):
        experiment.run(small_config(), tmp_path / "run")


def test_a_run_directory_in_use_is_refused_until_that_run_is_dead(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    hold = "import pathlib, sys, time; from fermm.rundir import RunDirectory\n"
    hold += "with RunDirectory(pathlib.Path(sys.argv[1])).lock():\n"
    hold += "    print('held', flush=True); time.sleep(99)"
    other = subprocess.Popen(
        [sys.executable, "-c", hold, tmp_path / "run"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="run: another run is at work there"):
            experiment.run(small_config(), tmp_path / "run")
    finally:
        other.kill()
        other.communicate()
    experiment.run(small_config(), tmp_path / "run")  # the lock has ended with its process
    assert (tmp_path / "run" / "lock").is_file()
    # Killed as soon as it was there: a directory with nothing else is a free one.
    (tmp_path / "new").mkdir()
    shutil.copy(tmp_path / "run" / "lock", tmp_path / "new")
    directory_lib.check(run_config.read(small_config()), RunDirectory(tmp_path / "new"))


def test_a_directory_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        experiment.run(small_config(), tmp_path / "file" / "run")


def test_a_directory_that_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="not empty, and not the directory of a run"):
        experiment.run(small_config(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_fusion_without_its_parts_is_refused_before_any_work(finished, tmp_path):
    config = small_config(networks=("decision_fusion",))
    with pytest.raises(
        InputError,
        match=r"config.decision_fusion.members.image: add 'image'",
    ):
        experiment.run(config, tmp_path / "a")
    config["decision_fusion"]["members"]["image"]["run"] = str(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"in config.decision_fusion.members.image"):
        experiment.run(config, tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("change", ["another split", "fewer faces"])
def test_parts_that_have_seen_the_test_faces_are_refused(finished, tmp_path, monkeypatch, change):
    config = small_config(
        networks=("decision_fusion",),
        decision_fusion__run=str(finished),
        data__split_seed=int(change == "another split"),
    )
    if change == "fewer faces":  # as if one had been set aside: the others are divided anew
        read = synthetic_faces.draw

        def draw(count, **kwargs):
            return read(count, **kwargs).take(np.arange(count - 1))

        monkeypatch.setattr(synthetic_faces, "draw", functools.wraps(read)(draw))
    theirs = rundir.read_samples(finished / "samples.npz")
    their_rows = set(theirs.of("train").rows.tolist())
    own = load(run_config.read(config).run.data)
    held_out = [own.samples.rows[own.splits[k]].tolist() for k in ("validation", "test")]
    seen = sum(row in their_rows for rows in held_out for row in rows)
    assert seen > 0
    with pytest.raises(InputError) as caught:
        experiment.run(config, tmp_path / "a")
    assert str(caught.value) == (
        f"config.decision_fusion.members.image.run: the networks of {finished} were trained on "
        f"{seen} of the {sum(map(len, held_out))} samples by which this run validates and tests: "
        "use the data and the config.data.split and split_seed of that run"
    )
    assert not (tmp_path / "a").exists()


def test_a_damaged_part_of_another_run_is_refused_before_any_work(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "parts")
    where = tmp_path / "parts" / "image" / "seed_0" / "checkpoints" / "2"
    (where / "variables" / "_METADATA").unlink()
    config = small_config(decision_fusion__run=str(tmp_path / "parts"))
    with pytest.raises(InputError) as caught:
        experiment.run(config, tmp_path / "a")
    assert str(caught.value) == (
        f"{where}: damaged checkpoint (variables/_METADATA is missing). The run that trains this "
        "network, called again, goes on from the one before it; in other code, name another "
        "checkpoint."
    )
    assert not (tmp_path / "a").exists()


def test_parts_of_which_it_is_not_known_what_they_have_seen_are_refused(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "parts")
    (tmp_path / "parts" / "samples.npz").unlink()
    config = small_config(
        networks=("decision_fusion",), decision_fusion__run=str(tmp_path / "parts")
    )
    with pytest.raises(InputError, match=r"samples.npz is missing, so which samples trained the"):
        experiment.run(config, tmp_path / "a")


def test_a_part_that_is_not_trained_to_its_end_is_refused(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "half")
    checkpoints = tmp_path / "half" / "landmarks" / "seed_0" / "checkpoints"
    for kept in rundir.epochs(checkpoints):
        file = checkpoints / str(kept) / "meta.json"
        meta = json.loads(file.read_text())
        meta["config"]["landmarks"]["epochs"] = 3
        file.write_text(json.dumps(meta))
        sums = json.dumps(rundir.checksums(file.parent))
        file.with_name("checksums.json").write_text(sums)
    config = small_config(
        networks=("decision_fusion",), decision_fusion__run=str(tmp_path / "half")
    )
    with pytest.raises(InputError, match=r"for config.decision_fusion.members.landmarks"):
        experiment.run(config, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_fusion_does_not_go_on_with_other_parts(finished, tmp_path, epoch):
    """Neither to train nor, trained to its end, to predict."""
    shutil.copytree(finished, tmp_path / "run")
    where = tmp_path / "run" / "decision_fusion" / "seed_0"
    (where / "predictions_test.npz").unlink()
    if epoch == 1:
        shutil.rmtree(where / "checkpoints" / "2")
    other = tmp_path / "other"
    shutil.rmtree(tmp_path / "run" / "landmarks")
    experiment.run(small_config(networks=("landmarks",), seeds=(1,)), other)
    shutil.copytree(other / "landmarks" / "seed_1", tmp_path / "run" / "landmarks" / "seed_0")
    config = small_config(networks=("image", "decision_fusion"))
    with pytest.raises(InputError) as caught:
        experiment.run(config, tmp_path / "run")
    assert str(caught.value) == (
        f"{where}/checkpoints/{epoch}: was trained on other frozen networks than those that are "
        f"there now; delete {where} to have it trained on these, or bring those back"
    )
    shutil.rmtree(where)
    experiment.run(config, tmp_path / "run")


def test_a_new_run_has_work_for_every_process(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "devices", lambda: jax.local_devices() * 4)
    config = small_config(networks=("landmarks",), seeds=(*range(10),), parallel="seeds")
    with pytest.raises(InputError, match=r"is 'seeds' and 2 seeds are trained at once, which leav"):
        training.check_layouts(run_config.read(config), RunDirectory(tmp_path))
    config["seeds"] = config["seeds"][:8]
    training.check_layouts(run_config.read(config), RunDirectory(tmp_path))


def test_jax_names_the_operation_that_makes_a_nan(tmp_path, monkeypatch):
    def train(*_):
        jax.jit(lambda x: jax.lax.fori_loop(0, 2, lambda _, y: jnp.log(y), x))(jnp.float32(-1.0))

    monkeypatch.setattr(running.training, "train_all", train)
    config = small_config(networks=("landmarks",), debug_nans=True)
    with pytest.raises(FloatingPointError, match="encountered in log"):
        experiment.run(config, tmp_path)


@pytest.mark.parametrize("count", [2, 3, 70, 3589])
def test_a_shuffled_modality_comes_from_another_face(count):
    orders = [others(count, seed) for seed in range(10)]
    for seed, order in enumerate(orders):
        assert (np.sort(order) == np.arange(count)).all()
        assert not (order == np.arange(count)).any()
        np.testing.assert_array_equal(order, others(count, seed))
    assert count < 4 or len({order.tobytes() for order in orders}) == 10

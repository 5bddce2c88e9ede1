"""Assessment and report of runs written by hand, whose numbers are known; the pages in Chromium.

No network is trained here: predictions, histories and what checkpoints say are written as
`fermm.experiment` leaves them.
"""

import base64
import collections
import fcntl
import html.parser
import itertools
import json
import math
import os
import re
import runpy
import select
import shutil
import subprocess
import sys
import time

import matplotlib.figure
import numpy as np
import pytest

from configs import paper, synthetic
from fermm.data import fingerprints
from fermm.data.faces import EMOTIONS
from fermm.errors import InputError
from fermm.evaluate import (
    architecture,
    assess,
    captions,
    compare,
    figures,
    metrics,
    report,
    run,
    table,
)
from fermm.evaluate import paper as papers
from fermm.train import checkpoint as checkpoints
from fermm.train import history as history_lib

SIZES = {"train": 42, "validation": 28, "test": 70}
# Faces of the source stand in the splits in another order, as they do in a real run.
ORDER = np.random.RandomState(0).permutation(sum(SIZES.values()))
INDICES = dict(zip(SIZES, np.split(ORDER, [42, 70]), strict=True))
ROWS = 1000 + 3 * np.arange(len(ORDER))
LABELS = np.empty(len(ORDER), np.int32)
for _split in INDICES.values():
    LABELS[_split] = np.arange(len(_split)) % 7
CONFIDENCE = 0.79  # of every decision; the other six classes have 0.035 each

MINUS = "\N{MINUS SIGN}"
NAMES = ("image", "landmarks", "decision_fusion", "feature_fusion")
ALL = range(70)
NOT_ONE = ()


def predictions(split, wrong):
    """Of one network on a split: wrong at these positions of it, where it says the next class."""
    rows, labels = ROWS[INDICES[split]], LABELS[INDICES[split]]
    decisions = labels.copy()
    wrong = list(wrong)
    decisions[wrong] = (labels[wrong] + 1) % 7
    probabilities = np.full((len(labels), 7), (1 - CONFIDENCE) / 6, np.float32)
    probabilities[np.arange(len(labels)), decisions] = CONFIDENCE
    return metrics.Predictions(rows, labels, probabilities)


PAPER = {"title": "FER2013", "fer2013": fingerprints.IN_ORDER, "data__source": "fer2013"}


def fabricate(
    directory,
    wrong,
    *,
    modalities=None,
    copied=(),
    splits=tuple(SIZES),
    title="synthetic faces",
    note="",
    faces="faces",
    fer2013=fingerprints.OTHER,
    seconds=1.5,
    **changes,
):
    """Writes the directory of a finished run.

    Args:
        directory: where.
        wrong: by network, for each seed: positions of the test faces that it gets wrong, or by
            split such positions. It is right wherever nothing is said.
        modalities: by fusion, for each seed: by modality, the positions that its part gets wrong,
            and for each permutation those that the fusion does with it shuffled. By default its
            parts are the networks of the run, and shuffled it does as they do.
        copied: positions of test faces that are copies of training faces.
        splits: `config.evaluate.splits`.
        title: of the data.
        note: about the data.
        faces: their digest.
        fer2013: what they have in common with FER2013.
        seconds: of each of the two epochs.
        changes: of the config, by path with `__`.

    Returns:
        The directory.
    """
    config = synthetic.get_config()
    for name, section in {"image": "image", **dict.fromkeys(wrong, None)}.items():
        if name not in config:
            config[name] = config.decision_fusion if section is None else config[section]
    config.networks = tuple(wrong)
    config.seeds = tuple(range(len(next(iter(wrong.values())))))
    config.evaluate.splits = splits
    if fer2013 == fingerprints.OTHER:
        config.image.arguments.hidden = 16  # a network of its own
    else:
        config.image.arguments = paper.get_config().image.arguments
    for path, value in changes.items():
        *sections, field = path.split("__")
        section = config
        for name in sections:
            section = section[name]
        section[field] = value
    config = config.to_dict()
    identity = {
        "faces": faces,
        "landmarks": "landmarks",
        "fer2013": fer2013,
        "split": config["data"]["split"],
        "split_seed": config["data"]["split_seed"],
        "sizes": SIZES,
    }
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    data = {"title": title, "note": note, "identity": identity}
    (directory / "data.json").write_text(json.dumps(data))
    where = np.empty(len(ORDER), np.int8)
    for i, indices in enumerate(INDICES.values()):
        where[indices] = i
    copies = np.zeros(len(ORDER), bool)
    copies[INDICES["test"][list(copied)]] = True
    weights = np.arange(1.0, 8.0)
    run.save_samples(
        directory, run.Samples(ROWS, LABELS, where, ROWS.astype(np.uint64), copies, weights)
    )

    for name, of_seeds in wrong.items():
        for seed, of_splits in enumerate(of_seeds):
            if not isinstance(of_splits, dict):
                of_splits = {"test": of_splits}
            own = directory / name / f"seed_{seed}"
            for split in splits:
                made = predictions(split, of_splits.get(split, ()))
                own.mkdir(parents=True, exist_ok=True)
                metrics.save_predictions(run.predictions_file(own, split), made)
            parts = (modalities or {}).get(name)
            if parts is None and "head" in config[name] and {"image", "landmarks"} <= set(wrong):
                alone = {
                    part: w["test"] if isinstance(w := wrong[part][seed], dict) else w
                    for part in ("image", "landmarks")
                }
                parts = {seed: {part: (w, [w]) for part, w in alone.items()}}
            if parts:
                run.save_modalities(
                    run.modalities_file(own, splits[-1]),
                    _modalities(of_splits.get("test", ()), parts[seed]),
                )
            history = [
                dict.fromkeys(history_lib.COLUMNS, 0.5) | {"epoch": e, "seconds": seconds}
                for e in (1, 2)
            ]
            history_lib.write(own / "history.csv", history)
            _write_meta(own / "checkpoints" / "2", config, name, seed, history, identity)
    return directory


def _modalities(wrong, parts):
    def decisions(wrong):
        return predictions("test", wrong).decisions.astype(np.int8)

    return run.Modalities(
        ROWS[INDICES["test"]],
        LABELS[INDICES["test"]],
        decisions(wrong),
        {name: decisions(alone) for name, (alone, _) in parts.items()},
        {name: np.stack([decisions(s) for s in shuffled]) for name, (_, shuffled) in parts.items()},
    )


def _write_meta(checkpoint, config, name, seed, history, identity):
    def spec(name):
        of = config[name]
        if "head" not in of:
            return {"model": of["model"], "arguments": of["arguments"]}
        parts = {part: spec(part) for part in ("image", "landmarks")}
        return {"head": of["head"], "arguments": of["arguments"], **parts}

    inputs = {"image": ["images"], "landmarks": ["landmarks"]}.get(name, ["images", "landmarks"])
    meta = {
        "format": checkpoints.FORMAT,
        "network": name,
        "seed": seed,
        "epoch": 2,
        "history": history,
        "spec": spec(name),
        "inputs": inputs,
        "trained": [],
        "parameters": 1234567,
        "labels": EMOTIONS,
        "config": config,
        "data": identity,
        "code": [{"epoch": 1, "files": {}}],
        "versions": {"fermm": "1", "jax": "2", "flax": "3"},
        "machine": {"system": "s", "python": "3", "cores": 2, "devices": "an abacus"},
    }
    checkpoint.mkdir(parents=True)
    (checkpoint / "meta.json").write_text(json.dumps(meta))
    (checkpoint / "checksums.json").write_text(json.dumps(checkpoints._checksums(checkpoint)))


def assessed(directory, *args, **kwargs):
    """A fabricated run, read back, and its assessment, which must be JSON."""
    read = run.load(fabricate(directory, *args, **kwargs))
    found = assess.assess(read)
    assert json.loads(json.dumps(found, allow_nan=False)) == json.loads(json.dumps(found))
    return read, found


def evaluate(*arguments):
    """`python -m fermm.evaluate` with these arguments, in this process."""
    before = sys.argv
    sys.argv = ["fermm.evaluate", *map(str, arguments)]
    # Warns of a module that is there already, which for this one changes nothing.
    sys.modules.pop("fermm.evaluate.__main__", None)
    try:
        runpy.run_module("fermm.evaluate", run_name="__main__")
    finally:
        sys.argv = before


# ------------------------------------------------------------------ what the numbers mean


def test_a_network_that_is_right_where_another_is_wrong_is_better(tmp_path):
    _, found = assessed(tmp_path / "run", {"image": [ALL, ALL], "landmarks": [NOT_ONE, NOT_ONE]})
    (pair,) = found["pairs"]
    assert (pair["better"], pair["worse"], pair["shown"]) == ("landmarks", "image", True)
    difference = pair["difference"]
    assert (difference["mean"], difference["sd"], difference["over_seeds"]) == (1, 0, (1, 1))
    # The seeds are alike, so that it is as for one: of 70 faces 70, by Clopper and Pearson.
    low, high = difference["interval"]
    assert low == pytest.approx(2 * 0.025 ** (1 / 70) - 1)
    assert high == 1
    for seed, test in enumerate(pair["mcnemar"]):
        assert (test["seed"], test["only_better"], test["only_worse"]) == (seed, 70, 0)
        # All 70 heads, or all tails.
        assert test["p"] == pytest.approx(2 * 0.5**70)
        assert test["p_corrected"] == pytest.approx(test["p"], rel=0.5)  # there is one pair
    assert found["best"] == ["landmarks"]
    (sentence,) = found["sentences"]
    assert sentence.startswith(
        "landmarks is better than image by 100.0 points, simultaneous 95% interval 89."
    )


def test_networks_that_are_right_on_the_same_faces_do_not_differ(tmp_path):
    half = range(35)
    read, found = assessed(tmp_path / "run", {"image": [half], "landmarks": [half]})
    (pair,) = found["pairs"]
    low, high = pair["difference"]["interval"]
    assert low == -high
    assert pair["mcnemar"][0]["p"] == pair["p"] == 1
    assert not pair["shown"]
    shown = table.differences(read, found)
    assert shown.rows[0][1:] == [
        "not shown", "0.0", f"{MINUS}2.7 to 2.7", "1.000", "1.000", "0 against 0"
    ]  # fmt: skip
    assert found["best"] == ["image", "landmarks"]
    assert found["headline"].startswith(
        "image and landmarks have the highest accuracy on the 70 test faces: 50.0% "
    )


def test_few_faces_show_a_large_difference_and_not_a_small_one(tmp_path):
    """Half, half of the others, one face more, and all: what intervals must tell apart."""
    wrong = {
        "image": [range(35)],
        "landmarks": [range(35, 70)],
        "decision_fusion": [range(36, 70)],
        "feature_fusion": [NOT_ONE],
    }
    read, found = assessed(tmp_path / "run", wrong)
    verdicts = {(p["better"], p["worse"]): p["shown"] for p in found["pairs"]}
    assert verdicts == {
        ("image", "landmarks"): False,
        ("decision_fusion", "image"): False,
        ("decision_fusion", "landmarks"): False,  # one face of seventy
        ("feature_fusion", "image"): True,
        ("feature_fusion", "landmarks"): True,
        ("feature_fusion", "decision_fusion"): True,
    }
    by_names = {(p["better"], p["worse"]): p for p in found["pairs"]}
    only = by_names["decision_fusion", "image"]["mcnemar"][0]
    assert (only["only_better"], only["only_worse"]) == (35, 34)
    for pair in found["pairs"]:
        (test,) = pair["mcnemar"]
        assert pair["shown"] == (pair["p"] < 0.05) == (pair["simultaneous"][0] > 0)
        assert pair["p"] >= (1 - 1e-6) * test["p_corrected"] >= (1 - 1e-6) * test["p"]
    words = [row[1] for row in table.differences(read, found).rows]
    assert words.count("better") == 3
    assert words.count("not shown") == 3
    assert all(s.startswith("As trained here, ") for s in found["sentences"])
    assert sum(" recognises more of these faces than " in s for s in found["sentences"]) == 3
    assert sum(" is not shown to recognise more faces than " in s for s in found["sentences"]) == 3
    assert found["best"] == ["feature_fusion"]
    assert "not shown to be worse" not in found["headline"]
    assert "One seed: intervals over the choice of faces" in found["headline"]


def test_the_headline_names_all_that_are_not_shown_to_be_worse(tmp_path):
    """A tie, one face fewer, and half: the first three are not told apart."""
    wrong = {
        "image": [range(35)],
        "landmarks": [range(10, 15)],
        "decision_fusion": [range(5)],
        "feature_fusion": [range(4, 10)],
    }
    _, found = assessed(tmp_path / "run", wrong)
    assert found["best"] == ["landmarks", "decision_fusion", "feature_fusion"]
    assert found["headline"].startswith(
        "landmarks and decision_fusion have the highest accuracy on the 70 test faces: "
        "92.9% (95% interval 84.3 to 96.9); not shown to be worse: feature_fusion 91.4% ("
    )


def test_four_faces_against_none_are_not_shown(tmp_path):
    _, found = assessed(tmp_path / "run", {"image": [range(4)], "landmarks": [NOT_ONE]})
    (pair,) = found["pairs"]
    assert (pair["mcnemar"][0]["only_better"], pair["mcnemar"][0]["only_worse"]) == (4, 0)
    assert not pair["shown"]
    accuracy = found["networks"]["landmarks"]["accuracy"]
    assert accuracy["mean"] == 1
    assert accuracy["interval"] == pytest.approx((70 / (70 + 1.959964**2), 1))


def test_a_class_without_faces_has_a_dash(tmp_path):
    """Where every "neutral" is a training face; and one class is never predicted."""
    neutral = 6
    directory = fabricate(tmp_path / "run", {"image": [NOT_ONE, NOT_ONE]})
    samples = run.load_samples(directory / "samples.npz")
    labels = np.where(samples.labels == neutral, 5, samples.labels)
    run.save_samples(directory, samples._replace(labels=labels))
    for file in directory.rglob("predictions_*.npz"):
        made = metrics.load_predictions(file)
        decisions = np.where(made.labels == 5, neutral, made.labels) * (made.labels != 1)
        changed = made._replace(
            labels=np.where(made.labels == neutral, 5, made.labels),
            probabilities=np.eye(7, dtype=np.float32)[decisions],
        )
        metrics.save_predictions(file, changed)
    read = run.load(directory)
    found = assess.assess(read)
    of = found["networks"]["image"]["by_class"]
    assert of["faces"] == [10, 10, 10, 10, 10, 20, 0]
    assert of["recall"][neutral] is None
    assert of["recall_interval"][neutral] is None
    assert of["precision"][1] is None  # no face is taken for it
    assert of["f1"] == pytest.approx([2 / 3, 0, 1, 1, 1, 0, 0])
    json.dumps(found, allow_nan=False)
    assert table.by_class(read, found, "recall").rows[0][-1] == "\N{EN DASH}"
    assert table.by_class(read, found, "precision").rows[0][2] == "\N{EN DASH}"


def test_metrics_by_hand(tmp_path):
    read, found = assessed(tmp_path / "run", {"image": [range(35), range(28)]})
    of = found["networks"]["image"]
    assert of["accuracy"]["seeds"] == [0.5, 0.6]
    assert of["accuracy"]["mean"] == pytest.approx(0.55)
    right, wrong = -math.log(0.79), -math.log(0.035)
    losses = [(35 * right + 35 * wrong) / 70, (42 * right + 28 * wrong) / 70]
    np.testing.assert_allclose(of["log_loss"]["seeds"], losses, rtol=1e-6)  # float32
    # (0.79 - 1)^2 or 0.79^2 for the decision, (0.035 - 1)^2 for a truth that is not decided.
    right, wrong = 0.21**2 + 6 * 0.035**2, 0.79**2 + 0.965**2 + 5 * 0.035**2
    scores = [(35 * right + 35 * wrong) / 70, (42 * right + 28 * wrong) / 70]
    np.testing.assert_allclose(of["brier"]["seeds"], scores, rtol=1e-6)
    # Always as sure, so that the error is the gap of the means, less the variance of chance.
    squares = [0.29**2 - 0.5 * 0.5 / 69, 0.19**2 - 0.6 * 0.4 / 69]
    error = of["calibration_error"]
    np.testing.assert_allclose(error["seeds"], np.sqrt(squares), rtol=1e-5)
    assert error["mean"] == pytest.approx(np.sqrt(np.mean(squares)))
    assert 0.05 < error["calibrated_below"] < 0.12
    (only,) = of["reliability"]
    assert (only["decisions"], only["confidence"]) == (140, pytest.approx(0.79))
    assert only["accuracy"] == pytest.approx(0.55)
    # Two seeds about the same 70 faces.
    assert only["interval"] == pytest.approx((0.4339, 0.6609), abs=1e-4)
    # Of each class five or four are taken for the next.
    for score in ("recall", "precision", "f1"):
        np.testing.assert_allclose(of["by_class"][score], [0.55] * 7)
    np.testing.assert_allclose(of["macro_f1"]["seeds"], [0.5, 0.6])
    assert of["splits"]["train"]["accuracy"] == 1
    assert of["seconds"] == 3
    # By Student's t for one degree of freedom +- 63.5, but no accuracy is above 100%.
    assert of["accuracy"]["over_seeds"] == (0, 1)
    (row,) = table.merits(read, found).rows
    assert [cell.split(" (")[0] for cell in row[:2]] == ["image", "55.0 ± 7.1"]
    assert row[-2].startswith("23.8 ± 7.3 (")
    assert row[-1] == f"{100 * error['calibrated_below']:.1f}"


def test_duplicates_are_counted_and_left_out(tmp_path):
    wrong = {"image": [range(35)], "landmarks": [range(28, 70)]}
    read, found = assessed(tmp_path / "run", wrong, copied=range(7))
    assert (found["faces"], found["duplicates"]) == (70, 7)
    without = {k: v["accuracy_without_duplicates"]["mean"] for k, v in found["networks"].items()}
    # The image network was wrong on all seven, the other right: 35 and 21 right of 63.
    np.testing.assert_allclose([without["image"], without["landmarks"]], [35 / 63, 21 / 63])
    # Position i has class i % 7: of each class the first is a copy, so that the shares stay.
    same = "accuracy_without_duplicates_same_shares"
    assert found["networks"]["image"][same]["mean"] == pytest.approx(35 / 63)
    shown = table.duplicates(read, found)
    assert shown.caption.startswith(
        "Accuracy in percent with and without the 7 of the 70 test faces (10.0%)"
    )
    assert [row[:3] for row in shown.rows] == [
        ["image", "50.0", "55.6"],
        ["landmarks", "40.0", "33.3"],
    ]


def test_without_duplicates_the_shares_of_the_classes_are_held_fixed(tmp_path):
    """All but one of the "angry" faces are copies; the network is wrong on "angry" alone."""
    angry = range(0, 70, 7)
    _, found = assessed(tmp_path / "run", {"image": [angry]}, copied=list(angry)[1:])
    of = found["networks"]["image"]
    assert of["accuracy"]["mean"] == pytest.approx(60 / 70)
    assert of["accuracy_without_duplicates"]["mean"] == pytest.approx(60 / 61)
    assert of["accuracy_without_duplicates_same_shares"]["mean"] == pytest.approx(60 / 70)


@pytest.mark.parametrize("copied", [(), ALL])
def test_without_copies_or_without_others_there_is_no_such_table(tmp_path, copied):
    read, found = assessed(tmp_path / "run", {"image": [range(35)]}, copied=copied)
    assert found["duplicates"] == len(copied)
    of = found["networks"]["image"]
    assert of["accuracy_without_duplicates"] is None
    assert of["accuracy_without_duplicates_same_shares"] is None
    assert table.duplicates(read, found) is None


def test_modalities_by_hand(tmp_path):
    """A fusion that does not look at the landmarks, and right on 56 faces.

    Without its image it is wrong on 14 more, the first 14, with one of two permutations, and wrong
    as before with the other.
    """
    fused = range(56, 70)
    parts = {
        "image": (range(42, 70), [[*range(14), *fused], fused]),
        "landmarks": (range(49), [fused, fused]),
    }
    read, found = assessed(
        tmp_path / "run",
        {"decision_fusion": [fused]},
        modalities={"decision_fusion": [parts]},
    )
    of = found["fusions"]["decision_fusion"]
    assert of["fused"]["mean"] == 0.8
    # Either is right: all but 42 to 48.
    assert of["either"]["mean"] == pytest.approx(0.9)
    image, landmarks = of["modalities"]["image"], of["modalities"]["landmarks"]
    for key in ("cost", "changed"):
        assert landmarks[key]["mean"] == 0
        assert landmarks[key]["interval"][0] <= 0 < landmarks[key]["interval"][1] < 0.06
        assert image[key]["mean"] == pytest.approx(0.1)
        assert image[key]["interval"][0] > 0
    assert landmarks["changed_by_class"] == [0] * 7
    assert image["changed_by_class"] == pytest.approx([0.1] * 7)  # half of two in ten
    assert image["shuffled"]["mean"] == pytest.approx(0.7)
    (shown,) = table.modalities(read, found)
    assert shown.caption.startswith(
        "decision_fusion: accuracy 80.0%; of an oracle that takes whichever member is right 90.0%"
    )
    assert shown.rows[1] == ["landmarks", "30.0", "80.0", f"0.0 ({MINUS}2.7 to 2.7)", "0.0"]
    assert shown.rows[0][:3] == ["image", "60.0", "70.0"]


def audit_of(found):
    rows = collections.defaultdict(list)
    for row in found["audit"]:
        rows[row["number"]].append(row)
    return rows


# Few of the 28 validation and 42 training faces: right on all of either is no proof of a small gap.
SOME = {"validation": NOT_ONE, "train": range(20)}


def test_an_audit_that_is_met(tmp_path):
    wrong = {
        "image": [{"test": range(20), **SOME}],
        "landmarks": [{"test": range(30), **SOME}],
        "decision_fusion": [SOME],
        "feature_fusion": [SOME],
    }
    _, found = assessed(tmp_path / "run", wrong, **PAPER)
    rows = audit_of(found)
    assert {number: [row["met"] for row in of] for number, of in rows.items()} == {
        **{f"functional {i}": [True] for i in range(1, 6)},
        "non-functional 1": [True],
        "non-functional 2": [True],
        "non-functional 3": [True, True],
        "non-functional 4": [True, True],
        "non-functional 5": [True] * 4,
        "non-functional 6": [True],
    }
    assert rows["functional 3"][0]["value"] == "Fusion of decisions, Fusion of features"
    assert rows["functional 4"][0]["value"] == "decision, feature"
    assert rows["functional 5"][0]["value"] == (
        "FER2013 (all of FER2013, in its order); landmarks by dlib in the images"
    )
    other = {"title": "Mine", "fer2013": fingerprints.OTHER, "data__source": "fer2013"}
    [row] = audit_of(assessed(tmp_path / "other", wrong, **other)[1])["functional 5"]
    assert row["value"] == "Mine (other faces); landmarks by dlib in the images"
    assert row["met"] is None
    assert rows["non-functional 1"][0]["value"] == "fermm 1, JAX 2, Flax 3"
    assert rows["non-functional 2"][0]["value"] == "4 of 4"
    assert rows["non-functional 3"][0]["value"] == "71.4%, 95% interval 59.9 to 80.7"
    for number in (3, 4, 5):
        for row in rows[f"non-functional {number}"]:
            assert row["requirement"].startswith("As trained here, ")  # one seed
    assert "28.6 points above image alone" in rows["non-functional 4"][0]["value"]
    assert "42.9 points above landmarks alone" in rows["non-functional 4"][0]["value"]
    assert rows["non-functional 6"][0]["value"] == "12 s on an abacus, 2 cores"
    assert {row[-1] for row in table.audit(found).rows} == {"met"}


def test_an_audit_that_is_not_met(tmp_path):
    wrong = {
        "image": [{"test": range(41)}],  # 29 of 70, where 30 are three times chance
        "landmarks": [{"test": range(60), "validation": range(14)}],
        "decision_fusion": [{"test": range(40), "validation": range(1)}],  # one face better
    }
    _, found = assessed(tmp_path / "run", wrong, seconds=600)
    rows = audit_of(found)
    met = {number: [row["met"] for row in of] for number, of in rows.items()}
    assert met["functional 4"] == [False]  # there is no fusion of features
    assert met["functional 5"] == [False]  # drawn faces
    assert met["non-functional 3"] == [None, False]
    assert met["non-functional 4"] == [None]
    assert met["non-functional 5"] == [None, False, None]  # gaps of 0, 50 and 3.57 points
    values = [row["value"] for row in rows["non-functional 5"]]
    assert values[0] == f"0.0 points, 95% interval {MINUS}8.4 to 12.1"
    assert values[1].startswith("50.0 points, 95% interval 3")
    assert values[2].startswith(f"3.6 points, 95% interval {MINUS}")
    assert met["non-functional 6"] == [False]  # an hour, not less
    assert rows["non-functional 6"][0]["value"].startswith("3,600 s")


@pytest.mark.parametrize(("right", "met"), [(42, True), (30, None), (18, False)])
def test_the_audit_goes_by_the_interval_of_the_accuracy(tmp_path, right, met):
    """Three times chance is 30 of 70; the interval of 42 begins at 48%, that of 18 ends at 37%."""
    _, found = assessed(tmp_path / "run", {"image": [range(70 - right)]})
    (row,) = audit_of(found)["non-functional 3"]
    assert row["met"] is met


def test_the_audit_and_the_verdicts_agree(tmp_path):
    """A fusion's gains over parts that are networks of the run are the differences of the pairs."""
    _, found = assessed(tmp_path / "run", RIGHT, modalities=None)
    by_names = {(p["better"], p["worse"]): p for p in found["pairs"]}
    for name in ("decision_fusion", "feature_fusion"):
        for part, of in found["fusions"][name]["modalities"].items():
            pair = by_names[name, part]
            gain = of["gain"]
            assert gain["mean"] == pytest.approx(pair["difference"]["mean"])
            assert gain["simultaneous"] == pytest.approx(pair["simultaneous"])
            assert (gain["p"], gain["shown"]) == (pair["p"], pair["shown"])


def test_an_audit_that_cannot_tell(tmp_path):
    """Fusions whose parts are in another run, assessed on test data alone."""
    wrong = {"decision_fusion": [range(20)], "feature_fusion": [range(20)]}
    _, found = assessed(tmp_path / "run", wrong, splits=("test",))
    rows = audit_of(found)
    assert [row["met"] for row in rows["non-functional 4"]] == [None, None]
    assert rows["non-functional 4"][0]["value"] == "what its parts say is not known"
    assert [row["met"] for row in rows["non-functional 5"]] == [None, None]
    assert rows["non-functional 5"][0]["value"] == "not evaluated on both"
    assert [row["met"] for row in rows["functional 1"] + rows["functional 2"]] == [False, False]
    assert "non-functional 3" not in rows
    assert [row[-1] for row in table.audit(found).rows].count("cannot tell") == 4


def test_a_fusion_below_its_part_is_said_to_be(tmp_path):
    wrong = {"image": [NOT_ONE], "landmarks": [ALL], "decision_fusion": [range(35)]}
    _, found = assessed(tmp_path / "run", wrong)
    (row,) = audit_of(found)["non-functional 4"]
    assert row["met"] is False
    assert row["requirement"] == "As trained here, decision_fusion is better than both its members."
    assert "50.0 points below image alone" in row["value"]
    assert "50.0 points above landmarks alone" in row["value"]


# ------------------------------------------------------------------ tables


def test_table_1_by_hand(tmp_path):
    read = run.load(fabricate(tmp_path / "run", {"image": [NOT_ONE]}))
    made = table.table_1(read)
    assert made.head == ["emotion", "faces", "train", "validation", "test", "weight"]
    assert made.rows[0] == ["angry", "20", "6", "4", "10", "1.000"]
    assert [row[0] for row in made.rows] == list(EMOTIONS)
    assert [row[-1] for row in made.rows] == [f"{i}.000" for i in range(1, 8)]
    assert made.caption.startswith("Synthetic faces: ")  # not the paper's table 1


def test_tables_of_the_papers_split_have_its_numbers_beside(tmp_path):
    wrong = {"image": [range(35), range(28)], "other": [ALL, ALL]}
    own = {"other__arguments": {"classes": 7, "width": 3}}
    read = run.load(fabricate(tmp_path / "run", wrong, **PAPER, **own))
    made = table.table_2(read)
    assert made.head == ["network", "train", "validation", "paper", "test", "paper"]
    assert made.rows == [
        ["NN1 (image)", "100.0 ± 0.0", "100.0 ± 0.0", "47.0", "55.0 ± 7.1", "45.2"],
        ["other", "100.0 ± 0.0", "100.0 ± 0.0", "", "0.0 ± 0.0", ""],
    ]
    assert made.caption == (
        "Table 2. Accuracy in percent on FER2013, mean and standard deviation over 2 seeds."
    )
    assert table.table_1(read).rows[1][-2:] == ["547", "16.433"]
    # Another split, rows in another order, other faces: no number of the paper.
    differences = {
        "seed": {"data__split_seed": 1},
        "split": {"data__split": "grouped"},
        "order": {"fer2013": fingerprints.REORDERED},
        "faces": {"fer2013": fingerprints.OTHER, "title": "own faces"},
    }
    for name, changes in differences.items():
        other = run.load(fabricate(tmp_path / name, {"image": [range(35)]}, **(PAPER | changes)))
        assert other.is_fer2013 == (name != "faces")
        assert table.table_2(other).head == ["network", "train", "validation", "test"]
        title = "image" if name == "faces" else "NN1 (image)"
        assert table.table_2(other).rows == [[title, "100.0", "100.0", "50.0"]]
        what = "own faces" if name == "faces" else "FER2013"
        assert table.table_2(other).caption == f"Accuracy in percent on {what}, one seed."


NN1 = {"model": "nn1", "arguments": {"filters": [16, 32, 64], "hidden": 512, "features": 16}}
NN2 = {"model": "nn2", "arguments": {"dropout": 0.2}}


@pytest.mark.parametrize(
    ("spec", "title"),
    [
        (NN1, "NN1 (image)"),
        (NN2, "NN2 (landmarks)"),
        ({"head": "decision", "arguments": {}, "image": NN1, "landmarks": NN2}, "decisions"),
        ({"head": "feature", "arguments": {}, "image": NN1, "landmarks": NN2}, "features"),
        ({"model": "nn1", "arguments": {"hidden": 256}}, None),
        ({"model": "nn1", "arguments": {"dtype": "bfloat16"}}, None),
        ({"model": "nn1", "arguments": {"filters": [16, 32]}}, None),
        ({"model": "nobody registered this", "arguments": {}}, None),
        # The paper's head over another member, and another head over the paper's members.
        ({"head": "decision", "arguments": {}, "image": NN2, "landmarks": NN2}, None),
        (
            {"head": "feature", "arguments": {"hidden": [8, 8]}, "image": NN1, "landmarks": NN2},
            None,
        ),
    ],
)
def test_only_the_papers_networks_bear_its_names(spec, title):
    found = papers.find(spec)
    if title is None:
        assert found is None
    else:
        assert found.title.endswith(title)


def test_own_networks_are_called_by_their_own_names(tmp_path):
    """Another network in the section `landmarks`, and the paper's in one of another name."""
    wrong = {"landmarks": [ALL], "mine": [NOT_ONE], "image": [NOT_ONE]}
    changes = {
        "landmarks__model": "mynet",
        "mine": paper.get_config().landmarks.copy_and_resolve_references(),
    }
    read = run.load(fabricate(tmp_path / "run", wrong, **PAPER, **changes))
    assert read.titles == {
        "landmarks": "landmarks",
        "mine": "NN2 (landmarks)",
        "image": "NN1 (image)",
    }
    made = table.table_2(read)
    assert [row[-1] for row in made.rows] == ["", "43.9", "45.2"]
    assert table.times(read).rows[0][:2] == ["landmarks", "mynet"]
    # Two of the same network are told apart by their sections.
    known = dict.fromkeys(("a", "b"), papers.KNOWN[0])
    assert papers.titles(known | {"c": None}) == {
        "a": "NN1 (image), a",
        "b": "NN1 (image), b",
        "c": "c",
    }


def test_one_table_has_all_metrics_with_their_intervals(tmp_path):
    read, found = assessed(tmp_path / "run", {"image": [range(35)], "landmarks": [range(7)]})
    made = table.merits(read, found)
    assert made.head[:3] == ["network", "Accuracy in %", "Macro F1 in %"]
    assert len(made.head) == len(metrics.METRICS) + 2
    for row, name in zip(made.rows, ("image", "landmarks"), strict=True):
        assert row[0] == name
        of = found["networks"][name]
        for cell, metric in zip(row[1:], metrics.METRICS, strict=False):
            factor, digits = (100, 1) if metrics.METRICS[metric].percent else (1, 3)
            low, high = (f"{factor * x:.{digits}f}" for x in of[metric]["interval"])
            assert cell == f"{factor * of[metric]['mean']:.{digits}f} ({low} to {high})"


def test_a_table_as_text_and_as_markdown():
    made = table.Table("Caption.", ["", "long head"], [["row", "1"], ["a|b", "22"]])
    assert made.text() == "Caption.\n     long head\nrow          1\na|b         22"
    assert made.markdown().splitlines() == [
        "Caption.",
        "",
        "|  | long head |",
        "| --- | ---: |",
        "| row | 1 |",
        r"| a\|b | 22 |",
    ]


# ------------------------------------------------------------------ pages


class Page(html.parser.HTMLParser):
    """Elements of a page, by the standard library's parser; fails where tags do not nest.

    Attributes:
        elements: tag and attributes of each, in order.
        tables: for each its caption, rows of its head, and rows of its body, as lists of text.
        text: all of it, in order, without the style sheet's.
    """

    VOID = ("meta", "link", "img", "wbr")

    def __init__(self, source):
        super().__init__()
        self.elements, self.tables, self.text = [], [], ""
        self._open = []
        self.feed(source)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes)
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append({"caption": "", "thead": [], "tbody": []})
        if tag == "tr":
            self.tables[-1][self._open[-2]].append([])
        if tag in ("td", "th"):
            self.tables[-1][self._open[-3]][-1].append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" in self._open:
            return
        self.text += data
        if "caption" in self._open:
            self.tables[-1]["caption"] += data
        cells = [i for i, tag in enumerate(self._open) if tag in ("td", "th")]
        if cells:
            self.tables[-1][self._open[cells[0] - 2]][-1][-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def check_page(source):
    """What holds for every page; returns it parsed."""
    page = Page(source)
    # Nothing outside: no script, no address but of the page itself or a picture within it.
    assert not page.all("script")
    for _, attributes in page.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            address = attributes.get(name, "#")
            assert address.startswith(("data:", "#")), address
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"url\(|@import", source)
    for image in page.all("img"):
        assert image["alt"].strip()
        kind, _, content = image["src"].partition(";base64,")
        begins = {"data:image/svg+xml": b"<?xml", "data:image/png": b"\x89PNG"}[kind]
        assert base64.b64decode(content, validate=True).startswith(begins)
    for table_ in page.tables:
        assert table_["caption"].strip()
        (head,) = table_["thead"]
        assert table_["tbody"]
        assert {len(row) for row in table_["tbody"]} == {len(head)}
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    links = [a["href"].removeprefix("#") for a in page.all("a")]
    assert links
    assert set(links) <= set(ids)
    labels = [a["aria-labelledby"] for _, a in page.elements if "aria-labelledby" in a]
    assert set(labels) <= set(ids)
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert headings[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(headings))
    assert headings.count(1) == 1
    assert [len(page.all(tag)) for tag in ("header", "nav", "main", "title")] == [1] * 4
    assert dict(page.elements[0][1]) == {"lang": "en"}
    return page


PIXEL = report.address(b"\x89PNG", ".png")


def test_what_is_given_as_text_stays_text():
    nasty = """<b>x</b> & "y" 'z' <script>alert(1)</script>"""
    shown = report.Section(
        heading="A & B",
        sentences=[nasty, "second"],
        tables=[table.Table(nasty, ["", nasty], [[nasty, nasty]], words=True)],
        notes=[nasty],
        figures=[
            {
                "caption": nasty,
                "pictures": [
                    {"description": nasty, "address": PIXEL, "failure": ""},
                    {"description": nasty, "address": "", "failure": nasty},
                ],
            }
        ],
        folded=True,
    )
    source = report.render(nasty, [shown])
    page = check_page(source)
    assert not page.all("b")
    # Title, heading, sentence, note, figure that is missing, below the figure, and in the table the
    # caption, head and twice in the row.
    assert page.text.count(nasty) == 10
    assert page.tables == [{"caption": nasty, "thead": [["", nasty]], "tbody": [[nasty, nasty]]}]
    assert page.all("img")[0]["alt"] == nasty
    assert page.all("section")[0]["id"] == "a-b"
    assert page.all("details")


def test_an_empty_section_is_one():
    page = check_page(report.render("Nothing", [report.Section("First"), report.Section("Second")]))
    assert [a["href"] for a in page.all("a")] == ["#first", "#second"]
    assert not page.all("details")


RIGHT = {
    "image": [range(30), range(33)],
    "landmarks": [range(30, 66), range(30, 70)],
    "decision_fusion": [range(15), range(17)],
    "feature_fusion": [range(15, 40), range(16, 41)],
}
PARTS = {
    "image": (range(30), [range(40), range(35)]),
    "landmarks": (range(30, 66), [range(20), range(25)]),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run of everything, two seeds, copies, a directory with a name to escape; evaluated.

    Figures as SVG alone and no architectures, which take longer than all else and have tests of
    their own; one picture as it is drawn from the data.
    """
    directory = fabricate(
        tmp_path_factory.mktemp("written") / "R&D <1>",
        RIGHT,
        modalities={name: [PARTS, PARTS] for name in NAMES[2:]},
        copied=range(5),
        **PAPER,
        feature_fusion__trainable=("landmarks/(norm|logits)/.*", "head/.*", "!.*"),
    )
    (directory / "figures").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "save", lambda made, to: made.savefig(f"{to}.svg"))
        patch.setattr(architecture, "save", lambda *_, **__: None)
        picture = matplotlib.figure.Figure(figsize=(7.4, 2))
        picture.savefig(directory / "figures" / "samples.png", dpi=200)
        evaluate(directory)
    return directory


def test_the_report_of_a_run_stands_alone(written):
    page = check_page((written / "report.html").read_text())
    assert page.text.count("FER2013, R&D <1>") == 2
    headings = ["In short", "Comparisons", "By emotion", "Calibration", "Modalities", "Training"]
    headings += ["Audit", "Data"]
    for heading in headings:
        assert page.text.count(heading) >= 2  # in the navigation, and above
    titled = [made["caption"] for made in page.tables]
    for part in ("Table 1. ", "Table 2. ", "All metrics on test data", "Accuracy in percent with"):
        assert sum(caption.startswith(part) for caption in titled) == 1
    assert len(page.all("img")) >= 7  # those of faces are drawn where the data is
    stems = ("accuracies", "differences", "recall_by_class", "recall_gains", "validation_loss")
    stems += ("confusion_matrix_image", "reliability_landmarks", "modalities_feature_fusion")
    for stem in stems:
        assert (written / "figures" / f"{stem}.svg").is_file()
    # Before anything else: the result, what changes its meaning, and the figure.
    first = [page.text.index(x) for x in ("the highest accuracy", "5 of the 70 test faces (7.1%)",
             "Accuracy on the 70 test faces.", "All metrics on test data")]  # fmt: skip
    assert first == sorted(first)
    assert "Fusion of decisions has the highest accuracy on the 70 test faces: 77.1%" in page.text
    assert "Few test faces show angry (10), disgust (10)" in page.text


def test_the_other_files_have_the_same_numbers(written):
    page = Page((written / "report.html").read_text())
    written_tables = (written / "tables.md").read_text()
    shown = [line for line in written_tables.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in shown]
    rows = [[cell.replace(r"\|", "|") for cell in row] for row in rows if row[0] != "---"]
    assert rows == [row for made in page.tables for row in (*made["thead"], *made["tbody"])]
    values = json.loads((written / "metrics.json").read_text())
    assert values["image"]["test"]["accuracy"] == [40 / 70, 37 / 70]
    assert values["image"]["test"]["count"] == 70
    assert values["image"]["seconds"] == [3, 3]
    found = json.loads((written / "assessment.json").read_text())
    assert found["networks"]["image"]["accuracy"]["seeds"] == [40 / 70, 37 / 70]
    assert not list(written.rglob("*.tmp*"))


def test_called_again_from_within_the_report_is_the_same(written, capsys, monkeypatch):
    names = ("report.html", "tables.md", "assessment.json", "metrics.json")
    before = [(written / name).read_bytes() for name in names]
    monkeypatch.setattr(figures, "save_all", lambda *_: {})
    monkeypatch.setattr(architecture, "save", lambda *_, **__: None)
    monkeypatch.chdir(written)
    evaluate(".")
    assert [(written / name).read_bytes() for name in names] == before
    assert "Table 2. Accuracy in percent on FER2013" in capsys.readouterr().out


def test_a_figure_that_cannot_be_drawn_is_named_and_the_rest_is_written(
    tmp_path, capsys, monkeypatch
):
    """One that fails, one whose file cannot be written, one of a network that nobody registers."""
    own = synthetic.get_config().image
    own.model = "not here"
    wrong = {"image": [range(35)], "own": [NOT_ONE]}
    directory = fabricate(tmp_path / "run", wrong, own=own)
    drawn = directory / "figures"
    (drawn / "validation_loss.svg").mkdir(parents=True)  # in the way
    (drawn / "accuracies.svg").write_text("of an earlier call")
    (drawn / "architecture_own.svg").write_text("<?xml by the run")

    def fail(*_, **__):
        raise ZeroDivisionError("no such\nluck")

    monkeypatch.setattr(figures, "forest", fail)
    monkeypatch.setattr(figures, "save_confusion_matrix", lambda stem, **_: None)
    monkeypatch.setattr(figures, "save_reliability", lambda stem, **_: None)
    evaluate(directory)
    said = capsys.readouterr().out.splitlines()
    named = [line.split(":")[0] for line in said if line.startswith("figure ")]
    assert named == [f"figure {x}" for x in ("accuracies", "differences", "validation_loss",
                                             "architecture_own")]  # fmt: skip
    assert "figure accuracies: not drawn (ZeroDivisionError: no such); all else is written" in said
    assert said[-1].endswith("report.html: written")
    page = check_page((directory / "report.html").read_text())
    assert "figures/accuracies could not be drawn: ZeroDivisionError: no such" in page.text
    assert not (drawn / "accuracies.svg").exists()  # it would show other numbers
    assert (drawn / "architecture_own.svg").is_file()  # the network is what it was
    assert (drawn / "validation_accuracy.png").is_file()
    assert (drawn / "architecture_image.svg").is_file()


def test_a_caption_names_the_best_only_where_the_intervals_do(tmp_path):
    found = {"a": (0.9, (0.8, 0.95)), "b": (0.5, (0.4, 0.6)), "c": (0.45, (0.3, 0.7)),
             "d": (0.2, (0.1, 0.35))}  # fmt: skip
    assert captions.extremes(found) == (["a"], ["d", "c"])
    assert captions.extremes({"a": (0.5, (0.4, 0.6)), "b": (0.5, (0.4, 0.6))}) == (
        ["a", "b"],
        ["b", "a"],
    )
    # Of ten faces each, angry ones are never wrong, happy ones always, three of the others.
    emotions = np.arange(70) % 7
    wrong = [i for i in range(70) if emotions[i] == 3 or (emotions[i] != 0 and i < 21)]
    read, of = assessed(tmp_path / "run", {"image": [wrong]})
    caption = captions.recall(read, of)
    # Wilson's intervals, 0 and 10 and 7 of 10 faces: 0 to 28, 72 to 100, 40 to 89.
    assert caption.endswith(
        "image recognises angry (100%, 72 to 100), or disgust or fear or sad or surprise or "
        "neutral, best and happy (0%, 0 to 28) worst. Where several are named, their intervals "
        "overlap."
    )
    read, of = assessed(tmp_path / "equal", {"image": [range(35)]})
    assert captions.recall(read, of).endswith("Which emotion image recognises best, is not shown.")


def test_captions_of_training_by_hand(tmp_path):
    read = run.load(fabricate(tmp_path / "run", {"image": [NOT_ONE]}))
    history = read.networks["image"][0].history
    history[0] |= {"val_loss": 0.25, "val_accuracy": 0.75}
    history[1] |= {"val_loss": 0.5, "accuracy": 0.8, "val_accuracy": 0.6}
    text = captions.validation(read)
    assert (
        "image ends at an accuracy of 60.0%, its loss is lowest in epoch 1 of 2, 0.250 be" in text
    )
    assert "In the last epoch it is 20.0 points above it for image" in captions.training(read)


def test_what_changes_the_meaning_of_the_numbers_stands_at_the_top(tmp_path):
    read, found = assessed(tmp_path / "run", {"image": [range(35)]}, note="not the paper's split")
    made = report.notes(read, found)
    assert made[:2] == [
        "The faces are synthetic. Nothing measured on them says anything about real ones.",
        "Not the paper's split.",
    ]
    assert made[2].startswith("Few test faces show angry (10), disgust (10), fear (10)")


# ------------------------------------------------------------------ several runs


def test_two_configs_on_the_same_faces(tmp_path, capsys):
    one = fabricate(tmp_path / "one", {"image": [ALL, ALL], "landmarks": [range(35), range(35)]})
    two = fabricate(
        tmp_path / "two & more",
        {"image": [NOT_ONE, NOT_ONE, NOT_ONE], "decision_fusion": [NOT_ONE] * 3},
        image__learning_rate=0.25,
    )
    evaluate(one, two, "--out", tmp_path / "new" / "page.html")
    assert capsys.readouterr().out == f"{tmp_path / 'new' / 'page.html'}: written\n"
    page = check_page((tmp_path / "new" / "page.html").read_text())
    accuracies, same, settings = page.tables
    assert accuracies["thead"] == [["network", "one", "two & more"]]
    assert [[cell.split(" (")[0] for cell in row] for row in accuracies["tbody"]] == [
        ["image", "0.0 ± 0.0", "100.0 ± 0.0"],
        ["landmarks", "50.0 ± 0.0", ""],
        ["decision_fusion", "", "100.0 ± 0.0"],
    ]
    # Seeds 0 and 1, which both have.
    (row,) = same["tbody"]
    assert row[:4] == ["image", "shown", "two & more minus one", "100.0"]
    assert row[-1] == "2"
    assert ["image.learning_rate", "0.0005", "0.25"] in settings["tbody"]
    assert len(page.all("img")) == 3  # one for each network
    assert "These runs are compared on test data" in page.text
    numbers = json.loads((tmp_path / "new" / "page.json").read_text())
    assert numbers["runs"] == ["one", "two & more"]
    assert numbers["accuracy"]["image"][1]["seeds"] == [1, 1, 1]
    assert numbers["accuracy"]["decision_fusion"][0] is None
    (difference,) = numbers["same_network"]
    assert (difference["first"], difference["second"]) == ("one", "two & more")
    assert difference["shown"] is True
    assert numbers["swept"] is None  # seeds and networks differ as well


def test_one_number_that_was_swept_is_an_axis(tmp_path):
    """Runs in another order than its values; each in two seeds; on validation data."""
    runs = [
        fabricate(
            tmp_path / str(rate),
            {"image": [{"validation": range(wrong)}] * 2},
            splits=("train", "validation"),
            image__learning_rate=rate,
            data__cache_dir=f"/cache/{rate}",
        )
        for rate, wrong in ((1e-2, 7), (1e-4, 14), (1e-3, 0))
    ]
    evaluate(*runs, "--out", tmp_path / "page.html")
    page = check_page((tmp_path / "page.html").read_text())
    assert "Accuracy over image.learning_rate" in page.text
    assert len(page.all("img")) == 1
    assert "compared on test data" not in page.text
    numbers = json.loads((tmp_path / "page.json").read_text())
    assert numbers["swept"] == "image.learning_rate"
    assert numbers["differing"]["image.learning_rate"] == [1e-2, 1e-4, 1e-3]
    # Something else that differs, or a word, is no axis.
    assert compare._swept([["a", 1, 2], ["b", 3, 4]]) is None
    assert compare._swept([["a", "x", "y"]]) is None
    assert compare._swept([["a", 1, 2], ["b", 1, 2]]) == ("a, b", [1.0, 2.0])


def test_no_difference_is_given_between_runs_on_other_faces(tmp_path):
    one = fabricate(tmp_path / "one", {"image": [ALL]}, faces="some")
    two = fabricate(tmp_path / "two", {"image": [NOT_ONE]}, faces="others", data__synthetic__seed=1)
    evaluate(one, two, "--out", tmp_path / "page.html")
    page = check_page((tmp_path / "page.html").read_text())
    assert "No network was tested on the same faces and seeds in two of the runs" in page.text
    assert len(page.tables) == 2


def test_splits_side_by_side(tmp_path):
    runs = [
        fabricate(
            tmp_path / f"split_{seed}",
            {"image": [range(wrong)], "landmarks": [range(35)]},
            data__split_seed=seed,
        )
        for seed, wrong in ((0, 35), (1, 28), (2, 21))
    ]
    evaluate(*runs, "--out", tmp_path / "report.html")
    page = check_page((tmp_path / "report.html").read_text())
    assert "differ in nothing but the seed of the split: 3 splits" in page.text
    accuracies, differences, settings = page.tables
    assert accuracies["thead"] == [
        ["network", "split_0", "split_1", "split_2", "over splits (95%)"]
    ]
    # Student's quantile for two degrees of freedom, 4.3027, times 10 times the root of 1/3 for the
    # three splits plus 70/42 for the faces that they share: 60.8.
    assert [[row[0], row[-1]] for row in accuracies["tbody"]] == [
        ["image", "60.0 ± 10.0 (0.0 to 100.0)"],
        ["landmarks", "50.0 ± 0.0 (50.0 to 50.0)"],
    ]
    assert [cell.split(" (")[0] for cell in accuracies["tbody"][0][1:4]] == ["50.0", "60.0", "70.0"]
    assert differences["tbody"] == [
        [
            "landmarks minus image",
            "0.0",
            f"{MINUS}10.0",
            f"{MINUS}20.0",
            f"{MINUS}10.0 ± 10.0 ({MINUS}70.8 to 50.8)",
        ]
    ]
    numbers = json.loads((tmp_path / "report.json").read_text())["over_splits"]
    assert numbers["accuracy"]["image"]["values"] == [0.5, 0.6, 0.7]
    assert numbers["pairs"][0]["interval"] == pytest.approx([-0.7085, 0.5085], abs=1e-4)
    assert settings["tbody"] == [["data.split_seed", "0", "1", "2"]]


def test_the_same_config_twice_is_not_two_splits(tmp_path):
    """As when a run is repeated on another machine."""
    runs = [fabricate(tmp_path / name, {"image": [range(35)]}) for name in ("here", "there")]
    evaluate(*runs, "--out", tmp_path / "page.html")
    page = check_page((tmp_path / "page.html").read_text())
    assert "seed of the split" not in page.text
    assert page.tables[1]["tbody"] == [
        ["image", "not shown", "there minus here", "0.0", f"{MINUS}2.7 to 2.7", "1.000", "1"]
    ]


def test_seeds_of_two_runs_are_paired_by_name_not_by_place(tmp_path):
    """Of runs with the seeds (0, 1) and (1, 0), wrong on the same faces where they are the same."""
    some, others = range(20), range(40, 55)
    runs = [
        run.load(fabricate(tmp_path / "one", {"image": [some, others]})),
        run.load(fabricate(tmp_path / "two", {"image": [some, others]}, image__learning_rate=1.0)),
    ]
    runs[1].networks["image"].reverse()
    runs[1].config["seeds"] = [1, 0]
    (found,) = compare.same_network(runs)
    assert found.compared.estimate.seeds == [0, 0]
    low, high = found.compared.simultaneous
    assert low == -high
    assert high < 0.03


def test_pairs_of_runs_are_corrected_for_their_number(tmp_path):
    """15 faces against 4 are shown alone, and not as one of the six pairs of four runs."""
    wrong = [range(15), range(15, 19), range(40, 52), range(52, 63)]
    runs = [
        run.load(fabricate(tmp_path / f"run_{i}", {"image": [faces]}, image__learning_rate=0.1 * i))
        for i, faces in enumerate(wrong)
    ]
    (alone,) = compare.same_network(runs[:2])
    together = compare.same_network(runs)
    assert len(together) == 6
    assert alone.compared.shown
    assert not together[0].compared.shown
    assert (together[0].first, together[0].second) == (0, 1)
    assert together[0].compared.estimate == alone.compared.estimate
    assert together[0].compared.p > alone.compared.p
    low, high = together[0].compared.simultaneous
    assert low < alone.compared.simultaneous[0]
    assert high > alone.compared.simultaneous[1]


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    runs = [fabricate(tmp_path / name / "run", {"image": [range(35)]}) for name in ("a", "b")]
    compare.write([run.load(each) for each in runs], tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    assert page.tables[0]["thead"][0][1:3] == ["a/run", "b/run"]


def test_what_cannot_be_evaluated_is_refused_in_one_line(tmp_path, capsys, monkeypatch):
    one = fabricate(tmp_path / "one", {"image": [NOT_ONE]})
    two = fabricate(tmp_path / "two", {"image": [NOT_ONE]}, splits=("test", "validation"))
    (tmp_path / "empty").mkdir()
    page = tmp_path / "page.html"

    def refusal(*arguments):
        with pytest.raises(SystemExit) as error:
            evaluate(*arguments)
        assert not page.exists()
        if error.value.code == 2:
            return capsys.readouterr().err.splitlines()[-1]
        assert "\n" not in error.value.code
        return error.value.code

    several = "error: give --out for several runs; the report of one run lies in its directory"
    assert refusal(one, two).endswith(several)
    assert refusal(one, "--out", page).endswith(several)
    not_one = f"{tmp_path / 'empty'}: not the directory of a run: config.json is missing"
    assert refusal(tmp_path / "empty") == f"fermm.evaluate: {not_one}"
    assert refusal(one, tmp_path / "empty", "--out", page) == f"fermm.evaluate: {not_one}"
    assert "the runs were assessed on different splits (test, validation)" in refusal(
        one, two, "--out", page
    )
    assert refusal(one, one, "--out", page).endswith("the same run is given twice")
    monkeypatch.chdir(tmp_path)
    assert refusal(one, "one", "--out", page).endswith("the same run is given twice")
    assert refusal(one, "two/../one", "--out", page).endswith("the same run is given twice")
    assert "cannot be written" in refusal(
        one, fabricate(tmp_path / "b", {"image": [ALL]}), "--out", one / "config.json" / "p.html"
    )
    (one / "config.json").write_text("{")
    assert "config.json: cannot be read as JSON" in refusal(one)


@pytest.mark.parametrize(
    "missing",
    ["samples.npz", "image/seed_0/predictions_test.npz", "image/seed_0/history.csv",
     "image/seed_0/checkpoints"],
)  # fmt: skip
def test_a_run_that_is_not_finished_is_refused(tmp_path, missing):
    directory = fabricate(tmp_path / "run", {"image": [NOT_ONE]})
    path = directory / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match="not finished: start it again with --workdir"):
        run.load(directory)


# ------------------------------------------------------------------ in a browser

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--remote-debugging-pipe"),
)
# What Chromium reads commands from and writes to are its descriptors 3 and 4.
_START = "import os, sys; r, w, *c = sys.argv[1:]; os.dup2(int(r), 3); os.dup2(int(w), 4); "
_START += "os.execvp(c[0], c)"


class Browser:
    """Chromium without a window, by its DevTools protocol over pipes; a context manager."""

    def __init__(self, profile):
        theirs_in, self._out = (fcntl.fcntl(f, fcntl.F_DUPFD_CLOEXEC, 10) for f in os.pipe())
        self._in, theirs_out = (fcntl.fcntl(f, fcntl.F_DUPFD_CLOEXEC, 10) for f in os.pipe())
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(theirs_in), str(theirs_out), *command],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._buffer, self._number, self._session, self.events = b"", 0, None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.write(self._out, b'{"id": 0, "method": "Browser.close"}\0')
        try:
            self._process.wait(10)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._in)
            os.close(self._out)

    def _read(self):
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], 30)
            assert ready, "Chromium does not answer"
            received = os.read(self._in, 1 << 20)
            assert received, "Chromium has ended"
            self._buffer += received
        message, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(message)
        if "method" in message:
            self.events.append((message["method"], message["params"]))
        return message

    def call(self, method, **parameters):
        """The result of a command; what happens in the meantime goes to `events`."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def value(self, script):
        """What a script gives, as JSON; a promise is waited for."""
        result = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def open(self, file, width, height=844):
        """Shows a file in a window of this size, and returns when it is there."""
        phone = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        self.events.clear()
        self.call("Page.navigate", url=file.as_uri())
        until = time.monotonic() + 30
        while not any(name == "Page.loadEventFired" for name, _ in self.events):
            assert time.monotonic() < until
            self._read()
        self.value("Promise.all([...document.images].map(image => image.decode()))")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium on PATH")
    with Browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A page about several splits, with more of them than fit beside each other."""
    directory = tmp_path_factory.mktemp("compared")
    runs = [
        fabricate(
            directory / f"split_{seed}", {n: RIGHT[n] for n in NAMES[:2]}, data__split_seed=seed
        )
        for seed in range(8)
    ]
    compare.write([run.load(each) for each in runs], directory / "report.html")
    return directory


LOOK = """(() => {
  const page = document.documentElement;
  document.querySelectorAll("details").forEach(one => one.open = true);
  const scrolls = one => one.closest(".wide, nav");
  const all = [...document.querySelectorAll("body *")];
  const small = all.filter(one => one.childElementCount == 0 && one.textContent.trim()
    && parseFloat(getComputedStyle(one).fontSize) < 12);
  return {
    width: page.scrollWidth, window: innerWidth,
    images: [...document.images].map(i => [i.naturalWidth, i.clientWidth, i.alt]),
    captions: [...document.querySelectorAll("table")].map(t => t.caption?.innerText),
    hints: [...document.querySelectorAll(".scrolling")].map(one => [
      one.querySelector(".wide").scrollWidth > one.querySelector(".wide").clientWidth,
      one.querySelector(".hint").getBoundingClientRect().height > 10]),
    out: all.filter(one => !scrolls(one) && one.getBoundingClientRect().right > innerWidth + 1)
      .map(one => one.outerHTML.slice(0, 100)),
    small: small.map(one => one.outerHTML.slice(0, 100)),
  };
})()"""


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("which", ["written", "compared"])
def test_a_page_in_a_browser(browser, which, width, request):
    browser.open(request.getfixturevalue(which) / "report.html", width)
    found = browser.value(LOOK)
    assert found["window"] == width
    assert found["width"] <= width
    assert found["out"] == []
    assert found["small"] == []
    assert found["images"]
    for natural, shown, alt in found["images"]:
        assert natural > 0
        assert shown >= min(natural, 700)  # words of 9 points stay so, on a telephone too
        assert alt
    # What was measured is seen without scrolling; only pictures of faces are wider.
    assert sum(shown <= 358 for _, shown, _ in found["images"]) >= len(found["images"]) - 1
    # What scrolls says so, and nothing else does.
    assert found["hints"]
    assert all(wider == hinted for wider, hinted in found["hints"])
    assert found["captions"]
    assert all(found["captions"])
    # Nothing was said, nothing asked for but the page and what it holds itself.
    names = [name for name, _ in browser.events]
    assert not {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"} & set(
        names
    )
    asked = [
        p["request"]["url"] for name, p in browser.events if name == "Network.requestWillBeSent"
    ]
    assert asked[0].startswith("file:")
    assert all(url.startswith("data:") for url in asked[1:])


def test_on_a_phone_wide_tables_scroll_and_keep_their_names_in_sight(browser, written):
    browser.open(written / "report.html", 390)
    left = browser.value(
        """[...document.querySelectorAll("main .wide:has(table)")]
          .filter(box => box.scrollWidth > box.clientWidth).map(box => {
          box.scrollLeft = 1e6;
          const cell = box.querySelector("tbody th").getBoundingClientRect();
          const caption = box.querySelector("caption span").getBoundingClientRect();
          return [box.scrollLeft, cell.left, cell.right, caption.left, caption.right];
        })"""
    )
    verdict = browser.value(
        """(() => { const cell = document.querySelector("#comparisons tbody td");
          cell.closest(".wide").scrollLeft = 0;
          return [cell.innerText, cell.getBoundingClientRect().right]; })()"""
    )
    assert verdict[0] in ("better", "not shown")
    assert verdict[1] <= 375
    assert len(left) > 4
    for scrolled, *edges in left:
        assert scrolled > 0
        assert min(edges) >= 15
        assert max(edges) <= 375
    # A link in the navigation, which scrolls too, leads to its section, below the navigation.
    browser.value("document.querySelector(\"nav a[href='#audit']\").click()")
    bottom, top = browser.value(
        """[document.querySelector("nav").getBoundingClientRect().bottom,
            document.querySelector("#audit h2").getBoundingClientRect().top]"""
    )
    assert 0 < bottom <= top + 1 < 200

"""What the numbers of a run mean, on runs written by hand whose numbers are known."""

import json
import math

import numpy as np
import pytest

from fermm import rundir
from fermm.evaluate import (
    assess,
    run,
    table,
)
from helpers.runs import (
    ALL,
    MINUS,
    NOT_ONE,
    assessed,
    fabricate,
)


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
        "image and landmarks have the highest accuracy on the 70 test samples: 50.0% "
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
    assert sum(" recognises more of these samples than " in s for s in found["sentences"]) == 3
    assert (
        sum(" is not shown to recognise more samples than " in s for s in found["sentences"]) == 3
    )
    assert found["best"] == ["feature_fusion"]
    assert "not shown to be worse" not in found["headline"]
    assert "One seed: intervals over the choice of samples" in found["headline"]


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
        "landmarks and decision_fusion have the highest accuracy on the 70 test samples: "
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
    samples = rundir.read_samples(directory / "samples.npz")
    labels = np.where(samples.labels == neutral, 5, samples.labels)
    rundir.write_samples(directory / "samples.npz", samples._replace(labels=labels))
    for file in directory.rglob("predictions_*.npz"):
        made = rundir.read_predictions(file)
        decisions = np.where(made.labels == 5, neutral, made.labels) * (made.labels != 1)
        changed = made._replace(
            labels=np.where(made.labels == neutral, 5, made.labels),
            probabilities=np.eye(7, dtype=np.float32)[decisions],
        )
        rundir.write_predictions(file, changed)
    read = run.load(directory)
    found = assess.assess(read)
    of = found["networks"]["image"]["by_class"]
    assert of["samples"] == [10, 10, 10, 10, 10, 20, 0]
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
    # All decisions are in one bin, so that it is the accuracy of the two seeds.
    assert only["interval"] == pytest.approx(of["accuracy"]["interval"])
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
    assert (found["samples"], found["duplicates"]) == (70, 7)
    without = {k: v["accuracy_without_duplicates"]["mean"] for k, v in found["networks"].items()}
    # The image network was wrong on all seven, the other right: 35 and 21 right of 63.
    np.testing.assert_allclose([without["image"], without["landmarks"]], [35 / 63, 21 / 63])
    # Position i has class i % 7: of each class the first is a copy, so that the shares stay.
    same = "accuracy_without_duplicates_same_shares"
    assert found["networks"]["image"][same]["mean"] == pytest.approx(35 / 63)
    shown = table.duplicates(read, found)
    assert shown.caption.startswith(
        "Accuracy in percent with and without the 7 of the 70 test samples (10.0%)"
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
    assert of["any"]["mean"] == pytest.approx(0.9)
    image, landmarks = of["members"]["image"], of["members"]["landmarks"]
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

"""Metrics for the votes of annotators, on hand-computed values."""

import json
import math

import numpy as np
import pytest

from fermm import rundir
from fermm.evaluate import assess, metrics, run, table
from fermm.evaluate.metrics import VOTE_METRICS, Votes
from fermm.rundir import Predictions
from helpers import animals
from helpers.runs import INDICES

# Of three classes: agreed on 0, on 1, on 1 by half, a tie of 0 and 2, and all for 2.
SHARES = np.array(
    [[0.7, 0.2, 0.1], [0, 0.9, 0.1], [0.3, 0.5, 0.2], [0.5, 0, 0.5], [0, 0, 1]], np.float32
)
PROBABILITIES = np.array(
    [[0.5, 0.25, 0.25], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.8, 0.1, 0.1], [0, 0.5, 0.5]],
    np.float32,
)
MADE = Predictions(np.arange(5), np.array([1, 1, 1, 0, 2], np.int32), PROBABILITIES, SHARES)


def test_accuracy_against_the_majority_leaves_ties_out():
    """Right, wrong, right, a tie, wrong (of equal probabilities the first is taken): two of four.

    The labels of the data, of which the first is another, do not count.
    """
    assert Votes.of(MADE).agreed.tolist() == [True, True, True, False, True]
    assert Votes.of(MADE).majority[[0, 1, 2, 4]].tolist() == [0, 1, 1, 2]
    assert VOTE_METRICS["majority_accuracy"](MADE) == 0.5
    assert VOTE_METRICS["majority_accuracy"].by_sample(MADE).tolist() == [1, 0, 1, 0]


def test_shares_that_differ_by_rounding_alone_are_a_tie():
    thirds = np.array([[1 / 3, 1 / 3 + 1e-7, 1 / 3 - 1e-7]], np.float32)
    made = Predictions(np.arange(1), np.zeros(1, np.int32), thirds, thirds)
    assert not Votes.of(made).agreed.any()
    assert math.isnan(VOTE_METRICS["majority_accuracy"](made))
    assert math.isnan(metrics.of_annotators(made)["annotator_accuracy"])
    assert metrics.of_annotators(made)["without_majority"] == 1
    assert assess.annotators(made)["accuracy"] is None
    assert assess.against_votes([made])["majority_accuracy"] is None


def test_cross_entropy_against_the_votes_and_its_lower_bound():
    tiny = float(np.finfo(np.float32).tiny)
    expected = [
        -(0.7 * math.log(0.5) + 0.3 * math.log(0.25)),
        -(0.9 * math.log(0.3) + 0.1 * math.log(0.1)),
        -(0.3 * math.log(0.2) + 0.5 * math.log(0.5) + 0.2 * math.log(0.3)),
        -(0.5 * math.log(0.8) + 0.5 * math.log(0.1)),
        -math.log(0.5),
    ]
    found = VOTE_METRICS["vote_cross_entropy"].by_sample(MADE)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert VOTE_METRICS["vote_cross_entropy"](MADE) == pytest.approx(np.mean(expected), rel=1e-6)
    entropy = [
        -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1)),
        -(0.9 * math.log(0.9) + 0.1 * math.log(0.1)),
        -(0.3 * math.log(0.3) + 0.5 * math.log(0.5) + 0.2 * math.log(0.2)),
        math.log(2),
        0,
    ]
    np.testing.assert_allclose(Votes.of(MADE).entropy, entropy, rtol=1e-6, atol=1e-12)
    assert (found >= Votes.of(MADE).entropy - 1e-7).all()
    exact = MADE._replace(probabilities=SHARES)
    assert VOTE_METRICS["vote_cross_entropy"](exact) == pytest.approx(np.mean(entropy), rel=1e-6)
    # A class that somebody voted for, and that the network holds for impossible.
    impossible = MADE._replace(probabilities=np.eye(3, dtype=np.float32)[[0, 0, 0, 0, 0]])
    worst = VOTE_METRICS["vote_cross_entropy"].by_sample(impossible)[4]
    assert worst == pytest.approx(-math.log(tiny))


def test_the_ceiling_of_the_annotators_by_hand():
    found = assess.annotators(MADE)
    assert found["accuracy"]["mean"] == pytest.approx((0.7 + 0.9 + 0.5 + 1) / 4)
    assert found["by_class"] == pytest.approx([0.7, 0.7, 1])
    assert found["samples"] == [1, 2, 1]
    assert found["without_majority"] == 1
    of_all = metrics.of_annotators(MADE)
    assert of_all["annotator_accuracy"] == pytest.approx(0.775)
    assert of_all["vote_entropy"] == pytest.approx(found["entropy"]["mean"])
    low, high = found["accuracy"]["interval"]
    assert low < 0.775 < high
    # Student's for the mean of the entropies of five samples: 2.776 standard errors.
    entropy = Votes.of(MADE).entropy
    margin = 2.776445 * entropy.std(ddof=1) / 5**0.5
    ends = (entropy.mean() - margin, entropy.mean() + margin)
    assert found["entropy"]["interval"] == pytest.approx(ends, rel=1e-4)


def test_recall_by_the_majority():
    found = assess.against_votes([MADE, MADE])
    assert found["recall"] == [1, 0.5, 0]
    assert found["majority_accuracy"]["mean"] == 0.5
    assert found["majority_accuracy"]["seeds"] == [0.5, 0.5]


def test_votes_travel_from_the_samples_to_files_and_tables(tmp_path):
    """Of 70 test samples every seventh is a tie; the others have eight votes of ten."""
    directory = animals.fabricate(tmp_path / "run", votes=animals.votes())
    read = run.load(directory)
    made = read.networks["sight"][0].predictions["test"]
    np.testing.assert_array_equal(made.votes, animals.votes()[INDICES["test"]])
    # Wrong at the first 30, of which four are ties: 26 of 60.
    values = json.loads(json.dumps(assess.values(read)))["sight"]["test"]
    assert values["majority_accuracy"][0] == pytest.approx(34 / 60)
    assert values["annotator_accuracy"] == pytest.approx(0.8)
    entropy = (10 * math.log(2) - 60 * (0.8 * math.log(0.8) + 0.2 * math.log(0.2))) / 70
    assert values["vote_entropy"] == pytest.approx(entropy)
    assert values["without_majority"] == 10
    overall, of_classes = table.votes(read, assess.assess(read))
    assert "10 of the 70 samples, where several classes have as many, are left" in overall.caption
    assert [row[0] for row in overall.rows] == [*read.networks, "annotators"]
    assert overall.rows[-1][1].startswith("80.0 (")
    assert overall.rows[-1][2].startswith(f"{entropy:.3f} (")
    assert of_classes.head == ["network", "bear (16)", "cat (15)", "great tit (14)", "owl (15)"]
    assert all(cell.startswith("80.0 (") for cell in of_classes.rows[-1][1:])


def test_without_votes_there_is_nothing_about_them(tmp_path):
    read = run.load(animals.fabricate(tmp_path / "run"))
    found = assess.assess(read)
    assert found["annotators"] is None
    assert found["networks"]["song"]["votes"] is None
    assert table.votes(read, found) == []
    assert "vote_entropy" not in assess.values(read)["song"]["test"]


def test_votes_of_another_number_of_classes_are_refused(tmp_path):
    directory = animals.fabricate(tmp_path / "run")
    samples = rundir.read_samples(directory / "samples.npz")
    rundir.write_samples(directory / "samples.npz", samples._replace(class_weights=np.ones(5)))
    with pytest.raises(Exception, match=r"of 5 classes, and data\.json names 4: one of the two"):
        run.load(directory)

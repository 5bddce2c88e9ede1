"""What stands in a report because it is the paper's."""

import pytest

from configs import paper
from fermm.data import fingerprints
from fermm.evaluate import paper as papers
from fermm.evaluate import run, table
from fermm.faces import EMOTIONS
from helpers.runs import ALL, MINUS, NOT_ONE, PAPER, RIGHT, SOME, assessed, audit_of, fabricate


def test_an_audit_that_is_met(tmp_path):
    wrong = {
        "image": [{"test": range(20), **SOME}],
        "landmarks": [{"test": range(30), **SOME}],
        "decision_fusion": [SOME],
        "feature_fusion": [SOME],
    }
    read, found = assessed(tmp_path / "run", wrong, **PAPER)
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
    assert {row[-1] for row in table.audit(read, found).rows} == {"met"}


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
        for part, of in found["fusions"][name]["members"].items():
            pair = by_names[name, part]
            gain = of["gain"]
            assert gain["mean"] == pytest.approx(pair["difference"]["mean"])
            assert gain["simultaneous"] == pytest.approx(pair["simultaneous"])
            assert (gain["p"], gain["shown"]) == (pair["p"], pair["shown"])


def test_an_audit_that_cannot_tell(tmp_path):
    """Fusions whose parts are in another run, assessed on test data alone."""
    wrong = {"decision_fusion": [range(20)], "feature_fusion": [range(20)]}
    read, found = assessed(tmp_path / "run", wrong, splits=("test",))
    rows = audit_of(found)
    assert [row["met"] for row in rows["non-functional 4"]] == [None, None]
    assert rows["non-functional 4"][0]["value"] == "what its members say is not known"
    assert [row["met"] for row in rows["non-functional 5"]] == [None, None]
    assert rows["non-functional 5"][0]["value"] == "not evaluated on both"
    assert [row["met"] for row in rows["functional 1"] + rows["functional 2"]] == [False, False]
    assert "non-functional 3" not in rows
    assert [row[-1] for row in table.audit(read, found).rows].count("cannot tell") == 4


def test_a_fusion_below_its_part_is_said_to_be(tmp_path):
    wrong = {"image": [NOT_ONE], "landmarks": [ALL], "decision_fusion": [range(35)]}
    _, found = assessed(tmp_path / "run", wrong)
    (row,) = audit_of(found)["non-functional 4"]
    assert row["met"] is False
    assert row["requirement"] == "As trained here, decision_fusion is better than both its members."
    assert "50.0 points below image alone" in row["value"]
    assert "50.0 points above landmarks alone" in row["value"]


def test_table_1_by_hand(tmp_path):
    read = run.load(fabricate(tmp_path / "run", {"image": [NOT_ONE]}))
    made = table.classes(read)
    assert made.head == ["class", "samples", "train", "validation", "test", "weight"]
    assert made.rows[0] == ["angry", "20", "6", "4", "10", "1.000"]
    assert [row[0] for row in made.rows] == list(EMOTIONS)
    assert [row[-1] for row in made.rows] == [f"{i}.000" for i in range(1, 8)]
    assert made.caption.startswith("Synthetic faces: ")  # not the paper's table 1


def test_tables_of_the_papers_split_have_its_numbers_beside(tmp_path):
    wrong = {"image": [range(35), range(28)], "other": [ALL, ALL]}
    own = {"other__arguments": {"classes": 7, "width": 3}}
    read = run.load(fabricate(tmp_path / "run", wrong, **PAPER, **own))
    made = table.accuracies(read)
    assert made.head == ["network", "train", "validation", "paper", "test", "paper"]
    assert made.rows == [
        ["NN1 (image)", "100.0 ± 0.0", "100.0 ± 0.0", "47.0", "55.0 ± 7.1", "45.2"],
        ["other", "100.0 ± 0.0", "100.0 ± 0.0", "", "0.0 ± 0.0", ""],
    ]
    assert made.caption == (
        "Table 2. Accuracy in percent on FER2013, mean and standard deviation over 2 seeds."
    )
    assert table.classes(read).rows[1][-2:] == ["547", "16.433"]
    # Another split, rows in another order, other faces: no number of the paper.
    differences = {
        "seed": {"data__split_seed": 1},
        "split": {"data__split": "grouped"},
        "order": {"fer2013": fingerprints.REORDERED},
        "faces": {"fer2013": fingerprints.OTHER, "title": "own faces"},
    }
    for name, changes in differences.items():
        other = run.load(fabricate(tmp_path / name, {"image": [range(35)]}, **(PAPER | changes)))
        assert papers.is_fer2013(other.identity) == (name != "faces")
        assert table.accuracies(other).head == ["network", "train", "validation", "test"]
        title = "image" if name == "faces" else "NN1 (image)"
        assert table.accuracies(other).rows == [[title, "100.0", "100.0", "50.0"]]
        what = "own faces" if name == "faces" else "FER2013"
        assert table.accuracies(other).caption == f"Accuracy in percent on {what}, one seed."


NN1 = {"model": "nn1", "arguments": {"filters": [16, 32, 64], "hidden": 512, "features": 16}}


NN2 = {"model": "nn2", "arguments": {"dropout": 0.2}}
MEMBERS = {"image": NN1, "landmarks": NN2}


@pytest.mark.parametrize(
    ("spec", "title"),
    [
        (NN1, "NN1 (image)"),
        (NN2, "NN2 (landmarks)"),
        (
            {"head": "decision", "arguments": {}, "members": MEMBERS},
            "decisions",
        ),
        (
            {"head": "feature", "arguments": {}, "members": MEMBERS},
            "features",
        ),
        ({"model": "nn1", "arguments": {"hidden": 256}}, None),
        ({"model": "nn1", "arguments": {"dtype": "bfloat16"}}, None),
        ({"model": "nn1", "arguments": {"filters": [16, 32]}}, None),
        ({"model": "nobody registered this", "arguments": {}}, None),
        # The paper's head over another member, and another head over the paper's members.
        ({"head": "decision", "arguments": {}, "members": {"image": NN2, "landmarks": NN2}}, None),
        (
            {
                "head": "feature",
                "arguments": {"hidden": [8, 8]},
                "members": MEMBERS,
            },
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
    made = table.accuracies(read)
    assert [row[-1] for row in made.rows] == ["", "43.9", "45.2"]
    assert table.times(read).rows[0][:2] == ["landmarks", "mynet"]
    # Two of the same network are told apart by their sections.
    known = dict.fromkeys(("a", "b"), papers.KNOWN[0])
    assert papers.titles(known | {"c": None}) == {
        "a": "NN1 (image), a",
        "b": "NN1 (image), b",
    }

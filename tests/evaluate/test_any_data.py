"""The whole report of a run on classes, features and members of one's own."""

import dataclasses
import json
import subprocess
import sys

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from fermm.evaluate import architecture, assess, faces, figures, report, run, table, write
from fermm.models import Outputs, registry
from fermm.samples import Feature
from helpers import animals
from helpers.animals import CLASSES, FEATURES
from helpers.pages import Page, check_page
from helpers.runs import ALL, MINUS, assessed, predictions


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The directory of the run on the animals with all that is written about it."""
    directory = animals.fabricate(
        tmp_path_factory.mktemp("animals") / "run", votes=animals.votes(), copied=range(3)
    )
    read, data = run.load(directory), animals.data()
    write.metrics(read)
    failed = write.data_figures(read, data.samples, data.splits, data.class_weights)
    with pytest.MonkeyPatch.context() as patch:  # the networks are nowhere registered
        patch.setattr(write, "_architectures", lambda *_, **__: {})
        assert write.report(read, failed) == {}
    return directory


def test_the_report_has_these_classes_and_members_and_no_others(written):
    page = check_page((written / "report.html").read_text())
    for word in ("emotion", "angry", "FER2013", "paper: ", "Audit", "Table 1", "figure 13"):
        assert word not in page.text
    columns = ["network", "bear (18)", "cat (18)", "great tit (17)", "owl (17)"]
    assert sum(made["thead"] == [columns] for made in page.tables) == 3  # recall, precision, F1
    trio = next(made for made in page.tables if made["caption"].startswith("trio: accuracy"))
    assert [row[0] for row in trio["tbody"]] == ["sight", "points", "song"]
    names = {file.stem for file in (written / "figures").glob("*.svg")}
    assert {"samples", "landmarks", "won_and_lost_trio", "won_and_lost_solo"} <= names
    assert {"changed_nested", "modalities_solo", "recall_gains", "confusion_matrix_song"} <= names
    found = json.loads((written / "assessment.json").read_text())
    assert found["classes"] == list(CLASSES)
    assert found["audit"] == []
    assert list(found["fusions"]["nested"]["members"]) == ["all", "song"]
    assert len(page.all("img")) > 30


def test_the_sections_stand_in_order(written):
    page = Page((written / "report.html").read_text())
    assert [a["href"] for a in page.all("a")] == [
        *("#in-short", "#comparisons", "#annotators", "#by-class", "#calibration", "#modalities"),
        *("#mistakes", "#training", "#data", "#networks", "#configuration-versions-machine"),
    ]


def test_where_samples_are_no_pictures_a_sentence_says_so(tmp_path):
    """Features without pictures: nothing is drawn but the classes, and the page tells why."""
    features = {"song": FEATURES["song"], "landmarks": FEATURES["landmarks"]}
    assert not faces.are_pictures(features)
    assert not faces.are_pictures({"images": Feature((3, 40, 30), "uint8")})
    assert not faces.are_pictures({"images": Feature((2304,), "uint8")})
    assert not faces.have_points(features)
    read = run.load(animals.fabricate(tmp_path / "run", features=features))
    data = animals.data(features)
    assert list(faces.of_data(data)) == ["classes"]
    assert faces.of_mistakes(data, read) == {}
    found = report.sections(read, assess.assess(read), {}, {})
    by_heading = {section.heading: section for section in found}
    sentence = "No samples are shown, for they have no feature `images` that is a picture, (H, W) "
    for heading in ("Mistakes", "Data"):
        assert any(text.startswith(sentence) for text in by_heading[heading].sentences)


def test_pictures_are_shown_as_their_range_says():
    data = animals.data()
    picture = data.picture(0)
    np.testing.assert_allclose(picture * 255, data.samples.features["images"][0], atol=1e-9)
    assert data.size == (30, 40)
    # Without a range, from the lowest to the highest value; a blank picture is black.
    open_ended = Feature((30, 40), "float32")
    column = np.zeros((140, 30, 40), np.float32)
    column[1, 0, 0], column[1, 0, 1] = -3, 5
    grey = data._replace(samples=data.samples.with_feature("images", open_ended, column))
    assert grey.picture(0).max() == 0
    assert grey.picture(1)[0, :3].tolist() == [0, 1, 3 / 8]


def test_a_picture_that_is_no_square_stands_in_the_middle_of_its_cell():
    figure = faces.samples(animals.data())
    first = next(axes for axes in figure.axes if axes.images)
    assert first.get_title() == "bear"
    assert first.get_xlim() == (-0.5, 39.5)
    assert first.get_ylim() == (34.5, -5.5)
    assert first.images[0].get_array().shape == (30, 40, 3)


@pytest.mark.parametrize(
    ("count", "blocks", "columns"), [(1, 1, 1), (7, 1, 7), (8, 2, 4), (15, 3, 5)]
)
def test_many_classes_stand_in_blocks(count, blocks, columns):
    data = animals.data()
    names = tuple(f"class {i}" for i in range(count))
    labels = (np.arange(140) % count).astype(np.int32)
    samples = dataclasses.replace(data.samples, labels=labels, classes=names)
    figure = faces.samples(data._replace(samples=samples))
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == list(names)
    assert len(figure.axes) == 3 * blocks * columns
    counts = {"train": np.arange(count)}
    faces.bars(counts, np.ones(count), names, "title")
    drawn = predictions("test", range(9), max(count, 2))
    figures.confusion([drawn], [f"class {i}" for i in range(max(count, 2))], "title")


def test_one_of_three_members_wrong_or_right():
    right = {"a": [[1, 1, 0, 0, 0]], "b": [[1, 0, 1, 0, 0]], "c": [[1, 1, 1, 1, 0]]}
    right = {name: np.array(x, bool) for name, x in right.items()}
    kinds = faces._kinds(right, "wrong")
    assert {words: where[0].astype(int).tolist() for words, where in kinds.items()} == {
        "all members wrong": [0, 0, 0, 0, 1],
        "only a wrong": [0, 0, 1, 0, 0],
        "only b wrong": [0, 1, 0, 0, 0],
        "only c wrong": [0, 0, 0, 0, 0],
        "several members wrong": [0, 0, 0, 1, 0],
    }
    assert list(faces._kinds(right, "right")) == [
        *("only a right", "only b right", "only c right", "several members right"),
        "all members right",
    ]
    assert list(faces._kinds({"a": right["a"]}, "wrong")) == ["its member wrong"]


def test_members_by_hand(tmp_path):
    """A fusion of one member that it does not look at: shuffled it decides as before."""
    fused = range(35)
    members = {"song": (ALL, [fused])}
    read, found = assessed(
        tmp_path / "run",
        {"solo": [fused]},
        modalities={"solo": [members]},
        specs=animals.SPECS,
        classes=CLASSES,
        features=FEATURES,
    )
    of = found["fusions"]["solo"]
    assert of["fused"]["mean"] == 0.5
    assert of["any"]["mean"] == of["members"]["song"]["alone"]["mean"] == 0
    assert of["members"]["song"]["gain"]["mean"] == 0.5
    assert of["members"]["song"]["changed_by_class"] == [0] * 4
    (made,) = table.modalities(read, found)
    assert made.rows == [["song", "0.0", "50.0", f"0.0 ({MINUS}2.7 to 2.7)", "0.0"]]


def test_the_architecture_of_three_members_and_of_a_fusion_in_a_fusion(monkeypatch):
    def network(feature):
        class Own(nn.Module):
            inputs = (feature,)

            def setup(self):
                self.dense, self.logits = nn.Dense(6), nn.Dense(4)

            def encode(self, inputs, *, train, mask=None):
                x = inputs[feature].reshape(len(inputs[feature]), -1).astype(jnp.float32)
                return nn.tanh(self.dense(x))

            def classify(self, embedding, *, train):
                return Outputs(embedding, self.logits(embedding))

            def __call__(self, inputs, *, train=False, mask=None):
                return self.classify(self.encode(inputs, train=train, mask=mask), train=train)

        return Own

    class Gate(nn.Module):
        @nn.compact
        def __call__(self, members, *, train):
            x = jnp.concatenate([member.features for member in members.values()], axis=-1)
            return Outputs(x, nn.Dense(4, name="logits")(x))

    for name, feature in (("picture", "images"), ("points", "landmarks"), ("song", "song")):
        monkeypatch.setitem(registry.NETWORKS, f"animal {name}", network(feature))
    monkeypatch.setitem(registry.HEADS, "animal gate", Gate)
    for name, members in (("trio", ["sight", "points", "song"]), ("nested", ["all", "song"])):
        spec = animals.SPECS[name]
        found = architecture.layers(spec, FEATURES)
        assert list(dict.fromkeys(layer.part for layer in found)) == [*members, "head"]
        inputs = [(layer.part, layer.name) for layer in found if layer.kind == "input"]
        assert len(inputs) == (3 if name == "trio" else 4)
        made = figures.render(lambda s=spec: architecture.draw(s, FEATURES, CLASSES, "A title"))
        assert made[".svg"].startswith(b"<?xml")


IMPORTS = """
import sys
sys.argv = ["fermm.evaluate", sys.argv[1]]
import runpy
runpy.run_module("fermm.evaluate", run_name="__main__")
heavy = {"jax", "flax", "orbax", "optax"} & set(sys.modules)
above = [name for name in sys.modules if name.startswith(("fermm.train", "fermm.models"))]
print(sorted(heavy), above, file=sys.stderr)
"""


@pytest.mark.slow
def test_a_report_is_made_again_without_jax_and_without_what_trains(written):
    """The drawings of the networks are there, as the run leaves them."""
    for name in animals.SPECS:
        (written / "figures" / f"architecture_{name}.svg").write_text("<?xml by the run")
    result = subprocess.run(
        [sys.executable, "-c", IMPORTS, written], capture_output=True, text=True, check=True
    )
    assert result.stderr == "[] []\n"
    assert result.stdout.endswith(f"{written / 'report.html'}: written\n")
    for name in animals.SPECS:
        (written / "figures" / f"architecture_{name}.svg").unlink()

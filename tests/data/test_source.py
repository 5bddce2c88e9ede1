"""From config.data to the samples of a run."""

import numpy as np
import pytest

from fermm import config
from fermm.data import source
from fermm.data.config import DataConfig
from fermm.errors import InputError
from fermm.faces import EMOTIONS, FEATURES


def section(**changes):
    return config.read(DataConfig, changes, "config.data")


def drawn(seed=3, spoiled=0.0, **changes):
    arguments = {"count": 100, "seed": seed, "spoiled": spoiled}
    return section(**{"source": "synthetic", "arguments": arguments} | changes)


def refusal(function, *arguments):
    with pytest.raises(InputError) as caught:
        function(*arguments)
    return str(caught.value)


# --- Synthetic faces -----------------------------------------------------------------------------


def test_synthetic_faces_and_their_identity():
    first, again = source.load(drawn()), source.load(drawn())
    assert first.title == "synthetic faces"
    assert first.notes == ()
    assert first.predictor is None
    assert first.identity == again.identity
    assert first.identity["sizes"] == {"train": 70, "validation": 20, "test": 10}
    other = source.load(drawn(seed=4)).identity
    assert other["labels"] != first.identity["labels"]
    assert other["features"]["images"] != first.identity["features"]["images"]
    spoiled = source.load(drawn(spoiled=0.5)).identity
    assert spoiled["labels"] == first.identity["labels"]
    assert spoiled["features"]["images"] == first.identity["features"]["images"]
    assert spoiled["features"]["landmarks"] != first.identity["features"]["landmarks"]


def test_what_is_known_before_reading():
    known = source.describe(drawn())
    assert known.classes == EMOTIONS
    assert known.features == source.load(drawn()).samples.described == FEATURES


def test_class_weights():
    labels = source.load(drawn()).samples.labels
    counts = np.bincount(labels, minlength=7)
    pooled = source.load(drawn(class_weights="pooled")).class_weights
    np.testing.assert_allclose(pooled, counts.max() / counts)
    train = source.load(drawn(class_weights="train"))
    counts = np.bincount(labels[train.splits["train"]], minlength=7)
    np.testing.assert_allclose(train.class_weights, counts.max() / counts)
    assert source.load(drawn(class_weights="none")).class_weights.tolist() == [1.0] * 7


def test_synthetic_faces_need_their_number():
    assert refusal(source.load, section(source="synthetic")) == (
        "config.data.arguments.count is missing: the source 'synthetic' needs it"
    )


def test_synthetic_faces_are_not_streamed():
    assert refusal(source.load, drawn(streaming=True)) == (
        "config.data.streaming is on, but synthetic faces are made in memory: switch it off"
    )


def test_fer2013_needs_a_path_and_takes_no_arguments():
    assert refusal(source.load, section(source="fer2013")) == (
        "config.data.path is empty: give FER2013's fer2013.csv, icml_face_data.csv, or the folder "
        "or zip of its images, e.g. --config.data.path=fer2013.csv"
    )
    assert refusal(source.check, section(source="fer2013", arguments={"count": 3})) == (
        "config.data.arguments: the source 'fer2013' takes none, and 'count' is given; leave it out"
    )


def test_a_source_that_nobody_registered():
    assert refusal(source.check, section(source="fer2012")) == (
        "config.data.source: 'fer2012' is unknown; there are fer2013, synthetic. Did you mean "
        "'fer2013'?"
    )

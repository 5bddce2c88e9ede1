"""From config.data to the faces of a run."""

import numpy as np
import pytest

from configs import paper, synthetic
from fermm.data import source
from fermm.errors import InputError

DRAWN = synthetic.get_config().data.to_dict() | {
    "synthetic": {"count": 100, "seed": 3},
    "streaming": False,
}


def test_drawn_faces_and_their_identity():
    first, again = source.load(DRAWN), source.load(DRAWN)
    assert first.title == "synthetic faces"
    assert first.note == ""
    assert first.identity == again.identity
    assert first.identity["sizes"] == {"train": 70, "validation": 20, "test": 10}
    other = source.load(DRAWN | {"synthetic": {"count": 100, "seed": 4}})
    assert other.identity["faces"] != first.identity["faces"]
    spoiled = source.load(DRAWN | {"synthetic": {"count": 100, "seed": 3, "spoiled": 0.5}})
    assert spoiled.identity["faces"] == first.identity["faces"]
    assert spoiled.identity["landmarks"] != first.identity["landmarks"]


def test_class_weights():
    faces = source.load(DRAWN).faces
    counts = np.bincount(faces.labels, minlength=7)
    pooled = source.load(DRAWN | {"class_weights": "pooled"}).class_weights
    np.testing.assert_allclose(pooled, counts.max() / counts)
    train = source.load(DRAWN | {"class_weights": "train"})
    counts = np.bincount(faces.labels[train.splits["train"]], minlength=7)
    np.testing.assert_allclose(train.class_weights, counts.max() / counts)
    assert source.load(DRAWN | {"class_weights": "none"}).class_weights.tolist() == [1.0] * 7


def test_drawn_faces_need_their_fields():
    with pytest.raises(InputError, match=r"config.data.synthetic is missing: use configs/synth"):
        source.load(paper.get_config().data.to_dict() | {"source": "synthetic"})


def test_drawn_faces_are_not_streamed():
    with pytest.raises(InputError) as caught:
        source.load(DRAWN | {"streaming": True})
    assert str(caught.value) == (
        "config.data.streaming is on, but drawn faces are made in memory: switch it off"
    )

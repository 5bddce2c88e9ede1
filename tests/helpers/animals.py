"""A data set of one's own: four animals, with colour pictures, points on them, and a song.

And a run on it, written by hand: a network for each feature, and fusions of three and of one.
"""

import numpy as np

from fermm.evaluate import faces
from fermm.samples import Feature, Samples
from helpers import runs

CLASSES = ("bear", "cat", "great tit", "owl")
FEATURES = {
    "images": Feature((30, 40, 3), "uint8", "red, green and blue", 0, 255),
    "landmarks": Feature((5, 2), "float32", "x and y in pixels"),
    "song": Feature((50,), "float32", "sound pressure"),
}
PICTURE = {"model": "animal picture", "arguments": {}}
POINTS = {"model": "animal points", "arguments": {}}
SONG = {"model": "animal song", "arguments": {}}
TRIO = {
    "head": "animal gate",
    "arguments": {},
    "members": {"sight": PICTURE, "points": POINTS, "song": SONG},
}
SPECS = {
    "sight": PICTURE,
    "points": POINTS,
    "song": SONG,
    "trio": TRIO,
    "solo": {"head": "animal gate", "arguments": {}, "members": {"song": SONG}},
    "nested": {
        "head": "animal gate",
        "arguments": {},
        "members": {"all": TRIO, "song": SONG},
    },
}
WRONG = {
    "sight": [range(30), range(33)],
    "points": [range(25, 66), range(25, 70)],
    "song": [range(10, 50), range(12, 50)],
    "trio": [range(10, 25), range(12, 25)],
    "solo": [range(10, 52), range(12, 52)],
    "nested": [range(12, 25), range(14, 25)],
}


def votes():
    """float32 (140, 4): eight of ten for the label and two for the next, or a tie of the two.

    The tie is at every seventh position of each split.
    """
    shares = np.zeros((140, 4), np.float32)
    labels = runs.labels_of(4)
    for indices in runs.INDICES.values():
        for position, index in enumerate(indices):
            tie = position % 7 == 6
            shares[index, labels[index]] = 0.5 if tie else 0.8
            shares[index, (labels[index] + 1) % 4] = 0.5 if tie else 0.2
    return shares


def fabricate(directory, *, features=FEATURES, **options):
    """The directory of a run on the animals, see `helpers.runs.fabricate`."""
    modalities = {"nested": [{"all": (w, [w]), "song": (s, [s])} for w, s in _nested()]}
    options = {"title": "animals", "modalities": modalities} | options
    return runs.fabricate(
        directory,
        WRONG,
        specs=SPECS,
        classes=CLASSES,
        features=features,
        data__source="animals",
        **options,
    )


def _nested():
    return zip(WRONG["trio"], WRONG["song"], strict=True)


def data(features=FEATURES):
    """`fermm.evaluate.faces.Data`: pictures of one colour a class, points on a circle."""
    random = np.random.default_rng(0)
    labels = runs.labels_of(4)
    colours = np.array([[140, 90, 40], [230, 160, 60], [60, 150, 220], [120, 120, 120]])
    noise = random.integers(-30, 30, (140, 30, 40, 3))
    angle = random.uniform(0, 7, (140, 1)) + np.arange(5) * 2 * np.pi / 5
    columns = {
        "images": (colours[labels][:, None, None] + noise).clip(0, 255).astype(np.uint8),
        "landmarks": np.stack([20 + 9 * np.cos(angle), 15 + 9 * np.sin(angle)], -1).astype("f4"),
        "song": random.normal(size=(140, 50)).astype(np.float32),
    }
    samples = Samples(
        {name: columns[name] for name in features},
        features,
        labels,
        CLASSES,
        runs.ROWS,
        np.full(140, -1, np.int8),
        tuple(features),
    )
    return faces.Data(samples, runs.INDICES, np.arange(1.0, 5.0), "animals")

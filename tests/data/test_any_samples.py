"""Prepared data sets of any features and classes, and sources of the user's own."""

import contextlib
import dataclasses
import json

import numpy as np
import pytest

from fermm import config
from fermm.data import dataset, source, splits, stream
from fermm.data.config import DataConfig
from fermm.errors import InputError
from fermm.samples import Feature, Origin, Rejected, Samples
from helpers.samples import assert_same

N = 40
CLASSES = ("call", "song", "silence")
DESCRIBED = {
    "waveform": Feature((50,), "float32", "sound pressure", -1, 1),
    "spectrum": Feature((4, 5, 2), "float16"),
    "words": Feature((6,), "int64", "index into the vocabulary", 0),
    "level": Feature((1,), "int8"),
    "loudness": Feature((), "float32", "decibel", -90),
    "count": Feature((), "uint16"),
}


def sounds(**changes):
    """Samples of six features, none of them an image; the second half repeats the first."""
    random = np.random.default_rng(0)
    columns = {
        "waveform": random.uniform(-1, 1, (N, 50)).astype(np.float32),
        "spectrum": random.normal(size=(N, 4, 5, 2)).astype(np.float16),
        "words": random.integers(0, 2**40, (N, 6)),
        "level": random.integers(-128, 128, (N, 1)).astype(np.int8),
        "loudness": random.uniform(-90, 0, N).astype(np.float32),
        "count": random.integers(0, 2**16, N).astype(np.uint16),
    }
    columns["loudness"][3] = np.float32(-0.0)  # told from 0 by its bits alone
    for name in ("words", "loudness"):
        columns[name][N // 2 :] = columns[name][: N // 2]
    made = Samples(
        features=columns,
        described=DESCRIBED,
        labels=(np.arange(N) % 3).astype(np.int32),
        classes=CLASSES,
        rows=np.arange(N) * 2,
        official=(np.arange(N) % 3).astype(np.int8),
        identity=("words", "loudness"),
    )
    return dataclasses.replace(made, **changes)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return dataset.write(sounds(), tmp_path_factory.mktemp("cache"), "sounds")


def refusal(function, *arguments):
    with pytest.raises(InputError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- Prepared ------------------------------------------------------------------------------------


def test_what_was_written_is_read_back(directory):
    sounds().check()
    for read in (dataset.read, stream.open_samples):
        found = read(directory)
        assert_same(found, sounds())
        for name, column in sounds().features.items():
            assert np.asarray(found.features[name]).tobytes() == column.tobytes(), name
    assert_same(dataset.prepare(directory), sounds())


def test_a_single_number_on_disk(directory):
    column, array = (
        stream.open_samples(directory).features["loudness"],
        sounds().features["loudness"],
    )
    assert (column.shape, column.ndim) == ((N,), 1)
    assert type(column[3]) is np.float32
    assert np.signbit(column[3])
    np.testing.assert_array_equal(column[[5, -1]], array[[5, -1]])
    with contextlib.closing(stream.chunks({"x": column}, np.arange(N)[::-1], 16)) as chunks:
        read = [chunk["x"] for chunk in chunks]
    assert [x.shape for x in read] == [(16,), (16,), (8,)]
    np.testing.assert_array_equal(np.concatenate(read), array[::-1])


def test_all_features_are_read_ahead(directory):
    streamed, rows = stream.open_samples(directory), np.array([5, 1, 33, 1])
    with contextlib.closing(stream.chunks(streamed.features, rows, 4)) as chunks:
        [read] = chunks
    for name, column in sounds().features.items():
        np.testing.assert_array_equal(read[name], column[rows])
        assert read[name].dtype == column.dtype


def test_duplicates_are_those_of_the_identity(directory):
    expected = np.arange(N) % (N // 2)
    for samples in (sounds(), stream.open_samples(directory)):
        np.testing.assert_array_equal(splits.duplicates(samples), expected)
    one = dataclasses.replace(sounds(), identity=("count",))
    assert len(np.unique(splits.duplicates(one))) == N


def test_what_was_set_aside_and_the_origin_are_kept(tmp_path):
    aside = sounds(rejected=(Rejected("line 3", "is bad"),), origin=Origin("paper", "ab"))
    written = dataset.write(aside, tmp_path, "sounds" + stream.QUARANTINE)
    assert_same(dataset.read(written), aside)


def test_votes_and_targets_have_no_place(tmp_path):
    shares = np.full((N, 3), 1 / 3, np.float32)
    for changes in ({"votes": shares}, {"targets": shares}):
        assert refusal(dataset.write, sounds(**changes), tmp_path, "sounds") == (
            "a prepared data set holds no votes and no targets: write the samples without them, "
            "and add them when the data set has been read"
        )
    assert list(tmp_path.iterdir()) == []


def test_names_that_a_feature_cannot_have(tmp_path):
    column = np.zeros(N, np.float32)
    for name in ("label", "official", "row"):
        samples = sounds().with_feature(name, Feature((), "float32"), column)
        assert refusal(dataset.write, samples, tmp_path, "sounds") == (
            f"a feature cannot be called {name!r}; choose another name"
        )


def change(path, value):
    """Damage to the metadata: another value at a path, or none."""

    def damage(metadata):
        *sections, last = path
        for section in sections:
            metadata = metadata[section]
        if value is None:
            del metadata[last]
        else:
            metadata[last] = value

    return damage


FEATURE = ("features", "waveform")
UNFIT = "features.json does not fit to metadata.json"
DAMAGE = {
    "unknown type": (
        change((*FEATURE, "dtype"), "float33"),
        "the type of a feature is 'float33', needs one of integers or floating-point numbers, such "
        "as 'uint8' or 'float32'",
    ),
    "type of Python objects": (
        change((*FEATURE, "dtype"), "object"),
        "the type of a feature is 'object', needs one of integers or floating-point numbers, such "
        "as 'uint8' or 'float32'",
    ),
    "another type": (change((*FEATURE, "dtype"), "int32"), UNFIT),
    "shape 0": (
        change((*FEATURE, "shape"), [0]),
        "the shape of a feature is (0,), needs a tuple of integers from 1",
    ),
    "shape of fractions": (
        change((*FEATURE, "shape"), [2.5]),
        "the shape of a feature is (2.5,), needs a tuple of integers from 1",
    ),
    "no shape": (change((*FEATURE, "shape"), 50), "'int' object is not iterable"),
    "another shape": (change((*FEATURE, "shape"), [25, 2]), UNFIT),
    "beyond all memory": (
        change((*FEATURE, "shape"), [1 << 40]),
        "metadata.json describes waveform as larger than it can be",
    ),
    "other classes": (
        change(("classes",), ["call", "song", "noise"]),
        "metadata.json has other classes than label.labels.txt",
    ),
    "fewer classes": (change(("classes",), ["call", "song"]), UNFIT),
    "no classes": (change(("classes",), None), "'classes'"),
    "feature less": (change(FEATURE, None), UNFIT),
    "feature more": (change(("features", "more"), Feature((), "int8").to_json()), UNFIT),
    "identity": (
        change(("identity",), ["images"]),
        "metadata.json names no features that tell samples apart",
    ),
    "no identity": (
        change(("identity",), []),
        "metadata.json names no features that tell samples apart",
    ),
    "limit": (change((*FEATURE, "high"), -2), None),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_metadata(tmp_path, damage, reason):
    directory = dataset.write(sounds(), tmp_path, "sounds")
    file = directory / "metadata.json"
    metadata = json.loads(file.read_text())
    damage(metadata)
    file.write_text(json.dumps(metadata))
    if reason is None:
        reason = f"a value of waveform is {sounds().features['waveform'][0, 0]}"
    message = (
        f"the prepared data set in {directory} is damaged ({reason}): delete that directory and "
        "run again"
    )
    assert refusal(dataset.read, directory) == message
    assert refusal(lambda: stream.open_samples(directory).features["waveform"][:]) == message


# --- A source of one's own -----------------------------------------------------------------------


@pytest.fixture
def sources():
    known = dict(source.SOURCES)
    yield source.SOURCES
    source.SOURCES.clear()
    source.SOURCES.update(known)


FILE = """
from __future__ import annotations

import numpy as np
from fermm.data import source
from fermm.samples import Feature, Samples

FEATURES = {"song": Feature((3,), "float32")}


@source.register_source("songs", description=source.Description(FEATURES, ("owl", "wren")))
def read_songs(data, *, count: int, loud: float = 1.0, name: str = "", high: bool = False):
    songs = np.arange(3 * count, dtype=np.float32).reshape(count, 3) * np.float32(loud)
    rows = np.arange(count)
    labels = (rows % 2).astype(np.int32)
    official = np.full(count, -1, np.int8)
    return Samples({"song": songs}, FEATURES, labels, ("owl", "wren"), rows, official, ("song",))
"""


def run_file(text=FILE):
    exec(compile(text, "songs.py", "exec"), {"__name__": "songs"})


def section(**changes):
    return config.read(DataConfig, {"source": "songs"} | changes, "config.data")


def test_a_source_in_one_file(sources):
    run_file()
    run_file()  # imported twice, as a config is
    data = section(arguments={"count": 20, "loud": 2})
    source.check(data)
    found = source.load(data)
    assert found.title == "songs"
    assert found.notes == ()
    assert found.samples.classes == ("owl", "wren")
    assert found.samples.features["song"][1].tolist() == [6, 8, 10]
    assert found.identity["sizes"] == {"train": 14, "validation": 4, "test": 2}
    assert found.identity["fer2013"] == "other faces"
    assert found.class_weights.tolist() == [1, 1]
    known = source.describe(data)
    assert known.classes == ("owl", "wren")
    assert known.features["song"] == Feature((3,), "float32")
    assert source.fingerprint(data) is None
    grouped = source.load(section(arguments={"count": 20}, split="grouped"))
    assert grouped.identity["labels"] == found.identity["labels"]
    assert grouped.identity["features"] != found.identity["features"]


ARGUMENTS = {
    "unknown": (
        {"count": 3, "lout": 1.0},
        "config.data.arguments: 'lout' is unknown; there are count, high, loud, name. Did you mean "
        "'loud'?",
    ),
    "missing": ({}, "config.data.arguments.count is missing: the source 'songs' needs it"),
    "integer": ({"count": 1.5}, "config.data.arguments.count is 1.5, needs an integer"),
    "True for an integer": (
        {"count": True},
        "config.data.arguments.count is True, needs an integer",
    ),
    "number": (
        {"count": 3, "loud": "much"},
        "config.data.arguments.loud is 'much', needs a number",
    ),
    "string": ({"count": 3, "name": 3}, "config.data.arguments.name is 3, needs a string"),
    "True or False": (
        {"count": 3, "high": 1},
        "config.data.arguments.high is 1, needs True or False",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments_of_a_source(sources, arguments, message):
    run_file()
    for function in (source.check, source.load):
        assert refusal(function, section(arguments=arguments)) == message


def test_labels_of_ferplus_are_for_fer2013_alone(sources):
    run_file()
    data = section(arguments={"count": 3}, labels="votes", votes="fer2013new.csv")
    assert refusal(source.check, data) == (
        "config.data.labels is 'votes': FER+ has votes for FER2013's faces alone; set "
        "config.data.source to 'fer2013' or labels to 'original'"
    )


def test_a_source_is_registered_once(sources):
    run_file()
    with pytest.raises(
        ValueError, match=r"^the source 'songs' is registered already, by read_song"
    ):
        run_file(FILE.replace("read_songs", "read_others"))
    with pytest.raises(
        ValueError, match=r"^the source 'fer2013' is registered already, by read_fer"
    ):
        source.register_source("fer2013")(lambda data: None)


def misfit(**changes):
    return lambda data: sounds(**changes)


WRONG = {
    "nothing": (
        lambda data: None,
        "the source 'songs' returns NoneType, needs fermm.samples.Samples",
    ),
    "no samples": (
        lambda data: sounds().take(np.arange(0)),
        "the source 'songs' gives no samples; see to config.data",
    ),
    "labels": (
        misfit(labels=np.full(N, 3, np.int32)),
        "the source 'songs' gives samples whose labels of sample 0 hold 3, need integers from 0 to "
        "2",
    ),
    "feature": (
        misfit(described={}),
        "the source 'songs' gives samples whose features are count, level, loudness, spectrum, "
        "waveform, words, and described are none",
    ),
}


@pytest.mark.parametrize(("function", "message"), WRONG.values(), ids=WRONG)
def test_what_a_source_gives_is_checked(sources, function, message):
    source.register_source("songs")(function)
    assert refusal(source.load, section()) == message


def test_a_source_may_leave_its_features_on_disk(sources, directory):
    source.register_source("songs")(lambda data: stream.open_samples(directory))
    found = source.load(section(split="official"))
    assert_same(found.samples, sounds())
    assert isinstance(found.samples.features["loudness"], stream.Column)
    in_part = stream.open_samples(directory).with_feature(
        "extra", Feature((), "float32"), np.zeros(N, np.float32)
    )
    source.SOURCES.pop("songs")
    source.register_source("songs")(lambda data: in_part)
    assert refusal(source.load, section()) == (
        "the source 'songs' gives features of which some are columns of one data set on disk and "
        "others are not; give all from one place"
    )


def test_what_was_set_aside_is_written(tmp_path, capsys):
    aside = sounds(rejected=(Rejected("line 3", "is, bad"), Rejected("a\udce9.wav", "no sound")))
    source.write_rejected(tmp_path / "rejected.csv", "songs.csv", aside)
    assert (tmp_path / "rejected.csv").read_text() == (
        'source,place,reason\nsongs.csv,line 3,"is, bad"\nsongs.csv,a\\udce9.wav,no sound\n'
    )
    line = f"2 of 42 rows set aside, see {tmp_path}/rejected.csv\n"
    assert capsys.readouterr().out == line

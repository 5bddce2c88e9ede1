"""Features that are computed from others: in memory, from disk, and in what is read ahead."""

import contextlib
import dataclasses

import numpy as np
import pytest

from fermm import config
from fermm.data import dataset, source, splits, stream, synthetic
from fermm.data.config import DataConfig
from fermm.errors import InputError
from fermm.faces import EMOTIONS
from fermm.samples import DERIVED, Feature, register_feature
from helpers.samples import assert_same

N = 2 * stream.BLOCK + 7  # more than a block
CALLS = []


def spread(landmarks):
    CALLS.append(len(landmarks))
    return landmarks.std((1, 2), dtype=np.float32)


def relative(landmarks, spread):
    return landmarks / spread[:, None, None]


def brightness(images, relative):
    assert len(images) == len(relative)
    return images.mean((1, 2), dtype=np.float32)[:, None] * relative[:, 0]


@pytest.fixture(autouse=True)
def _registry(monkeypatch):
    known = dict(DERIVED)
    register_feature("spread", Feature((), "float32", "pixels"), reads=("landmarks",))(spread)
    shape = Feature((68, 2), "float32")
    register_feature("relative", shape, reads=("landmarks", "spread"))(relative)
    register_feature("bright", Feature((2,), "float32"), reads=("images", "relative"))(brightness)
    CALLS.clear()
    yield
    DERIVED.clear()
    DERIVED.update(known)


@pytest.fixture(scope="module")
def drawn():
    """N faces, of which no two are the same."""
    faces = synthetic.draw(64, seed=0)
    many = dataclasses.replace(faces.take(np.arange(N) % len(faces)), rows=np.arange(N))
    many.features["images"][:, 0, :4] = np.arange(N, dtype=np.uint32).view(np.uint8).reshape(N, 4)
    return many


@pytest.fixture(scope="module")
def directory(drawn, tmp_path_factory):
    return dataset.write(drawn, tmp_path_factory.mktemp("cache"), "drawn")


def expected(faces):
    points = faces.features["landmarks"]
    spreads = points.std((1, 2), dtype=np.float32)
    light = faces.features["images"].mean((1, 2), dtype=np.float32)
    return {
        "spread": spreads,
        "relative": points / spreads[:, None, None],
        "bright": light[:, None] * (points / spreads[:, None, None])[:, 0],
    }


def test_in_memory_block_by_block(drawn):
    found = source.derive(drawn, "spread")
    assert CALLS == [stream.BLOCK, stream.BLOCK, 7]
    assert [*found.features] == ["images", "landmarks", "spread"]
    assert found.described["spread"] == Feature((), "float32", "pixels")
    np.testing.assert_array_equal(found.features["spread"], expected(drawn)["spread"])
    assert source.derive(found, "spread") is found
    assert [*drawn.features] == ["images", "landmarks"]
    found.check()


def test_a_chain_in_the_order_of_its_links(drawn):
    found = source.derive(drawn, "bright")
    assert [*found.features] == ["images", "landmarks", "spread", "relative", "bright"]
    assert [*found.described] == [*found.features]
    for name, column in expected(drawn).items():
        assert column.dtype == found.features[name].dtype
        np.testing.assert_array_equal(found.features[name], column, err_msg=name)


def test_what_the_source_has_is_not_computed(drawn):
    own = np.ones(N, np.float32)
    found = source.derive(drawn.with_feature("spread", Feature((), "float32"), own), "relative")
    assert CALLS == []
    np.testing.assert_array_equal(found.features["relative"], drawn.features["landmarks"])


def test_on_disk_it_is_what_it_is_in_memory(drawn, directory):
    in_memory = source.derive(drawn, "bright")
    CALLS.clear()
    streamed = source.derive(stream.open_samples(directory), "bright")
    assert CALLS == []  # nothing before rows are taken
    for name in ("spread", "relative", "bright"):
        column, array = streamed.features[name], in_memory.features[name]
        assert isinstance(column, stream.DerivedColumn)
        assert (column.shape, column.dtype, column.ndim) == (array.shape, array.dtype, array.ndim)
        for key in (0, -1, slice(3, 9), slice(None, None, -500), [5, 1, 1], np.arange(N)[::-300]):
            np.testing.assert_array_equal(column[key], array[key], err_msg=f"{name}[{key}]")
        rows = np.array([N - 1, 4, 4])
        np.testing.assert_array_equal(column.at(rows)[:], array[rows])
        np.testing.assert_array_equal(column.at(rows).at(np.array([1]))[:], array[[4]])
        for key in (N, 1.5, None, (0, 0), np.ones(N, bool)):
            with pytest.raises(IndexError):
                column[key]
        assert source._digest(column) == source._digest(array)
    assert_same(streamed, in_memory)
    rows = np.array([7, 3])
    taken = streamed.take(rows)
    assert isinstance(taken.features["bright"], stream.DerivedColumn)
    assert_same(taken, in_memory.take(rows))


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_read_ahead(drawn, directory, workers):
    in_memory = source.derive(drawn, "bright")
    streamed = source.derive(stream.open_samples(directory), "bright")
    names = ("bright", "images", "spread")
    rows = np.random.default_rng(0).permutation(N)[:500]
    chosen = {name: streamed.features[name] for name in names}
    for columns, order in (
        (chosen, rows),
        ({name: column.at(rows) for name, column in chosen.items()}, np.arange(500)),
    ):
        with contextlib.closing(stream.chunks(columns, order, 200, workers=workers)) as chunks:
            read = list(chunks)
        assert [len(chunk["bright"]) for chunk in read] == [200, 200, 100]
        for name in names:
            found = np.concatenate([chunk[name] for chunk in read])
            np.testing.assert_array_equal(found, in_memory.features[name][rows])
        assert all(chunk.keys() == set(names) for chunk in read)


def test_only_what_is_needed_is_read(directory, monkeypatch):
    asked = []
    read = stream.Records.read

    def noted(self, names, rows):
        asked.append(sorted(names))
        return read(self, names, rows)

    monkeypatch.setattr(stream.Records, "read", noted)
    column = source.derive(stream.open_samples(directory), "relative").features["relative"]
    asked.clear()
    with contextlib.closing(stream.chunks({"x": column}, np.arange(30), 10)) as chunks:
        assert len(list(chunks)) == 3
    assert asked == [["landmarks"]] * 3


BAD = {
    "shape": (
        lambda images: images.mean((1, 2)),
        "the function of the feature 'bad' returns float64 ({n},) for {n} samples, needs float32 "
        "({n}, 3)",
    ),
    "type": (
        lambda images: np.zeros((len(images), 3)),
        "the function of the feature 'bad' returns float64 ({n}, 3) for {n} samples, needs float32 "
        "({n}, 3)",
    ),
    "one for all": (
        lambda images: np.zeros((1, 3), np.float32),
        "the function of the feature 'bad' returns float32 (1, 3) for {n} samples, needs float32 "
        "({n}, 3)",
    ),
    "nothing": (
        lambda images: None,
        "the function of the feature 'bad' returns object () for {n} samples, needs float32 "
        "({n}, 3)",
    ),
    "NaN": (
        lambda images: (
            np.where(np.arange(len(images)) == 2, np.nan, 0)[:, None] * np.ones(3, np.float32)
        ),
        "the function of the feature 'bad' returns float64 ({n}, 3) for {n} samples, needs float32 "
        "({n}, 3)",
    ),
    "NaN of the right type": (
        lambda images: np.float32([[0, 0, np.nan if i == 2 else 0] for i in range(len(images))]),
        "the function of the feature 'bad' returns nan for sample 2 of the {n} that it was given, "
        "needs finite numbers to 4",
    ),
    "beyond a limit": (
        lambda images: np.arange(len(images) * 3, dtype=np.float32).reshape(-1, 3),
        "the function of the feature 'bad' returns 5.0 for sample 1 of the {n} that it was given, "
        "needs finite numbers to 4",
    ),
}


@pytest.mark.parametrize(("function", "message"), BAD.values(), ids=BAD)
def test_functions_that_do_not_keep_their_word(drawn, directory, function, message):
    register_feature("bad", Feature((3,), "float32", high=4), reads=("images",))(function)

    def refusal(call, count):
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value) == message.format(n=count)

    refusal(lambda: source.derive(drawn, "bad"), stream.BLOCK)
    streamed = source.derive(stream.open_samples(directory), "bad")
    refusal(lambda: streamed.features["bad"][:5], 5)
    chosen = {"x": streamed.features["bad"]}
    refusal(lambda: list(stream.chunks(chosen, np.arange(30), 10)), 10)


def test_a_feature_that_nothing_gives(drawn):
    register_feature("lost", Feature((), "float32"), reads=("sound",))(len)
    for name in ("sound", "lost"):
        with pytest.raises(InputError) as caught:
            source.derive(drawn, name)
        assert str(caught.value) == (
            "a network reads the feature 'sound', which the data do not have and no registered "
            "function computes; they have images, landmarks"
        )


def test_in_the_data_of_a_run():
    section = {"source": "synthetic", "arguments": {"count": 100}}
    data = config.read(DataConfig, section, "config.data")
    assert source.describe(data).features["relative"] == DERIVED["relative"].feature
    plain, more = source.load(data), source.load(data, ["relative", "images", "spread"])
    assert [*plain.samples.features] == ["images", "landmarks"]
    assert [*more.samples.features] == ["images", "landmarks", "spread", "relative"]
    assert more.samples.classes == EMOTIONS
    known = more.identity["features"]
    assert known.keys() == more.samples.features.keys()
    assert plain.identity["features"].items() < known.items()
    np.testing.assert_array_equal(splits.digests(plain.samples), splits.digests(more.samples))

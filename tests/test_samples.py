"""What a sample consists of, columns as users hold them, and what does not fit together."""

import dataclasses
import json

import numpy as np
import pytest

from fermm import samples as samples_lib
from fermm.errors import InputError
from fermm.faces import EMOTIONS, FACE_REGIONS, FEATURES, IMAGES, LANDMARKS, MIRRORED_POINTS
from fermm.samples import Feature, Origin, Rejected, Samples, as_column, first_bad, register_feature
from helpers.samples import assert_same

AGE = Feature((), "float32", "years", 0, 120)
LEVEL = Feature((3,), "int16")


def refusal(function, *arguments):
    with pytest.raises(InputError) as caught:
        function(*arguments)
    return str(caught.value)


# --- Features ------------------------------------------------------------------------------------


def test_a_feature_is_read_back_from_json():
    for feature in (IMAGES, LANDMARKS, AGE, LEVEL):
        text = json.dumps(feature.to_json())
        assert Feature.from_json(json.loads(text)) == feature
    assert AGE.to_json() == {
        "shape": [],
        "dtype": "float32",
        "meaning": "years",
        "low": 0,
        "high": 120,
    }


def test_a_type_has_one_name():
    assert Feature((2,), "f4") == Feature((2,), "float32") == Feature((2,), np.float32)
    assert Feature((2,), ">i8").dtype == "int64"


@pytest.mark.parametrize("shape", [(0,), (-1,), (2.0,), (True,), [2], 2, ("2",), None])
def test_a_shape_has_sizes(shape):
    assert refusal(Feature, shape, "uint8") == (
        f"the shape of a feature is {shape!r}, needs a tuple of integers from 1"
    )


@pytest.mark.parametrize("dtype", ["uint9", "bool", "object", "complex64", "U3", "M8[s]", ""])
def test_a_type_is_of_numbers(dtype):
    assert refusal(Feature, (2,), dtype) == (
        f"the type of a feature is {dtype!r}, needs one of integers or floating-point numbers, "
        "such as 'uint8' or 'float32'"
    )


def test_facts_about_faces():
    assert [(*FEATURES,), len(EMOTIONS)] == [("images", "landmarks"), 7]
    assert sorted(MIRRORED_POINTS) == list(range(68))
    # A region is mirrored onto a region.
    other = {name: name for name in FACE_REGIONS} | {
        "right_brow": "left_brow",
        "left_brow": "right_brow",
        "right_eye": "left_eye",
        "left_eye": "right_eye",
    }
    for name, points in FACE_REGIONS.items():
        mirrored = {MIRRORED_POINTS[point] for point in range(points.start, points.stop)}
        expected = FACE_REGIONS[other[name]]
        if name not in ("mouth", "lips"):  # the paper's are off by one point
            assert mirrored == set(range(expected.start, expected.stop)), name


# --- Samples -------------------------------------------------------------------------------------


def some(**changes):
    """Five samples of three classes with everything that samples may have."""
    shares = np.float32([[1, 0, 0], [0, 1, 0], [0.5, 0, 0.5], [0.25, 0.5, 0.25], [0, 0, 1]])
    made = Samples(
        features={
            "age": np.arange(5, dtype=np.float32) * 10,
            "level": np.arange(15, dtype=np.int16).reshape(5, 3),
        },
        described={"age": AGE, "level": LEVEL},
        labels=np.array([0, 1, 2, 1, 2], np.int32),
        classes=("low", "middle", "high"),
        rows=np.array([0, 1, 3, 4, 6]),
        official=np.array([0, 0, 1, 2, -1], np.int8),
        identity=("level",),
        votes=shares,
        targets=shares[::-1].copy(),
        rejected=(Rejected("line 4", "is bad"),),
        origin=Origin("paper", "abc"),
    )
    return dataclasses.replace(made, **changes)


def test_taking_samples():
    indices = np.array([4, 1, 1])
    taken, whole = some().take(indices), some()
    assert len(taken) == 3
    assert taken.rejected == ()
    expected = dataclasses.replace(
        whole,
        features={name: x[indices] for name, x in whole.features.items()},
        labels=np.array([2, 1, 1], np.int32),
        rows=np.array([6, 1, 1]),
        official=np.array([-1, 0, 0], np.int8),
        votes=whole.votes[indices],
        targets=whole.targets[indices],
        rejected=(),
    )
    assert_same(taken, expected)
    bare = some(votes=None, targets=None).take(indices)
    assert (bare.votes, bare.targets) == (None, None)


def test_one_more_feature():
    column = np.zeros((5, 2), np.float32)
    whole = some()
    more = whole.with_feature("extra", Feature((2,), "float32"), column)
    assert [*more.features] == [*more.described] == ["age", "level", "extra"]
    assert more.features["extra"] is column
    assert [*whole.features] == ["age", "level"]
    more.check()


def changed(name, at, value):
    """`some` with one other value in a column."""
    whole = some()
    if name in whole.features:
        column = whole.features[name].copy()
        column[at] = value
        return dataclasses.replace(whole, features={**whole.features, name: column})
    column = getattr(whole, name).copy()
    column[at] = value
    return dataclasses.replace(whole, **{name: column})


TWO_NAMES = "needs a tuple of two names or more, each once, on one line and without blanks around"
MISFITS = {
    "one class": (
        lambda: some(classes=("low",)),
        f"classes are ('low',), {TWO_NAMES}",
    ),
    "class twice": (
        lambda: some(classes=("low", "low", "high")),
        f"classes are ('low', 'low', 'high'), {TWO_NAMES}",
    ),
    "blank around a class": (
        lambda: some(classes=("low", "middle", "high ")),
        f"classes are ('low', 'middle', 'high '), {TWO_NAMES}",
    ),
    "class of two lines": (
        lambda: some(classes=("low", "middle", "hi\ngh")),
        f"classes are ('low', 'middle', 'hi\\ngh'), {TWO_NAMES}",
    ),
    "list of classes": (
        lambda: some(classes=["low", "high"]),
        f"classes are ['low', 'high'], {TWO_NAMES}",
    ),
    "name of a feature": (
        lambda: some().with_feature("of age", AGE, np.zeros(5, np.float32)),
        "features are called 'age', 'level', 'of age'; give names like those of variables",
    ),
    "not described": (
        lambda: some(described={"age": AGE}),
        "features are age, level, and described are age",
    ),
    "no features": (
        lambda: some(features={}, described={}),
        "features are none, and described are none",
    ),
    "identity": (
        lambda: some(identity=("images",)),
        "identity is ('images',), needs some of the features age, level",
    ),
    "no identity": (
        lambda: some(identity=()),
        "identity is (), needs some of the features age, level",
    ),
    "type of a feature": (
        lambda: some().with_feature("age", AGE, np.zeros(5)),
        "age are float64 (5,), need float32 (5,)",
    ),
    "number of values": (
        lambda: some().with_feature("age", AGE, np.zeros(4, np.float32)),
        "age are float32 (4,), need float32 (5,)",
    ),
    "list for an array": (
        lambda: some().with_feature("age", AGE, [0.0] * 5),
        "age are list, need float32 (5,)",
    ),
    "too high": (
        lambda: changed("age", 2, 121),
        "age of sample 2 hold 121.0, need finite numbers from 0 to 120",
    ),
    "NaN": (
        lambda: changed("age", 4, np.nan),
        "age of sample 4 hold nan, need finite numbers from 0 to 120",
    ),
    "label": (
        lambda: changed("labels", 3, 3),
        "labels of sample 3 hold 3, need integers from 0 to 2",
    ),
    "type of labels": (
        lambda: some(labels=np.zeros(5, np.int64)),
        "labels are int64 (5,), need int32 (5,)",
    ),
    "row": (
        lambda: changed("rows", 1, -1),
        "rows of sample 1 hold -1, need integers from 0",
    ),
    "row twice": (lambda: changed("rows", 1, 0), "rows have a number twice"),
    "split": (
        lambda: changed("official", 1, 3),
        "official of sample 1 hold 3, need integers from -1 to 2",
    ),
    "votes of another number of classes": (
        lambda: some(votes=np.ones((5, 2), np.float32) / 2),
        "votes are float32 (5, 2), need float32 (5, 3)",
    ),
    "votes that are no shares": (
        lambda: changed("votes", 2, 0.4),
        "votes of sample 2 do not add up to 1",
    ),
    "negative target": (
        lambda: changed("targets", 2, (-0.5, 0.5, 1)),
        "targets of sample 2 hold -0.5, need finite numbers from 0 to 1",
    ),
}


@pytest.mark.parametrize(("make", "message"), MISFITS.values(), ids=MISFITS)
def test_what_does_not_fit_together(make, message):
    some().check()
    assert refusal(make().check) == message


def test_the_first_bad_value():
    column = np.arange(12, dtype=np.float32).reshape(4, 3)
    assert first_bad(Feature((3,), "float32"), column) is None
    assert first_bad(Feature((3,), "float32", low=2), column) == (0, 0)
    assert first_bad(Feature((3,), "float32", high=6), column) == (2, 1)
    column[3, 2] = np.inf
    assert first_bad(Feature((3,), "float32"), column) == (3, 2)
    assert first_bad(Feature((), "uint8", low=0, high=255), np.array([255], np.uint8)) is None
    assert first_bad(Feature((), "int8", low=-1, high=2), np.array([0, -2], np.int8)) == (1,)


# --- Columns as users hold them ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("feature", "values", "shape"),
    [
        (AGE, 3, (1,)),
        (AGE, 3.5, (1,)),
        (AGE, [3, 4], (2,)),
        (AGE, np.array([[3], [4]]), (2,)),
        (AGE, np.zeros(0), (0,)),
        (LEVEL, [1, 2, 3], (1, 3)),
        (LEVEL, [[1, 2, 3]] * 4, (4, 3)),
        (LEVEL, np.array([[[1], [2], [3]]], np.uint64), (1, 3)),
        (IMAGES, np.full((48, 48), 255), (1, 48, 48)),
        (IMAGES, np.zeros((48, 48, 1), np.int64), (1, 48, 48)),
        (IMAGES, np.zeros((2, 48, 48, 1), np.uint8), (2, 48, 48)),
        (LANDMARKS, np.zeros((3, 68, 2), np.float64), (3, 68, 2)),
        (Feature((4, 1), "float32"), np.zeros((4, 1)), (1, 4, 1)),
    ],
)
def test_columns_in_many_forms(feature, values, shape):
    column = as_column("x", feature, values)
    assert (column.shape, column.dtype) == (shape, np.dtype(feature.dtype))
    np.testing.assert_array_equal(column.ravel(), np.asarray(values).ravel())


def test_a_column_that_is_one_already_is_not_copied():
    column = np.zeros((3, 48, 48), np.uint8)
    assert as_column("images", IMAGES, column) is column


GREY = "give integers from 0 to 255, (N, 48, 48), grey levels"
POINTS = "give numbers, (N, 68, 2), x and y in pixels"
YEARS = "give numbers from 0 to 120, (N,), years"
LEVELS = "give integers, (N, 3)"
CONVERT = "if 1 stands for 255, (255 * images).round().astype('uint8') makes them so"
NO_NUMBERS = "leave the sample out, or compute it again"


def at(column, index, value):
    column[index] = value
    return column


REFUSED = [
    ("images", IMAGES, [[1, 2], [3]], f"images: lists of different lengths; {GREY}"),
    ("images", IMAGES, np.zeros((48, 47)), f"images are float64 (48, 47); {GREY}"),
    ("images", IMAGES, [], f"images are float64 (0,); {GREY}"),
    ("images", IMAGES, "face.png", f"images are <U8 (); {GREY}"),
    ("images", IMAGES, np.zeros((48, 48), bool), f"images are bool (48, 48); {GREY}"),
    (
        "images",
        IMAGES,
        np.zeros((2, 48, 48, 3), np.uint8),
        f"images are uint8 (2, 48, 48, 3); {GREY}",
    ),
    ("images", IMAGES, np.ones((48, 48)), f"images are float64 (48, 48); {GREY}; {CONVERT}"),
    (
        "images",
        IMAGES,
        np.full((48, 48), 2.0),
        f"images are float64 (48, 48); {GREY}; images.astype('uint8') makes them so",
    ),
    ("images", IMAGES, np.full((48, 48), 2.5), f"images are float64 (48, 48); {GREY}"),
    ("images", IMAGES, np.full((48, 48), np.nan), f"images are float64 (48, 48); {GREY}"),
    (
        "images",
        IMAGES,
        at(np.zeros((3, 48, 48), np.int64), (2, 5, 7), 256),
        f"images are int64 (3, 48, 48), and row 2 has 256 at [5, 7]; {GREY}",
    ),
    (
        "images",
        IMAGES,
        at(np.zeros((48, 48), np.int8), (5, 7), -1),
        f"images are int8 (48, 48), and row 0 has -1 at [5, 7]; {GREY}",
    ),
    ("landmarks", LANDMARKS, np.zeros((68, 3)), f"landmarks are float64 (68, 3); {POINTS}"),
    ("landmarks", LANDMARKS, [["a", "b"]] * 68, f"landmarks are <U1 (68, 2); {POINTS}"),
    (
        "landmarks",
        LANDMARKS,
        at(np.zeros((2, 68, 2)), (1, 3, 0), np.nan),
        f"landmarks: row 1 has nan at [3, 0], not a finite number; {NO_NUMBERS}",
    ),
    (
        "landmarks",
        LANDMARKS,
        at(np.zeros((4, 68, 2)), (slice(1, 3), 3), 1e39),  # float32 cannot hold it
        f"landmarks: row 1 has 1e+39 at [3, 0], not a finite number (2 rows have such numbers); "
        f"{NO_NUMBERS}",
    ),
    ("age", AGE, [3, -1], f"age are int64 (2,), and row 1 has -1; {YEARS}"),
    ("age", AGE, [3.0, np.inf], f"age are float64 (2,), and row 1 has inf; {YEARS}"),
    ("age", AGE, [3.0, np.nan], f"age: row 1 has nan, not a finite number; {NO_NUMBERS}"),
    ("age", AGE, [[3.0, 4.0]], f"age are float64 (1, 2); {YEARS}"),
    # int16 cannot hold it, and the feature says nothing else.
    (
        "level",
        LEVEL,
        [[1, 2, 3], [1, 40_000, 3]],
        f"level are int64 (2, 3), and row 1 has 40000 at [1]; {LEVELS}",
    ),
    (
        "level",
        LEVEL,
        np.full((1, 3), 2**63, np.uint64),
        f"level are uint64 (1, 3), and row 0 has 9223372036854775808 at [0]; {LEVELS}",
    ),
    ("level", LEVEL, [1.0, 2.0, 3.0], f"level are float64 (3,); {LEVELS}"),
    ("level", LEVEL, None, f"level are object (); {LEVELS}"),
]


@pytest.mark.parametrize(("name", "feature", "values", "message"), REFUSED)
def test_columns_that_are_refused(name, feature, values, message):
    assert refusal(as_column, name, feature, values) == message


def test_limits_on_one_side():
    feature = Feature((2,), "float32", "ratio", low=1.5)
    assert refusal(as_column, "x", feature, [1, 2]) == (
        "x are int64 (2,), and row 0 has 1 at [0]; give numbers from 1.5, (N, 2), ratio"
    )
    feature = dataclasses.replace(feature, low=None, high=0)
    assert refusal(as_column, "x", feature, [[0, 2]]) == (
        "x are int64 (1, 2), and row 0 has 2 at [1]; give numbers to 0, (N, 2), ratio"
    )


# --- Features that are computed ------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _registry(monkeypatch):
    monkeypatch.setattr(samples_lib, "DERIVED", {})


def test_a_feature_is_registered_once():
    @register_feature("mean", AGE, reads=["level"])
    def mean(level):
        return level.mean(1, dtype=np.float32)

    expected = {"mean": samples_lib.Derived(AGE, ("level",), mean)}
    assert expected == samples_lib.DERIVED
    again = register_feature("mean", AGE, reads=("level",))
    assert again(mean) is mean  # as if its file were imported twice

    def other(level):
        return level

    with pytest.raises(ValueError, match=r"^the feature 'mean' is registered already, by .*\.mean"):
        again(other)
    # A function of the same name in another file is another one.
    scope = {"__name__": "elsewhere"}
    exec(compile("def mean(level): return level", "elsewhere.py", "exec"), scope)
    scope["mean"].__qualname__ = mean.__qualname__
    with pytest.raises(ValueError, match=r"^the feature 'mean' is registered already"):
        again(scope["mean"])


def test_a_feature_is_not_computed_from_itself():
    register_feature("a", AGE, reads=("b",))(lambda b: b)
    register_feature("b", AGE, reads=("c", "images"))(lambda c, images: c)
    for name, reads in (("c", ("a",)), ("d", ("images", "d"))):
        with pytest.raises(ValueError, match=f"^the feature '{name}' would be computed from its"):
            register_feature(name, AGE, reads=reads)(lambda x: x)
    assert samples_lib.DERIVED.keys() == {"a", "b"}

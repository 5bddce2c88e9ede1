import time

import numpy as np
import pytest

from fermm.data import synthetic
from fermm.errors import InputError
from fermm.faces import EMOTIONS, FEATURES
from fermm.samples import UNKNOWN_SPLIT, Samples
from helpers.samples import assert_same

FACES = 384  # three blocks
UNITS = tuple(synthetic.UNIT_MOVES)


@pytest.fixture(scope="module")
def faces() -> Samples:
    return synthetic.draw(FACES, seed=3)


@pytest.fixture(scope="module")
def clear() -> Samples:
    """The same faces without noise and with nothing in front of them."""
    return synthetic.draw(FACES, seed=3, noise=0.0, occluded=0.0)


def levels(faces: Samples, places: np.ndarray) -> np.ndarray:
    """Grey level of the pixel nearest to each place (N, K, 2): float (N, K)."""
    x, y = np.clip(np.rint(places), 0, 47).astype(int).transpose(2, 0, 1)
    return faces.features["images"][np.arange(len(faces))[:, None], y, x].astype(float)


def upright(landmarks: np.ndarray) -> np.ndarray:
    """Landmarks turned so that the line through the outer eye corners is level."""
    (cos,), (sin,) = np.split((landmarks[:, 45] - landmarks[:, 36]).T, 2)
    x, y = landmarks[..., 0], landmarks[..., 1]
    length = np.hypot(cos, sin)[:, None]
    cos, sin = cos[:, None] / length, sin[:, None] / length
    return np.stack([x * cos + y * sin, y * cos - x * sin], -1)


def one_unit(unit: int) -> np.ndarray:
    return np.array([[float(unit == other) for other in UNITS]], np.float32)


def moved_by(unit: int) -> np.ndarray:
    """What one unit at full strength does to the mean face: (68, 2)."""
    identity = np.zeros((1, len(synthetic._BY_IDENTITY)))
    shapes = [synthetic._shape(identity, units) for units in (one_unit(unit), 0 * one_unit(unit))]
    return (shapes[0] - shapes[1])[0, :68, :2]


def test_shapes_and_types(faces: Samples) -> None:
    images, landmarks = faces.features["images"], faces.features["landmarks"]
    assert (images.shape, images.dtype) == ((FACES, 48, 48), np.uint8)
    assert (landmarks.shape, landmarks.dtype) == ((FACES, 68, 2), np.float32)
    assert faces.described == FEATURES
    assert (faces.classes, faces.identity) == (EMOTIONS, ("images",))
    assert (faces.labels.shape, faces.labels.dtype) == ((FACES,), np.int32)
    assert (faces.official.dtype, set(faces.official)) == (np.int8, {UNKNOWN_SPLIT})
    assert faces.rows.dtype == np.int64
    np.testing.assert_array_equal(faces.rows, np.arange(FACES))
    assert np.isfinite(landmarks).all()


def test_same_seed_same_faces(faces: Samples) -> None:
    assert_same(synthetic.draw(FACES, seed=3), faces)


def test_a_larger_set_extends_a_smaller_one() -> None:
    larger = synthetic.draw(300, seed=1, spoiled=0.3)
    for count in (1, 10, 128, 129):
        assert_same(synthetic.draw(count, seed=1, spoiled=0.3), larger.take(np.arange(count)))


def test_seeds_and_blocks_differ(faces: Samples) -> None:
    other = synthetic.draw(FACES, seed=4)
    assert (faces.labels != other.labels).any()
    assert (faces.features["images"] != other.features["images"]).any((1, 2)).all()
    assert (faces.features["landmarks"] != other.features["landmarks"]).any((1, 2)).all()
    assert len(np.unique(faces.features["images"].reshape(FACES, -1), axis=0)) == FACES


def test_labels_are_uniform() -> None:
    counts = np.bincount(synthetic.draw(1400).labels, minlength=7)
    assert len(counts) == 7
    assert (np.abs(counts - 200) < 65).all()  # 5 standard deviations


def test_landmarks_follow_the_mark_up(faces: Samples) -> None:
    points = upright(faces.features["landmarks"])
    x, y = points[..., 0], points[..., 1]
    middle = {
        name: points[:, start:stop].mean(1)
        for name, start, stop in (
            ("right brow", 17, 22),
            ("left brow", 22, 27),
            ("nose", 27, 36),
            ("right eye", 36, 42),
            ("left eye", 42, 48),
            ("mouth", 48, 68),
        )
    }
    # The subject's right is the picture's left.
    assert (middle["right eye"][:, 0] < middle["nose"][:, 0]).all()
    assert (middle["nose"][:, 0] < middle["left eye"][:, 0]).all()
    assert (middle["right brow"][:, 1] < middle["right eye"][:, 1]).all()
    assert (middle["left brow"][:, 1] < middle["left eye"][:, 1]).all()
    assert (middle["left eye"][:, 1] < middle["nose"][:, 1]).all()
    assert (middle["nose"][:, 1] < middle["mouth"][:, 1]).all()
    assert (middle["mouth"][:, 1] < y[:, 8]).all()
    # Order along the jaw, the brows, the nose and the lips.
    assert (np.diff(x[:, 4:13]) > 0).all()
    assert (x[:, 0] < x[:, 16]).all()
    assert np.isin(y[:, :17].argmax(1), (7, 8, 9)).all()
    assert (y[:, :17].argmax(1) == 8).mean() > 0.9
    assert (np.diff(x[:, 17:27]) > 0).all()
    assert (np.diff(y[:, 27:31]) > 0).all()
    assert (np.diff(x[:, 31:36]) > 0).all()
    assert (np.diff(x[:, [36, 37, 38, 39]]) > 0).all()
    assert (np.diff(x[:, [42, 43, 44, 45]]) > 0).all()
    # Lids and lips never cross: upper above lower, the inner lip inside the outer one.
    assert (y[:, [37, 38, 43, 44]] < y[:, [41, 40, 47, 46]]).all()
    assert (np.diff(y[:, [51, 62, 66, 57]]) > 0).all()
    assert (np.diff(y[:, [50, 61, 67, 58]]) > 0).all()
    assert (x[:, 48] < x[:, 60]).all()
    assert (x[:, 64] < x[:, 54]).all()


def test_faces_fill_the_frame(faces: Samples) -> None:
    points = faces.features["landmarks"]
    assert 28 < np.ptp(points[..., 0], axis=1).mean() < 44
    assert 28 < np.ptp(points[..., 1], axis=1).mean() < 44
    assert np.median(np.abs(points.mean(1) - 23.5)) < 6
    assert ((points > -0.5) & (points < 47.5)).mean() > 0.98


def test_dark_features_lie_at_their_landmarks(clear: Samples) -> None:
    points = clear.features["landmarks"]
    cheek = levels(clear, 0.5 * (points[:, [41, 46]] + points[:, [48, 54]])).mean(1)
    features = {
        "brow": points[:, [18, 19, 20, 23, 24, 25]],
        "upper lid": points[:, [37, 38, 43, 44]],
        "lip line": 0.5 * (points[:, [61, 62, 63]] + points[:, [67, 66, 65]]),
        "nose": points[:, [32, 34]],
    }
    others = np.roll(np.arange(FACES), 1)  # landmarks of another face fit worse
    for name, places in features.items():
        own = cheek - levels(clear, places).mean(1)
        assert (own > 0).mean() > 0.85, name
        assert own.mean() > 1.15 * (cheek - levels(clear, places[others]).mean(1)).mean(), name


def test_brows_are_darkest_on_their_landmarks(clear: Samples) -> None:
    brows = clear.features["landmarks"][:, [18, 19, 24, 25]]
    profile = [levels(clear, brows + np.array([0, shift])).mean() for shift in (-2, -1, 0, 1, 2)]
    assert np.argmin(profile) == 2


def test_the_jaw_line_parts_the_face_from_the_rest(clear: Samples) -> None:
    jaw = clear.features["landmarks"][:, [2, 3, 13, 14]]
    outward = jaw - clear.features["landmarks"][:, 30:31]
    outward /= np.linalg.norm(outward, axis=-1, keepdims=True)
    step = np.abs(levels(clear, jaw + 1.5 * outward) - levels(clear, jaw - 1.5 * outward)).mean()
    within = np.abs(levels(clear, jaw - 4 * outward) - levels(clear, jaw - 7 * outward)).mean()
    assert step > 1.5 * within


def test_open_mouths_are_dark_in_surprise(clear: Samples) -> None:
    points = clear.features["landmarks"]
    gape = np.linalg.norm(points[:, 66] - points[:, 62], axis=1)
    chosen = np.flatnonzero((clear.labels == EMOTIONS.index("surprise")) & (gape > 2.5))
    assert len(chosen) > 20
    mouth = levels(clear, points[:, [62, 66]].mean(1, keepdims=True))[chosen, 0]
    lip = levels(clear, points[:, [57, 66]].mean(1, keepdims=True))[chosen, 0]
    assert (mouth < lip).mean() > 0.9


def test_emotions_are_made_of_emfacs_units() -> None:
    expected = {
        "angry": {4, 5, 7, 23},
        "disgust": {9, 15, 16},
        "fear": {1, 2, 4, 5, 20, 26},
        "happy": {6, 12},
        "sad": {1, 4, 15},
        "surprise": {1, 2, 5, 26},
    }
    assert set(synthetic.EMOTION_UNITS) == set(EMOTIONS)
    assert synthetic.EMOTION_UNITS["neutral"] == {}
    for emotion, units in expected.items():
        assert units <= set(synthetic.EMOTION_UNITS[emotion]), emotion
    used = {unit for units in synthetic.EMOTION_UNITS.values() for unit in units}
    assert used == set(UNITS)


# Unit, then landmarks of the picture's left half with the way they go: in x, in y (0: not told).
DIRECTIONS = [
    (1, {21: (0, -1), 20: (0, -1)}),
    (2, {17: (0, -1), 18: (0, -1)}),
    (4, {21: (1, 1), 20: (1, 1)}),
    (5, {37: (0, -1), 38: (0, -1)}),
    (6, {40: (0, -1), 41: (0, -1)}),
    (7, {37: (0, 1), 41: (0, -1)}),
    (9, {31: (0, -1), 33: (0, -1), 51: (0, -1)}),
    (10, {50: (0, -1), 51: (0, -1)}),
    (12, {48: (-1, -1), 60: (-1, -1)}),
    (15, {48: (0, 1), 60: (0, 1)}),
    (16, {57: (0, 1), 66: (0, 1)}),
    (20, {48: (-1, 0), 60: (-1, 0)}),
    (23, {48: (1, 0), 51: (0, 1), 57: (0, -1)}),
    (24, {51: (0, 1), 57: (0, -1)}),
    (25, {62: (0, -1), 66: (0, 1)}),
    (26, {8: (0, 1), 57: (0, 1), 66: (0, 1)}),
]


@pytest.mark.parametrize(("unit", "directions"), DIRECTIONS)
def test_action_units_move_their_landmarks(
    unit: int, directions: dict[int, tuple[int, int]]
) -> None:
    change = moved_by(unit)
    mirrored = change[synthetic._MIRROR[:68]] * (-1, 1)
    np.testing.assert_allclose(change, mirrored, atol=1e-5)
    for point, expected in directions.items():
        for got, sign in zip(change[point], expected, strict=True):
            assert sign == 0 or got * sign > 0.2, (point, change[point])
    # Units of the upper face leave the mouth alone and the other way round.
    untouched = slice(48, 68) if unit < 9 else slice(36, 48)
    assert np.abs(change[untouched]).max() < 1e-5


def test_every_unit_has_a_stated_direction() -> None:
    assert {unit for unit, _ in DIRECTIONS} == set(UNITS)


def test_expressions_show_in_the_landmarks(faces: Samples) -> None:
    points = upright(faces.features["landmarks"])
    points = points / np.linalg.norm(points[:, 45] - points[:, 36], axis=1)[:, None, None]

    def gap(name: str, above: int, below: int) -> float:
        chosen = faces.labels == EMOTIONS.index(name)
        return float((points[chosen, below, 1] - points[chosen, above, 1]).mean())

    corner, inner_brow, mouth, lids = (48, 57), (21, 39), (62, 66), (37, 41)
    assert gap("happy", *corner) > gap("neutral", *corner) > gap("sad", *corner)
    assert gap("surprise", *inner_brow) > gap("neutral", *inner_brow) > gap("angry", *inner_brow)
    assert gap("surprise", *mouth) > gap("neutral", *mouth)
    assert gap("fear", *lids) > gap("neutral", *lids) > gap("happy", *lids)
    assert gap("disgust", 27, 33) < gap("neutral", 27, 33)


# Unit, landmarks around which it shows, and whether it darkens or lightens them.
CREASES = [
    (1, (19, 20, 23, 24), -1),
    (4, (21, 22), -1),
    (6, (36, 41, 45, 46), -1),
    (9, (27, 28, 31, 35, 48, 54), -1),
    (12, (31, 35, 48, 54), -1),
    (15, (48, 54), -1),
    (23, (51, 57), 1),
]


@pytest.mark.parametrize(("unit", "around", "sign"), CREASES)
def test_creases_are_only_in_the_picture(unit: int, around: tuple[int, ...], sign: int) -> None:
    identity = np.random.default_rng(0).standard_normal((64, len(synthetic._BY_IDENTITY)))
    units = np.zeros((64, len(UNITS)), np.float32)
    points = synthetic._project(np.random.default_rng(1), synthetic._shape(identity, units))
    smooth, creased = (
        synthetic._paint(np.random.default_rng(2), points, units + strength * one_unit(unit), 0.0)
        for strength in (0, 1)
    )
    change = sign * (creased - smooth)
    frame = np.stack(np.meshgrid(np.arange(48), np.arange(48)), -1)
    far = np.stack(
        [np.linalg.norm(frame - points[:, point, None, None], axis=-1) for point in around]
    ).min(0)
    assert (change.max((1, 2)) > 0.03).mean() > 0.9
    assert np.abs(change[far > 11]).max() == 0
    # Not all of it: a crease is lighter than the dark lip or brow it may cross.
    assert np.maximum(change, 0).sum() > 10 * np.maximum(-change, 0).sum()


def test_smiles_bare_teeth_that_landmarks_do_not_tell() -> None:
    rest = np.zeros((64, len(synthetic._BY_IDENTITY)))
    moved = np.repeat(one_unit(12) + one_unit(25), 64, 0)
    points = synthetic._project(np.random.default_rng(1), synthetic._shape(rest, moved))
    dark, bared = (
        synthetic._paint(np.random.default_rng(2), points, np.repeat(creased, 64, 0), 0.0)
        for creased in (0 * one_unit(12), one_unit(12))
    )
    x, y = np.rint(points[:, [62, 66]].mean(1)).astype(int).T
    faces = np.arange(64)
    assert (bared[faces, y, x] > dark[faces, y, x] + 0.1).mean() > 0.9


def test_spoiled_rows_are_known_and_the_others_untouched() -> None:
    whole = synthetic.draw(200, seed=2)
    spoiled = synthetic.draw(200, seed=2, spoiled=0.3)
    rows = synthetic.spoiled_rows(200, 2, 0.3)
    assert (rows.shape, rows.dtype) == ((200,), np.bool_)
    np.testing.assert_array_equal(
        (spoiled.features["landmarks"] != whole.features["landmarks"]).any((1, 2)), rows
    )
    np.testing.assert_array_equal(spoiled.features["images"], whole.features["images"])
    np.testing.assert_array_equal(spoiled.labels, whole.labels)
    error = np.linalg.norm(
        spoiled.features["landmarks"] - whole.features["landmarks"], axis=-1
    ).mean(1)
    assert error[rows].min() > 4


def test_spoiled_share() -> None:
    rows = [synthetic.spoiled_rows(4000, 0, share) for share in (0.0, 0.2, 0.5, 1.0)]
    assert not rows[0].any()
    assert rows[3].all()
    assert abs(rows[1].mean() - 0.2) < 0.03
    assert (rows[1] <= rows[2]).all()
    np.testing.assert_array_equal(synthetic.spoiled_rows(10, 0, 0.5), rows[2][:10])


def test_occlusion_hides_parts_of_a_share() -> None:
    open_, some, all_ = (synthetic.draw(FACES, occluded=share, noise=0.0) for share in (0, 0.25, 1))
    changed = (open_.features["images"] != some.features["images"]).any((1, 2))
    assert 0.18 < changed.mean() < 0.32
    np.testing.assert_array_equal(
        some.features["images"][changed], all_.features["images"][changed]
    )
    assert (open_.features["images"] != all_.features["images"]).any((1, 2)).mean() > 0.95
    np.testing.assert_array_equal(open_.features["landmarks"], all_.features["landmarks"])


def test_noise_is_in_grey_levels(clear: Samples) -> None:
    noisy = synthetic.draw(FACES, seed=3, noise=6.0, occluded=0.0)
    np.testing.assert_array_equal(noisy.features["landmarks"], clear.features["landmarks"])
    spread = (noisy.features["images"].astype(float) - clear.features["images"]).std((1, 2))
    assert 5.0 < spread.mean() < 7.0
    assert spread.std() > 1.0  # each face has its own


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count is 0: ask for at least 1 face"),
        ({"count": 5, "seed": -1}, "seed is -1: give an integer from 0"),
        ({"count": 5, "spoiled": 1.5}, "spoiled is 1.5: give a share from 0 to 1"),
        ({"count": 5, "spoiled": float("nan")}, "spoiled is nan: give a share from 0 to 1"),
        ({"count": 5, "occluded": -0.1}, "occluded is -0.1: give a share from 0 to 1"),
        ({"count": 5, "noise": -1.0}, "noise is -1.0: give grey levels from 0"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(InputError) as error:
        synthetic.draw(**arguments)
    assert str(error.value) == message


def test_speed() -> None:
    start = time.process_time()  # of the processor, so that a busy machine does not fail it
    synthetic.draw(2000)
    assert 2000 / (time.process_time() - start) > 500

"""Augmentation: what it does to a face, its image and its points together."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fermm import config, models
from fermm.config import Section
from fermm.errors import InputError
from fermm.faces import FACE_REGIONS, FEATURES, MIRRORED_POINTS
from fermm.train import steps, updates
from fermm.train.augmentation import AUGMENTATIONS, Augmentation, Flip, Noise, Shift
from fermm.train.config import TrainConfig, refuse_augmentation_of_outputs
from fermm.train.losses import CrossEntropy
from fermm.train.tasks import Task

COUNT = 64
ALL: list[Augmentation] = [Flip(), Shift(pixels=3), Noise(pixels=0.5)]


def faces() -> dict[str, jax.Array]:
    """Dark images with a bright pixel at one landmark, another one in each face."""
    random = np.random.default_rng(0)
    # Far enough from the edges to be shifted, and at whole pixels; no two of a face alike.
    places = np.stack([random.permutation(40 * 40)[:68] for _ in range(COUNT)])
    landmarks = np.stack([places % 40, places // 40], axis=-1) + 4
    images = np.zeros((COUNT, 48, 48), np.uint8)
    for i in range(COUNT):
        x, y = landmarks[i, i % 68]
        images[i, y, x] = 255
    return {"images": jnp.asarray(images), "landmarks": jnp.asarray(landmarks, jnp.float32)}


def named(augmentation: Augmentation) -> str:
    return type(augmentation).__name__


def test_mirrored_points_swap_left_and_right() -> None:
    mirrored = np.array(MIRRORED_POINTS)
    np.testing.assert_array_equal(mirrored[mirrored], np.arange(68))
    points = np.arange(68)
    for a, b in (("left_eye", "right_eye"), ("left_brow", "right_brow")):
        assert set(mirrored[points[FACE_REGIONS[a]]]) == set(points[FACE_REGIONS[b]])
    assert mirrored[0] == 16  # the two ends of the jaw
    assert mirrored[8] == 8  # the chin
    assert mirrored[30] == 30  # the tip of the nose
    assert (mirrored[36], mirrored[39]) == (45, 42)  # outer and inner corner of the eyes
    assert (mirrored[48], mirrored[60]) == (54, 64)  # corners of the mouth, outside and inside


def test_a_flip_mirrors_image_and_points() -> None:
    before = faces()
    after = jax.tree.map(np.asarray, Flip()(jax.random.key(0), before))
    flipped = np.array((after["images"] != before["images"]).any((1, 2)))
    assert 20 < flipped.sum() < 44  # of 64, which has a probability of 0.998
    for i, (image, points) in enumerate(zip(after["images"], after["landmarks"], strict=True)):
        point = MIRRORED_POINTS[i % 68] if flipped[i] else i % 68
        x, y = np.asarray(points[point], int)
        assert image[y, x] == 255
        assert int(image.astype(np.int32).sum()) == 255
        expected = np.asarray(before["landmarks"][i])
        if flipped[i]:
            expected = (expected * [-1, 1] + [47, 0])[list(MIRRORED_POINTS)]
        np.testing.assert_array_equal(points, expected)


def test_a_flip_twice_is_nothing() -> None:
    before, key = faces(), jax.random.key(3)
    after = Flip()(key, Flip()(key, before))
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_a_shift_moves_image_and_points() -> None:
    before = faces()
    after = jax.tree.map(np.asarray, Shift(pixels=3)(jax.random.key(0), before))
    moves = np.asarray(after["landmarks"] - before["landmarks"])
    assert (moves == moves[:, :1]).all()  # all points of a face alike
    assert set(moves.ravel()) == {-3, -2, -1, 0, 1, 2, 3}
    for i, (image, points) in enumerate(zip(after["images"], after["landmarks"], strict=True)):
        x, y = np.asarray(points[i % 68], int)
        assert image[y, x] == 255
        assert int(image.astype(np.int32).sum()) == 255


def test_a_shift_repeats_the_edges() -> None:
    image = np.arange(48 * 48, dtype=np.int64).reshape(48, 48) % 251
    before = {
        "images": jnp.asarray(np.stack([image] * COUNT), jnp.uint8),
        "landmarks": jnp.zeros((COUNT, 68, 2)),
    }
    after = jax.tree.map(np.asarray, Shift(pixels=2)(jax.random.key(0), before))
    padded = np.pad(image, 2, mode="edge")
    for found, points in zip(after["images"], after["landmarks"], strict=True):
        x, y = np.asarray(points[0], int)
        np.testing.assert_array_equal(found, padded[2 - y : 50 - y, 2 - x : 50 - x])


def test_noise_moves_every_point_by_itself() -> None:
    before = faces()
    after = Noise(pixels=0.5)(jax.random.key(0), before)
    np.testing.assert_array_equal(after["images"], before["images"])
    moves = np.asarray(after["landmarks"] - before["landmarks"])
    assert len(np.unique(moves.round(4))) > 5000
    # 8,704 draws: the standard error of their standard deviation is 0.004.
    np.testing.assert_allclose(moves.std(), 0.5, atol=0.016)
    np.testing.assert_allclose(moves.mean(), 0, atol=0.02)


@pytest.mark.parametrize("augmentation", ALL, ids=named)
def test_types_and_shapes_stay_and_others_are_left_alone(augmentation: Augmentation) -> None:
    before = {**faces(), "hog": jnp.ones((COUNT, 5))}
    after = augmentation(jax.random.key(0), before)
    assert {k: (x.shape, x.dtype) for k, x in after.items()} == {
        k: (x.shape, x.dtype) for k, x in before.items()
    }
    np.testing.assert_array_equal(after["hog"], before["hog"])


@pytest.mark.parametrize("augmentation", ALL, ids=named)
def test_padding_changes_nothing(augmentation: Augmentation) -> None:
    """What becomes of a face does not depend on how many are in the batch."""
    before = faces()
    whole = augmentation(jax.random.key(1), before)
    some = augmentation(jax.random.key(1), {k: x[:13] for k, x in before.items()})
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:13], b), whole, some)


@pytest.mark.parametrize("name", ["images", "landmarks"])
@pytest.mark.parametrize("augmentation", ALL, ids=named)
def test_one_feature_is_changed_as_both_are(augmentation: Augmentation, name: str) -> None:
    before = faces()
    both = augmentation(jax.random.key(1), before)
    one = augmentation(jax.random.key(1), {name: before[name]})
    np.testing.assert_array_equal(one[name], both[name])


def test_several_draw_from_keys_of_their_own() -> None:
    before, key = faces(), jax.random.key(0)
    found = steps.augment([Shift(pixels=2), Shift(pixels=2)], key, before)
    once = steps.augment([Shift(pixels=2)], key, before)
    first = once["landmarks"] - before["landmarks"]
    second = found["landmarks"] - once["landmarks"]
    assert (first != second).any()
    assert steps.augment([], key, before) is before


# --- In a config ----------------------------------------------------------------------------------


def read(section: Section) -> TrainConfig:
    base = {"epochs": 3, "batch_size": 1, "learning_rate": 0.1}
    return config.read(TrainConfig, {**base, **section}, "config.x")


def test_parameters_by_name() -> None:
    section = {"augment": ("shift", "flip"), "augmentation": {"shift": {"pixels": 5}, "noise": {}}}
    assert read(section).augmentations("config.x") == (Shift(pixels=5), Flip())
    assert read({}).augmentations("config.x") == ()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"augment": ("flop",)},
            "config.x.augment: 'flop' is unknown; there are flip, noise, shift. "
            "Did you mean 'flip'?",
        ),
        (
            {"augmentation": {"nose": {}}},
            "config.x.augmentation: 'nose' is unknown; there are flip, noise, shift. "
            "Did you mean 'noise'?",
        ),
        (
            {"augmentation": {"shift": {"pixel": 1}}},
            "config.x.augmentation.shift: 'pixel' is unknown; there are pixels. "
            "Did you mean 'pixels'?",
        ),
        (
            {"augmentation": {"shift": {"pixels": 0}}},
            "config.x.augmentation.shift.pixels is 0, needs at least 1",
        ),
        (
            {"augmentation": {"shift": 3}},
            "config.x.augmentation.shift is 3, needs a section",
        ),
        (
            {"schedule": {"kind": "cosine", "warmup_epochs": 3}},
            "config.x.schedule: warmup_epochs is 3 of 3 epochs, needs to be fewer",
        ),
        (
            {"average": {"decay": 1.0}},
            "config.x.average.decay is 1.0, needs a number from 0, less than 1",
        ),
        (
            {"optimizer": {"kind": "sgd", "momentun": 0.9}},
            "config.x.optimizer: 'momentun' is unknown; there are b1, b2, clip, epsilon, momentum, "
            "nesterov, weight_decay. Did you mean 'momentum'?",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line(section: Section, message: str) -> None:
    with pytest.raises(InputError) as error:
        read(section).check("config.x")
    assert str(error.value) == message


def test_kept_outputs_are_not_augmented() -> None:
    refuse_augmentation_of_outputs(read({}), "config.x")
    with pytest.raises(InputError) as error:
        refuse_augmentation_of_outputs(read({"augment": ("flip",)}), "config.x")
    assert str(error.value) == (
        "config.x.augment changes samples, but the outputs of the frozen members are computed "
        "once: set config.x.reuse_frozen_outputs to False, or leave config.x.augment empty"
    )


@dataclasses.dataclass(frozen=True)
class Halved(Augmentation):
    changes: ClassVar[tuple[str, ...]] = ("landmarks",)

    def __call__(self, key: jax.Array, inputs: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
        return {"landmarks": inputs["landmarks"][:, :34]}


@dataclasses.dataclass(frozen=True)
class Fitting(CrossEntropy):
    def __call__(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
        return super().__call__(logits, targets).mean()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"augmentations": [Shift()]}, ""),
        (
            {"model": "nn1", "augmentations": [Noise()]},
            "the augmentation Noise changes landmarks, but the network reads images",
        ),
        (
            {"augmentations": [Halved()]},
            "the augmentation Halved returns {'landmarks': 'float32 (5, 34, 2)'}, needs the shapes "
            "and types that it is given, {'landmarks': 'float32 (5, 68, 2)'}",
        ),
        (
            {"loss": Fitting()},
            "the loss returns float32 () for 5 samples, needs one number for each: (5,)",
        ),
    ],
)
@pytest.mark.parametrize("distributions", [False, True])
def test_a_step_is_tried_before_training(
    change: dict[str, Any], message: str, distributions: bool
) -> None:
    module = models.build({"model": change.get("model", "nn2"), "arguments": {}})
    inputs = {name: jnp.zeros((1, *f.shape), f.dtype) for name, f in FEATURES.items()}
    variables = jax.eval_shape(module.init, jax.random.key(0), inputs)
    paths = frozenset(
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"])
    )

    def check() -> Any:
        return steps.check_step(
            module,
            variables,
            paths,
            task=Task(change.get("loss", CrossEntropy()), np.ones(7, np.float32)),
            transform=updates.make(read({}), 1).transform,
            augmentations=change.get("augmentations", []),
            features=FEATURES,
            classes=7,
            distributions=distributions,
        )

    if not message:
        updates.check_state(check(), "config.x.optimizer")
        return
    with pytest.raises(InputError) as error:
        check()
    assert str(error.value) == message


def test_one_s_own_is_registered_from_one_file() -> None:
    try:
        AUGMENTATIONS.register("halved")(Halved)
        assert read({"augment": ("halved",)}).augmentations("config.x") == (Halved(),)
    finally:
        del AUGMENTATIONS._kinds["halved"]

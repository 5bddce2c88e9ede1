"""Splits and class weights against numbers worked out by hand or by the paper's own calls."""

import os

import numpy as np
import pytest

from fermm.data import fer2013, splits
from fermm.errors import InputError
from fermm.faces import EMOTIONS, face_samples
from fermm.samples import Samples


def faces(n: int, official: int = 0) -> Samples:
    images = np.zeros((n, 48, 48), np.uint8)
    images[:, 0, :4] = np.arange(n, dtype=np.uint32).view(np.uint8).reshape(n, 4)  # all different
    labels, split = np.zeros(n, np.int32), np.full(n, official, np.int8)
    return face_samples(images, labels, split, np.arange(n))


def test_paper_split_of_all_of_fer2013():
    n = 35887
    rows = np.arange(n)
    unlabelled = face_samples(np.zeros((n, 1, 1), np.uint8), rows * 0, rows * 0, rows)
    parts = splits.split(unlabelled, "paper")
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 25121,
        "validation": 7177,
        "test": 3589,
    }
    assert parts["train"][:5].tolist() == [34412, 10642, 13453, 14843, 30120]
    assert parts["test"][-5:].tolist() == [20757, 32103, 30403, 21243, 2732]
    # What pandas.DataFrame.sample(frac=1, random_state=0) draws.
    drawn = np.random.RandomState(0).choice(n, size=n, replace=False)
    np.testing.assert_array_equal(np.concatenate(list(parts.values())), drawn)
    assert all(part.dtype == np.int64 for part in parts.values())


@pytest.mark.parametrize("seed", [0, 3])
def test_paper_split_is_the_permutation_cut_in_order(seed):
    parts = splits.split(faces(20), "paper", seed)
    order = np.random.RandomState(seed).permutation(20)
    np.testing.assert_array_equal(parts["train"], order[:14])
    np.testing.assert_array_equal(parts["validation"], order[14:18])
    np.testing.assert_array_equal(parts["test"], order[18:])


def test_official_split_keeps_the_order_of_the_source():
    some = faces(7)
    some.official[:] = [2, 0, 1, 0, 2, 0, 1]
    parts = splits.split(some, "official", seed=5)
    assert {name: part.tolist() for name, part in parts.items()} == {
        "train": [1, 3, 5],
        "validation": [2, 6],
        "test": [0, 4],
    }
    assert all(part.dtype == np.int64 for part in parts.values())


def test_official_split_without_the_splits_of_the_source_is_refused():
    some = faces(20)
    some.official[[3, 8]] = -1
    with pytest.raises(InputError) as caught:
        splits.split(some, "official")
    assert str(caught.value) == (
        "split 'official' needs the official split of every sample, unknown for 2 of 20 (the first "
        "is row 3): use the CSV with its column Usage, or folders train, val and test, or files "
        "named Training_*, PublicTest_* and PrivateTest_* that do not contradict their folders, or "
        "split 'paper' or 'grouped'"
    )
    message = "leaves none for validation: the source assigns no sample to it; use split 'grouped'"
    with pytest.raises(InputError, match=message):
        splits.split(faces(20), "official")


def test_grouped_split_without_copies_is_the_papers():
    some = faces(200)
    paper, grouped = splits.split(some, "paper", 1), splits.split(some, "grouped", 1)
    for name, part in paper.items():
        np.testing.assert_array_equal(grouped[name], part)


@pytest.mark.parametrize("seed", range(5))
def test_grouped_split_keeps_copies_together(seed):
    some = faces(300)
    rng = np.random.default_rng(seed)
    for size in (2, 2, 3, 5, 9, 20):  # largest group: 20 copies of one image
        members = rng.choice(300, size, replace=False)
        some.features["images"][members] = some.features["images"][members[:1]]
    parts = splits.split(some, "grouped", seed)
    assert np.sort(np.concatenate(list(parts.values()))).tolist() == list(range(300))
    train, validation, test = (
        {some.features["images"][i].tobytes() for i in part} for part in parts.values()
    )
    assert train.isdisjoint(validation)
    assert train.isdisjoint(test)
    assert validation.isdisjoint(test)
    for part, ideal in zip(parts.values(), (210, 60, 30), strict=True):
        assert abs(len(part) - ideal) <= 20


def test_grouped_split_by_hand():
    # seed 3 shuffles 10 faces to 5 4 1 2 9 6 7 0 3 8; 4 and 0 are copies, so are 9 and 8.
    assert np.random.RandomState(3).permutation(10).tolist() == [5, 4, 1, 2, 9, 6, 7, 0, 3, 8]
    some = faces(10)
    some.features["images"][4], some.features["images"][9] = (
        some.features["images"][0],
        some.features["images"][8],
    )
    # A group stands where its first face of the source does: 5 | 1 | 2 | 6 | 7 | 4 0 | 3 | 9 8. The
    # paper cuts after 7 and after 9; of the ends 8 and 10, which are as near to 9, the first is it.
    parts = splits.split(some, "grouped", 3)
    assert {name: part.tolist() for name, part in parts.items()} == {
        "train": [5, 1, 2, 6, 7, 4, 0],
        "validation": [3],
        "test": [9, 8],
    }


SEEDS = range(20)
SHARES = (0.7, 0.2, 0.1)
STRUCTURES = {  # size of a group: how many of them there are
    "as FER2013": {1: 1000, 2: 60, 3: 10, 5: 2, 20: 1},
    "pairs": {1: 300, 2: 300},
    "large groups": {1: 200, 10: 60, 30: 10},
}


def grouped_faces(structure):
    """Samples in groups of copies; the larger a group is, the likelier it is of class 5."""
    random = np.random.default_rng(1)
    sizes = np.repeat([*structure], [*structure.values()])
    group = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    classes = np.where(random.random(len(sizes)) < 1 - 1 / sizes, 5, random.integers(0, 7, 1))
    some = faces(len(group))
    some.features["images"][:] = faces(len(sizes)).features["images"][group]
    some.labels[:] = classes[group]
    return some


def check_grouped(some, seeds=SEEDS):
    """That groups of all sizes and faces of all classes have the shares of the split."""
    copies = splits.duplicates(some)
    _, group, sizes = np.unique(copies, return_inverse=True, return_counts=True)
    where = np.empty((len(seeds), len(sizes)), np.int8)  # the part in which a group stands
    for i, seed in enumerate(seeds):
        parts = list(splits.split(some, "grouped", seed).values())
        assert np.sort(np.concatenate(parts)).tolist() == list(range(len(some)))
        for part, share in zip(parts, SHARES, strict=True):
            assert abs(len(part) - share * len(some)) <= sizes.max() + 1
        for j, part in enumerate(parts):
            where[i, group[part]] = j
        side = np.concatenate([np.full(len(part), j) for j, part in enumerate(parts)])
        assert (side == where[i, group[np.concatenate(parts)]]).all()  # no group on two sides

    for kind in (sizes == 1, sizes == 2, sizes > 1, sizes > sizes.mean()):
        if kind.any():
            for j, share in enumerate(SHARES):
                found = (where[:, kind] == j).mean()
                spread = np.sqrt(share * (1 - share) / (len(seeds) * kind.sum()))
                assert abs(found - share) < 4 * spread + 0.002, (kind.sum(), j)
    # A face of a class comes with all its group, so that the chance is that of groups.
    scores = []
    for label in np.unique(some.labels):
        counts = np.bincount(group, some.labels == label, len(sizes))
        for j, share in enumerate(SHARES):
            spread = np.sqrt(share * (1 - share) * (counts**2).sum())
            scores.append(((where == j) @ counts - share * counts.sum()) / spread)
    assert np.abs(scores).max() < 4.5
    assert np.sqrt(np.mean(np.square(scores))) < 1.25
    assert np.abs(np.mean(scores, axis=1)).max() < 4 / np.sqrt(len(seeds))


@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)
def test_the_place_of_a_group_does_not_depend_on_its_size(structure):
    check_grouped(grouped_faces(structure))


def test_unknown_split_and_seed_are_refused():
    with pytest.raises(InputError) as caught:
        splits.split(faces(20), "groupd")
    assert str(caught.value) == (
        "unknown split 'groupd': did you mean 'grouped'? There are paper, official, grouped"
    )
    with pytest.raises(InputError, match=r"split seed -1 is not in 0 to 2\*\*32 - 1"):
        splits.split(faces(20), "paper", -1)


@pytest.mark.parametrize("kind", ["paper", "grouped"])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_too_few_faces_are_refused(kind, n):
    with pytest.raises(InputError, match=rf"split '{kind}' of {n} samples leaves none for "):
        splits.split(faces(n), kind)


def test_one_image_over_and_over_cannot_be_grouped():
    some = faces(20)
    some.features["images"][:] = 7
    with pytest.raises(InputError, match="leaves none for validation: give more data"):
        splits.split(some, "grouped")


def test_duplicates_name_the_first():
    some = faces(5)
    some.features["images"][:] = 0
    some.features["images"][[1, 3], 0, 0] = 9
    some.features["images"][2, 47, 47] = 1
    assert splits.duplicates(some).tolist() == [0, 1, 2, 1, 0]
    assert splits.duplicates(some.take(np.array([0, 2, 4]))).tolist() == [0, 1, 0]


COUNTS = (4953, 547, 5121, 8989, 6077, 4002, 6198)
WEIGHTS = (1.815, 16.433, 1.755, 1.0, 1.479, 2.246, 1.450)


def test_class_weights_are_table_1():
    weights = splits.class_weights(np.repeat(np.arange(7, dtype=np.int32), COUNTS), EMOTIONS)
    assert weights.dtype == np.float64
    np.testing.assert_allclose(weights, WEIGHTS, atol=5e-4)
    assert weights[1] == 8989 / 547  # not rounded


def test_a_class_without_samples_has_no_weight():
    with pytest.raises(InputError) as caught:
        splits.class_weights(np.array([0, 2, 3, 4, 5, 6, 6], np.int32), EMOTIONS)
    assert str(caught.value) == (
        "class 'disgust' has no samples among 7, so it has no weight: "
        "give more data or switch the class weights off"
    )


@pytest.mark.skipif("FERMM_FER2013" not in os.environ, reason="needs FER2013")
def test_splits_of_the_real_data():
    real = fer2013.read(os.environ["FERMM_FER2013"])
    np.testing.assert_allclose(splits.class_weights(real.labels, real.classes), WEIGHTS, atol=5e-4)
    official = splits.split(real, "official")
    assert [len(part) for part in official.values()] == [28709, 3589, 3589]
    check_grouped(real)

"""Where faces lie in folders and zips: what is read, what tells the usage, what is refused."""

import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from fermm.data import fer2013, splits
from fermm.data.fer2013 import EMOTION_WORDS
from fermm.errors import InputError
from fermm.faces import EMOTIONS
from fermm.samples import UNKNOWN_SPLIT
from helpers.fer2013 import (
    GREY,
    ICML,
    KAGGLE,
    NO_PICTURE,
    ORDER,
    assert_faces,
    draw,
    refusal,
    save_folders,
    save_zip,
)

MODES = fer2013.ON_ERROR


def save(root, *names):
    """Pictures of grey 1, 2, ... of these names."""
    for grey, name in enumerate(names, 1):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (48, 48), grey).save(root / name)
    return root


def packed(root):
    return shutil.make_archive(root.parent / f"{root.name} packed", "zip", root)


def read_both(root, **keywords):
    """What is read of a folder, which has to be what is read of its zip."""
    faces, zipped = fer2013.read(root, **keywords), fer2013.read(packed(root), **keywords)
    assert_faces(zipped, (faces.features["images"], faces.labels, faces.official))
    return faces


def refusals(root):
    """How a folder and its zip are refused, in both modes, without their own path."""
    messages = {
        refusal(path, mode).removeprefix(str(path))
        for path in (root, packed(root))
        for mode in MODES
    }
    [message] = messages
    return message


# --- Parts of the data ---------------------------------------------------------------------------


@pytest.mark.parametrize("val", ["val", "valid", "validation", "dev", "Val", "VALIDATION"])
def test_three_folders_tell_the_usage(tmp_path, val):
    names = ("train/sad/a.png", f"{val}/happy/b.png", "test/fear/c.png")
    faces = read_both(save(tmp_path / "root", *names))
    columns = (
        faces.features["images"][:, 0, 0].tolist(),
        faces.labels.tolist(),
        faces.official.tolist(),
    )
    assert sorted(zip(*columns, strict=True)) == [(1, 4, 0), (2, 3, 1), (3, 2, 2)]
    official = splits.split(faces, "official")
    assert [faces.features["images"][rows, 0, 0].tolist() for rows in official.values()] == [
        [1],
        [2],
        [3],
    ]


@pytest.mark.parametrize("case", [str.lower, str.title, str.upper])
def test_the_challenge_s_own_names_of_folders(tmp_path, case):
    root = save(
        tmp_path / "root",
        *(f"{case(x)}/sad/x.png" for x in ("training", "publictest", "privatetest")),
    )
    faces = read_both(root)
    assert faces.official[np.argsort(faces.features["images"][:, 0, 0])].tolist() == [0, 1, 2]


def test_train_and_val_without_test(tmp_path):
    faces = read_both(save(tmp_path / "root", "train/sad/a.png", "val/sad/b.png"))
    assert faces.official.tolist() == [0, 1]
    with pytest.raises(
        InputError, match=r"leaves none for test: the source assigns no sample to it; use"
    ):
        splits.split(faces, "official")


def test_train_and_test_do_not_tell_which_test(tmp_path):
    faces = read_both(save(tmp_path / "root", "train/sad/a.png", "test/sad/b.png"))
    assert faces.official.tolist() == [UNKNOWN_SPLIT] * 2
    faces = read_both(save(tmp_path / "own", "train/sad/a.png", "privatetest/sad/b.png"))
    assert sorted(faces.official.tolist()) == [0, 2]


def test_names_tell_what_test_holds_and_the_order(tmp_path):
    faces = draw()
    root = save_folders(tmp_path / "root", faces)
    assert_faces(read_both(root), faces)
    for file in root.glob("test/*/PublicTest_*"):
        to = root / "val" / file.parent.name / file.name
        to.parent.mkdir(parents=True, exist_ok=True)
        file.rename(to)
    assert_faces(read_both(root), faces)


@pytest.mark.parametrize(
    "contradiction",
    ["val/sad/Training_2.png", "test/sad/Training_2.png", "train/sad/PublicTest_2.png"],
)
def test_names_that_contradict_their_folders_tell_nothing(tmp_path, contradiction):
    root = save(tmp_path / "root", "train/sad/Training_1.png", contradiction)
    assert read_both(root).official.tolist() == [UNKNOWN_SPLIT] * 2
    root = save(tmp_path / "val", "train/sad/Training_1.png", "val/sad/PrivateTest_1.png")
    assert read_both(root).official.tolist() == [UNKNOWN_SPLIT] * 2
    with pytest.raises(InputError, match=r"unknown for 2 of 2 .* that do not contradict"):
        splits.split(fer2013.read(root), "official")


UNKNOWN = (
    "but its name tells no part of the data; rename it to train, val or test, or move it elsewhere"
)


@pytest.mark.parametrize("emotion", ["sad", "Sadness", "SURPRISED"])
@pytest.mark.parametrize("name", ["evaluation", "train2", "Validate", "holdout"])
def test_a_folder_of_emotions_that_is_not_known_is_refused(tmp_path, name, emotion):
    root = save(tmp_path / "root", "train/sad/a.png", "test/sad/a.png", f"{name}/{emotion}/a.png")
    assert refusals(root) == f", {name}: has pictures in emotion folders ('{emotion}'), {UNKNOWN}"


def test_numbered_folders_and_emotions_beside_train_are_refused(tmp_path):
    root = save(tmp_path / "root", "train/sad/a.png", "more/0/a.png", "more/1/a.png")
    assert refusals(root) == f", more: has pictures in emotion folders ('0'), {UNKNOWN}"
    root = save(tmp_path / "other", "train/sad/a.png", "happy/a.png")
    assert refusals(root) == f", happy: has pictures in emotion folders ('happy'), {UNKNOWN}"


def test_two_folders_of_one_part_are_refused(tmp_path):
    message = "is the same part of the data as '{}' beside it; keep one of them"
    root = save(tmp_path / "root", "train/sad/a.png", "val/sad/a.png", "validation/sad/b.png")
    assert refusals(root) == ", val: " + message.format("validation")
    root = save(tmp_path / "case", "train/sad/a.png", "Train/sad/a.png")
    assert refusals(root) == ", Train: " + message.format("train")


# --- Emotions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [str.lower, str.title, str.upper])
@pytest.mark.parametrize(
    "words",
    [
        EMOTIONS,
        ("angry", "disgusted", "fearful", "happy", "sad", "surprised", "neutral"),
        ("anger", "disgust", "fear", "happiness", "sadness", "surprised", "neutrality"),
    ],
)
def test_usual_spellings_of_emotions(tmp_path, words, case):
    names = [f"train/{case(word)}/Training_{i}.png" for i, word in enumerate(words)]
    assert read_both(save(tmp_path / "root", *names)).labels.tolist() == [*range(7)]
    assert [EMOTION_WORDS[word] for word in words] == [*range(7)]


def test_numbers_are_in_the_order_of_fer2013(tmp_path):
    names = [f"train/{i}/Training_{i}.png" for i in range(7)]
    assert read_both(save(tmp_path / "root", *names)).labels.tolist() == [*range(7)]


@pytest.mark.parametrize(
    ("numbers", "named", "problem"),
    [
        (range(1, 8), "7", "there is no 7"),
        ([3, 8, 12], "8", "there is no 8"),
        (range(1, 7), "1", "there is a 0, and here are 1 to 6 without it"),
    ],
)
def test_numbers_in_another_order_concern_the_whole(tmp_path, numbers, named, problem):
    root = save(tmp_path / "root", *(f"train/{i}/x.png" for i in numbers))
    assert refusals(root) == (
        f", train/{named}: numbers of emotion folders mean FER2013's order ({ORDER}), in which "
        f"{problem}; rename all of them to the names of the emotions"
    )


# --- Around them ---------------------------------------------------------------------------------


def test_one_folder_around_all(tmp_path):
    faces = draw()
    root = save_folders(tmp_path / "data" / "images", faces)
    (tmp_path / "data" / "code").mkdir()
    (tmp_path / "data" / "readme.txt").touch()
    assert_faces(fer2013.read(tmp_path / "data"), faces)
    assert fer2013.digest(tmp_path / "data") == fer2013.digest(root)
    assert [p.member.split("/")[0] for p in fer2013.list_pictures(tmp_path / "data")] == [
        "images"
    ] * 20
    deeper = tmp_path / "deeper"
    (tmp_path / "data").rename(deeper)
    assert refusal(tmp_path).startswith(f"{tmp_path}: {NO_PICTURE}; it holds: 'deeper'. ")
    save(deeper / "more", "test/sad/x.png")
    message = "holds faces in several places: 'images, more'; give the path of one"
    assert refusal(deeper) == f"{deeper}: {message}"


def test_a_folder_called_train_around_train(tmp_path):
    faces = draw()
    root = save_folders(tmp_path / "root", faces)
    assert_faces(fer2013.read(save_zip(tmp_path / "faces.zip", root, "train/")), faces)
    shutil.move(root, tmp_path / "test" / "root")
    assert_faces(fer2013.read(tmp_path / "test"), faces)


@pytest.mark.parametrize(
    ("name", "text"),
    [("fer2013.csv", KAGGLE), ("icml_face_data.csv", ICML), ("FER2013.CSV", KAGGLE)],
)
def test_a_csv_in_a_folder_or_zip(tmp_path, name, text):
    for i, folder in enumerate(("", "fer2013/")):
        root = tmp_path / str(i)
        file = root / folder / name
        file.parent.mkdir(parents=True)
        file.write_text(text)
        for other in ("train.csv", "test.csv", "example_submission.csv", "fer2013.bib"):
            (file.parent / other).write_text("emotion,pixels\n")
        assert_faces(read_both(root), draw())
        assert fer2013.digest(root) == fer2013.digest(file)
        assert len(fer2013.read(root, on_error="quarantine")) == 20
    path = tmp_path / "deep.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"a/b/c/{name}", text)
        archive.writestr(f"__MACOSX/a/b/c/{name}", "x")
        archive.writestr(f"a/b/c/._{name}", "x")
    calls = []
    assert_faces(fer2013.read(path, lambda *done: calls.append(done)), draw())
    assert calls[-1] == (len(text), len(text))


def test_a_csv_beside_others_is_refused(tmp_path):
    for name, text in (("fer2013.csv", KAGGLE), ("icml_face_data.csv", ICML)):
        (tmp_path / name).write_text(text)
    message = (
        "holds faces in several places: 'fer2013.csv, icml_face_data.csv'; give the path of one"
    )
    assert refusal(tmp_path) == f"{tmp_path}: {message}"
    (tmp_path / "icml_face_data.csv").unlink()
    (tmp_path / "train/sad").mkdir(parents=True)
    (tmp_path / "train/sad/x.png").write_bytes(GREY)
    message = "holds faces in several places: '., fer2013.csv'; give the path of one"
    assert refusal(tmp_path) == f"{tmp_path}: {message}"


def test_the_home_directory_is_read_by_its_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_folders(tmp_path / "faces", draw())
    assert_faces(fer2013.read("~/faces"), draw())
    assert fer2013.digest("~/faces") == fer2013.digest(tmp_path / "faces")
    assert len(fer2013.list_pictures("~/faces")) == 20

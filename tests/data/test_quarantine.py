"""Bad rows set aside: they keep their numbers, are told of, and change nothing for the others."""

import json
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from fermm.data import dataset, fer2013
from fermm.errors import InputError
from fermm.faces import EMOTIONS
from fermm.samples import Rejected
from helpers.fer2013 import (
    AGAIN,
    GREY,
    HEADER,
    MISPLACED,
    NEEDED_FOLDER,
    PICTURE,
    row,
)
from helpers.landmark_csv import landmark_file
from helpers.quarantine import BAD, COUNT, place, write_csv


def assert_good(faces, rejected):
    """That `faces` are those of `write_csv` without the rows `rejected`."""
    rows = [i for i in range(COUNT) if i not in rejected]
    assert faces.rows.tolist() == rows
    assert faces.rows.dtype == np.int64
    assert (faces.features["images"] == np.array(rows)[:, None, None]).all()
    assert faces.labels.tolist() == [i % 7 for i in rows]
    assert faces.official.tolist() == [i % 3 for i in rows]
    assert len(faces) + len(faces.rejected) == COUNT


@pytest.mark.parametrize("lines", [1, 3, 32, 1000])
def test_csv(tmp_path, monkeypatch, lines):
    monkeypatch.setattr(fer2013, "_LINES_PER_BLOCK", lines)
    path = write_csv(tmp_path / "faces.csv")
    faces = fer2013.read(path, on_error="quarantine")
    assert_good(faces, BAD)
    assert faces.rejected == tuple(Rejected(place(at), why) for at, (_, why) in BAD.items())
    with pytest.raises(InputError) as caught:
        fer2013.read(path)
    assert str(caught.value) == f"{path}, line 5 (row 3): {BAD[2][1]}"


def test_a_good_source_is_the_same_either_way(tmp_path):
    path = write_csv(tmp_path / "faces.csv", {})
    stop, quarantine = (fer2013.read(path, on_error=mode) for mode in fer2013.ON_ERROR)
    assert_good(stop, {})
    assert_good(quarantine, {})
    assert stop.rejected == quarantine.rejected == ()


def test_an_endless_line_is_not_read_in_order_to_refuse_it(tmp_path):
    path = tmp_path / "faces.csv"
    with path.open("wb") as file:
        file.write(HEADER + row())
        file.truncate(1 << 40)  # a terabyte of NUL, which takes no place on the disk
    with pytest.raises(InputError) as caught:
        fer2013.read(path)
    assert str(caught.value) == f"{path}, line 3 (row 2): has 65536 bytes or more; {AGAIN}"


def save_pictures(root):
    """Good pictures of grey 10, 20, 30, and between them one bad of each kind."""
    for number, name in enumerate(("sad/Training_1", "fear/Training_4", "sad/Training_8"), 1):
        (root / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (48, 48), 10 * number).save(root / "train" / f"{name}.png")
    (root / "train/glad").mkdir()
    (root / "train/sad/deep").mkdir()
    (root / "train/fear/Training_2.png").write_bytes(b"no picture")
    (root / "train/glad/Training_3.png").write_bytes(GREY)
    (root / "train/sad/deep/Training_5.png").write_bytes(GREY)
    (root / "train/Training_6.png").write_bytes(GREY)
    return {
        "train/fear/Training_2.png": PICTURE,
        "train/glad/Training_3.png": f"is in emotion folder 'glad', {NEEDED_FOLDER}",
        "train/sad/deep/Training_5.png": MISPLACED,
        "train/Training_6.png": MISPLACED,
    }


def assert_pictures(faces, expected):
    assert dict(faces.rejected) == expected
    assert faces.features["images"][:, 0, 0].tolist() == [10, 20, 30]
    assert [EMOTIONS[label] for label in faces.labels] == ["sad", "fear", "sad"]
    assert faces.official.tolist() == [0, 0, 0]


def test_folders(tmp_path):
    expected = save_pictures(tmp_path / "root")
    (tmp_path / "root/train/sad/Training_7.png").symlink_to(tmp_path / "nowhere")
    expected["train/sad/Training_7.png"] = "is not a file, but a broken link or a device; remove it"
    faces = fer2013.read(tmp_path / "root", on_error="quarantine")
    assert_pictures(faces, expected)
    assert len(faces.rejected) == 5
    assert faces.rows.tolist() == [0, 3, 7]
    digest = fer2013.digest(tmp_path / "root")
    (tmp_path / "root/train/fear/Training_2.png").write_bytes(b"other picture")
    assert fer2013.digest(tmp_path / "root") != digest


def test_whatever_lies_in_an_emotion_folder_is_read_or_told(tmp_path):
    expected = save_pictures(tmp_path / "root")
    before = fer2013.read(tmp_path / "root", on_error="quarantine")
    folder = tmp_path / "root/train/sad"
    for suffix in ("tiff", "tif", "webp", "gif", "ppm", "pgm", "TIFF", "heic"):
        (folder / f"Training_9.{suffix}").write_bytes(b"anything")
        kind = f"is a picture of kind {suffix.upper()}, needs PNG, JPEG or BMP; convert it"
        expected[f"train/sad/Training_9.{suffix}"] = kind
    for name in ("notes.txt", "faces.csv", "Training_0", "Training_1.png~"):
        (folder / name).write_bytes(b"anything")
        expected[f"train/sad/{name}"] = "is no picture (.png, .jpg, .jpeg, .bmp); remove it"
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", ".hidden.png", "Icon\r"):
        (folder / name).write_bytes(b"anything")
    for path in (tmp_path / "root", shutil.make_archive(tmp_path / "x", "zip", tmp_path / "root")):
        faces = fer2013.read(path, on_error="quarantine")
        assert_pictures(faces, expected)
        # Usage and order are those without them, since what is no picture tells nothing of others.
        assert faces.rows.tolist() == before.rows.tolist()
        for name in ("glad", "sad/deep", "fear"):
            assert any(place.startswith(f"train/{name}") for place, _ in faces.rejected)
    for name, reason in expected.items():
        if "sad" in name and "deep" not in name:
            alone = tmp_path / "alone" / name
            shutil.rmtree(tmp_path / "alone", ignore_errors=True)
            alone.parent.mkdir(parents=True)
            (alone.parent / "Training_1.png").write_bytes(GREY)
            alone.write_bytes(b"anything")
            if "Training_1.png" not in alone.name or alone.suffix == ".png~":
                with pytest.raises(InputError) as caught:
                    fer2013.read(tmp_path / "alone")
                assert str(caught.value) == f"{tmp_path}/alone, {name}: {reason}"


def test_zip(tmp_path):
    expected = save_pictures(tmp_path / "root")
    path = shutil.make_archive(tmp_path / "faces", "zip", tmp_path / "root")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("train/sad/Training_9.png", GREY)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("train/sad/Training_9.png", GREY)
    faces = fer2013.read(path, on_error="quarantine")
    twice = "stands 2 times in the archive; keep one of them"
    assert faces.rejected[-2:] == (Rejected("train/sad/Training_9.png", twice),) * 2
    assert_pictures(faces, expected | {"train/sad/Training_9.png": twice})
    assert len(faces.rejected) == 6
    assert faces.rows.tolist() == [0, 3, 6]


def test_what_is_wrong_with_the_whole_still_stops(tmp_path):
    path = tmp_path / "faces.csv"
    path.write_bytes(HEADER + b"x\n" * 40)
    with pytest.raises(InputError) as caught:
        fer2013.read(path, on_error="quarantine")
    assert str(caught.value) == (
        f"{path}, line 2: has 1 fields, needs 3 as its header has; {AGAIN} "
        "(and none of the 40 rows or pictures is good)"
    )
    path.write_bytes(HEADER + row() + b"x\n" * (fer2013._REJECTED_LIMIT + 1))
    with pytest.raises(InputError, match=r"faces.csv: has over 100000 bad rows, is not FER2013"):
        fer2013.read(path, on_error="quarantine")
    path.write_bytes(b"emotion,usage,pixels\n")
    with pytest.raises(InputError, match=r"missing or repeated: Usage"):
        fer2013.read(path, on_error="quarantine")


# --- The prepared data set -----------------------------------------------------------------------


def silent(stage, done, total):
    del stage, done, total


def prepare(tmp_path, on_error, bad=BAD):
    return dataset.prepare(
        write_csv(tmp_path / "faces.csv", bad),
        cache_dir=tmp_path / "cache",
        landmarks=landmark_file(tmp_path / "points.csv", [i % 7 for i in range(COUNT)]),
        report=silent,
        on_error=on_error,
    )


def names(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache/prepared_samples").iterdir())


def test_the_prepared_data_set_remembers(tmp_path, monkeypatch):
    first = prepare(tmp_path, "quarantine")
    [name] = names(tmp_path)
    assert name.endswith("-quarantine")
    with pytest.raises(InputError, match="has 2303 pixels"):
        prepare(tmp_path, "stop")
    assert names(tmp_path) == [name]
    monkeypatch.setattr(fer2013, "read", None)
    again = prepare(tmp_path, "quarantine")
    assert first.rejected == again.rejected
    for faces in (first, again):
        assert_good(faces, BAD)
        # Those of the own row, rows set aside counted.
        assert faces.features["landmarks"][:, 0, 0].tolist() == faces.rows.tolist()


def test_a_copy_under_another_name_is_as_good(tmp_path):
    prepare(tmp_path, "quarantine")
    [directory] = (tmp_path / "cache").rglob("2.0.0")
    copy = shutil.copytree(directory, tmp_path / "mine" / "faces")
    for streaming in (False, True):
        faces = dataset.prepare(copy, on_error="quarantine", streaming=streaming)
        assert_good(faces, BAD)
    (copy / "metadata.json").unlink()
    with pytest.raises(InputError, match=r"is damaged \(.*/metadata\.json'\): delete"):
        dataset.prepare(copy, on_error="quarantine")


def test_nothing_set_aside_is_one_data_set_for_both_ways(tmp_path, monkeypatch):
    prepare(tmp_path, "quarantine", {})
    monkeypatch.setattr(fer2013, "read", None)
    assert_good(prepare(tmp_path, "stop", {}), {})
    assert_good(prepare(tmp_path, "quarantine", {}), {})
    [name] = names(tmp_path)
    assert not name.endswith("-quarantine")


def test_damage_to_what_is_remembered_is_noticed(tmp_path):
    prepare(tmp_path, "quarantine")
    [file] = (tmp_path / "cache").rglob("metadata.json")
    whole = file.read_text()
    fewer = json.dumps({"rows": 3, "rejected": []})
    for damaged in (whole[:-9], "[]", fewer, whole.replace("40", "41", 1), "[" * 10**6):
        file.write_text(damaged)
        with pytest.raises(InputError, match=r"is damaged \(.+\): delete that directory"):
            prepare(tmp_path, "quarantine")
    metadata = json.loads(whole)
    few = {k: v for k, v in metadata.items() if k not in ("rows", "rejected")}
    file.write_text(json.dumps(few))
    with pytest.raises(InputError, match=r"\(36 samples and 0 rejected are not all rows\)"):
        prepare(tmp_path, "quarantine")
    for name in few:
        file.write_text(json.dumps({k: v for k, v in metadata.items() if k != name}))
        with pytest.raises(InputError, match=rf"is damaged \('{name}'\): delete that directory"):
            prepare(tmp_path, "quarantine")
    file.unlink()
    with pytest.raises(InputError, match=r"is damaged \(.*/metadata\.json'\): delete"):
        prepare(tmp_path, "quarantine")


def test_landmarks_are_those_of_all_rows(tmp_path):
    path = write_csv(tmp_path / "faces.csv")
    good = fer2013.read(path, on_error="quarantine").labels
    table = landmark_file(tmp_path / "points.csv", good)
    with pytest.raises(InputError) as caught:
        dataset.prepare(
            path,
            cache_dir=tmp_path / "cache",
            landmarks=table,
            report=silent,
            on_error="quarantine",
        )
    assert str(caught.value) == (
        f"{table}: 36 rows of landmarks for 40 faces (4 of them set aside): use the CSV that was "
        "made from this source"
    )
    labels = [i % 7 for i in range(COUNT)]
    labels[2] = 6  # of a row that is set aside: whatever it says is right
    landmark_file(tmp_path / "points.csv", labels)
    labels[30] = 6
    table = landmark_file(tmp_path / "other.csv", labels)
    with pytest.raises(InputError, match=r"row 30 \(the first is 0\) has emotion 6, but the face"):
        dataset.prepare(
            path,
            cache_dir=tmp_path / "cache",
            landmarks=table,
            report=silent,
            on_error="quarantine",
        )

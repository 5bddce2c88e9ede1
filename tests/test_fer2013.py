"""Reading FER2013: the forms agree, and every bad input is refused with one exact line."""

import hashlib
import io
import os
import pathlib
import re
import shutil
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from fermm.data import fer2013
from fermm.data.faces import EMOTIONS, UNKNOWN_USAGE, USAGES
from fermm.errors import InputError

HEADER = b"emotion,pixels,Usage\n"
FORMS = "FER2013 is read from its unpacked CSV, from image folders or from a zip of these folders"
AGAIN = "the file is damaged, fetch it again"
NEEDED_PIXEL = "needs an integer from 0 to 255 and one blank between two pixels; correct the row"
NEEDED_EMOTION = (
    "needs one of 0 angry, 1 disgust, 2 fear, 3 happy, 4 sad, 5 surprise, 6 neutral; "
    "correct the row"
)
NEEDED_FOLDER = "needs one of angry, disgust, fear, happy, sad, surprise, neutral"
NO_PICTURE = "has no picture (.png, .jpg, .jpeg, .bmp) in train/<emotion>/ or test/<emotion>/"


def draw(count=20):
    """Random faces in FER2013's order: Training, then PublicTest, then PrivateTest."""
    random = np.random.default_rng(2013)
    images = random.integers(0, 256, (count, 48, 48), np.uint8)
    images[0] = np.arange(48 * 48).reshape(48, 48) % 256  # every value, of every length
    labels = random.integers(0, 7, count, np.int32)
    usage = np.sort(random.integers(0, 3, count)).astype(np.int8)
    return images, labels, usage


def pixels(image):
    return " ".join(map(str, image.ravel().tolist()))


def csv_text(faces, order=("emotion", "pixels", "Usage"), separator=",", quote=""):
    lines = [separator.join(order)]
    for image, label, usage in zip(*faces, strict=True):
        row = {"emotion": label, "pixels": pixels(image), "Usage": USAGES[usage]}
        lines.append(separator.join(f"{quote}{row[name]}{quote}" for name in order))
    return "\n".join(lines) + "\n"


def save_folders(root, faces, name="{usage}_{number:05d}.png"):
    for i, (image, label, usage) in enumerate(zip(*faces, strict=True)):
        folder = root / ("train" if usage == 0 else "test") / EMOTIONS[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name.format(usage=USAGES[usage], number=i))
    return root


def save_zip(path, root, lead=""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, lead + file.relative_to(root).as_posix())
    return path


def assert_faces(read, faces):
    images, labels, usage = faces
    for got, want in (
        (read.images, images),
        (read.labels, labels),
        (read.usage, usage),
        (read.rows, np.arange(len(labels))),
    ):
        np.testing.assert_array_equal(got, want)
    dtypes = [read.images.dtype, read.labels.dtype, read.usage.dtype, read.rows.dtype]
    assert dtypes == [np.uint8, np.int32, np.int8, np.int64]
    assert read.landmarks is None


def refusal(path):
    with pytest.raises(InputError) as caught:
        fer2013.read(path)
    return str(caught.value)


# --- CSV ---------------------------------------------------------------------------------------


KAGGLE = csv_text(draw())
ICML = csv_text(draw(), order=("emotion", "Usage", "pixels"), separator=", ")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(KAGGLE.encode(), id="kaggle"),
        pytest.param(ICML.encode(), id="icml"),
        pytest.param(csv_text(draw(), order=("pixels", "Usage", "emotion")).encode(), id="order"),
        pytest.param(csv_text(draw(), quote='"').encode(), id="quoted"),
        pytest.param(csv_text(draw(), quote='" ').replace('" ,', ' ",').encode(), id="padded"),
        pytest.param(KAGGLE.replace("\n", "\r\n").encode(), id="crlf"),
        pytest.param(KAGGLE.encode("utf-8-sig"), id="bom"),
        pytest.param(KAGGLE.rstrip("\n").encode(), id="no final newline"),
        pytest.param(KAGGLE.encode() + b"\n\r\n \n\n", id="blank lines"),
        pytest.param(KAGGLE.replace("\n", "\n \r\n\n").encode(), id="blank lines between"),
        pytest.param(KAGGLE.replace(" 7 ", " 007 ").encode(), id="leading zeros"),
        pytest.param(KAGGLE.replace(" 7 ", f" {'0' * 50}7 ").encode(), id="long numbers"),
        pytest.param(
            KAGGLE.replace("\n", ",note\n").replace("note", "extra", 1).encode(), id="extra column"
        ),
    ],
)
def test_csv_forms(tmp_path, content):
    path = tmp_path / "faces.csv"
    path.write_bytes(content)
    assert_faces(fer2013.read(path), draw())
    assert_faces(fer2013.read(str(path)), draw())


@pytest.mark.parametrize("lines", [1, 3, 20, 21])
@pytest.mark.parametrize("buffer", [16, 9000])
def test_csv_blocks(tmp_path, monkeypatch, lines, buffer):
    monkeypatch.setattr(fer2013, "_LINES_PER_BLOCK", lines)
    monkeypatch.setattr(fer2013, "_BUFFER", buffer)  # rows straddle what is read at once
    path = tmp_path / "faces.csv"
    for content in (KAGGLE, KAGGLE.rstrip("\n"), ICML.replace("\n", "\r\n\n\n")):
        path.write_bytes(content.encode())
        assert_faces(fer2013.read(path), draw())


def test_csv_rows_keep_their_order(tmp_path):
    images, labels, usage = draw()
    faces = images, labels, usage[::-1]
    path = tmp_path / "faces.csv"
    path.write_text(csv_text(faces))
    assert_faces(fer2013.read(path), faces)


def test_csv_progress_is_in_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(fer2013, "_LINES_PER_BLOCK", 8)
    path = tmp_path / "faces.csv"
    path.write_text(KAGGLE)
    calls = []
    fer2013.read(path, lambda done, total: calls.append((done, total)))
    ends = [i + 1 for i, c in enumerate(KAGGLE) if c == "\n"]
    assert calls == [(ends[8], len(KAGGLE)), (ends[16], len(KAGGLE)), (len(KAGGLE), len(KAGGLE))]


def row(image=None, emotion="3", usage="Training", change=None):
    """One CSV row, with `change` = (1-based pixel, its text)."""
    values = (["7"] * 48 * 48) if image is None else image
    if change:
        values = [*values]
        values[change[0] - 1] = change[1]
    return f"{emotion},{' '.join(values)},{usage}\n".encode()


def bad_pixel(position, text):
    return f", line 4 (row 3): pixel {position} is '{text}', {NEEDED_PIXEL}"


COLUMNS = (
    ": needs each of the columns emotion, pixels, Usage once in its first line; "
    "missing or repeated: {}; found: '{}'. " + FORMS
)
# What the third row is, or the whole file where it is no row, and the message after the path.
BAD_ROWS = {
    "pixel 256": (row(change=(2304, "256")), bad_pixel(2304, "256")),
    "pixel 4 digits": (row(change=(1, "1000")), bad_pixel(1, "1000")),
    "pixel wraps": (row(change=(9, str(2**64 + 7))), bad_pixel(9, 2**64 + 7)),
    "pixel 5000 digits": (row(change=(9, "9" * 5000)), bad_pixel(9, "9" * 80 + "...")),
    "pixel x": (row(change=(17, "x")), bad_pixel(17, "x")),
    "pixel -1": (row(change=(17, "-1")), bad_pixel(17, "-1")),
    "pixel +1": (row(change=(17, "+1")), bad_pixel(17, "+1")),
    "pixel 1.5": (row(change=(2, "1.5")), bad_pixel(2, "1.5")),
    "pixel 1e2": (row(change=(2, "1e2")), bad_pixel(2, "1e2")),
    "pixel digit of another script": (row(change=(2, "٣")), bad_pixel(2, "٣")),
    "pixel empty": (row(change=(30, "")), bad_pixel(30, "")),
    "pixel empty and none too few": (row(["7"] * 2304 + ["", "7"]), bad_pixel(2305, "")),
    "tab": (row(change=(30, "7\t7")), bad_pixel(30, "7\\t7")),
    "2303 pixels": (
        row(["7"] * 2303),
        f", line 4 (row 3): has 2303 pixels, needs 2304; {AGAIN}",
    ),
    "2305 pixels": (
        row(["7"] * 2305),
        f", line 4 (row 3): has 2305 pixels, needs 2304; {AGAIN}",
    ),
    "no pixels": (row([]), f", line 4 (row 3): has 0 pixels, needs 2304; {AGAIN}"),
    "cut off": (
        row()[:100],
        f", line 4 (row 3): has 2 fields, needs 3 as its header has; {AGAIN}",
    ),
    "four fields": (
        row(usage="Training,"),
        f", line 4 (row 3): has 4 fields, needs 3 as its header has; {AGAIN}",
    ),
    "blank line before": (
        b"\n" + row(change=(1, "x")),
        f", line 5 (row 3): pixel 1 is 'x', {NEEDED_PIXEL}",
    ),
    "emotion 7": (row(emotion="7"), f", line 4 (row 3): emotion is '7', {NEEDED_EMOTION}"),
    "emotion x": (row(emotion="x"), f", line 4 (row 3): emotion is 'x', {NEEDED_EMOTION}"),
    "emotion 1.0": (row(emotion="1.0"), f", line 4 (row 3): emotion is '1.0', {NEEDED_EMOTION}"),
    "emotion empty": (row(emotion=""), f", line 4 (row 3): emotion is '', {NEEDED_EMOTION}"),
    "usage near": (
        row(usage="training"),
        ", line 4 (row 3): Usage is 'training', needs one of Training, PublicTest, PrivateTest; "
        "the nearest is 'Training'; correct the row",
    ),
    "usage far": (
        row(usage="x"),
        ", line 4 (row 3): Usage is 'x', needs one of Training, PublicTest, PrivateTest; "
        "correct the row",
    ),
    "not UTF-8": (
        row(change=(2, "\xff")).decode().encode("latin-1"),
        f", line 4 (row 3): byte 5, 0xff, is not text; {AGAIN}",
    ),
    "NUL": (row(emotion="\0"), f", line 4 (row 3): byte 1, 0x00, is not text; {AGAIN}"),
    "endless blanks": (b" " * 70_000, f", line 4 (row 3): has 65536 bytes or more; {AGAIN}"),
    "endless line": (b"7 " * 50_000, f", line 4 (row 3): has 65536 bytes or more; {AGAIN}"),
}
BAD_FILES = {
    "empty": (b"", ": is empty; fetch the file again"),
    "no rows": (HEADER, ": has a header but no rows; fetch the file again"),
    "blank header": (b"\n" + row(), COLUMNS.format("emotion, pixels, Usage", "")),
    "missing column": (
        b"emotion,Pixels,Usage\n",
        COLUMNS.format("pixels", "emotion, Pixels, Usage"),
    ),
    "two columns missing": (
        b"emotion;pixels;Usage\n",
        COLUMNS.format("emotion, pixels, Usage", "emotion;pixels;Usage"),
    ),
    "column twice": (
        b"emotion,pixels,Usage,Usage\n",
        COLUMNS.format("Usage", "emotion, pixels, Usage, Usage"),
    ),
    "no header": (
        row(),
        COLUMNS.format("emotion, pixels, Usage", "3, " + ("7 " * 40)[:77] + "..."),
    ),
    "old Mac line ends": (
        b"emotion,pixels,Usage\r3,7",
        COLUMNS.format("Usage", "emotion, pixels, Usage\\r3, 7"),
    ),
    "gzip": (
        b"\x1f\x8b\x08\x00",
        f": is not a CSV, its byte 2, 0x8b, is not text; unpack it if it is an archive. {FORMS}",
    ),
    "NUL header": (
        b"emotion\0,pixels,Usage\n",
        f": is not a CSV, its byte 8, 0x00, is not text; unpack it if it is an archive. {FORMS}",
    ),
}


@pytest.mark.parametrize(("bad", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_row(tmp_path, bad, message):
    path = tmp_path / "bad.csv"
    path.write_bytes(HEADER + row() + row() + bad + row())
    if bad[-1:] == b"\n":
        assert refusal(path) == f"{path}{message}"
    path.write_bytes(HEADER + row() + row() + bad)
    assert refusal(path) == f"{path}{message}"


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_csv(tmp_path, content, message):
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    assert refusal(path) == f"{path}{message}"


def test_bad_row_far_down(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_bytes(HEADER + row() * 700 + row(emotion="8"))
    assert refusal(path).startswith(f"{path}, line 702 (row 701): emotion is '8'")


@pytest.mark.parametrize("lines", [1, 4, 32])
def test_first_bad_row_is_named(tmp_path, monkeypatch, lines):
    monkeypatch.setattr(fer2013, "_LINES_PER_BLOCK", lines)
    path = tmp_path / "bad.csv"
    bad = [row(change=(5, "256")), row(emotion="8"), b"x\n"]
    path.write_bytes(HEADER + row() * 3 + b"\n \n" + row() + b"".join(bad) + row())
    assert refusal(path) == f"{path}, line 8 (row 5): pixel 5 is '256', {NEEDED_PIXEL}"


def test_pixels_are_counted_in_each_row(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_bytes(HEADER + row() + row(["7"] * 2303) + row(["7"] * 2305))
    assert refusal(path) == f"{path}, line 3 (row 2): has 2303 pixels, needs 2304; {AGAIN}"


def test_longest_line(tmp_path):
    path = tmp_path / "long.csv"
    zeros = fer2013._LINE_LIMIT - len(row())
    path.write_bytes(HEADER + row() + row(change=(9, "0" * zeros + "7")) + row())
    assert_faces(fer2013.read(path), (np.full((3, 48, 48), 7), [3] * 3, [0] * 3))
    path.write_bytes(HEADER + row() + row(change=(9, "0" * zeros + "007")) + row())
    assert refusal(path) == f"{path}, line 3 (row 2): has 65536 bytes or more; {AGAIN}"


def mutate(random, line):
    """`line` with one byte, or a few, put in, taken out or replaced."""
    for _ in range(random.integers(1, 4)):
        at = random.integers(len(line))
        if random.random() < 0.2:
            at = random.choice([0, 1, 2, 3, len(line) - 10, len(line) - 9, len(line) - 1])
        new = random.choice([*b'00012569 ,.-+x\t\r"\0/:\xb0\xff'], random.integers(3))
        line = line[:at] + bytes(new.tolist()) + line[at + random.integers(2) :]
    return line


@pytest.mark.parametrize("seed", range(4))
def test_rows_at_once_equal_rows_one_by_one(seed):
    random = np.random.default_rng(seed)
    columns = ["emotion", "pixels", "Usage"]
    rows = KAGGLE.encode().splitlines(keepends=True)[1:]
    assert fer2013._parse_rows(rows, columns)
    taken = 0
    for _ in range(300):
        lines = [rows[i] for i in random.integers(len(rows), size=3)]
        at = random.integers(3)
        lines[at] = mutate(random, lines[at])
        fast = fer2013._parse_rows(lines, columns)
        slow = [fer2013._parse_row(line, columns) for line in lines]
        if fast:
            taken += 1
            pixels, labels, usage = zip(*slow, strict=True)
            assert fast == (b"".join(pixels), [*labels], [*usage])
        if slow[at] is None:
            assert fast is None
            assert fer2013._explain_row(lines[at], columns)
    assert 20 < taken < 280


@pytest.mark.parametrize(("bad", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_row_is_not_taken_at_once(bad, message):
    assert fer2013._parse_rows([row(), bad, row()], ["emotion", "pixels", "Usage"]) is None


def test_shifted_pixels_are_not_taken_at_once():
    columns = ["emotion", "pixels", "Usage"]
    for bad in (["7"] * 2303 + ["", "7"], ["7", ""] + ["7"] * 2302, ["77", "", "7"] * 768):
        assert fer2013._parse_rows([row(bad)], columns) is None
    for counts in ((2303, 2305), (2305, 2303), (0, 4608), (4608, 0), (4608,), (1,)):
        lines = [row(["7"] * count) for count in counts]
        assert fer2013._parse_rows(lines, columns) is None


# --- Image folders -----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "bmp", "PNG"])
def test_folders_and_zip_equal_the_csv(tmp_path, suffix):
    faces = draw()
    path = tmp_path / "faces.csv"
    path.write_text(csv_text(faces))
    # Without leading zeros the order by name differs from the order by number.
    root = save_folders(tmp_path / "root", faces, "{usage}_{number}." + suffix)
    csv = fer2013.read(path)
    for source in (
        root,
        save_zip(tmp_path / "plain.zip", root),
        save_zip(tmp_path / "lead.zip", root, "archive/fer/"),
        save_zip(tmp_path / "no_suffix", root),
    ):
        read = fer2013.read(source)
        assert_faces(read, faces)
        assert_faces(csv, (read.images, read.labels, read.usage))


def test_jpeg(tmp_path):
    grey = np.full((1, 48, 48), 128, np.uint8), np.array([3]), np.array([1])
    save_folders(tmp_path, grey, "{usage}_{number}.jpg")
    assert_faces(fer2013.read(tmp_path), grey)


def test_folder_names(tmp_path):
    images, _, _ = draw(3)
    for image, folder in zip(images, ("train/Angry", "train/6", "Test/HAPPY"), strict=True):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(image).save(tmp_path / folder / f"Training_{len(folder)}.png")
    # By number, then by path: 7, 11, 11; capitals sort first.
    read = fer2013.read(tmp_path)
    assert_faces(read, (images[[1, 2, 0]], [6, 3, 0], [0, 0, 0]))


def test_usage_is_unknown_if_one_name_hides_it(tmp_path):
    images, _, _ = draw(3)
    names = ("train/sad/PrivateTest_1.png", "train/fear/Training_2.png", "test/sad/x.png")
    for image, name in zip(images, names, strict=True):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.fromarray(image).save(tmp_path / name)
    assert_faces(fer2013.read(tmp_path), (images[[2, 1, 0]], [4, 2, 4], [UNKNOWN_USAGE] * 3))


def test_other_files_are_ignored(tmp_path):
    faces = draw()
    root = save_folders(tmp_path / "root", faces)
    before = fer2013.digest(root)
    for name in (
        "readme.png",
        "train/.DS_Store",
        "train/notes.txt",
        "test/happy/Thumbs.db",
        "test/happy/._Training_1.png",
        "__MACOSX/train/happy/._Training_1.png",
        "__MACOSX/train/happy/Training_1.png",
        "train/__MACOSX/Training_1.png",
        "validation/happy/Training_1.png",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"no picture")
    assert_faces(fer2013.read(root), faces)
    assert_faces(fer2013.read(save_zip(tmp_path / "faces.zip", root, "a/")), faces)
    assert fer2013.digest(root) == before


def test_folder_progress_is_in_pictures(tmp_path):
    save_folders(tmp_path, draw(3))
    calls = []
    fer2013.read(tmp_path, lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def encoded(image, kind="PNG"):
    data = io.BytesIO()
    image.save(data, kind)
    return data.getvalue()


def png_claiming(width, height):
    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


GREY = encoded(Image.new("L", (48, 48)))
PICTURE = f"is not an intact PNG, JPEG or BMP picture; {AGAIN}"
MODE = "has mode {}, needs L; convert it to 8-bit grey"
SIZE = "has {} pixels, needs 48x48; use FER2013's original"
BAD_PICTURES = {
    "empty": (b"", PICTURE),
    "text": (b"no picture", PICTURE),
    "truncated PNG": (GREY[:60], PICTURE),
    "truncated JPEG": (encoded(Image.effect_noise((48, 48), 9), "JPEG")[:-300], PICTURE),
    "PNG with a wrong byte": (GREY[:45] + b"\xaa" + GREY[46:], PICTURE),
    "GIF": (encoded(Image.new("L", (48, 48)), "GIF"), PICTURE),
    "no pixels inside": (png_claiming(48, 48), PICTURE),
    "50x48": (encoded(Image.new("L", (50, 48))), SIZE.format("50x48")),
    "bomb that warns": (png_claiming(10_000, 10_000), SIZE.format("10000x10000")),
    "bomb that raises": (png_claiming(2**31 - 1, 2**31 - 1), PICTURE),
    "RGB": (encoded(Image.new("RGB", (48, 48))), MODE.format("RGB")),
    "16 bit": (encoded(Image.new("I;16", (48, 48))), MODE.format("I;16")),
    "palette": (encoded(Image.new("P", (48, 48))), MODE.format("P")),
    "bits": (encoded(Image.new("1", (48, 48))), MODE.format("1")),
    "large": (
        GREY + bytes(1 << 20),
        "has over 1048576 bytes, is not a 48x48 picture; remove it",
    ),
}


@pytest.mark.parametrize(("data", "message"), BAD_PICTURES.values(), ids=BAD_PICTURES)
def test_bad_picture(tmp_path, data, message):
    root = tmp_path / "root"
    (root / "train/sad").mkdir(parents=True)
    (root / "train/sad/Training_1.png").write_bytes(GREY)
    (root / "train/sad/Training_2.png").write_bytes(data)
    assert refusal(root) == f"{root}, train/sad/Training_2.png: {message}"
    archive = save_zip(tmp_path / "faces.zip", root)
    assert refusal(archive) == f"{archive}, train/sad/Training_2.png: {message}"


# Names of pictures, and the message after the path.
BAD_FOLDERS = {
    "empty folder": ([], f": {NO_PICTURE}; it holds nothing. {FORMS}"),
    "no split": (["faces/x.png"], f": {NO_PICTURE}; it holds: 'faces'. {FORMS}"),
    "no emotion": (
        ["train/x.png"],
        ", train/x.png: needs to lie in train/<emotion>/ or test/<emotion>/; move it",
    ),
    "too deep": (
        ["train/sad/a/x.png"],
        ", train/sad/a/x.png: needs to lie in train/<emotion>/ or test/<emotion>/; move it",
    ),
    "emotion near": (
        ["test/happyness/x.png"],
        f", test/happyness/x.png: is in emotion folder 'happyness', {NEEDED_FOLDER}; "
        "the nearest is 'happy'",
    ),
    "emotion far": (
        ["test/7/x.png"],
        f", test/7/x.png: is in emotion folder '7', {NEEDED_FOLDER}",
    ),
    "no pictures": (["train/sad/x.gif"], f": {NO_PICTURE}; it holds: 'train'. {FORMS}"),
    "line end in a name": (
        ["train/sa\nd/x.png"],
        f", train/sa\\nd/x.png: is in emotion folder 'sa\\nd', {NEEDED_FOLDER}; "
        "the nearest is 'sad'",
    ),
}


@pytest.mark.parametrize(("names", "message"), BAD_FOLDERS.values(), ids=BAD_FOLDERS)
def test_bad_folders(tmp_path, names, message):
    root = tmp_path / "root"
    root.mkdir()
    for name in names:
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(GREY)
    assert refusal(root) == f"{root}{message}"
    archive = save_zip(tmp_path / "faces.zip", root)
    assert refusal(archive) == f"{archive}{message}"


def test_empty_split_folders(tmp_path):
    (tmp_path / "train" / "sad").mkdir(parents=True)
    assert refusal(tmp_path) == f"{tmp_path}: {NO_PICTURE}; it holds: 'train'. {FORMS}"


def test_csv_in_a_folder_is_named(tmp_path):
    (tmp_path / "fer2013.csv").write_bytes(HEADER)
    assert refusal(tmp_path) == f"{tmp_path}: {NO_PICTURE}; it holds: 'fer2013.csv'. {FORMS}"


def test_zip_with_two_data_sets(tmp_path):
    path = tmp_path / "faces.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/train/sad/x.png", GREY)
        archive.writestr("b/train/sad/x.png", GREY)
    message = "has train/ or test/ in several folders: 'a, b'; keep one of them"
    assert refusal(path) == f"{path}: {message}"


@pytest.fixture
def one_picture_zip(tmp_path):
    path = tmp_path / "faces.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train/sad/x.png", GREY)
    return path


def test_zip_without_its_directory(one_picture_zip):
    one_picture_zip.write_bytes(one_picture_zip.read_bytes()[:-40])
    assert refusal(one_picture_zip) == f"{one_picture_zip}: is not a zip archive; {AGAIN}"


def test_zip_with_a_wrong_byte(one_picture_zip):
    data = bytearray(one_picture_zip.read_bytes())
    data[data.index(b"IDAT") + 10] ^= 1
    one_picture_zip.write_bytes(data)
    message = f"{one_picture_zip}, train/sad/x.png: cannot be unpacked; {AGAIN}"
    assert refusal(one_picture_zip) == message


def test_encrypted_zip(one_picture_zip):
    data = bytearray(one_picture_zip.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # what zip -e sets; the zipfile module cannot write it
    one_picture_zip.write_bytes(data)
    message = "train/sad/x.png: is encrypted; make a zip without a password"
    assert refusal(one_picture_zip) == f"{one_picture_zip}, {message}"


# --- Paths ---------------------------------------------------------------------------------------


def test_missing_path(tmp_path):
    path = tmp_path / "fer2013.cvs"
    assert refusal(path) == f"{path}: no such file or folder. {FORMS}"
    (tmp_path / "FER2013.csv").touch()
    message = f"no such file or folder; the nearest is 'FER2013.csv'. {FORMS}"
    assert refusal(path) == f"{path}: {message}"
    nowhere = tmp_path / "a" / "b"
    assert refusal(nowhere) == f"{nowhere}: no such file or folder. {FORMS}"


def test_neither_file_nor_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    message = f"{tmp_path / 'pipe'}: is neither a file nor a folder. {FORMS}"
    assert refusal(tmp_path / "pipe") == message


def test_denied_path(tmp_path, monkeypatch):
    path = tmp_path / "fer2013.csv"
    path.write_bytes(HEADER)

    def denied(self, *args):  # chmod would not stop root
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(pathlib.Path, "open", denied)
    message = f"{path}: cannot be read (Permission denied); check the path and its rights"
    assert refusal(path) == message
    with pytest.raises(InputError, match=re.escape(message)):
        fer2013.digest(path)


def test_digest_of_a_file(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(KAGGLE)
    assert fer2013.digest(path) == hashlib.sha256(KAGGLE.encode()).hexdigest()
    shutil.copy(path, tmp_path / "b.csv")
    assert fer2013.digest(tmp_path / "b.csv") == fer2013.digest(path)
    with pytest.raises(InputError, match="no such file"):
        fer2013.digest(tmp_path / "c.csv")


def test_digest_of_folders(tmp_path):
    root = save_folders(tmp_path / "root", draw())
    first = fer2013.digest(root)
    moved = shutil.copytree(root, tmp_path / "elsewhere" / "copy")
    assert fer2013.digest(moved) == first
    picture = min(moved.rglob("*.png"))
    data = picture.read_bytes()
    picture.write_bytes(data + b"\0")
    changed = fer2013.digest(moved)
    picture.write_bytes(data)
    picture.rename(picture.with_name("Training_99999.png"))
    renamed = fer2013.digest(moved)
    assert len({first, changed, renamed}) == 3


# --- FER2013 itself ------------------------------------------------------------------------------


@pytest.mark.skipif("FERMM_FER2013" not in os.environ, reason="needs the path of FER2013's CSV")
def test_fer2013_itself():
    faces = fer2013.read(os.environ["FERMM_FER2013"])
    assert faces.images.shape == (35_887, 48, 48)
    assert np.bincount(faces.labels).tolist() == [4953, 547, 5121, 8989, 6077, 4002, 6198]
    assert np.bincount(faces.usage).tolist() == [28_709, 3589, 3589]
    assert faces.images.sum(dtype=np.int64) == 10_698_049_677

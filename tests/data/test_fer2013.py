"""Reading FER2013: the forms agree, and every bad input is refused with one exact line."""

import hashlib
import os
import pathlib
import re
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from fermm.data import fer2013
from fermm.errors import InputError
from fermm.faces import EMOTIONS
from fermm.samples import UNKNOWN_SPLIT
from helpers.fer2013 import (
    AGAIN,
    FORMS,
    GREY,
    HEADER,
    ICML,
    KAGGLE,
    MISPLACED,
    NEEDED_FOLDER,
    NEEDED_PIXEL,
    NO_PICTURE,
    ORDER,
    PICTURE,
    assert_faces,
    csv_text,
    draw,
    encoded,
    png_claiming,
    refusal,
    row,
    save_folders,
    save_zip,
)

NEEDED_EMOTION = f"needs one of {ORDER}; correct the row"
RENAME = "if they mean another one, write the names of the emotions instead of all numbers"


# --- CSV ---------------------------------------------------------------------------------------


NOUNS = ("anger", "disgusted", "fearful", "happiness", "sadness", "surprised", "neutrality")


def relabelled(name):
    """KAGGLE with labels in another form."""
    head, *lines = KAGGLE.splitlines(keepends=True)
    return head + "".join(name(int(line[0])) + line[1:] for line in lines)


def repixelled(text, enclose, separator):
    """`text` with pixels in another form."""
    return re.sub(r"[0-9]+(?: [0-9]+)+", lambda x: enclose(x[0].replace(" ", separator)), text)


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
        pytest.param(
            repixelled(KAGGLE, str, ",").replace("\n", ",x,y\n").replace("x,y", ",", 1).encode(),
            id="columns without a name",
        ),
        pytest.param(KAGGLE.replace(",", ";").encode(), id="semicolons"),
        pytest.param(csv_text(draw(), separator=" ; ", quote='"').encode(), id="quoted semicolons"),
        pytest.param(KAGGLE.replace(",", "\t").encode(), id="tabs"),
        pytest.param(relabelled(lambda label: f"{label}.0").encode(), id="floats"),
        pytest.param(relabelled(lambda label: f"0{label}.").encode(), id="odd floats"),
        pytest.param(relabelled(lambda label: EMOTIONS[label]).encode(), id="words"),
        pytest.param(relabelled(lambda label: NOUNS[label].upper()).encode(), id="nouns"),
        pytest.param(repixelled(KAGGLE, lambda x: f'"{x}"', ",").encode(), id="pixels: commas"),
        pytest.param(repixelled(KAGGLE, str, ",").encode(), id="pixels: commas without quotes"),
        pytest.param(repixelled(ICML, str, ", ").encode(), id="pixels: commas and blanks"),
        pytest.param(repixelled(KAGGLE, lambda x: f'"[{x}]"', ", ").encode(), id="pixels: list"),
        pytest.param(repixelled(KAGGLE, lambda x: f"({x})", ",").encode(), id="pixels: tuple"),
        pytest.param(repixelled(KAGGLE, lambda x: f"[{x}]", " ").encode(), id="pixels: array"),
        pytest.param(repixelled(KAGGLE, lambda x: f"[ {x} ]", "  ").encode(), id="pixels: padded"),
        pytest.param(
            repixelled(KAGGLE.replace(",", ";"), str, ";").encode(), id="all between semicolons"
        ),
        pytest.param(
            repixelled(KAGGLE.replace(",", ";"), str, ",").encode(), id="commas in semicolons"
        ),
        pytest.param(repixelled(KAGGLE.replace(",", "\t"), str, "\t").encode(), id="all tabs"),
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


def test_csv_without_usage(tmp_path):
    images, labels, _ = draw()
    path = tmp_path / "faces.csv"
    path.write_text(csv_text(draw(), order=("emotion", "pixels")))
    assert_faces(fer2013.read(path), (images, labels, [UNKNOWN_SPLIT] * 20))


def numbered(labels):
    return HEADER + b"".join(row(emotion=str(label)) for label in labels)


OTHER_NUMBERS = {
    "1 to 7": ([1, 2, 3, 4, 5, 6, 7], "emotion is 7 in 1 of 7 rows"),
    "1.0 to 7.0": ([f"{i}.0" for i in (1, 7, 7, 3)], "emotion is 7 in 2 of 4 rows"),
    "7 only": ([7, 7], "emotion is 7 in 2 of 2 rows"),
    "0 to 8": ([0, 7, 8, 8, 1, 2], "emotion is 8 in 2 of 6 rows"),
    "more than slips": ([9, 9, *[0] * 197], "emotion is 9 in 2 of 199 rows"),
    "1 to 6": ([1, 2, 3, 4, 5, 6] * 17, "emotion is 1 to 6 and never 0 in 102 rows"),
}


@pytest.mark.parametrize(("labels", "problem"), OTHER_NUMBERS.values(), ids=OTHER_NUMBERS)
def test_numbers_in_another_order_concern_the_whole_csv(tmp_path, labels, problem):
    path = tmp_path / "faces.csv"
    path.write_bytes(numbered(labels))
    message = f"{path}: {problem}, but numbers mean FER2013's order ({ORDER}); {RENAME}"
    assert refusal(path, "quarantine") == message
    if problem.startswith("emotion is 1 to 6"):
        assert refusal(path) == message
    else:
        assert f", needs one of {ORDER}; correct the row, or {RENAME}" in refusal(path)


def test_a_slip_in_a_number_concerns_its_row(tmp_path):
    path = tmp_path / "faces.csv"
    good = [0, 1, 2, 3, 4, 5, 6]
    for labels in ([*good, 7], [*good, 9], [9, 9, *[0] * 198], ["happy", "sad", 7], [1, 2, 8]):
        path.write_bytes(numbered(labels))
        faces = fer2013.read(path, on_error="quarantine")
        assert len(faces.rejected) == sum(str(label) in "789" for label in labels)
    path.write_bytes(numbered(["anger", "disgust", "fear", "joy", 1, 2, 3, 4, 5, 6] * 20))
    assert len(fer2013.read(path, on_error="quarantine").rejected) == 20


def test_csv_progress_is_in_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(fer2013, "_LINES_PER_BLOCK", 8)
    path = tmp_path / "faces.csv"
    path.write_text(KAGGLE)
    calls = []
    fer2013.read(path, lambda done, total: calls.append((done, total)))
    ends = [i + 1 for i, c in enumerate(KAGGLE) if c == "\n"]
    assert calls == [(ends[8], len(KAGGLE)), (ends[16], len(KAGGLE)), (len(KAGGLE), len(KAGGLE))]


def bad_pixel(position, text):
    return f", line 4 (row 3): pixel {position} is '{text}', {NEEDED_PIXEL}"


COLUMNS = (
    ": needs the columns emotion and pixels in its first line, and Usage if it is known, each "
    "once; missing or repeated: {}; found: '{}'. " + FORMS
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
    "pixels between commas, one missing": (
        row([",".join(["7"] * 9 + [""] + ["7"] * 2294)]),
        bad_pixel(10, ""),
    ),
    "pixels between commas and blanks": (row(["7,7"] * 1152), bad_pixel(2, "7 7")),
    "pixels between commas, too few": (
        row([",".join(["7"] * 2303)]),
        f", line 4 (row 3): has 2303 pixels, needs 2304; {AGAIN}",
    ),
    "pixels in brackets, cut by NumPy": (
        row(["[7", "7", "...", "7", "7]"]),
        bad_pixel(3, "..."),
    ),
    "half a bracket": (row(["[7"] + ["7"] * 2303), bad_pixel(1, "[7")),
    "two blanks": (row(["7"] * 9 + [""] + ["7"] * 2294), bad_pixel(10, "")),
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
    "emotion 7": (
        row(emotion="7"),
        f", line 4 (row 3): emotion is '7', {NEEDED_EMOTION}, or {RENAME}",
    ),
    "emotion 12.0": (
        row(emotion="12.0"),
        f", line 4 (row 3): emotion is '12.0', {NEEDED_EMOTION}, or {RENAME}",
    ),
    "emotion -1": (row(emotion="-1"), f", line 4 (row 3): emotion is '-1', {NEEDED_EMOTION}"),
    "emotion x": (row(emotion="x"), f", line 4 (row 3): emotion is 'x', {NEEDED_EMOTION}"),
    "emotion 1.5": (row(emotion="1.5"), f", line 4 (row 3): emotion is '1.5', {NEEDED_EMOTION}"),
    "emotion contempt": (
        row(emotion="contempt"),
        f", line 4 (row 3): emotion is 'contempt', {NEEDED_EMOTION}",
    ),
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
    "blank header": (b"\n" + row(), COLUMNS.format("emotion, pixels", "")),
    "missing column": (
        b"emotion,Pixels,Usage\n",
        COLUMNS.format("pixels", "emotion, Pixels, Usage"),
    ),
    "two columns missing": (
        b"emotion|pixels|Usage\n",
        COLUMNS.format("emotion, pixels", "emotion|pixels|Usage"),
    ),
    "usage in small letters": (
        b"emotion;usage;pixels\n",
        COLUMNS.format("Usage", "emotion, usage, pixels"),
    ),
    "usage misspelt": (
        b"emotion,pixels,Useage\n",
        COLUMNS.format("Usage", "emotion, pixels, Useage"),
    ),
    "no rows between semicolons": (
        b"emotion;pixels;Usage\n",
        ": has a header but no rows; fetch the file again",
    ),
    "column twice": (
        b"emotion,pixels,Usage,Usage\n",
        COLUMNS.format("Usage", "emotion, pixels, Usage, Usage"),
    ),
    "no header": (
        row(),
        COLUMNS.format("emotion, pixels", "3, " + ("7 " * 40)[:77] + "..."),
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


LAYOUT = fer2013._read_header("faces.csv", HEADER)


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
    columns = LAYOUT
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
    assert fer2013._parse_rows([row(), bad, row()], LAYOUT) is None


def test_shifted_pixels_are_not_taken_at_once():
    columns = LAYOUT
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
        assert_faces(csv, (read.features["images"], read.labels, read.official))


def test_jpeg(tmp_path):
    grey = np.full((1, 48, 48), 128, np.uint8), np.array([3]), np.array([1])
    save_folders(tmp_path, grey, "{usage}_{number}.jpg")
    assert_faces(fer2013.read(tmp_path), grey)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_grey_with_more_channels(tmp_path, mode):
    faces = draw(4)
    root = save_folders(tmp_path / "root", faces)
    for file in root.rglob("*.png"):
        Image.open(file).convert(mode).save(file)
    assert_faces(fer2013.read(root), faces)


def test_folder_names(tmp_path):
    images, _, _ = draw(3)
    for image, folder in zip(images, ("train/Angry", "train/6", "Test/HAPPY"), strict=True):
        (tmp_path / folder).mkdir(parents=True)
        usage = "PublicTest" if "Test" in folder else "Training"
        Image.fromarray(image).save(tmp_path / folder / f"{usage}_{len(folder)}.png")
    read = fer2013.read(tmp_path)  # by usage and number: 7, 11 of Training
    assert_faces(read, (images[[1, 0, 2]], [6, 0, 3], [0, 0, 1]))


def test_usage_is_unknown_if_one_name_hides_it(tmp_path):
    images, _, _ = draw(3)
    names = ("train/sad/PrivateTest_1.png", "train/fear/Training_2.png", "test/sad/x.png")
    for image, name in zip(images, names, strict=True):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.fromarray(image).save(tmp_path / name)
    assert_faces(fer2013.read(tmp_path), (images[[2, 1, 0]], [4, 2, 4], [UNKNOWN_SPLIT] * 3))


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
        "validation/notes.txt",
        "runs/1/Training_1.png",
        "test/desktop.ini",
        "test/happy/Thumbs.db",
        "test/happy/desktop.ini",
        "train/nobody/notes.txt",
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


MODE = "has mode {}, needs L; convert it to 8-bit grey"
COLOURS = "has colours; use FER2013's original, which is grey"
TRANSPARENT = "is transparent in parts; convert it to 8-bit grey"
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
    "colours": (encoded(Image.new("RGB", (48, 48), (9, 9, 8))), COLOURS),
    "transparent colours": (encoded(Image.new("RGBA", (48, 48), (9, 8, 9, 255))), COLOURS),
    "transparent": (encoded(Image.new("RGBA", (48, 48), (9, 9, 9, 254))), TRANSPARENT),
    "transparent grey": (encoded(Image.new("LA", (48, 48), (9, 0))), TRANSPARENT),
    "CMYK": (encoded(Image.new("CMYK", (48, 48)), "JPEG"), MODE.format("CMYK")),
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
        f", train/x.png: {MISPLACED}",
    ),
    "too deep": (
        ["train/sad/a/x.png"],
        f", train/sad/a/x.png: {MISPLACED}",
    ),
    "emotion near": (
        ["test/happyness/x.png"],
        f", test/happyness/x.png: is in emotion folder 'happyness', {NEEDED_FOLDER}; "
        "the nearest is 'happiness'",
    ),
    "emotion far": (
        ["test/x/x.png"],
        f", test/x/x.png: is in emotion folder 'x', {NEEDED_FOLDER}",
    ),
    "no pictures": (["train/sad/x.txt"], f": {NO_PICTURE}; it holds: 'train'. {FORMS}"),
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


def test_zip_with_two_data_sets(tmp_path):
    path = tmp_path / "faces.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/train/sad/x.png", GREY)
        archive.writestr("b/train/sad/x.png", GREY)
    message = "has train/, val/ or test/ in several folders: 'a, b'; keep one of them"
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
    assert faces.features["images"].shape == (35_887, 48, 48)
    assert np.bincount(faces.labels).tolist() == [4953, 547, 5121, 8989, 6077, 4002, 6198]
    assert np.bincount(faces.official).tolist() == [28_709, 3589, 3589]
    assert faces.features["images"].sum(dtype=np.int64) == 10_698_049_677

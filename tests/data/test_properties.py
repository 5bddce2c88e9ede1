"""For any input: what was written is read back, and only `InputError` refuses the rest."""

import io
import zipfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fermm.data import fer2013, ferplus, landmarks
from fermm.data.fer2013 import USAGES
from fermm.errors import InputError
from fermm.faces import POINTS
from helpers.anything import BYTES, one_change, read_or_refuse, settings
from helpers.fer2013 import GREY, HEADER, csv_text, encoded, row
from helpers.ferplus import votes_csv

LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=8)


@settings
@hypothesis.given(
    labels=LABELS,
    data=st.data(),
    order=st.permutations(("emotion", "pixels", "Usage")),
    separator=st.sampled_from((",", ", ", " ,")),
    quote=st.sampled_from(("", '"')),
    end=st.sampled_from(("\n", "\r\n", "\n\n", " \r\n \n")),
    mode=st.sampled_from(fer2013.ON_ERROR),
)
def test_a_csv_is_read_as_it_was_written(
    tmp_path, labels, data, order, separator, quote, end, mode
):
    images = data.draw(arrays.arrays(np.uint8, (len(labels), 48, 48)))
    usage = data.draw(st.lists(st.integers(0, 2), min_size=len(labels), max_size=len(labels)))
    path = tmp_path / "faces.csv"
    text = csv_text((images, labels, usage), order, separator, quote)
    path.write_bytes(text.replace("\n", end).encode())
    faces = fer2013.read(path, on_error=mode)
    np.testing.assert_array_equal(faces.features["images"], images)
    assert faces.labels.tolist() == labels
    assert faces.official.tolist() == usage
    assert faces.rows.tolist() == list(range(len(labels)))
    assert faces.rejected == ()


@settings
@hypothesis.given(labels=LABELS, data=st.data())
def test_landmarks_are_read_as_they_were_written(tmp_path, labels, data):
    whole = st.integers(-999_999, 999_999)
    points = data.draw(arrays.arrays(np.float32, (len(labels), POINTS, 2), elements=whole))
    landmarks.write_csv(tmp_path / "points.csv", points, np.array(labels))
    found, emotions = landmarks.read_csv(tmp_path / "points.csv")
    np.testing.assert_array_equal(found, points)
    assert emotions.tolist() == labels


BAD_LINES = st.sampled_from(
    [b"x", b"3,7,Training", row(["7"] * 2303).strip(), row(change=(1, "256")).strip(), b"\xff,,"]
) | st.binary(min_size=1, max_size=40).map(lambda x: b"x" + x.replace(b"\n", b"").rstrip())


@settings
@hypothesis.given(lines=st.lists(st.none() | BAD_LINES, min_size=1, max_size=70))
def test_what_is_set_aside_are_the_bad_rows(tmp_path, lines):
    path = tmp_path / "faces.csv"
    good = [i for i, bad in enumerate(lines) if bad is None]
    texts = [
        row([str(i)] * 2304, str(i % 7), USAGES[i % 3]) if bad is None else bad + b"\n"
        for i, bad in enumerate(lines)
    ]
    path.write_bytes(HEADER + b"".join(texts))
    if not good:
        with pytest.raises(InputError, match=f"and none of the {len(lines)} rows"):
            fer2013.read(path, on_error="quarantine")
        return
    faces = fer2013.read(path, on_error="quarantine")
    assert faces.rows.tolist() == good
    assert faces.features["images"][:, 0, 0].tolist() == good
    assert faces.labels.tolist() == [i % 7 for i in good]
    places = [f"line {i + 2}" for i, bad in enumerate(lines) if bad is not None]
    assert [rejected.place for rejected in faces.rejected] == places


# --- Anything at all -----------------------------------------------------------------------------


def zipped(content):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/sad/Training_1.png", content)
        archive.writestr("test/happy/PublicTest_2.png", GREY)
    return data.getvalue()


def whole(kind, tmp_path):
    """A good file of this kind."""
    if kind == "csv":
        return HEADER + row() + row(emotion="5", usage="PublicTest")
    if kind == "votes":
        return votes_csv([{"happiness": 10}, {"NF": 9, "unknown": 1}]).encode()
    if kind == "landmarks":
        landmarks.write_csv(tmp_path / "x", np.zeros((2, POINTS, 2)), np.array([1, 2]))
        return (tmp_path / "x").read_bytes()
    return zipped(GREY)


READERS = {
    "csv": ("x.csv", fer2013.read),
    "zip": ("x.zip", fer2013.read),
    "quarantine": ("x.zip", lambda path: fer2013.read(path, on_error="quarantine")),
    "landmarks": ("x.csv", landmarks.read_csv),
    "votes": ("x.csv", ferplus.read),
}


@pytest.mark.parametrize("kind", READERS)
@settings
@hypothesis.given(content=BYTES)
def test_any_bytes_are_read_or_refused(tmp_path, kind, content):
    name, reader = READERS[kind]
    read_or_refuse(reader, tmp_path / name, content)


@pytest.mark.parametrize("kind", READERS)
@settings
@hypothesis.given(data=st.data())
def test_a_good_file_with_one_change_is_read_or_refused(tmp_path, kind, data):
    name, reader = READERS[kind]
    read_or_refuse(reader, tmp_path / name, one_change(data, whole(kind, tmp_path)))


@settings
@hypothesis.given(content=st.binary(max_size=300), start=st.integers(0, 90))
def test_any_picture_is_read_or_refused(tmp_path, content, start):
    for good in (GREY, encoded(fer2013.Image.new("L", (48, 48)), "BMP")):
        read_or_refuse(fer2013.read, tmp_path / "x.zip", zipped(good[:start] + content))

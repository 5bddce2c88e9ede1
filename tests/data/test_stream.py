"""Samples that stay on disk: whatever is read of them is what lies in memory otherwise."""

import contextlib
import gc
import multiprocessing
import os
import pathlib
import pickle
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from fermm import config
from fermm.data import batches, dataset, source, splits, stream, synthetic, tfds_builder
from fermm.data.config import DataConfig
from fermm.errors import InputError
from fermm.samples import Samples
from helpers.samples import assert_same

N, SHARDS = 300, 4


@pytest.fixture(scope="module")
def drawn() -> Samples:
    faces = synthetic.draw(N, seed=0)
    faces.official[:] = np.arange(N) % 3
    images = faces.features["images"]
    images[[7, 250]] = images[[0, 8]]  # copies, one across files
    images[9] = 0  # nothing but the bytes that strings end with
    return faces


@pytest.fixture(scope="module")
def directory(drawn, tmp_path_factory) -> pathlib.Path:
    return write(drawn, tmp_path_factory.mktemp("cache"))


@pytest.fixture
def faces(directory) -> Samples:
    return stream.open_samples(directory)


def write(faces: Samples, root: pathlib.Path) -> pathlib.Path:
    """A prepared data set in several files, as TFDS makes them of large data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfds_builder, "SHARD", N // SHARDS)
        directory = dataset.write(faces, root, "drawn")
    assert len(list(directory.glob("*.array_record*"))) == SHARDS
    return directory


def read(faces: Samples, rows: np.ndarray, size: int, workers: int) -> list[dict[str, np.ndarray]]:
    with contextlib.closing(stream.chunks(faces.features, rows, size, workers=workers)) as chunks:
        return list(chunks)


def assert_gathered(chunks, faces, rows, size) -> None:
    """The chunks are what indexing gives in memory."""
    starts = range(0, len(rows), size)
    assert len(chunks) == len(starts)
    for chunk, start in zip(chunks, starts, strict=True):
        part = rows[start : start + size]
        assert chunk.keys() == {"images", "landmarks"}
        assert (chunk["images"].dtype, chunk["landmarks"].dtype) == (np.uint8, np.float32)
        for name in chunk:
            np.testing.assert_array_equal(chunk[name], faces.features[name][part])


def workers_alive() -> list[multiprocessing.Process]:
    return multiprocessing.active_children()


# --- Columns -----------------------------------------------------------------------------------


def test_a_column_is_the_array_that_it_stands_for(faces, drawn):
    for name in ("images", "landmarks"):
        column, array = faces.features[name], drawn.features[name]
        assert (column.shape, column.dtype, column.ndim) == (array.shape, array.dtype, array.ndim)
        assert len(column) == N
        for key in (
            0,
            -1,
            np.int64(N - 1),
            slice(None),
            slice(10, 20),
            slice(-5, None),
            slice(290, 1000),
            slice(50, 10, -7),
            slice(5, 5),
            [3, 2, 2, -1],
            np.arange(N)[::-1],
            np.array([299, 0, 150, 150], np.int32),
            np.array([7], np.uint8),
            np.array([], np.int64),
        ):
            got = column[key]
            assert type(got) is np.ndarray
            assert got.dtype == array.dtype
            np.testing.assert_array_equal(got, array[key], err_msg=f"{name}[{key}]")
        np.testing.assert_array_equal(np.asarray(column), array)


def test_a_column_refuses_other_keys(faces):
    for key in (N, -N - 1, [0, N], 1.5, "image", [[0, 1]], np.ones(N, bool), None, (0, 0)):
        with pytest.raises(IndexError):
            faces.features["images"][key]


def test_reads_more_than_a_block(faces, drawn):
    rows = np.random.default_rng(0).integers(0, N, 2 * stream.BLOCK + 5)
    expected = drawn.features["landmarks"][rows]
    np.testing.assert_array_equal(faces.features["landmarks"][rows], expected)


def test_samples_behave_as_in_memory(faces, drawn, directory):
    assert_same(dataset.read(directory), drawn)
    assert_same(faces, drawn)
    rows = np.array([299, 3, 3])
    taken = faces.take(rows)
    assert len(faces) == N
    assert all(type(column) is stream.Column for column in taken.features.values())
    assert_same(taken, drawn.take(rows))


def test_what_lies_on_disk_can_be_written_again(faces, drawn, tmp_path):
    assert_same(dataset.read(write(faces, tmp_path)), drawn)


def test_digests_copies_and_splits_are_those_of_the_arrays(faces, drawn):
    assert source._digest_labels(faces) == source._digest_labels(drawn)
    for name, column in faces.features.items():
        assert source._digest(column) == source._digest(drawn.features[name])
    np.testing.assert_array_equal(splits.digests(faces), splits.digests(drawn))
    copies = splits.duplicates(faces)
    assert copies[[7, 250]].tolist() == [0, 8]
    for kind in splits.KINDS:
        expected = splits.split(drawn, kind, 3)
        for name, part in splits.split(faces, kind, 3).items():
            np.testing.assert_array_equal(part, expected[name])


def test_files_are_opened_where_they_are_read_and_closed(directory):
    def count() -> int:
        fds = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        return sum(".array_record" in os.readlink(fd) for fd in fds if os.path.lexists(fd))

    def open_files() -> int:
        return count() - before

    gc.collect()
    before = count()
    faces = stream.open_samples(directory)
    faces.features["images"][:]
    assert open_files() == SHARDS
    copy = pickle.loads(pickle.dumps(faces.features["images"]))
    assert open_files() == SHARDS
    np.testing.assert_array_equal(copy[::90], faces.features["images"][::90])
    assert open_files() == 2 * SHARDS
    faces.features["images"].records.close()
    assert open_files() == SHARDS
    faces.features["landmarks"][5]  # opens its file again
    assert open_files() == SHARDS + 1
    del copy, faces
    assert open_files() == 0


def test_damage_is_one_line(drawn, tmp_path):
    directory = write(drawn, tmp_path)
    last = sorted(directory.glob("*.array_record*"))[-1]
    remedy = rf"^the prepared data set in {re.escape(str(directory))} is damaged \(.+\): delete"
    faces = stream.open_samples(directory)
    faces.features["images"].records.close()
    whole = last.read_bytes()
    at = whole.index(b"landmarks") + 50
    altered = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    rows = np.arange(N)
    for damaged in (altered, whole[: len(whole) // 2], b"", None):
        last.unlink() if damaged is None else last.write_bytes(damaged)
        for attempt in (
            lambda: stream.open_samples(directory),
            lambda: pickle.loads(pickle.dumps(faces.features["images"]))[:],
            lambda: read(pickle.loads(pickle.dumps(faces)), rows, 64, workers=0),
        ):
            with pytest.raises(InputError, match=remedy) as caught:
                attempt()
            assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=remedy) as caught:
        read(faces, rows, 64, workers=1)
    assert "\n" not in str(caught.value)
    assert workers_alive() == []
    (directory / "features.json").unlink()
    with pytest.raises(InputError, match=remedy):
        stream.open_samples(directory)


# --- Chunks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 64, N, 1000])
@pytest.mark.parametrize("step", [0, 3])
def test_chunks_from_any_step_are_the_batches_in_memory(faces, drawn, size, step):
    rows = batches.order(seed=5, epoch=2, count=N)[step * 32 :]
    assert_gathered(read(faces, rows, size, workers=0), drawn, rows, size)


def test_chunks_from_worker_processes_are_the_same(faces, drawn):
    rows = batches.order(seed=5, epoch=2, count=N)[96:]
    got = read(faces, rows, 32, workers=2)
    assert_gathered(got, drawn, rows, 32)
    assert workers_alive() == []


def test_chunks_of_one_field_of_a_split_and_of_nothing(faces, drawn):
    rows = splits.split(faces, "paper")["train"][batches.order(0, 0, 210)]
    with contextlib.closing(stream.chunks({"x": faces.features["landmarks"]}, rows, 100)) as chunks:
        got = [chunk["x"] for chunk in chunks]
    assert [len(x) for x in got] == [100, 100, 10]
    np.testing.assert_array_equal(np.concatenate(got), drawn.features["landmarks"][rows])
    assert read(faces, rows[:0], 32, workers=0) == []
    assert read(faces, rows[:0], 32, workers=1) == []


def test_what_was_yielded_stays_as_it_was(faces, drawn):
    rows = np.arange(N)
    kept = read(faces, rows, 50, workers=0)
    kept[0]["images"][:] = 0  # its own memory
    assert_gathered(kept[1:], drawn, rows[50:], 50)
    np.testing.assert_array_equal(faces.features["images"][:50], drawn.features["images"][:50])


def test_few_chunks_are_read_ahead(faces, monkeypatch):
    asked = []
    read_records = stream.Records.read

    def counted(self, names, rows):
        asked.append(len(rows))
        return read_records(self, names, rows)

    monkeypatch.setattr(stream.Records, "read", counted)
    with contextlib.closing(stream.chunks(faces.features, np.arange(N), 10)) as chunks:
        for i in range(5):
            next(chunks)
            time.sleep(0.05)  # for a reader that would run away
            assert i + 1 <= len(asked) <= i + 2


def test_closing_early_ends_the_processes(faces):
    chunks = stream.chunks(faces.features, np.arange(N), 10, workers=2)
    next(chunks)
    assert len(workers_alive()) == 2
    chunks.close()
    assert workers_alive() == []


def test_an_error_while_reading_ends_the_processes(faces):
    def train():
        with contextlib.closing(stream.chunks(faces.features, np.arange(N), 10, workers=1)) as it:
            next(it)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert workers_alive() == []


def test_a_process_that_dies_is_one_line(faces):
    with contextlib.closing(
        stream.chunks(faces.features, np.arange(N).repeat(100), 10, workers=1)
    ) as chunks:
        next(chunks)
        [worker] = workers_alive()
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(InputError, match=r"^a process that reads the data died, .*workers=0$"):
            for _ in chunks:
                pass
    assert workers_alive() == []


def test_the_processes_of_a_killed_one_end_too(directory, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, os, signal, sys\n"
        "import numpy as np\n"
        "from fermm.data import stream\n"
        "if __name__ == '__main__':\n"
        "    faces = stream.open_samples(sys.argv[1])\n"
        "    rows = np.arange(300).repeat(100)\n"
        "    chunks = stream.chunks({'x': faces.features['images']}, rows, 10, workers=1)\n"
        "    next(chunks)\n"
        "    print(*(p.pid for p in multiprocessing.active_children()), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, script, directory], stdout=subprocess.PIPE, check=False)
    assert done.returncode == -signal.SIGKILL
    [pid] = map(int, done.stdout.split())
    deadline = time.monotonic() + 20
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{pid}")


def test_importing_is_quick(directory):
    script = (
        "import sys\n"
        "from fermm.data import stream\n"
        "faces = stream.open_samples(sys.argv[1])\n"
        "faces.features['images'][:3]\n"
        "assert not {'grain', 'jax', 'tensorflow'} & sys.modules.keys()\n"
        "next(stream.chunks({'x': faces.features['images']}, faces.rows, 8))\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script, directory], check=True)


# --- Preparing ---------------------------------------------------------------------------------


def test_prepare_leaves_the_faces_on_disk(drawn, tmp_path):
    lines = ["emotion,pixels,Usage"]
    for image, label in zip(drawn.features["images"][:20], drawn.labels, strict=False):
        lines.append(f"{label},{' '.join(map(str, image.ravel()))},Training")
    path, table = tmp_path / "faces.csv", tmp_path / "landmarks.csv"
    path.write_text("\n".join(lines) + "\n")
    points = np.rint(drawn.features["landmarks"][:20])
    dataset.landmarks_lib.write_csv(table, points, drawn.labels[:20])
    for _ in range(2):  # built, then found
        faces = dataset.prepare(
            path,
            cache_dir=tmp_path / "cache",
            landmarks=str(table),
            report=lambda *a: None,
            streaming=True,
        )
        assert isinstance(faces.features["images"], stream.Column)
        assert isinstance(faces.features["landmarks"], stream.Column)
        np.testing.assert_array_equal(faces.features["images"][:], drawn.features["images"][:20])
        np.testing.assert_array_equal(faces.features["landmarks"][:], points)


def test_a_column_of_some_rows(faces, drawn):
    rows = np.random.default_rng(0).permutation(N)[:50]
    column = faces.features["images"].at(rows)
    assert column.shape == (50, 48, 48)
    np.testing.assert_array_equal(np.asarray(column), drawn.features["images"][rows])
    np.testing.assert_array_equal(column[[3, -1]], drawn.features["images"][rows[[3, 49]]])
    two = drawn.features["images"][rows[[4, 2]]]
    np.testing.assert_array_equal(column.at(np.array([4, 2]))[:], two)


@pytest.mark.slow
@pytest.mark.skipif("FERMM_FER2013" not in os.environ, reason="needs FER2013")
def test_an_epoch_of_the_real_data(tmp_path_factory):
    cache = os.environ.get("FERMM_CACHE") or str(tmp_path_factory.getbasetemp())
    section = {"source": "fer2013", "path": os.environ["FERMM_FER2013"], "cache_dir": cache}
    in_memory, streamed = (
        source.load(config.read(DataConfig, section | {"streaming": streaming}, "config.data"))
        for streaming in (False, True)
    )
    assert streamed.identity == in_memory.identity
    np.testing.assert_array_equal(streamed.class_weights, in_memory.class_weights)
    np.testing.assert_array_equal(
        splits.duplicates(streamed.samples), splits.duplicates(in_memory.samples)
    )
    rows = in_memory.splits["train"]
    np.testing.assert_array_equal(streamed.splits["train"], rows)
    rows = rows[batches.order(seed=0, epoch=0, count=len(rows))]
    got = read(streamed.samples, rows, 2000, workers=0)
    assert_gathered(got, in_memory.samples, rows, 2000)

"""The prepared data set: built once, read back bit for bit, never trusted half."""

import dataclasses
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from fermm.data import dataset, fer2013, landmarks, stream
from fermm.data.fer2013 import USAGES
from fermm.errors import InputError
from fermm.faces import LANDMARKS
from fermm.samples import Origin
from helpers.predictors import train_predictor
from helpers.samples import assert_same

try:
    landmarks.find_predictor()
except InputError:
    pytest.skip("needs the extra `landmarks`", allow_module_level=True)

N = 12
FOUND_BY = f"paper-{landmarks.PUBLISHED_PREDICTOR[:16]}"


@pytest.fixture
def source(tmp_path) -> pathlib.Path:
    return write_source(tmp_path / "fer.csv", seed=0)


def write_source(path: pathlib.Path, seed: int) -> pathlib.Path:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (N, 48 * 48))
    images[0] = 0  # nothing but the bytes that strings end with
    images[1, -9:] = 0
    lines = ["emotion,pixels,Usage"]
    for i, image in enumerate(images):
        lines.append(f"{i % 7},{' '.join(map(str, image))},{USAGES[i % 3]}")
    path.write_text("\n".join(lines) + "\n")
    return path


def silent(stage: str, done: int, total: int) -> None:
    del stage, done, total


def directories(cache: pathlib.Path) -> list[pathlib.Path]:
    return sorted(cache.glob("prepared_samples/*/*"))


def test_is_prepared_once_and_read_the_second_time(source, tmp_path, monkeypatch):
    cache = tmp_path / "deep" / "cache"
    first = dataset.prepare(source, cache_dir=cache, report=silent)
    raw = fer2013.read(source)
    found = landmarks.extract(raw.features["images"])
    expected = raw.with_feature("landmarks", LANDMARKS, found)
    origin = Origin("paper", landmarks.PUBLISHED_PREDICTOR)
    assert_same(first, dataclasses.replace(expected, origin=origin))
    [directory] = directories(cache)
    assert directory.parts[-2:] == (f"{fer2013.digest(source)[:16]}-{FOUND_BY}", "2.0.0")
    # Nothing else is left in the cache.
    assert [path.name for path in cache.iterdir()] == ["prepared_samples"]

    monkeypatch.setattr(fer2013, "read", None)
    monkeypatch.setattr(landmarks, "extract", None)
    assert_same(dataset.prepare(source, cache_dir=cache, report=None), first)
    assert_same(dataset.read(directory), first)


def test_leaves_nothing_in_the_temporary_directory(source, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    dataset.prepare(source, cache_dir=tmp_path / "cache", report=silent)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_the_home_directory_is_read_by_its_tilde(source, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    faces = fer2013.read(source)
    landmarks.write_csv(tmp_path / "points.csv", np.zeros((N, 68, 2)), faces.labels)
    first = dataset.prepare(
        "~/fer.csv", cache_dir="~/cache", landmarks="~/points.csv", report=silent
    )
    [directory] = directories(tmp_path / "cache")
    own = f"~/{directory.relative_to(tmp_path)}"
    assert_same(dataset.prepare(own), first)
    assert_same(dataset.read(own), first)
    assert len(stream.open_samples(own)) == N


def test_is_a_tfds_data_set_that_needs_no_tensorflow(source, tmp_path):
    import tensorflow_datasets as tfds

    faces = dataset.prepare(source, cache_dir=tmp_path / "cache", report=silent)
    builder = tfds.builder_from_directory(directories(tmp_path / "cache")[0])
    assert builder.info.features["label"].names[3] == "happy"
    examples = builder.as_data_source("full")
    assert len(examples) == N
    for i, example in enumerate(examples):
        np.testing.assert_array_equal(example["images"], faces.features["images"][i])
        np.testing.assert_array_equal(example["landmarks"], faces.features["landmarks"][i])
        assert (example["images"].dtype, example["landmarks"].dtype) == (np.uint8, np.float32)
        assert (example["label"], example["official"], example["row"]) == (i % 7, i % 3, i)
    assert "tensorflow" not in sys.modules


def test_another_content_method_or_predictor_is_another_directory(source, tmp_path):
    cache = tmp_path / "cache"
    first = dataset.prepare(source, cache_dir=cache, report=silent)
    other = dataset.prepare(
        write_source(tmp_path / "other.csv", seed=1), cache_dir=cache, report=silent
    )
    assert (first.features["images"] != other.features["images"]).any()
    again = dataset.prepare(
        source, cache_dir=cache, predictor=landmarks.find_predictor(), report=silent
    )
    assert_same(again, first)
    assert len(directories(cache)) == 2  # for the content is the same, wherever it lies
    own = train_predictor(tmp_path / "own68.dat")
    for _ in range(2):
        found = dataset.prepare(source, cache_dir=cache, predictor=own, report=silent)
        expected = landmarks.extract(first.features["images"], predictor=own)
        np.testing.assert_array_equal(found.features["landmarks"], expected)
        assert found.origin == ("paper", hashlib.sha256(own.read_bytes()).hexdigest())
    train_predictor(own, seed=1)  # another under the same path
    other = dataset.prepare(source, cache_dir=cache, predictor=own, report=silent)
    np.testing.assert_array_equal(
        other.features["landmarks"], landmarks.extract(first.features["images"], predictor=own)
    )
    assert (other.features["landmarks"] != found.features["landmarks"]).any()
    assert len(directories(cache)) == 4
    shifted = first.features["landmarks"] + 1
    landmarks.write_csv(tmp_path / "paper.csv", shifted, first.labels)
    table = str(tmp_path / "paper.csv")
    for _ in range(2):
        read = dataset.prepare(source, cache_dir=cache, landmarks=table, report=silent)
        np.testing.assert_array_equal(read.features["landmarks"], shifted)
    landmarks.write_csv(tmp_path / "paper.csv", shifted + 1, first.labels)
    read = dataset.prepare(source, cache_dir=cache, landmarks=table, report=silent)
    np.testing.assert_array_equal(read.features["landmarks"], shifted + 1)
    assert read.origin == ("", "")
    assert len(directories(cache)) == 6


def test_what_the_published_predictor_found_is_read_where_there_is_none(
    source, tmp_path, monkeypatch
):
    first = dataset.prepare(source, cache_dir=tmp_path / "cache", report=silent)
    own = train_predictor(tmp_path / "own68.dat")
    dataset.prepare(source, cache_dir=tmp_path / "own", predictor=own, report=silent)
    monkeypatch.setattr(landmarks.importlib.util, "find_spec", lambda name: None)
    assert_same(dataset.prepare(source, cache_dir=tmp_path / "cache"), first)
    with pytest.raises(InputError, match=r"landmarks\.dat is missing: install the package"):
        dataset.prepare(source, cache_dir=tmp_path / "own")


def test_a_prepared_data_set_has_the_landmarks_that_are_asked_for(source, tmp_path):
    own = train_predictor(tmp_path / "own68.dat")
    digest = hashlib.sha256(own.read_bytes()).hexdigest()
    first = dataset.prepare(source, cache_dir=tmp_path / "cache", predictor=own, report=silent)
    [directory] = directories(tmp_path / "cache")
    for streaming in (False, True):
        faces = dataset.prepare(directory, predictor=own, streaming=streaming)
        assert faces.origin == first.origin == ("paper", digest)
        assert dataset.prepare(directory, streaming=streaming).origin == first.origin
    other = landmarks.find_predictor()
    with pytest.raises(InputError) as caught:
        dataset.prepare(directory, predictor=other)
    assert str(caught.value) == (
        f"{directory}: its landmarks were not found by {other} (SHA-256 "
        f"{landmarks.PUBLISHED_PREDICTOR}), but by {digest}: leave config.data.predictor empty, or "
        "give the source of the data set as config.data.path"
    )
    table = str(tmp_path / "paper.csv")
    landmarks.write_csv(table, first.features["landmarks"], first.labels)
    with pytest.raises(InputError) as caught:
        dataset.prepare(directory, landmarks=table)
    assert str(caught.value) == (
        f"{directory}: a prepared data set, which has landmarks, and config.data.landmarks names "
        f"others, {table}: give the source of the data set as config.data.path"
    )


def test_a_landmark_table_of_other_faces_is_refused(source, tmp_path):
    table = tmp_path / "paper.csv"
    labels = np.arange(N) % 7
    labels[9] = 6
    landmarks.write_csv(table, np.zeros((N, 68, 2)), labels)
    arguments = {"cache_dir": tmp_path / "cache", "landmarks": str(table), "report": silent}
    with pytest.raises(InputError) as caught:
        dataset.prepare(source, **arguments)
    assert str(caught.value) == (
        f"{table}: row 9 (the first is 0) has emotion 6, but the face there has 2: "
        "use the CSV that was made from this source, in its order"
    )
    landmarks.write_csv(table, np.zeros((N - 1, 68, 2)), labels[:-1])
    with pytest.raises(InputError) as caught:
        dataset.prepare(source, **arguments)
    assert str(caught.value) == (
        f"{table}: 11 rows of landmarks for 12 faces: use the CSV that was made from this source"
    )
    assert directories(tmp_path / "cache") == []


def test_cheap_mistakes_are_found_before_any_work(source, tmp_path, monkeypatch):
    monkeypatch.setattr(fer2013, "read", None)
    with pytest.raises(InputError, match="did you mean 'paper'"):
        dataset.prepare(source, cache_dir=tmp_path, landmarks="papre")
    with pytest.raises(InputError, match=r"none\.dat: no such file"):
        dataset.prepare(source, cache_dir=tmp_path, predictor=tmp_path / "none.dat")
    with pytest.raises(InputError, match=r"none\.csv: cannot be read"):
        dataset.prepare(source, cache_dir=tmp_path, landmarks=str(tmp_path / "none.csv"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError) as caught:
        dataset.prepare(source, cache_dir=tmp_path / "file" / "cache")
    assert str(caught.value) == (
        f"cannot write to the cache directory {tmp_path}/file/cache (Not a directory): "
        "set config.data.cache_dir to one that can be written"
    )


def test_a_killed_build_is_not_taken_for_whole_and_is_cleared_away(source, tmp_path):
    script = (
        "import os, signal, sys\n"
        "from fermm.data import dataset, tfds_builder\n"
        "generate = tfds_builder.PreparedSamples._generate_examples\n"
        "def killed(self, start):\n"
        "    for key, example in generate(self, start):\n"
        "        if key == 5: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        yield key, example\n"
        "tfds_builder.PreparedSamples._generate_examples = killed\n"
        "dataset.prepare(sys.argv[1], cache_dir=sys.argv[2])\n"
    )
    cache = tmp_path / "cache"
    done = subprocess.run([sys.executable, "-c", script, source, cache], capture_output=True)
    assert done.returncode == -9, done.stderr.decode()
    [unfinished] = directories(cache)
    assert unfinished.name.startswith("incomplete.")
    os.utime(unfinished, (0, 0))  # as if it had lain there since 1970
    faces = dataset.prepare(source, cache_dir=cache, report=silent)
    [directory] = directories(cache)
    assert directory.name == "2.0.0"
    assert_same(dataset.read(directory), faces)


def test_a_full_disk_leaves_nothing(source, tmp_path):
    script = (
        "import resource, signal, sys\n"
        "from fermm.data import dataset\n"
        "from fermm.errors import InputError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "try: dataset.prepare(sys.argv[1], cache_dir=sys.argv[2], report=lambda *a: None)\n"
        "except InputError as error: print(error)\n"
    )
    cache = tmp_path / "cache"
    done = subprocess.run(
        [sys.executable, "-c", script, source, cache], capture_output=True, text=True
    )
    assert done.stdout.startswith(f"cannot write the prepared data set to {cache}"), done.stderr
    assert done.stdout.endswith("): make room or set config.data.cache_dir\n")
    assert "File too large" in done.stdout
    assert directories(cache) == []


def test_a_build_that_another_process_overtakes_is_no_error(source, tmp_path, monkeypatch):
    extract = landmarks.extract

    def overtaken(*args, **kwargs):
        monkeypatch.setattr(landmarks, "extract", extract)
        dataset.prepare(source, cache_dir=tmp_path / "cache", report=silent)
        return extract(*args, **kwargs)

    monkeypatch.setattr(landmarks, "extract", overtaken)
    faces = dataset.prepare(source, cache_dir=tmp_path / "cache", report=silent)
    [directory] = directories(tmp_path / "cache")
    assert_same(dataset.read(directory), faces)


def test_damage_is_noticed(source, tmp_path):
    dataset.prepare(source, cache_dir=tmp_path / "cache", report=silent)
    [directory] = directories(tmp_path / "cache")
    [records] = directory.glob("*.array_record*")
    whole = records.read_bytes()
    [at] = [i for i in range(len(whole) - 9) if whole[i : i + 9] == b"landmarks"][:1]
    altered = whole[: at + 50] + bytes([whole[at + 50] ^ 1]) + whole[at + 51 :]
    remedy = rf"^the prepared data set in {directory} is damaged \(.+\): delete that directory"
    for damaged in (altered, whole[:-7], whole[: len(whole) // 2], b""):
        records.write_bytes(damaged)
        with pytest.raises(InputError, match=remedy) as caught:
            dataset.prepare(source, cache_dir=tmp_path / "cache", report=silent)
        assert "\n" not in str(caught.value)
    for path in (records, directory / "features.json", directory / "dataset_info.json"):
        path.unlink()
        with pytest.raises(InputError, match=remedy):
            dataset.read(directory)


def test_tells_of_its_stages_and_silences_tfds(source, tmp_path, capfd):
    dataset.prepare(source, cache_dir=tmp_path / "a")
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"preparing the data: {stage}" for stage in ("reading", "landmarks", "writing")
    ]
    seen = []
    dataset.prepare(source, cache_dir=tmp_path / "b", report=lambda *a: seen.append(a))
    assert list(dict.fromkeys(stage for stage, _, _ in seen)) == ["reading", "landmarks", "writing"]
    assert seen[-1] == ("writing", N, N)
    assert all(0 <= done <= total for _, done, total in seen)
    dataset.prepare(source, cache_dir=tmp_path / "b")
    assert capfd.readouterr() == ("", "")


def test_a_terminal_sees_bars(source, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    dataset.prepare(source, cache_dir=tmp_path)
    err = capfd.readouterr().err
    assert "landmarks: 100%" in err
    assert "writing: 100%" in err
    assert "Generating" not in err  # TFDS's own bars


@pytest.mark.slow
@pytest.mark.skipif("FERMM_FER2013" not in os.environ, reason="needs FER2013")
def test_the_real_data(tmp_path):
    path, cache = os.environ["FERMM_FER2013"], os.environ.get("FERMM_CACHE", tmp_path)
    faces = dataset.prepare(path, cache_dir=cache)
    assert len(faces) == 35887
    assert_same(dataset.prepare(path, cache_dir=cache), faces)
    raw = fer2013.read(path)
    expected = raw.with_feature("landmarks", LANDMARKS, faces.features["landmarks"])
    assert_same(faces, dataclasses.replace(expected, origin=faces.origin))
    some = np.arange(0, 35887, 997)
    np.testing.assert_array_equal(
        landmarks.extract(faces.features["images"][some]), faces.features["landmarks"][some]
    )
    np.testing.assert_array_equal(faces.features["landmarks"], np.rint(faces.features["landmarks"]))

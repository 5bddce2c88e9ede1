"""Whether faces are FER2013's and in its order: decided by pixels and labels, by nothing else."""

import os

import numpy as np
import pytest

from fermm import config
from fermm.data import fer2013, fingerprints, source, splits
from fermm.data.config import DataConfig
from fermm.faces import face_samples
from helpers.fer2013 import csv_text
from helpers.landmark_csv import landmark_file

COUNT = 60
UNCERTAIN = [7, 41]


def some_faces(seed=0):
    """Random images, labels and usages in the challenge's order; 8 and 9 are copies, 10 also."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (COUNT, 48, 48), np.uint8)
    images[[9, 10]] = images[8]
    labels = np.arange(COUNT, dtype=np.int32) % 7
    labels[[8, 9, 10]] = 1, 1, 2  # as some copies in FER2013 have another label
    return images, labels, np.sort(random.integers(0, 3, COUNT)).astype(np.int8)


def digests(images):
    known = np.zeros(len(images), np.int32)
    return splits.digests(face_samples(images, known, known.astype(np.int8), known))


@pytest.fixture
def known(monkeypatch):
    """Makes `some_faces` what the package takes for FER2013."""
    images, labels, usage = some_faces()
    table = fingerprints.fingerprints(digests(images), labels)
    table[UNCERTAIN] = fingerprints._UNCERTAIN
    monkeypatch.setattr(fingerprints, "table", lambda: table)
    monkeypatch.setattr(fingerprints, "FACES", COUNT)
    return images, labels, usage


def recognise(images, labels):
    return fingerprints.recognise(digests(images), labels)


def test_a_fingerprint_is_of_pixels_and_label():
    digests = np.array([0x123456789ABCDEF0, 0x123456789ABCDEF0, 0xFFFFFFFFFFFFFFFF], np.uint64)
    found = fingerprints.fingerprints(digests, np.array([0, 6, 3], np.int32))
    assert found.dtype == np.uint32
    assert found.tolist() == [0x12345678, 0x1234567E, 0xFFFFFFFB]


def test_rows_in_their_order(known):
    images, labels, _ = known
    whole = fingerprints.Recognised(fingerprints.IN_ORDER, COUNT - 2)
    assert recognise(images, labels) == whole
    changed = images.copy(), labels.copy()
    changed[0][UNCERTAIN], changed[1][UNCERTAIN] = 9, 5  # these may be anything
    assert recognise(*changed) == whole
    order = np.arange(COUNT)
    order[[8, 9]] = 9, 8  # copies with the same label are the same row
    assert recognise(images[order], labels[order]) == whole


@pytest.mark.parametrize("pair", [(0, 1), (9, 10), (58, 59), (7, 12)])
def test_two_rows_exchanged_are_another_order(known, pair):
    images, labels, _ = known
    order = np.arange(COUNT)
    order[list(pair)] = pair[::-1]
    kind = fingerprints.REORDERED
    assert recognise(images[order], labels[order]) == fingerprints.Recognised(kind, COUNT - 2)


def test_other_faces_are_not_fer2013(known):
    images, labels, _ = known
    other, none = fingerprints.OTHER, np.zeros((0, 48, 48), np.uint8)
    assert recognise(some_faces(1)[0], labels) == (other, 0)
    assert recognise(none, np.zeros(0, np.int32)) == (other, 0)
    assert recognise(images[:20], labels[:20]) == (other, 19)
    more = np.append(images, images[:1], 0), np.append(labels, labels[:1])
    assert recognise(*more) == (other, COUNT - 2)
    # A copy in place of another face: there as often as it is known, and no oftener.
    twice = images.copy(), labels.copy()
    twice[0][0], twice[1][0] = images[8], labels[8]
    assert recognise(*twice) == (other, COUNT - 3)
    label = labels.copy()
    label[0] = 3
    assert recognise(images, label) == (other, COUNT - 3)
    pixel = images.copy()
    pixel[30, 47, 47] ^= 1
    assert recognise(pixel, labels) == (other, COUNT - 3)


def load(tmp_path, faces, name="mini.csv", **changes):
    path = tmp_path / name
    path.write_text(csv_text(faces))
    section = {
        "source": "fer2013",
        "path": str(path),
        "landmarks": landmark_file(tmp_path / "points.csv", faces[1]),
        "cache_dir": str(tmp_path / "cache"),
    }
    return source.load(config.read(DataConfig, section | changes, "config.data"))


KNOWN = " of them known to be FER2013's, pixel by pixel and by their emotion"
NOT_THE_PAPERS = ": the rows of this split are not the paper's"


@pytest.mark.parametrize("streaming", [False, True])
def test_what_a_run_says_of_its_data(tmp_path, known, streaming, monkeypatch):
    monkeypatch.setattr(source.stream, "BLOCK", 7)

    def said(faces, **changes):
        loaded = load(tmp_path, faces, streaming=streaming, **changes)
        return loaded.title, loaded.identity["fer2013"], loaded.notes

    assert said(known) == ("FER2013", fingerprints.IN_ORDER, ())
    shuffled = [array[::-1] for array in known]
    note = "FER2013's faces in another order than its CSV has" + NOT_THE_PAPERS
    assert said(shuffled) == ("FER2013", fingerprints.REORDERED, (note,))
    assert said(shuffled, split="grouped") == ("FER2013", fingerprints.REORDERED, ())
    few = [array[:50] for array in known]
    note = f"50 faces instead of FER2013's 60, 48{KNOWN}{NOT_THE_PAPERS}"
    assert said(few) == ("faces of mini.csv", fingerprints.OTHER, (note,))
    other = some_faces(1)
    note = f"60 faces, 0{KNOWN}{NOT_THE_PAPERS}"
    assert said(other) == ("faces of mini.csv", fingerprints.OTHER, (note,))
    assert said(other, title="My faces")[0] == "My faces"
    assert said(known, title="Kaggle's", split_seed=3) == ("Kaggle's", fingerprints.IN_ORDER, ())
    assert said(other, name="a\nb.csv")[0] == "faces of a\\nb.csv"


def test_a_prepared_data_set_is_called_by_its_name(tmp_path):
    load(tmp_path, some_faces())
    [directory] = (tmp_path / "cache").rglob("2.0.0")
    section = {"source": "fer2013", "path": str(directory)}
    loaded = source.load(config.read(DataConfig, section, "config.data"))
    assert loaded.title == f"faces of {directory.parent.name}"


# --- FER2013 itself ------------------------------------------------------------------------------


@pytest.mark.skipif("FERMM_FER2013" not in os.environ, reason="needs the path of FER2013's CSV")
def test_fer2013_itself():
    faces = fer2013.read(os.environ["FERMM_FER2013"])
    table = fingerprints.table()
    assert (table.shape, table.dtype) == ((fingerprints.FACES,), np.uint32)
    assert np.count_nonzero(table == fingerprints._UNCERTAIN) == 175
    kinds = fingerprints.IN_ORDER, fingerprints.REORDERED, fingerprints.OTHER
    found, labels = splits.digests(faces), faces.labels
    assert fingerprints.recognise(found, labels) == (kinds[0], 35_712)
    order = np.random.default_rng(0).permutation(len(faces))
    assert fingerprints.recognise(found[order], labels[order]) == (kinds[1], 35_712)
    assert fingerprints.recognise(found[1:], labels[1:])[0] == kinds[2]
    lossy = digests(faces.features["images"] // 2 * 2)  # as re-encoded pictures, a bit different
    found = fingerprints.recognise(lossy, labels)
    assert found.kind == kinds[2]
    assert found.known < 100

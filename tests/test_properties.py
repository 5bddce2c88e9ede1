"""For any input: what was written is read back, and only `InputError` refuses the rest."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from fermm import rundir
from fermm.errors import InputError
from helpers.anything import BYTES, one_change, read_or_refuse, settings


def saved(tmp_path, name):
    count = 5
    rows, labels = np.arange(count), np.arange(count) % 7
    if name == "predictions":
        made = rundir.Predictions(rows, labels, np.full((count, 7), 1 / 7, np.float32))
        rundir.write_predictions(tmp_path / "x", made)
    elif name == "samples":
        parts, copied = np.zeros(count, np.int8), np.zeros(count, bool)
        votes = np.eye(7, dtype=np.float32)[labels]
        digests = rows.astype(np.uint64)
        made = rundir.RunSamples(rows, labels, parts, digests, copied, np.ones(7), votes)
        rundir.write_samples(tmp_path / "x", made)
    else:
        alone = {name: labels.astype(np.int8) for name in ("image", "landmarks")}
        mixed = {name: x[None].repeat(3, 0) for name, x in alone.items()}
        rundir.write_modalities(
            tmp_path / "x", rundir.Modalities(rows, labels, labels, alone, mixed)
        )
    return (tmp_path / "x").read_bytes()


READERS = {
    "predictions": rundir.read_predictions,
    "samples": rundir.read_samples,
    "modalities": lambda path: rundir.read_modalities(path, 7),
}


@pytest.mark.parametrize("kind", READERS)
@settings
@hypothesis.given(content=BYTES)
def test_any_bytes_are_read_or_refused(tmp_path, kind, content):
    read_or_refuse(READERS[kind], tmp_path / "x.npz", content)


@pytest.mark.parametrize("kind", READERS)
@settings
@hypothesis.given(data=st.data())
def test_a_good_file_with_one_change_is_read_or_refused(tmp_path, kind, data):
    content = one_change(data, saved(tmp_path, kind))
    read_or_refuse(READERS[kind], tmp_path / "x.npz", content)


@settings
@hypothesis.given(text=st.text())
def test_an_error_is_one_line_whatever_it_names(text):
    message = str(InputError(text))
    assert message.isprintable()
    assert str(InputError(message)) == message

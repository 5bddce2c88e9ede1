"""For any input: what was written is read back, and only `InputError` refuses the rest."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from fermm.errors import InputError
from fermm.evaluate import metrics, run
from helpers.anything import BYTES, one_change, read_or_refuse, settings


def saved(tmp_path, name):
    count = 5
    rows, labels = np.arange(count), np.arange(count) % 7
    if name == "predictions":
        made = metrics.Predictions(rows, labels, np.full((count, 7), 1 / 7, np.float32))
        metrics.save_predictions(tmp_path / "x", made)
    elif name == "samples":
        parts, copied = np.zeros(count, np.int8), np.zeros(count, bool)
        run.save_samples(
            tmp_path, run.Samples(rows, labels, parts, rows.astype(np.uint64), copied, np.ones(7))
        )
        (tmp_path / run.SAMPLES).rename(tmp_path / "x")
    else:
        alone = {name: labels.astype(np.int8) for name in ("image", "landmarks")}
        mixed = {name: x[None].repeat(3, 0) for name, x in alone.items()}
        run.save_modalities(tmp_path / "x", run.Modalities(rows, labels, labels, alone, mixed))
    return (tmp_path / "x").read_bytes()


READERS = {
    "predictions": metrics.load_predictions,
    "samples": run.load_samples,
    "modalities": run.load_modalities,
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

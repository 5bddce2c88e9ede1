"""Reading a run directory."""

import shutil

import pytest

from fermm.errors import InputError
from fermm.evaluate import run
from helpers.runs import NOT_ONE, fabricate


@pytest.mark.parametrize(
    "missing",
    ["samples.npz", "image/seed_0/predictions_test.npz", "image/seed_0/history.csv",
     "image/seed_0/checkpoints"],
)  # fmt: skip
def test_a_run_that_is_not_finished_is_refused(tmp_path, missing):
    directory = fabricate(tmp_path / "run", {"image": [NOT_ONE]})
    path = directory / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match="not finished: start it again with --workdir"):
        run.load(directory)

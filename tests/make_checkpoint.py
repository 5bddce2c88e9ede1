"""Makes the checkpoint that stands for its format: python tests/make_checkpoint.py

Run once when `rundir.FORMAT` is raised, and never again for that number: what it writes,
tests/checkpoint_format_<FORMAT>/, is there to be restored by later versions. `1` is the checkpoint
after the one epoch of a small landmark network; `expected.npz` is what the network said about some
faces then. The directory of an earlier format is removed by hand.
"""

import json
import pathlib
import shutil
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import fermm  # noqa: E402
from fermm import experiment, rundir  # noqa: E402
from fermm.data import synthetic  # noqa: E402
from helpers.trainings import small_config  # noqa: E402

FACES = 5


def main() -> None:
    """Trains, and copies the checkpoint into tests/."""
    kept = ROOT / "tests" / f"checkpoint_format_{rundir.FORMAT}"
    if kept.exists():
        sys.exit(f"{kept}: is there; it is made once, when the format is new")
    config = small_config(
        networks=("landmarks",), landmarks__epochs=1, landmarks__arguments__hidden=(8, 8)
    )
    with tempfile.TemporaryDirectory() as folder:
        experiment.run(config, pathlib.Path(folder, "run"))
        written = pathlib.Path(folder, "run/landmarks/seed_0/checkpoints/1")
        shutil.copytree(written, kept / "1")
    forget_places(kept / "1")
    faces = synthetic.draw(FACES, seed=1)
    probabilities = fermm.restore(kept / "1").predict(landmarks=faces.features["landmarks"])
    np.savez(
        kept / "expected.npz", landmarks=faces.features["landmarks"], probabilities=probabilities
    )
    print(f"{kept}: written")


def forget_places(directory: pathlib.Path) -> None:
    """Takes out what tells of this machine: the place that Orbax notes, and the system's name."""
    for file in directory.glob("*/commit_success.txt"):
        file.write_text("Checkpoint commit was successful\n")
    meta = json.loads((directory / "meta.json").read_text())
    meta["machine"]["system"] = "Linux"
    rundir.write_meta(directory, meta)


if __name__ == "__main__":
    main()

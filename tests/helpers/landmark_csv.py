"""Landmark CSVs in the paper's format."""

import numpy as np

from fermm.data import landmarks
from fermm.faces import FACE_REGIONS

HEADER = "jaw,right_brow,left_brow,nose,right_eye,left_eye,mouth,lips,emotion"
SIZES = (17, 5, 5, 9, 6, 6, 13, 7)


def rows(**changes: str) -> dict[str, str]:
    """One row: region k holds the points (10k, -j), j counting up; `changes` replaces cells."""
    cells = {
        name: " ".join(f"{10 * k}.{-j}" for j in range(size))
        for k, (name, size) in enumerate(zip(FACE_REGIONS, SIZES, strict=True))
    }
    return cells | {"emotion": "4"} | changes


def table(*lines: dict[str, str]) -> str:
    return "\n".join([",".join(lines[0])] + [",".join(line.values()) for line in lines]) + "\n"


def landmark_file(path, labels):
    """Writes landmarks to `path` whose first number is that of the row."""
    points = np.zeros((len(labels), 68, 2))
    points[:, 0, 0] = np.arange(len(labels))
    landmarks.write_csv(path, points, np.array(labels))
    return str(path)

"""Three ways from the file fer2013.csv to arrays.

Each takes the path and returns the images, uint8 (N, 48, 48), and the labels, int32 (N,), in the
order of the rows.
"""

import os
from collections.abc import Callable

import numpy as np
import pandas as pd

from fermm.data import fer2013

Path = str | os.PathLike[str]
Arrays = tuple[np.ndarray, np.ndarray]


def paper(path: Path) -> Arrays:
    r"""Reads as the paper's authors do: pandas' Python engine, then a loop over rows and pixels.

    The text of the paper does not show the reading. The code it points to (its footnote 2) reads
    with the separator `\s*,\s*`, a regular expression, for which pandas needs the engine
    "python"; goes through `iterrows`; splits the pixels at blanks and converts them one by one.
    Left out here is the shuffle, and that code's `float(pixel) / 255` is `int(pixel)`, so that
    the arrays are those of the other ways.
    """
    table = pd.read_csv(path, sep=r"\s*,\s*", engine="python")
    images, labels = [], []
    for _, row in table.iterrows():
        images.append(np.array([int(pixel) for pixel in row["pixels"].split(" ")], np.uint8))
        labels.append(int(row["emotion"]))
    return np.array(images).reshape(-1, 48, 48), np.array(labels, np.int32)


def pandas_c(path: Path) -> Arrays:
    """Reads with pandas' default engine, in C, and has NumPy parse the pixels of a row at once."""
    table = pd.read_csv(path, usecols=["emotion", "pixels"])
    images = np.empty((len(table), 48 * 48), np.uint8)
    for image, pixels in zip(images, table["pixels"], strict=True):
        image[:] = np.fromstring(pixels, np.uint8, sep=" ")
    return images.reshape(-1, 48, 48), table["emotion"].to_numpy(np.int32)


def fermm(path: Path) -> Arrays:
    """Reads with `fermm.data.fer2013.read`, which checks every row and also gives the usage."""
    faces = fer2013.read(path)
    return faces.features["images"], faces.labels


WAYS: dict[str, Callable[[Path], Arrays]] = {"paper": paper, "pandas_c": pandas_c, "fermm": fermm}
"""The ways by name."""

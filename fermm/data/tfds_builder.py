"""The TFDS data set of FER2013 faces with their landmarks. Importing this imports TFDS (0.7 s)."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from fermm.data.faces import EMOTIONS, IMAGE_SIZE, POINTS, Faces
from fermm.errors import InputError

SPLIT = "full"
"""The only split on disk, in source order: `fermm.data.splits` divides it when it is read."""

SHARD = 50_000
"""Faces in a file. TFDS holds the examples of one in memory, 200 MB, while it writes them."""

_BLOCK = 1024  # faces taken at a time from what may lie on disk


def features() -> dict[str, Any]:
    """The features of an example, by name, as TFDS takes them."""
    tensor = tfds.features.Tensor
    return {
        # Not features.Image, which encodes by TensorFlow. As bytes, for as integers a pixel would
        # cost an int64 and reading would take ten times longer.
        "image": tensor(shape=(IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8, encoding="bytes"),
        "landmarks": tensor(shape=(POINTS, 2), dtype=np.float32, encoding="bytes"),
        "label": tfds.features.ClassLabel(names=list(EMOTIONS)),
        "usage": tensor(shape=(), dtype=np.int8),
        "row": tensor(shape=(), dtype=np.int64),
    }


class Info(tfds.core.DatasetInfo):
    """What is known of a data set that TFDS's own servers do not hold."""

    def initialize_from_bucket(self) -> None:
        """Does nothing: TFDS would ask its servers, and leave an empty temporary directory."""


def example(faces: Faces, i: int) -> dict[str, Any]:
    """Face `i` of `faces`, which have landmarks, as TFDS encodes it."""
    assert faces.landmarks is not None
    return {
        "image": faces.images[i],
        "landmarks": faces.landmarks[i],
        "label": int(faces.labels[i]),
        "usage": faces.usage[i],
        "row": faces.rows[i],
    }


# Not GeneratorBasedBuilder, which beyond 1 GB writes aside through TensorFlow.
class Fer2013Landmarks(tfds.core.ShardBasedBuilder):
    """FER2013 with 68 landmarks a face, read with `as_data_source`, without TensorFlow.

    An example is a dict: `image` uint8 (48, 48), `landmarks` float32 (68, 2) in pixels, `label`
    an index into EMOTIONS, `usage` an index into USAGES or -1, `row` the 0-based row of the source.

    `fermm.data.dataset.prepare` builds it; its config names the source and the landmarks.
    `info.metadata` has `origin`, how the landmarks came about (see `Origin`). Where rows of the
    source were set aside, it also has `rows`, how many there were, and `rejected`, a pair of place
    and reason for each.
    """

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES = {  # noqa: RUF012, TFDS's own contract
        "1.0.0": "First release.",
        "1.1.0": "The metadata tell which predictor found the landmarks.",
    }
    # There is nothing to download. Without this line TFDS looks for a list of checksums, by a
    # package it does not declare (https://github.com/tensorflow/datasets/issues/11212).
    url_infos = None

    def __init__(self, *, faces: Faces | None = None, **kwargs: Any) -> None:
        """Finds the prepared data set, or gets ready to prepare one from `faces`.

        Args:
            faces: What `download_and_prepare` writes, with landmarks; images and landmarks may be
                anything that has rows taken like an array. Not needed to read.
            **kwargs: Arguments of `tfds.core.DatasetBuilder`: `config`, `data_dir`.
        """
        self._faces = faces
        # The one format that TFDS writes and reads without TensorFlow.
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        metadata = None
        if self._faces is not None:
            metadata = tfds.core.MetadataDict(origin=self._faces.origin._asdict())
            if rejected := self._faces.rejected:
                metadata |= {"rows": len(self._faces) + len(rejected), "rejected": rejected}
        return Info(
            builder=self,
            description="FER2013 faces with the 68 landmarks of each.",
            features=tfds.features.FeaturesDict(features()),
            metadata=metadata,
            disable_shuffling=True,  # the order of the source is part of the data
        )

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, list[Callable[[], Iterator[tuple[int, dict[str, Any]]]]]]:
        del dl_manager
        if self._faces is None or self._faces.landmarks is None:
            raise InputError(
                "Fer2013Landmarks has no faces with landmarks to write: "
                "build it with fermm.data.dataset.prepare"
            )
        starts = range(0, len(self._faces), SHARD)
        return {SPLIT: [functools.partial(self._generate_examples, start) for start in starts]}

    def _generate_examples(self, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """The examples of the file that begins with face `start`."""
        assert self._faces is not None
        stop = min(start + SHARD, len(self._faces))
        for first in range(start, stop, _BLOCK):
            block = self._faces.take(np.arange(first, min(first + _BLOCK, stop)))
            for i in range(len(block)):
                yield first + i, example(block, i)

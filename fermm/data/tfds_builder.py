"""Samples as a TFDS data set. Importing this imports TFDS (0.7 s)."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from fermm.errors import InputError
from fermm.samples import Feature, Origin, Samples

SPLIT = "full"
"""The only split on disk, in source order: `fermm.data.splits` divides it when it is read."""

SHARD = 50_000
"""Samples in a file. TFDS holds the examples of one in memory, 200 MB, while it writes them."""

_BLOCK = 1024  # samples taken at a time from what may lie on disk

FIELDS = ("label", "official", "row")
"""What an example holds beside its features."""


def features(described: Mapping[str, Feature], classes: Sequence[str]) -> dict[str, Any]:
    """What an example holds, by name, as TFDS takes it.

    Raises:
        InputError: a feature is called like one of FIELDS.
    """
    tensor = tfds.features.Tensor
    for name in FIELDS:
        if name in described:
            raise InputError(f"a feature cannot be called {name!r}; choose another name")
    # Not features.Image, which encodes by TensorFlow. As bytes, for as integers a pixel would cost
    # an int64 and reading would take ten times longer.
    columns = {
        name: tensor(shape=feature.shape, dtype=np.dtype(feature.dtype).type, encoding="bytes")
        for name, feature in described.items()
    }
    return {
        **columns,
        "label": tfds.features.ClassLabel(names=list(classes)),
        "official": tensor(shape=(), dtype=np.int8),
        "row": tensor(shape=(), dtype=np.int64),
    }


def describe(
    described: Mapping[str, Feature],
    classes: Sequence[str],
    identity: Sequence[str],
    origin: Origin,
) -> dict[str, Any]:
    """The metadata of a prepared data set, see `fermm.samples.Samples`."""
    return {
        "features": {name: each.to_json() for name, each in described.items()},
        "classes": list(classes),
        "identity": list(identity),
        "origin": origin._asdict(),
    }


class Info(tfds.core.DatasetInfo):
    """What is known of a data set that TFDS's own servers do not hold."""

    def initialize_from_bucket(self) -> None:
        """Does nothing: TFDS would ask its servers, and leave an empty temporary directory."""


def example(samples: Samples, i: int) -> dict[str, Any]:
    """Sample `i` as TFDS takes it: a dict of what `features` describes."""
    return {name: column[i] for name, column in samples.features.items()} | {
        "label": int(samples.labels[i]),
        "official": samples.official[i],
        "row": samples.rows[i],
    }


# Not GeneratorBasedBuilder, which beyond 1 GB writes aside through TensorFlow.
class PreparedSamples(tfds.core.ShardBasedBuilder):
    """Labelled samples, read with `as_data_source`, without TensorFlow.

    An example is a dict: the features of the sample by their names, `label`, an index into the
    classes, `official`, an index into `fermm.samples.SPLITS` or -1, and `row`, the 0-based row of
    the source.

    `fermm.data.dataset.write` builds it; its config names the source and how features were found.
    `info.metadata` has `features`, `classes`, `identity` and `origin`, see `fermm.samples.Samples`.
    If rows of the source were set aside, it also has `rows`, how many there were, and `rejected`, a
    pair of place and reason for each.
    """

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES = {"2.0.0": "Any features and classes."}  # noqa: RUF012, TFDS's own contract
    # There is nothing to download. Without this line TFDS looks for a list of checksums, by a
    # package it does not declare (https://github.com/tensorflow/datasets/issues/11212).
    url_infos = None

    def __init__(self, *, samples: Samples, **kwargs: Any) -> None:
        """Gets ready to prepare a data set.

        Args:
            samples: what `download_and_prepare` writes. A feature may be anything that has rows
                taken like an array.
            **kwargs: arguments of `tfds.core.DatasetBuilder`: `config`, `data_dir`.
        """
        self._samples = samples
        # The one format that TFDS writes and reads without TensorFlow.
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        samples = self._samples
        metadata = tfds.core.MetadataDict(
            describe(samples.described, samples.classes, samples.identity, samples.origin)
        )
        if samples.rejected:
            metadata |= {
                "rows": len(samples) + len(samples.rejected),
                "rejected": samples.rejected,
            }
        return Info(
            builder=self,
            description="Samples that fermm has prepared.",
            features=tfds.features.FeaturesDict(features(samples.described, samples.classes)),
            metadata=metadata,
            disable_shuffling=True,  # the order of the source is part of the data
        )

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, list[Callable[[], Iterator[tuple[int, dict[str, Any]]]]]]:
        del dl_manager
        starts = range(0, len(self._samples), SHARD)
        return {SPLIT: [functools.partial(self._generate_examples, start) for start in starts]}

    def _generate_examples(self, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """The examples of the file that begins with sample `start`."""
        stop = min(start + SHARD, len(self._samples))
        for first in range(start, stop, _BLOCK):
            rows = np.arange(first, min(first + _BLOCK, stop))
            block = self._samples.take(rows)
            read = {name: np.asarray(column) for name, column in block.features.items()}
            block = dataclasses.replace(block, features=read)
            for i in range(len(block)):
                yield first + i, example(block, i)

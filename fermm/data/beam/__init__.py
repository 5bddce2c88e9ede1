"""Prepares large data as a Beam pipeline: images to landmarks, their quality, and TFDS's files.

    uv run --no-dev --group beam python -m fermm.data.beam --images faces/ --out prepared
    uv run --no-dev --group beam python -m fermm.data.beam --images 'faces-*.csv' --out prepared \\
        --runner=DirectRunner --direct_running_mode=multi_processing --direct_num_workers=8

What follows is for Beam: any runner whose workers have fermm installed and see --images, --out and
--predictor under the same paths. The data set is what `fermm.data.dataset.prepare` makes, and in
each example `landmark_quality`, see `fermm.data.landmarks.quality`. The directory that is printed
at the end is given as config.data.path. Rows are those of the source, whatever the order in which a
runner works: of image folders as `fermm.data.fer2013.read` orders them; of several CSVs one after
the other, sorted by name, each of which one worker reads into memory.

Beam is only imported here, and needs an environment of its own: it wants an older protobuf.
"""

import dataclasses
import glob
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import tensorflow_datasets as tfds

from fermm.data import fer2013, landmarks, tfds_builder
from fermm.errors import InputError
from fermm.faces import EMOTIONS, FEATURES, LANDMARKS
from fermm.paths import expand, whole
from fermm.samples import Origin, Samples

BLOCK = 256  # faces that go through the pipeline as one element


class LargeFaces(tfds.core.GeneratorBasedBuilder):
    """A prepared data set of faces with the feature `landmark_quality`, made by a Beam pipeline."""

    VERSION = tfds_builder.PreparedSamples.VERSION
    RELEASE_NOTES = tfds_builder.PreparedSamples.RELEASE_NOTES
    url_infos = None  # there is nothing to download

    def __init__(self, *, source: "Source", **kwargs: Any) -> None:
        self._source = source
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        described = {**FEATURES, "landmark_quality": landmarks.QUALITY}
        return tfds_builder.Info(
            builder=self,
            description="Faces with the 68 landmarks of each, and the quality of these.",
            features=tfds.features.FeaturesDict(tfds_builder.features(described, EMOTIONS)),
            metadata=tfds.core.MetadataDict(
                tfds_builder.describe(
                    described,
                    EMOTIONS,
                    ("images",),
                    Origin(self._source.method, self._source.sha256),
                )
            ),
            # TFDS sorts by key, which is the row.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager
        return {tfds_builder.SPLIT: self._generate_examples(self._source)}

    def _generate_examples(self, source: "Source") -> beam.PTransform:
        return Examples(source)


class Source(NamedTuple):
    """What is prepared, and how.

    Attributes:
        images: directory of image folders in FER2013's layout, or a glob of CSVs.
        method, predictor: as `fermm.data.landmarks.extract` takes them.
        sha256: of the predictor; workers refuse another under the same path. `prepare` sets it.
    """

    images: str
    method: str = "paper"
    predictor: str | None = None
    sha256: str = ""


class Examples(beam.PTransform):
    """From nothing to (row, example as TFDS encodes it)."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source

    def expand(self, pipeline: Any) -> Any:
        """The transform; see `beam.PTransform`."""
        images, *how = self._source
        if os.path.isdir(images):
            pictures = fer2013.list_pictures(images)
            starts = range(0, len(pictures), BLOCK)
            blocks = (
                pipeline
                | "Pictures" >> beam.Create([(i, pictures[i : i + BLOCK]) for i in starts])
                | "Spread pictures" >> beam.Reshuffle()
                | "Decode" >> beam.Map(_decode, images)
            )
        else:
            files = pipeline | "Files" >> beam.Create(list(enumerate(_files(images))))
            files = files | "Spread files" >> beam.Reshuffle()
            counts = beam.pvalue.AsDict(files | "Count" >> beam.Map(_count))
            blocks = (
                files | "Read" >> beam.FlatMap(_read, counts) | "Spread blocks" >> beam.Reshuffle()
            )
        return (
            blocks
            | "Landmarks" >> beam.Map(_find_landmarks, *how)
            | "Quality" >> beam.Map(_add_quality, *how)
            | "Examples" >> beam.FlatMap(_examples)
        )


def _files(pattern: str) -> list[str]:
    files = sorted(glob.glob(pattern))
    if not files:
        raise InputError(
            f"{pattern}: no such folder, and no file matches: give a folder that holds train/ and "
            "test/, or the CSVs as a pattern in quotes, e.g. 'faces-*.csv'"
        )
    return files


def _decode(piece: tuple[int, list[fer2013.Picture]], root: str) -> Samples:
    first, pictures = piece
    return _block(fer2013.read_pictures(root, pictures), first)


def _count(file: tuple[int, str]) -> tuple[int, int]:
    index, path = file
    with open(path, "rb") as lines:
        return index, sum(not line.isspace() for line in lines) - 1  # the header


def _read(file: tuple[int, str], counts: Mapping[int, int]) -> Iterator[Samples]:
    index, path = file
    samples = fer2013.read(path)
    assert len(samples) == counts[index], path
    first = sum(counts[i] for i in range(index))
    for start in range(0, len(samples), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(samples)))
        yield _block(samples.take(rows), first + start)


def _block(samples: Samples, first: int) -> Samples:
    rows = np.arange(first, first + len(samples))
    return dataclasses.replace(samples, rows=rows)


def _find_landmarks(samples: Samples, method: str, predictor: str | None, sha256: str) -> Samples:
    # The predictor is loaded once in each process, see `landmarks.extract`.
    images = samples.features["images"]
    found = landmarks.extract(images, method, predictor=predictor, sha256=sha256)
    return samples.with_feature("landmarks", LANDMARKS, found)


def _add_quality(samples: Samples, method: str, predictor: str | None, sha256: str) -> Samples:
    del sha256  # looked at when the landmarks were found
    images, found = (samples.features[name] for name in ("images", "landmarks"))
    quality = landmarks.quality(images, found, method, predictor=predictor)
    return samples.with_feature("landmark_quality", landmarks.QUALITY, quality)


def _examples(samples: Samples) -> Iterator[tuple[int, dict[str, Any]]]:
    for i, row in enumerate(samples.rows.tolist()):
        yield row, tfds_builder.example(samples, i)


def prepare(source: Source, out: str | os.PathLike[str], options: Any = None) -> Path:
    """Runs the pipeline, unless its data set is there already; OUT/large_faces.json says of what.

    Args:
        source: What is prepared.
        out: Directory that gets the data set.
        options: Beam's `PipelineOptions`, which name the runner; None is Beam's default.

    Returns:
        The directory of the prepared data set, which `fermm.data.dataset.prepare` takes as path.

    Raises:
        InputError: nothing to read, no predictor, or `out` has the data set of another source. What
            is found in a file by a worker comes as the runner passes it on.
    """
    landmarks.find_method(source.method)
    sha256 = landmarks.predictor_digest(source.predictor)
    images = os.path.abspath(expand(source.images))
    if not os.path.isdir(images):
        _files(images)
    predictor = source.predictor and os.path.abspath(expand(source.predictor))
    source = Source(images, source.method, predictor, sha256)
    out = os.path.abspath(expand(out))
    builder = LargeFaces(source=source, data_dir=out)
    note, now = Path(out, f"{builder.name}.json"), json.dumps(source._asdict()) + "\n"
    if os.path.isdir(builder.data_dir) and not (note.is_file() and note.read_text() == now):
        raise InputError(
            f"{builder.data_dir}: was prepared from something else, see {note}; choose another "
            "--out"
        )
    os.makedirs(out, exist_ok=True)
    with whole(note) as aside:
        aside.write_text(now)
    with tempfile.TemporaryDirectory() as downloads:  # TFDS makes one; there are none
        builder.download_and_prepare(
            download_dir=downloads,
            download_config=tfds.download.DownloadConfig(
                beam_options=options or beam.options.pipeline_options.PipelineOptions([])
            ),
        )
    return Path(builder.data_dir)

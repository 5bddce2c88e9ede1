"""From a config to the faces of a run: which, in which split, with which class weights."""

import csv
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fermm.data import dataset, fingerprints, splits, stream, synthetic
from fermm.data.faces import Faces, Rejected
from fermm.errors import InputError, printable
from fermm.faces import EMOTIONS, FEATURES
from fermm.paths import expand, whole
from fermm.rundir import RunDirectory
from fermm.samples import Feature, Samples

SOURCES = ("fer2013", "synthetic")
CLASS_WEIGHTS = ("pooled", "train", "none")


class Source(NamedTuple):
    """The data of a run.

    Attributes:
        faces: all faces, with landmarks.
        splits: "train", "validation", "test" -> int64 indices into `faces`.
        class_weights: float64 (7,).
        title: what the faces are, for captions: `config.title`, or else "FER2013" if they are all
            of FER2013's, and "faces of ..." with the name of the file if they are not.
        note: what a user should know of this split, or "".
        identity: what tells this data and split from others, JSON types: "faces" and "landmarks"
            are digests of the arrays, and of the numbers of the rows where some are missing, the
            same whatever form of file they came in; "fer2013" says whether these are FER2013's
            faces, in its order: one of the kinds in `fermm.data.fingerprints`.
        predictor: what found the landmarks, as checkpoints note it: {"path": ..., "sha256": ...},
            where the path is absolute, or "" for the package's predictor; None if none did.
    """

    faces: Faces
    splits: dict[str, np.ndarray]
    class_weights: np.ndarray
    title: str
    note: str
    identity: dict[str, Any]
    predictor: dict[str, str] | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return EMOTIONS

    @property
    def features(self) -> Mapping[str, Feature]:
        """What the features of the samples are, by name."""
        return FEATURES

    @property
    def samples(self) -> Samples:
        """The faces as samples."""
        return Samples(
            {name: getattr(self.faces, name) for name in FEATURES},
            FEATURES,
            self.faces.labels,
            EMOTIONS,
            self.faces.rows,
            self.faces.usage,
            ("images",),
        )


def load(config: Mapping[str, Any]) -> Source:
    """The data that `config.data` names.

    Raises:
        InputError: a bad field or file.
    """
    source = config["source"]
    if source == "fer2013":
        if not config["path"]:
            raise InputError(
                "config.data.path is empty: give FER2013's fer2013.csv, icml_face_data.csv, or the "
                "folder or zip of its images, e.g. --config.data.path=fer2013.csv"
            )
        path, method, predictor = config["path"], config["landmarks"], config["predictor"] or None
        faces = dataset.prepare(
            path,
            cache_dir=config["cache_dir"],
            landmarks=method,
            predictor=predictor,
            on_error=config["on_error"],
            streaming=config["streaming"],
        )
    elif source == "synthetic":
        if "synthetic" not in config:
            raise InputError(
                "config.data.source is 'synthetic', but config.data.synthetic is missing: "
                "use configs/synthetic.py"
            )
        if config["streaming"]:
            raise InputError(
                "config.data.streaming is on, but drawn faces are made in memory: switch it off"
            )
        faces = synthetic.draw(**config["synthetic"])
    else:
        raise InputError(f"config.data.source {source!r} is unknown: it is {' or '.join(SOURCES)}")
    assert faces.landmarks is not None
    parts = splits.split(faces, config["split"], config["split_seed"])
    digest, recognised = _recognise(faces)
    identity = {
        "faces": digest,
        "landmarks": _digest(faces.landmarks),
        "fer2013": recognised.kind,
        "split": config["split"],
        "split_seed": config["split_seed"],
        "sizes": {name: len(rows) for name, rows in parts.items()},
    }
    found_by = None
    if faces.origin.predictor:
        path = os.path.abspath(expand(config["predictor"])) if config["predictor"] else ""
        found_by = {"path": path, "sha256": faces.origin.predictor}
    return Source(
        faces,
        parts,
        _class_weights(config, faces, parts),
        config["title"] or _title(config, recognised),
        _note(config, faces, recognised),
        identity,
        found_by,
    )


def fingerprint(config: Mapping[str, Any]) -> str:
    """What `config.data` names, known without reading it: another if its content is another.

    Returns:
        A digest of the source, or "" where there is none but that of `load`.

    Raises:
        InputError: a file is missing or cannot be read.
    """
    if config["source"] == "synthetic":
        return json.dumps(config.get("synthetic"), sort_keys=True)
    if Path(expand(config["path"]), "dataset_info.json").is_file():
        return ""
    return dataset.identify(
        config["path"], config["landmarks"], config["predictor"] or None, config["cache_dir"]
    )


def write_rejected(workdir: Path, origin: str, faces: Faces) -> None:
    """Writes `rejected.csv`, a row for each that was set aside, and says how many there are.

    Args:
        workdir: the run directory.
        origin: the path of the source.
        faces: what was read from it.

    Raises:
        InputError: the file cannot be written.
    """
    file = RunDirectory(workdir).rejected
    with (
        whole(file) as aside,
        open(aside, "w", newline="", encoding="utf-8", errors="backslashreplace") as opened,
    ):
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(["source", *Rejected._fields])
        writer.writerows([origin, *rejected] for rejected in faces.rejected)
    count = len(faces.rejected)
    print(f"{count} of {len(faces) + count} rows set aside, see {file}", flush=True)


def _recognise(faces: Faces) -> tuple[str, fingerprints.Recognised]:
    """The digest of the faces, and what they have in common with FER2013; in blocks."""
    total = hashlib.sha256()
    digests = []
    for start in range(0, len(faces), stream.BLOCK):  # images may lie on disk
        block = np.ascontiguousarray(faces.images[start : start + stream.BLOCK])
        total.update(block.data)
        digests.append(splits.digests(block))
    total.update(faces.labels.data)
    # Rows, by which predictions name faces, have gaps where some were set aside.
    if not np.array_equal(faces.rows, np.arange(len(faces))):
        total.update(faces.rows.data)
    recognised = fingerprints.recognise(np.concatenate(digests), faces.labels)
    return total.hexdigest()[:16], recognised


def _title(config: Mapping[str, Any], recognised: fingerprints.Recognised) -> str:
    if config["source"] == "synthetic":
        return "synthetic faces"
    if recognised.kind != fingerprints.OTHER:
        return "FER2013"
    path = expand(config["path"]).resolve()
    if dataset.is_prepared(path):  # NAME/VERSION
        path = path.parent
    return printable(f"faces of {path.name}")


def _note(config: Mapping[str, Any], faces: Faces, recognised: fingerprints.Recognised) -> str:
    """In what the rows of the split "paper" are not the paper's."""
    if (config["source"], config["split"]) != ("fer2013", "paper"):
        return ""
    if recognised.kind == fingerprints.IN_ORDER:
        return ""
    if recognised.kind == fingerprints.REORDERED:
        what = "FER2013's faces in another order than its CSV has"
    else:
        instead = fingerprints.FACES if len(faces) != fingerprints.FACES else 0
        what = (
            f"{len(faces)} faces" + f" instead of FER2013's {instead}" * bool(instead) + ", "
            f"{recognised.known} of them known to be FER2013's, pixel by pixel and by their emotion"
        )
    return f"{what}: the rows of this split are not the paper's"


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        for start in range(0, len(array), stream.BLOCK):  # images may lie on disk
            digest.update(np.ascontiguousarray(array[start : start + stream.BLOCK]).data)
    return digest.hexdigest()[:16]


def _class_weights(
    config: Mapping[str, Any], faces: Faces, parts: Mapping[str, np.ndarray]
) -> np.ndarray:
    kind = config["class_weights"]
    if kind == "pooled":
        return splits.class_weights(faces.labels)
    if kind == "train":
        return splits.class_weights(faces.labels[parts["train"]])
    if kind == "none":
        return np.ones(7)
    raise InputError(
        f"config.data.class_weights {kind!r} is unknown: it is {', '.join(CLASS_WEIGHTS)}"
    )

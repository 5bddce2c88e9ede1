"""From a config to the samples of a run: which, in which split, with which class weights."""

import csv
import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import numpy as np

from fermm import config
from fermm.data import dataset, ferplus, fingerprints, splits, stream, synthetic
from fermm.data.config import DataConfig
from fermm.data.landmarks import METHODS
from fermm.errors import InputError, printable
from fermm.faces import EMOTIONS, FEATURES
from fermm.paths import NoHomeError, expand, whole
from fermm.samples import DERIVED, Feature, Rejected, Samples, same_function


class Description(NamedTuple):
    """What is known of samples before they are read: their features, and the names of classes."""

    features: Mapping[str, Feature]
    classes: tuple[str, ...]


class _Reader(NamedTuple):
    read: Callable[..., Samples]
    arguments: Mapping[str, inspect.Parameter]
    description: Description | None


SOURCES: dict[str, _Reader] = {}
"""Functions that read samples, by name."""

F = TypeVar("F", bound=Callable[..., Samples])


def register_source(
    name: str,
    *,
    arguments: Callable[..., Any] | None = None,
    description: Description | None = None,
) -> Callable[[F], F]:
    """Decorator for a function that reads samples: `config.data.source = name` calls it.

    The function takes the `DataConfig` and, as keyword arguments, what `config.data.arguments`
    holds; it returns `fermm.samples.Samples`. An argument that is annotated as an int, float, str
    or bool is refused if it is something else, and one without a default is required.

    Args:
        name: in the config.
        arguments: a function whose parameters are what `config.data.arguments` may hold, instead
            of the keyword-only ones of the decorated function.
        description: what the samples will have, so that networks can be checked before a long
            reading; None if it is known only then.

    Raises:
        ValueError: another function is registered under that name.
    """

    def add(function: F) -> F:
        known = SOURCES.get(name)
        if known is not None and not same_function(known.read, function):
            raise ValueError(
                f"the source {name!r} is registered already, by {known.read.__qualname__}"
            )
        parameters = {
            key: parameter
            for key, parameter in _signature(arguments or function).parameters.items()
            if arguments is not None or parameter.kind is inspect.Parameter.KEYWORD_ONLY
        }
        SOURCES[name] = _Reader(function, parameters, description)
        return function

    return add


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)  # annotations may be strings
    except NameError:  # of a name that is there for type checkers alone
        return inspect.signature(function)


class Source(NamedTuple):
    """The data of a run.

    Attributes:
        samples: all of them, with every feature that was asked for.
        splits: "train", "validation", "test" -> int64 indices into `samples`.
        class_weights: float64 (K,), one for each class.
        title: what the samples are, for captions: `config.title`; or else "FER2013" if they are all
            of FER2013's, "faces of ..." with the name of the file if they are other faces, and the
            name of the source if it is the user's own.
        notes: what a user should know of these samples and this split.
        identity: what tells these data and this split from others, JSON types: "labels" is a digest
            of labels, classes and votes, and of the numbers of the rows where some are missing;
            "features" has a digest of each feature. They are the same whatever form of file the
            samples came in. "fer2013" says whether these are FER2013's faces and labels, in its
            order: one of the kinds in `fermm.data.fingerprints`.
        predictor: what found the landmarks, as checkpoints note it: {"path": ..., "sha256": ...},
            where the path is absolute, or "" for the package's predictor; None if none did.
    """

    samples: Samples
    splits: dict[str, np.ndarray]
    class_weights: np.ndarray
    title: str
    notes: tuple[str, ...]
    identity: dict[str, Any]
    predictor: dict[str, str] | None = None


def check(data: DataConfig) -> None:
    """Checks what can be checked without reading any samples.

    Raises:
        InputError: a field makes no sense.
    """
    if data.source not in SOURCES:
        config.unknown("config.data.source", data.source, SOURCES)
    reader = SOURCES[data.source]
    kinds = {int: "an integer", float: "a number", str: "a string", bool: "True or False"}
    for name, value in data.arguments.items():
        if name not in reader.arguments:
            _refuse_argument(data.source, name, reader.arguments)
        kind = reader.arguments[name].annotation
        good = isinstance(value, (int, float) if kind is float else kind) if kind in kinds else True
        if not good or (isinstance(value, bool) and kind in (int, float)):
            raise InputError(
                f"config.data.arguments.{name} is {config.short(value)}, needs {kinds[kind]}"
            )
    for name, parameter in reader.arguments.items():
        if parameter.default is inspect.Parameter.empty and name not in data.arguments:
            raise InputError(
                f"config.data.arguments.{name} is missing: the source {data.source!r} needs it"
            )
    expand(data.predictor)
    try:
        expand(data.cache_dir)
    except NoHomeError:
        if data.source == "fer2013":  # the others keep nothing there
            raise
    if data.labels != "original":
        if data.source != "fer2013":
            raise InputError(
                f"config.data.labels is {data.labels!r}: FER+ has votes for FER2013's faces alone; "
                "set config.data.source to 'fer2013' or labels to 'original'"
            )
        if not data.votes:
            raise InputError(
                f"config.data.labels is {data.labels!r}, which needs FER+'s votes: give "
                "--config.data.votes=fer2013new.csv"
            )
    if not dataset.is_landmark_file(data.landmarks) and data.landmarks not in METHODS:
        config.unknown("config.data.landmarks", data.landmarks, METHODS)


def _refuse_argument(source: str, name: str, known: Mapping[str, Any]) -> NoReturn:
    if not known:
        raise InputError(
            f"config.data.arguments: the source {source!r} takes none, and {name!r} is "
            "given; leave it out"
        )
    config.unknown("config.data.arguments", name, known)


def describe(data: DataConfig) -> Description | None:
    """What `load` will give, as far as it is known without reading; None if nothing is.

    Features that can be computed from others are among its features.
    """
    described = SOURCES[data.source].description
    if described is None or (data.source == "fer2013" and dataset.is_prepared(data.path)):
        return None
    computed = {name: derived.feature for name, derived in DERIVED.items()}
    classes = described.classes if data.labels == "original" else ferplus.CLASSES
    return Description({**computed, **described.features}, classes)


def load(data: DataConfig, features: Iterable[str] = ()) -> Source:
    """The data that `config.data` describes.

    Args:
        data: the config's section.
        features: what networks read. A feature that the source does not have is computed, if a
            function is registered for it, see `fermm.samples.register_feature`.

    Raises:
        InputError: a bad field or file, samples that do not fit together, or a feature that nothing
            gives.
    """
    check(data)
    samples = SOURCES[data.source].read(data, **data.arguments)
    _check_samples(data.source, samples)
    recognised = _recognise(samples)
    title, note = _title(data, recognised), _note(data, samples, recognised)
    notes: tuple[str, ...] = (note,) if note else ()
    if data.labels != "original":
        samples, note = ferplus.relabel(samples, data.votes, data.labels)
        title, notes = _titled(data, f"FER+ ({data.labels})"), (*notes, note)
        if data.split == "paper":
            notes += ("FER+ sets rows aside: the rows of this split are not the paper's",)
        recognised = fingerprints.Recognised(fingerprints.OTHER, recognised.known)
    for name in features:
        samples = derive(samples, name)
    parts = splits.split(samples, data.split, data.split_seed)
    identity = {
        "labels": _digest_labels(samples),
        "features": {name: _digest(x) for name, x in samples.features.items()},
        "fer2013": recognised.kind,
        "split": data.split,
        "split_seed": data.split_seed,
        "sizes": {name: len(rows) for name, rows in parts.items()},
    }
    found_by = None
    if samples.origin.predictor:
        path = os.path.abspath(expand(data.predictor)) if data.predictor else ""
        found_by = {"path": path, "sha256": samples.origin.predictor}
    weights = _class_weights(data, samples, parts)
    return Source(samples, parts, weights, title, notes, identity, found_by)


@register_source("fer2013", description=Description(FEATURES, EMOTIONS))
def read_fer2013(data: DataConfig) -> Samples:
    """Faces in one of FER2013's forms, with landmarks, prepared once and kept.

    Raises:
        InputError: see `fermm.data.dataset.prepare`.
    """
    if not data.path:
        raise InputError(
            "config.data.path is empty: give FER2013's fer2013.csv, icml_face_data.csv, or the "
            "folder or zip of its images, e.g. --config.data.path=fer2013.csv"
        )
    return dataset.prepare(
        data.path,
        cache_dir=data.cache_dir,
        landmarks=data.landmarks,
        predictor=data.predictor or None,
        on_error=data.on_error,
        streaming=data.streaming,
    )


@register_source("synthetic", arguments=synthetic.draw, description=Description(FEATURES, EMOTIONS))
def read_synthetic(data: DataConfig, **arguments: Any) -> Samples:
    """Drawn faces with exact landmarks, see `fermm.data.synthetic`.

    Raises:
        InputError: an argument is out of range.
    """
    if data.streaming:
        raise InputError(
            "config.data.streaming is on, but synthetic faces are made in memory: switch it off"
        )
    return synthetic.draw(**arguments)


def _check_samples(source: str, samples: Samples) -> None:
    """Checks what a source gives, which may be the user's own.

    Raises:
        InputError: it is not `Samples` that fit together.
    """
    if not isinstance(samples, Samples):
        raise InputError(
            f"the source {source!r} returns {type(samples).__name__}, needs fermm.samples.Samples"
        )
    if not len(samples):
        raise InputError(f"the source {source!r} gives no samples; see to config.data")
    try:
        samples.check()
    except InputError as error:
        raise InputError(f"the source {source!r} gives samples whose {error}") from None
    columns: list[Any] = [*samples.features.values()]
    streamed = [column.records for column in columns if isinstance(column, stream.Column)]
    if streamed and (len(streamed) < len(columns) or any(x is not streamed[0] for x in streamed)):
        raise InputError(
            f"the source {source!r} gives features of which some are columns of one data set on "
            "disk and others are not; give all from one place"
        )


def derive(samples: Samples, name: str) -> Samples:
    """The samples with the feature `name`, computed unless it is there.

    Where the other features stay on disk it is computed whenever rows are taken.

    Raises:
        InputError: nothing gives it, or what computes it returns something else than it says.
    """
    if name in samples.features:
        return samples
    if name not in DERIVED:
        raise InputError(
            f"a network reads the feature {name!r}, which the data do not have and no registered "
            f"function computes; they have {', '.join(samples.features)}"
        )
    derived = DERIVED[name]
    for needed in derived.reads:
        samples = derive(samples, needed)
    columns: list[Any] = [samples.features[needed] for needed in derived.reads]
    if isinstance(columns[0], stream.Column):
        column: Any = stream.DerivedColumn(name, columns)
    else:
        column = np.concatenate(
            [
                stream.compute(name, [x[start : start + stream.BLOCK] for x in columns])
                for start in range(0, len(samples), stream.BLOCK)
            ]
        )
    return samples.with_feature(name, derived.feature, column)


def fingerprint(data: DataConfig) -> str | None:
    """What `config.data` names, known without reading it: another if its content is another.

    Returns:
        A digest of the source, or None where only reading tells, as for a source of the user's.

    Raises:
        InputError: a file is missing or cannot be read.
    """
    if data.source == "synthetic":
        return json.dumps(config.to_dict(data.arguments), sort_keys=True)
    if data.source != "fer2013":
        return None
    if dataset.is_prepared(data.path):
        files = sorted(expand(data.path).iterdir())
        known = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return hashlib.sha256(repr(known).encode()).hexdigest()
    found = dataset.identify(data.path, data.landmarks, data.predictor or None, data.cache_dir)
    if data.labels != "original":
        found += f"-{dataset.digest(data.votes)[:16]}"
    return found


def write_rejected(file: Path, origin: str, samples: Samples) -> None:
    """Writes a row for each that was set aside, and says how many there are.

    Args:
        file: the CSV.
        origin: the path of the source.
        samples: what was read from it.

    Raises:
        InputError: the file cannot be written.
    """
    with (
        whole(file) as aside,
        open(aside, "w", newline="", encoding="utf-8", errors="backslashreplace") as opened,
    ):
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(["source", *Rejected._fields])
        writer.writerows([origin, *rejected] for rejected in samples.rejected)
    count = len(samples.rejected)
    print(f"{count} of {len(samples) + count} rows set aside, see {file}", flush=True)


def _recognise(samples: Samples) -> fingerprints.Recognised:
    """Looks for FER2013's rows among the samples."""
    if samples.classes != EMOTIONS or samples.identity != ("images",):
        return fingerprints.Recognised(fingerprints.OTHER, 0)
    return fingerprints.recognise(splits.digests(samples), samples.labels)


def _title(data: DataConfig, recognised: fingerprints.Recognised) -> str:
    if data.source == "synthetic":
        return _titled(data, "synthetic faces")
    if data.source != "fer2013":
        return _titled(data, data.source)
    if recognised.kind != fingerprints.OTHER:
        return _titled(data, "FER2013")
    path = expand(data.path).resolve()
    if dataset.is_prepared(path):  # NAME/VERSION
        path = path.parent
    return _titled(data, printable(f"faces of {path.name}"))


def _titled(data: DataConfig, otherwise: str) -> str:
    """The title that the user gives, or else another."""
    return data.title or otherwise


def _note(data: DataConfig, samples: Samples, recognised: fingerprints.Recognised) -> str:
    """In what the rows of the split "paper" are not the paper's."""
    if (data.source, data.split) != ("fer2013", "paper"):
        return ""
    if recognised.kind == fingerprints.IN_ORDER:
        return ""
    if recognised.kind == fingerprints.REORDERED:
        what = "FER2013's faces in another order than its CSV has"
    else:
        instead = fingerprints.FACES if len(samples) != fingerprints.FACES else 0
        what = (
            f"{len(samples)} faces" + f" instead of FER2013's {instead}" * bool(instead) + ", "
            f"{recognised.known} of them known to be FER2013's, pixel by pixel and by their emotion"
        )
    return f"{what}: the rows of this split are not the paper's"


def _digest_labels(samples: Samples) -> str:
    total = hashlib.sha256("\0".join(samples.classes).encode())
    arrays = [samples.labels]
    # Rows, by which predictions name samples, have gaps where some were set aside.
    if not np.array_equal(samples.rows, np.arange(len(samples))):
        arrays.append(samples.rows)
    arrays += [x for x in (samples.votes, samples.targets) if x is not None]
    for array in arrays:
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()[:16]


def _digest(column: np.ndarray) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(column), stream.BLOCK):  # it may lie on disk
        digest.update(np.ascontiguousarray(column[start : start + stream.BLOCK]).data)
    return digest.hexdigest()[:16]


def _class_weights(
    data: DataConfig, samples: Samples, parts: Mapping[str, np.ndarray]
) -> np.ndarray:
    if data.class_weights == "none":
        return np.ones(len(samples.classes))
    labels = samples.labels
    if data.class_weights == "train":
        labels = labels[parts["train"]]
    return splits.class_weights(labels, samples.classes)

"""The prepared data set read by random access, for data larger than memory; grain's loader on top.

`Records` is the one reader of the files. `Column` and `open_samples` make samples whose features
stay on disk; `chunks` reads such columns ahead of a training loop. Both give bit for bit what
`fermm.data.dataset.read` gives, in whatever order it is asked for.
"""

import contextlib
import dataclasses
import io
import json
import math
import os
import pathlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np

from fermm.data import processes
from fermm.errors import InputError, printable
from fermm.paths import expand
from fermm.samples import (
    DERIVED,
    SPLITS,
    UNKNOWN_SPLIT,
    Feature,
    Origin,
    Rejected,
    Samples,
    first_bad,
)

_FIELDS = {
    "label": Feature((), "int32", low=0),
    "official": Feature((), "int8", low=UNKNOWN_SPLIT, high=len(SPLITS) - 1),
    "row": Feature((), "int64", low=0),
}
QUARANTINE = "-quarantine"  # ends the identity of a data set for which rows were set aside
_METADATA = "metadata.json"  # TFDS's name for it
_VALUES = 1 << 28  # in one value of a feature, at most
BLOCK = 1024  # rows read at a time, 3 MB, so that few Python objects live at once


class Records:
    """The examples of a prepared data set, read by random access from its ArrayRecord files.

    A file is opened when it is first read, in each process anew: this may be pickled. Threads may
    read at the same time.

    Attributes:
        directory: where they are.
        described: the features of a sample, by name.
        classes: the names of the classes.
        identity: the features that tell whether two samples are duplicates.
        rejected: what of the source was set aside.
        origin: how the landmarks were found.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        """Reads what TFDS notes about the data set in `directory`, no example yet.

        Raises:
            InputError: the data set is damaged.
        """
        import tensorflow_datasets as tfds

        from fermm.data import tfds_builder

        directory = expand(directory)
        self.directory = os.fspath(directory)
        with self._damage():
            noted = json.loads(pathlib.Path(directory, _METADATA).read_text())
            self.described = _read_described(noted["features"])
            self.classes = tuple(printable(name) for name in noted["classes"])
            self.identity = tuple(printable(name) for name in noted["identity"])
            self.origin = Origin(*(printable(noted["origin"][name]) for name in Origin._fields))
            if not self.identity or not set(self.identity) <= self.described.keys():
                raise ValueError(f"{_METADATA} names no features that tell samples apart")
            expected = tfds_builder.features(self.described, self.classes)
            _check_features(pathlib.Path(directory, "features.json"), expected)
            # Of damage, TFDS says that TensorFlow lacks.
            with contextlib.redirect_stdout(io.StringIO()):
                builder = tfds.builder_from_directory(directory)
                source = builder.as_data_source(tfds_builder.SPLIT)
            if tuple(builder.info.features["label"].names) != self.classes:
                raise ValueError(f"{_METADATA} has other classes than label.labels.txt")
            # Below TFDS's decoding, which takes four times as long and cannot skip a field.
            self._source = source.data_source
            self._count = len(source)
            # Each has a record of its own, however well that is compressed.
            size = sum(file.stat().st_size for file in pathlib.Path(directory).iterdir())
            if self._count > size:
                raise ValueError(f"{self._count} samples in {size} bytes")
            identity = builder.builder_config.name if builder.builder_config else ""
            self.rejected = _read_rejected(noted, self._count, identity)

    def __len__(self) -> int:
        return self._count

    def describe(self, name: str) -> Feature:
        """The feature `name`, or the field `label`, `official` or `row`."""
        return _FIELDS.get(name) or self.described[name]

    def read(self, names: Sequence[str], rows: np.ndarray) -> dict[str, np.ndarray]:
        """The features or fields `names` of the examples `rows`, int (M,), in that order.

        Returns:
            For each name an array (M, ...) of dtype and shape as `describe` says.

        Raises:
            InputError: the data set is damaged: a file is missing, cut short or altered.
        """
        from tensorflow_datasets.proto import tf_example_pb2

        parse = tf_example_pb2.Example.FromString
        described = {name: self.describe(name) for name in names}
        columns = {
            name: np.empty((len(rows), *feature.shape), feature.dtype)
            for name, feature in described.items()
        }
        arrays = {k: _flat(v) for k, v in columns.items() if k not in _FIELDS}
        scalars = {k: v for k, v in columns.items() if k in _FIELDS}
        with self._damage():
            for start in range(0, len(rows), BLOCK):
                records = self._source.__getitems__(rows[start : start + BLOCK].tolist())
                for i, record in enumerate(records, start):
                    feature = parse(record).features.feature
                    for name, array in arrays.items():
                        values = np.frombuffer(feature[name].bytes_list.value[0], array.dtype)
                        array[i] = values.reshape(array.shape[1:])  # one value would be repeated
                    for name, scalar in scalars.items():
                        scalar[i] = feature[name].int64_list.value[0]
            self._check_values(columns)
        return columns

    def _check_values(self, columns: Mapping[str, np.ndarray]) -> None:
        for name, column in columns.items():
            feature = self.describe(name)
            if name == "label":
                feature = dataclasses.replace(feature, high=len(self.classes) - 1)
            if (at := first_bad(feature, column)) is not None:
                raise ValueError(f"a value of {name} is {column[at]}")

    def close(self) -> None:
        """Closes the files; another read opens them again.

        Raises:
            InputError: the data set is damaged, which some damage shows only here.
        """
        with self._damage():
            self._source.__exit__(None, None, None)

    @contextlib.contextmanager
    def _damage(self) -> Iterator[None]:
        # TFDS, array_record and protobuf have no exception in common. Every byte that matters is
        # under a checksum of the array_record format, so that damage does raise one.
        try:
            yield
        except MemoryError:
            raise
        except PermissionError as error:
            raise InputError(
                f"the prepared data set in {self.directory} cannot be read ({error.strerror}): "
                "see to the rights"
            ) from error
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"the prepared data set in {self.directory} is damaged ({reason}): "
                "delete that directory and run again"
            ) from error


def _flat(array: np.ndarray) -> np.ndarray:
    """The same (N, ...) memory as (N, M)."""
    return array.reshape(len(array), math.prod(array.shape[1:]))


def _read_described(noted: Mapping[str, Any]) -> dict[str, Feature]:
    """The features that the metadata describe.

    Raises:
        ValueError: one is described as what it cannot be.
    """
    described = {}
    for name, value in noted.items():
        feature = Feature.from_json(value)
        if math.prod(feature.shape) > _VALUES:
            raise ValueError(f"{_METADATA} describes {printable(name)} as larger than it can be")
        described[printable(name)] = feature
    return described


def _check_features(file: pathlib.Path, features: dict[str, Any]) -> None:
    # TFDS imports any module that this file names as that of a class, and importing one runs it.
    import tensorflow_datasets as tfds

    known = tfds.features.FeaturesDict(features).to_json()
    found = json.loads(file.read_text())
    if found != {"pythonClassName": known["type"], "featuresDict": known["content"]}:
        raise ValueError(f"{file.name} does not fit to {_METADATA}")


def _read_rejected(noted: dict[str, Any], total: int, identity: str) -> tuple[Rejected, ...]:
    """What the metadata say was set aside beside the `total` samples of the data set `identity`.

    The directory may have been renamed since.
    """
    rejected = tuple(Rejected(*map(printable, pair)) for pair in noted.get("rejected", ()))
    named = identity.endswith(QUARANTINE)
    if noted.get("rows", total) != total + len(rejected) or named != bool(rejected):
        raise ValueError(f"{total} samples and {len(rejected)} rejected are not all rows")
    return rejected


class Column:
    """One field of a prepared data set as a read-only array that stays on disk.

    `column[key]`, where `key` is an int, a slice or an int array (M,), reads these rows and is a
    NumPy array, equal to that of the same field in memory. `np.asarray(column)` reads all.

    Attributes:
        records: what it reads from; columns of the same records are read together by `chunks`.
        name: of the feature.
        rows: int64 (N,), which of the records are its rows; None for all of them.
        dtype, shape, ndim: as of an array.
    """

    def __init__(self, records: Records, name: str, rows: np.ndarray | None = None) -> None:
        self.records = records
        self.name = name
        self.rows = rows
        feature = records.describe(name)
        self.dtype = np.dtype(feature.dtype)
        self.shape = (len(records) if rows is None else len(rows), *feature.shape)
        self.ndim = len(self.shape)

    def at(self, rows: np.ndarray) -> "Column":
        """The rows `rows`, int (M,), as a column: none is read."""
        return Column(self.records, self.name, rows if self.rows is None else self.rows[rows])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        """The rows `key`.

        Raises:
            IndexError: a row is out of range, or `key` is of another kind.
            InputError: the data set is damaged.
        """
        if isinstance(key, slice):
            rows = np.arange(*key.indices(len(self)))
        else:
            rows = np.asarray(key)
            whole = np.issubdtype(rows.dtype, np.integer)
            if not whole or rows.ndim > 1 or isinstance(key, tuple):
                raise IndexError(f"rows are an int, a slice or an int array (M,), not {key!r}")
            rows = rows.astype(np.int64)
            outside = (rows < -len(self)) | (rows >= len(self))
            if outside.any():
                raise IndexError(f"row {rows[outside][0]} of {len(self)}")
            rows = np.where(rows < 0, rows + len(self), rows)
        rows = rows if self.rows is None else self.rows[rows]
        read = self.records.read([self.name], np.atleast_1d(rows))[self.name]
        return read if rows.ndim else read[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy  # what is read is a copy
        return self[:].astype(dtype or self.dtype, copy=False)


class DerivedColumn(Column):
    """A feature that is computed from columns on disk whenever rows are taken.

    Attributes:
        columns: what it is computed from, in the order in which its function takes them.
    """

    def __init__(self, name: str, columns: Sequence[Column]) -> None:
        feature = DERIVED[name].feature
        self.name, self.columns = name, columns
        self.dtype, self.shape = np.dtype(feature.dtype), (len(columns[0]), *feature.shape)
        self.ndim = len(self.shape)
        self.records, self.rows = columns[0].records, columns[0].rows

    def at(self, rows: np.ndarray) -> "DerivedColumn":
        """The rows `rows`, int (M,), as a column: none is read."""
        return DerivedColumn(self.name, [column.at(rows) for column in self.columns])

    def __getitem__(self, key: Any) -> np.ndarray:
        """The rows `key`, see `Column`."""
        one = np.ndim(key) == 0 and not isinstance(key, slice)
        values = [column[np.atleast_1d(key) if one else key] for column in self.columns]
        found = compute(self.name, values)
        return found[0] if one else found


def compute(name: str, values: Iterable[np.ndarray]) -> np.ndarray:
    """The derived feature `name` of N samples: (N, *shape).

    Args:
        name: a key of `fermm.samples.DERIVED`.
        values: arrays (N, ...), the features that it reads.

    Raises:
        InputError: the function returns something else than its feature says.
    """
    derived, values = DERIVED[name], list(values)
    found = np.asarray(derived.compute(*values))
    feature = derived.feature
    expected = (len(values[0]), *feature.shape)
    if found.shape != expected or found.dtype != feature.dtype:
        raise InputError(
            f"the function of the feature {name!r} returns {found.dtype} {found.shape} for "
            f"{len(values[0])} samples, needs {feature.dtype} {expected}"
        )
    if (at := first_bad(feature, found)) is not None:
        raise InputError(
            f"the function of the feature {name!r} returns {found[at]} for sample {at[0]} of the "
            f"{len(found)} that it was given, needs {feature.values}"
        )
    return found


def open_samples(directory: str | os.PathLike[str]) -> Samples:
    """A prepared data set whose features stay on disk.

    Args:
        directory: The one that holds its `dataset_info.json`.

    Returns:
        The samples in the order of the source. Features are `Column`s, the rest is in memory. The
        files are closed with the last of the columns.

    Raises:
        InputError: the data set is damaged: a file is missing, cut short or altered.
    """
    records = Records(directory)
    # For its readers a column is an array: they take rows of it.
    columns = {name: cast(np.ndarray, Column(records, name)) for name in records.described}
    return make_samples(records, columns)


def make_samples(records: Records, columns: Mapping[str, np.ndarray]) -> Samples:
    """The samples of a prepared data set, given their features.

    Raises:
        InputError: the data set is damaged.
    """
    known = records.read(tuple(_FIELDS), np.arange(len(records)))
    if len(np.unique(known["row"])) < len(records):
        raise InputError(
            f"the prepared data set in {records.directory} is damaged (a row is there twice): "
            "delete that directory and run again"
        )
    return Samples(
        columns,
        records.described,
        known["label"],
        records.classes,
        known["row"],
        known["official"],
        records.identity,
        rejected=records.rejected,
        origin=records.origin,
    )


def chunks(
    columns: Mapping[str, Column], rows: np.ndarray, size: int, *, workers: int = 0
) -> Generator[dict[str, np.ndarray], None, None]:
    """Reads rows ahead, in chunks and in order: `rows[:size]`, `rows[size : 2 * size]`, ...

    Training that goes on within an epoch passes the rows that are left of it. At most two chunks
    (with workers: about four for each) are in memory beside the one that is being used.

    Args:
        columns: By any names, columns of one data set, with the same rows of it.
        rows: int (M,), which rows, in this order.
        size: Rows in a chunk; the last may have fewer.
        workers: Processes that read; with 0, a thread of this one does. A process takes seconds to
            start and about 200 MB, since grain imports JAX in it. As always with processes started
            by spawn, a script that asks for them needs `if __name__ == "__main__":`.

    Yields:
        For each name an array (size, ...). Derived features are computed where the records are
        read; with workers in this process, since the others need not know the user's functions.

    Close the generator (`contextlib.closing`) if it may not be read to its end: that ends the
    processes. They also end with this process, however it ends.

    Raises:
        InputError: the data set is damaged, or a process died.
    """
    import grain
    from absl import flags

    if not flags.FLAGS.is_parsed():
        # grain 0.2 reads one of its flags as it starts a process, which absl takes for a mistake
        # in a program that has no flags. A later `app.run` parses them all the same.
        flags.FLAGS.mark_as_parsed()
    stored = {name: column for each in columns.values() for name, column in _stored(each).items()}
    chunks = _Chunks(stored if workers else columns, rows, size)
    dataset = grain.MapDataset.source(chunks).to_iter_dataset(
        grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    )
    # Through pipes: of grain's blocks of shared memory some were left over at the end, with a
    # warning (seen with grain 0.2.18), and a container has little of it.
    options = grain.experimental.DatasetOptions(min_shm_size=1 << 62)
    dataset = grain.experimental.WithOptionsIterDataset(dataset, options)
    dataset = dataset.mp_prefetch(
        grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1),
        worker_init_fn=_start_worker,
    )
    iterator = iter(dataset)

    def finished(chunk: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: _take(each, chunk) for name, each in columns.items()} if workers else chunk

    try:
        with processes.starting() if workers else contextlib.nullcontext():
            first = next(iterator, None)
        if first is not None:
            yield finished(first)
        yield from map(finished, iterator)
    except RuntimeError as error:
        if "terminated unexpectedly" not in str(error):
            raise
        raise InputError(
            "a process that reads the data died, most likely for want of memory: try again with "
            "config.data.workers=0"
        ) from error
    finally:
        iterator.close()


class _Chunks:
    """What grain reads: chunk `i` by its number."""

    def __init__(self, columns: Mapping[str, Column], rows: np.ndarray, size: int) -> None:
        self._columns = dict(columns)
        first = next(iter(columns.values()))
        self._records = first.records
        self._rows = rows if first.rows is None else first.rows[rows]
        self._size = size

    def __len__(self) -> int:
        return -(-len(self._rows) // self._size)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        rows = self._rows[i * self._size : (i + 1) * self._size]
        stored = {name for column in self._columns.values() for name in _stored(column)}
        read = self._records.read(sorted(stored), rows)
        return {name: _take(column, read) for name, column in self._columns.items()}


def _stored(column: Column) -> dict[str, Column]:
    """The columns on disk that a column is read from, by the names of their features."""
    if isinstance(column, DerivedColumn):
        return {name: found for each in column.columns for name, found in _stored(each).items()}
    return {column.name: column}


def _take(column: Column, read: Mapping[str, np.ndarray]) -> np.ndarray:
    """What a column has, given what was read of those that it is read from."""
    if isinstance(column, DerivedColumn):
        return compute(column.name, [_take(each, read) for each in column.columns])
    return read[column.name]


def _start_worker(index: int, count: int) -> None:
    del index, count
    processes.start_worker()

"""The prepared data set read by random access, for data larger than memory; grain's loader on top.

`Records` is the one reader of the files. `Column` and `open_faces` make `Faces` whose images and
landmarks stay on disk; `chunks` reads such columns ahead of a training loop. Both give bit for bit
what `fermm.data.dataset.read` gives, in whatever order it is asked for.
"""

import contextlib
import io
import json
import math
import os
import pathlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np

from fermm.data import processes
from fermm.data.faces import EMOTIONS, IMAGE_SIZE, POINTS, USAGES, Faces, Origin, Rejected
from fermm.errors import InputError, printable
from fermm.paths import expand

FIELDS: dict[str, tuple[type, tuple[int, ...]]] = {
    "image": (np.uint8, (IMAGE_SIZE, IMAGE_SIZE)),
    "landmarks": (np.float32, (POINTS, 2)),
    "label": (np.int32, ()),
    "usage": (np.int8, ()),
    "row": (np.int64, ()),
}
"""What each example holds, by name: dtype and shape."""

QUARANTINE = "-quarantine"  # ends the identity of a data set for which rows were set aside
_METADATA = "metadata.json"  # TFDS's name for it
BLOCK = 1024  # rows read at a time, 3 MB, so that few Python objects live at once


class Records:
    """The examples of a prepared data set, read by random access from its ArrayRecord files.

    A file is opened when it is first read, in each process anew: this may be pickled. Threads may
    read at the same time.

    Attributes:
        directory: where they are.
        rejected: what of the source was set aside.
        origin: how the landmarks came about.
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
            _check_features(pathlib.Path(directory, "features.json"), tfds_builder.features())
            # Of damage, TFDS says that TensorFlow lacks.
            with contextlib.redirect_stdout(io.StringIO()):
                builder = tfds.builder_from_directory(directory)
                source = builder.as_data_source(tfds_builder.SPLIT)
            # Below TFDS's decoding, which takes four times as long and cannot skip a field.
            self._source = source.data_source
            self._count = len(source)
            # Each has a record of its own, however well that is compressed.
            size = sum(file.stat().st_size for file in pathlib.Path(directory).iterdir())
            if self._count > size:
                raise ValueError(f"{self._count} faces in {size} bytes")
            identity = builder.builder_config.name if builder.builder_config else ""
            noted = json.loads(pathlib.Path(directory, _METADATA).read_text())
            self.rejected = _read_rejected(noted, self._count, identity)
            if "origin" not in noted:
                raise ValueError(f"{_METADATA} does not tell how its landmarks came about")
            self.origin = Origin(*(printable(noted["origin"][name]) for name in Origin._fields))

    def __len__(self) -> int:
        return self._count

    def read(self, names: Sequence[str], rows: np.ndarray) -> dict[str, np.ndarray]:
        """The fields `names` (keys of FIELDS) of the examples `rows`, int (M,), in that order.

        Returns:
            For each name an array (M, ...) of dtype and shape as in FIELDS.

        Raises:
            InputError: the data set is damaged: a file is missing, cut short or altered.
        """
        from tensorflow_datasets.proto import tf_example_pb2

        parse = tf_example_pb2.Example.FromString
        columns: dict[str, np.ndarray] = {
            name: np.empty((len(rows), *FIELDS[name][1]), FIELDS[name][0]) for name in names
        }
        arrays = {k: _flat(v) for k, v in columns.items() if v.ndim > 1}
        scalars = {k: v for k, v in columns.items() if v.ndim == 1}
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
            _check_values(columns)
        return columns

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


def _check_features(file: pathlib.Path, features: dict[str, Any]) -> None:
    # TFDS imports any module that this file names as that of a class, and importing one runs it.
    import tensorflow_datasets as tfds

    found = json.loads(file.read_text())
    quality = tfds.features.Tensor(shape=(), dtype=np.float32)  # of those that Beam prepares
    for expected in (features, features | {"quality": quality}):
        known = tfds.features.FeaturesDict(expected).to_json()
        if found == {"pythonClassName": known["type"], "featuresDict": known["content"]}:
            return
    raise ValueError(f"{file.name} is not that of a data set of faces")


def _check_values(columns: Mapping[str, np.ndarray]) -> None:
    limits = {"label": (0, len(EMOTIONS) - 1), "usage": (-1, len(USAGES) - 1), "row": (0, None)}
    for name, (low, high) in limits.items():
        found = columns.get(name, np.zeros(0))
        if (found < low).any() or (high is not None and (found > high).any()):
            raise ValueError(f"a {name} is {found.min()} or {found.max()}")
    if not np.isfinite(columns.get("landmarks", 0)).all():
        raise ValueError("a landmark is not a finite number")


def check_rows(rows: np.ndarray, directory: str | os.PathLike[str]) -> None:
    """Checks that each row of the source is there once.

    Raises:
        InputError: one is there twice.
    """
    if len(np.unique(rows)) < len(rows):
        raise InputError(
            f"the prepared data set in {directory} is damaged (a row is there twice): delete that "
            "directory and run again"
        )


def _read_rejected(noted: dict[str, Any], total: int, identity: str) -> tuple[Rejected, ...]:
    """What the metadata say was set aside beside the `total` faces of the data set `identity`.

    The directory may have been renamed since.
    """
    rejected = tuple(Rejected(*map(printable, pair)) for pair in noted.get("rejected", ()))
    named = identity.endswith(QUARANTINE)
    if noted.get("rows", total) != total + len(rejected) or named != bool(rejected):
        raise ValueError(f"{total} faces and {len(rejected)} rejected are not all rows")
    return rejected


class Column:
    """One field of a prepared data set as a read-only array that stays on disk.

    `column[key]`, where `key` is an int, a slice or an int array (M,), reads these rows and is a
    NumPy array, equal to that of the same field in memory. `np.asarray(column)` reads all.

    Attributes:
        records: what it reads from; columns of the same records are read together by `chunks`.
        name: key of FIELDS.
        rows: int64 (N,), which of the records are its rows; None for all of them.
        dtype, shape, ndim: as of an array.
    """

    def __init__(self, records: Records, name: str, rows: np.ndarray | None = None) -> None:
        self.records = records
        self.name = name
        self.rows = rows
        self.dtype = np.dtype(FIELDS[name][0])
        self.shape = (len(records) if rows is None else len(rows), *FIELDS[name][1])
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


def open_faces(directory: str | os.PathLike[str]) -> Faces:
    """A prepared data set whose images and landmarks stay on disk.

    Args:
        directory: The one that holds its `dataset_info.json`.

    Returns:
        The faces in the order of the source; `images` and `landmarks` are `Column`s, the rest is
        in memory. The files are closed with the last of the columns.

    Raises:
        InputError: the data set is damaged: a file is missing, cut short or altered.
    """
    records = Records(directory)
    known = records.read(("label", "usage", "row"), np.arange(len(records)))
    check_rows(known["row"], directory)
    # For its readers a column is an array: they take rows of it.
    images = cast(np.ndarray, Column(records, "image"))
    landmarks = cast(np.ndarray, Column(records, "landmarks"))
    return Faces(
        images,
        known["label"],
        known["usage"],
        known["row"],
        landmarks,
        records.rejected,
        records.origin,
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
        For each name an array (size, ...).

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
    dataset = grain.MapDataset.source(_Chunks(columns, rows, size)).to_iter_dataset(
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
    try:
        with processes.starting() if workers else contextlib.nullcontext():
            first = next(iterator, None)
        if first is not None:
            yield first
        yield from iterator
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
        self._names = {name: column.name for name, column in columns.items()}
        first = next(iter(columns.values()))
        self._records = first.records
        self._rows = rows if first.rows is None else first.rows[rows]
        self._size = size

    def __len__(self) -> int:
        return -(-len(self._rows) // self._size)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        rows = self._rows[i * self._size : (i + 1) * self._size]
        read = self._records.read(list(self._names.values()), rows)
        return {name: read[field] for name, field in self._names.items()}


def _start_worker(index: int, count: int) -> None:
    del index, count
    processes.start_worker()

"""Prepared samples, kept as a TFDS data set, so that FER2013's landmarks are found once.

A prepared data set lies in `CACHE_DIR/prepared_samples/IDENTITY/VERSION`, where IDENTITY names the
content of the source and how the landmarks were found: another source, method or predictor (its
SHA-256) is another directory. If rows were set aside, IDENTITY says so, and the data set holds
which; one without is the same for both values of `on_error`. TFDS writes aside and renames, so that
the directory exists only complete.
"""

import contextlib
import dataclasses
import hashlib
import io
import os
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np

from fermm.data import fer2013, stream
from fermm.data import landmarks as landmarks_lib
from fermm.errors import InputError
from fermm.faces import LANDMARKS
from fermm.paths import CACHE_DIR, bring_all_to_disk, bring_to_disk, expand
from fermm.samples import Origin, Samples

Report = Callable[[str, int, int], None]
"""Called with the stage ("reading", "landmarks", "writing"), what of it is done, and its total."""

_STALE = 3600  # seconds; TFDS writes for a few, so an older unfinished directory is abandoned


def is_prepared(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is the directory of a prepared data set."""
    return (expand(path) / "dataset_info.json").is_file()


def is_landmark_file(landmarks: str) -> bool:
    """Whether `landmarks` names a landmark CSV, and not a method of finding them."""
    return landmarks.lower().endswith(".csv")


def identify(
    path: str | os.PathLike[str],
    landmarks: str,
    predictor: str | os.PathLike[str] | None,
    cache_dir: str | os.PathLike[str],
) -> str:
    """Names the content of a source and how its landmarks come about, as `prepare` does.

    Raises:
        InputError: a file is missing or cannot be read.
    """
    return _identify(path, landmarks, _origin(landmarks, predictor, cache_dir))


def _identify(path: str | os.PathLike[str], landmarks: str, origin: Origin) -> str:
    """The name of this data's directory: the source's content, and how landmarks are found."""
    if is_landmark_file(landmarks):
        found_by = f"csv-{digest(landmarks)[:16]}"
    else:
        found_by = f"{origin.method}-{origin.predictor[:16]}"
    return f"{fer2013.digest(path)[:16]}-{found_by}"


def _origin(
    landmarks: str,
    predictor: str | os.PathLike[str] | None,
    cache_dir: str | os.PathLike[str],
) -> Origin:
    """How the landmarks of the run come about.

    Without a path and without the package, the predictor is the published one: what it found may be
    there already.
    """
    if is_landmark_file(landmarks):
        return Origin()
    landmarks_lib.find_method(landmarks)
    try:
        found = landmarks_lib.find_predictor(predictor, cache_dir=cache_dir)
    except InputError:
        if predictor is not None:
            raise
        return Origin(landmarks, landmarks_lib.PUBLISHED_PREDICTOR)
    return Origin(landmarks, landmarks_lib.predictor_digest(found))


def _check_origin(
    path: str | os.PathLike[str],
    found: Origin,
    landmarks: str,
    predictor: str | os.PathLike[str] | None,
    cache_dir: str | os.PathLike[str],
) -> None:
    """That a prepared data set, given as it is, has the landmarks that the config asks for."""
    if is_landmark_file(landmarks):
        raise InputError(
            f"{path}: a prepared data set, which has landmarks, and config.data.landmarks names "
            f"others, {landmarks}: give the source of the data set as config.data.path"
        )
    if found.method not in ("", landmarks):  # "": from a file
        raise InputError(
            f"{path}: its landmarks were found by the method {found.method!r}, and "
            f"config.data.landmarks is {landmarks!r}: set it to {found.method!r}"
        )
    if predictor is None:
        return  # no certain one was asked for, and checkpoints note the one that it was
    wanted = _origin(landmarks, predictor, cache_dir).predictor
    if wanted != found.predictor:
        raise InputError(
            f"{path}: its landmarks were not found by {predictor} (SHA-256 {wanted}), but by "
            f"{found.predictor or 'no predictor'}: leave config.data.predictor empty, or give the "
            "source of the data set as config.data.path"
        )


def prepare(
    path: str | os.PathLike[str],
    *,
    cache_dir: str | os.PathLike[str] = CACHE_DIR,
    landmarks: str = "paper",
    predictor: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    report: Report | None = None,
    on_error: str = "stop",
    streaming: bool = False,
) -> Samples:
    """The faces of a FER2013 source with their landmarks, prepared once and then read.

    Args:
        path: What `fermm.data.fer2013.read` takes; or the directory of a prepared data set, as
            `fermm.data.beam` makes it, which is read as it is; its landmarks must have been found
            as `landmarks` and `predictor`, if given, say.
        cache_dir: Directory that holds the prepared data sets; it is made if need be.
        landmarks: A method of `fermm.data.landmarks.extract`, or the path of a landmark CSV in
            the paper's format (its name ends in .csv), whose rows are those of the source, with
            one for each that is set aside.
        predictor: Path of dlib's predictor, as `extract` takes it.
        workers: Processes that extract landmarks; None is one for each CPU.
        report: Told of progress; None shows a bar on stderr, or a line for each stage where
            stderr is no terminal. Not called if the data set is there already.
        on_error: What a bad row does, as `fermm.data.fer2013.read` takes it.
        streaming: Leave images and landmarks on disk, as `fermm.data.stream.open_samples` does. The
            first time they are held in memory all the same, until they are written.

    Returns:
        The faces in the order of the source, with landmarks float32 (N, 68, 2), and what was set
        aside.

    Raises:
        InputError: bad source, landmark CSV or predictor; the two disagree in a row; `cache_dir`
            cannot be written; or the prepared data set is damaged.
    """
    path = expand(path)
    if is_landmark_file(landmarks):
        landmarks = str(expand(landmarks))
    open_ = stream.open_samples if streaming else read
    if is_prepared(path):
        samples = open_(path)
        _check_origin(path, samples.origin, landmarks, predictor, cache_dir)
        if samples.rejected and on_error != "quarantine":
            raise InputError(
                f"{path}: rows of its source were set aside, the first is "
                f"{samples.rejected[0].place}: "
                "set config.data.on_error to 'quarantine' to go on without them"
            )
        return samples
    origin = _origin(landmarks, predictor, cache_dir)
    identity = _identify(path, landmarks, origin)
    root = expand(cache_dir)
    for known in (identity, identity + stream.QUARANTINE)[: 1 + (on_error == "quarantine")]:
        if _directory(root, known).is_dir():
            return open_(_directory(root, known))

    # What can fail cheaply fails before the minute's work, not after it.
    _check_writable(root)
    landmark_file = is_landmark_file(landmarks)
    if not landmark_file:
        predictor = landmarks_lib.find_predictor(predictor, cache_dir=root)
    with contextlib.closing(_Bar()) as bar:
        tell = report or bar
        samples = fer2013.read(path, lambda done, total: tell("reading", done, total), on_error)
        if samples.rejected:
            identity += stream.QUARANTINE
        if landmark_file:
            tell("landmarks", 0, len(samples))
            found = _read_landmarks(landmarks, samples)
            tell("landmarks", len(samples), len(samples))
        else:
            found = landmarks_lib.extract(
                samples.features["images"],
                landmarks,
                predictor=predictor,
                sha256=origin.predictor,
                workers=workers or os.cpu_count() or 1,
                progress=lambda done, total: tell("landmarks", done, total),
            )
        samples = samples.with_feature("landmarks", LANDMARKS, found)
        samples = dataclasses.replace(samples, origin=origin)
        tell("writing", 0, len(samples))
        directory = write(samples, root, identity)
        tell("writing", len(samples), len(samples))
    return open_(directory) if streaming else samples


def read(directory: str | os.PathLike[str]) -> Samples:
    """Reads a prepared data set.

    Args:
        directory: The one that holds its `dataset_info.json`.

    Returns:
        The samples in the order of the source, with all their features, and what of the source was
        set aside.

    Raises:
        InputError: the data set is damaged: a file is missing, cut short or altered.
    """
    with contextlib.closing(stream.Records(directory)) as records:
        columns = records.read(tuple(records.described), np.arange(len(records)))
        return stream.make_samples(records, columns)


def _read_landmarks(path: str, samples: Samples) -> np.ndarray:
    """The landmarks of samples from a CSV, whose labels must be theirs: float32 (N, 68, 2).

    The CSV has a row for each row of the source, those included that were set aside. If it lacked
    them, its rows would belong to other faces as soon as something else is set aside.
    """
    landmarks, labels = landmarks_lib.read_csv(path)
    count = len(samples) + len(samples.rejected)
    if len(labels) != count:
        aside = f" ({len(samples.rejected)} of them set aside)" if samples.rejected else ""
        raise InputError(
            f"{path}: {len(labels)} rows of landmarks for {count} faces{aside}: "
            "use the CSV that was made from this source"
        )
    landmarks, labels = landmarks[samples.rows], labels[samples.rows]
    differs = np.flatnonzero(labels != samples.labels)
    if len(differs):
        at = differs[0]
        raise InputError(
            f"{path}: row {samples.rows[at]} (the first is 0) has emotion {labels[at]}, "
            f"but the face there has {samples.labels[at]}: use the CSV that was made from this "
            "source, in its order"
        )
    return landmarks


def write(samples: Samples, root: str | os.PathLike[str], identity: str) -> pathlib.Path:
    """Writes samples as a prepared data set, unless there is one of that identity.

    Args:
        samples: with any features, which may stay on disk: rows are taken in blocks. Votes and
            targets have no place in a prepared data set.
        root: Directory that holds the prepared data sets.
        identity: Names this one.

    Returns:
        The directory that `read` takes.

    Raises:
        InputError: it cannot be written, the samples do not fit together, or they have what has no
            place in it.
    """
    if samples.votes is not None or samples.targets is not None:
        raise InputError(
            "a prepared data set holds no votes and no targets: write the samples without them, "
            "and add them when the data set has been read"
        )
    samples.check()
    import tensorflow_datasets as tfds

    from fermm.data import tfds_builder

    root = expand(root)
    directory = _directory(root, identity)
    for unfinished in directory.parent.glob("incomplete.*"):  # left by a build that was killed
        if unfinished.stat().st_mtime < time.time() - _STALE:
            shutil.rmtree(unfinished, ignore_errors=True)
    try:
        # TFDS makes a directory for downloads, of which there are none.
        with _quiet(), tempfile.TemporaryDirectory() as downloads:
            tfds_builder.PreparedSamples(
                samples=samples,
                config=tfds.core.BuilderConfig(
                    name=identity, description="digest of the source, origin of the landmarks"
                ),
                data_dir=root,
            ).download_and_prepare(download_dir=downloads)
    except (OSError, RuntimeError) as error:  # array_record raises the latter on a full disk
        # The rename fails if another process has finished the same data set meanwhile.
        if not directory.is_dir():
            raise InputError(
                f"cannot write the prepared data set to {directory} ({_first_line(error)}): "
                "make room or set config.data.cache_dir"
            ) from error
    bring_all_to_disk(directory)
    bring_to_disk(directory.parent)
    return directory


def _directory(root: str | os.PathLike[str], identity: str) -> pathlib.Path:
    from fermm.data import tfds_builder

    builder = tfds_builder.PreparedSamples
    return pathlib.Path(root) / builder.name / identity / str(builder.VERSION)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TFDS's bars, prints and log lines off the terminal; the caller reports progress."""
    import tensorflow_datasets as tfds
    from absl import logging
    from tensorflow_datasets.core.utils import tqdm_utils

    verbosity, bars = logging.get_verbosity(), getattr(tqdm_utils, "_active", True)
    logging.set_verbosity(logging.ERROR)
    tfds.display_progress_bar(False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.display_progress_bar(bars)
        logging.set_verbosity(verbosity)


def _check_writable(root: pathlib.Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise InputError(
            f"cannot write to the cache directory {root} ({error.strerror}): "
            "set config.data.cache_dir to one that can be written"
        ) from error


def digest(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with open(expand(path), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): check the path") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


class _Bar:
    """A `Report`: a bar for each stage on stderr, or only its name where that is no terminal."""

    def __init__(self) -> None:
        self._stage = ""
        self._bar = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        import tqdm

        if stage != self._stage:
            self.close()
            self._stage = stage
            if sys.stderr.isatty():
                self._bar = tqdm.tqdm(desc=stage, total=total, unit_scale=True, file=sys.stderr)
            else:
                print(f"preparing the data: {stage}", file=sys.stderr, flush=True)
        if self._bar is not None:
            self._bar.total = total
            self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

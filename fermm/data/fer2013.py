"""Reads FER2013 in the forms in which people hold it: CSV, image folders, a zip of the folders.

FER2013 is the data set of Goodfellow et al., "Challenges in representation learning: a report on
three machine learning contests", 2013, https://arxiv.org/abs/1307.0414: 35,887 grey 48x48 faces.
"""

import collections
import contextlib
import difflib
import hashlib
import io
import itertools
import os
import pathlib
import re
import stat
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, NamedTuple, NoReturn

import numpy as np
from PIL import Image

from fermm.data.faces import EMOTIONS, IMAGE_SIZE, UNKNOWN_USAGE, USAGES, Faces, Rejected
from fermm.errors import InputError, printable

Progress = Callable[[int, int], None]
ON_ERROR = ("stop", "quarantine")

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
_REJECTED_LIMIT = 100_000  # three times FER2013; a file of empty rows has any number

_SPLITS = ("train", "test")
_EMOTION_FOLDERS = {name: i for i, name in enumerate(EMOTIONS)} | {
    str(i): i for i in range(len(EMOTIONS))
}
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
_NUMBERED = re.compile(rf"({'|'.join(USAGES)})_([0-9]{{1,18}})\.")
_PICTURE_LIMIT = 1 << 20  # bytes; 48x48 pixels need 3 kB
_DEPTH_LIMIT = 16  # folders below `train`; os.walk recurses
_OUTSIDE = re.compile(r"[/\\]|[A-Za-z]:|(.*[/\\])?\.\.([/\\]|$)", re.DOTALL)
# zipfile unpacks these within bounds; of bzip2 and lzma it unpacks all that it has read.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read(
    path: str | os.PathLike[str], progress: Progress | None = None, on_error: str = "stop"
) -> Faces:
    """Reads FER2013 from a CSV file, a directory of image folders, or a zip of such a directory.

    A CSV has a header that names the columns `emotion`, `pixels` and `Usage`, in any order; its
    faces keep the order of its rows. The folders are `train/<emotion>/` and `test/<emotion>/`;
    their faces are ordered by usage and number when all file names tell these
    (`PublicTest_45.png`), and else by relative path, with an unknown usage.

    Args:
        path: the CSV file, the directory that holds `train` and `test`, or the zip.
        progress: called with what is done and what there is in total: bytes (CSV) or pictures.
        on_error: "stop" refuses the source for its first bad row or picture; "quarantine" sets
            such a one aside and goes on. It keeps its number among the rows.

    Returns:
        N faces without landmarks: images uint8 (N, 48, 48), labels int32 (N,), usage int8 (N,),
        rows int64 (N,), 0..N-1 unless some were set aside; and those that were.

    Raises:
        InputError: the path cannot be read or holds anything else; with "quarantine", if that
            concerns the source as a whole, or if none of its faces is good.
    """
    path = pathlib.Path(path)
    with _os_errors(path):
        _check(path)
        if path.is_dir():
            return read_pictures(path, list_pictures(path, on_error), progress, on_error)
        if path.suffix.lower() == ".zip" or zipfile.is_zipfile(path):
            return _read_zip(path, progress, on_error)
        return _read_csv(path, progress, on_error)


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
        for name in sorted(picture.member for picture in list_pictures(path, "quarantine")):
            content = _sha256(path / name) if (path / name).is_file() else b""
            total.update(os.fsencode(name) + b"\0" + content)
        return total.hexdigest()


def _sha256(path: pathlib.Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


# --- CSV ---------------------------------------------------------------------------------------


def _read_csv(path: pathlib.Path, progress: Progress | None, on_error: str) -> Faces:
    images = bytearray()
    labels: list[int] = []
    usage: list[int] = []
    rejected: dict[int, Rejected] = {}
    with path.open("rb", _BUFFER) as file:
        size = os.fstat(file.fileno()).st_size
        columns = _read_header(path, file.readline(_LINE_LIMIT))
        for block in _blocks(file):
            # Of one that was cut it is not known whether it is blank.
            lines = [
                (number, line)
                for number, line in block
                if len(line) == _LINE_LIMIT or not line.isspace()
            ]
            rows = _parse_rows([line for _, line in lines], columns)
            if rows:
                images += rows[0]
                labels += rows[1]
                usage += rows[2]
            else:
                for number, line in lines:
                    row = _parse_row(line, columns)
                    if row is None:
                        at, reason = len(labels) + len(rejected), _explain_row(line, columns)
                        if on_error == "stop":
                            raise _error(f"{path}, line {number} (row {at + 1})", reason)
                        _set_aside(path, rejected, at, f"line {number}", reason)
                        continue
                    images += row[0]
                    labels.append(row[1])
                    usage.append(row[2])
            if progress:
                progress(file.tell(), size)
    if not labels and not rejected:
        raise _error(path, "has a header but no rows; fetch the file again")
    pixels = np.frombuffer(images, np.uint8).reshape(-1, IMAGE_SIZE, IMAGE_SIZE)
    return _faces(path, pixels, labels, usage, rejected)


def _blocks(file: BinaryIO) -> Iterator[list[tuple[int, bytes]]]:
    """The lines below the header with their numbers, at most _LINES_PER_BLOCK at a time.

    Of a line of _LINE_LIMIT bytes or more its beginning is given, as the last of its block: a
    caller who stops there does not have the rest read.
    """
    block = []
    for number in itertools.count(2):
        line = file.readline(_LINE_LIMIT)
        if line:
            block.append((number, line))
        endless = len(line) == _LINE_LIMIT and not line.endswith(b"\n")
        if block and (not line or endless or len(block) == _LINES_PER_BLOCK):
            yield block
            block = []
        if not line:
            return
        while endless:
            line = file.readline(_LINE_LIMIT)
            endless = len(line) == _LINE_LIMIT and not line.endswith(b"\n")


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
    problem: str = ""  # with its name; its label means nothing then


class _BadPicture(Exception):
    """What is wrong with a picture."""


def read_pictures(
    path: str | os.PathLike[str],
    pictures: list[Picture],
    progress: Progress | None = None,
    on_error: str = "stop",
) -> Faces:
    """`read` for some of the pictures that `list_pictures` lists of the directory `path`."""
    path = pathlib.Path(path)

    def load(member: str) -> bytes:
        if not (path / member).is_file():
            raise _BadPicture("is not a file, but a broken link or a device; remove it")
        with (path / member).open("rb") as file:
            return file.read(_PICTURE_LIMIT + 1)

    with _os_errors(path):
        return _decode_all(path, pictures, load, progress, on_error)


def list_pictures(path: str | os.PathLike[str], on_error: str = "stop") -> list[Picture]:
    """The pictures of a directory of image folders, in the order of `read`.

    Raises:
        InputError: the path cannot be read or holds anything else.
    """
    path = pathlib.Path(path)
    with _os_errors(path):
        return _list_folders(path, on_error)


def _list_folders(path: pathlib.Path, on_error: str) -> list[Picture]:
    # Only `train` and `test` are walked: the path may be a home directory given by mistake.
    top = sorted(os.listdir(path))
    members = [
        pathlib.Path(folder, file).relative_to(path).as_posix()
        for split in top
        if split.lower() in _SPLITS and (path / split).is_dir()
        for folder, files in _walk(path / split)
        for file in files
    ]
    return _sort_pictures(path, members, top, on_error)


def _walk(split: pathlib.Path) -> Iterator[tuple[str, list[str]]]:
    """Folders and their files in `split`, which may be a link, as may the folders in it.

    No picture lies deeper, where links could lead in circles, or fan out without end.
    """

    def refuse(error: OSError) -> NoReturn:
        raise error

    tops = [str(split)]
    for top in tops:
        for folder, below, files in os.walk(top, onerror=refuse):
            yield folder, files
            if folder.removeprefix(top).count(os.sep) > _DEPTH_LIMIT:
                raise _error(folder, "lies too deep for train/<emotion>/; remove it")
            for link in (os.path.join(folder, name) for name in below if not _hidden(name)):
                if os.path.islink(link) and folder == str(split):
                    tops.append(link)
                elif os.path.islink(link):
                    raise _error(link, "is a link to a folder below train/<emotion>/; remove it")


def _read_zip(path: pathlib.Path, progress: Progress | None, on_error: str) -> Faces:
    with path.open("rb") as file:
        # zipfile and the decompressors below it raise a dozen types for damaged bytes.
        try:
            archive = zipfile.ZipFile(file)
        except Exception as error:
            raise _error(path, f"is not a zip archive; {_AGAIN}") from error
        infos = {info.filename: info for info in archive.infolist()}
        for name in infos:
            # Nothing is ever unpacked to disk; but who made this meant it to be, and to do harm.
            if _OUTSIDE.match(name):
                raise _error(f"{path}, {name}", "leads out of the archive; fetch another one")

        def load(member: str) -> bytes:
            info = infos[member]
            if info.flag_bits & 1:
                raise _BadPicture("is encrypted; make a zip without a password")
            if stat.S_ISLNK(info.external_attr >> 16):
                raise _BadPicture("is a link; make a zip of the pictures themselves")
            if info.compress_type not in _METHODS:
                raise _BadPicture(
                    f"is packed by method {info.compress_type}, needs deflate; make the zip again"
                )
            try:
                with archive.open(info) as picture:
                    return picture.read(_PICTURE_LIMIT + 1)
            except Exception as error:
                raise _BadPicture(f"cannot be unpacked; {_AGAIN}") from error

        top = sorted({name.split("/")[0] for name in infos})
        members = [info.filename for info in archive.infolist() if not info.filename.endswith("/")]
        pictures = _sort_pictures(path, members, top, on_error)
        return _decode_all(path, pictures, load, progress, on_error)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _sort_pictures(
    path: pathlib.Path, members: Iterable[str], top: list[str], on_error: str
) -> list[Picture]:
    """The pictures of FER2013 among `members`, in the order of the faces.

    Those that will be set aside are among them, so that the others keep their numbers.
    """
    pictures: list[Picture] = []
    roots = set()
    for member, count in collections.Counter(members).items():
        file = pathlib.PurePosixPath(member)
        start = next((i for i, part in enumerate(file.parts) if part.lower() in _SPLITS), None)
        if any(map(_hidden, file.parts)) or start is None or file.suffix.lower() not in _SUFFIXES:
            continue
        problem = ""
        folder = file.parts[-2] if start < len(file.parts) - 1 else ""
        label = _EMOTION_FOLDERS.get(folder.lower())
        if len(file.parts) != start + 3:
            problem = "needs to lie in train/<emotion>/ or test/<emotion>/; move it"
        elif label is None:
            needed = ", ".join(EMOTIONS) + _nearest(folder, EMOTIONS)
            problem = f"is in emotion folder {_quote(folder)}, needs one of {needed}"
        elif count > 1:
            problem = f"stands {count} times in the archive; keep one of them"
        if problem and on_error == "stop":
            raise _error(f"{path}, {member}", problem)
        roots.add("/".join(file.parts[:start]))
        match = _NUMBERED.match(file.name)
        usage, number = (USAGES.index(match[1]), int(match[2])) if match else (UNKNOWN_USAGE, 0)
        name = "/".join(file.parts[start:])
        label = -1 if label is None else label
        pictures += [Picture(usage, number, name, label, member, problem)] * count
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
    on_error: str,
) -> Faces:
    images = np.empty((len(pictures), IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    good: list[Picture] = []
    rejected: dict[int, Rejected] = {}
    for i, picture in enumerate(pictures):
        try:
            if picture.problem:
                raise _BadPicture(picture.problem)
            images[len(good)] = _decode(load(picture.member))
            good.append(picture)
        except _BadPicture as error:
            if on_error == "stop":
                raise _error(f"{path}, {picture.member}", str(error)) from error
            _set_aside(path, rejected, i, picture.member, str(error))
        if progress:
            progress(i + 1, len(pictures))
    labels, usage = [p.label for p in good], [p.usage for p in good]
    return _faces(path, images[: len(good)], labels, usage, rejected)


def _decode(data: bytes) -> np.ndarray:
    """The grey levels, uint8 (48, 48), of a picture file."""
    if len(data) > _PICTURE_LIMIT:
        raise _BadPicture(f"has over {_PICTURE_LIMIT} bytes, is not a 48x48 picture; remove it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the sizes Pillow warns of are refused below
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "BMP")) as image:
                if image.size != (IMAGE_SIZE, IMAGE_SIZE):
                    size = "x".join(map(str, image.size))
                    raise _BadPicture(f"has {size} pixels, needs 48x48; use FER2013's original")
                if image.mode != "L":
                    raise _BadPicture(f"has mode {image.mode}, needs L; convert it to 8-bit grey")
                return np.asarray(image)
    except _BadPicture:
        raise
    except Exception as error:  # Pillow raises a dozen types for damaged bytes
        raise _BadPicture(f"is not an intact PNG, JPEG or BMP picture; {_AGAIN}") from error


# --- Both ----------------------------------------------------------------------------------------


def _faces(
    path: pathlib.Path,
    images: np.ndarray,
    labels: list[int],
    usage: list[int],
    rejected: dict[int, Rejected],
) -> Faces:
    if not labels:
        first = next(iter(rejected.values()))
        raise _error(
            f"{path}, {first.place}",
            f"{first.reason} (and none of the {len(rejected)} rows or pictures is good)",
        )
    rows = np.delete(np.arange(len(labels) + len(rejected), dtype=np.int64), [*rejected])
    return Faces(
        images,
        np.array(labels, np.int32),
        np.array(usage, np.int8),
        rows,
        rejected=tuple(rejected.values()),
    )


def _set_aside(
    path: pathlib.Path, rejected: dict[int, Rejected], row: int, place: str, reason: str
) -> None:
    if len(rejected) == _REJECTED_LIMIT:
        raise _error(path, f"has over {_REJECTED_LIMIT} bad rows, is not FER2013. {_FORMS}")
    rejected[row] = Rejected(printable(place), printable(reason))


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
    return InputError(f"{where}: {problem}")


def _quote(text: str | bytes) -> str:
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    return f"'{text}'" if len(text) <= 80 else f"'{text[:80]}...'"


def _nearest(word: str, known: Iterable[str]) -> str:
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), names, n=1)
    return f"; the nearest is {_quote(names[close[0]])}" if close else ""

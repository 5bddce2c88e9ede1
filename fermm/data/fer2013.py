"""Reads FER2013 in the forms in which people hold it: CSV, image folders, a zip of either.

FER2013 is the data set of Goodfellow et al., "Challenges in representation learning: a report on
three machine learning contests", 2013, https://arxiv.org/abs/1307.0414: 35,887 grey 48x48 faces.
Other faces are read in the same forms; whether these are FER2013's says `fermm.data.fingerprints`.
"""

import collections
import contextlib
import difflib
import functools
import hashlib
import io
import itertools
import os
import pathlib
import re
import stat
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, NamedTuple, NoReturn

import numpy as np
from PIL import Image

from fermm.errors import InputError, printable
from fermm.faces import EMOTIONS, IMAGE_SIZE, face_samples
from fermm.paths import expand
from fermm.samples import UNKNOWN_SPLIT, Rejected, Samples

USAGES = ("Training", "PublicTest", "PrivateTest")
"""What FER2013 calls its splits for training, validation and test."""

EMOTION_WORDS = {name: i for i, name in enumerate(EMOTIONS)} | {
    **dict.fromkeys(("anger", "angrily"), 0),
    **dict.fromkeys(("disgusted", "disgustedly"), 1),
    **dict.fromkeys(("fearful", "fearfully", "afraid", "scared"), 2),
    **dict.fromkeys(("happiness", "happily"), 3),
    **dict.fromkeys(("sadness", "sadly"), 4),
    **dict.fromkeys(("surprised", "surprising", "suprise"), 5),  # the last is a frequent misprint
    **dict.fromkeys(("neutrality", "neutrally"), 6),
}
"""The words, in lower case, by which data sets call the emotions, and the label of each."""

Progress = Callable[[int, int], None]
ON_ERROR = ("stop", "quarantine")

_FORMS = (
    "FER2013 is read from its CSV, from image folders, or from a folder or zip that holds one of "
    "these"
)
_AGAIN = "the file is damaged, fetch it again"
_ORDER = ", ".join(f"{i} {name}" for i, name in enumerate(EMOTIONS))

_PIXELS = IMAGE_SIZE**2
_BLANKS = b" " * (_PIXELS - 1)
_CSV_NAMES = ("fer2013.csv", "icml_face_data.csv")  # by which a CSV is found in a folder or zip
_SEPARATORS = (b",", b";", b"\t")
_NUMBER = re.compile(r"0*([0-9]{1,18})(?:\.0*)?")  # a label: an integer, or one as a float
_EMOTION_CODES = {str(i).encode(): i for i in range(len(EMOTIONS))}
_USAGE_CODES = {name.encode(): i for i, name in enumerate(USAGES)}
_SURPLUS = 100  # fields more than columns, from which on they are pixels, whatever they hold
_LINE_LIMIT = 1 << 16  # bytes; a row has at most 9.3 kB, and a file without line ends any number
_LINES_PER_BLOCK = 32  # few enough for their numbers to stay in the processor's cache
_BUFFER = 1 << 18  # bytes; the default is less than a row
_REJECTED_LIMIT = 100_000  # three times FER2013; a file of empty rows has any number
_CSV_LIMIT = 1 << 31  # bytes that a CSV in a zip may unpack to, seven times FER2013's
_FEW = 0.01  # share of rows whose numbers are none of FER2013's that may be slips

_TRAINING, _PUBLIC, _PRIVATE = range(len(USAGES))
_SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), _TRAINING),
    **dict.fromkeys(("val", "valid", "validation", "dev", "publictest"), _PUBLIC),
    **dict.fromkeys(("test", "testing", "privatetest"), _PRIVATE),
}
_PLACES = "train/<emotion>/, val/<emotion>/ or test/<emotion>/"
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
_ALSO_READ = (".jpe", ".jfif", ".dib")  # the same kinds of pictures by rarer names
_OTHER_PICTURES = (
    *(".apng", ".avif", ".exr", ".gif", ".heic", ".heif", ".ico", ".j2k", ".jp2", ".jxl", ".pbm"),
    *(".pcx", ".pfm", ".pgm", ".pnm", ".ppm", ".psd", ".raw", ".sgi", ".svg", ".tga", ".tif"),
    *(".tiff", ".webp", ".xbm", ".xpm"),
)
_SYSTEM_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")  # of Windows and macOS
_NUMBERED = re.compile(rf"({'|'.join(USAGES)})_([0-9]{{1,18}})\.")
_PICTURE_LIMIT = 1 << 20  # bytes; 48x48 pixels need 3 kB
_DEPTH_LIMIT = 16  # folders below `train`; os.walk recurses
_OUTSIDE = re.compile(r"[/\\]|[A-Za-z]:|(.*[/\\])?\.\.([/\\]|$)", re.DOTALL)
# zipfile unpacks these within bounds; of bzip2 and lzma it unpacks all that it has read.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read(
    path: str | os.PathLike[str], progress: Progress | None = None, on_error: str = "stop"
) -> Samples:
    """Reads faces from a CSV file, image folders, or a folder or zip that holds one of these.

    A CSV has a header that names the columns `emotion` and `pixels`, and may name `Usage`, in any
    order, separated by commas, semicolons or tabs; its faces keep the order of its rows. It is
    found in a folder or zip by its name, fer2013.csv or icml_face_data.csv.

    The folders are `train/<emotion>/`, `val/<emotion>/` (or `valid`, `validation`, `dev`) and
    `test/<emotion>/`, there or within one folder more. If the names of all pictures tell usage and
    number (`PublicTest_45.png`), and no folder contradicts, faces are ordered by these. If not,
    faces are ordered by relative path, and the folders tell the usage: train is Training, val
    PublicTest, test PrivateTest. Where there is no val, test may hold both of the latter, as that
    of FER2013's well-known folders does, and the usage of all faces is unknown.

    An emotion is one of EMOTION_WORDS in any case, or its number in FER2013's order.

    Args:
        path: the CSV file, the zip, or the directory that holds `train`.
        progress: called with what is done and what there is in total: bytes (CSV) or pictures.
        on_error: "stop" refuses the source for its first bad row or picture; "quarantine" sets
            such a one aside and goes on. It keeps its number among the rows. Whatever lies in an
            emotion folder is a picture or a bad one, apart from hidden files and those that
            Windows and macOS leave.

    Returns:
        N faces without landmarks: features `images`, uint8 (N, 48, 48); `official`
        split as far as the source tells it; rows 0 to N - 1 unless some were set aside, and those
        that were.

    Raises:
        InputError: the path cannot be read or holds anything else; with "quarantine", if that
            concerns the source as a whole, or if none of its faces is good.
    """
    path = expand(path)
    with _os_errors(path):
        _check(path)
        if path.is_dir():
            path = _find_in_folder(path)
            if path.is_dir():
                return read_pictures(path, list_pictures(path, on_error), progress, on_error)
            _check(path)
        if path.suffix.lower() == ".zip" or zipfile.is_zipfile(path):
            return _read_zip(path, progress, on_error)
        with path.open("rb", _BUFFER) as file:
            size = os.fstat(file.fileno()).st_size
            return _read_csv(str(path), file, size, progress, on_error)


def digest(path: str | os.PathLike[str]) -> str:
    """Names the content of what `read` reads, wherever it lies.

    Returns:
        The sha256, in hex, of the bytes of the file; for a directory, of the sorted relative names
        and the bytes of its pictures, or of the CSV in it.

    Raises:
        InputError: the path cannot be read, or is a directory without image folders.
    """
    path = expand(path)
    with _os_errors(path):
        _check(path)
        if path.is_dir():
            path = _find_in_folder(path)
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


class _Layout(NamedTuple):
    """How the rows of a CSV are made up.

    Attributes:
        separator: between two fields.
        columns: the names of the fields.
        emotion, pixels, usage: which of them holds what; None if none tells the usage.
    """

    separator: bytes
    columns: list[str]
    emotion: int
    pixels: int
    usage: int | None


def _read_csv(
    where: str, file: BinaryIO, size: int, progress: Progress | None, on_error: str
) -> Samples:
    images = bytearray()
    labels: list[int] = []
    usage: list[int] = []
    rejected: dict[int, Rejected] = {}
    outside: collections.Counter[int] = collections.Counter()  # labels that FER2013 does not have
    layout = _read_header(where, file.readline(_LINE_LIMIT))
    numbered = False
    for block in _blocks(file):
        # Of one that was cut it is not known whether it is blank.
        lines = [
            (number, line)
            for number, line in block
            if len(line) == _LINE_LIMIT or not line.isspace()
        ]
        rows = _parse_rows([line for _, line in lines], layout)
        if rows:
            numbered |= not labels and _is_numbered(lines[0][1], layout)
            images += rows[0]
            labels += rows[1]
            usage += rows[2]
        else:
            for number, line in lines:
                row = _parse_row(line, layout)
                if row is None:
                    at, reason = len(labels) + len(rejected), _explain_row(line, layout)
                    if on_error == "stop":
                        raise _error(f"{where}, line {number} (row {at + 1})", reason)
                    _set_aside(where, rejected, at, f"line {number}", reason)
                    cells = _cells(line, layout)
                    label = _number(cells[layout.emotion]) if cells else None
                    if label is not None and label >= len(EMOTIONS):
                        outside[label] += 1
                    continue
                numbered |= not labels and _is_numbered(line, layout)
                images += row[0]
                labels.append(row[1])
                usage.append(row[2])
        if progress:
            progress(file.tell(), size)
    if not labels and not rejected:
        raise _error(where, "has a header but no rows; fetch the file again")
    if numbered or not labels:
        _check_numbering(where, labels, outside, len(labels) + len(rejected))
    pixels = np.frombuffer(images, np.uint8).reshape(-1, IMAGE_SIZE, IMAGE_SIZE)
    return _faces(where, pixels, labels, usage, rejected)


def _check_numbering(
    where: str, labels: list[int], outside: collections.Counter[int], total: int
) -> None:
    """Refuses labels that are numbers and cannot mean FER2013's order, whatever single rows say.

    Args:
        where: names the file.
        labels: of the good rows.
        outside: how often there was which other number.
        total: of all rows.
    """
    counts = np.bincount(np.array(labels, int), minlength=len(EMOTIONS))
    slips = outside.total() < 2 or outside.total() <= _FEW * total
    if not slips or (len(EMOTIONS) in outside and not counts[0]):
        label, count = outside.most_common(1)[0]
        problem = f"emotion is {label} in {count} of {total} rows"
    elif total >= 1 / _FEW and not counts[0] and counts[1:].all():
        problem = f"emotion is 1 to {len(EMOTIONS) - 1} and never 0 in {total} rows"
    else:
        return
    raise _error(where, f"{problem}, but numbers mean FER2013's order ({_ORDER}); {_RENAME}")


_RENAME = "if they mean another one, write the names of the emotions instead of all numbers"


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


def _read_header(where: str, line: bytes) -> _Layout:
    line = line.removeprefix(b"\xef\xbb\xbf")
    if problem := _not_text(line):
        raise _error(where, f"is not a CSV, its {problem}; unpack it if it is an archive. {_FORMS}")
    needed = ("emotion", "pixels")
    tables = {
        separator: [field.decode() for field in _fields(line, separator)]
        for separator in _SEPARATORS
    }
    separator = max(tables, key=lambda x: sum(name in tables[x] for name in (*needed, "Usage")))
    columns = tables[separator]
    problems = [name for name in needed if columns.count(name) != 1]
    # A usage under a misspelt name must not be passed over.
    others = [name.lower() for name in columns if name not in (*needed, "Usage")]
    if columns.count("Usage") > 1 or (
        "Usage" not in columns and difflib.get_close_matches("usage", others, cutoff=0.75)
    ):
        problems.append("Usage")
    if problems:
        raise _error(
            where,
            "needs the columns emotion and pixels in its first line, and Usage if it is known, "
            f"each once; missing or repeated: {', '.join(problems)}; found: "
            f"{_quote(', '.join(columns))}. {_FORMS}",
        )
    usage = columns.index("Usage") if "Usage" in columns else None
    return _Layout(separator, columns, columns.index("emotion"), columns.index("pixels"), usage)


def _fields(line: bytes, separator: bytes) -> list[bytes]:
    # No value but the pixels may hold a separator, and none a line end, so quotes protect nothing.
    fields, found = [], separator
    while found:  # partition finds the next one faster than split does
        field, found, line = line.partition(separator)
        fields.append(field.strip(b'" \t\r\n'))
    return fields


def _cells(line: bytes, layout: _Layout) -> list[bytes]:
    """The fields of a row, one for each column; an empty list if it has more or fewer."""
    fields = _fields(line, layout.separator)
    surplus = len(fields) - len(layout.columns)
    if surplus > 0:
        # Pixels that are separated as the fields are. What stands in brackets is one field.
        at = layout.pixels
        own = fields[at : at + surplus + 1]
        if surplus >= _SURPLUS or all(x.strip(b"[]() ").isdigit() for x in own):
            fields[at : at + surplus + 1] = [b",".join(own)]
    return fields if len(fields) == len(layout.columns) else []


def _tokens(pixels: bytes) -> list[bytes]:
    """The texts of the pixels: between commas, or between single blanks; in brackets or not.

    Within brackets there may be more than one blank, as NumPy prints arrays. Elsewhere two blanks
    may mean that a pixel is missing.
    """
    if pixels[:1] + pixels[-1:] in (b"[]", b"()"):
        pixels = pixels[1:-1].strip()
        if b"," not in pixels:
            return pixels.split()
    if b"," in pixels:
        return [token.strip() for token in pixels.split(b",")]
    return pixels.split(b" ") if pixels else []


@functools.lru_cache(maxsize=256)
def _label(text: bytes) -> int | None:
    """The label that an emotion in a CSV means, a number or a word; None if it means none."""
    number = _number(text)
    if number is not None:
        return number if number < len(EMOTIONS) else None
    return EMOTION_WORDS.get(text.decode(errors="replace").lower())


def _is_numbered(line: bytes, layout: _Layout) -> bool:
    """Whether the emotion of a good row is a number."""
    return _number(_cells(line, layout)[layout.emotion]) is not None


def _number(text: bytes) -> int | None:
    match = _NUMBER.fullmatch(text.decode(errors="replace"))
    return int(match[1]) if match else None


def _parse_rows(lines: list[bytes], layout: _Layout) -> tuple[bytes, list[int], list[int]] | None:
    """What `_parse_row` gives for each line, joined; None if a line needs it, or there is none."""
    rows = [row for line in lines if (row := _split_row(line, layout))]
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


def _parse_row(line: bytes, layout: _Layout) -> tuple[bytes, int, int] | None:
    """The pixels (2304 bytes), label and usage of a row, or None if anything is wrong with it."""
    row = _split_row(line, layout)
    if row is None:
        return None
    text = row[0]
    # With only digits and blanks left, fromstring has nothing to be lenient or to warn about.
    if text.translate(None, b"0123456789") != _BLANKS:
        tokens = _tokens(text)
        if len(tokens) != _PIXELS or not all(map(bytes.isdigit, tokens)):
            return None
        text = b" ".join(tokens)
    pixels = np.fromstring(text, np.int64, sep=" ")
    if pixels.size != _PIXELS or pixels.max() > 255:
        return None
    return pixels.astype(np.uint8).tobytes(), row[1], row[2]


def _split_row(line: bytes, layout: _Layout) -> tuple[bytes, int, int] | None:
    """The text of the pixels, label and usage of a row, or None if one of these is missing."""
    separator, columns, emotion, pixels, usage = layout
    fields = _fields(line, separator)
    if len(fields) != len(columns):
        fields = _cells(line, layout)
        if not fields:
            return None
    label = _EMOTION_CODES.get(fields[emotion])
    if label is None:
        label = _label(fields[emotion])
    part = UNKNOWN_SPLIT if usage is None else _USAGE_CODES.get(fields[usage])
    return None if label is None or part is None else (fields[pixels], label, part)


def _explain_row(line: bytes, layout: _Layout) -> str:
    """What is wrong with a row that `_parse_row` refused."""
    if len(line) == _LINE_LIMIT:
        return f"has {_LINE_LIMIT} bytes or more; {_AGAIN}"
    if problem := _not_text(line):
        return f"{problem}; {_AGAIN}"
    row = _cells(line, layout)
    if not row:
        fields = len(_fields(line, layout.separator))
        return f"has {fields} fields, needs {len(layout.columns)} as its header has; {_AGAIN}"
    emotion = row[layout.emotion]
    if _label(emotion) is None:
        needed = f"emotion is {_quote(emotion)}, needs one of {_ORDER}; correct the row"
        return needed if _number(emotion) is None else f"{needed}, or {_RENAME}"
    if layout.usage is not None and row[layout.usage] not in _USAGE_CODES:
        usage = row[layout.usage]
        hint = _nearest(usage.decode(), USAGES)
        needed = ", ".join(USAGES)
        return f"Usage is {_quote(usage)}, needs one of {needed}{hint}; correct the row"
    tokens = _tokens(row[layout.pixels])
    if len(tokens) != _PIXELS and all(map(bytes.isdigit, tokens)):
        return f"has {len(tokens)} pixels, needs {_PIXELS}; {_AGAIN}"
    # float, since int refuses a token of more than 4300 digits.
    position, token = next(
        (position, token)
        for position, token in enumerate(tokens, start=1)
        if not token.isdigit() or float(token) > 255
    )
    return (
        f"pixel {position} is {_quote(token)}, needs an integer from 0 to 255, and one blank or "
        "comma between two pixels; correct the row"
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
) -> Samples:
    """`read` for some of the pictures that `list_pictures` lists of the directory `path`."""
    path = expand(path)

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
    path = expand(path)
    with _os_errors(path):
        return _list_folders(path, on_error)


def _find_in_folder(path: pathlib.Path) -> pathlib.Path:
    """The folder that holds `train`, or the CSV: `path` itself, in it, or in a folder in it.

    No deeper, and only the names are read: the path may be a home directory given by mistake.

    Raises:
        InputError: there are several.
    """
    for folders in ([path], [path / name for name in _folders(path)]):
        found = []
        for folder in folders:
            names = _list(folder)
            if any(name.lower() in _SPLIT_FOLDERS and (folder / name).is_dir() for name in names):
                found.append(folder)
            found += [folder / name for name in names if name.lower() in _CSV_NAMES]
        if len(found) > 1:
            places = _quote(", ".join(x.relative_to(path).as_posix() for x in found))
            raise _error(path, f"holds faces in several places: {places}; give the path of one")
        if found:
            return found[0]
    return path


def _list(folder: pathlib.Path) -> list[str]:
    """The names in a folder that are not hidden, sorted."""
    return sorted(name for name in os.listdir(folder) if not _hidden(name))


def _folders(path: pathlib.Path) -> list[str]:
    """The names of the folders in `path` that can be listed."""
    return [
        name
        for name in _list(path)
        if (path / name).is_dir() and os.access(path / name, os.R_OK | os.X_OK)
    ]


def _list_folders(path: pathlib.Path, on_error: str) -> list[Picture]:
    top = sorted(os.listdir(path))
    root = _find_in_folder(path)
    if not root.is_dir():  # a CSV
        return _sort_pictures(path, [], top, on_error)
    members = []
    for name in sorted(os.listdir(root)):
        if name.lower() in _SPLIT_FOLDERS and (root / name).is_dir():
            found: Iterable[pathlib.Path] = (
                pathlib.Path(folder, file) for folder, files in _walk(root / name) for file in files
            )
        elif name in _folders(root):
            found = _glance(root / name)
        else:
            continue
        members += [file.relative_to(path).as_posix() for file in found]
    return _sort_pictures(path, members, top, on_error)


def _glance(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """One picture of each emotion folder that `folder` holds or is; it belongs to no split."""
    for emotion in [folder, *(folder / name for name in _folders(folder))]:
        if _emotion(emotion.name) is not None:
            pictures = (emotion / file for file in _list(emotion))
            yield from itertools.islice(filter(_is_picture, pictures), 1)


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


def _read_zip(path: pathlib.Path, progress: Progress | None, on_error: str) -> Samples:
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

        def check(info: zipfile.ZipInfo) -> None:
            if info.flag_bits & 1:
                raise _BadPicture("is encrypted; make a zip without a password")
            if stat.S_ISLNK(info.external_attr >> 16):
                raise _BadPicture("is a link; make a zip of the files themselves")
            if info.compress_type not in _METHODS:
                raise _BadPicture(
                    f"is packed by method {info.compress_type}, needs deflate; make the zip again"
                )

        def load(member: str) -> bytes:
            info = infos[member]
            check(info)
            try:
                with archive.open(info) as picture:
                    return picture.read(_PICTURE_LIMIT + 1)
            except Exception as error:
                raise _BadPicture(f"cannot be unpacked; {_AGAIN}") from error

        top = sorted({name.split("/")[0] for name in infos})
        members = [info.filename for info in archive.infolist() if not info.filename.endswith("/")]
        tables = [name for name in members if _is_table(pathlib.PurePosixPath(name))]
        if tables:
            split = {
                "/".join(parts[: start + 1])
                for parts in (pathlib.PurePosixPath(name).parts for name in members)
                if (start := _find_split(parts)) is not None and _is_picture(parts[-1])
            }
            if len(tables) + len(split) > 1:
                names = _quote(", ".join(sorted([*tables, *split])))
                raise _error(path, f"holds faces in several places: {names}; unpack one of them")
            where, info = f"{path}, {tables[0]}", infos[tables[0]]
            try:
                check(info)
            except _BadPicture as error:
                raise _error(where, str(error)) from error
            return _read_packed_csv(where, archive, info, progress, on_error)
        pictures = _sort_pictures(path, members, top, on_error)
        return _decode_all(path, pictures, load, progress, on_error)


def _read_packed_csv(
    where: str,
    archive: zipfile.ZipFile,
    info: zipfile.ZipInfo,
    progress: Progress | None,
    on_error: str,
) -> Samples:
    """Reads a CSV in a zip as it is unpacked: never to disk, nor to memory as a whole."""
    if info.file_size > _CSV_LIMIT:
        raise _error(where, f"unpacks to over {_CSV_LIMIT} bytes; unpack it yourself")
    try:
        # zipfile gives no more bytes than file_size, whatever the packed ones say.
        with archive.open(info) as packed, io.BufferedReader(packed, _BUFFER) as file:  # type: ignore[type-var]
            return _read_csv(where, file, info.file_size, progress, on_error)
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise _error(where, f"cannot be unpacked; {_AGAIN}") from error


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _is_table(file: pathlib.PurePosixPath) -> bool:
    return file.name.lower() in _CSV_NAMES and not any(map(_hidden, file.parts))


def _is_picture(file: str | pathlib.PurePath) -> bool:
    """Whether a file is a picture by its name, of whatever kind."""
    suffix = pathlib.PurePath(file).suffix.lower()
    return suffix in _SUFFIXES or suffix in _ALSO_READ or suffix in _OTHER_PICTURES


def _emotion(folder: str) -> int | None:
    """The label that the name of a folder means, a word or a number; None if it means none."""
    number = _folder_number(folder)
    if number is None:
        return EMOTION_WORDS.get(folder.lower())
    return number if number < len(EMOTIONS) else None


def _folder_number(folder: str) -> int | None:
    return int(folder) if folder.isascii() and folder.isdigit() and len(folder) < 19 else None


def _find_split(parts: Sequence[str]) -> int | None:
    """Where in the parts of a path its `train`, `val` or `test` stands.

    That above the emotion if there is one, else the first: `train` may be a folder around all.
    """
    at = len(parts) - 3
    if at >= 0 and parts[at].lower() in _SPLIT_FOLDERS:
        return at
    return next((i for i, part in enumerate(parts) if part.lower() in _SPLIT_FOLDERS), None)


def _sort_pictures(
    path: pathlib.Path, members: Iterable[str], top: list[str], on_error: str
) -> list[Picture]:
    """The pictures among `members`, in the order of the faces.

    Those that will be set aside are among them, so that the others keep their numbers. What is no
    picture at all stands behind the pictures.
    """
    found: list[tuple[int, pathlib.PurePosixPath, int]] = []  # where its split stands, file, count
    strangers = set()
    for member, count in collections.Counter(members).items():
        file = pathlib.PurePosixPath(member)
        start = _find_split(file.parts)
        if any(map(_hidden, file.parts)) or file.name.lower() in _SYSTEM_FILES:
            continue
        if start is not None:
            in_emotion = len(file.parts) == start + 3 and _emotion(file.parts[-2]) is not None
            if in_emotion or _is_picture(file):
                found.append((start, file, count))
        elif len(file.parts) > 1 and _emotion(file.parts[-2]) is not None and _is_picture(file):
            strangers.add(file.parts[:-1])
    if not any(_is_picture(file) for _, file, _ in found):
        raise _error(
            path,
            f"has no picture ({', '.join(_SUFFIXES)}) in {_PLACES}; it "
            f"holds{': ' + _quote(', '.join(top)) if top else ' nothing'}. {_FORMS}",
        )
    roots = {file.parts[:start] for start, file, _ in found}
    _check_layout(path, found, roots, strangers)

    pictures: list[Picture] = []
    for start, file, count in found:
        folder = file.parts[-2] if start < len(file.parts) - 1 else ""
        label = _emotion(folder)
        kind = file.suffix[1:].upper()
        problem = ""
        if len(file.parts) != start + 3:
            problem = f"needs to lie in {_PLACES}; move it"
        elif label is None:
            needed = ", ".join(EMOTIONS) + _nearest(folder, EMOTION_WORDS)
            problem = f"is in emotion folder {_quote(folder)}, needs one of {needed}"
        elif not _is_picture(file):
            problem = f"is no picture ({', '.join(_SUFFIXES)}); remove it"
        elif file.suffix.lower() in _OTHER_PICTURES:
            problem = f"is a picture of kind {kind}, needs PNG, JPEG or BMP; convert it"
        elif count > 1:
            problem = f"stands {count} times in the archive; keep one of them"
        if problem and on_error == "stop":
            raise _error(f"{path}, {file}", problem)
        name = "/".join(file.parts[start:])
        label = -1 if label is None else label
        pictures += [Picture(UNKNOWN_SPLIT, 0, name, label, str(file), problem)] * count
    if len(roots) > 1:
        several = _quote(", ".join(sorted("/".join(root) or "." for root in roots)))
        raise _error(
            path, f"has train/, val/ or test/ in several folders: {several}; keep one of them"
        )
    return _with_usages(pictures)


def _check_layout(
    path: pathlib.Path,
    found: list[tuple[int, pathlib.PurePosixPath, int]],
    roots: set[tuple[str, ...]],
    strangers: set[tuple[str, ...]],
) -> None:
    """Refuses what concerns the source as a whole, also in "quarantine".

    Args:
        path: the source.
        found: its pictures, each with the place of its split among the parts.
        roots: the folders that hold `train`, `val` or `test`.
        strangers: emotion folders with pictures that lie in no such folder.

    Raises:
        InputError: numbered folders in another order, a folder that might be a split, or two
            folders of one split.
    """
    numbers = {
        number: "/".join(file.parts[:-1])
        for start, file, _ in found
        if len(file.parts) == start + 3
        and (number := _folder_number(file.parts[-2])) is not None
        and _is_picture(file)
    }
    beyond = [number for number in numbers if number >= len(EMOTIONS)]
    problem = ""
    if beyond:
        problem = f"there is no {min(beyond)}"
    elif set(numbers) == {*range(1, len(EMOTIONS))}:
        beyond, problem = [1], f"there is a 0, and here are 1 to {len(EMOTIONS) - 1} without it"
    if problem:
        raise _error(
            f"{path}, {numbers[min(beyond)]}",
            f"numbers of emotion folders mean FER2013's order ({_ORDER}), in which {problem}; "
            "rename all of them to the names of the emotions",
        )
    for root in sorted(roots):
        beside = collections.defaultdict(set)
        for stranger in strangers:
            if len(stranger) > len(root) and stranger[: len(root)] == root:
                beside[stranger[: len(root) + 1]].add(stranger[-1])
        for folder, emotions in sorted(beside.items()):
            # A single folder called "1" may be anything.
            if len(emotions) > 1 or _folder_number(min(emotions)) is None:
                raise _error(
                    f"{path}, {'/'.join(folder)}",
                    f"has pictures in emotion folders ({_quote(min(emotions))}), but its name "
                    "tells no part of the data; rename it to train, val or test, or move it "
                    "elsewhere",
                )
        splits = collections.defaultdict(set)
        for start, file, _ in found:
            if file.parts[:start] == root:
                splits[_SPLIT_FOLDERS[file.parts[start].lower()]].add(file.parts[start])
        for names in splits.values():
            if len(names) > 1:
                raise _error(
                    f"{path}, {'/'.join((*root, min(names)))}",
                    f"is the same part of the data as {_quote(max(names))} beside it; keep one of "
                    "them",
                )


def _with_usages(pictures: list[Picture]) -> list[Picture]:
    """The pictures with usage and number, as far as the source tells them, in their order."""
    # What is no picture has a name of its own, which tells nothing of the others.
    named = [picture for picture in pictures if _is_picture(picture.member)]
    folders = [_SPLIT_FOLDERS[picture.name.split("/")[0].lower()] for picture in named]
    matches = [_NUMBERED.match(picture.name.rsplit("/", 1)[-1]) for picture in named]
    numbers = [0] * len(named)
    private = [picture.name.lower().startswith("private") for picture in named]
    # In `test` without `val` there may be both PublicTest and PrivateTest, as in FER2013's folders.
    both = _PUBLIC not in folders
    told = [
        UNKNOWN_SPLIT if both and folder == _PRIVATE and not own else folder
        for folder, own in zip(folders, private, strict=True)
    ]
    usages, numbered = told, False
    if all(matches):
        by_name = [USAGES.index(match[1]) for match in matches if match]
        agree = all(
            usage == folder or (folder == UNKNOWN_SPLIT and usage != _TRAINING)
            for usage, folder in zip(by_name, told, strict=True)
        )
        if agree:
            usages, numbered = by_name, True
            numbers = [int(match[2]) for match in matches if match]
        else:
            usages = [UNKNOWN_SPLIT] * len(named)
    elif UNKNOWN_SPLIT in told:
        usages = [UNKNOWN_SPLIT] * len(named)
    with_usages = [
        picture._replace(usage=usage, number=number)
        for picture, usage, number in zip(named, usages, numbers, strict=True)
    ]
    with_usages.sort(key=lambda x: (x.usage if numbered else 0, x.number, x.name))
    return with_usages + sorted(x for x in pictures if not _is_picture(x.member))


def _decode_all(
    path: pathlib.Path,
    pictures: list[Picture],
    load: Callable[[str], bytes],
    progress: Progress | None,
    on_error: str,
) -> Samples:
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
                if image.mode not in ("L", "LA", "RGB", "RGBA"):
                    raise _BadPicture(f"has mode {image.mode}, needs L; convert it to 8-bit grey")
                levels = np.asarray(image)
                if image.mode == "L":
                    return levels
                if image.mode.endswith("A") and (levels[..., -1] != 255).any():
                    raise _BadPicture("is transparent in parts; convert it to 8-bit grey")
                if image.mode.startswith("RGB") and np.ptp(levels[..., :3], axis=2).any():
                    raise _BadPicture("has colours; use FER2013's original, which is grey")
                return levels[..., 0]
    except _BadPicture:
        raise
    except Exception as error:  # Pillow raises a dozen types for damaged bytes
        raise _BadPicture(f"is not an intact PNG, JPEG or BMP picture; {_AGAIN}") from error


# --- Both ----------------------------------------------------------------------------------------


def _faces(
    path: str | pathlib.Path,
    images: np.ndarray,
    labels: list[int],
    usage: list[int],
    rejected: dict[int, Rejected],
) -> Samples:
    if not labels:
        first = next(iter(rejected.values()))
        raise _error(
            f"{path}, {first.place}",
            f"{first.reason} (and none of the {len(rejected)} rows or pictures is good)",
        )
    rows = np.delete(np.arange(len(labels) + len(rejected), dtype=np.int64), [*rejected])
    return face_samples(
        images,
        np.array(labels, np.int32),
        np.array(usage, np.int8),
        rows,
        rejected=tuple(rejected.values()),
    )


def _set_aside(
    path: str | pathlib.Path, rejected: dict[int, Rejected], row: int, place: str, reason: str
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

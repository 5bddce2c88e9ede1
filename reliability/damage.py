"""Damage at random: to bytes, JSON values, arrays, archives and folders."""

import copy
import io
import json
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LIMIT = 1 << 20  # bytes of a damaged file
_TOKENS = (
    *(b"", b"\0", b"\xff", b"\xef\xbb\xbf", b"\n", b"\r", b"\r\n", b",", b'"', b"'", b" ", b"\t"),
    *(b"-1", b"NaN", b"Infinity", b"1e999", b"999999999999999999999", b"0x10", b"007", b"1_0"),
    *(b"null", b"true", b"[]", b"{}", b"[" * 5000, b'{"a":' * 5000, b"9" * 6000, b" " * 70_000),
    *(b"../", b"/etc/passwd", b"PK\x03\x04", b"PK\x05\x06", b"\x89PNG", "٣é\u2028".encode()),
)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 7, 2**31, 2**63, 10**400, 0.5, -1e308, float("nan"), float("inf")),
    *("", "x", "x" * 3000, "../..", "\0", "a\nb", "\ud800", [], {}, [[]], [None], {"": None}),
)


def damage_bytes(rng: random.Random, data: bytes) -> bytes:
    """`data` after one to four blows."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 1, 2, 8, 100, len(data))))
        kind = rng.randrange(8)
        if kind == 0 and at < len(data):
            data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + rng.randbytes(end - at) + data[end:]
        elif kind == 2:
            data = data[:at] + data[end:]
        elif kind == 3:
            data = data[:at]
        elif kind == 4:
            data = data[:end] + data[at:end] * rng.choice((1, 2, 50)) + data[end:]
        elif kind == 5:
            data = data[:at] + rng.choice(_TOKENS) + data[rng.choice((at, end)) :]
        elif kind == 6:
            other = rng.randrange(len(data) + 1)
            data = data[:other] + data[at:end] + data[other:]
        elif kind == 7 and data:
            # A word or a number is replaced by another one of the file.
            words = data[:20_000].replace(b",", b" ").split() or [b"x"]
            data = data.replace(rng.choice(words), rng.choice(words), rng.choice((1, -1)))
        data = data[:LIMIT]
    return data


def damage_json(rng: random.Random, text: bytes) -> bytes:
    """`text` with one to three of its values replaced, removed or doubled; or damaged as bytes."""
    if rng.random() < 0.3:
        return damage_bytes(rng, text)
    value = [json.loads(text)]
    for _ in range(rng.choice((1, 1, 2, 3))):
        places: list[tuple[Any, Any]] = []
        waiting: list[Any] = [value]
        while waiting:
            holder = waiting.pop()
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            places += [(holder, key) for key in keys]
            waiting += [holder[key] for key in keys if isinstance(holder[key], dict | list)]
        if not places:
            break
        holder, key = rng.choice(places)
        other, place = rng.choice(places)
        kind = rng.randrange(4)
        if kind == 0 and holder is not value:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[rng.choice(("", "x", str(key) + "x"))] = holder.pop(key)
        elif kind == 2:
            holder[key] = json.loads(json.dumps(other[place]))
        else:
            holder[key] = copy.deepcopy(rng.choice(_VALUES))  # which the next blow may change
    return json.dumps(value[0] if value else None).encode()


class _Harmful:
    """Pickled, it would make a file, to show that nothing unpickles it."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, ("touch /tmp/fermm-was-executed",)


def damage_arrays(rng: random.Random, data: bytes) -> bytes:
    """An `.npz` with an array of another shape, dtype or content, pickled, packed, or gone."""
    if rng.random() < 0.4:
        return damage_bytes(rng, data)
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file}
    name = rng.choice(list(arrays))
    array = arrays[name]
    kind = rng.randrange(9)
    if kind == 0:
        del arrays[name]
    elif kind == 1:
        arrays[name] = array[: rng.randrange(len(array) + 1)]
    elif kind == 2:
        arrays[name] = array.astype(rng.choice(("f8", "i8", "u1", "?", "U3", "c8", "M8[s]")))
    elif kind == 3:
        arrays[name] = rng.choice((array[None], array[..., None], array.ravel(), array[0:0]))
    elif kind == 4:
        changed = array.copy()
        flat = changed.reshape(-1)
        with np.errstate(all="ignore"):
            flat[rng.randrange(flat.size)] = (
                rng.choice((0, 1, -1, 7, 100, 2**31 - 1, np.nan))
                if (array.dtype.kind == "f")
                else rng.choice((0, 1, 7, 100))
            )
        arrays[name] = changed
    elif kind == 5:
        arrays[name] = np.array([_Harmful()], object)
    elif kind == 6:
        arrays[rng.choice(("x", "row", "label", "image_alone"))] = array
    elif kind == 7:
        arrays[name] = np.broadcast_to(array, (2, *array.shape)).copy()
    out = io.BytesIO()
    (np.savez_compressed if kind == 8 else np.savez)(out, **arrays)  # type: ignore[arg-type]
    if kind == 5 and rng.random() < 0.3:
        return pickle.dumps(_Harmful())
    return out.getvalue()


_NAMES = (
    *("../train/sad/x.png", "/train/sad/x.png", "train/sad/../../../x.png", "C:\\train\\x.png"),
    *("train/sad/x.png", "train/x.png", "train/glad/x.png", "train/sad/deep/x.png", "train/"),
    *("other/train/sad/x.png", "train/sad/x.zip", "train/sad/.x.png", "TEST/HAPPY/x.BMP", ""),
    *("train/sad/a\nb.png", "train/sad/Training_99999999999999999999.png", "train/sad/é\u2028.png"),
)


def damage_zip(rng: random.Random, data: bytes) -> bytes:
    """A zip with hostile members beside the others, or damaged as bytes."""
    if rng.random() < 0.4:
        return damage_bytes(rng, data)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            content = old.read(info)
            if rng.random() < 0.1:
                content = damage_bytes(rng, content)
            if rng.random() < 0.05:
                info.filename = rng.choice(_NAMES)
            if rng.random() < 0.05:
                info.compress_type = rng.choice(
                    (zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
                )
            if rng.random() < 0.9:
                new.writestr(info, content)
        if rng.random() < 0.7:
            info = zipfile.ZipInfo(rng.choice(_NAMES))
            info.compress_type = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
            info.external_attr = rng.choice((0, 0o120777 << 16, 0o010644 << 16, 0o40755 << 16))
            content = rng.choice(
                (bytes(8 << 20), b"../../etc/passwd", data, b"", old_picture(data))
            )
            new.writestr(info, content)
    data = bytearray(out.getvalue())
    if rng.random() < 0.2:  # what is encrypted, or packed by a method that nobody knows
        at = data.rfind(b"PK\x01\x02")
        if at >= 0:
            data[at + rng.choice((8, 10))] = rng.choice((1, 9, 12, 14, 93, 99))
    return bytes(data)


def old_picture(data: bytes) -> bytes:
    """The first member of a zip."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read(archive.infolist()[0])


def damage_tree(rng: random.Random, root: Path) -> None:
    """Damages one or a few of the files and folders below `root`, in place."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        everything = sorted(root.rglob("*"))
        files = [path for path in everything if path.is_file() and not path.is_symlink()]
        folders = [root, *(path for path in everything if path.is_dir() and not path.is_symlink())]
        if not files:
            return
        file, folder = rng.choice(files), rng.choice(folders)
        kind = rng.randrange(9)
        if kind <= 3:
            damage_file(rng, file)
        elif kind == 4:
            file.unlink()
        elif kind == 5:
            target = rng.choice(
                (root, folder, file, Path("/dev/zero"), Path("nowhere"), Path(".."))
            )
            link = folder / rng.choice(("train", "sad", "x.png", "0", "loop"))
            if not os.path.lexists(link):
                link.symlink_to(target)
        elif kind == 6:
            place = folder / rng.choice((*_NAMES[4:8], file.name, "sad", "metadata"))
            if not os.path.lexists(place) and place.parent.is_dir():
                shutil.copyfile(file, place)
        elif kind == 7 and folder is not root:
            shutil.rmtree(folder)
        elif kind == 8:
            pipe = folder / rng.choice(("pipe.png", "x.png"))
            if not os.path.lexists(pipe):
                os.mkfifo(pipe)


def damage_file(rng: random.Random, file: Path) -> None:
    """Damages a file as what it is."""
    data = file.read_bytes()
    ways = {".npz": damage_arrays, ".json": damage_json, ".zip": damage_zip}
    looks_like_json = data[:1] == b"{" and file.suffix == ""
    way = damage_json if looks_like_json else ways.get(file.suffix, damage_bytes)
    try:
        data = way(rng, data)
    except (ValueError, zipfile.BadZipFile):  # it had been damaged before
        data = damage_bytes(rng, data)
    file.write_bytes(data)

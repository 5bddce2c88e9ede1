"""FER2013 in its forms, small and random, and what is said of its damage."""

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from fermm.data import fer2013
from fermm.data.fer2013 import USAGES
from fermm.errors import InputError
from fermm.faces import EMOTIONS

HEADER = b"emotion,pixels,Usage\n"
FORMS = (
    "FER2013 is read from its CSV, from image folders, or from a folder or zip that holds one of "
    "these"
)
AGAIN = "the file is damaged, fetch it again"
NEEDED_PIXEL = (
    "needs an integer from 0 to 255, and one blank or comma between two pixels; correct the row"
)
ORDER = "0 angry, 1 disgust, 2 fear, 3 happy, 4 sad, 5 surprise, 6 neutral"
NEEDED_FOLDER = "needs one of angry, disgust, fear, happy, sad, surprise, neutral"
PLACES = "train/<emotion>/, val/<emotion>/ or test/<emotion>/"
NO_PICTURE = f"has no picture (.png, .jpg, .jpeg, .bmp) in {PLACES}"
MISPLACED = f"needs to lie in {PLACES}; move it"


def draw(count=20):
    """Random faces in FER2013's order: Training, then PublicTest, then PrivateTest."""
    random = np.random.default_rng(2013)
    images = random.integers(0, 256, (count, 48, 48), np.uint8)
    images[0] = np.arange(48 * 48).reshape(48, 48) % 256  # every value, of every length
    labels = random.integers(0, 7, count, np.int32)
    usage = np.sort(random.integers(0, 3, count)).astype(np.int8)
    return images, labels, usage


def pixels(image):
    return " ".join(map(str, image.ravel().tolist()))


def csv_text(faces, order=("emotion", "pixels", "Usage"), separator=",", quote=""):
    lines = [separator.join(order)]
    for image, label, usage in zip(*faces, strict=True):
        row = {"emotion": label, "pixels": pixels(image), "Usage": USAGES[usage]}
        lines.append(separator.join(f"{quote}{row[name]}{quote}" for name in order))
    return "\n".join(lines) + "\n"


def save_folders(root, faces, name="{usage}_{number:05d}.png"):
    for i, (image, label, usage) in enumerate(zip(*faces, strict=True)):
        folder = root / ("train" if usage == 0 else "test") / EMOTIONS[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name.format(usage=USAGES[usage], number=i))
    return root


def save_zip(path, root, lead=""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, lead + file.relative_to(root).as_posix())
    return path


def assert_faces(read, faces):
    images, labels, usage = faces
    for got, want in (
        (read.features["images"], images),
        (read.labels, labels),
        (read.official, usage),
        (read.rows, np.arange(len(labels))),
    ):
        np.testing.assert_array_equal(got, want)
    columns = (read.features["images"], read.labels, read.official, read.rows)
    dtypes = [column.dtype for column in columns]
    assert dtypes == [np.uint8, np.int32, np.int8, np.int64]
    assert read.features.keys() == {"images"}


def refusal(path, on_error="stop"):
    with pytest.raises(InputError) as caught:
        fer2013.read(path, on_error=on_error)
    return str(caught.value)


KAGGLE = csv_text(draw())
ICML = csv_text(draw(), order=("emotion", "Usage", "pixels"), separator=", ")


def row(image=None, emotion="3", usage="Training", change=None):
    """One CSV row, with `change` = (1-based pixel, its text)."""
    values = (["7"] * 48 * 48) if image is None else image
    if change:
        values = [*values]
        values[change[0] - 1] = change[1]
    return f"{emotion},{' '.join(values)},{usage}\n".encode()


def encoded(image, kind="PNG"):
    data = io.BytesIO()
    image.save(data, kind)
    return data.getvalue()


def png_claiming(width, height):
    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


GREY = encoded(Image.new("L", (48, 48)))
PICTURE = f"is not an intact PNG, JPEG or BMP picture; {AGAIN}"

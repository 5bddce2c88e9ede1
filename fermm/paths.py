"""Paths as users write them, and files that are there as a whole or not at all."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from fermm.errors import InputError

CACHE_DIR = "~/.cache/fermm"
"""Where prepared data sets, compiled programs and unpacked predictors are kept by default."""

METRICS, REPORT = "metrics.json", "report.html"
"""The results of a run, in its directory."""


class NoHomeError(InputError):
    """A path begins with `~`, and this user has no home directory."""


def expand(path: str | os.PathLike[str]) -> Path:
    """`path` with `~` or `~user` at its beginning replaced by the home directory.

    Raises:
        NoHomeError: it begins with `~`, HOME is not set and the system does not know this user,
            as in containers that run as any number.
        InputError: there is no such user, a name in it is too long for the file system, or it is
            no UTF-8, which the array library needs.
    """
    try:
        expanded = Path(path).expanduser()
        os.fspath(expanded).encode()
        expanded.exists()
    except RuntimeError:
        if os.fspath(path).partition("/")[0] == "~":
            raise NoHomeError(
                f"{path}: this user has no home directory: set HOME, or write the path out (the "
                "cache's is config.data.cache_dir)"
            ) from None
        raise InputError(f"{path}: no such user; write the path out") from None
    except UnicodeEncodeError:
        raise InputError(f"{path}: its name is no UTF-8; choose another") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; choose another path") from None
    return expanded


@contextlib.contextmanager
def whole(
    path: Path, remedy: str = "make room or see to the rights, and run the same command again"
) -> Iterator[Path]:
    """What is written to the path that this gives becomes the file `path` when the context ends.

    Until then `path` is what it was; if anything is raised it stays so, and nothing else is left.
    It is on the disk before it gets its name, so that a power cut leaves the one or the other.

    Args:
        path: the file, in a directory that exists.
        remedy: what to do about a failure, for the message.

    Raises:
        InputError: it cannot be written.
    """
    aside = path.with_name(f"{path.name}.tmp")
    try:
        try:
            yield aside
            bring_to_disk(aside)
            os.replace(aside, path)
            bring_to_disk(path.parent)
        finally:
            with contextlib.suppress(OSError):
                aside.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{path}: cannot be written ({reason}); {remedy}") from error


def make_directory(path: Path) -> None:
    """Makes a directory, and those above it, where there is none.

    Raises:
        InputError: something else has that name.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{path}: a file is in its way; move it elsewhere") from None


def bring_to_disk(path: Path) -> None:
    """Returns when the file `path`, or the list of names in that directory, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has no such thing
            raise
    finally:
        os.close(handle)


def bring_all_to_disk(path: Path) -> None:
    """`bring_to_disk` for a directory and all that is below it."""
    for below in [*path.rglob("*"), path]:
        bring_to_disk(below)

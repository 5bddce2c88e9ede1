"""Paths as users write them."""

import os
from pathlib import Path

from fermm.errors import InputError


def expand(path: str | os.PathLike[str]) -> Path:
    """`path` with `~` or `~user` at its beginning replaced by the home directory.

    Raises:
        InputError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"{path}: no such user; write the path out") from None

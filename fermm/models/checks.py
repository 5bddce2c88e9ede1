"""What the networks demand of their arguments, told in one line before anything is computed."""

from typing import Any

import numpy as np

from fermm.errors import InputError


def require_sizes(count: int | None = None, **sizes: Any) -> None:
    """Each is a number of units or filters: a whole number from 1.

    Args:
        count: where each is a tuple of sizes instead: how many, 0 for any number.
        sizes: by the argument's name.

    Raises:
        InputError: one is something else.
    """
    for name, value in sizes.items():
        if count is None:
            good, need = _is_size(value), "a whole number from 1"
        else:
            good = isinstance(value, tuple) and all(map(_is_size, value))
            good = good and len(value) in (count, count or len(value))
            need = f"a tuple of {f'{count} ' * bool(count)}whole numbers from 1"
        if not good:
            raise InputError(f"arguments.{name} is {value!r}, needs {need}")


def require_rates(**rates: Any) -> None:
    """Each is a share of units that dropout sets to zero: from 0 to less than 1.

    Raises:
        InputError: one is something else.
    """
    for name, value in rates.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise InputError(f"arguments.{name} is {value!r}, needs a number from 0, less than 1")


def require_images(images: Any) -> None:
    """Images are uint8: floats may have been divided by 255 before, which the network does itself.

    Raises:
        InputError: they have another type.
    """
    if images.dtype != np.uint8:
        raise InputError(
            f"images are {images.dtype} {tuple(images.shape)}; the image network needs uint8, grey "
            "levels from 0 to 255, and divides by 255 itself"
        )


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1

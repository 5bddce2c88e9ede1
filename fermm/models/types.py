"""Types shared by the networks."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import numpy as np

Inputs = Mapping[str, jax.Array]
"""What a network reads: "images" uint8 (B, 48, 48), "landmarks" float (B, 68, 2) in pixels."""


_OF_A_FACE = {"images": ((48, 48), np.uint8), "landmarks": ((68, 2), np.float32)}

INPUTS = tuple(_OF_A_FACE)
"""The names of all inputs that there are."""


def shapes(names: Iterable[str], faces: int = 1) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of the inputs `names` for so many faces, as `jax.eval_shape` takes them."""
    return {
        name: jax.ShapeDtypeStruct((faces, *shape), dtype)
        for name, (shape, dtype) in _OF_A_FACE.items()
        if name in names
    }


class Outputs(NamedTuple):
    """What every network and every head returns.

    Attributes:
        features: float (B, F), what the last layer decides from (after any dropout).
        logits: float (B, 7), the decision before the softmax.
    """

    features: jax.Array
    logits: jax.Array

"""Types shared by the networks."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float, Shaped

from fermm.samples import Feature

Module = nn.Module
"""What every network is."""

Inputs = Mapping[str, Shaped[Array | np.ndarray, "batch ..."]]
"""What a network reads: features by name, (B, ...), such as "images" uint8 (B, 48, 48)."""


def shapes(
    features: Mapping[str, Feature], names: Iterable[str], count: int = 1
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of the features `names` of `count` samples, as `jax.eval_shape` takes them.

    Raises:
        KeyError: `features` lacks one.
    """
    return {
        name: jax.ShapeDtypeStruct((count, *features[name].shape), features[name].dtype)
        for name in names
    }


class Outputs(NamedTuple):
    """What every network and every head returns.

    Attributes:
        features: float (B, F), what the last layer decides from (after any dropout).
        logits: float (B, K), the decision between K classes before the softmax.
    """

    features: Float[Array | np.ndarray, "batch features"]
    logits: Float[Array | np.ndarray, "batch classes"]

"""Types shared by the networks."""

from collections.abc import Mapping
from typing import NamedTuple

import jax

Inputs = Mapping[str, jax.Array]
"""What a network reads: "images" uint8 (B, 48, 48), "landmarks" float (B, 68, 2) in pixels."""


class Outputs(NamedTuple):
    """What every network and every head returns.

    Attributes:
        features: float (B, F), what the last layer decides from (after any dropout).
        logits: float (B, 7), the decision before the softmax.
    """

    features: jax.Array
    logits: jax.Array

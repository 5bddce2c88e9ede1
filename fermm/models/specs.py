"""What describes a network, told without JAX.

A spec says how to build a network, in types that JSON has:
`{"model": "nn1", "arguments": {...}}`, or, for a fusion,
`{"head": "decision", "arguments": {...}, "image": spec, "landmarks": spec}`.
"""

from collections.abc import Mapping
from typing import Any

Spec = Mapping[str, Any]

MODALITIES = ("image", "landmarks")


def is_fusion(spec: Spec) -> bool:
    """Whether the spec, or a network's config section, describes a fusion."""
    return "head" in spec

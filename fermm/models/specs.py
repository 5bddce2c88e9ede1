"""What describes a network, told without JAX.

A spec says how to build a network, in types that JSON has:
`{"model": "nn1", "arguments": {...}}`, or, for a fusion,
`{"head": "decision", "arguments": {...}, "members": {"image": spec, "landmarks": spec}}`.
"""

from collections.abc import Mapping
from typing import Any

Spec = Mapping[str, Any]


def is_fusion(spec: Spec) -> bool:
    """Whether the spec describes a fusion."""
    return "head" in spec


def members(spec: Spec) -> dict[str, Spec]:
    """The specs of the members of a fusion by name; empty for any other network."""
    return dict(spec.get("members", {}))

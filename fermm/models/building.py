"""From a spec to a network.

A spec says how to build a network, in types that JSON has:
`{"model": "nn1", "arguments": {...}}`, or, for a fusion,
`{"head": "decision", "arguments": {...}, "image": spec, "landmarks": spec}`.
"""

import difflib
from collections.abc import Collection, Mapping
from typing import Any

import flax.linen as nn

from fermm.errors import InputError
from fermm.models.fusion import MODALITIES, Fusion
from fermm.models.registry import HEADS, NETWORKS

Spec = Mapping[str, Any]


def is_fusion(spec: Spec) -> bool:
    """Whether the spec, or a network's config section, describes a fusion."""
    return "head" in spec


def build(spec: Spec, trained: Collection[str] | None = None) -> nn.Module:
    """The network that `spec` describes.

    Args:
        spec: see the module's docstring.
        trained: paths of the parameters that will be trained, None for all. A part of a fusion of
            which none is trained passes no gradient.

    Raises:
        InputError: a name that nothing registered, or arguments that the network does not have.
    """
    if not is_fusion(spec):
        return _construct(NETWORKS, "model", spec)
    below: dict[str, Collection[str] | None] = dict.fromkeys(MODALITIES)
    if trained is not None:
        for part in MODALITIES:
            below[part] = [p for p in trained if p.startswith(f"{part}/")]
    frozen = tuple(part for part in MODALITIES if below[part] == [])
    image, landmarks = (build(spec[part], below[part]) for part in MODALITIES)
    return Fusion(image, landmarks, _construct(HEADS, "head", spec), frozen=frozen)


def _construct(registry: dict[str, type[nn.Module]], key: str, spec: Spec) -> nn.Module:
    name = spec[key]
    if name not in registry:
        near = difflib.get_close_matches(name, registry, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"{key} {name!r} is not registered (known: {', '.join(sorted(registry))}).{hint} "
            f"If it is your own, import the module that registers it first."
        )
    cls = registry[name]
    known = {field for field in cls.__dataclass_fields__ if field not in ("parent", "name")}
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in spec["arguments"].items()}
    for argument in arguments:
        if argument not in known:
            raise InputError(
                f"{key} {name!r} has no argument {argument!r}; it has {', '.join(sorted(known))}."
            )
    return cls(**arguments)

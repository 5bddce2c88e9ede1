"""From a spec to a network.

A spec says how to build a network, in types that JSON has:
`{"model": "nn1", "arguments": {...}}`, or, for a fusion,
`{"head": "decision", "arguments": {...}, "members": {"image": spec, "landmarks": spec}}`.
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


def build(spec: Spec, trained: Collection[str] | None = None, *, plain: bool = False) -> nn.Module:
    """The network that `spec` describes.

    Args:
        spec: see the module's docstring.
        trained: paths of the parameters that will be trained, None for all. A part of a fusion of
            which none is trained passes no gradient.
        plain: build it of operations that `jax.export` (with a symbolic number of faces) and
            converters to other formats know: nothing depends on the platform, and no form is
            chosen for speed. The parameters are the same, the logits too up to rounding. A network
            of your own is told so if it has a field `plain`.

    Raises:
        InputError: a name that nothing registered, or arguments that the network does not have.
    """
    if not is_fusion(spec):
        return _construct(NETWORKS, "model", spec, plain)
    below: dict[str, Collection[str] | None] = dict.fromkeys(MODALITIES)
    if trained is not None:
        for part in MODALITIES:
            below[part] = [p for p in trained if p.startswith(f"{part}/")]
    frozen = tuple(part for part in MODALITIES if below[part] == [])
    image, landmarks = (
        build(spec["members"][part], below[part], plain=plain) for part in MODALITIES
    )
    return Fusion(image, landmarks, _construct(HEADS, "head", spec, plain), frozen=frozen)


def _construct(
    registry: dict[str, type[nn.Module]], key: str, spec: Spec, plain: bool
) -> nn.Module:
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
    if plain and "plain" in known:
        arguments["plain"] = True
    return cls(**arguments)

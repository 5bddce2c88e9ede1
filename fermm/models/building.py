"""From a spec, see `fermm.models.specs`, to a network."""

import difflib
from collections.abc import Collection
from typing import Any

import flax.linen as nn

import fermm.models.image
import fermm.models.landmarks  # noqa: F401, both register a network of fermm's own
from fermm.errors import InputError
from fermm.models import specs
from fermm.models.fusion import Fusion, Members
from fermm.models.registry import HEADS, NETWORKS
from fermm.models.specs import Spec, is_fusion


def build(spec: Spec, trained: Collection[str] | None = None, *, plain: bool = False) -> nn.Module:
    """The network that `spec` describes.

    Args:
        spec: see `fermm.models.specs`.
        trained: paths of the parameters that will be trained, None for all. A member of a fusion of
            which none is trained passes no gradient.
        plain: build it of operations that `jax.export` (with a symbolic number of samples) and
            converters to other formats know: nothing depends on the platform, and no form is
            chosen for speed. The parameters are the same, the logits too up to rounding. A network
            of your own is told so if it has a field `plain`.

    Raises:
        InputError: a name that nothing registered, arguments that the network does not have, or a
            fusion without members, or with one that cannot have its name.
    """
    if not is_fusion(spec):
        return _construct(NETWORKS, "model", spec, plain)
    if not specs.members(spec):
        raise InputError("a fusion needs at least one member; it has none")
    members, frozen = {}, []
    for name, member in specs.members(spec).items():
        _check_name(name)
        below = None
        if trained is not None:
            below = [path.partition("/")[2] for path in trained if path.startswith(f"{name}/")]
            frozen += [] if below else [name]
        members[name] = build(member, below, plain=plain)
    return Fusion(Members(members), _construct(HEADS, "head", spec, plain), frozen=tuple(frozen))


def complete(spec: Spec, classes: int) -> dict[str, Any]:
    """The spec of a network that decides between so many classes.

    A network or head with a field `classes` gets their number, unless its arguments have one.

    Raises:
        InputError: a name that nothing registered.
    """
    key, registry = ("head", HEADS) if is_fusion(spec) else ("model", NETWORKS)
    cls = _find(registry, key, spec[key])
    arguments = dict(spec["arguments"])
    if "classes" in cls.__dataclass_fields__:
        arguments.setdefault("classes", classes)
    return {**spec, "arguments": arguments}


def _check_name(name: str) -> None:
    # A member becomes an attribute of the fusion.
    taken = name in Fusion.__dataclass_fields__ or hasattr(Fusion, name)
    if taken or not name.isidentifier() or name.startswith("_"):
        raise InputError(
            f"a member cannot be called {name!r}; choose another name, of letters, digits and _"
        )


def _find(registry: dict[str, type[nn.Module]], key: str, name: str) -> type[nn.Module]:
    if name not in registry:
        near = difflib.get_close_matches(name, registry, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"{key} {name!r} is not registered (known: {', '.join(sorted(registry))}).{hint} "
            f"If it is your own, import the module that registers it first."
        )
    return registry[name]


def _construct(
    registry: dict[str, type[nn.Module]], key: str, spec: Spec, plain: bool
) -> nn.Module:
    name = spec[key]
    cls = _find(registry, key, name)
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

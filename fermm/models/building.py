"""From a spec, see `fermm.models.specs`, to a network."""

import difflib
from collections.abc import Collection

import flax.linen as nn

import fermm.models.image
import fermm.models.landmarks  # noqa: F401, both register a network of fermm's own
from fermm.errors import InputError
from fermm.models.fusion import Fusion
from fermm.models.registry import HEADS, NETWORKS
from fermm.models.specs import MODALITIES, Spec, is_fusion


def build(spec: Spec, trained: Collection[str] | None = None, *, plain: bool = False) -> nn.Module:
    """The network that `spec` describes.

    Args:
        spec: see `fermm.models.specs`.
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
    image, landmarks = (build(spec[part], below[part], plain=plain) for part in MODALITIES)
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

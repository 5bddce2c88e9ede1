"""Networks and heads by name, so that a config or a checkpoint can name them.

fermm's own are among them once `fermm.models.building` has been imported. This module needs no JAX.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import flax.linen as nn

T = TypeVar("T", bound="type[nn.Module]")

NETWORKS: dict[str, "type[nn.Module]"] = {}
HEADS: dict[str, "type[nn.Module]"] = {}


def register(name: str) -> Callable[[T], T]:
    """Class decorator: `config.<network>.model = name` builds this network.

    The class has `inputs`, and the methods `encode`, `classify` and `__call__` of `ImageNetwork`.
    """
    return lambda cls: _register(NETWORKS, name, cls)


def register_head(name: str) -> Callable[[T], T]:
    """Class decorator: `config.<network>.head = name` builds a fusion with this head."""
    return lambda cls: _register(HEADS, name, cls)


def _register(registry: dict[str, "type[nn.Module]"], name: str, cls: T) -> T:
    known = registry.get(name)
    # The same file may be imported twice (a config is, under another module name).
    if known is not None and known.__qualname__ != cls.__qualname__:
        raise ValueError(f"{name!r} is already registered, by {known.__qualname__}")
    registry[name] = cls
    return cls

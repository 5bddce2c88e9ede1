"""The random streams that a network draws from in training."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

DEFAULT = ("dropout",)


def streams(module: nn.Module) -> tuple[str, ...]:
    """The names of all random streams of a network, its members and its head included.

    A class names them in the attribute `streams`, a tuple; a class without it has DEFAULT. The
    network draws from one by `self.make_rng(name)`.
    """
    return tuple(sorted(_of(module)))


def _of(value: Any) -> set[str]:
    if isinstance(value, Mapping):
        return set().union(*map(_of, value.values()))
    if isinstance(value, tuple | list):
        return set().union(*map(_of, value))
    if not isinstance(value, nn.Module):
        return set()
    inner = (
        getattr(value, field.name, None)
        for field in dataclasses.fields(value)
        if field.name != "parent"
    )
    return {*getattr(type(value), "streams", DEFAULT), *_of(tuple(inner))}

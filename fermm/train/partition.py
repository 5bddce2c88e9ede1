"""Which parameters are trained, by patterns over their paths."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from flax import traverse_util

from fermm.errors import InputError

Tree = Mapping[str, Any]


def trained_paths(params: Tree, patterns: Sequence[str]) -> frozenset[str]:
    """The paths (`"head/logits/kernel"`) of the parameters that are trained.

    Args:
        params: nested dict of parameters (or of their shapes).
        patterns: regular expressions, each matched against the whole path. The first that matches
            decides: the parameter is trained, or, if the pattern begins with `!`, frozen.

    Raises:
        InputError: a pattern is no regular expression or matches nothing, a parameter is covered
            by none, or nothing is trained.
    """
    paths = sorted(traverse_util.flatten_dict(params, sep="/"))
    compiled = []
    for pattern in patterns:
        try:
            expression = re.compile(pattern.removeprefix("!"))
        except re.error as error:
            raise InputError(f"trainable: {pattern!r} is no regular expression: {error}.") from None
        if not any(expression.fullmatch(path) for path in paths):
            raise InputError(
                f"trainable: {pattern!r} matches no parameter; they are {', '.join(paths)}."
            )
        compiled.append((expression, not pattern.startswith("!")))
    trained = set()
    for path in paths:
        decisions = [trains for expression, trains in compiled if expression.fullmatch(path)]
        if not decisions:
            raise InputError(
                f"trainable: no pattern covers the parameter {path}; "
                f"add one that matches it, or '!.*' to freeze all that is left."
            )
        if decisions[0]:
            trained.add(path)
    if not trained:
        raise InputError(f"trainable: {tuple(patterns)} freezes every parameter; nothing to train.")
    return frozenset(trained)


def split(params: Tree, trained: frozenset[str]) -> tuple[dict, dict]:
    """`params` as two nested dicts: the trained and the frozen parameters."""
    flat = traverse_util.flatten_dict(params, sep="/")
    return (
        traverse_util.unflatten_dict({k: v for k, v in flat.items() if k in trained}, sep="/"),
        traverse_util.unflatten_dict({k: v for k, v in flat.items() if k not in trained}, sep="/"),
    )


def merge(trained: Tree, frozen: Tree) -> dict:
    """The inverse of `split`."""
    return traverse_util.unflatten_dict(
        traverse_util.flatten_dict(trained) | traverse_util.flatten_dict(frozen)
    )

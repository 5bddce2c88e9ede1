"""Trees of several seeds, stacked along a first axis."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np


def stack(trees: Sequence[Any]) -> Any:
    """One tree with the seeds as first axis; of one seed, its own tree."""
    if len(trees) == 1:
        return trees[0]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def unstack(tree: Any, count: int) -> list[Any]:
    """The inverse of `stack`."""
    if count == 1:
        return [tree]
    return [jax.tree.map(lambda x: x[i], tree) for i in range(count)]  # noqa: B023


def join(trees: Sequence[Any]) -> Any:
    """One tree with an axis of seeds in front, from trees of one seed or of several stacked."""
    return jax.tree.map(lambda *leaves: np.concatenate([*map(np.atleast_1d, leaves)]), *trees)

"""Random keys: each a function of the seed and of what it is for."""

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fermm import models
from fermm.models.types import Module
from fermm.train import devices
from fermm.train.stacking import stack


class Keys(NamedTuple):
    """What the steps of a training draw from; in each step, folded with the number of the step.

    Attributes:
        streams: a key for each random stream of the network, by its name.
        augmentation: the key of the augmentations.
    """

    streams: dict[str, jax.Array]
    augmentation: jax.Array

    def at(self, step: jax.Array) -> "Keys":
        """The keys of one step."""
        return jax.tree.map(lambda key: jax.random.fold_in(key, step), self)


def key_for(seed: int, *names: str) -> jax.Array:
    """A random key for one purpose: a function of the seed and of the purpose's names."""
    key = jax.random.key(seed)
    for name in names:
        key = jax.random.fold_in(key, zlib.crc32(name.encode()))
    return key


def keys_for(seed: int, name: str, module: Module) -> Keys:
    """The keys of the training of one network.

    Args:
        seed: of the training.
        name: of the network.
        module: the network.
    """
    return Keys(
        {stream: key_for(seed, name, stream) for stream in models.streams(module)},
        key_for(seed, name, "augmentation"),
    )


def put_keys(keys: Sequence[Any], layout: devices.Layout) -> Any:
    """Trees of random keys on the devices, stacked if there are several."""
    words = stack(
        [jax.tree.map(lambda key: np.asarray(jax.random.key_data(key)), tree) for tree in keys]
    )
    return jax.tree.map(jax.random.wrap_key_data, devices.put(words, layout.state))

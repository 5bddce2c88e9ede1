"""Outputs of `encode` for the samples of a split, kept, for it is the expensive half."""

import contextlib
from typing import Any, NamedTuple

import numpy as np

from fermm.data import stream
from fermm.data.source import Source
from fermm.models.types import Module
from fermm.notices import doing
from fermm.train import devices, steps


class Network(NamedTuple):
    """A network with the variables it has.

    Attributes:
        spec: how to build it, see `fermm.models.building`.
        module: the network.
        variables: {"params": ..., "batch_stats": ...}.
        members: of a fusion whose members are all frozen, these by name; else empty.
        key: names its variables.
    """

    spec: dict[str, Any]
    module: Module
    variables: dict[str, Any]
    members: dict[str, "Network"]
    key: str


class Outputs:
    """The features of samples, and what networks make of them.

    Args:
        source: the data of the run.
        layout: where networks are evaluated.
    """

    def __init__(self, source: Source, layout: devices.Layout) -> None:
        self.layout = layout
        self._source = source
        self._known: dict[tuple[str, str], Any] = {}

    def inputs(self, module: Module, split: str) -> dict[str, Any]:
        """What the network reads of the samples of a split: arrays, or columns on disk."""
        columns, rows = self._source.samples.features, self._source.splits[split]
        whole = {name: columns[name] for name in module.inputs}
        return {
            name: x.at(rows) if isinstance(x, stream.Column) else x[rows]
            for name, x in whole.items()
        }

    def labels(self, split: str) -> np.ndarray:
        """The labels of the samples of a split, int32 (N,)."""
        return self._source.samples.labels[self._source.splits[split]]

    def targets(self, split: str) -> np.ndarray:
        """What to train on: labels, int32 (N,), or distributions, float32 (N, K)."""
        targets = self._source.samples.targets
        return self.labels(split) if targets is None else targets[self._source.splits[split]]

    def encode(self, network: Network, split: str) -> Any:
        """What `encode` of the network gives; of frozen members, what theirs gives."""
        if network.members:
            return {name: self.encode(each, split) for name, each in network.members.items()}
        key = (network.key, split)
        if key not in self._known:
            forward = steps.make_forward(network.module, self.layout, "encode")
            with saying(f"{network.key}: encoding the {split} samples"):
                self._known[key] = forward(network.variables, self.inputs(network.module, split))
        return self._known[key]


def saying(what: str) -> contextlib.AbstractContextManager[None]:
    """Says what is done if it takes long; of several processes, the main one does."""
    return doing(what) if devices.is_main() else contextlib.nullcontext()

"""What is the paper's own: its networks, what it calls them, and the numbers that it gives.

A network of a run bears the paper's name, and has the paper's numbers beside its own, only where it
is that network: the same model with the same arguments, and of a fusion the same head over the same
members. What its section in the config is called does not matter.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from fermm.models import building
from fermm.models.specs import MODALITIES, Spec, is_fusion

COUNTS = (4953, 547, 5121, 8989, 6077, 4002, 6198)
WEIGHTS = (1.815, 16.433, 1.755, 1.0, 1.479, 2.246, 1.450)
"""Table 1 of the paper: faces of each emotion, and what they weigh in the loss."""


class Network(NamedTuple):
    """A network of the paper.

    Attributes:
        title: how tables and figures call it.
        figure: the number of the figure that shows its architecture.
        accuracy: table 2, by split: accuracy in percent, of one run.
        spec: how it is built, see `fermm.models.specs`.
    """

    title: str
    figure: int
    accuracy: Mapping[str, float]
    spec: Spec


_NN1 = {
    "model": "nn1",
    "arguments": {"filters": (16, 32, 64), "hidden": 512, "features": 16, "classes": 7},
}
_NN2 = {
    "model": "nn2",
    "arguments": {
        "point_features": 4,
        "hidden": (256, 512),
        "features": 16,
        "dropout": 0.2,
        "classes": 7,
    },
}
_MEMBERS = {"image": _NN1, "landmarks": _NN2}

KNOWN = (
    Network("NN1 (image)", 6, {"validation": 47.0, "test": 45.2}, _NN1),
    Network("NN2 (landmarks)", 7, {"validation": 42.7, "test": 43.9}, _NN2),
    Network(
        "Fusion of decisions",
        8,
        {"validation": 48.9, "test": 48.0},
        {"head": "decision", "arguments": {"classes": 7}, **_MEMBERS},
    ),
    Network(
        "Fusion of features",
        9,
        {"validation": 49.4, "test": 48.5},
        {"head": "feature", "arguments": {"hidden": (64, 16), "classes": 7}, **_MEMBERS},
    ),
)
"""The paper's four networks (sections 5.2.2 to 5.2.4, figures 6 to 9, table 2)."""


def find(spec: Spec) -> Network | None:
    """The network of the paper that `spec` describes, None if it describes another one."""
    own = _complete(spec)
    return next((known for known in KNOWN if own and _complete(known.spec) == own), None)


def titles(networks: Mapping[str, Network | None]) -> dict[str, str]:
    """What the networks of a run are called in tables and figures.

    Args:
        networks: by the name of their section, the network of the paper that each is, or None.

    Returns:
        The paper's name where a network is the paper's, with the section's name if the run has
        several of it; else the section's name.
    """
    found = [known.title for known in networks.values() if known]

    def title(section: str, known: Network | None) -> str:
        if known is None:
            return section
        return known.title if found.count(known.title) == 1 else f"{known.title}, {section}"

    return {section: title(section, known) for section, known in networks.items()}


def _complete(spec: Spec) -> dict[str, Any] | None:
    """The spec with the defaults of all arguments; None if nothing is registered by its name."""
    key, registry = ("head", building.HEADS) if is_fusion(spec) else ("model", building.NETWORKS)
    cls = registry.get(spec[key])
    if cls is None:
        return None
    fields = [f for f in dataclasses.fields(cls) if f.init and f.name not in ("parent", "name")]
    arguments = {
        field.name: field.default for field in fields if field.default is not dataclasses.MISSING
    }
    arguments |= {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in spec["arguments"].items()
    }
    complete: dict[str, Any] = {key: spec[key], "arguments": arguments}
    if key == "head":
        complete |= {part: _complete(spec[part]) for part in MODALITIES}
        if None in complete.values():
            return None
    return complete

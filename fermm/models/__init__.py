"""The networks, as pure Flax modules; layers are defined nowhere else.

Every network has two halves: `encode` (inputs -> embedding, the expensive one) and `classify`
(embedding -> `Outputs`). What a fusion trains on frozen networks needs only the second half, so
the first may be computed once.

The names below are imported when one of them is first used, all at once, so that fermm's own
networks are registered before any other. `fermm.models.specs` and `fermm.models.registry` can be
imported without JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fermm.models.building import build
    from fermm.models.freezing import Frozen, frozen_layers
    from fermm.models.fusion import DecisionHead, FeatureHead, Fusion
    from fermm.models.image import ImageNetwork
    from fermm.models.landmarks import LandmarkNetwork
    from fermm.models.registry import register, register_head
    from fermm.models.specs import is_fusion
    from fermm.models.types import Inputs, Outputs, shapes

__all__ = [
    "DecisionHead",
    "FeatureHead",
    "Frozen",
    "Fusion",
    "ImageNetwork",
    "Inputs",
    "LandmarkNetwork",
    "Outputs",
    "build",
    "frozen_layers",
    "is_fusion",
    "register",
    "register_head",
    "shapes",
]

_HOMES = ("specs", "types", "registry", "image", "landmarks", "fusion", "freezing", "building")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'fermm.models' has no attribute {name!r}")
    for home in _HOMES:
        module = importlib.import_module(f"fermm.models.{home}")
        globals().update({k: v for k, v in vars(module).items() if k in __all__})
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

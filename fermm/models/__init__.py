"""The networks, as pure Flax modules; layers are defined nowhere else.

Every network has two halves: `encode` (inputs -> embedding, the expensive one) and `classify`
(embedding -> `Outputs`). What a fusion trains on frozen networks needs only the second half, so
the first may be computed once.
"""

from fermm.models.building import build, is_fusion
from fermm.models.freezing import Frozen, frozen_layers
from fermm.models.fusion import DecisionHead, FeatureHead, Fusion
from fermm.models.image import ImageNetwork
from fermm.models.landmarks import LandmarkNetwork
from fermm.models.registry import register, register_head
from fermm.models.streams import streams
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
    "streams",
]

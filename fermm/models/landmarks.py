"""NN2, the landmark network (paper, section 5.2.3, figure 7, listing 5)."""

import functools
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from fermm.models.layers import at_least_float32, glorot_uniform, product
from fermm.models.registry import register
from fermm.models.types import Inputs, Outputs

PARTS = {
    "jaw": slice(0, 17),
    "right_brow": slice(17, 22),
    "left_brow": slice(22, 27),
    "nose": slice(27, 36),
    "right_eye": slice(36, 42),
    "left_eye": slice(42, 48),
    "mouth": slice(48, 61),
    "lips": slice(61, 68),
}
"""The paper's face parts. In the iBUG 300-W mark-up the inner lip begins at 60, not 61: listing 5
is off by one there, and a faithful network keeps its slices. (Listing 5 also swaps the names of the
brows; here, as in iBUG, `right` is the subject's right.)"""


@register("nn2")
class LandmarkNetwork(nn.Module):
    """One small dense layer per face part, then dense layers over all of them, and a decision.

    Each part's layer maps every point (x, y) of the part to `point_features` numbers, with weights
    shared by the part's points. With the paper's sizes: 210,439 parameters, 544 running statistics.
    The input is raw pixel coordinates; batch normalisation after the parts takes care of the scale.

    Attributes:
        point_features: units of each part's layer.
        hidden: units of the two hidden layers.
        features: units of the last sigmoid layer, the features that fusion uses.
        dropout: rate on the features.
        classes: emotions.
        dtype: what the layers compute in, e.g. "bfloat16". Whatever it is, parameters are float32,
            and features and logits no narrower than that.
        frozen_norm: normalise by the running statistics even in training, and leave them alone.
    """

    inputs: ClassVar[tuple[str, ...]] = ("landmarks",)

    point_features: int = 4
    hidden: tuple[int, int] = (256, 512)
    features: int = 16
    dropout: float = 0.2
    classes: int = 7
    dtype: str = "float32"
    frozen_norm: bool = False

    def setup(self) -> None:
        dense = functools.partial(nn.Dense, kernel_init=glorot_uniform, dtype=self.dtype)
        for part in PARTS:
            setattr(self, part, dense(self.point_features))
        self.norm = nn.BatchNorm(momentum=0.99, epsilon=1e-3, dtype=at_least_float32(self.dtype))
        self.dense1, self.dense2 = (dense(h, dot_general=product) for h in self.hidden)
        self.dense3 = dense(self.features)
        self.drop = nn.Dropout(self.dropout)
        self.logits = dense(self.classes, dtype=at_least_float32(self.dtype))

    def encode(self, inputs: Inputs, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """inputs["landmarks"] float (B, 68, 2), pixels -> features before dropout (B, features).

        In training the batch statistics are those of the rows where `mask`, bool (B,), is true.
        """
        points = inputs["landmarks"].astype(self.dtype)
        x = jnp.concatenate(
            [nn.sigmoid(getattr(self, part)(points[:, s])) for part, s in PARTS.items()], axis=1
        )
        x = x.reshape(x.shape[0], -1)
        # Normalised in float32 at least: flax mixes its statistics, float32, with narrower inputs.
        x = self.norm(
            x.astype(at_least_float32(self.dtype)),
            use_running_average=not train or self.frozen_norm,
            mask=None if mask is None else mask[:, None],
        )
        x = nn.sigmoid(self.dense1(x))
        x = nn.sigmoid(self.dense2(x))
        return nn.sigmoid(self.dense3(x)).astype(at_least_float32(self.dtype))

    def classify(self, embedding: jax.Array, *, train: bool) -> Outputs:
        """Features (B, features) -> the features after dropout, and logits (B, classes)."""
        features = self.drop(embedding, deterministic=not train)
        return Outputs(features, self.logits(features))

    def __call__(
        self, inputs: Inputs, *, train: bool = False, mask: jax.Array | None = None
    ) -> Outputs:
        """`classify` of `encode`."""
        return self.classify(self.encode(inputs, train=train, mask=mask), train=train)

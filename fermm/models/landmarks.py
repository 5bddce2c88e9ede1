"""NN2, the landmark network (paper, section 5.2.3, figure 7, listing 5)."""

import functools
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fermm.models.checks import require_rates, require_sizes
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


# Row p tells the part of point p: (68, 8), ones and zeros.
_PART_OF_POINT = np.repeat(
    np.eye(len(PARTS), dtype=np.float32), [s.stop - s.start for s in PARTS.values()], axis=0
)


class PartLayer(nn.Module):
    """The weights of one face part's layer: kernel (2, features), bias (features,)."""

    features: int

    @nn.compact
    def __call__(self) -> jax.Array:
        """Kernel and bias as (3, features): the weights of x, of y, and of 1."""
        kernel = self.param("kernel", glorot_uniform, (2, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return jnp.concatenate([kernel, bias[None]])


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
        plain: use only operations that exporters and converters know, see `models.build`.
    """

    inputs: ClassVar[tuple[str, ...]] = ("landmarks",)

    point_features: int = 4
    hidden: tuple[int, int] = (256, 512)
    features: int = 16
    dropout: float = 0.2
    classes: int = 7
    dtype: str = "float32"
    plain: bool = False

    def setup(self) -> None:
        require_sizes(2, hidden=self.hidden)
        require_sizes(
            point_features=self.point_features, features=self.features, classes=self.classes
        )
        require_rates(dropout=self.dropout)
        dense = functools.partial(nn.Dense, kernel_init=glorot_uniform, dtype=self.dtype)
        for part in PARTS:
            setattr(self, part, PartLayer(self.point_features))
        self.norm = nn.BatchNorm(momentum=0.99, epsilon=1e-3, dtype=at_least_float32(self.dtype))
        self.dense1, self.dense2 = (
            dense(h, dot_general=None if self.plain else product) for h in self.hidden
        )
        self.dense3 = dense(self.features)
        self.drop = nn.Dropout(self.dropout)
        self.logits = dense(self.classes, dtype=at_least_float32(self.dtype))

    def describe_points(self, landmarks: jax.Array) -> jax.Array:
        """Landmarks, float (B, 68, 2) -> what their parts' layers say: (B, 68, point_features)."""
        weights = jnp.stack([getattr(self, part)() for part in PARTS])
        # Each point gets the weights of its part. All at once takes a small fraction of the time
        # of eight layers one after the other, whose products are tiny.
        weights = jnp.tensordot(
            jnp.asarray(_PART_OF_POINT, weights.dtype),
            weights.reshape(len(PARTS), -1),
            axes=1,
            precision=jax.lax.Precision.HIGHEST,  # a choice, not to be rounded
        ).astype(self.dtype)
        weights = weights.reshape(1, len(_PART_OF_POINT), 3, -1)
        points = landmarks.astype(self.dtype)[..., None]
        x, y, one = weights[:, :, 0], weights[:, :, 1], weights[:, :, 2]
        return nn.sigmoid(points[:, :, 0] * x + points[:, :, 1] * y + one)

    def encode(self, inputs: Inputs, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """inputs["landmarks"] float (B, 68, 2), pixels -> features before dropout (B, features).

        In training the batch statistics are those of the rows where `mask`, bool (B,), is true.
        """
        x = self.describe_points(inputs["landmarks"])
        x = x.reshape(x.shape[0], -1)
        # Normalised in float32 at least: flax mixes its statistics, float32, with narrower inputs.
        x = self.norm(
            x.astype(at_least_float32(self.dtype)),
            use_running_average=not train,
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

"""NN2, the landmark network (paper, section 5.2.3, figure 7, listing 5)."""

import functools
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from fermm.faces import FACE_REGIONS
from fermm.models.checks import require_rates, require_sizes
from fermm.models.layers import at_least_float32, glorot_uniform, product
from fermm.models.registry import register
from fermm.models.types import Inputs, Outputs

# Row p tells the region of point p: (68, 8), ones and zeros.
_REGION_OF_POINT = np.repeat(
    np.eye(len(FACE_REGIONS), dtype=np.float32),
    [s.stop - s.start for s in FACE_REGIONS.values()],
    axis=0,
)


class RegionLayer(nn.Module):
    """The weights of one face region's layer: kernel (2, features), bias (features,)."""

    features: int

    @nn.compact
    def __call__(self) -> Float[Array, "3 {self.features}"]:
        """Kernel and bias: the weights of x, of y, and of 1."""
        kernel = self.param("kernel", glorot_uniform, (2, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return jnp.concatenate([kernel, bias[None]])


@register("nn2")
class LandmarkNetwork(nn.Module):
    """One small dense layer per face region, then dense layers over all of them, and a decision.

    The layer of a region maps each of its points (x, y) to `point_features` numbers, with weights
    shared by the points of the region. With the paper's sizes it has 210,439 parameters and 544
    running statistics. The input is raw pixel coordinates; batch normalisation after the regions
    takes care of the scale.

    Attributes:
        point_features: units of the layer of each region.
        hidden: units of the two hidden layers.
        features: units of the last sigmoid layer, the features that fusion uses.
        dropout: rate on the features.
        classes: how many there are.
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
        for region in FACE_REGIONS:
            setattr(self, region, RegionLayer(self.point_features))
        self.norm = nn.BatchNorm(momentum=0.99, epsilon=1e-3, dtype=at_least_float32(self.dtype))
        self.dense1, self.dense2 = (
            dense(h, dot_general=None if self.plain else product) for h in self.hidden
        )
        self.dense3 = dense(self.features)
        self.drop = nn.Dropout(self.dropout)
        self.logits = dense(self.classes, dtype=at_least_float32(self.dtype))

    def describe_points(
        self, landmarks: Float[Array | np.ndarray, "batch 68 2"]
    ) -> Float[Array, "batch 68 {self.point_features}"]:
        """What the layer of each point's region makes of it."""
        weights = jnp.stack([getattr(self, region)() for region in FACE_REGIONS])
        # Each point gets the weights of its region. All at once takes a small fraction of the time
        # of eight layers one after the other, whose products are tiny.
        weights = jnp.tensordot(
            jnp.asarray(_REGION_OF_POINT, weights.dtype),
            weights.reshape(len(FACE_REGIONS), -1),
            axes=1,
            precision=jax.lax.Precision.HIGHEST,  # a choice, not to be rounded
        ).astype(self.dtype)
        weights = weights.reshape(1, len(_REGION_OF_POINT), 3, -1)
        points = landmarks.astype(self.dtype)[..., None]
        x, y, one = weights[:, :, 0], weights[:, :, 1], weights[:, :, 2]
        return nn.sigmoid(points[:, :, 0] * x + points[:, :, 1] * y + one)

    def encode(
        self, inputs: Inputs, *, train: bool, mask: Bool[Array, " batch"] | None = None
    ) -> Float[Array, "batch {self.features}"]:
        """inputs["landmarks"] float (B, 68, 2), pixels -> the features before dropout.

        In training the batch statistics are those of the rows where `mask` is true.
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

    def classify(
        self, embedding: Float[Array | np.ndarray, "batch {self.features}"], *, train: bool
    ) -> Outputs:
        """Features (B, features) -> the features after dropout, and logits (B, classes)."""
        features = self.drop(embedding, deterministic=not train)
        return Outputs(features, self.logits(features))

    def __call__(
        self, inputs: Inputs, *, train: bool = False, mask: Bool[Array, " batch"] | None = None
    ) -> Outputs:
        """`classify` of `encode`."""
        return self.classify(self.encode(inputs, train=train, mask=mask), train=train)

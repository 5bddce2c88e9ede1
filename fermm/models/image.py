"""NN1, the image network (paper, section 5.2.2, figure 6, listing 3)."""

import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from fermm.models.checks import require_images, require_sizes
from fermm.models.layers import (
    Conv2x2,
    at_least_float32,
    convolve_and_pool,
    glorot_uniform,
    max_pool_2x2,
    max_pool_plain,
    product_with_large,
)
from fermm.models.registry import register
from fermm.models.types import Inputs, Outputs

STRIDES = (1, 2, 1)  # of the three poolings


@register("nn1")
class ImageNetwork(nn.Module):
    """Three 2x2 convolutions with max-pooling, two dense layers, a decision.

    With the paper's sizes it has 13,126,455 parameters, nearly all in `dense1/kernel`.

    Attributes:
        filters: the channels of the three convolutions.
        hidden: units of the relu layer.
        features: units of the sigmoid layer, the features that fusion uses.
        classes: how many there are.
        dtype: what the layers compute in, e.g. "bfloat16". Whatever it is, parameters are float32,
            and features and logits no narrower than that.
        plain: use only operations that exporters and converters know, see `models.build`.
    """

    inputs: ClassVar[tuple[str, ...]] = ("images",)

    filters: tuple[int, int, int] = (16, 32, 64)
    hidden: int = 512
    features: int = 16
    classes: int = 7
    dtype: str = "float32"
    plain: bool = False

    def setup(self) -> None:
        require_sizes(3, filters=self.filters)
        require_sizes(hidden=self.hidden, features=self.features, classes=self.classes)
        dense = functools.partial(nn.Dense, kernel_init=glorot_uniform, dtype=self.dtype)
        self.conv1, self.conv2, self.conv3 = (Conv2x2(f, dtype=self.dtype) for f in self.filters)
        self.dense1 = dense(self.hidden, dot_general=None if self.plain else product_with_large)
        self.dense2 = dense(self.features)
        self.logits = dense(self.classes, dtype=at_least_float32(self.dtype))

    def encode(
        self, inputs: Inputs, *, train: bool, mask: Bool[Array, " batch"] | None = None
    ) -> Float[Array, "batch {self.features}"]:
        """inputs["images"] uint8 (B, 48, 48) -> the features.

        Raises:
            InputError: the images have another type.
        """
        require_images(inputs["images"])
        images: Any = inputs["images"]
        convolutions = (self.conv1, self.conv2, self.conv3)
        # Flattened as (H, W, C), as in Keras.
        if self.plain:
            x = jnp.asarray(images[..., None].astype(self.dtype) / 255)
            for conv, stride in zip(convolutions, STRIDES, strict=True):
                x = max_pool_plain(nn.relu(conv(x, plain=True)), stride)
            x = x.reshape(x.shape[0], -1)
        elif train:
            x = jnp.asarray(images.transpose(1, 2, 0)[None].astype(self.dtype) / 255)
            for conv, stride in zip(convolutions, STRIDES, strict=True):
                x = max_pool_2x2(nn.relu(conv(x)), stride)
            x = x.transpose(1, 2, 0, 3).reshape(-1, x.shape[-1]).T
        else:
            channels = (1, *self.filters)
            weights = [conv.weights(c) for conv, c in zip(convolutions, channels, strict=False)]
            x = convolve_and_pool(jnp.asarray(images.astype(self.dtype) / 255), weights, STRIDES)
        x = nn.sigmoid(self.dense2(nn.relu(self.dense1(x))))
        return x.astype(at_least_float32(self.dtype))

    def classify(
        self, embedding: Float[Array | np.ndarray, "batch {self.features}"], *, train: bool
    ) -> Outputs:
        """Features (B, features) -> the same features and logits (B, classes)."""
        return Outputs(embedding, self.logits(embedding))

    def __call__(
        self, inputs: Inputs, *, train: bool = False, mask: Bool[Array, " batch"] | None = None
    ) -> Outputs:
        """`classify` of `encode`."""
        return self.classify(self.encode(inputs, train=train, mask=mask), train=train)

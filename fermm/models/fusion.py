"""The fusion networks (paper, section 5.2.4, figures 8 and 9, listing 8)."""

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from fermm.models.checks import require_sizes
from fermm.models.layers import glorot_uniform
from fermm.models.registry import register_head
from fermm.models.specs import MODALITIES
from fermm.models.types import Inputs, Outputs


class Fusion(nn.Module):
    """Two networks and a head that decides from what they return.

    The parameters stand under `image/`, `landmarks/` and `head/`.

    As in Keras, a frozen network keeps its dropout in training: freezing stops its updates and puts
    its batch normalisation in inference mode, nothing else. So a head is trained on landmark
    features with dropout.

    Attributes:
        image: network that reads the images.
        landmarks: network that reads the landmarks.
        head: module called as `head({"image": Outputs, "landmarks": Outputs}, train=...)` that
            returns `Outputs`.
        frozen: which of "image" and "landmarks" pass no gradient.
    """

    inputs: ClassVar[tuple[str, ...]] = ("images", "landmarks")

    image: nn.Module
    landmarks: nn.Module
    head: nn.Module
    frozen: tuple[str, ...] = ()

    def encode(
        self, inputs: Inputs, *, train: bool, mask: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Both inputs -> both embeddings, {"image": (B, F1), "landmarks": (B, F2)}."""
        embeddings = {}
        for name in MODALITIES:
            training = train and name not in self.frozen
            x = getattr(self, name).encode(inputs, train=training, mask=mask)
            embeddings[name] = jax.lax.stop_gradient(x) if name in self.frozen else x
        return embeddings

    def classify(self, embedding: Mapping[str, jax.Array], *, train: bool) -> Outputs:
        """Both embeddings -> the head's features and logits."""
        return self.head(self.classify_parts(embedding, train=train), train=train)

    def classify_parts(
        self, embedding: Mapping[str, jax.Array], *, train: bool
    ) -> dict[str, Outputs]:
        """Both embeddings -> what each network says by itself."""
        parts = {}
        for name in MODALITIES:
            part = getattr(self, name).classify(embedding[name], train=train)
            parts[name] = jax.lax.stop_gradient(part) if name in self.frozen else part
        return parts

    def __call__(
        self, inputs: Inputs, *, train: bool = False, mask: jax.Array | None = None
    ) -> Outputs:
        """`classify` of `encode`."""
        return self.classify(self.encode(inputs, train=train, mask=mask), train=train)


@register_head("decision")
class DecisionHead(nn.Module):
    """One dense layer over the two softmax decisions: 105 parameters."""

    classes: int = 7

    @nn.compact
    def __call__(self, parts: Mapping[str, Outputs], *, train: bool) -> Outputs:
        """{"image": Outputs, "landmarks": Outputs} -> Outputs."""
        require_sizes(classes=self.classes)
        decisions = [nn.softmax(parts[name].logits) for name in MODALITIES]
        x = jnp.concatenate(decisions, axis=-1)
        return Outputs(x, nn.Dense(self.classes, kernel_init=glorot_uniform, name="logits")(x))


@register_head("feature")
class FeatureHead(nn.Module):
    """Two linear layers over the two feature vectors, and a decision: 3,271 parameters.

    Attributes:
        hidden: units of the two layers, which have no activation function (listing 8).
        classes: emotions.
    """

    hidden: tuple[int, int] = (64, 16)
    classes: int = 7

    @nn.compact
    def __call__(self, parts: Mapping[str, Outputs], *, train: bool) -> Outputs:
        """{"image": Outputs, "landmarks": Outputs} -> Outputs."""
        require_sizes(0, hidden=self.hidden)
        require_sizes(classes=self.classes)
        x = jnp.concatenate([parts[name].features for name in MODALITIES], axis=-1)
        for i, units in enumerate(self.hidden, start=1):
            x = nn.Dense(units, kernel_init=glorot_uniform, name=f"dense{i}")(x)
        return Outputs(x, nn.Dense(self.classes, kernel_init=glorot_uniform, name="logits")(x))

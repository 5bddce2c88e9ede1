"""What a network is trained for."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from fermm.train.losses import Loss

Targets = Int[Array | np.ndarray, " samples"] | Float[Array | np.ndarray, "samples classes"]
"""The class of each sample, or its distribution over the classes."""


class Data(NamedTuple):
    """What a network is trained or evaluated on.

    Attributes:
        inputs: arrays (N, ...) in the tree that the network's method takes.
        targets: of the N samples.
    """

    inputs: Any
    targets: Targets


class Sums(NamedTuple):
    """Running sums over the samples of an epoch so far, as float32 scalars."""

    loss: Float[Array, "*seeds"]
    correct: Float[Array, "*seeds"]


class Task(NamedTuple):
    """One thing that a network is trained for: a loss, on targets, of what one head returns.

    Today each network has one task. The training steps and the validation know of the loss, the
    targets and the head by this class alone.

    Attributes:
        loss: of a sample.
        class_weights: float (K,), what the loss of a sample of each class is multiplied by; where
            the target is a distribution, the expected weight.
        head: the field of `fermm.models.Outputs` with the head's logits (B, K).
    """

    loss: Loss
    class_weights: Float[Array | np.ndarray, " classes"]
    head: str = "logits"

    def sums(
        self, outputs: Any, targets: Targets, mask: Bool[Array | np.ndarray, " samples"]
    ) -> tuple[Float[Array, ""], Sums]:
        """The training loss of a batch, to be differentiated.

        As in Keras, the divisor is the number of samples, not the sum of their weights.

        Args:
            outputs: of the network, for the B samples of the batch.
            targets: of the samples.
            mask: false where the batch is padded.

        Returns:
            The mean over the samples where `mask` is true of class weight x loss, and the sums of
            the loss and of the right decisions.
        """
        logits, targets = getattr(outputs, self.head), jnp.asarray(targets)
        weights = jnp.asarray(self.class_weights)
        if targets.ndim == 1:
            of_sample = weights[targets]
        else:
            of_sample = jnp.sum(targets * weights.astype(targets.dtype)[None], -1)
        weight = jnp.where(mask, of_sample, 0).astype(logits.dtype)
        total = jnp.sum(weight * self.loss(logits, targets))
        correct = jnp.sum(mask & (jnp.argmax(logits, -1) == labels_of(targets)))
        sums = Sums(total.astype(jnp.float32), correct.astype(jnp.float32))
        return total / jnp.sum(mask).astype(logits.dtype), sums

    def metrics(self, outputs: Any, targets: Targets) -> tuple[float, float]:
        """The mean loss, without class weights, and the accuracy over a whole split.

        Args:
            outputs: of the network, without training, for its N samples.
            targets: of the samples.
        """
        logits, targets = getattr(outputs, self.head), np.asarray(targets)
        losses = np.asarray(self.loss(jnp.asarray(logits), jnp.asarray(targets)))
        accuracy = np.mean(np.argmax(logits, -1) == labels_of(targets))
        return float(np.mean(losses, dtype=np.float64)), float(accuracy)


def labels_of(targets: Any) -> Any:
    """The class of each sample: of a distribution, the most probable one; int (...,)."""
    return targets if jnp.issubdtype(targets.dtype, jnp.integer) else targets.argmax(-1)

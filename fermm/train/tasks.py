"""What a network is trained for."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fermm.train.losses import Loss


class Data(NamedTuple):
    """What a network is trained or evaluated on.

    Attributes:
        inputs: arrays (N, ...) in the tree that the network's method takes.
        targets: int (N,), the class of each sample; or float (N, K), its distribution over the
            classes.
    """

    inputs: Any
    targets: jax.Array | np.ndarray


class Sums(NamedTuple):
    """Running sums over the samples of an epoch so far, as float32 scalars."""

    loss: jax.Array
    correct: jax.Array


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
    class_weights: np.ndarray | jax.Array
    head: str = "logits"

    def sums(self, outputs: Any, targets: Any, mask: jax.Array) -> tuple[jax.Array, Sums]:
        """The training loss of a batch, to be differentiated.

        As in Keras, the divisor is the number of samples, not the sum of their weights.

        Args:
            outputs: of the network, for the B samples of the batch.
            targets: see `Data`.
            mask: bool (B,), false where the batch is padded.

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

    def metrics(self, outputs: Any, targets: Any) -> tuple[float, float]:
        """The mean loss, without class weights, and the accuracy over a whole split.

        Args:
            outputs: of the network, without training, for its N samples.
            targets: see `Data`.
        """
        logits, targets = getattr(outputs, self.head), np.asarray(targets)
        losses = np.asarray(self.loss(jnp.asarray(logits), jnp.asarray(targets)))
        accuracy = np.mean(np.argmax(logits, -1) == labels_of(targets))
        return float(np.mean(losses, dtype=np.float64)), float(accuracy)


def labels_of(targets: Any) -> Any:
    """The class of each sample: of a distribution, the most probable one; int (...,)."""
    return targets if jnp.issubdtype(targets.dtype, jnp.integer) else targets.argmax(-1)

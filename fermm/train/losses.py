"""Losses: what a network is trained to make small, by name.

A loss is a frozen dataclass with the method `__call__(logits, targets) -> losses`. The registry is
read by `launch.py --help`, which must not wait for JAX, so JAX is imported within the methods. A
loss of your own stands in any file that is imported before training begins:

    @LOSSES.register("brier")
    @dataclasses.dataclass(frozen=True)
    class Brier(Loss):
        def __call__(self, logits, targets):
            return jnp.sum((jax.nn.softmax(logits) - one_hot(logits, targets)) ** 2, axis=-1)
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from fermm.config import Registry, option, share

if TYPE_CHECKING:
    import jax

LOSSES = Registry("loss")


@dataclasses.dataclass(frozen=True)
class Loss:
    """What every loss is."""

    def __call__(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
        """The loss of each sample, without its class weight.

        Args:
            logits: float (B, K).
            targets: int (B,), the class of each sample; or float (B, K), its distribution over the
                classes.

        Returns:
            Array (B,) of the type of the logits.
        """
        raise NotImplementedError


@LOSSES.register("cross_entropy")
@dataclasses.dataclass(frozen=True)
class CrossEntropy(Loss):
    """Categorical cross-entropy, in nats.

    Label smoothing mixes a share of the uniform distribution into the targets (Szegedy et al.,
    2016, section 7, https://arxiv.org/abs/1512.00567).
    """

    label_smoothing: float = option(
        "the share of the target that is spread evenly over all classes", default=0.0, check=share
    )

    def __call__(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
        import optax

        if targets.ndim == 1 and not self.label_smoothing:
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        distributions = one_hot(logits, targets)
        if self.label_smoothing:
            distributions = optax.smooth_labels(distributions, self.label_smoothing)
        return optax.softmax_cross_entropy(logits, distributions)


def one_hot(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Targets of either form as distributions: float (B, K), of the type of the logits."""
    import jax

    if targets.ndim == 1:
        return jax.nn.one_hot(targets, logits.shape[-1], dtype=logits.dtype)
    return targets.astype(logits.dtype)

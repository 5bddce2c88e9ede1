"""Averaged weights: an exponential moving average of what is trained, for predicting.

After Polyak & Juditsky, 1992, in the exponential form that is usual for networks (Tarvainen &
Valpola, 2017, https://arxiv.org/abs/1703.01780). Where it is on, validation, predictions and the
`variables` of a checkpoint are those of the average; the parameters that are updated go on by
themselves, and a checkpoint keeps them under `training`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from fermm.config import option, share

if TYPE_CHECKING:
    import jax


@dataclasses.dataclass(frozen=True)
class Average:
    """Whether weights are averaged, and over how many steps."""

    decay: float = option(
        "what stays of the averaged weights in a step, such as 0.999; 0 averages nothing",
        default=0.0,
        check=share,
    )

    def start(self, params: Any, batch_stats: Any) -> Any:
        """The average before the first update, {"params": ..., "batch_stats": ...}; {} if off.

        Args:
            params: the trained parameters. Those that are frozen need no average.
            batch_stats: running statistics.
        """
        return {"params": params, "batch_stats": batch_stats} if self.decay else {}

    def update(self, average: Any, params: Any, batch_stats: Any, step: jax.Array) -> Any:
        """The average after an update.

        The first steps have less weight, as in TensorFlow's `ExponentialMovingAverage`: what stays
        in a step is `min(decay, (1 + step) / (10 + step))`.

        Args:
            average: before the update.
            params: the trained parameters after it.
            batch_stats: running statistics after it.
            step: int32 scalar, the number of updates before it.
        """
        import jax
        import jax.numpy as jnp

        if not self.decay:
            return average
        count = step.astype(jnp.float32)
        moves = 1 - jnp.minimum(jnp.float32(self.decay), (1 + count) / (10 + count))
        return jax.tree.map(
            # In this form what stays the same, as statistics of a frozen layer, stays to the bit.
            lambda old, new: old + (new - old) * moves.astype(old.dtype),
            average,
            {"params": params, "batch_stats": batch_stats},
        )

"""Optimisers: how gradients become updates of the parameters, by name.

An optimiser is a frozen dataclass with the method `make(rate)`, which returns an optax
transformation. `rate` is one too: it multiplies by the learning rate of the moment, with the minus
sign that turns an ascent into a descent. An optimiser puts it where it belongs, once or several
times, and need not know of any schedule, whose state is found by its type wherever it lies (see
`fermm.train.updates`).

The registry is read by `launch.py --help`, which must not wait for JAX, so JAX is imported within
the functions. An optimiser of your own stands in any file that is imported before training begins:

    @OPTIMIZERS.register("lion")
    @dataclasses.dataclass(frozen=True)
    class Lion(Optimizer):
        b2: float = option("decay of the mean of the gradients", default=0.99, check=share)

        def make(self, rate):
            return optax.chain(self.clipping(), optax.scale_by_lion(b2=self.b2), rate)
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

from fermm.config import Registry, above, at_least, option, share

if TYPE_CHECKING:
    import jax
    import optax

OPTIMIZERS = Registry("optimizer")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """What every optimiser is."""

    clip: float = option(
        "the norm of all gradients together to which longer ones are cut; 0 cuts none",
        default=0.0,
        check=at_least(0),
    )

    def make(self, rate: optax.GradientTransformation) -> optax.GradientTransformation:
        """The transformation of the gradients of all trained parameters.

        Args:
            rate: multiplies what it is given by minus the learning rate.
        """
        raise NotImplementedError

    def clipping(self) -> optax.GradientTransformation:
        """Cuts gradients as `clip` says (Pascanu et al., 2013, https://arxiv.org/abs/1211.5063)."""
        import optax

        return optax.clip_by_global_norm(self.clip) if self.clip else optax.identity()


@OPTIMIZERS.register("adam")
@dataclasses.dataclass(frozen=True)
class Adam(Optimizer):
    """Adam with the epsilon of Keras, the optimiser of the paper, see `scale_by_adam`."""

    b1: float = option("decay of the mean of the gradients", default=0.9, check=share)
    b2: float = option("decay of the mean of their squares", default=0.999, check=share)
    epsilon: float = option("what keeps the divisor away from 0", default=1e-7, check=above(0))

    def make(self, rate: optax.GradientTransformation) -> optax.GradientTransformation:
        import optax

        return optax.chain(
            self.clipping(), scale_by_adam(self.b1, self.b2, self.epsilon, hat=True), rate
        )


@OPTIMIZERS.register("adamw")
@dataclasses.dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with weight decay beside the gradient (Loshchilov & Hutter, 2019).

    https://arxiv.org/abs/1711.05101; as in `optax.adamw`, the decay is multiplied by the learning
    rate. Parameters with fewer than two axes do not decay, see `decay`.
    """

    b1: float = option("decay of the mean of the gradients", default=0.9, check=share)
    b2: float = option("decay of the mean of their squares", default=0.999, check=share)
    epsilon: float = option("what keeps the divisor away from 0", default=1e-8, check=above(0))
    weight_decay: float = option(
        "the share of a weight that is taken off, times the learning rate; not of norms and biases",
        default=0.01,
        check=at_least(0),
    )

    def make(self, rate: optax.GradientTransformation) -> optax.GradientTransformation:
        import optax

        return optax.chain(
            self.clipping(),
            scale_by_adam(self.b1, self.b2, self.epsilon, hat=False),
            decay(self.weight_decay),
            rate,
        )


@OPTIMIZERS.register("sgd")
@dataclasses.dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if wanted (Sutskever et al., 2013).

    https://proceedings.mlr.press/v28/sutskever13.html, in the form of `optax.sgd`. Weight decay is
    added to the gradient, and so takes part in the momentum. Parameters with fewer than two axes do
    not decay, see `decay`.
    """

    momentum: float = option(
        "decay of the sum of the gradients; 0 is without momentum", default=0.0, check=share
    )
    nesterov: bool = option("look ahead along the momentum", default=False)
    weight_decay: float = option(
        "the share of a weight that is added to its gradient; not of norms and biases",
        default=0.0,
        check=at_least(0),
    )

    def make(self, rate: optax.GradientTransformation) -> optax.GradientTransformation:
        import optax

        return optax.chain(
            self.clipping(),
            decay(self.weight_decay),
            optax.trace(self.momentum, self.nesterov) if self.momentum else optax.identity(),
            rate,
        )


def decay(weight_decay: float) -> optax.GradientTransformation:
    """Adds `weight_decay` times each parameter that has at least two axes.

    The others are biases, and scales and shifts of normalisation, which decay would keep from doing
    what they are for.
    """
    import jax
    import optax

    if not weight_decay:
        return optax.identity()
    return optax.add_decayed_weights(
        weight_decay, lambda params: jax.tree.map(lambda x: x.ndim >= 2, params)
    )


class AdamState(NamedTuple):
    """State of `scale_by_adam`.

    Attributes:
        step: updates made, int32 scalar.
        mu: running means of the gradients.
        nu: running means of their squares.
    """

    step: jax.Array
    mu: optax.Updates
    nu: optax.Updates


def scale_by_adam(
    b1: float, b2: float, epsilon: float, *, hat: bool
) -> optax.GradientTransformation:
    """The direction of Adam (Kingma & Ba, 2015, https://arxiv.org/abs/1412.6980).

    Args:
        b1: decay of the mean of the gradients.
        b2: decay of the mean of their squares.
        epsilon: is added to a root.
        hat: whether that is the root of the uncorrected second moment, as in Keras ("epsilon hat",
            just before section 2.1 of the article); else it is the root after bias correction, as
            in algorithm 1 of the article and in optax. In the first steps the former is much
            smaller.
    """
    import jax
    import jax.numpy as jnp
    import optax

    def init(params: optax.Params) -> AdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AdamState(jnp.zeros([], jnp.int32), zeros, jax.tree.map(jnp.zeros_like, params))

    def update(
        updates: optax.Updates, state: AdamState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, AdamState]:
        del params
        step = state.step + 1
        mu = jax.tree.map(lambda m, g: m + (g - m) * (1 - b1), state.mu, updates)
        nu = jax.tree.map(lambda v, g: v + (g * g - v) * (1 - b2), state.nu, updates)

        def direction(m: Any, v: Any) -> Any:
            t = step.astype(m.dtype)
            if hat:
                correction = jnp.sqrt(1 - b2**t) / (1 - b1**t)
                return correction * m / (jnp.sqrt(v) + epsilon)
            return m / (1 - b1**t) / (jnp.sqrt(v / (1 - b2**t)) + epsilon)

        return jax.tree.map(direction, mu, nu), AdamState(step, mu, nu)

    return optax.GradientTransformation(init, update)

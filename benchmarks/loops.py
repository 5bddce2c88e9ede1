"""How long a step with 3x3 convolutions takes by itself, and within a compiled loop.

    uv run python -m benchmarks.loops

fermm's training steps are one compiled loop where that is fast; see `fermm.train.steps.TrainSteps`.
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

BATCH, STEPS = 64, 3
LAYERS = ((1, 32, 24), (32, 32, 24), (32, 64, 12), (64, 64, 12), (64, 128, 6), (128, 128, 6))
"""Input channels, output channels, and the height and width of each convolution."""


def _loss(kernels: list[jax.Array], x: jax.Array) -> jax.Array:
    for kernel, (_, _, size) in zip(kernels, LAYERS, strict=True):
        if x.shape[1] > size:
            x = x[:, ::2, ::2]
        x = jax.nn.relu(
            jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        )
    return jnp.mean(x**2)


def _step(kernels: list[jax.Array], x: jax.Array) -> list[jax.Array]:
    grads = jax.grad(_loss)(kernels, x)
    return [k - 1e-3 * g for k, g in zip(kernels, grads, strict=True)]


@jax.jit
def _loop(kernels: list[jax.Array], x: jax.Array, steps: jax.Array) -> list[jax.Array]:
    return jax.lax.fori_loop(0, steps, lambda _, kernels: _step(kernels, x), kernels)


def _apart(kernels: list[jax.Array], x: jax.Array, steps: int) -> list[jax.Array]:
    one = jax.jit(_step)
    return functools.reduce(lambda kernels, _: one(kernels, x), range(steps), kernels)


def main() -> None:
    """Prints the seconds of a step in both ways."""
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(BATCH, 24, 24, 1)), jnp.float32)
    kernels = [
        jnp.asarray(random.normal(size=(3, 3, a, b)) / 30, jnp.float32) for a, b, _ in LAYERS
    ]
    operations = sum(9 * a * b * size**2 for a, b, size in LAYERS)
    print(f"{operations / 1e6:.0f} million multiply-adds a sample, batch {BATCH}")
    for name, run in (("steps by themselves", _apart), ("steps in a loop", _loop)):
        jax.block_until_ready(run(kernels, x, 1))
        began = time.perf_counter()
        jax.block_until_ready(run(kernels, x, STEPS))
        print(f"{name}: {(time.perf_counter() - began) / STEPS:.3f} s a step")


if __name__ == "__main__":
    main()

"""Layers in forms that are fast on every backend; docs/performance.md has the measurements.

Pictures lie as (C, H, W, B), the batch last: then the copies that make up the patches of a
convolution are long runs, and neither gradient of its product needs a transposed copy.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

glorot_uniform = nn.initializers.glorot_uniform()


def at_least_float32(dtype: str) -> str:
    """What features and logits are computed in where the layers compute in `dtype`."""
    return dtype if jnp.finfo(dtype).bits >= 32 else "float32"


def product(
    x: jax.Array, kernel: jax.Array, dimension_numbers: Any, precision: Any = None
) -> jax.Array:
    """(B, F) x (F, D) -> (B, D), for `nn.Dense(dot_general=product)`."""
    del dimension_numbers  # Dense has no others for two axes
    # From a transposed copy XLA's CPU backend derives a gradient of `x` that reads the kernel by
    # rows; the barrier keeps it from folding the transposition into the product.
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: jax.lax.dot_general(
            jax.lax.optimization_barrier(x.T), kernel, (((0,), (0,)), ((), ())), precision
        ),
        default=lambda x, kernel: jnp.matmul(x, kernel, precision=precision),
    )


def product_with_large(
    x: jax.Array, kernel: jax.Array, dimension_numbers: Any, precision: Any = None
) -> jax.Array:
    """(B, F) x (F, D) -> (B, D), for a kernel that is larger than the processor's cache."""
    parts = 32
    rows, features = x.shape
    if rows > 1 or features % parts:
        return jax.lax.dot_general(x, kernel, dimension_numbers, precision)
    # XLA's CPU backend reads the kernel on one core for a single row, on all for a batch of parts.
    x, kernel = x.reshape(parts, -1), kernel.reshape(parts, features // parts, -1)
    return jnp.einsum("pf,pfd->pd", x, kernel, precision=precision).sum(axis=0, keepdims=True)


def convolve_2x2(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """2x2 convolution, stride 1, no padding.

    Args:
        x: (C, H, W, B).
        kernel: (2, 2, C, D).

    Returns:
        (D, H-1, W-1, B).
    """
    # XLA's CPU backend runs lax.conv inside a loop several times slower than one matrix product
    # over the four shifted copies; accelerators have fast convolutions.
    return jax.lax.platform_dependent(x, kernel, cpu=_by_matrix_product, default=_by_convolution)


def _by_matrix_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    patches = [x[:, :-1, :-1], x[:, :-1, 1:], x[:, 1:, :-1], x[:, 1:, 1:]]
    x = jnp.concatenate(patches)
    # As matrices: the gradients of a product of higher rank would pass through transposed copies.
    out = jnp.tensordot(kernel.reshape(len(x), -1), x.reshape(len(x), -1), axes=((0,), (0,)))
    return out.reshape(-1, *x.shape[1:])


def _by_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=("CHWN", "HWIO", "CHWN")
    )


@jax.named_scope("max_pool_2x2")
def max_pool_2x2(x: jax.Array, stride: int) -> jax.Array:
    """2x2 maximum, no padding, stride 1 or 2: (C, H, W, B) -> (C, ceil((H-1)/stride), ..., B).

    Built from elementwise maxima of shifted copies, whose gradient, unlike that of a reduced
    window, needs no select-and-scatter. Equal values pass it to the first in row-major order, as
    Keras and `lax.reduce_window` do; `jnp.maximum` would halve it.
    """
    if stride == 1:
        x = _first_maximum(x[:, :, :-1], x[:, :, 1:])
        return _first_maximum(x[:, :-1], x[:, 1:])
    if stride != 2:
        raise ValueError(f"max_pool_2x2 has strides 1 and 2, not {stride}")
    c, h, w, b = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(c, h // 2, 2, w // 2, 2, b)
    x = _first_maximum(x[:, :, :, :, 0], x[:, :, :, :, 1])
    return _first_maximum(x[:, :, 0], x[:, :, 1])


def _first_maximum(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.where(a >= b, a, b)


class Conv2x2(nn.Module):
    """2x2 convolution with bias: (C, H, W, B) -> (features, H-1, W-1, B)."""

    features: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves `x`, (C, H, W, B), in `dtype`."""
        kernel = self.param("kernel", glorot_uniform, (2, 2, x.shape[0], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        return convolve_2x2(x, kernel) + bias.reshape(-1, 1, 1, 1)

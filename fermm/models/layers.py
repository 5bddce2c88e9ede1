"""Layers in forms that are fast on every backend; docs/performance.md has the measurements.

In training, pictures lie as (C, H, W, B), the batch last: then the copies that make up the patches
of a convolution are long runs, and neither gradient of its product needs a transposed copy. Without
training they lie as (B, H, W, C), a few at a time, so that all that is computed stays in the cache.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

glorot_uniform = nn.initializers.glorot_uniform()


def at_least_float32(dtype: str) -> str:
    """What features and logits are computed in where the layers compute in `dtype`."""
    return dtype if jnp.finfo(dtype).bits >= 32 else "float32"


def product(
    x: Float[Array, "batch inputs"],
    kernel: Float[Array, "inputs outputs"],
    dimension_numbers: Any,
    precision: Any = None,
) -> Float[Array, "batch outputs"]:
    """The matrix product, for `nn.Dense(dot_general=product)`."""
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
    x: Float[Array, "batch inputs"],
    kernel: Float[Array, "inputs outputs"],
    dimension_numbers: Any,
    precision: Any = None,
) -> Float[Array, "batch outputs"]:
    """The matrix product with a kernel that is larger than the processor's cache."""
    parts = 32
    rows, features = x.shape
    if rows > 1 or features % parts:
        return jax.lax.dot_general(x, kernel, dimension_numbers, precision)
    # XLA's CPU backend reads the kernel on one core for a single row, on all for a batch of parts.
    x, kernel = x.reshape(parts, -1), kernel.reshape(parts, features // parts, -1)
    return jnp.einsum("pf,pfd->pd", x, kernel, precision=precision).sum(axis=0, keepdims=True)


def convolve_2x2(
    x: Float[Array, "channels height width batch"], kernel: Float[Array, "2 2 channels filters"]
) -> Float[Array, "filters height-1 width-1 batch"]:
    """2x2 convolution, stride 1, no padding."""
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
def max_pool_2x2(
    x: Float[Array, "channels height width batch"], stride: int
) -> Float[Array, "channels (height+{stride}-2)//{stride} (width+{stride}-2)//{stride} batch"]:
    """2x2 maximum, no padding, stride 1 or 2.

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


def _first_maximum(a: Float[Array, "*shape"], b: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return jnp.where(a >= b, a, b)


class Conv2x2(nn.Module):
    """2x2 convolution with bias, stride 1, no padding."""

    features: int
    dtype: str = "float32"

    @nn.compact
    def weights(
        self, channels: int
    ) -> tuple[Float[Array, "2 2 {channels} {self.features}"], Float[Array, " {self.features}"]]:
        """Kernel and bias, in `dtype`."""
        kernel = self.param("kernel", glorot_uniform, (2, 2, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return jnp.asarray(kernel, self.dtype), jnp.asarray(bias, self.dtype)

    def __call__(self, x: Float[Array, "_ _ _ _"], plain: bool = False) -> Float[Array, "_ _ _ _"]:
        """Convolves in `dtype`: (C, H, W, B) -> (features, H-1, W-1, B).

        If `plain`, by one operation that every converter knows: (B, H, W, C) ->
        (B, H-1, W-1, features).
        """
        kernel, bias = self.weights(x.shape[3 if plain else 0])
        x = x.astype(self.dtype)
        if plain:
            return _convolve_plain(x, kernel) + bias.reshape(1, 1, 1, -1)
        return convolve_2x2(x, kernel) + bias.reshape(-1, 1, 1, 1)


@jax.named_scope("max_pool_2x2")
def max_pool_plain(
    x: Float[Array, "batch height width channels"], stride: int
) -> Float[Array, "batch (height+{stride}-2)//{stride} (width+{stride}-2)//{stride} channels"]:
    """`max_pool_2x2` with the batch first, by one operation that every converter knows."""
    return nn.max_pool(x, (2, 2), (stride, stride))


def _convolve_plain(
    x: Float[Array, "batch height width channels"], kernel: Float[Array, "2 2 channels filters"]
) -> Float[Array, "batch height-1 width-1 filters"]:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


Weights = Sequence[tuple[Float[Array, "2 2 _ _"], Float[Array, " _"]]]
"""Kernel (2, 2, C, D) and bias (D,) of each convolution in turn."""

PIECE = 16  # faces, few enough that what a convolution makes of them stays in the cache


def convolve_and_pool(
    x: Float[Array, "batch height width"], weights: Weights, strides: Sequence[int]
) -> Float[Array, "batch _"]:
    """2x2 convolutions, each followed by relu and 2x2 max-pooling, in a form for inference.

    It may be differentiated, but is not made for it.

    Args:
        x: one channel.
        weights: of the convolutions.
        strides: of the poolings, 1 or 2.

    Returns:
        The last pooling's output, flattened as (H, W, C), as in Keras.
    """

    def plain(x: jax.Array, weights: Weights) -> jax.Array:
        x = x[..., None]
        for (kernel, bias), stride in zip(weights, strides, strict=True):
            x = _convolve_plain(x, kernel) + bias.reshape(1, 1, 1, -1)
            x = max_pool_plain(nn.relu(x), stride)
        return x.reshape(len(x), -1)

    return jax.lax.platform_dependent(
        x,
        tuple(weights),
        cpu=lambda x, weights: _stack_in_pieces(x, weights, strides),
        default=plain,
    )


def _stack_in_pieces(
    x: Float[Array, "batch height width"], weights: Weights, strides: Sequence[int]
) -> Float[Array, "batch _"]:
    whole = len(x) // PIECE * PIECE
    parts = []
    if whole:
        pieces = x[:whole].reshape(-1, PIECE, *x.shape[1:])
        # One piece after the other: written out, XLA computes a layer of many pieces at a time.
        out = jax.lax.map(lambda piece: _stack_of_piece(piece, weights, strides), pieces)
        parts.append(out.reshape(whole, -1))
    if whole < len(x) or not whole:
        parts.append(_stack_of_piece(x[whole:], weights, strides))
    return jnp.concatenate(parts)


def _stack_of_piece(
    x: Float[Array, "batch height width"], weights: Weights, strides: Sequence[int]
) -> Float[Array, "batch _"]:
    x = x[..., None]
    for (kernel, bias), stride in zip(weights, strides, strict=True):
        x = _convolve_piece(x, kernel)
        # The same as relu before the pooling, on fewer numbers.
        x = nn.relu(_max_pool_piece(x, stride) + bias.reshape(1, 1, 1, -1))
    return x.reshape(len(x), math.prod(x.shape[1:]))


def _convolve_piece(
    x: Float[Array, "batch height width channels"], kernel: Float[Array, "2 2 channels filters"]
) -> Float[Array, "batch height-1 width-1 filters"]:
    shifted = [x[:, :-1, :-1], x[:, :-1, 1:], x[:, 1:, :-1], x[:, 1:, 1:]]
    channels, features = kernel.shape[2:]
    if channels == 1:  # a product with four rows is all overhead
        kernels = kernel.reshape(4, 1, 1, 1, features)
        return functools.reduce(jnp.add, [a * k for a, k in zip(shifted, kernels, strict=True)])
    patches = jnp.concatenate(shifted, axis=-1)
    out = patches.reshape(-1, 4 * channels) @ kernel.reshape(4 * channels, features)
    return out.reshape(*patches.shape[:-1], features)


def _max_pool_piece(
    x: Float[Array, "batch height width channels"], stride: int
) -> Float[Array, "batch (height+{stride}-2)//{stride} (width+{stride}-2)//{stride} channels"]:
    if stride == 1:
        corners = [x[:, :-1, :-1], x[:, :-1, 1:], x[:, 1:, :-1], x[:, 1:, 1:]]
    else:
        b, h, w, c = x.shape
        x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c)
        corners = [x[:, :, 0, :, 0], x[:, :, 0, :, 1], x[:, :, 1, :, 0], x[:, :, 1, :, 1]]
    return functools.reduce(_first_maximum, corners)

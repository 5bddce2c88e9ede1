"""What this machine can do at most, measured the way XLA computes."""

import time

import jax
import jax.numpy as jnp

_SIZE = 2048
_ELEMENTS = 1 << 26


def matmul() -> float:
    """Floating-point operations a second in a product of two float32 matrices of 2048 x 2048."""
    a = jnp.ones((_SIZE, _SIZE))
    _product(a).block_until_ready()
    return 2 * _SIZE**3 / min(_time(_product, a) for _ in range(5))


def memory() -> float:
    """Bytes read and written a second when 256 MB are changed in place."""
    x = jnp.zeros(_ELEMENTS)
    best = float("inf")
    for _ in range(6):
        began = time.perf_counter()
        x = _add(x).block_until_ready()
        best = min(best, time.perf_counter() - began)
    return 2 * x.nbytes / best


_product = jax.jit(lambda a: a @ a)
_add = jax.jit(lambda x: x + 1, donate_argnums=0)


def _time(function, argument) -> float:
    began = time.perf_counter()
    function(argument).block_until_ready()
    return time.perf_counter() - began

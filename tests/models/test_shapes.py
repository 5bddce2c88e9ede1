"""Shapes in annotations are checked while tests run, see tests/conftest.py."""

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from fermm.models import layers
from fermm.train.losses import CrossEntropy
from fermm.train.tasks import Task


def test_a_kernel_of_other_channels_is_refused():
    assert layers.convolve_2x2(jnp.ones((3, 5, 4, 2)), jnp.ones((2, 2, 3, 6))).shape == (6, 4, 3, 2)
    with pytest.raises(TypeCheckError):
        layers.convolve_2x2(jnp.ones((3, 5, 4, 2)), jnp.ones((2, 2, 4, 6)))


@pytest.mark.parametrize("stride", [1, 2])
def test_what_pooling_returns_is_checked(stride):
    for size in (4, 5):
        pooled = layers.max_pool_2x2(jnp.ones((1, size, size, 1)), stride)
        assert pooled.shape == (1, *[(size - 1 if stride == 1 else size // 2)] * 2, 1)


def test_a_mask_of_another_type_is_refused():
    task = Task(CrossEntropy(), np.ones(7, np.float32))
    with pytest.raises(TypeCheckError):
        task.sums(None, jnp.zeros(3, jnp.int32), jnp.ones(3))

"""Settings for all tests: strict promotion, and nothing outside the test's own directory."""

import os

os.environ["KERAS_BACKEND"] = "jax"  # before anything imports Keras

import jax
import pytest


@pytest.fixture(autouse=True)
def _strict(request):
    """Implicit dtype and rank promotion are errors in our code; Keras needs both."""
    if request.node.get_closest_marker("keras"):
        yield
        return
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield

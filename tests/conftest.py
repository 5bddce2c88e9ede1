"""Settings for all tests: strict promotion, and nothing outside the test's own directory."""

import os
import pathlib

os.environ["KERAS_BACKEND"] = "jax"  # before anything imports Keras
# Most of the suite's time is XLA compiling the same few programs in test after test. Kept with
# pytest's own cache; programs are found again by their content, so nothing in it can be stale.
_CACHE = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "xla"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
# Where the environment forbids to keep bytecode, each process that a test starts would compile all
# packages again, for seconds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault("PYTHONPYCACHEPREFIX", str(_CACHE.parent / "bytecode"))

import jax  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture(autouse=True)
def _strict(request):
    """Implicit dtype and rank promotion are errors in our code; Keras needs both."""
    if request.node.get_closest_marker("keras"):
        yield
        return
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield

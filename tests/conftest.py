"""Settings for all tests: strict promotion, and nothing outside the test's own directory."""

import os
import pathlib
import sys

os.environ["KERAS_BACKEND"] = "jax"  # before anything imports Keras
# Most of the suite's time is XLA compiling the same few programs in test after test. Kept with
# pytest's own cache; programs are found again by their content, so nothing in it can be stale.
_CACHE = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "xla"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
# Where the environment forbids to keep bytecode, each process that a test starts would compile all
# packages again, for seconds. Elsewhere it lies beside the packages, from earlier processes too.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(_CACHE.parent / "bytecode"))
    # What this process imports, the workers that it starts need not compile, each for itself.
    sys.dont_write_bytecode, sys.pycache_prefix = False, os.environ["PYTHONPYCACHEPREFIX"]

_RUNS = pathlib.Path(__file__).parent.parent / "runs"

import filelock  # noqa: E402
import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

# Shapes and types in the annotations of these modules are checked whenever a function is called.
jaxtyping.install_import_hook(
    [
        *(f"fermm.models.{name}" for name in ("layers", "image", "landmarks")),
        *("fermm.train.steps", "fermm.train.tasks"),
    ],
    "beartype.beartype",
)

from fermm import experiment  # noqa: E402
from helpers.trainings import small_config  # noqa: E402

# Those that take longest come first, so that all workers end at about the same time.
_LONGEST = (
    *("train/test_devices.py", "test_notebooks.py", "test_docs.py", "train/test_interruption.py"),
    *("test_predict.py", "train/test_cores.py", "test_launch.py", "train/test_loop.py"),
    *("experiment/test_runs.py", "models/test_parity.py", "data/test_stream.py"),
)


def pytest_collection_modifyitems(items):
    tests = pathlib.Path(__file__).parent
    order = {tests / name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished run of all four networks; tests that change it copy it first.

    Made once, by the first that needs it, for all processes that share the tests.
    """
    directory = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # whose directories stand side by side
        directory = directory.parent
    with filelock.FileLock(directory / "finished.lock"):
        if not (directory / "finished").exists():
            experiment.run(small_config(report=True), directory / "making" / "run")
            (directory / "making").rename(directory / "finished")
    return directory / "finished" / "run"


@pytest.fixture(autouse=True)
def _strict(request):
    """Implicit dtype and rank promotion are errors in our code; Keras needs both."""
    if request.node.get_closest_marker("keras"):
        yield
        return
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def _runs():
    """What tells that a run was begun in the run directories of the checkout."""
    files = [*_RUNS.glob("*"), *_RUNS.glob("*/config.json"), *_RUNS.glob("*/lock")]
    return {file: file.stat().st_mtime_ns if file.is_file() else 0 for file in files}


@pytest.fixture(autouse=True)
def _leaves_the_runs_of_the_checkout_alone():
    before = _runs()
    yield
    assert _runs() == before, f"a test has written to {_RUNS}"

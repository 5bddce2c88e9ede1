"""What networks demand of their arguments, and what is demanded of networks.

Both are told in one line before anything is computed.
"""

import contextlib
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fermm.errors import InputError
from fermm.models.streams import streams
from fermm.models.types import Outputs, shapes
from fermm.samples import Feature

_PACKAGE = Path(__file__).parent.parent
# Samples in the batch that a network is tried with: no other axis is likely to be as long.
_COUNT = 5


def require_sizes(count: int | None = None, **sizes: Any) -> None:
    """Each is a number of units or filters: an integer from 1.

    Args:
        count: where each is a tuple of sizes instead: how many, 0 for any number.
        sizes: by the argument's name.

    Raises:
        InputError: one is something else.
    """
    for name, value in sizes.items():
        if count is None:
            good, need = _is_size(value), "an integer from 1"
        else:
            good = isinstance(value, tuple) and all(map(_is_size, value))
            good = good and len(value) in (count, count or len(value))
            need = f"a tuple of {f'{count} ' * bool(count)}integers from 1"
        if not good:
            raise InputError(f"arguments.{name} is {value!r}, needs {need}")


def require_rates(**rates: Any) -> None:
    """Each is a share of units that dropout sets to zero: from 0 to less than 1.

    Raises:
        InputError: one is something else.
    """
    for name, value in rates.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise InputError(f"arguments.{name} is {value!r}, needs a number from 0, less than 1")


def require_images(images: Any) -> None:
    """Images are uint8: floats may have been divided by 255 before, which the network does itself.

    Raises:
        InputError: they have another type.
    """
    if images.dtype != np.uint8:
        raise InputError(
            f"images are {images.dtype} {tuple(images.shape)}; the image network needs uint8, grey "
            "levels from 0 to 255, and divides by 255 itself"
        )


def inputs_of(module: nn.Module) -> tuple[str, ...]:
    """The features that a network reads.

    Raises:
        InputError: it does not say so.
    """
    names = getattr(module, "inputs", None)
    if not isinstance(names, tuple | list) or not names:
        raise InputError(
            "its class needs `inputs`, a tuple of the features that it reads, such as ('images',)"
        )
    return tuple(names)


def check_network(
    module: nn.Module, features: Mapping[str, Feature], classes: int
) -> dict[str, Any]:
    """Checks that a network does what training and evaluation ask of one; computes nothing.

    Args:
        module: the network or fusion.
        features: what the data have.
        classes: how many logits it needs.

    Returns:
        The shapes and types of its variables.

    Raises:
        InputError: it lacks a method, reads a feature that there is not, raises something itself,
            or returns arrays of other shapes or types than it has to.
    """
    known = ", ".join(features)
    names = inputs_of(module)
    for name in names:
        if name not in features:
            raise InputError(
                f"it reads the feature {name!r}, which the data do not have; they have {known}"
            )
    for method in ("encode", "classify", "__call__"):
        if not callable(getattr(type(module), method, None)):
            raise InputError(f"its class needs the method `{method}`, see docs/extending.md")
    inputs = shapes(features, names, _COUNT)
    with telling("cannot be initialised"):
        variables = jax.eval_shape(module.init, jax.random.key(0), inputs)
    for collection in variables:
        if collection not in ("params", "batch_stats"):
            raise InputError(
                f"it has variables in the collection {collection!r}, which are not kept from step "
                "to step: use `params`, or `batch_stats` for running statistics"
            )
    if not jax.tree.leaves(variables.get("params", {})):
        raise InputError("it has no parameters")

    def encode(variables: Any, inputs: Any) -> Any:
        return module.apply(variables, inputs, train=False, method="encode")

    def classify(variables: Any, embedding: Any) -> Any:
        return module.apply(variables, embedding, train=False, method="classify")

    def train(variables: Any, inputs: Any, mask: jax.Array, key: jax.Array) -> Any:
        return module.apply(
            variables,
            inputs,
            train=True,
            mask=mask,
            rngs=dict.fromkeys(streams(module), key),
            mutable=["batch_stats"],
        )

    with telling("`encode` fails with train=False"):
        embedding = jax.eval_shape(encode, variables, inputs)
    for x in (leaves := jax.tree.leaves(embedding)):
        _require_array(x, "`encode`")
        if x.shape[:1] != (_COUNT,):
            raise InputError(
                f"`encode` returns {_of(x)} for {_COUNT} samples: the first axis is theirs"
            )
    if not leaves:
        raise InputError("`encode` returns no array")
    with telling("`classify` fails with train=False"):
        outputs = jax.eval_shape(classify, variables, embedding)
    _check_outputs(outputs, "`classify`", classes)
    mask = jax.ShapeDtypeStruct((_COUNT,), jnp.bool_)
    with telling("fails in training (train=True, with a mask)"):
        outputs, changed = jax.eval_shape(train, variables, inputs, mask, jax.random.key(0))
    _check_outputs(outputs, "`__call__`", classes)
    before, after = variables.get("batch_stats", {}), changed.get("batch_stats", {})
    same = str(jax.tree.structure(before)) == str(jax.tree.structure(after))
    if not same or any(
        _of(a) != _of(b)
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    ):
        raise InputError("training changes shapes or types of its `batch_stats`, or adds to them")
    return variables


def _check_outputs(outputs: Any, method: str, classes: int) -> None:
    if not isinstance(outputs, Outputs):
        raise InputError(
            f"{method} returns {type(outputs).__name__}, needs fermm.models.Outputs(features, "
            "logits); in a fusion it is the head that returns it"
        )
    for name, x in outputs._asdict().items():
        _require_array(x, f"{method}, as {name},")
        if len(x.shape) != 2 or x.shape[0] != _COUNT or not jnp.issubdtype(x.dtype, jnp.floating):
            raise InputError(
                f"{method} returns {name} as {_of(x)} for {_COUNT} samples, needs floating-point "
                f"numbers ({_COUNT}, {'...' if name == 'features' else classes})"
            )
    if outputs.logits.shape[1] != classes:
        raise InputError(f"{method} returns {outputs.logits.shape[1]} logits for {classes} classes")


def _require_array(x: Any, what: str) -> None:
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        raise InputError(f"{what} returns {type(x).__name__}, needs an array")


def _of(x: Any) -> str:
    return f"{x.dtype} {tuple(x.shape)}"


@contextlib.contextmanager
def telling(what: str) -> Iterator[None]:
    """Tells any error within as an InputError that begins with `what`, and where it was raised."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if "site-packages" not in frame.filename
            and _PACKAGE not in Path(frame.filename).parents
        ]
        where = f" in {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        raise InputError(f"{what}{where}: {type(error).__name__}: {reason}") from error


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1

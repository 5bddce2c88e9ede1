"""Layers with running statistics that are frozen along with their parameters.

Freezing goes by parameter path, for every layer of every network: no class needs a field for it,
and no layer a name.
"""

import contextlib
import inspect
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import flax.linen as nn
from flax import traverse_util

from fermm.errors import InputError

Path = tuple[str, ...]

# What tells a layer to use its running statistics and to leave them alone, the first that its
# method takes: Flax's own layers, and the words that layers of others use.
_ARGUMENTS: dict[str, bool] = {
    "use_running_average": True,  # nn.BatchNorm
    "update_stats": False,  # nn.SpectralNorm
    "train": False,
    "training": False,
}


def frozen_layers(
    trained: Mapping[str, Any], frozen: Mapping[str, Any], statistics: Mapping[str, Any]
) -> frozenset[Path]:
    """The paths of the layers whose running statistics stay as they are.

    A layer is frozen if none of its parameters is trained. A layer that has no parameters, such as
    `nn.BatchNorm(use_scale=False, use_bias=False)`, goes by those of the module that holds it, or
    of the nearest one above that has any.

    Args:
        trained: nested dict of the parameters that are trained.
        frozen: nested dict of the others.
        statistics: nested dict of the running statistics (the collection `batch_stats`).
    """
    moving, known = _modules(trained), _modules(trained) | _modules(frozen)
    layers = {path[:-1] for path in traverse_util.flatten_dict(statistics)}

    def owner(layer: Path) -> Path:
        while layer and layer not in known:
            layer = layer[:-1]
        return layer

    return frozenset(layer for layer in layers if owner(layer) not in moving)


def _modules(params: Mapping[str, Any]) -> set[Path]:
    """The paths of all modules that hold one of `params`, themselves or further below."""
    paths = traverse_util.flatten_dict(params)
    return {path[:end] for path in paths for end in range(len(path))}


class Frozen:
    """Keeps the running statistics of some layers while a network is applied in training.

    Args:
        layers: their paths, see `frozen_layers`.
    """

    def __init__(self, layers: Collection[Path]) -> None:
        self._layers = layers

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the layers normalise by their running statistics, whatever they are told.

        Raises:
            InputError: a layer does not take any argument that says so.
        """
        called: set[Path] = set()
        told: set[Path] = set()

        def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            module = context.module
            if module.scope is None or module.path not in self._layers:
                return call(*args, **kwargs)
            if context.method_name == "setup":
                return call(*args, **kwargs)
            called.add(module.path)
            signature = inspect.signature(context.orig_method)
            fields = {name for name in _ARGUMENTS if getattr(module, name, None) is not None}
            name = next((n for n in _ARGUMENTS if n in signature.parameters or n in fields), None)
            if name is None:
                return call(*args, **kwargs)
            told.add(module.path)
            if name in fields:  # as in nn.BatchNorm(use_running_average=...), instead of the call
                before = getattr(module, name)
                object.__setattr__(module, name, _ARGUMENTS[name])  # of this application alone
                try:
                    return call(*args, **kwargs)
                finally:
                    object.__setattr__(module, name, before)
            bound = signature.bind(*args, **kwargs)
            bound.arguments[name] = _ARGUMENTS[name]
            return call(*bound.args, **bound.kwargs)

        with nn.intercept_methods(intercept):
            yield
        for layer in sorted(called - told):
            raise InputError(
                f"the frozen layer {'/'.join(layer) or 'at the top'} keeps running statistics, but "
                "its method has no argument by which it can be told to use them and leave them "
                f"alone: give it one of {', '.join(_ARGUMENTS)}, or train one of its parameters"
            )

    def keep(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
        """`after`, running statistics, with those of the layers as they are in `before`."""
        old, new = traverse_util.flatten_dict(before), traverse_util.flatten_dict(after)
        return traverse_util.unflatten_dict(
            {path: old[path] if path[:-1] in self._layers else x for path, x in new.items()}
        )

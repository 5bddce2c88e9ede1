"""Architectures drawn from the Flax modules themselves (paper, figures 6 to 9).

Nothing is listed by hand: a network is traced, not run, and what it calls is drawn in that order.
Every call of a module gets a named scope in the traced program, which tells to which call an
operation belongs. Functions between modules are drawn where they have a name: activations,
concatenation, flattening, and whatever stands in a `jax.named_scope`. Arithmetic is not drawn.
"""

import dataclasses
import itertools
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import matplotlib as mpl
import numpy as np
from flax.traverse_util import flatten_dict
from jax.extend import core
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from fermm import models
from fermm.data.faces import EMOTIONS
from fermm.evaluate import figures
from fermm.models.landmarks import PARTS, PartLayer
from fermm.models.specs import MODALITIES, Spec
from fermm.models.types import shapes

# An axis of this size is the batch: a prime that no layer is likely to have as its width.
_BATCH = 1009
_INPUTS = shapes(("images", "landmarks"), _BATCH)
# Functions that are boxes of their own; others are written into the box before.
_BOXES = ("concatenate", "stack", "flatten")


@dataclasses.dataclass(eq=False)
class Layer:
    """One box: an input, a call of a module, or a function between modules."""

    part: str  # "image", "landmarks" or "head" of a fusion, else ""
    name: str  # of the module in its part, or what the function or the input is called
    kind: str  # class of the module, or "input", "function", or "box" (of several operations)
    shape: tuple[int, ...]  # returned, without the batch; of pictures height, width, channels
    about: tuple[str, ...] = ()  # class, settings, functions after it: ("Dense", ..., "relu")
    path: tuple[str, ...] = ("",)  # of the module, ("",) if it is none
    parameters: int = 0  # of a module that is called twice, the first time
    trained: int = 0  # of the parameters
    statistics: int = 0  # values that are not parameters
    weights: bool = False  # returns nothing that has a batch
    taken: bool = False  # is read by the head of a fusion


def layers(spec: Spec, trained: Collection[str] | None = None) -> list[Layer]:
    """The layers of the network that `spec` describes, in order of execution.

    A module that calls others, and has no parameters beside theirs, is shown as these.

    Args:
        spec: see `fermm.models.specs`.
        trained: paths of the parameters that are trained (`meta["trained"]` of a checkpoint). None
            means all, or of a fusion those of the head, as in the paper.

    Raises:
        InputError: of `models.build`.
    """
    # Its plain form has an operation for each layer.
    network: Any = models.build(spec, plain=True)
    inputs = {name: _INPUTS[name] for name in network.inputs}
    variables = jax.eval_shape(lambda x: network.init(jax.random.key(0), x), inputs)
    sizes = {path: leaf.size for path, leaf in flatten_dict(variables).items()}
    fusion = models.is_fusion(spec)
    if trained is None:
        trained = ["/".join(path[1:]) for path in sizes if not fusion or path[1] == "head"]
    calls: dict[str, Layer] = {}  # by the names of their scopes
    holders: set[tuple[str, ...]] = set()  # modules that call others

    def note(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        """Notes a call of a module, and has its operations stand in a scope."""
        path, kind, count = context.module.path, type(context.module).__name__, len(calls)
        part, scope = path[0] if fusion and path else "", f"call {count}"
        name = "/".join(path[1:] if part and path[1:] else path) or kind
        calls[scope] = layer = Layer(part, name, kind, (), _about(context.module), path)
        with jax.named_scope(scope):
            out = call(*args, **kwargs)
            arrays = [x for x in jax.tree.leaves(out) if isinstance(x, jax.Array)]
            if any(c.path != path for c in list(calls.values())[count:]):
                holders.add(path)
            elif arrays:  # an operation, for layers that have none, like dropout
                out = jax.lax.optimization_barrier(out)
        layer.shape = _sample(arrays[-1].shape) if arrays else ()
        layer.weights = all(_sample(x.shape) == x.shape for x in arrays)
        return out

    with nn.intercept_methods(note):
        # A new function each time: JAX keeps traces by function, and these would lack the scopes.
        program = jax.make_jaxpr(lambda *args: network.apply(*args))(variables, inputs)
    found = [
        Layer(part, name, "input", _sample(_INPUTS[name].shape), (_INPUTS[name].dtype.name,))
        for part in (MODALITIES if fusion else ("",))
        for name in (getattr(network, part) if part else network).inputs
    ]
    _read(program.jaxpr, calls, holders - {path[1:-1] for path in sizes}, found)
    for layer in found:
        for path in [p for p in sizes if p[1 : 1 + len(layer.path)] == layer.path]:
            size, is_parameter = sizes.pop(path), path[0] == "params"
            layer.parameters += size * is_parameter
            layer.trained += size * (is_parameter and "/".join(path[1:]) in trained)
            layer.statistics += size * (not is_parameter)
    return found


def _about(module: nn.Module) -> tuple[str, ...]:
    """The module's class, and its fields that differ from their defaults."""
    found = [type(module).__name__]
    if isinstance(module, PartLayer) and module.name in PARTS:
        found.append(f"{PARTS[module.name].stop - PARTS[module.name].start} points")
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        if field.name != "name" and isinstance(value, int | float | str | tuple):
            text = "x".join(map(str, value)) if isinstance(value, tuple) else value
            if value not in (field.default, "float32"):
                found.append(f"{field.name} {text}".removeprefix("dtype "))
    return tuple(found)


def _sample(shape: Sequence[int]) -> tuple[int, ...]:
    """Without the batch; of pictures that lie as (C, H, W, B), (H, W, C)."""
    if len(shape) == 4 and shape[3] == _BATCH:
        return (*shape[1:3], shape[0])
    return tuple(n if n % _BATCH else n // _BATCH for n in shape if n != _BATCH)


def _steps(jaxpr: core.Jaxpr, outer: Sequence[str] = ()) -> Iterator[tuple[Any, str, Any, Any]]:
    """Of each operation: scopes, name ("" for arithmetic), what it reads, what it returns."""
    # Functions that JAX spells out, instead of naming them, are told by their operations.
    spelt = {
        name: [eqn.primitive.name for eqn in jax.make_jaxpr(getattr(nn, name))(np.eye(2)).eqns]
        for name in ("gelu", "softmax", "sigmoid", "tanh")
    }
    equations: Any = jaxpr.eqns
    while equations:
        eqn, operation, end = equations[0], equations[0].primitive.name, 1
        scopes = [*outer, *(scope.name for scope in eqn.source_info.name_stack.stack)]
        programs = [getattr(value, "jaxpr", value) for value in eqn.params.values()]
        inner = [s for p in programs if isinstance(p, core.Jaxpr) for s in _steps(p, scopes)]
        name = operation if operation in _BOXES else ""
        if any(step[0] != scopes for step in inner):  # modules, e.g. in `nn.remat`
            yield from inner
        elif inner:  # a function that is compiled or has a derivative of its own
            name = eqn.params.get("name", inner[0][1])
        elif operation == "reshape":
            before, after = (_sample(v.aval.shape) for v in (eqn.invars[0], eqn.outvars[0]))
            name = "flatten" if len(after) == 1 and sum(n > 1 for n in before) > 1 else ""
        for function, operations in spelt.items():
            if [e.primitive.name for e in equations[: len(operations)]] == operations:
                name, end = function, len(operations)
        name = "" if name.startswith(("_", "<")) else name.replace("_", " ")
        yield scopes, name, eqn.invars, equations[end - 1].outvars
        equations = equations[end:]


def _read(jaxpr: core.Jaxpr, calls: dict[str, Layer], holders: Any, found: list[Layer]) -> None:
    """Adds the layers of a program to the inputs in `found`."""
    made: dict[Any, Layer] = {}  # which layer an array comes from
    opened: Any = None  # the box that goes on as long as the scopes are the same
    for scopes, name, reads, returns in _steps(jaxpr):
        marks = [scope for scope in scopes if scope in calls]
        module = next((calls[m] for m in marks if calls[m].path not in holders), None)
        part, last, shape = calls[marks[-1]].part, found[-1], returns[0].aval.shape
        named = scopes[scopes.index(marks[-1]) + 1 :]
        then = (name,) if name else ()
        sources = [made[v] for v in reads if isinstance(v, core.Var) and v in made]
        opened = opened if opened == (last, scopes) else None
        for layer in sources:
            layer.taken |= part == "head" != layer.part
        if module:
            found += [] if module in found else [module]
        elif _sample(shape) == shape:
            continue  # no batch: computed from weights
        elif opened and (named or name not in _BOXES):
            last.shape, last.about = _sample(shape), last.about + then
        elif named or (last.weights and name not in _BOXES):
            # What uses weights is called like the method that does, which Flax makes a scope.
            title = named[-1] if named else scopes[-2:][0].split(".")[-1]
            found.append(Layer(part, title.replace("_", " "), "box", _sample(shape), then))
            opened = (found[-1], scopes)
        elif name not in _BOXES and last in sources and last.part == part:
            last.about += then
        elif name:
            found.append(Layer(part, name, "box" if name in _BOXES else "function", _sample(shape)))
        if found[-1].part == part:
            made.update(dict.fromkeys(returns, found[-1]))


# Lengths are in inches. Light tints of the colours of Okabe & Ito only help: boxes have words.
_GAP, _LINE, _SPACE, _PAD, _LIST = 0.19, 0.15, 0.1, 0.07, 3.55
_WHITE, _OTHER, _FROZEN, _BAR, _INK = "#FFFFFF", "#F3DFEA", "#E6E6E6", "#CCCCCC", "#333333"
_PLAIN = {"input": "#FBF7C5", "function": _WHITE, "box": _WHITE}
_FILLS = {"conv": "#D3EAF8", "dense": "#FBE6C4", "norm": "#CFEBE0", "dropout": "#CFEBE0"}
_ARROW = {"arrowstyle": "-|>", "mutation_scale": 7, "color": _INK, "shrinkA": 0, "shrinkB": 0}


def save(stem: Path, spec: Spec, caption: str, trained: Collection[str] | None = None) -> None:
    """Draws what a network consists of (paper, figures 6 to 9).

    Of a fusion, the two networks are lists, and the head is shown in full.

    Args:
        stem: path of the files, without suffix.
        spec: see `fermm.models.specs`; `meta["spec"]` of a checkpoint.
        caption: above the figure, with the numbers of parameters below it.
        trained: as in `layers`; `meta["trained"]` of a checkpoint.

    Raises:
        InputError: of `models.build`.
    """
    found = layers(spec, trained)
    parts = MODALITIES if models.is_fusion(spec) else ()
    softmax = Layer("", "softmax", "input", (len(EMOTIONS),), EMOTIONS)
    rows = _rows([*(layer for layer in found if layer.part not in parts), softmax])
    page = 7.4 if parts or max(map(len, rows)) > 1 else 5.3
    figure = Figure()
    axes = figure.add_axes((0, 0, 1, 1))
    total, changed, statistics = _sums(found)
    text = f"{changed:,} trained parameters" + f", {total - changed:,} frozen" * (total > changed)
    text += f", {statistics:,} running statistics" * (statistics > 0)
    _text(axes, page / 2, 0.16, caption, 9, int(11 * page), ha="center", weight="bold")
    _text(axes, page / 2, 0.34, text, 8, ha="center")
    y = 0.5  # how far the drawing goes
    above: list[float] = []  # the middles of the boxes above
    if parts:
        lists = [[layer for layer in found if layer.part == part] for part in parts]
        above = [_SPACE + _LIST / 2, page - _SPACE - _LIST / 2]
        height = 0.3 + _LINE * max(len(_rows(one)) for one in lists)
        for x, part, one in zip(above, parts, lists, strict=True):
            title = f"{part}: {spec[part].get('model', spec[part].get('head'))}"
            _list(axes, x - _LIST / 2, y, height, title, one)
        y += height
    for i, row in enumerate(rows):
        alone = max(map(len, rows[max(i - 1, 0) : i + 2])) < 3 and len(row) == 1
        width = 3.9 if alone else (page - _SPACE) / len(row) - _SPACE
        middles = [page / 2 + (j - (len(row) - 1) / 2) * (width + _SPACE) for j in range(len(row))]
        start, y = y, y + (_GAP if i else _GAP + 0.14 if parts else 0)
        for x in max(above, middles, key=len) if above else ():
            axes.annotate("", (x, y), (x, start), arrowprops=_ARROW)
        y += max([_box(axes, x - width / 2, y, width, row[j]) for j, x in enumerate(middles)])
        above = middles
    note = "Arrows: order of execution; arithmetic is left out. Bold: modules; others: functions."
    _text(axes, page / 2, y + 0.15, note, 7, ha="center")
    note = "Shapes: height x width x channels, or features. Loss and predictions add the softmax."
    _text(axes, page / 2, y + 0.29, note, 7, ha="center")
    axes.set(xlim=(0, page), ylim=(y + 0.4, 0))
    axes.axis("off")
    figure.set_size_inches(page, y + 0.4)
    with mpl.rc_context(figures.RC):
        figures.save(figure, stem)


def _sums(found: Sequence[Layer]) -> tuple[int, ...]:
    return tuple(sum(getattr(x, n) for x in found) for n in ("parameters", "trained", "statistics"))


def _rows(found: Sequence[Layer]) -> list[list[Layer]]:
    """Layers from top to bottom; in one row stand those that do not read each other."""
    rows = itertools.groupby(found, lambda x: x.kind if x.weights or x.kind == "function" else x)
    return [list(row) for _, row in rows]


def _list(axes: Axes, x: float, y: float, height: float, title: str, found: list[Layer]) -> None:
    """A part of a fusion, a line for each row of layers; below, what the head takes."""
    total, trained, _ = _sums(found)
    fill, bar, dashes = (_WHITE, _WHITE, "-") if trained else (_FROZEN, _BAR, (0, (3, 2)))
    state = "frozen" if not trained else "trained" if trained == total else f"{trained:,} trained"
    _frame(axes, x, y, _LIST, height, fc=fill, ls=dashes)
    _frame(axes, x, y, _LIST, 0.23, fc=bar, ls=dashes)
    x, right = x + _PAD, x + _LIST - _PAD
    _text(axes, x, y + 0.12, title, 8, 26, weight="bold")
    _text(axes, right, y + 0.12, f"{total:,}, {state}", 8, ha="right", weight="bold")
    for i, row in enumerate(_rows(found)):
        first, at, parameters = row[0], y + 0.26 + _LINE * (i + 0.5), _sums(row)[0]
        name = first.name if len(row) == 1 else f"{first.name} … {row[-1].name} ({len(row)})"
        about = [t for t in first.about if all(t in x.about and "features" not in t for x in row)]
        _text(axes, x, at, name, 7, 15, weight="normal" if first.kind in _PLAIN else "bold")
        _text(axes, x + 1, at, ", ".join(about), 7, 31 - len(_shape(first)))
        _text(axes, right - 0.66, at, _shape(first), 7, ha="right")
        _text(axes, right, at, f"{parameters:,}" if parameters else "", 7, ha="right")
    taken = ", ".join(layer.name for layer in found if layer.taken)
    _text(axes, x + _LIST / 2, y + height + 0.09, taken, 7, 30)


def _box(axes: Axes, x: float, y: float, width: float, layer: Layer) -> float:
    """The box of one layer; returns its height."""
    numbers = f"{layer.parameters:,} parameters" if layer.parameters else ""
    numbers += f" + {layer.statistics:,} statistics" if layer.statistics else ""
    numbers += " (frozen)" if layer.trained == 0 < layer.parameters else ""
    narrow, shape = width < 2.4, _shape(layer)
    below = (*layer.about, shape, numbers) if narrow else (", ".join(layer.about),)
    texts = [text for text in (layer.name, *below) if text]
    height = 0.12 + _LINE * len(texts)
    fills = (fill for kind, fill in _FILLS.items() if kind in layer.kind.lower())
    _frame(axes, x, y, width, height, fc=_PLAIN.get(layer.kind) or next(fills, _OTHER))
    at, ha = (x + width / 2, "center") if narrow else (x + _PAD, "left")
    for i, text in enumerate(texts):
        middle, right = y + 0.06 + _LINE * (i + 0.5), "" if narrow else numbers if i else shape
        size, weight = (7, "normal") if i else (8, "normal" if layer.kind in _PLAIN else "bold")
        _text(axes, at, middle, text, size, int(17 * width) - len(right), ha=ha, weight=weight)
        _text(axes, x + width - _PAD, middle, right, size, ha="right")
    return height


def _shape(layer: Layer) -> str:
    return "" if layer.weights else "x".join(f"{n:,}" for n in layer.shape)


def _text(axes: Axes, x: float, y: float, text: str, size: int, most: int = 99, **kw: Any) -> None:
    text = text if len(text) <= most else text[: most - 1] + "…"
    axes.text(x, y, text, size=size, va="center_baseline", **kw)


def _frame(axes: Axes, x: float, y: float, width: float, height: float, **style: Any) -> None:
    style |= {"boxstyle": "round,pad=0,rounding_size=0.04", "ec": _INK, "lw": 0.8}
    axes.add_patch(FancyBboxPatch((x, y), width, height, **style))

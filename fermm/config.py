"""Sections of a config as frozen dataclasses: defaults, documentation and checks in one place.

A section is a frozen dataclass whose fields are made by `option`. It stands beside the code that
uses it. `read` turns the nested dict that a user wrote into an instance, or says in one line what
is wrong with it; a field that is absent has its default. `explain` is what `launch.py --help`
prints.

    @dataclasses.dataclass(frozen=True)
    class Step:
        factor: float = option("what the learning rate is multiplied by", check=between(0, 1))
        epochs: tuple[int, ...] = option("before which epochs; the first is 0", default=())

Where a user chooses one of several registered sections, as for a loss or a schedule, the field has
a `Registry`: `kind` names the section, and the fields beside it are those of that section.

This module imports nothing that is slow, because `--help` needs it.
"""

import ast
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from fermm.errors import InputError

T = TypeVar("T")
Section = Mapping[str, Any]
Check = Callable[[Any], str]
"""Given a value of the right type: what it has to be instead, or "" if it is good."""

_REQUIRED: Any = dataclasses.MISSING


def option(
    doc: str,
    *,
    default: Any = _REQUIRED,
    choices: Any = None,
    check: Check | None = None,
    registry: "Registry | None" = None,
) -> Any:
    """A field of a section.

    Args:
        doc: what it means, for `--help`; one line without a full stop.
        default: its value where the user gives none; without a default the field is required. For
            a section (a dataclass, a registry's or a mapping) a mapping of its fields.
        choices: the allowed values: a collection, or a function without arguments that returns one.
            Of a tuple, those of its elements.
        check: see `Check`; of a tuple, for each of its elements.
        registry: the field is a section of one of its kinds.
    """
    metadata = {"doc": doc, "choices": choices, "check": check, "registry": registry}
    if default is _REQUIRED:
        return dataclasses.field(metadata=metadata)
    if isinstance(default, Mapping):
        return dataclasses.field(
            default_factory=lambda: types.MappingProxyType(dict(default)), metadata=metadata
        )
    return dataclasses.field(default=default, metadata=metadata)


class Registry:
    """Sections by name, of which a user chooses one.

    Attributes:
        what: what they are, such as "loss"; for messages.
        load: imports the modules that register fermm's own kinds.
    """

    def __init__(self, what: str, load: Callable[[], None] | None = None) -> None:
        self.what = what
        self._load = load
        self._kinds: dict[str, type] = {}

    def register(self, kind: str) -> Callable[[type[T]], type[T]]:
        """Class decorator for a frozen dataclass: `kind` in a config chooses it.

        Raises:
            ValueError: another class has that name.
        """

        def add(cls: type[T]) -> type[T]:
            known = self._kinds.get(kind)
            # A file may be imported twice: a config is, under another module name.
            if known is not None and known.__qualname__ != cls.__qualname__:
                raise ValueError(
                    f"the {self.what} {kind!r} is registered already, by {known.__qualname__}"
                )
            self._kinds[kind] = cls
            return cls

        return add

    @property
    def kinds(self) -> dict[str, type]:
        """The registered classes by name."""
        if self._load is not None:
            load, self._load = self._load, None
            load()
        return self._kinds

    def kind_of(self, section: Any) -> str:
        """The name under which the class of `section` is registered."""
        return next(kind for kind, cls in self.kinds.items() if cls is type(section))


def read(cls: type[T], section: Section, where: str) -> T:
    """The instance of `cls` that a user's section describes.

    Args:
        cls: a frozen dataclass whose fields were made by `option`.
        section: a nested dict, as `ConfigDict.to_dict()` gives it.
        where: its place in the config, for messages: "config.data".

    Raises:
        InputError: a field is unknown, missing, of another type or has a value it cannot have.
    """
    _need_section(section, where)
    fields = _fields(cls)
    for name in section:
        if name not in fields:
            unknown(where, name, fields)
    hints = typing.get_type_hints(cls)
    return cls(**{k: _read_field(f, hints[k], section, where) for k, f in fields.items()})


def read_kind(registry: Registry, section: Section, where: str, default: str = "") -> Any:
    """The instance of the registered class that the field `kind` of a user's section names.

    Fields that only another kind has are let pass: they stay when `kind` is overridden.

    Args:
        registry: the classes.
        section: the user's.
        where: its place in the config.
        default: the kind where the section names none.

    Raises:
        InputError: as `read`, or the kind is not registered.
    """
    _need_section(section, where)
    kinds = registry.kinds
    kind = section.get("kind", default)
    if not kind:
        raise InputError(f"{where}.kind is missing: it is one of {', '.join(sorted(kinds))}")
    if not isinstance(kind, str):
        raise InputError(f"{where}.kind is {short(kind)}, needs a string")
    if kind not in kinds:
        unknown(f"{where}.kind", kind, kinds)
    known = {name for cls in kinds.values() for name in _fields(cls)}
    for name in section:
        if name not in known | {"kind"}:
            unknown(where, name, known)
    cls = kinds[kind]
    if "kind" not in section and any(name not in _fields(cls) for name in section):
        raise InputError(f"{where}.kind is missing: it is one of {', '.join(sorted(kinds))}")
    own = {name: value for name, value in section.items() if name in _fields(cls)}
    return read(cls, own, where)


def to_dict(value: Any) -> Any:
    """The nested dict of a section, its defaults included; `read` of it gives the section again."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        result = {}
        for name, field in _fields(type(value)).items():
            inner = getattr(value, name)
            result[name] = to_dict(inner)
            registry = field.metadata["registry"]
            if registry is not None and inner is not None:
                result[name] = {"kind": registry.kind_of(inner), **result[name]}
        return result
    if isinstance(value, Mapping):
        return {name: to_dict(inner) for name, inner in value.items()}
    if isinstance(value, tuple | list):
        return [to_dict(inner) for inner in value]
    return value


def explain(cls: type, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """The path of each field below a section's class, what it means, and its default.

    A default is written as " = 3"; "" stands for a field that is required.
    """
    hints = typing.get_type_hints(cls)
    for name, field in _fields(cls).items():
        path, doc, registry = f"{prefix}{name}", field.metadata["doc"], field.metadata["registry"]
        if registry is not None:
            kinds = ", ".join(map(repr, sorted(registry.kinds)))
            yield f"{path}.kind", f"{doc}: {kinds}", _shown(_default_kind(field, registry))
            for kind, each in sorted(registry.kinds.items()):
                for below, text, default in explain(each, f"{path}."):
                    yield below, f"{kind}: {text}", default
        elif dataclasses.is_dataclass(hints[name]):
            yield from explain(typing.cast(type, hints[name]), f"{path}.")
        else:
            yield path, doc, _shown(_default(field))


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return dict(field.default_factory())
    return field.default


def _default_kind(field: dataclasses.Field[Any], registry: Registry) -> Any:
    default = _default(field)
    if isinstance(default, Mapping):
        return default.get("kind", dataclasses.MISSING)
    return default if default is dataclasses.MISSING else registry.kind_of(default)


def _shown(default: Any) -> str:
    return "" if default is dataclasses.MISSING else f" = {default!r}"


def default_of(cls: type, field: str, value: str) -> Any:
    """The default of a field below a section's class, or a value of its type where it has none.

    Args:
        cls: the class.
        field: its path, such as "schedule.patience".
        value: the text that will be read as its value; it tells the type of what may be anything.

    Raises:
        LookupError: there is no such field.
    """
    name, _, rest = field.partition(".")
    found = _fields(cls)[name]
    kind, registry = typing.get_type_hints(cls)[name], found.metadata["registry"]
    if registry is not None:
        if rest == "kind":
            return ""
        for each in registry.kinds.values():
            if rest in _fields(each):
                return default_of(each, rest, value)
        raise LookupError(field)
    if dataclasses.is_dataclass(kind):
        return default_of(typing.cast(type, kind), rest, value)
    if typing.get_origin(kind) is Mapping and rest:
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return ""
    if rest:
        raise LookupError(field)
    if found.default is not dataclasses.MISSING:
        return found.default
    return (typing.get_origin(kind) or kind)()


def differences(a: Any, b: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two nested dicts differ: path, value in `a` and in `b` (None where there is none)."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in [*a, *(k for k in b if k not in a)]:
            yield from differences(a.get(key), b.get(key), f"{path}.{key}" if path else key)
    elif a != b:
        yield path, a, b


def between(low: float, high: float) -> Check:
    """A number above `low` and below `high`."""
    return lambda x: "" if low < x < high else f"a number between {low:g} and {high:g}"


def at_least(low: int) -> Check:
    """A number from `low`."""
    return lambda x: "" if low <= x < math.inf else f"at least {low}"


def above(low: float) -> Check:
    """A finite number above `low`."""
    return lambda x: "" if low < x < math.inf else f"a number above {low:g}"


def share(x: float) -> str:
    """A number from 0 and less than 1."""
    return "" if 0 <= x < 1 else "a number from 0, less than 1"


def unknown(where: str, value: Any, known: Any) -> typing.NoReturn:
    """Refuses a name that is not among those that are known.

    Raises:
        InputError: always.
    """
    near = difflib.get_close_matches(str(value), [str(each) for each in known], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    names = ", ".join(sorted(map(str, known)))
    raise InputError(f"{where}: {short(value)} is unknown; there are {names}.{hint}")


def short(value: Any) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _fields(cls: type) -> dict[str, dataclasses.Field[Any]]:
    return {f.name: f for f in dataclasses.fields(cls) if "doc" in f.metadata}


def _read_field(field: dataclasses.Field[Any], kind: Any, section: Section, where: str) -> Any:
    name, place = field.name, f"{where}.{field.name}"
    registry, check = field.metadata["registry"], field.metadata["check"]
    if name in section:
        value = section[name]
    elif field.default is not dataclasses.MISSING:
        return field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        raise InputError(f"{place} is missing in the config file")
    if registry is not None:
        kind = _default_kind(field, registry)
        return read_kind(registry, value, place, "" if kind is dataclasses.MISSING else kind)
    if dataclasses.is_dataclass(kind):
        return read(typing.cast(type, kind), value, place)
    need = _mismatch(value, kind)
    if need:
        raise InputError(f"{place} is {short(value)}, needs {need}")
    if isinstance(value, list):
        value = tuple(value)
    if kind is float:
        value = float(value)
    choices = field.metadata["choices"]
    choices = choices() if callable(choices) else choices
    for each in value if isinstance(value, tuple) else (value,):
        if choices is not None and each not in choices:
            unknown(place, each, choices)
        if check is not None and (need := check(each)):
            raise InputError(f"{place} is {short(each)}, needs {need}")
    return value


_KINDS: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    str: ("a string", lambda x: isinstance(x, str)),
    bool: ("True or False", lambda x: isinstance(x, bool)),
    int: ("an integer", lambda x: isinstance(x, int) and not isinstance(x, bool)),
    float: ("a number", lambda x: isinstance(x, int | float) and not isinstance(x, bool)),
}


def _mismatch(value: Any, kind: Any) -> str:
    """What a value of the type `kind` would be, or "" if this is one."""
    if kind in _KINDS:
        words, test = _KINDS[kind]
        return "" if test(value) else words
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        words, test = _KINDS[inner]
        good = isinstance(value, tuple | list) and all(map(test, value))
        return "" if good else f"a list of {words.split()[-1]}s"
    if typing.get_origin(kind) is Mapping:
        return "" if isinstance(value, Mapping) else "a section"
    raise TypeError(f"an option cannot have the type {kind}")


def _need_section(section: Any, where: str) -> None:
    if not isinstance(section, Mapping):
        raise InputError(f"{where} is {short(section)}, needs a section")

"""What a sample consists of: named features described as data, a label, and where it came from.

This is the ground floor: it imports nothing of fermm but errors, and everything may import it.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from fermm.errors import InputError

SPLITS = ("train", "validation", "test")
"""What samples are used for: to train a network, to choose between networks, to report on one."""

UNKNOWN_SPLIT = -1


@dataclasses.dataclass(frozen=True)
class Feature:
    """What is known of one feature of every sample, such as its image.

    Attributes:
        shape: of one sample's value; () for a single number.
        dtype: NumPy's name of its type, of integers or floating-point numbers.
        meaning: for people: "grey levels from 0, black, to 255, white".
        low: the lowest value that makes sense, or None.
        high: the highest value that makes sense, or None.

    Raises:
        InputError: a size of the shape is not an integer from 1, or the type is not one of numbers.
    """

    shape: tuple[int, ...]
    dtype: str
    meaning: str = ""
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        sizes = self.shape if isinstance(self.shape, tuple) else (0,)
        if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sizes):
            raise InputError(
                f"the shape of a feature is {self.shape!r}, needs a tuple of integers from 1"
            )
        try:
            dtype = np.dtype(self.dtype)
        except TypeError:
            dtype = np.dtype(object)
        if dtype.kind not in "iuf":
            raise InputError(
                f"the type of a feature is {self.dtype!r}, needs one of integers or floating-point "
                "numbers, such as 'uint8' or 'float32'"
            )
        object.__setattr__(self, "dtype", dtype.name)  # one name for each type

    @property
    def values(self) -> str:
        """What its values are, for messages: "integers from 0 to 255"."""
        kind = "finite numbers" if np.dtype(self.dtype).kind == "f" else "integers"
        return f"{kind} {_limits(self)}".strip()

    def to_json(self) -> dict[str, Any]:
        """The feature in types that JSON has."""
        return {**dataclasses.asdict(self), "shape": list(self.shape)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Feature":
        """The inverse of `to_json`."""
        return cls(**{**value, "shape": tuple(value["shape"])})


class Rejected(NamedTuple):
    """A row or an image of a source that was set aside.

    Attributes:
        place: where it stands in the source: "line 4", or the name of the image.
        reason: what is wrong with it, and what to do about it.
    """

    place: str
    reason: str


class Origin(NamedTuple):
    """How landmarks were found.

    Attributes:
        method: a method of `fermm.data.landmarks.extract`; "" if there are no landmarks, or they
            come from a file or are exact.
        predictor: SHA-256 of the predictor that found them, in hexadecimal; "" if none did.
    """

    method: str = ""
    predictor: str = ""


UNKNOWN_ORIGIN = Origin()


@dataclasses.dataclass(frozen=True)
class Samples:
    """Labelled samples as named columns, one row for each sample.

    Attributes:
        features: by name, arrays (N, *shape). A column of data that stay on disk is a
            `fermm.data.stream.Column`, from which rows are taken as from an array.
        described: by the same names, what each feature is.
        labels: int32 (N,), index into `classes`.
        classes: the names of the classes.
        rows: int64 (N,), 0-based position of the sample in its source (the first data row of a CSV
            is 0). Rows that were set aside are counted.
        official: int8 (N,), the split to which the data set's authors assigned the sample: an index
            into SPLITS, or UNKNOWN_SPLIT where the source does not say.
        identity: the features that tell whether two samples are duplicates.
        votes: float32 (N, K), the share of annotators who voted for each class, or None.
        targets: float32 (N, K), the distribution to train on instead of `labels`, or None.
        rejected: what was set aside, in the order of the source.
        origin: how the landmarks were found.
    """

    features: Mapping[str, np.ndarray]
    described: Mapping[str, Feature]
    labels: np.ndarray
    classes: tuple[str, ...]
    rows: np.ndarray
    official: np.ndarray
    identity: tuple[str, ...]
    votes: np.ndarray | None = None
    targets: np.ndarray | None = None
    rejected: tuple[Rejected, ...] = ()
    origin: Origin = UNKNOWN_ORIGIN

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "Samples":
        """The samples at `indices` (int (M,)), in that order, without what was set aside.

        Columns that stay on disk still do.
        """
        return dataclasses.replace(
            self,
            features={name: _take(column, indices) for name, column in self.features.items()},
            labels=self.labels[indices],
            rows=self.rows[indices],
            official=self.official[indices],
            votes=None if self.votes is None else self.votes[indices],
            targets=None if self.targets is None else self.targets[indices],
            rejected=(),
        )

    def with_feature(self, name: str, feature: Feature, column: np.ndarray) -> "Samples":
        """The same samples with one more feature, or with another column for it."""
        return dataclasses.replace(
            self,
            features={**self.features, name: column},
            described={**self.described, name: feature},
        )

    def check(self) -> None:
        """Checks that all of this fits together.

        Values are looked at in columns that are arrays in memory.

        Raises:
            InputError: something does not; the message has no subject but the attribute.
        """
        _check_classes(self.classes)
        count = len(self.labels)
        for name in ("features", "described"):
            if not all(isinstance(key, str) and key.isidentifier() for key in getattr(self, name)):
                names = ", ".join(map(repr, getattr(self, name)))
                raise InputError(f"{name} are called {names}; give names like those of variables")
        if not self.features or self.features.keys() != self.described.keys():
            have, told = (", ".join(sorted(x)) for x in (self.features, self.described))
            raise InputError(f"features are {have or 'none'}, and described are {told or 'none'}")
        if not self.identity or not set(self.identity) <= self.features.keys():
            known = ", ".join(self.features)
            raise InputError(f"identity is {self.identity!r}, needs some of the features {known}")
        for name, feature in self.described.items():
            column = self.features[name]
            _need(name, column, feature.dtype, (count, *feature.shape))
            if isinstance(column, np.ndarray):
                _check_values(name, feature, column)
        limits = {
            "labels": Feature((), "int32", low=0, high=len(self.classes) - 1),
            "rows": Feature((), "int64", low=0),
            "official": Feature((), "int8", low=UNKNOWN_SPLIT, high=len(SPLITS) - 1),
        }
        for name, feature in limits.items():
            column = getattr(self, name)
            _need(name, column, feature.dtype, (count,))
            _check_values(name, feature, column)
        if len(np.unique(self.rows)) < count:
            raise InputError("rows have a number twice")
        share = Feature((len(self.classes),), "float32", low=0, high=1)
        for name in ("votes", "targets"):
            values = getattr(self, name)
            if values is not None:
                _need(name, values, share.dtype, (count, *share.shape))
                _check_values(name, share, values)
                off = np.abs(values.sum(1) - 1) > 1e-3
                if off.any():
                    raise InputError(f"{name} of sample {int(off.argmax())} do not add up to 1")


def _check_classes(classes: Any) -> None:
    good = isinstance(classes, tuple) and all(
        isinstance(name, str) and name and name == name.strip() and name.isprintable()
        for name in classes
    )
    if not good or len(set(classes)) < max(2, len(classes)):
        raise InputError(
            f"classes are {classes!r}, needs a tuple of two names or more, each once, on one line "
            "and without blanks around"
        )


def _need(name: str, column: Any, dtype: str, shape: tuple[int, ...]) -> None:
    seen = f"{getattr(column, 'dtype', type(column).__name__)} {getattr(column, 'shape', '')}"
    if seen != f"{dtype} {shape}":
        raise InputError(f"{name} are {seen.strip()}, need {dtype} {shape}")


def _check_values(name: str, feature: Feature, column: np.ndarray) -> None:
    if (at := first_bad(feature, column)) is not None:
        raise InputError(f"{name} of sample {at[0]} hold {column[at]}, need {feature.values}")


def first_bad(feature: Feature, column: np.ndarray) -> tuple[int, ...] | None:
    """Where the first value stands that is not finite or outside of the feature's limits, or None.

    Args:
        feature: what the column is of.
        column: (N, *shape), of the feature's dtype.

    Returns:
        Its index in `column`.
    """
    bad: Any = False
    if column.dtype.kind == "f":
        bad = ~np.isfinite(column)
    low, high = _range(column.dtype)
    if feature.low is not None and feature.low > low:
        bad |= column < feature.low
    if feature.high is not None and feature.high < high:
        bad |= column > feature.high
    return tuple(map(int, np.argwhere(bad)[0])) if np.any(bad) else None


def _range(dtype: np.dtype) -> tuple[float, float]:
    """The lowest and the highest value that an array of this type can hold."""
    if dtype.kind == "f":
        return -np.inf, np.inf
    return np.iinfo(dtype).min, np.iinfo(dtype).max


def _limits(feature: Feature) -> str:
    if feature.low is None and feature.high is None:
        return ""
    low = "" if feature.low is None else f"from {feature.low:g}"
    high = "" if feature.high is None else f"to {feature.high:g}"
    return f"{low} {high}".strip()


def _take(column: Any, indices: np.ndarray) -> Any:
    """Rows of a column: an array of an array, and a column of a column that stays on disk."""
    return column[indices] if isinstance(column, np.ndarray) else column.at(indices)


class Derived(NamedTuple):
    """A feature that is computed from others.

    Attributes:
        feature: what it is.
        reads: the features it is computed from.
        compute: takes their arrays (N, ...) in that order and returns this feature's, (N, *shape).
            The value of a sample depends on that sample alone.
    """

    feature: Feature
    reads: tuple[str, ...]
    compute: Callable[..., np.ndarray]


DERIVED: dict[str, Derived] = {}
"""The features that can be computed, by name."""

F = TypeVar("F", bound=Callable[..., np.ndarray])


def register_feature(name: str, feature: Feature, *, reads: Iterable[str]) -> Callable[[F], F]:
    """Decorator for a function that computes the feature `name` from the features `reads`.

    A network whose `inputs` name it gets it: in a run, and in `predict`, where whatever the user
    does not give is computed.

    Raises:
        ValueError: another function is registered under that name, or the feature would be computed
            from itself.
    """
    needed = tuple(reads)

    def add(function: F) -> F:
        known = DERIVED.get(name)
        if known is not None and not same_function(known.compute, function):
            raise ValueError(
                f"the feature {name!r} is registered already, by {known.compute.__qualname__}"
            )
        if name in _all_reads(needed):
            raise ValueError(f"the feature {name!r} would be computed from itself")
        DERIVED[name] = Derived(feature, needed, function)
        return function

    return add


def _all_reads(names: Iterable[str]) -> set[str]:
    """The features `names`, and all from which they are computed."""
    found: set[str] = set()
    waiting = [*names]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += DERIVED[name].reads if name in DERIVED else ()
    return found


def same_function(known: Callable[..., Any], new: Callable[..., Any]) -> bool:
    """Whether both are the same function of the same file.

    A file may be imported twice: a config is, under another module name.
    """

    def where(function: Any) -> tuple[Any, Any]:
        code = getattr(function, "__code__", None)
        return getattr(function, "__qualname__", None), getattr(code, "co_filename", None)

    return known is new or where(known) == where(new)


def as_column(name: str, feature: Feature, values: Any) -> np.ndarray:
    """Values of a feature as users hold them, as an array (N, *shape) of the feature's dtype.

    Args:
        name: of the feature, for messages.
        feature: what is expected.
        values: an array or nested lists, (N, *shape), or of one sample, `shape`; with or without a
            last axis of length 1. Integers where the feature has an integer dtype: of floats it is
            not known on which scale they are.

    Raises:
        InputError: another shape or type, a value outside of the feature's limits or of what its
            dtype holds, or one that is not a finite number; the message names the row.
    """
    whole = np.issubdtype(np.dtype(feature.dtype), np.integer)
    kind = "integers" if whole else "numbers"
    limits = f" {_limits(feature)}" if _limits(feature) else ""
    shape = ", ".join(["N", *map(str, feature.shape)]) + "," * (not feature.shape)
    meaning = f", {feature.meaning}" if feature.meaning else ""
    need = f"give {kind}{limits}, ({shape}){meaning}"
    try:
        array = np.asarray(values)
    except ValueError:
        raise InputError(f"{name}: lists of different lengths; {need}") from None
    seen = f"{name} are {array.dtype} {array.shape}"
    if array.ndim > len(feature.shape) and array.shape[-1:] == (1,) != feature.shape[-1:]:
        array = array[..., 0]
    if array.ndim == len(feature.shape):
        array = array[None]
    if array.shape[1:] != feature.shape or array.dtype.kind not in "iuf":
        raise InputError(f"{seen}; {need}")
    if whole and array.dtype.kind == "f":
        raise InputError(f"{seen}; {need}{_hint(name, feature, array)}")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
        converted = array.astype(feature.dtype, copy=False)
    _refuse_outside(name, feature, array, seen, need)
    if not whole:
        _refuse_not_finite(name, array, converted)
    return converted


def _hint(name: str, feature: Feature, array: np.ndarray) -> str:
    if not array.size or feature.low != 0 or feature.high is None:
        return ""
    low, high = array.min(), array.max()
    if low >= 0 and high <= 1:
        return (
            f"; if 1 stands for {feature.high:g}, "
            f"({feature.high:g} * {name}).round().astype({feature.dtype!r}) makes them so"
        )
    if low >= 0 and high <= feature.high and (array == array.round()).all():
        return f"; {name}.astype({feature.dtype!r}) makes them so"
    return ""


def _refuse_outside(name: str, feature: Feature, array: np.ndarray, seen: str, need: str) -> None:
    lowest, highest = _range(np.dtype(feature.dtype))
    low = lowest if feature.low is None else max(feature.low, lowest)
    high = highest if feature.high is None else min(feature.high, highest)
    lowest, highest = _range(array.dtype)
    outside: Any = np.False_
    if low > lowest:
        outside = array < low
    if high < highest:
        outside = outside | (array > high)
    if outside.any():
        at = np.argwhere(outside)[0]
        place = f" at {at[1:].tolist()}" if len(at) > 1 else ""
        raise InputError(f"{seen}, and row {at[0]} has {array[tuple(at)]}{place}; {need}")


def _refuse_not_finite(name: str, array: np.ndarray, converted: np.ndarray) -> None:
    good = np.isfinite(converted)
    if good.all():
        return
    at = np.argwhere(~good)[0]
    rows = int((~good).reshape(len(good), -1).any(1).sum())
    others = f" ({rows} rows have such numbers)" if rows > 1 else ""
    place = f" at {at[1:].tolist()}" if len(at) > 1 else ""
    raise InputError(
        f"{name}: row {at[0]} has {array[tuple(at)]}{place}, not a finite number{others}; leave "
        "the sample out, or compute it again"
    )

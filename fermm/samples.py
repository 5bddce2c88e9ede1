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
        shape: of one sample's value.
        dtype: NumPy's name of its type.
        meaning: for people: "grey levels from 0, black, to 255, white".
        low: the lowest value that makes sense, or None.
        high: the highest value that makes sense, or None.
    """

    shape: tuple[int, ...]
    dtype: str
    meaning: str = ""
    low: float | None = None
    high: float | None = None

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
        method: a method of `fermm.data.landmarks.extract`; "" if the landmarks come from a file or
            are exact.
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
        """The samples at `indices` (int (M,)), in that order, without what was set aside."""
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


def _take(column: Any, indices: np.ndarray) -> Any:
    """Rows of a column: an array of an array, and a column of a column on disk."""
    return (
        column.at(indices)
        if hasattr(column, "at") and not isinstance(column, np.ndarray)
        else column[indices]
    )


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
        ValueError: another function is registered under that name.
    """

    def add(function: F) -> F:
        known = DERIVED.get(name)
        # A file may be imported twice: a config is, under another module name.
        if known is not None and known.compute.__qualname__ != function.__qualname__:
            raise ValueError(
                f"the feature {name!r} is registered already, by {known.compute.__qualname__}"
            )
        DERIVED[name] = Derived(feature, tuple(reads), function)
        return function

    return add


def as_column(name: str, feature: Feature, values: Any) -> np.ndarray:
    """Values of a feature as users hold them, as an array (N, *shape) of the feature's dtype.

    Args:
        name: of the feature, for messages.
        feature: what is expected.
        values: an array or nested lists, (N, *shape), or of one sample, `shape`; with or without a
            last axis of length 1. Integers where the feature has an integer dtype: of floats it is
            not known on which scale they are.

    Raises:
        InputError: another shape or type, a value outside of the feature's range, or one that is
            not a finite number; the message names the row.
    """
    whole = np.issubdtype(np.dtype(feature.dtype), np.integer)
    kind = "integers" if whole else "numbers"
    limits = ""
    if feature.low is not None and feature.high is not None:
        limits = f" from {feature.low:g} to {feature.high:g}"
    shape = ", ".join(["N", *map(str, feature.shape)])
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
    low = -np.inf if feature.low is None else feature.low
    high = np.inf if feature.high is None else feature.high
    outside = (array < low) | (array > high)
    if outside.any():
        at = np.argwhere(outside)[0]
        raise InputError(
            f"{seen}, and row {at[0]} has {array[tuple(at)]} at {at[1:].tolist()}; {need}"
        )


def _refuse_not_finite(name: str, array: np.ndarray, converted: np.ndarray) -> None:
    good = np.isfinite(converted)
    if good.all():
        return
    at = np.argwhere(~good)[0]
    rows = int((~good).reshape(len(good), -1).any(1).sum())
    others = f" ({rows} rows have such numbers)" if rows > 1 else ""
    raise InputError(
        f"{name}: row {at[0]} has {array[tuple(at)]} at {at[1:].tolist()}, not a finite "
        f"number{others}; leave the sample out, or compute it again"
    )

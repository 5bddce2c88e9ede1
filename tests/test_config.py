"""Sections of a config: defaults, checks, messages, documentation."""

import dataclasses
from typing import Any

import pytest

from fermm import config
from fermm.config import Registry, Section, option
from fermm.errors import InputError

SHAPES = Registry("shape")


@SHAPES.register("circle")
@dataclasses.dataclass(frozen=True)
class Circle:
    radius: float = option("from the centre to the edge", default=1.0, check=config.above(0))


@SHAPES.register("box")
@dataclasses.dataclass(frozen=True)
class Box:
    sides: tuple[int, ...] = option("lengths", check=config.at_least(1))


@dataclasses.dataclass(frozen=True)
class Inner:
    on: bool = option("whether it is used", default=True)


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str = option("what it is called")
    colours: tuple[str, ...] = option("of it", default=(), choices=("red", "green"))
    inner: Inner = option("inside", default={})
    shape: Any = option("its shape", default={"kind": "circle"}, registry=SHAPES)
    free: Section = option("anything", default={})


def test_what_is_absent_has_its_default() -> None:
    assert config.read(Outer, {"name": "a"}, "config.x") == Outer(
        "a", (), Inner(True), Circle(1.0), {}
    )


def test_values_of_the_user_replace_defaults() -> None:
    section = {
        "name": "a",
        "colours": ["red"],
        "inner": {"on": False},
        "shape": {"kind": "box", "sides": [1, 2]},
        "free": {"a": 1},
    }
    expected = Outer("a", ("red",), Inner(False), Box((1, 2)), {"a": 1})
    read = config.read(Outer, section, "config.x")
    assert read == expected
    assert config.to_dict(read) == section
    assert config.read(Outer, config.to_dict(read), "config.x") == expected


def test_a_whole_number_is_a_number() -> None:
    read = config.read(Circle, {"radius": 2}, "config.x")
    assert read.radius == 2
    assert type(read.radius) is float


def test_fields_of_another_kind_may_stay() -> None:
    section = {"kind": "circle", "sides": (1,)}
    assert config.read_kind(SHAPES, section, "config.shape") == Circle(1.0)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "config.x.name is missing in the config file"),
        ({"name": 1}, "config.x.name is 1, needs a string"),
        ({"name": "a", "inner": 1}, "config.x.inner is 1, needs a section"),
        ({"name": "a", "inner": {"on": 1}}, "config.x.inner.on is 1, needs True or False"),
        (
            {"name": "a", "colours": ("blue",)},
            "config.x.colours: 'blue' is unknown; there are green, red.",
        ),
        ({"name": "a", "colours": "red"}, "config.x.colours is 'red', needs a list of strings"),
        (
            {"nam": "a"},
            "config.x: 'nam' is unknown; there are colours, free, inner, name, shape. "
            "Did you mean 'name'?",
        ),
        (
            {"name": "a", "shape": {"kind": "bxo"}},
            "config.x.shape.kind: 'bxo' is unknown; there are box, circle. Did you mean 'box'?",
        ),
        (
            {"name": "a", "shape": {"kind": "circle", "side": 1}},
            "config.x.shape: 'side' is unknown; there are radius, sides. Did you mean 'sides'?",
        ),
        (
            {"name": "a", "shape": {"kind": "box"}},
            "config.x.shape.sides is missing in the config file",
        ),
        (
            {"name": "a", "shape": {"kind": "circle", "radius": 0}},
            "config.x.shape.radius is 0.0, needs a number above 0",
        ),
        (
            {"name": "a", "shape": {"kind": "box", "sides": (1, 0)}},
            "config.x.shape.sides is 0, needs at least 1",
        ),
        (
            {"name": "a", "shape": {"kind": "circle", "radius": True}},
            "config.x.shape.radius is True, needs a number",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line(section: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        config.read(Outer, section, "config.x")
    assert str(error.value) == message


def test_each_field_is_explained() -> None:
    assert list(config.explain(Outer)) == [
        ("name", "what it is called", ""),
        ("colours", "of it", " = ()"),
        ("inner.on", "whether it is used", " = True"),
        ("shape.kind", "its shape: 'box', 'circle'", " = 'circle'"),
        ("shape.sides", "box: lengths", ""),
        ("shape.radius", "circle: from the centre to the edge", " = 1.0"),
        ("free", "anything", " = {}"),
    ]


def test_a_default_tells_the_type_of_an_override() -> None:
    assert config.default_of(Outer, "name", "x") == ""
    assert config.default_of(Outer, "colours", "('red',)") == ()
    assert config.default_of(Outer, "inner.on", "False") is True
    assert config.default_of(Outer, "shape.kind", "box") == ""
    assert config.default_of(Outer, "shape.sides", "(1,)") == ()
    assert config.default_of(Outer, "free.anything", "3") == 3
    assert config.default_of(Outer, "free.anything", "text") == ""
    for field in ("nothing", "inner.nothing", "shape.nothing", "name.below"):
        with pytest.raises(LookupError):
            config.default_of(Outer, field, "1")


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="the shape 'box' is registered already, by Box"):
        SHAPES.register("box")(Inner)
    assert SHAPES.register("box")(Box) is Box
    assert SHAPES.kind_of(Box((1,))) == "box"


def test_differences_are_named_by_path() -> None:
    found = list(config.differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "d": 4}))
    assert found == [("a.b", 1, 3), ("c", 2, None), ("d", None, 4)]

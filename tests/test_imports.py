"""Imports run one way: from the ground floor to whole runs, as docs/architecture.md draws them."""

import ast
import copy
import functools
import graphlib
from pathlib import Path

import pytest

import fermm

PACKAGE = Path(fermm.__file__).parent
HOMES = {
    "ground": set(),
    "data": {"ground"},
    "models": {"ground"},
    "train": {"ground", "data", "models"},
    "evaluate": {"ground", "data", "models"},
    "predict": {"ground", "data", "models", "train"},
    "experiment": {"ground", "data", "models", "train", "evaluate", "predict"},
}
"""By home, the other homes from which its modules import."""

ONLY_IN = {
    "flax.linen": ("fermm.models", "fermm.evaluate.architecture"),
    "orbax": ("fermm.train.checkpoint",),
    "optax": ("fermm.train",),
    "tensorflow_datasets": ("fermm.data",),
    "dlib": ("fermm.data.landmarks",),
    "apache_beam": ("fermm.data.beam",),
    "tensorboardX": ("fermm.train.events",),
    "matplotlib": ("fermm.evaluate",),
    "jinja2": ("fermm.evaluate",),
}
"""By library, the only modules and folders that import it."""


def name_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): ast.parse(path.read_bytes()) for path in PACKAGE.rglob("*.py")}


@functools.cache
def imports(tree, for_types=True):
    """The modules that a module imports, those within functions included.

    Of what is imported from another library, the names too. `for_types` includes what type checkers
    alone import.
    """
    return (*_imports(copy.deepcopy(tree), for_types),)


def _imports(tree, for_types):
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = node.body if for_types else []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "write imports in full"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES or whole[:5] != "fermm" else node.module


def home(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in HOMES else "ground"


@pytest.mark.parametrize("of", HOMES)
def test_a_home_imports_from_those_below_it_alone(of):
    above = {
        f"{module} imports {each}"
        for module, tree in MODULES.items()
        if home(module) == of and module != "fermm"  # which only offers the names of others
        for each in imports(tree)
        if each.startswith("fermm.") and home(each) not in HOMES[of] | {of}
    }
    assert above == set()


def test_the_homes_stand_above_one_another():
    order = [*graphlib.TopologicalSorter(HOMES).static_order()]
    assert order[0] == "ground"
    assert order[-1] == "experiment"


def test_no_module_imports_itself_by_way_of_others():
    graph = {
        module: {
            each for each in imports(tree, for_types=False) if each in MODULES and each != "fermm"
        }
        for module, tree in MODULES.items()
        if module != "fermm"
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which has the cycle


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_has_its_place(library):
    found = {
        module
        for module, tree in MODULES.items()
        if any(f"{each}.".startswith(f"{library}.") for each in imports(tree))
    }
    assert found
    homes = ONLY_IN[library]
    assert {m for m in found if not any(f"{m}.".startswith(f"{x}.") for x in homes)} == set()

"""The code outside of this package and of installed ones that a network is made by.

What a config says is compared by its values (`fermm.settings`); what the code of a user's own
networks and heads says is known by a digest of it. The digest covers

- the file of the config, and the files that register the networks and heads of a network;
- whatever these import from files that are neither installed nor of the standard library;

and of each file all but what only sets up the experiment: `get_config`, the block below
`if __name__ == "__main__":`, networks and heads that this network does not use, and what is
referred to by these alone or by nothing. So a change of `config.seeds`, or one more head, changes
no digest.
"""

import ast
import hashlib
import importlib.util
import inspect
import itertools
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fermm.models.registry import HEADS, NETWORKS
from fermm.models.specs import MODALITIES, is_fusion

_PACKAGE = Path(__file__).resolve().parent
_INSTALLED = {Path(path).resolve() for path in sysconfig.get_paths().values()} - {Path("/")}
_SETS_UP = "get_config"


def code_of(spec: Mapping[str, Any], program: Iterable[Path] = ()) -> dict[str, str]:
    """The digest of each file with code of the user's own that the network of `spec` is made by.

    Args:
        spec: see `fermm.models.specs`.
        program: further files that take part, such as that of the config.

    Returns:
        By the name of the file, 16 hexadecimal digits. Files with nothing that counts are left
        out, so that of fermm's own networks nothing is left. Code typed at a prompt or in a
        notebook stands under the name of its class.
    """
    classes = set(_classes(spec))
    found: dict[str, list[str]] = {}
    files = {path.resolve() for path in program}
    for cls in classes:
        if (file := _file_of(cls)) is None:
            found.setdefault(cls.__qualname__, []).append(_digest(_methods(cls)))
        else:
            files.add(file)
    others = {
        (_file_of(cls), cls.__qualname__)
        for cls in itertools.chain(NETWORKS.values(), HEADS.values())
        if cls not in classes
    }
    parsed = [_File(path, {n for f, n in others if f == path}) for path in sorted(_closure(files))]
    _leave_out(parsed)
    for each in parsed:
        if text := each.text():
            found.setdefault(each.name, []).append(_digest(text))
    return {
        name: digests[0] if len(digests) == 1 else _digest("\n".join(sorted(digests)))
        for name, digests in sorted(found.items())
    }


def _classes(spec: Mapping[str, Any]) -> Iterator[type]:
    registry, key = (HEADS, "head") if is_fusion(spec) else (NETWORKS, "model")
    if spec[key] in registry:
        yield registry[spec[key]]
    for part in MODALITIES:
        if part in spec:
            yield from _classes(spec[part])


def _functions(cls: type) -> Iterator[Any]:
    for value in vars(cls).values():
        function = inspect.unwrap(value) if callable(value) else None
        if inspect.isfunction(function):
            yield function


def _file_of(cls: type) -> Path | None:
    """Where a class is defined, or None: at a prompt, in a notebook."""
    module = sys.modules.get(cls.__module__)
    names = [getattr(module, "__file__", None)]
    # Of a config, which is loaded under a name of ml_collections' own, or by another module's.
    names += [f.__code__.co_filename for f in _functions(cls) if f.__module__ == cls.__module__]
    for name in reversed(names):
        if name and name.endswith(".py") and Path(name).is_file():
            return Path(name).resolve()
    return None


def _methods(cls: type) -> str:
    sources = []
    for function in _functions(cls):
        try:
            sources.append(inspect.getsource(function))
        except (OSError, TypeError):
            continue  # made by a decorator
    return "\n".join(sources)


def _is_own(path: Path) -> bool:
    if {"site-packages", "dist-packages"} & set(path.parts) or path.is_relative_to(_PACKAGE):
        return False
    return not any(path.is_relative_to(installed) for installed in _INSTALLED)


def _closure(files: Iterable[Path]) -> set[Path]:
    """`files` and what they import, as far as it is the user's own."""
    found: set[Path] = set()
    waiting = [path for path in files if _is_own(path)]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        for module in _imports(_parse(path), path):
            imported = _find(module)
            if imported is not None and _is_own(imported):
                waiting.append(imported)
    return found


def _parse(path: Path) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing the file has told them already
        try:
            return ast.parse(path.read_bytes())
        except SyntaxError:  # of a file that is only imported within a function, and never was
            return ast.Module([], [])


def _imports(tree: ast.Module, path: Path) -> Iterator[str]:
    """Names of modules that may be imported, those within functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                name = _name_of(path)
                package = name if _is_package(name) else name.rpartition(".")[0]
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join(filter(None, [*above, base]))
            modules = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for module in modules:
            parts = module.split(".")
            yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def _name_of(path: Path) -> str:
    for name, module in [*sys.modules.items()]:
        if getattr(module, "__file__", None) == str(path):
            return name
    return ""


def _is_package(name: str) -> bool:
    return hasattr(sys.modules.get(name), "__path__")


def _find(module: str) -> Path | None:
    known = sys.modules.get(module)
    file = getattr(known, "__file__", None)
    if known is None and ("." not in module or module.rpartition(".")[0] in sys.modules):
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError, AttributeError):
            return None
        file = spec.origin if spec else None
    return Path(file).resolve() if file and file.endswith(".py") else None


class _Statement:
    """A statement at the top of a file.

    Attributes:
        text: its source.
        names: that it defines, if it does nothing else; else empty.
        refers: names that stand in it.
        inert: whether it does nothing if nobody refers to these, unlike an import.
        sets_up: whether it is part of the experiment's set-up and not of its networks.
    """

    def __init__(self, node: ast.stmt, lines: list[str], others: set[str]) -> None:
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(d.lineno for d in decorators)])
        self.text = "\n".join(lines[first - 1 : node.end_lineno]).rstrip()
        self.refers = set(_words(node))
        self.names: set[str] = set()
        self.inert = isinstance(node, ast.FunctionDef | ast.Assign | ast.AnnAssign)
        self.sets_up = False
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self.sets_up = node.name == _SETS_UP or node.name in others
            if not decorators:
                self.names = {node.name}
            self.refers -= {node.name}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            self.names = {(a.asname or a.name).partition(".")[0] for a in node.names}
            self.refers = set()
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            calls = any(isinstance(below, ast.Call) for below in ast.walk(node))
            if not calls and all(isinstance(target, ast.Name) for target in targets):
                self.names = {target.id for target in targets if isinstance(target, ast.Name)}
                self.refers -= self.names
        elif isinstance(node, ast.If):
            main = {"__name__", "__main__"} <= {*_words(node.test)}
            equal = [isinstance(below, ast.Eq) for below in ast.walk(node.test)]
            self.sets_up = main and any(equal) and not node.orelse


def _words(node: ast.AST) -> Iterator[str]:
    """Names, attributes, and texts that may be names, as in getattr(module, "name")."""
    for below in ast.walk(node):
        if isinstance(below, ast.Name):
            yield below.id
        elif isinstance(below, ast.Attribute):
            yield below.attr
        elif isinstance(below, ast.alias):
            yield from below.name.split(".")
        elif isinstance(below, ast.Constant) and isinstance(below.value, str):
            yield below.value


class _File:
    """A file with code of the user's own.

    Attributes:
        name: under which it is known.
        statements: in their order; docstrings are none.
        counts: those that count.
    """

    def __init__(self, path: Path, others: set[str]) -> None:
        package = path.name == "__init__.py"
        self.name = f"{path.parent.name}/{path.name}" if package else path.name
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        self.statements = [
            _Statement(node, lines, others)
            for node in _parse(path).body
            if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        ]
        self.counts = [s for s in self.statements if not s.sets_up]

    def text(self) -> str:
        return "\n".join(statement.text for statement in self.counts)


def _leave_out(files: list[_File]) -> None:
    """Takes away what nobody refers to, or only the statements that set up the experiment."""
    while True:
        used = {name for file in files for s in file.counts for name in s.refers}
        found = False
        for file in files:
            left_out = [s for s in file.statements if s not in file.counts]
            by_those = {name for s in left_out for name in s.refers}
            for statement in file.counts:
                names = statement.names
                if names and (names <= by_those or statement.inert) and not names & used:
                    file.counts = [s for s in file.counts if s is not statement]
                    found = True
        if not found:
            return


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]

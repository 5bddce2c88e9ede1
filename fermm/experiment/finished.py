"""Whether all that a run leaves is there already, made by this very program from these very data.

A run that is called again when it is finished need neither read its data nor draw its report anew.
The file `finished.json` in its directory holds digests of all that its results depend on, and of
the results themselves; if any differs, everything but the training is done again. It also holds
the table that the run printed. So neither JAX nor SciPy is needed here, which take seconds to load.
"""

import hashlib
import json
import platform
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from fermm import rundir
from fermm.data import source
from fermm.errors import InputError
from fermm.experiment import provenance
from fermm.experiment.config import Config
from fermm.notices import doing
from fermm.rundir import RunDirectory

_PACKAGE = Path(__file__).parent.parent
# What draws and computes; the versions of the others change no result that is there.
_VERSIONS = ("jax", "flax", "numpy", "scipy", "matplotlib", "jinja2", "pillow")


def note(config: Config, directory: RunDirectory, program: Iterable[Path], table: str) -> None:
    """Writes down that a run is finished.

    Args:
        config: of the run.
        directory: of the run.
        program: see `fermm.experiment.run`.
        table: what it printed, for the next time.

    Raises:
        InputError: the file cannot be written.
    """
    state = dict(_state(config, directory, program))
    rundir.write_json(directory.finished, {**state, "table": table, "table_digest": _digest(table)})


def show(config: Config, directory: RunDirectory, program: Iterable[Path]) -> dict[str, Any] | None:
    """Prints the table of a run of which nothing is left to do.

    Args:
        config: of the run.
        directory: of the run, for which `fermm.experiment.directory.check` holds.
        program: see `fermm.experiment.run`.

    Returns:
        What `metrics.json` holds, or None if something is left to do; then nothing is printed.

    Raises:
        InputError: another run is at work there, or a checkpoint may not be read.
    """
    if not directory.finished.is_file():
        return None
    with directory.lock(), doing("looking through what is there"):
        if not is_current(config, directory, program) or _has_damage(directory):
            return None
        table = rundir.read_json(directory.finished)["table"]
        result = rundir.read_json(directory.metrics)
    print(
        f"{directory.path}: finished, nothing to do; without {directory.finished.name} the report "
        "would be drawn again",
        flush=True,
    )
    print_results(config, directory, table)
    return result


def print_results(config: Config, directory: RunDirectory, table: str) -> None:
    """Prints a run's table and where the rest is."""
    wrote = directory.report if config.run.report else directory.metrics
    print(f"\n{table}\n\nEverything is in {directory.path}; see {wrote}.", flush=True)


def is_current(config: Config, directory: RunDirectory, program: Iterable[Path]) -> bool:
    """Whether all is as it was when `note` was called, and would come out the same.

    Of checkpoints only what says what they hold is looked at, not their arrays.
    """
    try:
        noted = json.loads(directory.finished.read_bytes())
        if _digest(noted.pop("table")) != noted.pop("table_digest"):
            return False
        # The names first, which takes no time.
        if set(noted["files"]) != {_name(p, directory) for p in directory.results()}:
            return False
        for name, value in _state(config, directory, program):
            if noted.pop(name) != value or value is None:
                return False
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, InputError):
        return False  # whatever is wrong is told by the way that does everything
    return not noted


def _has_damage(directory: RunDirectory) -> bool:
    return any(
        rundir.find_damage(own.checkpoints / position.name)
        for own in directory.seeds()
        for position in rundir.positions(own.checkpoints)
    )


def _state(
    config: Config, directory: RunDirectory, program: Iterable[Path]
) -> Iterator[tuple[str, Any]]:
    """All that the results depend on, and they themselves, by name; what takes long comes last."""
    yield "directory", directory.path.resolve().name  # which is in the title of the report
    yield "config", json.loads(json.dumps(config.to_dict()))
    versions = {name: metadata.version(name) for name in _VERSIONS}
    yield "versions", {"python": platform.python_version(), **versions}
    program = [*program]
    code = {
        name: provenance.code_of(_spec(directory, name, config.run.seeds[0]), program)
        for name in config.networks
    }
    yield "code", code
    package = hashlib.sha256()
    for file in sorted(_PACKAGE.rglob("*")):
        if file.suffix in (".py", ".jinja", ".npy"):
            package.update(f"{file.relative_to(_PACKAGE)}\0{_sha256(file)}\n".encode())
    yield "package", package.hexdigest()
    yield "files", {_name(path, directory): _sha256(path) for path in directory.results()}
    yield "data", source.fingerprint(config.run.data)


def _name(path: Path, directory: RunDirectory) -> str:
    return str(path.relative_to(directory.path))


def _spec(directory: RunDirectory, network: str, seed: int) -> dict[str, Any]:
    return rundir.read_meta(rundir.locate(directory.seed(network, seed).checkpoints))["spec"]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

"""Whether all that a run leaves is there already, made by this very program from this very data.

A run that is called again when it is finished need neither read its data nor draw its report anew.
The file `finished.json` in its directory holds digests of all that its results depend on, and of
the results themselves; if any differs, everything but the training is done again. It also holds
the table that the run printed. So neither JAX nor SciPy is needed here, which take seconds to load.
"""

import hashlib
import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from fermm import provenance, settings
from fermm.data import source
from fermm.errors import InputError
from fermm.notices import doing
from fermm.paths import METRICS, REPORT
from fermm.train import checkpoint

FINISHED = "finished.json"
_PACKAGE = Path(__file__).parent
# What draws and computes; the versions of the others change no result that is there.
_VERSIONS = ("jax", "flax", "numpy", "scipy", "matplotlib", "jinja2", "pillow")
# Neither results nor anything that results are made from.
_LEFT_OUT = {FINISHED, settings.LOCK, "tensorboard"}


def note(config: Mapping[str, Any], workdir: Path, program: Iterable[Path], table: str) -> None:
    """Writes down that the run in `workdir` is finished.

    Args:
        config: of the run.
        workdir: its directory.
        program: see `fermm.experiment.run`.
        table: what it printed, for the next time.

    Raises:
        InputError: the file cannot be written.
    """
    state = dict(_state(config, workdir, program))
    settings.write_json(
        workdir / FINISHED, {**state, "table": table, "table_digest": _digest(table)}
    )


def show(
    config: Mapping[str, Any], workdir: Path, program: Iterable[Path]
) -> dict[str, Any] | None:
    """Prints the table of a run of which nothing is left to do.

    Args:
        config: of the run, for which `settings.check` and `settings.check_workdir` hold.
        workdir: its directory.
        program: see `fermm.experiment.run`.

    Returns:
        What `metrics.json` holds, or None if something is left to do; then nothing is printed.

    Raises:
        InputError: another run is at work there, or a checkpoint may not be read.
    """
    if not (workdir / FINISHED).is_file():
        return None
    with settings.lock(workdir), doing("looking through what is there"):
        if not is_current(config, workdir, program) or _has_damage(workdir):
            return None
        table = json.loads((workdir / FINISHED).read_bytes())["table"]
        result = json.loads((workdir / METRICS).read_bytes())
    print(
        f"{workdir}: finished, nothing to do; without {FINISHED} the report would be drawn again",
        flush=True,
    )
    print_results(config, workdir, table)
    return result


def print_results(config: Mapping[str, Any], workdir: Path, table: str) -> None:
    """Prints a run's table and where the rest is."""
    print(f"\n{table}")
    wrote = REPORT if config["report"] else METRICS
    print(f"\nEverything is in {workdir}; see {workdir / wrote}.", flush=True)


def is_current(config: Mapping[str, Any], workdir: Path, program: Iterable[Path]) -> bool:
    """Whether all is as it was when `note` was called, and would come out the same.

    Of checkpoints only what says what they hold is looked at, not their arrays.
    """
    try:
        noted = json.loads((workdir / FINISHED).read_bytes())
        if _digest(noted.pop("table")) != noted.pop("table_digest"):
            return False
        # The names first, which takes no time.
        if set(noted["files"]) != {str(p.relative_to(workdir)) for p in _files(workdir)}:
            return False
        for name, value in _state(config, workdir, program):
            if noted.pop(name) != value:
                return False
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, InputError):
        return False  # whatever is wrong is told by the way that does everything
    return not noted


def _has_damage(workdir: Path) -> bool:
    return any(
        checkpoint.find_damage(directory / position.name)
        for directory in workdir.glob("*/seed_*/checkpoints")
        for position in checkpoint.positions(directory)
    )


def _state(
    config: Mapping[str, Any], workdir: Path, program: Iterable[Path]
) -> Iterator[tuple[str, Any]]:
    """All that the results depend on, and they themselves, by name; what takes long comes last."""
    yield "directory", workdir.resolve().name  # which is in the title of the report
    yield "config", json.loads(json.dumps(config))
    versions = {name: metadata.version(name) for name in _VERSIONS}
    yield "versions", {"python": platform.python_version(), **versions}
    program = [*program]
    code = {
        name: provenance.code_of(_spec(workdir / name, config["seeds"][0]), program)
        for name in config["networks"]
    }
    yield "code", code
    package = hashlib.sha256()
    for file in sorted(_PACKAGE.rglob("*")):
        if file.suffix in (".py", ".jinja", ".npy"):
            package.update(f"{file.relative_to(_PACKAGE)}\0{_sha256(file)}\n".encode())
    yield "package", package.hexdigest()
    yield "files", {str(p.relative_to(workdir)): _sha256(p) for p in _files(workdir)}
    yield "data", source.fingerprint(config["data"])


def _spec(directory: Path, seed: int) -> dict[str, Any]:
    where = checkpoint.locate(directory / f"seed_{seed}" / "checkpoints")
    return checkpoint.read_meta(where)["spec"]


def _files(workdir: Path) -> list[Path]:
    """All results and what they are made from; of checkpoints what says what they hold."""
    found = []
    for path in sorted(workdir.rglob("*")):
        parts = path.relative_to(workdir).parts
        arrays = "checkpoints" in parts[:-1] and path.name not in ("meta.json", "checksums.json")
        if not arrays and parts[0] not in _LEFT_OUT and path.is_file():
            found.append(path)
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

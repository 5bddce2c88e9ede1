"""Whether all that a run leaves is there already, made by this very program from this very data.

A run that is called again when it is finished need neither read its data nor draw its report anew.
The file `finished.json` in its directory holds digests of all that its results depend on, and of
the results themselves; if any differs, everything but the training is done again.
"""

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from fermm import provenance, rundir
from fermm.data import source
from fermm.errors import InputError
from fermm.rundir import RunDirectory

_PACKAGE = Path(__file__).parent
# What draws and computes; the versions of the others change no result that is there.
_VERSIONS = ("jax", "flax", "numpy", "scipy", "matplotlib", "jinja2", "pillow")


def note(config: Mapping[str, Any], workdir: Path, program: Iterable[Path]) -> None:
    """Writes down that the run in `workdir` is finished.

    Raises:
        InputError: the file cannot be written.
    """
    rundir.write_json(RunDirectory(workdir).finished, _state(config, workdir, program))


def is_current(config: Mapping[str, Any], workdir: Path, program: Iterable[Path]) -> bool:
    """Whether all is as it was when `note` was called, and would come out the same."""
    try:
        noted = json.loads(RunDirectory(workdir).finished.read_bytes())
        # The names first, which takes no time.
        names = {str(p.relative_to(workdir)) for p in RunDirectory(workdir).results()}
        if set(noted["files"]) != names:
            return False
        return noted == _state(config, workdir, program)
    except (OSError, ValueError, TypeError, KeyError, RecursionError, InputError):
        return False  # whatever is wrong is told by the way that does everything


def _state(config: Mapping[str, Any], workdir: Path, program: Iterable[Path]) -> dict[str, Any]:
    data = source.fingerprint(config["data"])
    program = [*program]
    package = hashlib.sha256()
    for file in sorted(_PACKAGE.rglob("*")):
        if file.suffix in (".py", ".jinja", ".npy"):
            package.update(f"{file.relative_to(_PACKAGE)}\0{_sha256(file)}\n".encode())
    return {
        "directory": workdir.resolve().name,  # which is in the title of the report
        "config": json.loads(json.dumps(config)),
        "data": data,
        "package": package.hexdigest(),
        "code": {
            name: provenance.code_of(_spec(workdir, name, config["seeds"][0]), program)
            for name in config["networks"]
        },
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in _VERSIONS},
        },
        "files": {str(p.relative_to(workdir)): _sha256(p) for p in RunDirectory(workdir).results()},
    }


def _spec(workdir: Path, network: str, seed: int) -> dict[str, Any]:
    where = rundir.locate(RunDirectory(workdir).seed(network, seed).checkpoints)
    return rundir.read_meta(where)["spec"]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

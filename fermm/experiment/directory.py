"""Whose directory it is: a run directory belongs to one config, one set of data and one program."""

import contextlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fermm import config as config_lib
from fermm import rundir
from fermm.data.source import Source
from fermm.errors import InputError
from fermm.experiment import config as run_config
from fermm.experiment import provenance
from fermm.experiment.config import Config
from fermm.rundir import RunDirectory

if TYPE_CHECKING:  # it imports JAX, which takes seconds and is not needed to refuse a directory
    from fermm.experiment.plan import Job

_LOST = "put it back from a copy, or choose another --workdir"

# What may differ when a run directory is used again: it changes what is done, not how.
_MAY_DIFFER = (
    "networks",
    "seeds",
    "report",
    "tensorboard",
    "parallel",
    "checkpoint_minutes",
    "keep",
    "accept_changed_code",
    "debug_nans",
    "evaluate",
    "data.path",
    "data.title",
    "data.votes",
    "data.cache_dir",
    "data.predictor",
    "data.streaming",
    "data.workers",
)
_MAY_DIFFER_OF_NETWORKS = ("seeds_at_once",)


def check(config: Config, directory: RunDirectory) -> None:
    """Checks that the directory is this config's, or free; writes nothing.

    A field that its config does not have, because it is older, has the default there.

    Raises:
        InputError: it is another config's, holds something else, or cannot be written.
    """
    path = directory.path
    nearest = next(each for each in (path, *path.parents) if each.exists())
    if nearest.is_dir() and not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(
            f"{path}: cannot be written (no right to write to {nearest}); choose another --workdir"
        )
    if directory.config.is_file():
        there = rundir.read_json(directory.config, _LOST)
        for field, old, new in _differences(there, config, directory):
            raise InputError(
                f"{path}: a run with another config: config.{field} is {config_lib.short(old)} "
                f"there and {config_lib.short(new)} now; choose another --workdir, or the same "
                "config"
            )
    elif not directory.may_be_begun():
        raise InputError(
            f"{path}: not empty, and not the directory of a run; choose another --workdir"
        )


def _differences(
    there: Mapping[str, Any], config: Config, directory: RunDirectory
) -> Iterable[tuple[str, Any, Any]]:
    """The fields by which a noted config differs from this one in what may not differ."""
    with contextlib.suppress(InputError):  # of another version, or damaged: compared as it is
        there = run_config.read(there).to_dict()
    now = json.loads(json.dumps(config.to_dict()))
    networks = {*config.networks, *config.others}
    begun = {own.path.parent.name for own in directory.seeds()}
    for field, old, new in config_lib.differences(json.loads(json.dumps(there)), now):
        name, _, rest = field.partition(".")
        added_or_removed = (
            not rest and (old is None or new is None) and isinstance(old or new, dict)
        )
        free = any(field == each or field.startswith(f"{each}.") for each in _MAY_DIFFER)
        free |= name in networks and (rest in _MAY_DIFFER_OF_NETWORKS or name not in begun)
        if not free and not added_or_removed:
            yield field, old, new


def check_for_splits(directory: RunDirectory) -> None:
    """Checks that the directory may hold a run for each seed of the split; writes nothing.

    Raises:
        InputError: it holds something else.
    """
    path = directory.path
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: not a directory; choose another --workdir")
    for name in directory.foreign_to_splits():
        raise InputError(
            f"{path}: holds {name}, so it is not the directory of a run over several splits "
            "(config.split_seeds); choose another --workdir"
        )


def claim(config: Config, source: Source, directory: RunDirectory) -> None:
    """Makes the directory that of this config and these data.

    Args:
        config: the config, for which `check` holds.
        source: its data.
        directory: the directory.

    Raises:
        InputError: the run was begun with other data, or the directory cannot be written.
    """
    if directory.data.is_file():
        noted = rundir.read_json(directory.data).get("identity", {})
        for field, old, new in config_lib.differences(noted, source.identity):
            raise InputError(
                f"{directory.path}: the run was begun with other data: {field or 'identity'} is "
                f"{config_lib.short(old)} there and {config_lib.short(new)} now; choose another "
                "--workdir, or the same data"
            )
    samples = source.samples
    rundir.write_json(directory.config, config.to_dict())
    rundir.write_json(
        directory.data,
        {
            "title": source.title,
            "notes": list(source.notes),
            "classes": list(samples.classes),
            "features": {name: each.to_json() for name, each in samples.described.items()},
            "identity": source.identity,
        },
    )


def check_code(config: Config, directory: RunDirectory, jobs: "Sequence[Job]") -> None:
    """Checks that networks that are averaged or fused are of one program.

    Raises:
        InputError: a checkpoint was made by another, and `config.accept_changed_code` is off.
    """
    others: dict[Path, list[str]] = {}
    for job in jobs:
        for seed in config.run.seeds:
            own = directory.seed(job.name, seed)
            if before := code_before(own.checkpoints):
                others[own.path] = _differing(before[-1]["files"], job.code)
            for member in job.members:
                of = job.member_directory(directory, member, seed)
                if before := code_before(of.checkpoints):
                    # Only what registers it: its run may have had another config file.
                    now = provenance.code_of(job.spec["members"][member])
                    then = before[-1]["files"]
                    shared = now.keys() & then.keys()
                    found = [file for file in _differing(now, then) if file in shared]
                    others.setdefault(of.path, found)
    changed = {path: names for path, names in others.items() if names}
    if changed and not config.run.accept_changed_code:
        names = ", ".join(sorted({name for found in changed.values() for name in found}))
        raise InputError(
            f"{', '.join(map(str, changed))}: trained by other code of your own than there is now, "
            f"{names} differs; bring that code back, choose another --workdir, or set "
            "config.accept_changed_code, of which the report will tell"
        )


def code_before(checkpoints: Path) -> list[dict[str, Any]]:
    """What the last checkpoint says of the code that took part, see `code_so_far`."""
    for position in reversed(rundir.positions(checkpoints)):
        try:
            code = rundir.read_meta(checkpoints / position.name)["code"]
            return [{"epoch": int(each["epoch"]), "files": dict(each["files"])} for each in code]
        except (InputError, KeyError, TypeError, ValueError):
            continue  # damaged, which is dealt with where training begins
    return []


def code_so_far(checkpoints: Path, now: dict[str, str]) -> list[dict[str, Any]]:
    """All code by which a network has been trained, in order: "epoch" (begun in) and "files"."""
    before = code_before(checkpoints)
    if before and before[-1]["files"] == now:
        return before
    epoch = rundir.positions(checkpoints)[-1].epoch + 1 if before else 1
    return [*before, {"epoch": epoch, "files": now}]


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))

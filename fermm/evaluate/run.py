"""What a run left in its directory, read back: all that its evaluation needs.

Neither the features of its samples nor the code that trained its networks are needed for it.
"""

import errno
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fermm import rundir
from fermm.errors import InputError
from fermm.evaluate import paper
from fermm.evaluate.reference import NOTHING, Reference
from fermm.rundir import Modalities, Predictions, RunDirectory, RunSamples, SeedDirectory
from fermm.samples import Feature

# What evaluation reads of each file, and its types; a list has entries of the given one.
_CONFIG: dict[str, Any] = {
    "networks": [str],
    "seeds": [int],
    "evaluate": {"splits": [str]},
    "data": {},
}
_DATA: dict[str, Any] = {
    "title": str,
    "notes": list,
    "classes": [str],
    "features": {},
    "identity": {"split": str, "split_seed": int, "sizes": {}},
}
_META: dict[str, Any] = {
    "parameters": int,
    "spec": {"arguments": {}},
    "trained": object,
    "inputs": [str],
    "features": {},
    "code": [dict],
    "versions": {"fermm": str, "jax": str, "flax": str},
    "machine": {"devices": str, "cores": object},
}
_LOST = "put it back from a copy, or choose another --workdir"


class Trained(NamedTuple):
    """A network of one seed.

    Attributes:
        seed: the seed of its training.
        meta: what its last checkpoint says, see docs/formats.md.
        history: a row for each epoch, see `fermm.rundir.HISTORY_COLUMNS`.
        predictions: by split, with the votes of the samples if there are any.
        modalities: of a fusion, for the assessed split; else None.
    """

    seed: int
    meta: Mapping[str, Any]
    history: list[dict[str, float]]
    predictions: dict[str, Predictions]
    modalities: Modalities | None

    @property
    def seconds(self) -> float:
        """The seconds of training and validation, all epochs."""
        return sum(row["seconds"] for row in self.history)

    @property
    def members(self) -> dict[str, Any]:
        """By name, the specs of the members of a fusion; empty for any other network."""
        return self.meta["spec"].get("members", {})


class Run(NamedTuple):
    """A run.

    Attributes:
        directory: where it is.
        config: as in its `config.json`.
        title: what the samples are, for captions.
        data_notes: what a reader should know of its samples and their split.
        classes: the names of the classes.
        features: by name, the features that the samples have.
        identity: what tells its data from others, see `fermm.data.source.Source`.
        samples: its samples.
        networks: by name, one for each seed.
        reference: published numbers to stand beside its own.
    """

    directory: RunDirectory
    config: Mapping[str, Any]
    title: str
    data_notes: tuple[str, ...]
    classes: tuple[str, ...]
    features: Mapping[str, Feature]
    identity: Mapping[str, Any]
    samples: RunSamples
    networks: dict[str, list[Trained]]
    reference: Reference = NOTHING

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that were evaluated."""
        return tuple(self.config["evaluate"]["splits"])

    @property
    def assessed(self) -> str:
        """The split on which networks are compared: the last of `splits`."""
        return self.splits[-1]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of which all networks were trained."""
        return tuple(self.config["seeds"])

    @property
    def titles(self) -> dict[str, str]:
        """By name, what each network is called in tables and figures."""
        return {name: self.reference.titles.get(name, name) for name in self.networks}

    @property
    def synthetic(self) -> bool:
        """Whether its samples are synthetic."""
        return self.config["data"].get("source") == "synthetic"

    @property
    def code_notes(self) -> tuple[str, ...]:
        """What a reader should know of how its networks came about: changes of their code."""
        found = []
        for name, seeds in self.networks.items():
            last = [trained.meta["code"][-1]["files"] for trained in seeds]
            changed = {file for a in last for file in differing(a, last[0])}
            if changed:
                found.append(
                    f"The seeds of {name} were trained by different programs: "
                    f"{', '.join(sorted(changed))} was changed between them."
                )
            for trained in seeds:
                for before, after in itertools.pairwise(trained.meta["code"]):
                    files = ", ".join(differing(before["files"], after["files"]))
                    found.append(
                        f"The program of {name}, seed {trained.seed}, was changed in or after "
                        f"epoch {after['epoch']}: {files} differs."
                    )
        own = any(t.meta["code"][-1]["files"] for seeds in self.networks.values() for t in seeds)
        if own and self.config.get("accept_changed_code"):
            found.append(
                "The run was last called with config.accept_changed_code: what had been trained "
                "may have been evaluated by code that was changed since."
            )
        return tuple(found)


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ, in order."""
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def load(path: Path) -> Run:
    """Reads a run directory.

    Raises:
        InputError: it is none, the run was not finished, or a file in it is damaged.
    """
    directory = RunDirectory(path)
    config = _read_json(directory.config, _CONFIG, _LOST)
    data = _read_json(directory.data, _DATA, rundir.ANEW)
    classes = tuple(data["classes"])
    with rundir.refuse_damage(directory.data):
        features = {name: Feature.from_json(of) for name, of in data["features"].items()}
    missing = f"the run is not finished: start it again with --workdir {path}"
    try:
        samples = rundir.read_samples(directory.samples)
        if len(samples.class_weights) != len(classes):
            raise InputError(
                f"{directory.samples}: of {len(samples.class_weights)} classes, and "
                f"{directory.data.name} names {len(classes)}: one of the two is damaged; delete "
                "both and run again: the run writes them anew"
            )
        networks = {
            name: [
                _load_trained(directory.seed(name, seed), seed, config, samples, classes)
                for seed in config["seeds"]
            ]
            for name in config["networks"]
        }
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: missing; {missing}") from None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        what = "a network, seed or split is too long for a file name"
        raise InputError(f"{directory.config}: damaged ({what}); {_LOST}") from None
    specs = {name: seeds[0].meta["spec"] for name, seeds in networks.items()}
    return Run(
        directory,
        config,
        data["title"],
        tuple(map(str, data["notes"])),
        classes,
        features,
        data["identity"],
        samples,
        networks,
        paper.reference(classes, data["identity"], specs),
    )


def _load_trained(
    own: SeedDirectory,
    seed: int,
    config: Mapping[str, Any],
    samples: RunSamples,
    classes: tuple[str, ...],
) -> Trained:
    names = config["evaluate"]["splits"]
    if not rundir.epochs(own.checkpoints):
        raise FileNotFoundError(errno.ENOENT, "no checkpoint", str(own.checkpoints))
    where = rundir.locate(own.checkpoints)
    with rundir.refuse_damage(where, "delete this epoch and run again: it is trained again"):
        meta = rundir.read_meta(where)
        _check_fields(meta, _META)
        for entry in meta["code"]:
            _check_fields(entry, {"epoch": int, "files": {}})
        if "members" in meta["spec"]:
            _check_fields(meta["spec"], {"head": str, "members": {}})
            _check_fields(meta["spec"]["members"], {name: {} for name in meta["spec"]["members"]})
    history = rundir.read_history(own.history)
    predictions = {}
    for name in names:
        file = own.predictions(name)
        predictions[name] = _same_samples(
            file, rundir.read_predictions(file, len(classes)), samples.of(name)
        )
    modalities, file = None, own.modalities(names[-1])
    if file.is_file():
        modalities = rundir.read_modalities(file, len(classes))
        _same_samples(file, modalities, samples.of(names[-1]))
    return Trained(seed, meta, history, predictions, modalities)


def _same_samples(file: Path, found: Any, samples: RunSamples) -> Any:
    """What was read of `file`, with the votes of its samples, which are those of `samples.npz`."""
    order, expected = np.argsort(found.rows), np.argsort(samples.rows)
    for name in ("rows", "labels"):
        if not np.array_equal(getattr(found, name)[order], getattr(samples, name)[expected]):
            raise InputError(
                f"{file}: of other samples than samples.npz says, one of the two is damaged; "
                "delete both and run again: the run writes them anew"
            )
    if samples.votes is None or not isinstance(found, Predictions):
        return found
    votes = np.empty_like(samples.votes)
    votes[order] = samples.votes[expected]
    return found._replace(votes=votes)


def _read_json(file: Path, fields: Mapping[str, Any], remedy: str) -> Any:
    if not file.exists():
        raise InputError(f"{file.parent}: not the directory of a run: {file.name} is missing")
    value = rundir.read_json(file, remedy)
    with rundir.refuse_damage(file, remedy):
        _check_fields(value, fields)
    return value


def _check_fields(value: Any, fields: Mapping[str, Any], where: str = "") -> None:
    """That `value` has the fields that evaluation reads, of their types.

    Raises:
        ValueError: it does not.
    """
    for name, kind in fields.items():
        path = f"{where}{name}"
        if not isinstance(value, dict) or name not in value:
            raise ValueError(f"{path} is missing")
        found = value[name]
        if isinstance(kind, dict):
            if not isinstance(found, dict):
                raise ValueError(f"{path} is no object")
            _check_fields(found, kind, f"{path}.")
        elif isinstance(kind, list):
            if not isinstance(found, list) or not found:
                raise ValueError(f"{path} is no list, or empty")
            if not all(isinstance(x, kind[0]) for x in found):
                raise ValueError(f"{path} has an entry that is no {kind[0].__name__}")
        elif not isinstance(found, kind):
            raise ValueError(f"{path} is no {kind.__name__}")

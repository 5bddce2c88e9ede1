"""The plan of a run: its jobs in the order in which they can be done, checked before any work.

A job trains one network from all seeds of the run. Whether its parts exist, whether it can be
built, trained and evaluated on data like these, and by what code, is worked out here, once.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from fermm import models, rundir
from fermm.errors import InputError
from fermm.experiment import provenance
from fermm.experiment.config import Config, MemberConfig, NetworkConfig
from fermm.models import checks
from fermm.paths import expand
from fermm.rundir import RunDirectory, SeedDirectory
from fermm.samples import Feature
from fermm.train import partition, steps, updates
from fermm.train.config import refuse_augmentation_of_outputs
from fermm.train.tasks import Task


class Job(NamedTuple):
    """A network that is to be trained from all seeds.

    Attributes:
        name: in the config.
        config: its section.
        spec: how to build it, see `fermm.models.building`.
        members: of a fusion, by name, where they come from.
        inputs: the features that it reads.
        trained: paths of the parameters that are trained.
        parameters: how many these are.
        total: how many parameters there are.
        code: digests of the user's code that makes it, see `fermm.experiment.provenance`.
    """

    name: str
    config: NetworkConfig
    spec: dict[str, Any]
    members: dict[str, MemberConfig]
    inputs: tuple[str, ...]
    trained: frozenset[str]
    parameters: int
    total: int
    code: dict[str, str]

    @property
    def keeps_outputs(self) -> bool:
        """Whether it is trained on outputs of frozen members that are computed once."""
        heads_alone = all(path.startswith("head/") for path in self.trained)
        return bool(self.members) and heads_alone and self.config.reuse_frozen_outputs

    def member_directory(self, directory: RunDirectory, member: str, seed: int) -> SeedDirectory:
        """Where a member of this fusion is, for the fusion of a seed.

        Args:
            directory: that of the run.
            member: its name.
            seed: of the fusion.
        """
        return locate_member(self.members[member], directory, seed)

    def __str__(self) -> str:
        kind = f"head {self.config.head!r} over" if self.members else f"model {self.config.model!r}"
        members = ", ".join(_describe(name, each) for name, each in self.members.items())
        trains = "" if self.parameters == self.total else f"{self.parameters:,} of "
        return (
            f"{self.name}: {kind}{' ' * bool(members)}{members}; reads {', '.join(self.inputs)}; "
            f"trains {trains}{self.total:,} parameters for {self.config.epochs} epochs"
        )


def _describe(name: str, member: MemberConfig) -> str:
    where = f" of {member.run}" if member.run else ""
    seed = f", seed {member.seed}" if member.seed >= 0 else ""
    if not where and not seed and member.network == name:
        return name
    return f"{name} ({member.network}{where}{seed})"


def order(config: Config) -> list[str]:
    """The networks of the run, each after its members.

    Raises:
        InputError: a fusion is a member of itself.
    """
    ordered: list[str] = []

    def add(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            chain = " of ".join(reversed((*above[above.index(name) :], name)))
            raise InputError(f"config.{name}.members: {chain}: a fusion is a member of itself")
        if name in ordered:
            return
        for each in config.networks[name].member_configs.values():
            if not each.run and each.network in config.networks and each.seed < 0:
                add(each.network, (*above, name))
        ordered.append(name)

    for name in config.networks:
        add(name, ())
    return ordered


def locate_member(member: MemberConfig, directory: RunDirectory, seed: int) -> SeedDirectory:
    """Where a member is, for the fusion of a seed."""
    run = RunDirectory(expand(member.run)) if member.run else directory
    return run.seed(member.network, seed if member.seed < 0 else member.seed)


def check_members(config: Config, directory: RunDirectory) -> None:
    """Checks that members which this run does not train are there, before hours of work.

    Raises:
        InputError: one is missing, not trained to its end, or damaged.
    """
    for name, section in config.networks.items():
        for member, each in section.member_configs.items():
            seeds = config.run.seeds if each.seed < 0 else (each.seed,)
            if not each.run and each.network in config.networks and {*seeds} <= {*config.run.seeds}:
                continue
            for seed in seeds:
                where = locate_member(each, directory, seed)
                if not _is_trained(where.checkpoints):
                    raise InputError(
                        f"{where.path}: no trained network for config.{name}.members.{member}: add "
                        f"{each.network!r} to config.networks, or name the run directory that "
                        f"trained it in config.{name}.members.{member}.run"
                    )
                rundir.refuse_damaged_checkpoint(rundir.locate(where.checkpoints))


def _is_trained(checkpoints: Path) -> bool:
    """Whether there is a checkpoint of the last epoch that its own run wanted."""
    kept = rundir.epochs(checkpoints)
    if not kept:
        return False
    meta = rundir.read_meta(checkpoints / str(kept[-1]))
    return kept[-1] >= meta["config"][meta["network"]]["epochs"]


def inputs_of(config: Config, directory: RunDirectory) -> tuple[str, ...]:
    """The features that the networks of the run read, in the order in which they name them.

    Raises:
        InputError: a network cannot be made, or does not say what it reads.
    """
    names: dict[str, None] = {}
    specs: dict[str, Any] = {}
    for name in order(config):
        specs[name] = _spec(config, name, specs, directory)
        with _of_network(name), checks.telling("cannot be made"):
            names |= dict.fromkeys(checks.inputs_of(models.build(specs[name])))
    return tuple(names)


def make(
    config: Config,
    directory: RunDirectory,
    program: Sequence[Path],
    features: Mapping[str, Feature],
    classes: int,
    *,
    distributions: bool,
) -> list[Job]:
    """The jobs of the run in their order, each checked.

    Args:
        config: of the run.
        directory: of the run; nothing is written.
        program: files with code of the user's that takes part, such as that of the config.
        features: what the data have.
        classes: how many there are.
        distributions: whether networks are trained on distributions over the classes.

    Raises:
        InputError: a network cannot be built, trained or evaluated on such data.
    """
    jobs: dict[str, Job] = {}
    specs: dict[str, Any] = {}
    for name in order(config):
        section = config.networks[name]
        spec = models.complete(_spec(config, name, specs, directory), classes)
        specs[name] = spec
        with _of_network(name):
            with checks.telling("cannot be made"):
                module = models.build(spec)
            variables = checks.check_network(module, features, classes)
            params = variables["params"]
            trained = partition.trained_paths(params, section.trainable)
            job = Job(
                name,
                section,
                spec,
                section.member_configs,
                tuple(module.inputs),
                trained,
                _count(partition.split(params, trained)[0]),
                _count(params),
                provenance.code_of(spec, program),
            )
            with checks.telling("its training step fails"):
                opt_state = steps.check_step(
                    models.build(spec, trained),
                    variables,
                    trained,
                    task=Task(section.loss, np.ones(classes, np.float32)),
                    transform=updates.make(section, 1).transform,
                    augmentations=section.augmentations(f"config.{name}"),
                    features=features,
                    classes=classes,
                    distributions=distributions,
                )
        updates.check_state(opt_state, f"config.{name}.optimizer")
        if job.keeps_outputs:
            refuse_augmentation_of_outputs(section, f"config.{name}")
        jobs[name] = job
    return list(jobs.values())


def _spec(
    config: Config, name: str, specs: Mapping[str, Any], directory: RunDirectory
) -> dict[str, Any]:
    """The spec of a network, given those of the networks before it."""
    section = config.networks[name]
    spec: dict[str, Any] = {"arguments": dict(section.arguments)}
    if not section.is_fusion:
        return {"model": section.model, **spec}
    members = {}
    for member, each in section.member_configs.items():
        if not each.run and each.network in specs:
            members[member] = specs[each.network]
            continue
        where = locate_member(each, directory, config.run.seeds[0])
        members[member] = rundir.read_meta(rundir.locate(where.checkpoints))["spec"]
    return {"head": section.head, **spec, "members": members}


@contextlib.contextmanager
def _of_network(name: str) -> Iterator[None]:
    """Says in an InputError which network it is about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"config.{name}: {error}") from None


def _count(params: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(params))

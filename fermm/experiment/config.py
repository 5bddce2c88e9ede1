"""The config of a run as dataclasses; imports nothing slow, for `launch.py --help`."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from fermm import config
from fermm.config import Section, option
from fermm.data import source
from fermm.data.config import DataConfig
from fermm.errors import InputError
from fermm.paths import expand
from fermm.samples import SPLITS
from fermm.train.config import TrainConfig

PARALLEL = ("none", "batch", "seeds", "cores")
KEEP = ("all", "restore", "last")
_DTYPES = ("float32", "bfloat16")


def _seed(x: int) -> str:
    return "" if 0 <= x < 2**31 else "an integer from 0 to 2**31 - 1"


@dataclasses.dataclass(frozen=True)
class MemberConfig:
    """Where a member of a fusion comes from."""

    network: str = option("the name of a network, in config.networks or in the other run")
    run: str = option("the run directory that trained it; empty: this run", default="")
    seed: int = option(
        "the seed of that network; -1: the seed of the fusion",
        default=-1,
        check=lambda x: "" if -1 <= x < 2**31 else "an integer from -1 to 2**31 - 1",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig(TrainConfig):
    """A network or a fusion, and how it is trained."""

    model: str = option('the registered name of a network: "nn1", "nn2"', default="")
    head: str = option(
        'of a fusion, the registered name of its head: "decision", "feature"', default=""
    )
    arguments: Section = option("fields of the class of that network or head", default={})
    members: Section = option(
        "of a fusion, its members by name, each with network, run and seed", default={}
    )
    reuse_frozen_outputs: bool = option(
        "of a fusion, whether the outputs of frozen members are computed once, not in every step",
        default=True,
    )

    @property
    def is_fusion(self) -> bool:
        """Whether it is a fusion."""
        return bool(self.head)

    @property
    def member_configs(self) -> dict[str, MemberConfig]:
        """The members of a fusion by name; `check` has looked at them."""
        return {
            name: config.read(MemberConfig, section, f"members.{name}")
            for name, section in self.members.items()
        }

    def check(self, where: str) -> None:
        """Checks what concerns several fields.

        Args:
            where: its place, for messages: "config.image".

        Raises:
            InputError: it is neither a network nor a fusion, or a field makes no sense.
        """
        super().check(where)
        if bool(self.model) == bool(self.head):
            raise InputError(f"{where} needs either a model (a network) or a head (a fusion)")
        if self.head and not self.members:
            raise InputError(
                f"{where}.members is empty: name the networks to fuse, such as "
                f"--{where}.members.image.network=image"
            )
        if self.members and not self.head:
            raise InputError(f"{where} has members but no head: {where}.head chooses one")
        for name, section in self.members.items():
            member = config.read(MemberConfig, section, f"{where}.members.{name}")
            if member.run:
                expand(member.run)
        dtype = self.arguments.get("dtype", "float32")
        if dtype not in _DTYPES:
            config.unknown(f"{where}.arguments.dtype", dtype, _DTYPES)


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """What is evaluated at the end."""

    splits: tuple[str, ...] = option(
        "the splits to evaluate; figures and comparisons are about the last",
        default=SPLITS,
        choices=SPLITS,
    )


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The config of a run, without the sections of its networks."""

    networks: tuple[str, ...] = option("the networks to train, each with a section of its name")
    data: DataConfig = option("the samples")
    seeds: tuple[int, ...] = option(
        "one training of each network for each: initialisation, order of samples, dropout",
        default=(0,),
        check=_seed,
    )
    split_seeds: tuple[int, ...] = option(
        "a whole run for each, in WORKDIR/split_<seed>, instead of one with data.split_seed; () "
        "for one run",
        default=(),
        check=_seed,
    )
    evaluate: EvaluateConfig = option("the evaluation", default={})
    report: bool = option("whether to draw figures and write report.html at the end", default=True)
    tensorboard: bool = option(
        "whether to write TensorBoard event files, to WORKDIR/tensorboard", default=False
    )
    parallel: str = option(
        '"none", or over all devices of all processes: "batch" (a share of each batch on each) or '
        '"seeds" (some of those trained at once on each); or "cores": several seeds at a time on a '
        'CPU, one on each core, about 1.6 times as fast as "none" for eight seeds of NN2',
        default="none",
        choices=PARALLEL,
    )
    checkpoint_minutes: float = option(
        "after how many minutes a checkpoint is written within an epoch",
        default=10.0,
        check=config.above(0),
    )
    keep: str = option(
        'what stays of the checkpoints of a finished network: "all"; "restore", the last epoch and '
        'the best without the state of the optimizer; or "last", the last alone of these',
        default="all",
        choices=KEEP,
    )
    accept_changed_code: bool = option(
        "go on where code of your own (networks, heads, what they import) is not that by which "
        "this run was trained so far; the report tells of it",
        default=False,
    )
    debug_nans: bool = option(
        "whether JAX looks for the operation that makes a NaN: nothing is compiled, which is very "
        "slow (jax_debug_nans, jax_disable_jit)",
        default=False,
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole config.

    Attributes:
        run: all but the sections of networks.
        networks: the sections of the networks in `run.networks`, by name.
        others: those of other networks, which the config file has and this run does not train.
    """

    run: RunConfig
    networks: dict[str, NetworkConfig]
    others: dict[str, NetworkConfig]

    def to_dict(self) -> dict[str, Any]:
        """The nested dict, with defaults, in types that JSON has."""
        sections = {**self.networks, **self.others}
        result = config.to_dict(self.run)
        return result | {name: _section(section) for name, section in sections.items()}


def read(given: Mapping[str, Any]) -> Config:
    """The config that a user's nested dict describes; checks all that needs no data.

    Raises:
        InputError: the first field that makes no sense.
    """
    own = {field.name for field in dataclasses.fields(RunConfig)}
    sections = {k: v for k, v in given.items() if k not in own and isinstance(v, Mapping)}
    for name in given.get("networks") or ():
        if name in given and name not in sections:
            raise InputError(f"config.{name} is {config.short(given[name])}, needs a section")
    run = config.read(RunConfig, {k: v for k, v in given.items() if k not in sections}, "config")
    for field in ("networks", "seeds"):
        if not getattr(run, field):
            raise InputError(f"config.{field} is empty: give at least one")
    for field in ("networks", "seeds", "split_seeds"):
        values = getattr(run, field)
        if len(set(values)) < len(values):
            raise InputError(f"config.{field} {values} names something twice")
    if not run.evaluate.splits:
        raise InputError("config.evaluate.splits is empty: give at least one")
    for name in run.networks:
        if name not in sections:
            config.unknown("config.networks", name, sections)
    networks = {}
    for name, section in sections.items():
        networks[name] = config.read(NetworkConfig, section, f"config.{name}")
        networks[name].check(f"config.{name}")
        for member, each in networks[name].member_configs.items():
            if not each.run and each.network not in sections:
                config.unknown(f"config.{name}.members.{member}.network", each.network, sections)
    source.check(run.data)
    return Config(
        run,
        {name: networks[name] for name in run.networks},
        {name: section for name, section in networks.items() if name not in run.networks},
    )


def explain() -> Iterator[tuple[str, str, str]]:
    """Each field that a config may have, as `fermm.config.explain` gives it.

    The sections of networks stand under `<network>`, the members of a fusion under `<member>`.
    """
    yield from config.explain(RunConfig)
    yield from config.explain(NetworkConfig, "<network>.")
    yield from config.explain(MemberConfig, "<network>.members.<member>.")


def default_of(field: str, value: str) -> Any:
    """The default of a field, or a value of its type where it has none.

    Args:
        field: its path, such as "image.schedule.patience".
        value: the text that will be read as its value; it tells the type of what may be anything,
            such as an argument of a network.

    Raises:
        LookupError: there is no such field.
    """
    first, _, rest = field.partition(".")
    if first in {each.name for each in dataclasses.fields(RunConfig)}:
        return config.default_of(RunConfig, field, value)
    member = re.fullmatch(r"members\.[^.]+\.([^.]+)", rest)
    if member:
        return config.default_of(MemberConfig, member[1], value)
    return config.default_of(NetworkConfig, rest, value)


def _section(section: NetworkConfig) -> dict[str, Any]:
    members = {name: config.to_dict(each) for name, each in section.member_configs.items()}
    return config.to_dict(section) | {"members": members}

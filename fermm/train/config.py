"""How a network is trained, as a section of a config; imports nothing slow, for `--help`."""

import dataclasses

from fermm import config
from fermm.config import Section, above, at_least, option
from fermm.errors import InputError
from fermm.train.augmentation import AUGMENTATIONS, Augmentation
from fermm.train.averaging import Average
from fermm.train.losses import LOSSES, CrossEntropy, Loss
from fermm.train.optimizers import OPTIMIZERS, Adam, Optimizer
from fermm.train.schedules import SCHEDULES, Constant, Schedule


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What training reads of a network's section.

    The section of a network is a subclass, which adds what the network is.
    """

    epochs: int = option("passes over the training samples", check=at_least(1))
    batch_size: int = option("samples in a training step", check=at_least(1))
    learning_rate: float = option("of the optimizer, before any schedule", check=above(0))
    seeds_at_once: int = option(
        "how many of config.seeds are trained at once, in one compiled function; with parallel "
        '"cores" rounded up to a multiple of the cores, each seed by itself',
        default=1,
        check=at_least(1),
    )
    trainable: tuple[str, ...] = option(
        "regular expressions over parameter paths, the first match decides; '!' before one freezes",
        default=(".*",),
    )
    loss: Loss = option("what is made small", default=CrossEntropy(), registry=LOSSES)
    optimizer: Optimizer = option(
        "how gradients become updates", default=Adam(), registry=OPTIMIZERS
    )
    schedule: Schedule = option(
        "how the learning rate changes", default=Constant(), registry=SCHEDULES
    )
    augment: tuple[str, ...] = option(
        "random changes of the training samples, in this order: names of augmentations",
        default=(),
        choices=lambda: AUGMENTATIONS.kinds,
    )
    augmentation: Section = option(
        "the parameters of augmentations, by name: augmentation.shift.pixels", default={}
    )
    average: Average = option("averaging of the weights", default=Average())

    def augmentations(self, where: str) -> tuple[Augmentation, ...]:
        """The augmentations in their order.

        Args:
            where: the network's section, for messages: "config.image".

        Raises:
            InputError: a parameter is unknown or has a value it cannot have, also of an
                augmentation that `augment` does not name.
        """
        kinds = AUGMENTATIONS.kinds
        read: dict[str, Augmentation] = {}
        for name in [*self.augmentation, *self.augment]:
            if name not in kinds:
                config.unknown(f"{where}.augmentation", name, kinds)
            section = self.augmentation.get(name, {})
            read[name] = config.read(kinds[name], section, f"{where}.augmentation.{name}")
        return tuple(read[name] for name in self.augment)

    def check(self, where: str) -> None:
        """Checks what concerns several fields.

        Args:
            where: the network's section, for messages: "config.image".

        Raises:
            InputError: the augmentations make no sense, or the schedule for so many epochs.
        """
        self.augmentations(where)
        if problem := self.schedule.check(self.epochs):
            raise InputError(f"{where}.schedule: {problem}")


def refuse_augmentation_of_outputs(train: TrainConfig, where: str) -> None:
    """Checks that nothing is augmented before a network that reads kept outputs of its members.

    Args:
        train: of the network.
        where: the network's section, for the message: "config.fusion".

    Raises:
        InputError: something is.
    """
    if train.augment:
        raise InputError(
            f"{where}.augment changes samples, but the outputs of the frozen members are computed "
            f"once: set {where}.reuse_frozen_outputs to False, or leave {where}.augment empty"
        )

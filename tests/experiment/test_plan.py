"""The plan of a run: its order, what is refused before any work, and what it says."""

import pytest

from fermm import experiment
from fermm.errors import InputError
from fermm.experiment import config as run_config
from fermm.experiment import plan
from fermm.faces import EMOTIONS, FEATURES
from fermm.rundir import RunDirectory
from helpers.trainings import small_config


def make(config, tmp_path):
    return plan.make(
        run_config.read(config),
        RunDirectory(tmp_path),
        [],
        FEATURES,
        len(EMOTIONS),
        distributions=False,
    )


OWN = {
    "augmentation of kept outputs": (
        "feature_fusion",
        {"augment": ("flip",)},
        "config.feature_fusion.augment changes samples, but the outputs of the frozen members are "
        "computed once: set config.feature_fusion.reuse_frozen_outputs to False, or leave "
        "config.feature_fusion.augment empty",
    ),
    "augmentation of something else": (
        "image",
        {"augment": ("flip", "noise")},
        "config.image: the augmentation Noise changes landmarks, but the network reads images",
    ),
    "warm-up": (
        "image",
        {"schedule": {"kind": "cosine", "warmup_epochs": 2}},
        "config.image.schedule: warmup_epochs is 2 of 2 epochs, needs to be fewer",
    ),
    "decay": (
        "image",
        {"optimizer": {"kind": "adamw", "weight_decay": -1.0}},
        "config.image.optimizer.weight_decay is -1.0, needs at least 0",
    ),
    "loss": (
        "image",
        {"loss": {"kind": "hinge"}},
        "config.image.loss.kind: 'hinge' is unknown; there are cross_entropy.",
    ),
}


@pytest.mark.parametrize(("name", "section", "message"), OWN.values(), ids=OWN.keys())
def test_a_training_that_does_not_fit(tmp_path, name, section, message):
    config = small_config(networks=("image", "landmarks", "feature_fusion"))
    config[name] |= section
    with pytest.raises(InputError) as error:
        experiment.run(config, tmp_path / "run")
    assert str(error.value) == message
    assert not (tmp_path / "run").exists()


def test_frozen_members_that_are_computed_anew_may_be_augmented(tmp_path):
    config = small_config(networks=("image", "landmarks", "feature_fusion"))
    config["feature_fusion"] |= {"augment": ("flip", "noise"), "reuse_frozen_outputs": False}
    jobs = make(config, tmp_path)
    assert [job.keeps_outputs for job in jobs] == [False, False, False]


def test_a_plan_is_ordered_and_says_what_is_done(tmp_path):
    """A fusion comes after its members, whatever the order in which the config names them."""
    config = small_config(networks=("outer", "decision_fusion", "landmarks", "image"))
    config["outer"] = config["feature_fusion"] | {
        "members": {"points": {"network": "landmarks"}, "pair": {"network": "decision_fusion"}},
        "trainable": ("head/.*", "!.*"),
    }
    jobs = make(config, tmp_path)
    assert [job.name for job in jobs] == ["landmarks", "image", "decision_fusion", "outer"]
    assert jobs[-1].inputs == ("landmarks", "images")
    assert jobs[-1].keeps_outputs
    assert str(jobs[-1]) == (
        "outer: head 'feature' over points (landmarks), pair (decision_fusion); reads landmarks, "
        "images; trains 3,143 of 631,981 parameters for 2 epochs"
    )


def test_a_fusion_that_is_a_member_of_itself(tmp_path):
    config = small_config(networks=("image", "landmarks", "feature_fusion"))
    config["feature_fusion"]["members"]["image"]["network"] = "feature_fusion"
    with pytest.raises(InputError) as error:
        make(config, tmp_path)
    assert str(error.value) == (
        "config.feature_fusion.members: feature_fusion of feature_fusion: a fusion is a member of "
        "itself"
    )

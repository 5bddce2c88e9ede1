"""What a network has to be, looked at before anything is trained."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import pytest

from fermm import experiment, models
from fermm.errors import InputError
from fermm.models import Outputs, register, register_head, registry
from helpers.trainings import small_config


class Good(nn.Module):
    inputs: ClassVar = ("landmarks",)
    classes: int = 7

    def setup(self):
        self.hidden, self.logits = nn.Dense(5), nn.Dense(self.classes)

    def encode(self, inputs, *, train, mask=None):
        return self.hidden(inputs["landmarks"].reshape(inputs["landmarks"].shape[0], -1))

    def classify(self, embedding, *, train):
        return Outputs(embedding, self.logits(embedding))

    def __call__(self, inputs, *, train=False, mask=None):
        return self.classify(self.encode(inputs, train=train, mask=mask), train=train)


def method(name, function, base=Good):
    return type("Bad", (base,), {name: function, "__annotations__": {}})


class WithoutClassify(nn.Module):
    inputs: ClassVar = ("landmarks",)

    def encode(self, inputs, *, train, mask=None):
        return inputs["landmarks"]


class OwnCollection(Good):
    def setup(self):
        super().setup()
        self.seen = self.variable("cache", "seen", jnp.zeros, ())


NETWORKS = {
    "8 logits": (
        type("Eight", (Good,), {"classes": 8, "__annotations__": {"classes": int}}),
        "`classify` returns 8 logits for 7 classes",
    ),
    "no inputs": (
        type("Bad", (Good,), {"inputs": ()}),
        "its class needs `inputs`, a tuple with some of images, landmarks",
    ),
    "unknown input": (
        type("Bad", (Good,), {"inputs": ("landmarks", "audio")}),
        "it reads 'audio', which no data has; there are images, landmarks",
    ),
    "no method": (
        WithoutClassify,
        "its class needs the method `classify`, see docs/extending.md",
    ),
    "no mask": (
        method("__call__", lambda self, inputs, *, train=False: Good.__call__(self, inputs)),
        r"fails in training \(train=True, with a mask\): TypeError: .* unexpected keyword .*'mask'",
    ),
    "raises": (
        method("encode", lambda self, inputs, **_: self.hidden(inputs["landmarks"] @ jnp.ones(3))),
        r"cannot be initialised in .*test_contract.py, line \d+: TypeError: .*",
    ),
    "rank of features": (
        method("classify", lambda self, x, *, train: Outputs(x[..., None], self.logits(x))),
        r"`classify` returns features as float32 \(5, 5, 1\) for 5 faces, needs floating-point "
        r"numbers \(5, \.\.\.\)",
    ),
    "dtype of logits": (
        method("classify", lambda self, x, *, train: Outputs(x, self.logits(x).astype(jnp.int32))),
        r"`classify` returns logits as int32 \(5, 7\) for 5 faces, needs floating-point numbers",
    ),
    "other type": (
        method("classify", lambda self, x, *, train: (x, self.logits(x))),
        r"`classify` returns tuple, needs fermm.models.Outputs\(features, logits\)",
    ),
    "embedding": (
        method("encode", lambda self, inputs, **_: self.hidden(inputs["landmarks"].reshape(1, -1))),
        r"`encode` returns float32 \(1, 5\) for 5 faces: the first axis is that of the faces",
    ),
    "embedding of another kind": (
        method(
            "encode",
            lambda self, inputs, **_: (
                self.hidden(inputs["landmarks"].reshape(inputs["landmarks"].shape[0], -1)),
                "a string",
            ),
        ),
        ".*",
    ),
    "collection": (
        OwnCollection,
        "it has variables in the collection 'cache', which are not kept from step to step",
    ),
}


@pytest.fixture(autouse=True)
def _registries(monkeypatch):
    for name in ("NETWORKS", "HEADS"):
        known = dict(getattr(registry, name))
        monkeypatch.setattr(registry, name, known)
        monkeypatch.setattr(models.building, name, known)


@pytest.mark.parametrize(("network", "message"), NETWORKS.values(), ids=NETWORKS.keys())
def test_a_network_that_does_not_fit(tmp_path, network, message):
    register("own")(network)
    config = small_config(networks=("landmarks",))
    config["landmarks"] |= {"model": "own", "arguments": {}}
    with pytest.raises(InputError, match=rf"^config.landmarks: {message}"):
        experiment.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_that_fits(tmp_path):
    register("own")(Good)
    config = small_config(networks=("landmarks",))
    config["landmarks"] |= {"model": "own", "arguments": {}}
    assert experiment._check_networks(config, tmp_path)["landmarks"]["model"] == "own"
    config["landmarks"]["arguments"] = {"classes": "seven"}
    with pytest.raises(InputError, match=r"^config.landmarks: cannot be initialised"):
        experiment._check_networks(config, tmp_path)


HEADS = {
    "logits": (
        lambda self, parts, *, train: nn.Dense(7)(parts["image"].features),
        r"`classify` returns .*, needs fermm.models.Outputs\(features, logits\); in a fusion it is",
    ),
    "6 logits": (
        lambda self, parts, *, train: Outputs(
            parts["image"].logits, nn.Dense(6)(parts["image"][0])
        ),
        "`classify` returns 6 logits for 7 classes",
    ),
    "another part": (
        lambda self, parts, *, train: nn.Dense(7)(parts["audio"].features),
        r"cannot be initialised in .*test_contract.py, line \d+: KeyError: 'audio'",
    ),
}


@pytest.mark.parametrize(("call", "message"), HEADS.values(), ids=HEADS.keys())
def test_a_head_that_does_not_fit(tmp_path, call, message):
    register_head("own")(type("Own", (nn.Module,), {"__call__": nn.compact(call)}))
    config = small_config(networks=("image", "landmarks", "feature_fusion"))
    config["feature_fusion"] |= {"head": "own", "arguments": {}}
    with pytest.raises(InputError, match=rf"^config.feature_fusion: {message}"):
        experiment.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


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
    assert experiment._check_networks(config, tmp_path)["feature_fusion"]["head"] == "feature"

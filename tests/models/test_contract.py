"""What a network has to be, looked at before anything is trained."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import pytest

from fermm import models
from fermm.errors import InputError
from fermm.faces import FEATURES
from fermm.models import Outputs, register, register_head, registry
from fermm.models.checks import check_network
from helpers.networks import spec_of


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
        "`classify` returns 8 logits for 7 classes$",
    ),
    "no inputs": (
        type("Bad", (Good,), {"inputs": ()}),
        r"its class needs `inputs`, a tuple of the features that it reads, such as \('images',\)$",
    ),
    "unknown input": (
        type("Bad", (Good,), {"inputs": ("landmarks", "audio")}),
        "it reads the feature 'audio', which the data do not have; they have images, landmarks$",
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
        r"`classify` returns features as float32 \(5, 5, 1\) for 5 samples, needs floating-point "
        r"numbers \(5, \.\.\.\)",
    ),
    "dtype of logits": (
        method("classify", lambda self, x, *, train: Outputs(x, self.logits(x).astype(jnp.int32))),
        r"`classify` returns logits as int32 \(5, 7\) for 5 samples, needs floating-point numbers",
    ),
    "other type": (
        method("classify", lambda self, x, *, train: (x, self.logits(x))),
        r"`classify` returns tuple, needs fermm.models.Outputs\(features, logits\)",
    ),
    "embedding": (
        method("encode", lambda self, inputs, **_: self.hidden(inputs["landmarks"].reshape(1, -1))),
        r"`encode` returns float32 \(1, 5\) for 5 samples: the first axis is theirs$",
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


def check(spec):
    return check_network(models.build(spec), FEATURES, 7)


@pytest.mark.parametrize(("network", "message"), NETWORKS.values(), ids=NETWORKS.keys())
def test_a_network_that_does_not_fit(network, message):
    register("own")(network)
    with pytest.raises(InputError, match=rf"^{message}"):
        check({"model": "own", "arguments": {}})


def test_one_that_fits():
    register("own")(Good)
    variables = check({"model": "own", "arguments": {}})
    assert variables["params"]["hidden"]["kernel"].shape == (136, 5)
    with pytest.raises(InputError, match=r"^cannot be initialised in .*, line \d+: TypeError: "):
        check({"model": "own", "arguments": {"classes": "seven"}})


def test_the_number_of_classes_is_that_of_the_data():
    register("own")(Good)
    spec = models.complete({"model": "own", "arguments": {}}, 3)
    assert spec == {"model": "own", "arguments": {"classes": 3}}
    assert check_network(models.build(spec), FEATURES, 3)
    given = {"model": "own", "arguments": {"classes": 4}}
    assert models.complete(given, 3) == given
    with pytest.raises(InputError, match=r"^`classify` returns 4 logits for 3 classes$"):
        check_network(models.build(given), FEATURES, 3)
    with pytest.raises(InputError, match=r"^head 'own' is not registered"):
        models.complete({"head": "own", "arguments": {}, "members": {}}, 3)


HEADS = {
    "logits": (
        lambda self, members, *, train: nn.Dense(7)(members["image"].features),
        r"`classify` returns .*, needs fermm.models.Outputs\(features, logits\); in a fusion it is",
    ),
    "6 logits": (
        lambda self, members, *, train: Outputs(
            members["image"].logits, nn.Dense(6)(members["image"][0])
        ),
        "`classify` returns 6 logits for 7 classes",
    ),
    "another member": (
        lambda self, members, *, train: nn.Dense(7)(members["audio"].features),
        r"cannot be initialised in .*test_contract.py, line \d+: KeyError: 'audio'",
    ),
}


@pytest.mark.parametrize(("call", "message"), HEADS.values(), ids=HEADS.keys())
def test_a_head_that_does_not_fit(call, message):
    register_head("own")(type("Own", (nn.Module,), {"__call__": nn.compact(call)}))
    with pytest.raises(InputError, match=rf"^{message}"):
        check(spec_of("feature_fusion") | {"head": "own", "arguments": {}})

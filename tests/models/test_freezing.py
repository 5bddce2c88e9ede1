"""Layers with running statistics are frozen by parameter path, whatever they are called."""

import shutil
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from fermm import experiment, models, rundir
from fermm.errors import InputError
from fermm.models import Outputs, frozen_layers, register, registry
from fermm.train import checkpoint, loop, partition, steps, training
from fermm.train.losses import CrossEntropy
from fermm.train.stop import Stopped
from fermm.train.tasks import Data, Task
from helpers.trainings import StopAfter, assert_identical, make_job, small_config


class TwoNorms(nn.Module):
    """Neither is called `norm`; each is told in another way what to do."""

    inputs: ClassVar[tuple[str, ...]] = ("landmarks",)

    @nn.compact
    def __call__(self, inputs, *, train=False, mask=None):
        x = inputs["landmarks"].reshape(inputs["landmarks"].shape[0], -1)
        mask = None if mask is None else mask[:, None]
        x = nn.BatchNorm(use_running_average=not train, name="scaling")(x, mask=mask)
        x = nn.tanh(nn.Dense(16, name="between")(x))
        x = nn.BatchNorm(name="centring")(x, not train, mask=mask)
        return Outputs(x, nn.Dense(7, name="logits")(x))


class InHalves(nn.Module):
    """The second half normalises as well."""

    inputs: ClassVar[tuple[str, ...]] = ("landmarks",)

    def setup(self):
        self.before, self.after = nn.BatchNorm(), nn.BatchNorm(momentum=0.5)
        self.bare = nn.BatchNorm(use_scale=False, use_bias=False)
        self.dense, self.logits = nn.Dense(16), nn.Dense(7)

    def encode(self, inputs, *, train, mask=None):
        x = inputs["landmarks"].reshape(inputs["landmarks"].shape[0], -1)
        mask = None if mask is None else mask[:, None]
        return nn.tanh(self.dense(self.before(x, use_running_average=not train, mask=mask)))

    def classify(self, embedding, *, train):
        x = self.bare(self.after(embedding, use_running_average=not train), not train)
        return Outputs(x, self.logits(x))

    def __call__(self, inputs, *, train=False, mask=None):
        return self.classify(self.encode(inputs, train=train, mask=mask), train=train)


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setattr(registry, "NETWORKS", dict(registry.NETWORKS))
    monkeypatch.setattr(models.building, "NETWORKS", registry.NETWORKS)
    register("two_norms")(TwoNorms)
    register("in_halves")(InHalves)


def statistics(variables, *path):
    tree = variables["batch_stats"]
    for name in path:
        tree = tree[name]
    return tree


@pytest.mark.parametrize(("frozen", "moving"), [("scaling", "centring"), ("centring", "scaling")])
def test_one_of_two_norms_is_frozen(tmp_path, frozen, moving):
    spec = {"model": "two_norms", "arguments": {}}
    job = make_job(tmp_path, spec, (f"!{frozen}/.*", ".*"), epochs=2)
    given = {"mean": np.float32(0.3), "var": np.float32(2.0)}  # not those of a new layer
    job.variables["batch_stats"] = {
        name: {k: np.full_like(x, given[k]) for k, x in of.items()}
        for name, of in job.variables["batch_stats"].items()
    }
    [(variables, _)] = loop.fit([job])
    assert_identical(statistics(variables, frozen), statistics(job.variables, frozen))
    assert_identical(variables["params"][frozen], job.variables["params"][frozen])
    after, before = statistics(variables, moving), statistics(job.variables, moving)
    for name in ("mean", "var"):
        assert (after[name] != before[name]).any()


def test_a_frozen_norm_normalises_by_its_running_statistics(tmp_path):
    """Loss and gradients are those of a network that is written to do so."""

    class Written(TwoNorms):
        @nn.compact
        def __call__(self, inputs, *, train=False, mask=None):
            x = inputs["landmarks"].reshape(inputs["landmarks"].shape[0], -1)
            x = nn.BatchNorm(use_running_average=True, name="scaling")(x)
            x = nn.tanh(nn.Dense(16, name="between")(x))
            x = nn.BatchNorm(name="centring")(x, not train, mask=mask[:, None])
            return Outputs(x, nn.Dense(7, name="logits")(x))

    job = make_job(tmp_path, {"model": "two_norms", "arguments": {}}, ("!scaling/.*", ".*"))
    params, frozen = partition.split(job.variables["params"], job.trained)
    batch = jax.tree.map(lambda x: jnp.asarray(x[:8]), job.train)
    arguments = (
        job.variables["batch_stats"],
        batch,
        jnp.arange(8) < 6,
        {"dropout": jax.random.key(0)},
    )
    results = []
    for module, trained, rest in (
        (TwoNorms(), params, frozen),
        (Written(), {**params, "scaling": {}}, frozen),
    ):
        gradient = jax.value_and_grad(
            steps.make_loss(module, Task(CrossEntropy(), np.ones(7, np.float32)), "__call__"),
            has_aux=True,
        )
        (loss, (kept, _)), grads = gradient(trained, rest, *arguments)
        results.append((loss, kept, {k: v for k, v in grads.items() if v}))
    assert_identical(*results)


def test_resumed_to_the_same_bits(tmp_path, monkeypatch):
    spec = {"model": "two_norms", "arguments": {}}
    results = []
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
        job = make_job(tmp_path / name, spec, ("!scaling/.*", ".*"), epochs=2)
        if name == "cut":
            monkeypatch.setattr(training, "CHUNK_SECONDS", 1e-9)
            for looks in (2, 4):
                with pytest.raises(Stopped):
                    loop.fit([job], stop=StopAfter(looks))
        loop.fit([job])
        saved = checkpoint.read(tmp_path / name / "checkpoints" / "2", training=True)
        results.append((saved.variables, saved.training))
    assert_identical(*results)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    register("in_halves")(InHalves)
    try:
        workdir = tmp_path_factory.mktemp("parts") / "run"
        config = small_config(networks=("image", "landmarks"), image__epochs=1)
        config["landmarks"] |= {"model": "in_halves", "arguments": {}}
        experiment.run(config, workdir)
        return workdir
    finally:
        del registry.NETWORKS["in_halves"]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    ("patterns", "moves"),
    [
        (("head/.*", "!.*"), set()),
        (("head/.*", "landmarks/dense/.*", "!.*"), {"bare"}),
        (("head/.*", "landmarks/after/.*", "!.*"), {"after", "bare"}),
        (("head/.*", "landmarks/.*", "!.*"), {"after", "bare", "before"}),
    ],
)
@pytest.mark.parametrize("reuse", [True, False])
def test_in_a_fusion(parts, tmp_path, patterns, moves, reuse):
    shutil.copytree(parts, tmp_path / "run")
    config = small_config(networks=("feature_fusion",), feature_fusion__run=str(parts))
    config["landmarks"] |= {"model": "in_halves", "arguments": {}}
    config["feature_fusion"] |= {"trainable": patterns, "reuse_frozen_outputs": reuse, "epochs": 1}
    experiment.run(config, tmp_path / "fused")

    def read(workdir, name):
        return checkpoint.read(rundir.locate(workdir / name / "seed_0" / "checkpoints")).variables[
            "batch_stats"
        ]

    before, after = read(parts, "landmarks"), read(tmp_path / "fused", "feature_fusion")
    for layer in ("before", "after", "bare"):
        same = [
            np.array_equal(before[layer][k], after["landmarks"][layer][k]) for k in ("mean", "var")
        ]
        assert same == [layer not in moves] * 2, layer


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        ({"a/norm/scale"}, {"b/norm", "b/bare"}),
        ({"b/dense/kernel"}, {"a/norm", "b/norm", "a/bare"}),  # b/bare goes by all of b
        ({"a/dense/kernel", "b/norm/bias"}, {"a/norm"}),
        ({"c"}, {"a/norm", "a/bare", "b/norm", "b/bare"}),
    ],
)
def test_which_layers_are_frozen(trained, expected):
    paths = {f"{x}/{y}" for x in "ab" for y in ("dense/kernel", "norm/scale", "norm/bias")} | {"c"}
    params = traverse_util.unflatten_dict(dict.fromkeys(paths, 0), sep="/")
    means = {f"{x}/{y}/mean": 0 for x in "ab" for y in ("norm", "bare")} | {"top": 0}
    found = frozen_layers(
        *partition.split(params, frozenset(trained)), traverse_util.unflatten_dict(means, sep="/")
    )
    # Statistics of the network itself move as long as anything of it is trained.
    assert {"/".join(path) for path in found} == expected


class Own(nn.Module):
    """A layer that keeps statistics in a way of its own, told by `train`."""

    word: str = "train"

    @nn.compact
    def __call__(self, x, **told):
        scale = self.param("scale", nn.initializers.ones, ())
        mean = self.variable("batch_stats", "mean", lambda: jnp.zeros(()))
        if told[self.word]:
            mean.value = 0.9 * mean.value + 0.1 * x.mean()
        return scale * (x - mean.value)


class Told(Own):
    @nn.compact
    def __call__(self, x, train):
        return Own.__call__.__wrapped__(self, x, train=train)


@pytest.mark.parametrize("layer", [Told, Own])
def test_a_layer_of_a_kind_of_its_own(layer):
    class Network(nn.Module):
        @nn.compact
        def __call__(self, inputs, *, train=False, mask=None):
            x = layer(name="own")(inputs["landmarks"].reshape(3, -1), train=train)
            return Outputs(x, nn.Dense(7)(x))

    data = Data({"landmarks": jnp.ones((3, 68, 2))}, jnp.zeros(3, jnp.int32))
    variables = Network().init(jax.random.key(0), data.inputs)
    params, frozen = partition.split(variables["params"], frozenset({"Dense_0/kernel"}))
    loss = steps.make_loss(Network(), Task(CrossEntropy(), np.ones(7, np.float32)), "__call__")
    arguments = (variables["batch_stats"], data, jnp.ones(3, bool), {"dropout": jax.random.key(0)})
    if layer is Own:  # which does not say in its signature what it may be told
        with pytest.raises(InputError, match="the frozen layer own keeps running statistics, but"):
            loss(params, frozen, *arguments)
        return
    _, (kept, _) = loss(params, frozen, *arguments)
    assert kept["own"]["mean"] == 0
    _, (kept, _) = loss(variables["params"], {}, *arguments)
    assert kept["own"]["mean"] == pytest.approx(0.1)

"""Fusions of any members: where their parameters lie, what they return, which names are refused."""

import functools
import pickle

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import traverse_util

from fermm import models
from fermm.errors import InputError
from fermm.faces import FEATURES
from fermm.models import Members, building, specs
from fermm.models.checks import check_network
from helpers.networks import drawn_variables, face_inputs

IMAGE = {"model": "nn1", "arguments": {"filters": (4, 8, 8), "hidden": 32}}
LANDMARKS = {"model": "nn2", "arguments": {}}
SMALLER = {"model": "nn2", "arguments": {"hidden": (16, 8), "features": 3}}


def fusion(head="feature", arguments=None, **members):
    return {"head": head, "arguments": arguments or {}, "members": members}


def init(module, count=2):
    return drawn_variables(module, face_inputs(count))


def paths(variables):
    return {"/".join(path) for path in traverse_util.flatten_dict(variables["params"])}


# Of the version before members had names of their own: the sum of all parameters' magnitudes, and
# of the first of four faces the logits without and with training.
GOLDEN = {
    "decision": (
        12_720.2173,
        [-0.029239, 0.559766, 0.046961, -0.051983, 0.001825, -0.341294, 0.002175],
        [-0.009071, 0.569123, 0.081606, -0.101686, -0.009108, -0.346544, -0.036974],
    ),
    "feature": (
        13_119.3416,
        [-0.174878, -1.164366, 0.292433, 0.406094, 0.349240, 0.575038, 0.746012],
        [0.291361, -0.680440, 0.418872, 0.294843, 0.016547, 0.183963, 0.199841],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("head", GOLDEN)
def test_the_papers_fusions_are_as_they_were(head):
    magnitude, expected, trained = GOLDEN[head]
    module = models.build(fusion(head, image=IMAGE, landmarks=LANDMARKS))
    inputs = face_inputs(4)
    variables = jax.jit(module.init)(jax.random.key(0), inputs)
    found = sum(np.abs(x, dtype=np.float64).sum() for x in jax.tree.leaves(variables["params"]))
    np.testing.assert_allclose(found, magnitude, rtol=1e-6)
    logits = jax.jit(module.apply)(variables, inputs).logits[0]
    np.testing.assert_allclose(logits, expected, atol=2e-5)
    dropout = {"dropout": jax.random.key(1)}
    outputs, _ = module.apply(variables, inputs, train=True, rngs=dropout, mutable=["batch_stats"])
    np.testing.assert_allclose(outputs.logits[0], trained, atol=2e-5)


@pytest.mark.slow
def test_three_members_of_two_features():
    module = models.build(fusion(image=IMAGE, points=LANDMARKS, few=SMALLER))
    variables = init(module)
    assert module.inputs == ("images", "landmarks")
    assert set(variables["params"]) == {"image", "points", "few", "head"}
    assert set(variables["batch_stats"]) == {"points", "few"}
    # The features of all members, in their order.
    assert variables["params"]["head"]["dense1"]["kernel"].shape == (16 + 16 + 3, 64)
    inputs = face_inputs()
    embedding = module.apply(variables, inputs, train=False, method="encode")
    assert [*embedding] == ["image", "points", "few"]
    own = module.apply(variables, embedding, train=False, method="classify_members")
    for name, spec in (("image", IMAGE), ("points", LANDMARKS), ("few", SMALLER)):
        alone = models.build(spec)
        of_member = {kind: tree[name] for kind, tree in variables.items() if name in tree}
        expected = alone.apply(of_member, inputs)
        jax.tree.map(np.testing.assert_array_equal, own[name], expected)
    assert check_network(module, FEATURES, 7)


@pytest.mark.slow
def test_decisions_of_three_members():
    module = models.build(fusion("decision", a=SMALLER, b=SMALLER, c=SMALLER))
    variables = init(module)
    assert variables["params"]["head"]["logits"]["kernel"].shape == (21, 7)
    outputs = module.apply(variables, face_inputs())
    embedding = module.apply(variables, face_inputs(), train=False, method="encode")
    own = module.apply(variables, embedding, train=False, method="classify_members")
    expected = np.concatenate([nn.softmax(own[name].logits) for name in "abc"], axis=-1)
    np.testing.assert_array_equal(outputs.features, expected)
    # Two members of the same spec are drawn apart.
    assert (
        variables["params"]["a"]["jaw"]["kernel"] != variables["params"]["b"]["jaw"]["kernel"]
    ).any()


@pytest.mark.slow
def test_a_fusion_as_a_member():
    inner = fusion("decision", image=IMAGE, landmarks=SMALLER)
    module = models.build(fusion(pair=inner, points=LANDMARKS))
    variables = init(module)
    assert module.inputs == ("images", "landmarks")
    alone = models.build(inner)
    below = {f"pair/{path}" for path in paths(init(alone))}
    assert {"pair/image/conv1/kernel", "pair/landmarks/jaw/bias", "pair/head/logits/kernel"} < below
    points = {f"points/{path}" for path in paths(init(models.build(LANDMARKS)))}
    dense = {
        f"head/{layer}/{kind}"
        for layer in ("dense1", "dense2", "logits")
        for kind in ("kernel", "bias")
    }
    assert paths(variables) == below | points | dense
    inputs = face_inputs()
    embedding = module.apply(variables, inputs, train=False, method="encode")
    assert [*embedding] == ["pair", "points"]
    assert [*embedding["pair"]] == ["image", "landmarks"]
    own = module.apply(variables, embedding, train=False, method="classify_members")
    of_pair = {kind: tree["pair"] for kind, tree in variables.items()}
    jax.tree.map(np.testing.assert_array_equal, own["pair"], alone.apply(of_pair, inputs))
    assert check_network(module, FEATURES, 7)


@pytest.mark.slow
def test_what_is_frozen_of_nested_fusions():
    pair = fusion("decision", image=IMAGE, landmarks=SMALLER)
    spec = fusion("decision", pair=pair, points=LANDMARKS)
    module = models.build(spec, trained={"pair/landmarks/jaw/kernel", "head/logits/kernel"})
    assert module.frozen == ("points",)
    assert module.members["pair"].frozen == ("image",)
    whole = models.build(spec, trained={"head/logits/kernel"})
    assert whole.frozen == ("pair", "points")
    assert models.build(spec).frozen == models.build(spec).members["pair"].frozen == ()
    variables, inputs = init(module), face_inputs(8)

    def loss(params):
        outputs, changed = module.apply(
            {**variables, "params": params},
            inputs,
            train=True,
            rngs={"dropout": jax.random.key(1)},
            mutable=["batch_stats"],
        )
        return outputs.logits.sum(), changed["batch_stats"]

    grads, batch_stats = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    moved = {
        "/".join(path[:2]) if path[0] == "pair" else path[0]
        for path, grad in traverse_util.flatten_dict(grads).items()
        if np.any(grad)
    }
    assert moved == {"pair/landmarks", "pair/head", "head"}
    before = variables["batch_stats"]
    same = jax.tree.map(np.array_equal, batch_stats, before)
    assert all(jax.tree.leaves(same["points"]))
    assert not any(jax.tree.leaves(same["pair"]["landmarks"]))


def test_some_members_are_encoded_alone():
    module = models.build(fusion(image=IMAGE, points=SMALLER))
    variables, inputs = init(module), face_inputs()
    encode = jax.jit(
        functools.partial(module.apply, train=False, method="encode"), static_argnames="only"
    )
    whole = encode(variables, inputs)
    for name, feature in (("image", "images"), ("points", "landmarks")):
        part = {feature: inputs[feature]}
        found = encode(variables, part, only=(name,))
        assert [*found] == [name]
        np.testing.assert_array_equal(found[name], whole[name])


ATTRIBUTES = (
    "head",
    "members",
    "frozen",
    "inputs",
    "encode",
    "classify",
    "setup",
    "parent",
    "name",
)


@pytest.mark.parametrize(
    "name", [*ATTRIBUTES, "init", "scope", "_own", "", "two words", "a/b", "3d", "a.b"]
)
def test_names_that_a_member_cannot_have(name):
    with pytest.raises(InputError) as caught:
        models.build(fusion() | {"members": {"points": SMALLER, name: SMALLER}})
    assert str(caught.value) == (
        f"a member cannot be called {name!r}; choose another name, of letters, digits and _"
    )


def test_a_fusion_has_members():
    for spec in (fusion(), {"head": "feature", "arguments": {}}):
        with pytest.raises(InputError, match=r"^a fusion needs at least one member; it has none$"):
            models.build(spec)
    assert check_network(models.build(fusion(only=SMALLER)), FEATURES, 7)


def test_a_mistake_in_a_member_is_told():
    with pytest.raises(InputError, match=r"^model 'nn3' is not registered"):
        models.build(fusion(pair=fusion(points={"model": "nn3", "arguments": {}})))


def test_members_are_compared_in_their_order():
    a, b = models.build(SMALLER), models.build(LANDMARKS)
    members = Members({"a": a, "b": b})
    assert members == Members({"a": a, "b": b})
    assert hash(members) == hash(Members({"a": a, "b": b}))
    assert members != Members({"b": b, "a": a})
    assert members != {"a": a, "b": b}
    assert len(members) == 2
    assert "Members" not in repr(models.build(fusion(a=SMALLER)))
    module = models.build(fusion(a=SMALLER, b=LANDMARKS))
    copy = pickle.loads(pickle.dumps(module))
    assert copy == module
    assert hash(copy) == hash(module)


def test_specs_are_read_without_building_anything():
    spec = fusion(image=IMAGE, points=SMALLER)
    assert specs.is_fusion(spec)
    assert specs.members(spec) == {"image": IMAGE, "points": SMALLER}
    assert not specs.is_fusion(IMAGE)
    assert specs.members(IMAGE) == {}
    assert models.complete(spec, 5)["arguments"] == {"classes": 5}
    assert models.complete(IMAGE, 5)["arguments"] == IMAGE["arguments"] | {"classes": 5}
    assert "classes" not in spec["arguments"]
    assert building.complete(fusion("feature", {"classes": 3}), 5)["arguments"] == {"classes": 3}

import functools

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fermm import models
from fermm.errors import InputError
from fermm.faces import FACE_REGIONS, FEATURES
from fermm.models import layers
from helpers.networks import drawn_variables, face_inputs, spec_of

_IMAGE = {"model": "nn1", "arguments": {"hidden": 32}}
_LANDMARKS = {"model": "nn2", "arguments": {}}
_MEMBERS = {"image": _IMAGE, "landmarks": _LANDMARKS}
SMALL = {
    "image": _IMAGE,
    "landmarks": _LANDMARKS,
    **{
        f"{head}_fusion": {"head": head, "arguments": {}, "members": _MEMBERS}
        for head in ("decision", "feature")
    },
}


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("name", "part", "parameters", "statistics"),
    [
        ("image", None, 13_126_455, 0),
        ("landmarks", None, 210_439, 544),
        ("decision_fusion", "head", 105, 544),
        ("feature_fusion", "head", 3_271, 544),
    ],
)
def test_parameter_counts_of_the_paper(name, part, parameters, statistics):
    module = models.build(spec_of(name))
    shapes = jax.eval_shape(module.init, jax.random.key(0), face_inputs())
    params = shapes["params"] if part is None else shapes["params"][part]
    assert count(params) == parameters
    assert count(shapes.get("batch_stats", {})) == statistics


def test_a_region_layer_shares_its_weights_between_points():
    """Swapping two points of a region permutes its features and nothing else."""
    module = models.build(spec_of("landmarks"))
    data = face_inputs()
    variables = drawn_variables(module, data)
    order = np.arange(68)
    order[[3, 9, 20, 18]] = order[[9, 3, 18, 20]]  # two of the jaw, two of a brow
    bound = module.bind(variables)
    expected = bound.describe_points(data["landmarks"])[:, order]
    np.testing.assert_array_equal(expected, bound.describe_points(data["landmarks"][:, order]))
    order[[3, 20]] = order[[20, 3]]  # of two regions
    other = bound.describe_points(data["landmarks"][:, order])
    assert (other != bound.describe_points(data["landmarks"])[:, order]).any()


def test_a_region_layer_is_a_dense_layer_of_its_points():
    module = models.build(spec_of("landmarks"))
    data = face_inputs()
    variables = drawn_variables(module, data)
    found = module.bind(variables).describe_points(data["landmarks"])
    for region, points in FACE_REGIONS.items():
        layer = variables["params"][region]
        expected = nn.sigmoid(
            data["landmarks"][:, points] @ layer["kernel"] + layer["bias"][None, None]
        )
        np.testing.assert_allclose(found[:, points], expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_forms_of_the_convolution_agree(dtype):
    with jax.enable_x64(dtype == "float64"):
        random = np.random.default_rng(0)
        x = jnp.asarray(random.normal(size=(5, 9, 7, 3)).astype(dtype))
        kernel = jnp.asarray(random.normal(size=(2, 2, 5, 4)).astype(dtype))
        cotangent = jnp.asarray(random.normal(size=(4, 8, 6, 3)).astype(dtype))
        tolerance = 1e-5 if dtype == "float32" else 1e-13
        results = []
        for form in (layers._by_matrix_product, layers._by_convolution):
            out, pull = jax.vjp(form, x, kernel)
            results.append((out, *pull(cotangent)))
        for ours, theirs in zip(*results, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("features", [96, 97])
def test_the_product_of_a_single_row_is_a_product(features):
    random = np.random.default_rng(0)
    x, kernel = random.normal(size=(1, features)), random.normal(size=(features, 5))
    with jax.enable_x64(True):
        form = functools.partial(
            layers.product_with_large, dimension_numbers=(((1,), (0,)), ((), ()))
        )
        out, pull = jax.vjp(form, jnp.asarray(x), jnp.asarray(kernel))
        cotangent = random.normal(size=(1, 5))
        for ours, exact in zip(
            (out, *pull(jnp.asarray(cotangent))),
            (x @ kernel, cotangent @ kernel.T, x.T @ cotangent),
            strict=True,
        ):
            np.testing.assert_allclose(ours, exact, rtol=1e-12, atol=1e-12)


def test_convolution_by_hand():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    kernel = jnp.array([[1.0, 10.0], [100.0, 1000.0]]).reshape(2, 2, 1, 1)
    # upper left: 0 + 10 * 1 + 100 * 3 + 1000 * 4
    expected = [[4310.0, 5421.0], [7643.0, 8754.0]]
    np.testing.assert_array_equal(layers.convolve_2x2(x, kernel)[0, :, :, 0], expected)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [6, 7])
def test_pooling_equals_a_reduced_window_with_its_gradient_also_at_ties(stride, size):
    random = np.random.default_rng(size)
    x = jnp.asarray(random.integers(0, 3, (4, size, size, 3)).astype(np.float32))  # many ties

    def by_window(x):
        window, strides = (1, 2, 2, 1), (1, stride, stride, 1)
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, "VALID")

    ours, pull = jax.vjp(lambda x: layers.max_pool_2x2(x, stride), x)
    expected, expected_pull = jax.vjp(by_window, x)
    np.testing.assert_array_equal(ours, expected)
    cotangent = jnp.asarray(random.normal(size=ours.shape).astype(np.float32))
    np.testing.assert_allclose(pull(cotangent)[0], expected_pull(cotangent)[0], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 16, 37])
def test_without_training_the_image_network_is_the_same(count):
    """In pieces of 16 faces, the rest by itself; logits and gradients as in training, ties too."""
    data = face_inputs(count)
    data["images"][::2, 10:30, 5:40] = 255
    module = models.build(SMALL["image"])
    variables = drawn_variables(module, data)
    cotangent = np.random.default_rng(1).normal(size=(count, 7)).astype(np.float32)

    @functools.partial(jax.jit, static_argnames="train")
    def run(variables, train):
        out, pull = jax.vjp(lambda v: module.apply(v, data, train=train).logits, variables)
        return out, pull(cotangent)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        run(variables, train=False),
        run(variables, train=True),
    )


@pytest.mark.slow
def test_a_face_has_the_same_logits_whoever_is_beside_it():
    data = face_inputs(40)
    module = models.build(SMALL["image"])
    variables = drawn_variables(module, data)
    whole = jax.jit(module.apply)(variables, data).logits
    for rows in ([0], [39, 3], range(20, 40)):
        some = jax.jit(module.apply)(variables, {"images": data["images"][list(rows)]}).logits
        np.testing.assert_allclose(some, whole[np.array(rows)], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SMALL))
def test_the_plain_form_is_exported_for_any_number_of_faces(name):
    module, plain = models.build(SMALL[name]), models.build(SMALL[name], plain=True)
    variables = drawn_variables(module, face_inputs())
    (faces,) = jax.export.symbolic_shape("faces")
    known = models.shapes(FEATURES, plain.inputs)
    symbolic = {k: jax.ShapeDtypeStruct((faces, *x.shape[1:]), x.dtype) for k, x in known.items()}
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), variables)
    logits = jax.jit(lambda v, x: plain.apply(v, x).logits)
    # For several platforms at once JAX itself writes a case for each product.
    text = jax.export.export(logits)(shapes, symbolic).mlir_module()
    for special in ("case", "optimization_barrier", "while", "platform_index"):
        assert f"stablehlo.{special}" not in text
    exported = jax.export.export(logits, platforms=("cpu", "cuda", "tpu"))(shapes, symbolic)
    loaded = jax.export.deserialize(exported.serialize())
    for count in (1, 2, 33):
        data = {k: v for k, v in face_inputs(count).items() if k in plain.inputs}
        expected = jax.jit(module.apply)(variables, data).logits
        np.testing.assert_allclose(loaded.call(variables, data), expected, atol=1e-5)


def test_pooling_has_no_other_stride():
    with pytest.raises(ValueError, match="strides 1 and 2, not 3"):
        layers.max_pool_2x2(jnp.zeros((1, 4, 4, 1)), 3)


def test_batch_statistics_leave_masked_rows_out():
    module = models.build(spec_of("landmarks"))
    data = face_inputs(8)
    variables = drawn_variables(module, data)
    rngs = {"dropout": jax.random.key(1)}

    apply = jax.jit(functools.partial(module.apply, train=True, mutable=["batch_stats"]))

    def train(rows, mask):
        return apply(variables, {k: v[rows] for k, v in data.items()}, mask=mask, rngs=rngs)

    mask = jnp.arange(8) < 5
    masked, masked_stats = train(slice(0, 8), mask)
    alone, alone_stats = train(slice(0, 5), jnp.ones(5, bool))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), masked_stats, alone_stats
    )
    embedded = module.apply(
        variables, data, train=True, mask=mask, method="encode", mutable=["batch_stats"]
    )[0]
    embedded_alone = module.apply(
        variables,
        {k: v[:5] for k, v in data.items()},
        train=True,
        method="encode",
        mutable=["batch_stats"],
    )[0]
    np.testing.assert_allclose(embedded[:5], embedded_alone, atol=1e-6)
    assert masked.logits.shape == (8, 7)
    assert alone.logits.shape == (5, 7)


def test_a_frozen_landmark_network_keeps_dropout_and_running_statistics():
    module = models.build(spec_of("feature_fusion"), trained={"head/logits/kernel"})
    data = face_inputs()
    variables = drawn_variables(module, data)

    apply = jax.jit(
        functools.partial(module.apply, mutable=["batch_stats"]), static_argnames="train"
    )

    def logits(seed, train):
        out, changed = apply(variables, data, train=train, rngs={"dropout": jax.random.key(seed)})
        jax.tree.map(
            np.testing.assert_array_equal, changed["batch_stats"], variables["batch_stats"]
        )
        return np.asarray(out.logits)

    assert np.abs(logits(0, True) - logits(1, True)).max() > 1e-4
    np.testing.assert_array_equal(logits(0, False), logits(1, False))


def test_build_refuses_what_it_does_not_know():
    with pytest.raises(InputError, match=r"model 'nn3' is not registered .* Did you mean 'nn"):
        models.build({"model": "nn3", "arguments": {}})
    with pytest.raises(InputError, match="model 'nn1' has no argument 'hiden'; it has classes"):
        models.build({"model": "nn1", "arguments": {"hiden": 3}})


def test_two_classes_do_not_share_a_name():
    with pytest.raises(ValueError, match="'nn1' is already registered, by ImageNetwork"):

        @models.register("nn1")
        class Other(nn.Module):
            pass


@pytest.mark.parametrize("name", ["image", "landmarks"])
def test_bfloat16_computes_nearly_the_same(name):
    """Logits and gradients within bfloat16's 8 bits; parameters, features and logits in float32."""
    data = face_inputs(32)
    labels = jnp.arange(32) % 7
    exact = spec_of(name)
    if name == "landmarks":
        exact["arguments"] = exact["arguments"] | {"dropout": 0.0}
    coarse = exact | {"arguments": exact["arguments"] | {"dtype": "bfloat16"}}
    variables = drawn_variables(models.build(exact), data)
    shapes = jax.eval_shape(models.build(coarse).init, jax.random.key(0), data)
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}

    def loss(params, module):
        outputs, _ = module.apply(
            variables | {"params": params}, data, train=True, mutable=["batch_stats"]
        )
        assert outputs.logits.dtype == outputs.features.dtype == jnp.float32
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels)
        return jnp.mean(losses), outputs.logits

    results = [
        jax.jit(jax.value_and_grad(functools.partial(loss, module=models.build(s)), has_aux=True))(
            variables["params"]
        )
        for s in (exact, coarse)
    ]
    ((_, logits), grads), ((_, coarse_logits), coarse_grads) = results
    assert 0 < np.abs(logits - coarse_logits).max() < 0.02
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(coarse_grads), strict=True):
        assert b.dtype == jnp.float32
        # Rounding also moves maxima of the pooling, so first layers differ by more than 2**-8.
        assert np.sum(a * b) > 0.97 * np.linalg.norm(a) * np.linalg.norm(b)

"""The compiled functions."""

import jax
import numpy as np

from configs import paper
from fermm import models
from fermm.experiment import config as run_config
from fermm.train import devices, partition, steps, updates
from helpers.networks import drawn_variables


def test_forward_gives_any_number_of_samples_the_same_result():
    module = models.build({"model": "nn2", "arguments": {}})
    random = np.random.default_rng(0)
    inputs = {"landmarks": random.uniform(0, 48, (600, 68, 2)).astype(np.float32)}
    variables = drawn_variables(module, inputs)
    whole = module.apply(variables, inputs).logits
    forward = steps.make_forward(module, devices.layout("none"))
    for count in (1, 255, 256, 257, 600):
        some = forward(variables, {"landmarks": inputs["landmarks"][:count]}).logits
        assert some.shape == (count, 7)
        np.testing.assert_allclose(some, whole[:count], atol=1e-5)


def test_only_trained_parameters_have_gradients_and_optimiser_state():
    config = paper.get_config().to_dict()
    spec = {
        "head": "feature",
        "arguments": config["feature_fusion"]["arguments"],
        "members": {
            p: {"model": config[p]["model"], "arguments": {}} for p in ("image", "landmarks")
        },
    }
    module = models.build(spec, trained={"head/logits/kernel"})
    inputs = {
        "images": np.zeros((2, 48, 48), np.uint8),
        "landmarks": np.zeros((2, 68, 2), np.float32),
    }
    shapes = jax.eval_shape(module.init, jax.random.key(0), inputs)
    trained = partition.trained_paths(shapes["params"], config["feature_fusion"]["trainable"])
    params, frozen = partition.split(shapes["params"], trained)
    made = updates.make(run_config.read(config).networks["feature_fusion"], 1)
    state = jax.eval_shape(made.transform.init, params)
    # Two moments for each of the 3,271 parameters of the head, and two counters.
    assert sum(x.size for x in jax.tree.leaves(state)) == 2 * 3_271 + 2
    assert set(params) == {"head"}
    assert set(frozen) == {"image", "landmarks"}
    # Even asked for, no gradient passes the stop.
    variables = drawn_variables(module, inputs)

    def loss(params):
        return module.apply(variables | {"params": params}, inputs).logits.sum()

    gradient = jax.jit(jax.grad(loss))(variables["params"])
    for part in ("image", "landmarks"):
        assert all(not np.any(x) for x in jax.tree.leaves(gradient[part]))
    assert any(np.any(x) for x in jax.tree.leaves(gradient["head"]))

"""Specs of networks, what they read, and variables for them."""

import jax
import jax.numpy as jnp
import numpy as np

from configs import paper

CONFIG = paper.get_config().to_dict()


def spec_of(name):
    """The spec of a network of the paper."""
    section = CONFIG[name]
    if "model" in section:
        return {"model": section["model"], "arguments": section["arguments"]}
    members = {member: spec_of(member) for member in section["members"]}
    return {"head": section["head"], "arguments": section["arguments"], "members": members}


def face_inputs(count=2):
    """Random images and landmarks of so many faces."""
    random = np.random.default_rng(0)
    return {
        "images": random.integers(0, 256, (count, 48, 48), np.uint8),
        "landmarks": random.uniform(-4, 56, (count, 68, 2)).astype(np.float32),
    }


def drawn_variables(module, inputs):
    """Variables as `module.init` draws them, with other random numbers.

    For tests in which any numbers do: JAX's own take XLA half a second for each parameter to
    compile.
    """
    random = np.random.default_rng(0)

    def draw(path, shape):
        kind = path[-1].key
        if kind in ("scale", "var"):
            return jnp.asarray(np.ones(shape.shape), shape.dtype)
        if kind in ("bias", "mean"):
            return jnp.asarray(np.zeros(shape.shape), shape.dtype)
        assert kind == "kernel", path
        field = np.prod(shape.shape[:-2])
        limit = np.sqrt(6 / (field * sum(shape.shape[-2:])))  # Glorot's
        return jnp.asarray(random.uniform(-limit, limit, shape.shape), shape.dtype)

    shapes = jax.eval_shape(module.init, jax.random.key(0), inputs)
    return jax.tree_util.tree_map_with_path(draw, shapes)

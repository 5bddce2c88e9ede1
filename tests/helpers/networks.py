"""Specs of networks, and what they read."""

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

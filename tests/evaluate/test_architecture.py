import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from configs import paper
from fermm import models
from fermm.evaluate import architecture, figures
from fermm.faces import EMOTIONS, FACE_REGIONS, FEATURES
from fermm.models import registry

CONFIG = paper.get_config().to_dict()


def spec_of(name):
    section = CONFIG[name]
    if "model" in section:
        return {"model": section["model"], "arguments": section["arguments"]}
    members = {member: spec_of(member) for member in ("image", "landmarks")}
    return {"head": section["head"], "arguments": section["arguments"], "members": members}


@pytest.mark.parametrize(
    ("name", "parameters", "trained", "statistics"),
    [
        ("image", 13_126_455, 13_126_455, 0),
        ("landmarks", 210_439, 210_439, 544),
        ("decision_fusion", 13_126_455 + 210_439 + 105, 105, 544),
        ("feature_fusion", 13_126_455 + 210_439 + 3_271, 3_271, 544),
    ],
)
def test_parameters_of_the_layers_add_up(name, parameters, trained, statistics):
    found = architecture.layers(spec_of(name), FEATURES)
    counts = [(layer.parameters, layer.trained, layer.statistics) for layer in found]
    assert tuple(map(sum, zip(*counts, strict=True))) == (parameters, trained, statistics)


def test_nn1_is_what_the_paper_describes():
    """Section 5.2.2; sizes by hand, and (2 * 2 * inputs + 1) * outputs parameters."""
    found = architecture.layers(spec_of("image"), FEATURES)
    assert [(layer.name, layer.shape, layer.parameters, layer.about) for layer in found] == [
        ("images", (48, 48), 0, ("uint8",)),
        ("conv1", (47, 47, 16), 80, ("Conv2x2", "features 16", "relu")),
        ("max pool 2x2", (46, 46, 16), 0, ()),
        ("conv2", (45, 45, 32), 2080, ("Conv2x2", "features 32", "relu")),
        ("max pool 2x2", (22, 22, 32), 0, ()),
        ("conv3", (21, 21, 64), 8256, ("Conv2x2", "features 64", "relu")),
        ("max pool 2x2", (20, 20, 64), 0, ()),
        ("flatten", (25600,), 0, ()),
        ("dense1", (512,), 13_107_712, ("Dense", "features 512", "relu")),
        ("dense2", (16,), 8208, ("Dense", "features 16", "sigmoid")),
        ("logits", (7,), 119, ("Dense", "features 7")),
    ]


def test_nn2_has_a_layer_for_each_part():
    """Section 5.2.3: 8 * (2 + 1) * 4 parameters in the parts."""
    found = architecture.layers(spec_of("landmarks"), FEATURES)
    parts = [(layer.name, layer.parameters) for layer in found if layer.weights]
    assert parts == [(part, 12) for part in FACE_REGIONS]
    assert found[1].about == ("RegionLayer", "17 points", "features 4")
    assert [(layer.name, layer.shape, layer.about[-1:]) for layer in found[9:]] == [
        ("describe points", (68, 4), ("sigmoid",)),
        ("flatten", (272,), ()),
        ("norm", (272,), ("epsilon 0.001",)),
        ("dense1", (256,), ("sigmoid",)),
        ("dense2", (512,), ("sigmoid",)),
        ("dense3", (16,), ("sigmoid",)),
        ("drop", (16,), ("rate 0.2",)),
        ("logits", (7,), ("features 7",)),
    ]


def test_heads_take_what_the_paper_says():
    """Figures 8 and 9: decisions, or features."""
    for name, head, taken in [
        ("decision_fusion", "softmax softmax concatenate logits", "logits logits"),
        ("feature_fusion", "concatenate dense1 dense2 logits", "dense2 drop"),
    ]:
        found = architecture.layers(spec_of(name), FEATURES)
        assert [layer.name for layer in found if layer.part == "head"] == head.split()
        assert [layer.name for layer in found if layer.taken] == taken.split()


def drawn(spec, caption, trained=None):
    """The files of the drawing, by suffix."""
    return figures.render(lambda: architecture.draw(spec, FEATURES, EMOTIONS, caption, trained))


def test_a_registered_head_is_drawn(monkeypatch):
    class Gated(nn.Module):
        hidden: int = 8

        @nn.compact
        def __call__(self, parts, *, train):
            with jax.named_scope("join_both"):
                x = jnp.concatenate([part.features for part in parts.values()], axis=-1)
            hidden = nn.Sequential([nn.remat(nn.Dense)(self.hidden), nn.gelu, nn.LayerNorm()])
            gate = nn.sigmoid(nn.Dense(1, name="gate")(jnp.tanh(hidden(x))))
            a, b = (nn.log_softmax(part.logits) for part in parts.values())
            return models.Outputs(x, gate * a + (1 - gate) * b)

    monkeypatch.setitem(registry.HEADS, "gated test", Gated)
    spec = {**spec_of("feature_fusion"), "head": "gated test", "arguments": {"hidden": 5}}
    image = spec["members"]["image"]
    image["arguments"] = {**image["arguments"], "dtype": "bfloat16"}
    found = architecture.layers(spec, FEATURES)
    assert "bfloat16" in next(layer for layer in found if layer.name == "conv1").about
    head = [layer for layer in found if layer.part == "head"]
    assert [(layer.name, layer.shape, layer.parameters, layer.about[-1:]) for layer in head] == [
        ("join both", (32,), 0, ("concatenate",)),
        ("CheckpointDense_0", (5,), 32 * 5 + 5, ("gelu",)),
        ("LayerNorm_0", (5,), 10, ("tanh",)),
        ("gate", (1,), 6, ("sigmoid",)),
        ("log softmax", (7,), 0, ()),
        ("log softmax", (7,), 0, ()),
    ]
    assert len(drawn(spec, "One's own head")[".png"]) > 10_000


def test_a_fine_tuned_member_is_not_frozen():
    trained = ["head/logits/bias", "image/logits/kernel"]
    found = architecture.layers(spec_of("feature_fusion"), FEATURES, trained)
    changed = {(layer.part, layer.name, layer.trained) for layer in found if layer.trained}
    assert changed == {("head", "logits", 7), ("image", "logits", 112)}
    svg = drawn(spec_of("feature_fusion"), "Title", trained)[".svg"].decode()
    assert "13,126,455, 112 trained" in svg
    assert "210,439, frozen" in svg

"""What the benchmarks time of fermm, and what they make of the figures."""

import jax
import numpy as np
import pytest

from benchmarks import report
from benchmarks.peers import fermm_jax
from fermm.data import splits, synthetic


@pytest.fixture(scope="module")
def peer():
    faces = synthetic.draw(count=60, seed=0)
    rows = splits.split(faces, "paper", 0)
    return fermm_jax.Peer(
        {
            **faces.features,
            "labels": faces.labels,
            "train": rows["train"],
            "validation": rows["validation"],
            "class_weights": splits.class_weights(faces.labels, faces.classes),
        }
    )


@pytest.mark.slow
@pytest.mark.parametrize(("network", "seeds"), [("landmarks", 1), ("landmarks", 2)])
def test_what_is_timed_is_training(peer, network, seeds):
    assert peer.start(network, batch_size=8, seeds=seeds) > 0
    before = jax.tree.map(np.array, peer._state.params)
    assert peer.steps(13) > 0
    steps = peer._state.step
    assert np.ravel(steps).tolist() == [14] * seeds
    assert peer.epoch() > 0  # 42 faces: five whole batches and one of two
    assert np.ravel(peer._state.step).tolist() == [20] * seeds
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max() > 0, before, peer._state.params)
    assert all(jax.tree.leaves(moved))
    assert len(peer.predict_seconds(3, 4)) == 4


@pytest.mark.slow
def test_a_fusion_is_timed_on_kept_outputs(peer):
    peer.start("feature_fusion", batch_size=8)
    assert peer.once() > 0
    peer.epoch()
    cost = peer.cost()
    assert cost["parameters"] == 3271
    # Six operations a weight and face, of three layers without the frozen networks before them.
    assert 6 * 8 * 3184 < cost["flops"] < 3 * 6 * 8 * 3271


def test_figures():
    assert report.spread([0.2, 0.1, 0.4], 1e3) == "200 (100-400)"
    assert report.spread([1.234]) == "1.23 (1.23-1.23)"
    assert report.ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    step = {
        "cost": {"flops": 4e9, "parameters": 1e6},
        "ceilings": {"matmul_flops": [1e11, 3e11, 2e11], "memory_bytes": [7e9]},
    }
    # 4e9 operations at 2e11 a second; seven passes over a million floats at 7e9 bytes a second.
    assert report.limit(step) == pytest.approx(0.02 + 0.004)

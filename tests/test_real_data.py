"""The paper's config on FER2013 itself, as far as seconds go; skipped without FERMM_FER2013."""

import os

import numpy as np
import pytest

from configs import paper
from fermm import experiment
from fermm.data import source
from fermm.experiment import config as run_config

FER2013 = os.environ.get("FERMM_FER2013")
pytestmark = pytest.mark.skipif(not FER2013, reason="FERMM_FER2013 does not name FER2013's CSV")


def config(tmp_path_factory):
    result = paper.get_config()
    result.data.path = FER2013
    result.data.cache_dir = os.environ.get("FERMM_CACHE") or str(tmp_path_factory.getbasetemp())
    return result


def test_the_papers_data(tmp_path_factory):
    data = source.load(run_config.read(config(tmp_path_factory).to_dict()).run.data)
    assert {k: len(v) for k, v in data.splits.items()} == {
        "train": 25_121,
        "validation": 7_177,
        "test": 3_589,
    }
    table_1 = [1.815, 16.433, 1.755, 1.0, 1.479, 2.246, 1.450]
    np.testing.assert_allclose(data.class_weights, table_1, atol=5e-4)
    assert data.splits["train"][:5].tolist() == [34412, 10642, 13453, 14843, 30120]


@pytest.mark.slow
def test_two_epochs_of_the_landmark_network_and_a_fusion_on_it(tmp_path_factory, tmp_path):
    few = config(tmp_path_factory)
    few.networks = ("image", "landmarks", "feature_fusion")
    # The image network is there to be fused; its training takes minutes, so it is a tiny one.
    few.image.arguments.filters, few.image.arguments.hidden = (1, 1, 1), 1
    few.image.epochs = 1
    few.landmarks.epochs = few.feature_fusion.epochs = 2
    few.evaluate.splits = ("validation",)
    result = experiment.run(few.to_dict(), tmp_path / "run")
    # The paper's own code has 0.29, then 0.28 after two epochs; a guess has 0.25 (all "happy").
    assert result["landmarks"]["validation"]["accuracy"][0] > 0.26
    assert result["landmarks"]["validation"]["log_loss"][0] < 1.9
    assert result["feature_fusion"]["validation"]["count"] == 7_177

"""The paper's four networks on FER+: eight classes, labelled by ten annotators' votes.

FER+ (Barsoum et al., 2016, https://arxiv.org/abs/1608.01041) relabels FER2013's rows; its votes are
`fer2013new.csv` of https://github.com/microsoft/FERPlus.

    uv run launch.py --config configs/ferplus.py --config.data.path fer2013.csv \
        --config.data.votes fer2013new.csv --workdir runs/ferplus

Labels are the emotion with more than half of the votes, the split is the challenge's own. With
`--config.data.labels=votes` networks are trained on the distribution of the votes.

Expect (test accuracy in percent): image 67.3 (one seed), landmarks 62.5 +- 2.2, fusion of decisions
69.2 +- 0.2, fusion of features 70.0 +- 0.3 (three seeds each); about as long as `configs/paper.py`.
See docs/results.md.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config() -> ConfigDict:
    """The config; `launch.py --help` explains the fields."""
    config = paper.get_config()
    config.data.labels = "majority"
    config.data.votes = ""
    config.data.split = "official"
    config.data.class_weights = "none"
    return config

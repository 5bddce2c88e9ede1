"""The paper's four networks on five splits: what the choice of the split adds to the numbers.

    uv run launch.py --config configs/paper_splits.py --config.data.path fer2013.csv \
        --workdir runs/splits

Each split is a whole run of configs/paper.py in `runs/splits/split_<seed>`; split 0 is the paper's.
`runs/splits/report.html` has them side by side. Five times the time of configs/paper.py.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config() -> ConfigDict:
    """The config; `launch.py --help` explains the fields."""
    config = paper.get_config()
    config.split_seeds = (0, 1, 2, 3, 4)
    return config

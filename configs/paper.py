"""The paper's four networks on FER2013, as the paper trains them (sections 5.2.2 to 5.2.4).

Reproduces table 2 of Kremer & Guelfi, "Learning Multimodal Information", 2021:

    uv run launch.py --config configs/paper.py --config.data.path fer2013.csv --workdir runs/paper

Expect (test accuracy in percent, mean and standard deviation over seeds 0 to 4): image 46.2 +- 0.5,
fusion of decisions 48.2 +- 0.6, fusion of features 48.7 +- 0.6; landmarks 40.5 +- 2.8 over seeds 0
to 19. Ten to thirty minutes on two cores without a GPU; see docs/results.md.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config; `launch.py --help` explains the fields."""
    config = ConfigDict()
    config.networks = ("image", "landmarks", "decision_fusion", "feature_fusion")
    config.seeds = (0,)
    config.split_seeds = ()
    config.report = True
    config.tensorboard = False
    config.parallel = "none"
    config.checkpoint_minutes = 10.0
    config.keep = "all"
    config.accept_changed_code = False
    config.debug_nans = False

    config.data = ConfigDict(
        {
            "source": "fer2013",
            "path": "",
            "title": "",
            "labels": "original",
            "on_error": "stop",
            "cache_dir": "~/.cache/fermm",
            "landmarks": "paper",
            "predictor": "",
            "streaming": False,
            "workers": 0,
            "split": "paper",
            "split_seed": 0,
            "class_weights": "pooled",
        }
    )

    config.image = ConfigDict(
        {
            "model": "nn1",
            "arguments": {
                "filters": (16, 32, 64),
                "hidden": 512,
                "features": 16,
                "dtype": "float32",
            },
            "trainable": (".*",),
            "seeds_at_once": 1,
            "epochs": 16,
            "batch_size": 32,
            "learning_rate": 1e-4,
            "schedule": {"kind": "step", "factor": 0.2, "epochs": (10,)},
        }
    )
    config.landmarks = ConfigDict(
        {
            "model": "nn2",
            "arguments": {
                "point_features": 4,
                "hidden": (256, 512),
                "features": 16,
                "dropout": 0.2,
                "dtype": "float32",
            },
            "trainable": (".*",),
            "seeds_at_once": 8,
            "epochs": 16,
            "batch_size": 32,
            "learning_rate": 1e-3,
            "schedule": {"kind": "plateau", "factor": 0.2, "patience": 5, "min_delta": 1e-4},
        }
    )
    config.decision_fusion = ConfigDict(
        {
            "head": "decision",
            "arguments": {},
            "members": {
                "image": {"network": "image", "run": "", "seed": -1},
                "landmarks": {"network": "landmarks", "run": "", "seed": -1},
            },
            "reuse_frozen_outputs": True,
            "trainable": ("head/.*", "!image/.*", "!landmarks/.*"),
            "seeds_at_once": 8,
            "epochs": 16,
            "batch_size": 32,
            "learning_rate": 5e-4,
            "schedule": {"kind": "constant"},
        }
    )
    config.feature_fusion = ConfigDict(
        {
            "head": "feature",
            "arguments": {"hidden": (64, 16)},
            "members": {
                "image": {"network": "image", "run": "", "seed": -1},
                "landmarks": {"network": "landmarks", "run": "", "seed": -1},
            },
            "reuse_frozen_outputs": True,
            "trainable": ("head/.*", "!image/.*", "!landmarks/.*"),
            "seeds_at_once": 8,
            "epochs": 16,
            "batch_size": 32,
            "learning_rate": 5e-5,
            "schedule": {"kind": "constant"},
        }
    )

    config.evaluate = ConfigDict({"splits": ("train", "validation", "test")})
    return config

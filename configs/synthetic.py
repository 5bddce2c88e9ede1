"""Four small networks on synthetic faces: what `launch.py` does without arguments.

Reproduces nothing: it shows the whole way without any download. Nothing measured on synthetic faces
says anything about real ones.

    uv run launch.py

Expect (seed 0, test accuracy in percent): image 63.0 to 63.8, landmarks 55.1, fusion of decisions
69.6 to 69.9, fusion of features 69.9 to 70.6, by how processor and JAX round (docs/results.md);
90 s on two cores without a GPU, the setting up of an environment included.
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
            "source": "synthetic",
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
            "arguments": {"count": 10000, "seed": 0, "spoiled": 0.0},
        }
    )

    config.image = ConfigDict(
        {
            "model": "nn1",
            "arguments": {
                "filters": (8, 16, 32),
                "hidden": 256,
                "features": 16,
                "dtype": "float32",
            },
            "trainable": (".*",),
            "seeds_at_once": 1,
            "epochs": 12,
            "batch_size": 32,
            "learning_rate": 5e-4,
            "schedule": {"kind": "step", "factor": 0.2, "epochs": (9,)},
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
            "learning_rate": 5e-3,
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
            "learning_rate": 1e-3,
            "schedule": {"kind": "constant"},
        }
    )

    config.evaluate = ConfigDict({"splits": ("train", "validation", "test")})
    return config

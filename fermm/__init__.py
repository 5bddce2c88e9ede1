"""Facial emotion recognition from face images and facial landmarks, in JAX/Flax.

>>> import fermm
>>> network = fermm.restore("runs/paper", "feature_fusion")
>>> probabilities = network.predict(images=images)  # uint8 (N, 48, 48) -> float32 (N, 7)

Public: `EMOTIONS`, `InputError`, `landmarks` (a module: `extract`, `predictor_digest`, `read_csv`,
`write_csv`), `restore` and `__version__`. They are imported when first used, so that importing
fermm is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fermm.data import landmarks
    from fermm.faces import EMOTIONS
    from fermm.errors import InputError
    from fermm.predict import restore

    __version__: str

__all__ = ["EMOTIONS", "InputError", "__version__", "landmarks", "restore"]

_HOMES = {
    "EMOTIONS": "fermm.faces",
    "InputError": "fermm.errors",
    "landmarks": "fermm.data",
    "restore": "fermm.predict",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        globals()[name] = importlib.import_module("importlib.metadata").version("fermm")
        return globals()[name]
    if name not in _HOMES:
        raise AttributeError(f"module 'fermm' has no attribute {name!r}")
    home = importlib.import_module(_HOMES[name])
    value = getattr(home, name, None) or importlib.import_module(f"{_HOMES[name]}.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Trains and compares emotion-recognition networks as a config says.

Without arguments: the four networks on drawn (synthetic) faces, in about a minute.

    uv run launch.py
    uv run launch.py --config configs/paper.py --config.data.path fer2013.csv --workdir runs/paper
    uv run launch.py --config.seeds="(0, 1, 2)" --config.image.epochs=4 --workdir runs/short

Called again with the same workdir, it goes on where it stopped. The config file is Python, and is
run: use only config files that you trust.
"""

from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

_HERE = Path(__file__).resolve().parent
_CONFIG = config_flags.DEFINE_config_file(
    "config", str(_HERE / "configs" / "synthetic.py"), "The experiment.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run's directory; without it, runs/ and the name of the config file."
)


def main(argv: list[str]) -> None:
    """Runs the experiment."""
    from fermm import experiment

    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}; see --help")
    logging.set_verbosity(logging.ERROR)
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    experiment.run(_CONFIG.value.to_dict(), _WORKDIR.value or Path("runs") / name)


if __name__ == "__main__":
    app.run(main)

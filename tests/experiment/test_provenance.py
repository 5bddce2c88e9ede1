"""Which code a network is made by, and what becomes of a run where that is changed."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fermm import experiment, models
from fermm.errors import InputError
from fermm.evaluate import run
from fermm.experiment import provenance
from fermm.models import registry
from helpers.trainings import small_config

ROOT = Path(__file__).parents[2]

CONFIG = '''
"""A head of one's own."""
import flax.linen as nn
from configs import synthetic
from fermm.models import Outputs, register_head
from ml_collections import ConfigDict
import helper

SEEDS = (0,)  # of the config alone
UNITS = 3


@register_head("own")
class OwnHead(nn.Module):
    @nn.compact
    def __call__(self, parts, *, train):
        x = helper.join(parts["image"].features, parts["landmarks"].features)
        x = nn.Dense(UNITS)(x)
        return Outputs(x, nn.Dense(7)(x))


@register_head("other")
class OtherHead(nn.Module):
    pass


def _section(config):
    return ConfigDict(config.feature_fusion.to_dict())


def get_config():
    config = synthetic.get_config()
    config.own = _section(config)
    config.seeds = SEEDS
    return config


if __name__ == "__main__":
    print(get_config())
'''
HELPER = """
import jax.numpy as jnp


def join(*arrays):
    return jnp.concatenate(arrays, axis=-1)
"""
SPEC = {
    "head": "own",
    "arguments": {},
    "members": {
        "image": {"model": "nn1", "arguments": {}},
        "landmarks": {"model": "nn2", "arguments": {}},
    },
}


@pytest.fixture
def heads(monkeypatch):
    known = dict(registry.HEADS)
    monkeypatch.setattr(registry, "HEADS", known)
    monkeypatch.setattr(models.building, "HEADS", known)
    monkeypatch.setattr(provenance, "HEADS", known)
    return known


@pytest.fixture
def program(tmp_path, monkeypatch, heads):
    """Writes the two files anew, with words exchanged, and loads them as launch.py does."""
    folder = tmp_path / "program"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load(*exchanges):
        config, helper = CONFIG, HELPER
        for old, new in exchanges:
            assert (old in config) != (old in helper)
            config, helper = config.replace(old, new), helper.replace(old, new)
        (folder / "own.py").write_text(config)
        (folder / "helper.py").write_text(helper)
        for name in ("helper", "config_config"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        heads.pop("own", None)
        heads.pop("other", None)
        spec = importlib.util.spec_from_file_location("config_config", folder / "own.py")
        module = sys.modules["config_config"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return folder / "own.py"

    yield load
    for name in ("helper", "config_config"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("exchange", "differs"),
    [
        (("UNITS = 3", "UNITS = 4"), ["own.py"]),
        (("nn.Dense(7)(x)", "nn.Dense(7)(-x)"), ["own.py"]),
        (("axis=-1", "axis=1"), ["helper.py"]),
        (("    pass", "    features: int = 3"), []),  # another head, which it does not use
        (("SEEDS = (0,)", "SEEDS = (0, 1)"), []),
        (("config.seeds = SEEDS", "config.seeds = (5,)"), []),
        (("config.feature_fusion", "config.decision_fusion"), []),  # compared by its values
        (("print(get_config())", "print(get_config().seeds)"), []),
        (('"""A head of one\'s own."""', "# Nothing more."), []),
        (("import helper\n", "import helper\nhelper.join.__doc__ = '-'\n"), ["own.py"]),
    ],
)
def test_what_counts(program, exchange, differs):
    before = provenance.code_of(SPEC, [program()])
    assert set(before) == {"own.py", "helper.py"}
    assert provenance.code_of(SPEC, [program()]) == before
    assert run.differing(before, provenance.code_of(SPEC, [program(exchange)])) == differs
    # It is not the file of the config that makes it count.
    program()
    assert provenance.code_of(SPEC) == before


def test_of_what_is_in_the_package_nothing_counts():
    specs = ({"model": "nn1"}, {**SPEC, "head": "feature"})
    for spec in specs:
        for name in ("synthetic", "paper", "paper_splits"):
            assert provenance.code_of(spec, [ROOT / "configs" / f"{name}.py"]) == {}


@pytest.mark.slow
def test_one_average_is_of_one_program(program, tmp_path):
    def config(*seeds, **changes):
        made = small_config(networks=("image", "landmarks"), seeds=seeds)
        for name in made["networks"]:
            made[name]["epochs"] = 1
        made["image"]["schedule"] = {"kind": "constant"}
        made["own"] = made["feature_fusion"] | {"head": "own", "arguments": {}, "epochs": 1}
        made["networks"] = ("image", "landmarks", "own")
        return made | changes

    workdir = tmp_path / "run"
    file = program()
    experiment.run(config(0), workdir, program=[file])
    assert run.load(workdir).code_notes == ()
    program(("SEEDS = (0,)", "SEEDS = (0, 1)"))
    program(("axis=-1", "axis=1"))
    for seeds in ((0, 1), (0,)):
        with pytest.raises(InputError) as caught:
            experiment.run(config(*seeds), workdir, program=[file])
        assert str(caught.value) == (
            f"{workdir}/own/seed_0: trained by other code of your own than there is now, helper.py "
            "differs; bring that code back, choose another --workdir, or set "
            "config.accept_changed_code, of which the report will tell"
        )
    experiment.run(config(0, 1, accept_changed_code=True), workdir, program=[file])
    found = run.load(workdir)
    assert found.code_notes == (
        "The seeds of own were trained by different programs: helper.py was changed between them.",
        "The run was last called with config.accept_changed_code: what had been trained may have "
        "been evaluated by code that was changed since.",
    )
    # Networks of fermm's own do not depend on it.
    assert [each.meta["code"] for each in found.networks["image"]] == [
        [{"epoch": 1, "files": {}}]
    ] * 2


SCRIPT = """
from configs import synthetic
from fermm import experiment

def main():
    config = synthetic.get_config()
    config.data.source = "fer2013"
    config.data.arguments = {}
    config.data.path = "fer2013.csv"
    config.data.cache_dir = "cache"
    experiment.run(config.to_dict(), "run")

main()
"""


def test_a_script_that_does_not_guard_what_it_does(tmp_path):
    """Its landmark processes would import it, and begin again."""
    faces = 2000  # for which two processes are worth while
    rows = "".join(
        f"{i % 7},{' '.join(['%d'] * 2304) % ((i % 251,) * 2304)},Training\n" for i in range(faces)
    )
    (tmp_path / "fer2013.csv").write_text("emotion,pixels,Usage\n" + rows)
    (tmp_path / "own.py").write_text(SCRIPT)
    result = subprocess.run(
        [sys.executable, "own.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        f"fermm.errors.InputError: {tmp_path}/own.py, line 13: this starts processes, each of "
        "which imports the script and would do the same again: put it, and all that the script "
        'does, below `if __name__ == "__main__":`'
    )
    assert "bootstrapping" not in result.stderr


GUARDS = """
import sys
from fermm.data import processes

def main():
    with processes.starting():
        print("started")

{}
"""


@pytest.mark.parametrize(
    ("last", "fine"),
    [
        ("main()", False),
        ("if __name__ == '__main__':\n    main()", True),
        ("if __name__ == '__main__':\n    pass\nmain()", False),
        ("if __name__ != '__main__':\n    sys.exit()\nmain()", True),
        ("if len(sys.argv) == 1:\n    main()", False),
    ],
)
def test_guards(tmp_path, last, fine):
    (tmp_path / "own.py").write_text(GUARDS.format(last))
    result = subprocess.run(
        [sys.executable, tmp_path / "own.py"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.stdout == "started\n") == fine
    assert ("below `if __name__" in result.stderr) == (not fine)

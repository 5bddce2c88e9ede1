"""What README.md and docs/ tell a reader to run is run, on few faces."""

import ast
import os
import pathlib
import re
import shlex
import subprocess
import sys

import ml_collections
import pytest

from configs import paper, paper_splits, synthetic
from fermm import config as config_lib
from fermm.data import landmarks
from fermm.experiment.config import MemberConfig, NetworkConfig, default_of
from fermm.faces import EMOTIONS

ROOT = pathlib.Path(__file__).parent.parent
FEW = ["--config.data.arguments.count=330", "--config.image.arguments.hidden=16"]
FEW += [f"--config.{n}.epochs=1" for n in ("image", "landmarks", "decision_fusion")]
FEW += ["--config.feature_fusion.epochs=1"]


@pytest.mark.slow
def test_the_examples_of_the_readme(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for command in (
        [ROOT / "launch.py", *FEW, "--config.report=False"],  # leaves runs/synthetic
        ["-c", "\n".join(blocks)],  # the second block goes on after the first
    ):
        result = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
    emotions = ast.literal_eval(result.stdout)
    assert len(emotions) == 5
    assert set(emotions) <= set(EMOTIONS)
    points, _ = landmarks.read_csv(tmp_path / "landmarks.csv")
    assert points.shape == (5, 68, 2)


def test_flags_in_documents_are_fields_of_the_configs():
    known = {"gated_fusion"}  # of docs/extending.md, which is run below
    for config in (paper.get_config(), paper_splits.get_config(), synthetic.get_config()):
        known |= set(_fields(config.to_dict()))
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for field in re.findall(r"--config\.([a-z0-9_.]*[a-z0-9_])", page.read_text()):
            if field.split(".")[0] not in known | {"gated_fusion", "image"}:
                default_of(field, "")  # raises LookupError if there is no such field
            elif "." in field and field not in known:
                default_of(field, "")


def test_commands_in_documents_name_files_that_exist():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        text = page.read_text()
        named = [ROOT / name for name in re.findall(r"configs/\w+\.py", text)]
        named += [page.parent / name for name in re.findall(r"\]\((?!https?:)([^)#]+)", text)]
        for path in named:
            assert path.exists(), (page.name, path)
        for module in re.findall(r"python -m (fermm[\w.]*|benchmarks|reliability[\w.]*)", text):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def _fields(values, prefix=""):
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _fields(value, f"{prefix}{key}.")


@pytest.mark.long
@pytest.mark.slow
def test_every_example_of_an_extension(tmp_path):
    """docs/extending.md: a head; then a data set, a modality, a network, a loss, augmentations."""
    page = (ROOT / "docs" / "extending.md").read_text()
    blocks = re.findall(r"```(python|bash)\n(.*?)```", page, re.DOTALL)
    kinds = ["python", "bash", "python", "python", "bash", "python", "python", "bash", "python"]
    assert [kind for kind, _ in blocks] == kinds
    gated, train, use_gated, own, train_own, use_own, members, tune, export = (b for _, b in blocks)
    (tmp_path / "gated.py").write_text(gated)
    (tmp_path / "upside_down.py").write_text(own)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"}

    def run(command):
        result = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    outputs = []
    for line in [*train.splitlines(), *tune.splitlines(), *train_own.splitlines()]:
        uv, subcommand, launch, *arguments = shlex.split(line)
        assert (uv, subcommand, launch) == ("uv", "run", "launch.py")
        few = FEW
        if "upside_down.py" in arguments:
            few = ["--config.data.arguments.count=800", "--config.landmarks.epochs=2"]
        elif "gated.py" in arguments:
            few = ["--config.data.arguments.count=330", "--config.gated_fusion.epochs=2"]
        if not {"runs/gated", "runs/upside_down"} & {*arguments}:  # reports take time
            few = [*few, "--config.report=False"]
        outputs.append(run([sys.executable, ROOT / "launch.py", *arguments, *few]))
    assert "feature_fusion, seed 0" in outputs[0]
    assert "gated_fusion, seed 0  epoch  2/2" in outputs[1]
    assert "gated_fusion, seed 0  epoch  2/2" in outputs[2]
    assert (
        "fusion: head 'gated' over hog, image, landmarks; reads hog, images, landmarks"
        in outputs[3]
    )
    assert (tmp_path / "runs" / "gated" / "figures" / "architecture_gated_fusion.svg").is_file()
    assert "upside_down" in (tmp_path / "runs" / "upside_down" / "report.html").read_text()
    shown = run([sys.executable, "-c", use_gated])
    assert "'head': ['Dense_0', 'Dense_1']" in shown
    assert "(16, 8) upside_down" in run([sys.executable, "-c", use_own])
    assert run([sys.executable, "-c", export]) == "(3, 7)\n"
    # The members of the last example: what the config is given is read as such.
    config = ml_collections.ConfigDict({"fusion": {}})
    exec(members, {"config": config, "ConfigDict": ml_collections.ConfigDict})
    section = {"head": "decision", "epochs": 1, "batch_size": 8, "learning_rate": 1e-3}
    read = config_lib.read(
        NetworkConfig, section | config.fusion.to_dict(), "config.fusion"
    ).member_configs
    assert read["older"] == MemberConfig("image", "runs/paper", 3)
    assert read["pair"] == MemberConfig("decision_fusion")

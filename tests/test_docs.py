"""docs/extending.md is run as a reader would run it, on few faces."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FEW = ["--config.data.synthetic.count=200", "--config.image.arguments.hidden=8"]
FEW += [f"--config.{n}.epochs=1" for n in ("image", "landmarks", "decision_fusion")]
FEW += ["--config.feature_fusion.epochs=1"]


@pytest.mark.slow
def test_the_page_about_a_head_of_your_own(tmp_path):
    page = (ROOT / "docs" / "extending.md").read_text()
    blocks = re.findall(r"```(python|bash)\n(.*?)```", page, re.DOTALL)
    assert [kind for kind, _ in blocks] == ["python", "bash", "python", "bash"]
    (tmp_path / "gated.py").write_text(blocks[0][1])
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"}

    def run(command):
        result = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    outputs = []
    for _, commands in (blocks[1], blocks[3]):
        for line in commands.splitlines():
            uv, subcommand, launch, *arguments = shlex.split(line)
            assert (uv, subcommand, launch) == ("uv", "run", "launch.py")
            few = [*FEW, "--config.gated_fusion.epochs=2"] if "gated.py" in arguments else FEW
            if "runs/gated" not in arguments:  # one report is enough, and takes time
                few = [*few, "--config.report=False"]
            outputs.append(run([sys.executable, ROOT / "launch.py", *arguments, *few]))
    assert "Fusion of features" in outputs[0]
    assert "gated_fusion, seed 0  epoch  2/2" in outputs[1]
    assert "gated_fusion, seed 0  epoch  2/2" in outputs[2]
    assert (tmp_path / "runs" / "gated" / "figures" / "architecture_gated_fusion.svg").is_file()
    shown = run([sys.executable, "-c", blocks[2][1]])
    assert shown.count("]") == 5 + 1 + 3
    assert "'head': ['Dense_0', 'Dense_1']" in shown

"""The Beam pipeline, with the runner in this process and with workers of its own: the faces of the
source, in its order.

Beam conflicts with the other tests' packages; they are skipped there, and run by
`uv run --isolated --no-dev --group beam pytest -n 0 tests/data/test_beam.py`.
"""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("apache_beam")

from apache_beam.options.pipeline_options import PipelineOptions

from fermm.data import beam, dataset, fer2013, landmarks, stream, synthetic
from fermm.data.beam import __main__
from fermm.data.fer2013 import USAGES
from fermm.errors import InputError
from fermm.faces import EMOTIONS

pytestmark = pytest.mark.filterwarnings("ignore")  # many, of Beam and of TFDS with its protobuf
N = 300


@pytest.fixture(scope="module")
def drawn():
    faces = synthetic.draw(N, seed=0)
    faces.official[:] = np.arange(N) % 3
    return faces


def write_csv(path, faces) -> None:
    lines = ["emotion,pixels,Usage"]
    for image, label, usage in zip(
        faces.features["images"], faces.labels, faces.official, strict=True
    ):
        lines.append(f"{label},{' '.join(map(str, image.ravel()))},{USAGES[usage]}")
    path.write_text("\n\n".join(lines) + "\n")  # with empty lines


def assert_prepared(directory, images, labels, usage) -> None:
    faces = dataset.prepare(directory)
    np.testing.assert_array_equal(faces.features["images"], images)
    np.testing.assert_array_equal(faces.labels, labels)
    np.testing.assert_array_equal(faces.official, usage)
    np.testing.assert_array_equal(faces.rows, np.arange(len(images)))
    np.testing.assert_array_equal(faces.features["landmarks"], landmarks.extract(images))
    streamed = dataset.prepare(directory, streaming=True)
    assert isinstance(streamed.features["images"], stream.Column)
    np.testing.assert_array_equal(streamed.features["images"][::-7], images[::-7])
    source = beam.tfds.builder_from_directory(directory).as_data_source("full")
    quality = [source[i]["landmark_quality"] for i in range(0, len(images), 100)]
    expected = landmarks.quality(images[::100], landmarks.extract(images[::100]))
    np.testing.assert_array_equal(quality, expected)


def test_several_csvs(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(beam, "BLOCK", 64)
    shards = beam.tfds.core.utils.shard_utils.ShardConfig
    monkeypatch.setattr(shards, "get_number_shards", lambda *args, **kwargs: 5)
    cuts = [0, 150, 151, N]
    for i in range(3):
        write_csv(tmp_path / f"faces-{i}.csv", drawn.take(np.arange(cuts[i], cuts[i + 1])))
    source = beam.Source(str(tmp_path / "faces-*.csv"))
    directory = beam.prepare(source, tmp_path / "out", PipelineOptions([]))
    assert len(list(directory.glob("*.array_record*"))) == 5
    assert_prepared(directory, drawn.features["images"], drawn.labels, drawn.official)
    assert beam.prepare(source, tmp_path / "out") == directory  # is there already


def test_image_folders(drawn, tmp_path):
    root = tmp_path / "faces"
    for i in range(40):
        split = "train" if drawn.official[i] == 0 else "test"
        folder = root / split / EMOTIONS[drawn.labels[i]]
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{USAGES[drawn.official[i]]}_{40 - i}.png"
        Image.fromarray(drawn.features["images"][i]).save(folder / name)
    expected = fer2013.read(root)
    directory = beam.prepare(beam.Source(str(root)), tmp_path / "out")
    assert_prepared(directory, expected.features["images"], expected.labels, expected.official)


def test_the_command_line(drawn, tmp_path, monkeypatch, capsys):
    def run(images):
        command = ["beam", "--images", str(images), "--out", str(tmp_path / "out")]
        monkeypatch.setattr("sys.argv", [*command, "--runner=DirectRunner"])
        __main__.main()

    with pytest.raises(SystemExit) as caught:
        run(tmp_path / "none.csv")
    assert str(caught.value).startswith(f"{tmp_path}/none.csv: no such folder, and no file matches")
    write_csv(tmp_path / "bad.csv", drawn.take(np.arange(3)))
    with (tmp_path / "bad.csv").open("a") as file:
        file.write("7,1 2 3,Training")
    with pytest.raises(SystemExit) as caught:
        run(tmp_path / "bad.csv")
    assert str(caught.value).startswith(f"{tmp_path}/bad.csv, line 8 (row 4): emotion is '7'")
    write_csv(tmp_path / "good.csv", drawn.take(np.arange(3)))
    run(tmp_path / "good.csv")
    [line] = [x for x in capsys.readouterr().out.splitlines() if x.startswith("config.data.path")]
    assert_prepared(
        line.split(": ")[1], drawn.features["images"][:3], drawn.labels[:3], drawn.official[:3]
    )


def test_worker_processes(drawn, tmp_path):
    for i in range(2):
        write_csv(tmp_path / f"faces-{i}.csv", drawn.take(np.arange(20 * i, 20 * i + 20)))
    command = [sys.executable, "-m", "fermm.data.beam", "--images=faces-*.csv", "--out=out"]
    workers = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]

    def run(*more):
        return subprocess.run(
            [*command, *more],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=False,
        )

    result = run("--runner=DirectRunner", *workers)
    assert result.returncode == 0, result.stderr
    directory = result.stdout.splitlines()[-1].removeprefix("config.data.path for a run: ")
    assert_prepared(
        directory, drawn.features["images"][:40], drawn.labels[:40], drawn.official[:40]
    )
    assert run("--images=faces-0.csv").stderr.splitlines()[-1] == (
        f"{directory}: was prepared from something else, see {tmp_path}/out/large_faces.json; "
        "choose another --out"
    )


def test_mistakes_are_found_before_any_work(tmp_path):
    with pytest.raises(InputError, match=r"none-\*.csv: no such folder, and no file matches"):
        beam.prepare(beam.Source(str(tmp_path / "none-*.csv")), tmp_path / "out")
    with pytest.raises(InputError, match="did you mean 'paper'"):
        beam.prepare(beam.Source(str(tmp_path), "papre"), tmp_path / "out")
    assert not (tmp_path / "out").exists()

"""What of the data shows in a whole run: what is set aside, and what stays on disk."""

import csv
import multiprocessing
import pathlib

import numpy as np
import pytest

import fermm
from configs import paper
from fermm import experiment
from fermm.data import dataset, synthetic
from fermm.errors import InputError
from helpers.landmark_csv import landmark_file
from helpers.quarantine import BAD, COUNT, place, write_csv
from helpers.trainings import assert_identical, small_config


@pytest.mark.slow
def test_a_run_tells_what_it_set_aside(tmp_path, capsys):
    config = paper.get_config().to_dict()
    labels = [i % 7 for i in range(COUNT)]
    config["data"] |= {
        "path": str(write_csv(tmp_path / "faces.csv")),
        "cache_dir": str(tmp_path / "cache"),
        "landmarks": landmark_file(tmp_path / "points.csv", labels),
        "on_error": "quarantine",
    }
    config |= {"networks": ("landmarks",), "report": False}
    config["landmarks"] |= {"epochs": 1}
    written = []
    for _ in range(2):  # the second time from the cache
        experiment.run(config, tmp_path / "run")
        with (tmp_path / "run" / "rejected.csv").open(newline="") as file:
            written.append(list(csv.reader(file)))
        (tmp_path / "run" / "rejected.csv").unlink()
        line = f"4 of 40 rows set aside, see {tmp_path}/run/rejected.csv"
        assert line in capsys.readouterr().out.splitlines()
    own = [[config["data"]["path"], place(at), why] for at, (_, why) in BAD.items()]
    assert written == [[["source", "place", "reason"], *own]] * 2
    with np.load(tmp_path / "run" / "samples.npz") as samples:
        assert samples["row"].tolist() == [i for i in range(COUNT) if i not in BAD]
        assert np.bincount(samples["split"]).tolist() == [25, 7, 4]
    # One more bad row before them: the same faces under other numbers.
    path = pathlib.Path(config["data"]["path"])
    header, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(header + b"\nx\n" + rest)
    config["data"]["landmarks"] = landmark_file(tmp_path / "points.csv", [0, *labels])
    with pytest.raises(
        InputError, match=r"begun with other data: labels is '\w+' there and '\w+' now"
    ):
        experiment.run(config, tmp_path / "run")
    config["data"]["on_error"] = "stop"
    with pytest.raises(InputError, match=r"on_error is 'quarantine' there and 'stop' now"):
        experiment.run(config, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_streams_is_the_run_in_memory(tmp_path, workers):
    directory = dataset.write(synthetic.draw(300, seed=0), tmp_path / "cache", "drawn")
    config = small_config(
        networks=("landmarks",),
        seeds=(0, 1),
        data__source="fer2013",
        data__path=str(directory),
        landmarks__epochs=1,
        data__arguments={},
        data__workers=workers,
    )
    networks = []
    for streaming in (False, True):
        config["data"]["streaming"] = streaming
        experiment.run(config, tmp_path / str(streaming))
        networks.append(fermm.restore(tmp_path / str(streaming), seed=1).variables)
        assert multiprocessing.active_children() == []
    assert_identical(*networks)
    # What is on disk does not belong to what a run is: it may go on either way.
    experiment.run(config | {"networks": ("landmarks",)}, tmp_path / "False")

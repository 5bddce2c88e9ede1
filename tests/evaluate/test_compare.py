"""Several runs side by side."""

import json

import pytest

from fermm.evaluate import (
    compare,
    run,
    write,
)
from helpers.pages import Page, check_page
from helpers.runs import (
    ALL,
    MINUS,
    NOT_ONE,
    evaluate,
    fabricate,
)


def test_two_configs_on_the_same_faces(tmp_path, capsys):
    one = fabricate(tmp_path / "one", {"image": [ALL, ALL], "landmarks": [range(35), range(35)]})
    two = fabricate(
        tmp_path / "two & more",
        {"image": [NOT_ONE, NOT_ONE, NOT_ONE], "decision_fusion": [NOT_ONE] * 3},
        image__learning_rate=0.25,
    )
    evaluate(one, two, "--out", tmp_path / "new" / "page.html")
    assert capsys.readouterr().out == f"{tmp_path / 'new' / 'page.html'}: written\n"
    page = check_page((tmp_path / "new" / "page.html").read_text())
    accuracies, same, settings = page.tables
    assert accuracies["thead"] == [["network", "one", "two & more"]]
    assert [[cell.split(" (")[0] for cell in row] for row in accuracies["tbody"]] == [
        ["image", "0.0 ± 0.0", "100.0 ± 0.0"],
        ["landmarks", "50.0 ± 0.0", ""],
        ["decision_fusion", "", "100.0 ± 0.0"],
    ]
    # Seeds 0 and 1, which both have.
    (row,) = same["tbody"]
    assert row[:4] == ["image", "shown", "two & more minus one", "100.0"]
    assert row[-1] == "2"
    assert ["image.learning_rate", "0.0005", "0.25"] in settings["tbody"]
    assert len(page.all("img")) == 3  # one for each network
    assert "These runs are compared on test data" in page.text
    numbers = json.loads((tmp_path / "new" / "page.json").read_text())
    assert numbers["runs"] == ["one", "two & more"]
    assert numbers["accuracy"]["image"][1]["seeds"] == [1, 1, 1]
    assert numbers["accuracy"]["decision_fusion"][0] is None
    (difference,) = numbers["same_network"]
    assert (difference["first"], difference["second"]) == ("one", "two & more")
    assert difference["shown"] is True
    assert numbers["swept"] is None  # seeds and networks differ as well


def test_one_number_that_was_swept_is_an_axis(tmp_path):
    """Runs in another order than its values; each in two seeds; on validation data."""
    runs = [
        fabricate(
            tmp_path / str(rate),
            {"image": [{"validation": range(wrong)}] * 2},
            splits=("train", "validation"),
            image__learning_rate=rate,
            data__cache_dir=f"/cache/{rate}",
        )
        for rate, wrong in ((1e-2, 7), (1e-4, 14), (1e-3, 0))
    ]
    evaluate(*runs, "--out", tmp_path / "page.html")
    page = check_page((tmp_path / "page.html").read_text())
    assert "Accuracy over image.learning_rate" in page.text
    assert len(page.all("img")) == 1
    assert "compared on test data" not in page.text
    numbers = json.loads((tmp_path / "page.json").read_text())
    assert numbers["swept"] == "image.learning_rate"
    assert numbers["differing"]["image.learning_rate"] == [1e-2, 1e-4, 1e-3]
    # Something else that differs, or a word, is no axis.
    assert compare._swept([["a", 1, 2], ["b", 3, 4]]) is None
    assert compare._swept([["a", "x", "y"]]) is None
    assert compare._swept([["a", 1, 2], ["b", 1, 2]]) == ("a, b", [1.0, 2.0])


def test_no_difference_is_given_between_runs_on_other_faces(tmp_path):
    one = fabricate(tmp_path / "one", {"image": [ALL]}, digests=1)
    two = fabricate(tmp_path / "two", {"image": [NOT_ONE]}, digests=2, data__arguments__seed=1)
    evaluate(one, two, "--out", tmp_path / "page.html")
    page = check_page((tmp_path / "page.html").read_text())
    assert "No network was tested on the same samples and seeds in two of the runs" in page.text
    assert len(page.tables) == 2


def test_splits_side_by_side(tmp_path):
    runs = [
        fabricate(
            tmp_path / f"split_{seed}",
            {"image": [range(wrong)], "landmarks": [range(35)]},
            data__split_seed=seed,
        )
        for seed, wrong in ((0, 35), (1, 28), (2, 21))
    ]
    evaluate(*runs, "--out", tmp_path / "report.html")
    page = check_page((tmp_path / "report.html").read_text())
    assert "differ in nothing but the seed of the split: 3 splits" in page.text
    accuracies, differences, settings = page.tables
    assert accuracies["thead"] == [
        ["network", "split_0", "split_1", "split_2", "over splits (95%)"]
    ]
    # Student's quantile for two degrees of freedom, 4.3027, times 10 times the root of 1/3 for the
    # three splits plus 70/42 for the samples that they share: 60.8.
    assert [[row[0], row[-1]] for row in accuracies["tbody"]] == [
        ["image", "60.0 ± 10.0 (0.0 to 100.0)"],
        ["landmarks", "50.0 ± 0.0 (50.0 to 50.0)"],
    ]
    assert [cell.split(" (")[0] for cell in accuracies["tbody"][0][1:4]] == ["50.0", "60.0", "70.0"]
    assert differences["tbody"] == [
        [
            "landmarks minus image",
            "0.0",
            f"{MINUS}10.0",
            f"{MINUS}20.0",
            f"{MINUS}10.0 ± 10.0 ({MINUS}70.8 to 50.8)",
        ]
    ]
    numbers = json.loads((tmp_path / "report.json").read_text())["over_splits"]
    assert numbers["accuracy"]["image"]["values"] == [0.5, 0.6, 0.7]
    assert numbers["pairs"][0]["interval"] == pytest.approx([-0.7085, 0.5085], abs=1e-4)
    assert settings["tbody"] == [["data.split_seed", "0", "1", "2"]]


def test_the_same_config_twice_is_not_two_splits(tmp_path):
    """As when a run is repeated on another machine."""
    runs = [fabricate(tmp_path / name, {"image": [range(35)]}) for name in ("here", "there")]
    evaluate(*runs, "--out", tmp_path / "page.html")
    page = check_page((tmp_path / "page.html").read_text())
    assert "seed of the split" not in page.text
    assert page.tables[1]["tbody"] == [
        ["image", "not shown", "there minus here", "0.0", f"{MINUS}2.7 to 2.7", "1.000", "1"]
    ]


def test_seeds_of_two_runs_are_paired_by_name_not_by_place(tmp_path):
    """Runs with the seeds (0, 1) and (1, 0), wrong on the same samples where these are the same."""
    some, others = range(20), range(40, 55)
    runs = [
        run.load(fabricate(tmp_path / "one", {"image": [some, others]})),
        run.load(fabricate(tmp_path / "two", {"image": [some, others]}, image__learning_rate=1.0)),
    ]
    runs[1].networks["image"].reverse()
    runs[1].config["seeds"] = [1, 0]
    (found,) = compare.same_network(runs)
    assert found.compared.estimate.seeds == [0, 0]
    low, high = found.compared.simultaneous
    assert low == -high
    assert high < 0.03


def test_pairs_of_runs_are_corrected_for_their_number(tmp_path):
    """15 faces against 4 are shown alone, and not as one of the six pairs of four runs."""
    wrong = [range(15), range(15, 19), range(40, 52), range(52, 63)]
    runs = [
        run.load(fabricate(tmp_path / f"run_{i}", {"image": [faces]}, image__learning_rate=0.1 * i))
        for i, faces in enumerate(wrong)
    ]
    (alone,) = compare.same_network(runs[:2])
    together = compare.same_network(runs)
    assert len(together) == 6
    assert alone.compared.shown
    assert not together[0].compared.shown
    assert (together[0].first, together[0].second) == (0, 1)
    assert together[0].compared.estimate == alone.compared.estimate
    assert together[0].compared.p > alone.compared.p
    low, high = together[0].compared.simultaneous
    assert low < alone.compared.simultaneous[0]
    assert high > alone.compared.simultaneous[1]


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    runs = [fabricate(tmp_path / name / "run", {"image": [range(35)]}) for name in ("a", "b")]
    write.comparison([run.load(each) for each in runs], tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    assert page.tables[0]["thead"][0][1:3] == ["a/run", "b/run"]


def test_what_cannot_be_evaluated_is_refused_in_one_line(tmp_path, capsys, monkeypatch):
    one = fabricate(tmp_path / "one", {"image": [NOT_ONE]})
    two = fabricate(tmp_path / "two", {"image": [NOT_ONE]}, splits=("test", "validation"))
    (tmp_path / "empty").mkdir()
    page = tmp_path / "page.html"

    def refusal(*arguments):
        with pytest.raises(SystemExit) as error:
            evaluate(*arguments)
        assert not page.exists()
        if error.value.code == 2:
            return capsys.readouterr().err.splitlines()[-1]
        assert "\n" not in error.value.code
        return error.value.code

    several = "error: give --out for several runs; the report of one run lies in its directory"
    assert refusal(one, two).endswith(several)
    assert refusal(one, "--out", page).endswith(several)
    not_one = f"{tmp_path / 'empty'}: not the directory of a run: config.json is missing"
    assert refusal(tmp_path / "empty") == f"fermm.evaluate: {not_one}"
    assert refusal(one, tmp_path / "empty", "--out", page) == f"fermm.evaluate: {not_one}"
    assert "the runs were assessed on different splits (test, validation)" in refusal(
        one, two, "--out", page
    )
    assert refusal(one, one, "--out", page).endswith("the same run is given twice")
    monkeypatch.chdir(tmp_path)
    assert refusal(one, "one", "--out", page).endswith("the same run is given twice")
    assert refusal(one, "two/../one", "--out", page).endswith("the same run is given twice")
    assert "cannot be written" in refusal(
        one, fabricate(tmp_path / "b", {"image": [ALL]}), "--out", one / "config.json" / "p.html"
    )
    (one / "config.json").write_text("{")
    assert "config.json: cannot be read as JSON" in refusal(one)

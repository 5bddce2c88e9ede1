"""Tables of a run."""

from fermm.evaluate import metrics, table
from helpers.runs import assessed


def test_one_table_has_all_metrics_with_their_intervals(tmp_path):
    read, found = assessed(tmp_path / "run", {"image": [range(35)], "landmarks": [range(7)]})
    made = table.merits(read, found)
    assert made.head[:3] == ["network", "Accuracy in %", "Macro F1 in %"]
    assert len(made.head) == len(metrics.METRICS) + 2
    for row, name in zip(made.rows, ("image", "landmarks"), strict=True):
        assert row[0] == name
        of = found["networks"][name]
        for cell, metric in zip(row[1:], metrics.METRICS, strict=False):
            factor, digits = (100, 1) if metrics.METRICS[metric].percent else (1, 3)
            low, high = (f"{factor * x:.{digits}f}" for x in of[metric]["interval"])
            assert cell == f"{factor * of[metric]['mean']:.{digits}f} ({low} to {high})"


def test_a_table_as_text_and_as_markdown():
    made = table.Table("Caption.", ["", "long head"], [["row", "1"], ["a|b", "22"]])
    assert made.text() == "Caption.\n     long head\nrow          1\na|b         22"
    assert made.markdown().splitlines() == [
        "Caption.",
        "",
        "|  | long head |",
        "| --- | ---: |",
        "| row | 1 |",
        r"| a\|b | 22 |",
    ]

"""The report of a run written by hand; the pages in Chromium."""

import io
import json
import re
import time

import matplotlib.figure
import pytest

from fermm.evaluate import figures, report, run, table, write
from helpers.browser import CHROMIUM, Browser
from helpers.pages import Page, check_page
from helpers.runs import (
    MEMBERS,
    NAMES,
    NOT_ONE,
    PAPER,
    RIGHT,
    assessed,
    evaluate,
    fabricate,
)

PIXEL = report.address(b"\x89PNG", ".png")


def test_what_is_given_as_text_stays_text():
    nasty = """<b>x</b> & "y" 'z' <script>alert(1)</script>"""
    shown = report.Section(
        heading="A & B",
        sentences=[nasty, "second"],
        tables=[table.Table(nasty, ["", nasty], [[nasty, nasty]], words=True)],
        notes=[nasty],
        figures=[
            {
                "caption": nasty,
                "pictures": [
                    {"description": nasty, "address": PIXEL, "failure": ""},
                    {"description": nasty, "address": "", "failure": nasty},
                ],
            }
        ],
        folded=True,
    )
    source = report.render(nasty, [shown])
    page = check_page(source)
    assert not page.all("b")
    # Title, heading, sentence, note, figure that is missing, below the figure, and in the table the
    # caption, head and twice in the row.
    assert page.text.count(nasty) == 10
    assert page.tables == [{"caption": nasty, "thead": [["", nasty]], "tbody": [[nasty, nasty]]}]
    assert page.all("img")[0]["alt"] == nasty
    assert page.all("section")[0]["id"] == "a-b"
    assert page.all("details")


def test_a_png_is_as_wide_as_it_was_drawn():
    content = io.BytesIO()
    figure = matplotlib.figure.Figure(figsize=(3.7, 1))
    figure.savefig(content, format="png", dpi=200)
    picture = {"description": "x", "address": report.address(content.getvalue(), ".png")}
    shown = report.Section("A", figures=[{"caption": "b", "pictures": [picture | {"failure": ""}]}])
    (image,) = check_page(report.render("A", [shown])).all("img")
    assert image["style"] == "width: 22.2rem"  # 355 pixels


def test_points_of_few_decisions_are_hollow_and_not_joined():
    bins = [
        {"decisions": n, "confidence": x, "accuracy": x, "interval": (x - 0.1, x + 0.1)}
        for n, x in ((200, 0.2), (9, 0.4), (10, 0.6))
    ]
    (axes,) = figures.reliability(bins, "x").axes
    _, many, few = [line for line in axes.lines if len(line.get_xdata())][:3]
    assert (many.get_xdata().tolist(), many.get_linestyle()) == ([20, 60], "-")
    assert (few.get_xdata().tolist(), few.get_linestyle()) == ([40], "None")
    assert few.get_markerfacecolor() == "white"


def test_an_empty_section_is_one():
    page = check_page(report.render("Nothing", [report.Section("First"), report.Section("Second")]))
    assert [a["href"] for a in page.all("a")] == ["#first", "#second"]
    assert not page.all("details")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run of everything, two seeds, copies, a directory with a name to escape; evaluated.

    Figures as SVG alone and no architectures, which take longer than all else and have tests of
    their own; one picture as it is drawn from the data.
    """
    directory = fabricate(
        tmp_path_factory.mktemp("written") / "R&D <1>",
        RIGHT,
        modalities={name: [MEMBERS, MEMBERS] for name in NAMES[2:]},
        copied=range(5),
        **PAPER,
        feature_fusion__trainable=("landmarks/(norm|logits)/.*", "head/.*", "!.*"),
    )
    (directory / "figures").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        render = figures.render
        patch.setattr(figures, "render", lambda draw: {".svg": render(draw)[".svg"]})
        patch.setattr(write, "_architectures", lambda *_, **__: {})
        picture = matplotlib.figure.Figure(figsize=(7.4, 2))
        picture.savefig(directory / "figures" / "samples.png", dpi=200)
        evaluate(directory)
    return directory


def test_the_report_of_a_run_stands_alone(written):
    page = check_page((written / "report.html").read_text())
    assert page.text.count("FER2013, R&D <1>") == 2
    headings = ["In short", "Comparisons", "By class", "Calibration", "Modalities", "Training"]
    headings += ["Audit", "Data"]
    for heading in headings:
        assert page.text.count(heading) >= 2  # in the navigation, and above
    titled = [made["caption"] for made in page.tables]
    for part in ("Table 1. ", "Table 2. ", "All metrics on test data", "Accuracy in percent with"):
        assert sum(caption.startswith(part) for caption in titled) == 1
    assert len(page.all("img")) >= 7  # those of samples are drawn where the data is
    stems = ("accuracies", "differences", "recall_by_class", "recall_gains", "validation_loss")
    stems += ("confusion_matrix_image", "reliability_landmarks", "modalities_feature_fusion")
    for stem in stems:
        assert (written / "figures" / f"{stem}.svg").is_file()
    # Before anything else: the result, what changes its meaning, and the figure.
    first = [page.text.index(x) for x in ("the highest accuracy", "5 of the 70 test samples (7.1%)",
             "Accuracy on the 70 test samples.", "All metrics on test data")]  # fmt: skip
    assert first == sorted(first)
    assert "Fusion of decisions has the highest accuracy on the 70 test samples: 77.1%" in page.text
    assert "Few test samples are of angry (10), disgust (10)" in page.text


def test_the_other_files_have_the_same_numbers(written):
    page = Page((written / "report.html").read_text())
    written_tables = (written / "tables.md").read_text()
    shown = [line for line in written_tables.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in shown]
    rows = [[cell.replace(r"\|", "|") for cell in row] for row in rows if row[0] != "---"]
    assert rows == [row for made in page.tables for row in (*made["thead"], *made["tbody"])]
    values = json.loads((written / "metrics.json").read_text())
    assert values["image"]["test"]["accuracy"] == [40 / 70, 37 / 70]
    assert values["image"]["test"]["count"] == 70
    assert values["image"]["seconds"] == [3, 3]
    found = json.loads((written / "assessment.json").read_text())
    assert found["networks"]["image"]["accuracy"]["seeds"] == [40 / 70, 37 / 70]
    assert not list(written.rglob("*.tmp*"))


def test_called_again_from_within_the_report_is_the_same(written, capsys, monkeypatch):
    names = ("report.html", "tables.md", "assessment.json", "metrics.json")
    before = [(written / name).read_bytes() for name in names]
    monkeypatch.setattr(figures, "of_run", lambda *_: {})
    monkeypatch.setattr(write, "_architectures", lambda *_, **__: {})
    monkeypatch.chdir(written)
    evaluate(".")
    assert [(written / name).read_bytes() for name in names] == before
    assert "Table 2. Accuracy in percent on FER2013" in capsys.readouterr().out


def test_a_figure_that_cannot_be_drawn_is_named_and_the_rest_is_written(
    tmp_path, capsys, monkeypatch
):
    """One that fails, one whose file cannot be written, one of a network that nobody registers."""
    own = {"model": "not here", "arguments": {}}
    wrong = {"image": [range(35)], "own": [NOT_ONE]}
    directory = fabricate(tmp_path / "run", wrong, specs={"own": own})
    drawn = directory / "figures"
    (drawn / "validation_loss.svg").mkdir(parents=True)  # in the way
    (drawn / "accuracies.svg").write_text("of an earlier call")
    (drawn / "architecture_own.svg").write_text("<?xml by the run")

    def fail(*_, **__):
        raise ZeroDivisionError("no such\nluck")

    monkeypatch.setattr(figures, "forest", fail)
    monkeypatch.setattr(figures, "confusion", lambda *_: matplotlib.figure.Figure())
    monkeypatch.setattr(figures, "reliability", lambda *_: matplotlib.figure.Figure())
    read = run.load(directory)
    assert sorted(write.report(read)) == [
        *("accuracies", "architecture_own", "differences", "validation_loss")
    ]
    said = capsys.readouterr().out.splitlines()
    named = [line.split(":")[0] for line in said if line.startswith("figure ")]
    assert named == [f"figure {x}" for x in ("accuracies", "differences", "validation_loss",
                                             "architecture_own")]  # fmt: skip
    assert "figure accuracies: not drawn (ZeroDivisionError: no such); all else is written" in said
    page = check_page((directory / "report.html").read_text())
    assert "figures/accuracies could not be drawn: ZeroDivisionError: no such" in page.text
    assert not (drawn / "accuracies.svg").exists()  # it would show other numbers
    assert (drawn / "architecture_own.svg").is_file()  # the network is what it was
    assert (drawn / "validation_accuracy.png").is_file()
    assert (drawn / "architecture_image.svg").is_file()


def test_what_changes_the_meaning_of_the_numbers_stands_at_the_top(tmp_path):
    read, found = assessed(tmp_path / "run", {"image": [range(35)]}, note="not the paper's split")
    made = report.notes(read, found)
    assert made[:2] == [
        "The samples are synthetic. Nothing measured on them says anything about real ones.",
        "Not the paper's split.",
    ]
    assert made[2].startswith("Few test samples are of angry (10), disgust (10), fear (10)")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium on PATH")
    with Browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A page about several splits, with more of them than fit beside each other."""
    directory = tmp_path_factory.mktemp("compared")
    runs = [
        fabricate(
            directory / f"split_{seed}", {n: RIGHT[n] for n in NAMES[:2]}, data__split_seed=seed
        )
        for seed in range(8)
    ]
    write.comparison([run.load(each) for each in runs], directory / "report.html")
    return directory


LOOK = """(() => {
  const page = document.documentElement;
  document.querySelectorAll("details").forEach(one => one.open = true);
  const scrolls = one => one.closest(".wide, nav");
  const all = [...document.querySelectorAll("body *")];
  const small = all.filter(one => one.childElementCount == 0 && one.textContent.trim()
    && parseFloat(getComputedStyle(one).fontSize) < 12);
  return {
    width: page.scrollWidth, window: innerWidth,
    images: [...document.images].map(i => [i.naturalWidth, i.clientWidth, i.alt]),
    captions: [...document.querySelectorAll("table")].map(t => t.caption?.innerText),
    hints: [...document.querySelectorAll(".scrolling")].map(one => [
      one.querySelector(".wide").scrollWidth > one.querySelector(".wide").clientWidth,
      one.querySelector(".hint").getBoundingClientRect().height > 10]),
    out: all.filter(one => !scrolls(one) && one.getBoundingClientRect().right > innerWidth + 1)
      .map(one => one.outerHTML.slice(0, 100)),
    small: small.map(one => one.outerHTML.slice(0, 100)),
  };
})()"""


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("which", ["written", "compared"])
def test_a_page_in_a_browser(browser, which, width, request):
    browser.open(request.getfixturevalue(which) / "report.html", width)
    found = browser.value(LOOK)
    end = time.monotonic() + 10
    # The page puts up its hints a moment after it is laid out.
    while time.monotonic() < end and any(wider != hinted for wider, hinted in found["hints"]):
        time.sleep(0.1)
        found = browser.value(LOOK)
    assert found["window"] == width
    assert found["width"] <= width
    assert found["out"] == []
    assert found["small"] == []
    assert found["images"]
    for natural, shown, alt in found["images"]:
        assert natural > 0
        assert shown >= min(natural, 700)  # words of 9 points stay so, on a telephone too
        assert alt
    # What was measured is seen without scrolling; only pictures of samples are wider.
    assert sum(shown <= 358 for _, shown, _ in found["images"]) >= len(found["images"]) - 1
    # What scrolls says so, and nothing else does.
    assert found["hints"]
    assert all(wider == hinted for wider, hinted in found["hints"])
    assert found["captions"]
    assert all(found["captions"])
    # Nothing was said, nothing asked for but the page and what it holds itself.
    names = [name for name, _ in browser.events]
    assert not {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"} & set(
        names
    )
    asked = [
        p["request"]["url"] for name, p in browser.events if name == "Network.requestWillBeSent"
    ]
    assert asked[0].startswith("file:")
    assert all(url.startswith("data:") for url in asked[1:])


def test_on_a_phone_wide_tables_scroll_and_keep_their_names_in_sight(browser, written):
    browser.open(written / "report.html", 390)
    left = browser.value(
        """[...document.querySelectorAll("main .wide:has(table)")]
          .filter(box => box.scrollWidth > box.clientWidth).map(box => {
          box.scrollLeft = 1e6;
          const cell = box.querySelector("tbody th").getBoundingClientRect();
          const caption = box.querySelector("caption span").getBoundingClientRect();
          return [box.scrollLeft, cell.left, cell.right, caption.left, caption.right];
        })"""
    )
    verdict = browser.value(
        """(() => { const cell = document.querySelector("#comparisons tbody td");
          cell.closest(".wide").scrollLeft = 0;
          return [cell.innerText, cell.getBoundingClientRect().right]; })()"""
    )
    assert verdict[0] in ("better", "not shown")
    assert verdict[1] <= 375
    assert len(left) > 4
    for scrolled, *edges in left:
        assert scrolled > 0
        assert min(edges) >= 15
        assert max(edges) <= 375
    # A link in the navigation, which scrolls too, leads to its section, below the navigation.
    browser.value("document.querySelector(\"nav a[href='#audit']\").click()")
    bottom, top = browser.value(
        """[document.querySelector("nav").getBoundingClientRect().bottom,
            document.querySelector("#audit h2").getBoundingClientRect().top]"""
    )
    assert 0 < bottom <= top + 1 < 200

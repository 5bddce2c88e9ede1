"""The report of a run: one HTML file that needs nothing else, and the files beside it."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

import jinja2

from fermm.evaluate import architecture, figures, table
from fermm.evaluate.assess import assess
from fermm.evaluate.run import REPORT, Run, write_text
from fermm.evaluate.table import Table, title


class Figure(NamedTuple):
    """A figure of the report.

    Attributes:
        stem: name of its files in `figures/`, without suffix.
        caption: below it.
        description: what it shows, for those who do not see it.
    """

    stem: str
    caption: str
    description: str


class Section(NamedTuple):
    """A part of the report.

    Attributes:
        heading: its title.
        sentences: paragraphs before the tables.
        tables: the tables.
        figures: stem, caption, description and `data:` address of each figure.
        folded: whether it is shown only on request.
    """

    heading: str
    sentences: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Mapping[str, str]] = ()
    folded: bool = False


def write(run: Run) -> None:
    """Writes all that is made from a run's predictions, checkpoints and histories.

    That is `assessment.json`, `tables.md`, `report.html`, and the figures, but for those that show
    faces, which need the data and were drawn when the run had it.
    """
    assessment = assess(run)
    write_text(run.directory / "assessment.json", json.dumps(assessment, indent=2) + "\n")
    figures.save_all(run, assessment)
    for name, seeds in run.networks.items():
        meta = seeds[0].meta
        architecture.save(
            run.directory / "figures", name, meta["spec"], title(name), trained=meta["trained"]
        )
    sections = _sections(run, assessment)
    tables = [made.markdown() for section in sections for made in section.tables]
    write_text(run.directory / "tables.md", "\n\n".join(tables) + "\n")
    write_text(
        run.directory / REPORT, render(f"{run.title}, {run.directory.resolve().name}", sections)
    )


def _sections(run: Run, assessment: Mapping[str, Any]) -> list[Section]:
    split = run.config["data"]["split"]
    about = (
        f"All networks were trained on one split ({split!r}); how much the numbers depend on it, "
        "none of the intervals shows: config.split_seeds repeats a run over several splits. "
        f"{assessment['duplicates']} of the {run.assessed} faces are pixel by pixel the same as a "
        "training face."
    )
    duplicates = table.duplicates(run, assessment)
    faces = (
        Figure("samples", "Training faces of each emotion (paper, figure 3).", "Sample faces."),
        Figure(
            "classes",
            "How many faces each emotion has, and its weight (paper, figure 4).",
            "Histogram of the emotions; the numbers are in table 1.",
        ),
        Figure(
            "landmarks",
            "Landmarks drawn on faces (paper, figure 5).",
            "Faces with 68 points that follow jaw, brows, nose, eyes and mouth.",
        ),
        Figure(
            "landmarks_good_and_bad",
            "Typical and untypical shapes of landmarks (paper, figure 14).",
            "A row of faces whose landmarks fit, and a row where many do not.",
        ),
    )
    numbers = {"image": 6, "landmarks": 7, "decision_fusion": 8, "feature_fusion": 9}
    architectures = [
        Figure(
            f"architecture_{name}",
            f"Architecture of {title(name)}"
            + (f" (paper, figure {numbers[name]})." if name in numbers else "."),
            f"The layers of {title(name)} in order, with their shapes and parameters.",
        )
        for name in run.networks
    ]
    results = (
        Figure(
            "accuracies",
            "Accuracy of the networks and their differences, with intervals.",
            "Points with intervals; the numbers are in the tables.",
        ),
        Figure(
            "learning_curves",
            "Validation accuracy and loss over the epochs (paper, figures 11 and 12).",
            "Curves of validation accuracy and validation loss, one line a network.",
        ),
        Figure(
            "training_against_validation",
            "Training against validation accuracy (paper, figure 15).",
            "For each network the curves of training and validation accuracy over the epochs.",
        ),
        Figure(
            "confusion_matrices",
            "Confusion matrices in percent of the row (paper, figure 13).",
            "For each network the share of each actual emotion that was taken for each emotion.",
        ),
        Figure(
            "recall_by_class",
            "Recall of each emotion.",
            "For each emotion the recall of every network; the numbers are in the tables.",
        ),
        Figure(
            "reliability",
            "Accuracy by confidence.",
            "For each network a curve of accuracy over confidence beside the diagonal.",
        ),
    )
    sections = [
        Section(
            "In short",
            [assessment["headline"], *assessment["sentences"], about],
            [table.table_2(run)],
        ),
        Section(
            "Results",
            tables=[
                *table.merits(run, assessment),
                *([table.differences(run, assessment)] if assessment["pairs"] else []),
                *([duplicates] if duplicates else []),
            ],
            figures=_embed(run, results),
        ),
    ]
    if assessment["fusions"]:
        shown = Figure(
            "modalities",
            "What each modality does in each fusion.",
            "Accuracies of parts and fusions with one modality shuffled, and the decisions that "
            "this changes for each emotion.",
        )
        sections.append(
            Section(
                "Modalities",
                tables=table.modalities(run, assessment),
                figures=_embed(run, [shown]),
            )
        )
    sections += [
        Section(
            "By emotion",
            tables=[table.by_class(run, assessment, s) for s in ("precision", "recall", "f1")],
        ),
        Section("Audit", tables=[table.audit(assessment)]),
        Section("Data", [run.note] * bool(run.note), [table.table_1(run)], _embed(run, faces)),
        Section("Networks", tables=[table.times(run)], figures=_embed(run, architectures)),
        Section("Configuration, versions, machine", tables=_settings(run), folded=True),
    ]
    return sections


def _settings(run: Run) -> list[Table]:
    meta = next(iter(run.networks.values()))[0].meta

    def rows(tree: Mapping[str, Any], prefix: str = "") -> list[list[str]]:
        found = []
        for key, value in tree.items():
            if isinstance(value, Mapping) and value:
                found += rows(value, f"{prefix}{key}.")
            else:
                found.append([f"{prefix}{key}", json.dumps(value)])
        return found

    return [
        Table("Configuration.", ["field", "value"], rows(run.config), words=True),
        Table("Data.", ["field", "value"], rows(run.identity), words=True),
        Table("Versions.", ["package", "version"], rows(meta["versions"]), words=True),
        Table("Machine.", ["field", "value"], rows(meta["machine"]), words=True),
    ]


def _embed(run: Run, wanted: Sequence[Figure]) -> list[dict[str, str]]:
    """The figures that are there, each as a `data:` address: SVG, or PNG if smaller."""
    found = []
    for figure in wanted:
        stem = run.directory / "figures" / figure.stem
        files = [stem.with_suffix(s) for s in (".svg", ".png") if stem.with_suffix(s).is_file()]
        if not files:
            continue
        file = min(files, key=lambda file: file.stat().st_size)
        found.append({**figure._asdict(), "address": address(file.read_bytes(), file.suffix)})
    return found


def address(content: bytes, suffix: str) -> str:
    """The `data:` address of a picture, so that a page needs no other file."""
    kind = {".svg": "image/svg+xml", ".png": "image/png"}[suffix]
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def render(name: str, sections: Sequence[Section]) -> str:
    """The HTML page.

    Args:
        name: what it is about.
        sections: its parts.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["anchor"] = lambda text: re.sub(r"\W+", "-", text.lower())
    template = resources.files("fermm.evaluate").joinpath("report.html.jinja").read_text()
    return environment.from_string(template).render(name=name, sections=sections)

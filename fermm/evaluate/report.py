"""The report of a run: one HTML file that needs nothing else, and the files beside it."""

import base64
import functools
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

import jinja2
import numpy as np

from fermm.data.faces import EMOTIONS
from fermm.evaluate import architecture, captions, figures, table
from fermm.evaluate.assess import assess
from fermm.evaluate.run import Run, write_text
from fermm.evaluate.table import Table
from fermm.paths import REPORT


class Panel(NamedTuple):
    """One picture of a figure.

    Attributes:
        stem: name of its files in `figures/`, without suffix.
        description: what it shows, for those who do not see it.
    """

    stem: str
    description: str


class Figure(NamedTuple):
    """A figure of the report.

    Attributes:
        caption: what it shows.
        panels: its pictures, which stand beside each other where there is room.
    """

    caption: str
    panels: Sequence[Panel]


class Section(NamedTuple):
    """A part of the report.

    Attributes:
        heading: its title.
        sentences: paragraphs at its beginning, of which the first is set larger.
        notes: what changes the meaning of the numbers, in a box of its own.
        figures: for each `caption` and `pictures`, see `embed`.
        tables: the tables, below the figures.
        folded: whether it is shown only on request.
    """

    heading: str
    sentences: Sequence[str] = ()
    notes: Sequence[str] = ()
    figures: Sequence[Mapping[str, Any]] = ()
    tables: Sequence[Table] = ()
    folded: bool = False


FEW = 30
"""Classes with fewer faces in the assessed split are named beside the headline."""


def write(run: Run, failed: Mapping[str, str] | None = None) -> dict[str, str]:
    """Writes all that is made from a run's predictions, checkpoints and histories.

    That is `assessment.json`, `tables.md`, `report.html`, and the figures, but for those that show
    faces, which need the data and were drawn when the run had it. A figure that cannot be drawn is
    named in its place and in the terminal.

    Args:
        run: the run.
        failed: of the figures that show faces, those that could not be drawn, and why.

    Returns:
        All figures that could not be drawn, and why.
    """
    assessment = assess(run)
    write_text(run.directory / "assessment.json", json.dumps(assessment, indent=2) + "\n")
    failures = dict(failed or {}) | figures.save_all(run, assessment) | _architectures(run)
    sections = _sections(run, assessment, failures)
    tables = [made.markdown() for section in sections for made in section.tables]
    write_text(run.directory / "tables.md", "\n\n".join(tables) + "\n")
    write_text(
        run.directory / REPORT, render(f"{run.title}, {run.directory.resolve().name}", sections)
    )
    return failures


def _architectures(run: Run) -> dict[str, str]:
    jobs = {}
    for name, seeds in run.networks.items():
        meta = seeds[0].meta
        jobs[f"architecture_{name}"] = functools.partial(
            architecture.save, spec=meta["spec"], caption=run.titles[name], trained=meta["trained"]
        )
    # A network stays what it is, so that an earlier drawing is right. It is needed where the code
    # that registers a network is not there, as when a report is made again.
    return figures.draw(run.directory / "figures", jobs, keep=True)


def notes(run: Run, assessment: Mapping[str, Any]) -> list[str]:
    """What changes the meaning of a run's numbers, one sentence or two each."""
    found = []
    if run.config["data"]["source"] == "synthetic":
        found.append(
            "The faces are synthetic. Nothing measured on them says anything about real ones."
        )
    if run.note:
        found.append(f"{run.note[0].upper()}{run.note[1:]}.".replace("..", "."))
    found += run.notes
    labels = run.samples.of(run.assessed).labels
    counts = np.bincount(labels, minlength=len(EMOTIONS))
    few = [f"{EMOTIONS[i]} ({n})" for i, n in enumerate(counts) if 0 < n < FEW]
    if few:
        found.append(
            f"Few {run.assessed} faces show {captions.join(few)}: what is said of "
            + ("this emotion rests" if len(few) == 1 else "these emotions rests")
            + " on them."
        )
    if none := [EMOTIONS[i] for i, n in enumerate(counts) if not n]:
        found.append(f"No {run.assessed} face shows {' or '.join(none)}.")
    if duplicates := assessment["duplicates"]:
        share = table.points(duplicates / assessment["faces"])
        found.append(
            f"{duplicates:,} of the {assessment['faces']:,} {run.assessed} faces ({share}%) are "
            "pixel by pixel the same as a training face."
        )
    found.append(
        f"All networks were trained on one split ({run.config['data']['split']!r}). How much the "
        "numbers depend on it, no interval here shows; config.split_seeds repeats a run over "
        "several splits."
    )
    return found


def _sections(run: Run, assessment: Mapping[str, Any], failed: Mapping[str, str]) -> list[Section]:
    titles, names = run.titles, list(run.networks)

    def embedded(*wanted: Figure) -> list[dict[str, Any]]:
        return embed(run, wanted, failed)

    def of_each(stem: str, description: str) -> list[Panel]:
        return [Panel(f"{stem}_{n}", description.format(titles[n])) for n in names]

    duplicates = table.duplicates(run, assessment)
    sections = [
        Section(
            "In short",
            [assessment["headline"]],
            notes(run, assessment),
            embedded(
                Figure(
                    captions.accuracies(run, assessment),
                    [
                        Panel("accuracies", "Accuracy of each network with its interval."),
                        Panel("differences", "Difference of every two networks, with intervals."),
                    ],
                )
            ),
            [table.merits(run, assessment), table.table_2(run)],
        )
    ]
    if assessment["pairs"] or duplicates:
        sections.append(
            Section(
                "Comparisons",
                assessment["sentences"],
                tables=[
                    *([table.differences(run, assessment)] if assessment["pairs"] else []),
                    *([duplicates] if duplicates else []),
                ],
            )
        )
    by_class = Figure(
        captions.recall(run, assessment),
        [
            Panel("recall_by_class", "For each emotion the recall of every network."),
            Panel("recall_gains", "For each emotion the recall of fusions minus their members'."),
        ],
    )
    matrices = Figure(
        _of_paper(captions.confusion(run, assessment), run, "figure 13"),
        of_each("confusion_matrix", "Confusion matrix of {}."),
    )
    sections.append(
        Section(
            "By emotion",
            figures=embedded(by_class, matrices),
            tables=[table.by_class(run, assessment, s) for s in ("recall", "precision", "f1")],
        )
    )
    sections.append(
        Section(
            "Calibration",
            figures=embedded(
                Figure(
                    captions.reliability(run, assessment),
                    of_each("reliability", "{}: accuracy by confidence, beside the diagonal."),
                )
            ),
        )
    )
    if fusions := assessment["fusions"]:
        panels = [
            Panel(f"{stem}_{name}", description.format(titles[name]))
            for name in fusions
            for stem, description in (
                ("modalities", "{}: accuracies of members, and with a modality shuffled."),
                ("changed", "{}: decisions of each emotion that shuffling changes."),
            )
        ]
        sections.append(
            Section(
                "Modalities",
                figures=embedded(Figure(captions.modalities(run, assessment), panels)),
                tables=table.modalities(run, assessment),
            )
        )
    mistakes = [
        Figure(
            captions.all_wrong(run),
            [Panel("all_wrong", "Faces that every network gets wrong, with labels.")],
        ),
        *(
            Figure(
                f"What {titles[name]} wins and loses against its members, alone right or wrong: "
                f"some {run.assessed} faces of each kind"
                + (", of those where it holds in most seeds." if len(run.seeds) > 1 else "."),
                [
                    Panel(
                        f"won_and_lost_{name}",
                        f"Faces that {titles[name]} gets right where a member is wrong, and the "
                        "other way round, with labels.",
                    )
                ],
            )
            for name in assessment["fusions"]
        ),
    ]
    if shown := embedded(*mistakes):
        sections.append(Section("Mistakes", figures=shown))
    sections.append(
        Section(
            "Training",
            figures=embedded(
                Figure(
                    _of_paper(captions.validation(run), run, "figures 11 and 12"),
                    [
                        Panel("validation_accuracy", "Validation accuracy by epoch."),
                        Panel("validation_loss", "Validation loss by epoch."),
                    ],
                ),
                Figure(
                    _of_paper(captions.training(run), run, "figure 15"),
                    of_each("training", "{}: training and validation accuracy by epoch."),
                ),
            ),
            tables=[table.times(run)],
        )
    )
    faces = (
        Figure(
            _of_fer2013("The first training faces of each emotion.", run, "figure 3"),
            [Panel("samples", "Faces, three of each emotion.")],
        ),
        Figure(
            _of_fer2013(captions.classes(run), run, "figure 4"),
            [Panel("classes", "Histogram of the emotions; the table has the numbers.")],
        ),
        Figure(
            _of_fer2013("Landmarks on a training face of each emotion.", run, "figure 5"),
            [
                Panel(
                    "landmarks",
                    "Faces with 68 points that follow jaw, brows, nose, eyes and mouth.",
                )
            ],
        ),
        Figure(
            _of_fer2013(
                "Landmarks whose shape is near the mean shape (above) and far from it (below).",
                run,
                "figure 14",
            ),
            [
                Panel(
                    "landmarks_good_and_bad",
                    "A row of faces whose landmarks fit, and a row where many do not.",
                )
            ],
        ),
    )
    drawn = []
    for name, known in run.papers.items():
        text = f"Architecture of {titles[name]}."
        if known:
            text = _cite(text, f"figure {known.figure}")
        description = f"The layers of {titles[name]} in order, with shapes and parameters."
        drawn.append(Figure(text, [Panel(f"architecture_{name}", description)]))
    return [
        *sections,
        Section("Audit", tables=[table.audit(assessment)]),
        Section("Data", figures=embedded(*faces), tables=[table.table_1(run)]),
        Section("Networks", figures=embedded(*drawn)),
        Section("Configuration, versions, machine", tables=_settings(run), folded=True),
    ]


def _of_paper(caption: str, run: Run, number: str) -> str:
    """The caption, with the number of the paper's figure if networks and data are the paper's."""
    return _cite(caption, number) if run.is_fer2013 and all(run.papers.values()) else caption


def _of_fer2013(caption: str, run: Run, number: str) -> str:
    """The caption of a figure of the data, with the number of the paper's if it is the paper's."""
    return _cite(caption, number) if run.is_fer2013 else caption


def _cite(caption: str, number: str) -> str:
    """The caption, with what the paper calls it at the end of the first sentence."""
    return re.sub(r"\.(?=\s|$)", f" (paper, {number}).", caption, count=1)


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


def embed(run: Run, wanted: Sequence[Figure], failed: Mapping[str, str]) -> list[dict[str, Any]]:
    """The figures that are there, or should be.

    Returns:
        For each with a panel that is there or has failed: `caption`, and `pictures`, each with
        `description`, `address` (a `data:` address of the SVG, or the PNG if smaller; "" if there
        is none), and `failure` ("" if it is there).
    """
    found = []
    for figure in wanted:
        pictures = []
        for panel in figure.panels:
            places = [run.directory / "figures" / f"{panel.stem}{s}" for s in (".svg", ".png")]
            files = [place for place in places if place.is_file()]
            if files:
                file = min(files, key=lambda file: file.stat().st_size)
                made = address(file.read_bytes(), file.suffix)
                pictures.append({"description": panel.description, "address": made, "failure": ""})
            elif panel.stem in failed:
                failure = f"figures/{panel.stem} could not be drawn: {failed[panel.stem]}"
                pictures.append(
                    {"description": panel.description, "address": "", "failure": failure}
                )
        if pictures:
            found.append({"caption": figure.caption, "pictures": pictures})
    return found


def address(content: bytes, suffix: str) -> str:
    """The `data:` address of a picture, so that a page needs no other file."""
    kind = {".svg": "image/svg+xml", ".png": "image/png"}[suffix]
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _lead(caption: str) -> tuple[str, str]:
    """The first sentence of a caption, the number of the table with it, and the rest."""
    found = re.match(r"(Table \d+\. )?.*?[.:](?=\s|$)", caption)
    end = found.end() if found else len(caption)
    return caption[:end], caption[end:]


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
    environment.filters["lead"] = _lead
    template = resources.files("fermm.evaluate").joinpath("report.html.jinja").read_text()
    return environment.from_string(template).render(name=name, sections=sections)

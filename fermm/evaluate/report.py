"""The report of a run: one HTML page that needs nothing else. Writes nothing."""

import base64
import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

import jinja2
import numpy as np

from fermm.evaluate import captions, faces, table
from fermm.evaluate.run import Run
from fermm.evaluate.table import Table
from fermm.evaluate.text import count, join, points, sentence
from fermm.samples import SPLITS


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


Embed = Callable[..., list[dict[str, Any]]]
"""`embed` for the figures that there are: takes those that are wanted."""


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
"""Classes with fewer samples in the assessed split are named beside the headline."""


def sections(
    run: Run,
    assessment: Mapping[str, Any],
    addresses: Mapping[str, str],
    failed: Mapping[str, str],
) -> list[Section]:
    """The whole report of a run.

    Args:
        run: the run.
        assessment: its assessment, see `fermm.evaluate.assess`.
        addresses: by the name of its file, the `data:` address of each figure that there is, see
            `address`. One that is not there is left out.
        failed: by the name of its file, why a figure could not be drawn, which stands in its place.
    """
    embedded = functools.partial(embed, addresses, failed)
    return [
        _in_short(run, assessment, embedded),
        *_comparisons(run, assessment),
        *_votes(run, assessment),
        _by_class(run, assessment, embedded),
        _calibration(run, assessment, embedded),
        *_modalities(run, assessment, embedded),
        *_mistakes(run, assessment, embedded),
        _training(run, embedded),
        *([Section("Audit", tables=[table.audit(run, assessment)])] if assessment["audit"] else []),
        _data(run, embedded),
        _networks(run, embedded),
        Section("Configuration, versions, machine", tables=_settings(run), folded=True),
    ]


def notes(run: Run, assessment: Mapping[str, Any]) -> list[str]:
    """What changes the meaning of a run's numbers, one sentence or two each."""
    found = []
    if run.synthetic:
        found.append(
            "The samples are synthetic. Nothing measured on them says anything about real ones."
        )
    found += [sentence(note) for note in (*run.data_notes, *run.code_notes)]
    labels = run.samples.of(run.assessed).labels
    counts = np.bincount(labels, minlength=len(run.classes))
    few = [f"{run.classes[i]} ({n})" for i, n in enumerate(counts) if 0 < n < FEW]
    if few:
        found.append(
            f"Few {run.assessed} samples are of {join(few)}: what is said of "
            + ("this class rests" if len(few) == 1 else "these classes rests")
            + " on them."
        )
    if none := [run.classes[i] for i, n in enumerate(counts) if not n]:
        found.append(f"No {run.assessed} sample is of {join(none, 'or')}.")
    if duplicates := assessment["duplicates"]:
        share = points(duplicates / assessment["samples"])
        found.append(
            f"{duplicates:,} of the {assessment['samples']:,} {run.assessed} samples ({share}%) "
            "are duplicates of a training sample."
        )
    found.append(
        f"All networks were trained on one split ({run.identity['split']!r}). How much the "
        "numbers depend on it, no interval here shows; config.split_seeds repeats a run over "
        "several splits."
    )
    return found


def _panels(run: Run, stem: str, description: str) -> list[Panel]:
    """A panel for each network."""
    return [Panel(f"{stem}_{n}", description.format(title)) for n, title in run.titles.items()]


def _cited(run: Run, key: str, caption: str) -> str:
    """The caption, with what a publication calls the figure at the end of its first sentence."""
    number = run.reference.cited.get(key)
    if number is None:
        return caption
    return re.sub(r"\.(?=\s|$)", f" ({run.reference.name}, {number}).", caption, count=1)


def _in_short(run: Run, assessment: Mapping[str, Any], embedded: Embed) -> Section:
    panels = [
        Panel("accuracies", "Accuracy of each network with its interval."),
        Panel("differences", "Difference of every two networks, with intervals."),
    ]
    return Section(
        "In short",
        [assessment["headline"]],
        notes(run, assessment),
        embedded(Figure(captions.accuracies(run, assessment), panels)),
        [table.merits(run, assessment), table.accuracies(run)],
    )


def _comparisons(run: Run, assessment: Mapping[str, Any]) -> list[Section]:
    tables = [table.differences(run, assessment)] if assessment["pairs"] else []
    if duplicates := table.duplicates(run, assessment):
        tables.append(duplicates)
    return [Section("Comparisons", assessment["sentences"], tables=tables)] if tables else []


def _votes(run: Run, assessment: Mapping[str, Any]) -> list[Section]:
    tables = table.votes(run, assessment)
    return [Section("Annotators", tables=tables)] if tables else []


def _by_class(run: Run, assessment: Mapping[str, Any], embedded: Embed) -> Section:
    of_classes = Figure(
        captions.recall(run, assessment),
        [
            Panel("recall_by_class", "For each class the recall of every network."),
            Panel("recall_gains", "For each class the recall of fusions minus their members'."),
        ],
    )
    matrices = Figure(
        _cited(run, "confusion_matrix", captions.confusion(run, assessment)),
        _panels(run, "confusion_matrix", "Confusion matrix of {}."),
    )
    return Section(
        "By class",
        figures=embedded(of_classes, matrices),
        tables=[table.by_class(run, assessment, s) for s in ("recall", "precision", "f1")],
    )


def _calibration(run: Run, assessment: Mapping[str, Any], embedded: Embed) -> Section:
    panels = _panels(run, "reliability", "{}: accuracy by confidence, beside the diagonal.")
    figure = Figure(captions.reliability(run, assessment), panels)
    return Section("Calibration", figures=embedded(figure))


def _modalities(run: Run, assessment: Mapping[str, Any], embedded: Embed) -> list[Section]:
    if not assessment["fusions"]:
        return []
    panels = [
        Panel(f"{stem}_{name}", description.format(run.titles[name]))
        for name in assessment["fusions"]
        for stem, description in (
            ("modalities", "{}: accuracies of members, and with a member shuffled."),
            ("changed", "{}: decisions of each class that shuffling changes."),
        )
    ]
    return [
        Section(
            "Modalities",
            figures=embedded(Figure(captions.modalities(run, assessment), panels)),
            tables=table.modalities(run, assessment),
        )
    ]


def _mistakes(run: Run, assessment: Mapping[str, Any], embedded: Embed) -> list[Section]:
    several = len(run.seeds) > 1
    wanted = [
        Figure(
            captions.all_wrong(run),
            [Panel("all_wrong", "Samples that every network gets wrong, with labels.")],
        )
    ]
    for name in assessment["fusions"]:
        title = run.titles[name]
        caption = (
            f"What {title} wins and loses against its members, alone right or wrong: some "
            f"{run.assessed} samples of each kind"
            + (", of those where it holds in most seeds." if several else ".")
        )
        description = (
            f"Samples that {title} gets right where a member is wrong, and the other way round, "
            "with labels."
        )
        wanted.append(Figure(caption, [Panel(f"won_and_lost_{name}", description)]))
    if shown := embedded(*wanted):
        return [Section("Mistakes", figures=shown)]
    if faces.are_pictures(run.features):
        return []
    return [Section("Mistakes", [captions.all_wrong(run, shown=False), _NO_PICTURES])]


_NO_PICTURES = (
    f"No samples are shown, for they have no feature `{faces.IMAGES}` that is a picture, (H, W) or "
    "(H, W, 3)."
)


def _training(run: Run, embedded: Embed) -> Section:
    return Section(
        "Training",
        figures=embedded(
            Figure(
                _cited(run, "validation", captions.validation(run)),
                [
                    Panel("validation_accuracy", "Validation accuracy by epoch."),
                    Panel("validation_loss", "Validation loss by epoch."),
                ],
            ),
            Figure(
                _cited(run, "training", captions.training(run)),
                _panels(run, "training", "{}: training and validation accuracy by epoch."),
            ),
        ),
        tables=[table.times(run)],
    )


def _data(run: Run, embedded: Embed) -> Section:
    wanted = [
        (
            "samples",
            "The first training samples of each class.",
            "Samples, three of each class.",
        ),
        (
            "classes",
            captions.classes(run),
            "Histogram of the classes; the table has the numbers.",
        ),
        (
            "landmarks",
            "Landmarks on a training sample of each class.",
            "Pictures with points on them, on faces along jaw, brows, nose, eyes and mouth.",
        ),
        (
            "landmarks_good_and_bad",
            "Landmarks whose shape is near the mean shape (above) and far from it (below).",
            "A row of pictures whose landmarks fit, and a row where many do not.",
        ),
    ]
    figures = [
        Figure(_cited(run, name, caption), [Panel(name, description)])
        for name, caption, description in wanted
    ]
    counts = {name: len(run.samples.of(name).rows) for name in SPLITS}
    sizes = ", ".join(f"{count(n, 'sample')} for {name}" for name, n in counts.items())
    sentences = [sentence(sizes)]
    if not faces.are_pictures(run.features):
        sentences.append(_NO_PICTURES)
    return Section("Data", sentences, figures=embedded(*figures), tables=[table.classes(run)])


def _networks(run: Run, embedded: Embed) -> Section:
    drawn = []
    for name, title in run.titles.items():
        description = f"The layers of {title} in order, with shapes and parameters."
        caption = _cited(run, f"architecture_{name}", f"Architecture of {title}.")
        drawn.append(Figure(caption, [Panel(f"architecture_{name}", description)]))
    return Section("Networks", figures=embedded(*drawn))


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


def embed(
    addresses: Mapping[str, str], failed: Mapping[str, str], *wanted: Figure
) -> list[dict[str, Any]]:
    """The figures that are there, or should be.

    Args:
        addresses: by name, the `data:` address of each picture.
        failed: by name, why a picture could not be drawn.
        wanted: the figures.

    Returns:
        For each with a panel that is there or has failed: `caption`, and `pictures`, each with
        `description`, `address` ("" if there is none), and `failure` ("" if it is there).
    """
    found = []
    for figure in wanted:
        pictures = []
        for panel in figure.panels:
            address, failure = addresses.get(panel.stem, ""), ""
            if not address and panel.stem in failed:
                failure = f"figures/{panel.stem} could not be drawn: {failed[panel.stem]}"
            if address or failure:
                pictures.append(
                    {"description": panel.description, "address": address, "failure": failure}
                )
        if pictures:
            found.append({"caption": figure.caption, "pictures": pictures})
    return found


def address(content: bytes, suffix: str) -> str:
    """The `data:` address of a picture, so that a page needs no other file.

    Args:
        content: of its file.
        suffix: of its file, ".svg" or ".png".
    """
    kind = {".svg": "image/svg+xml", ".png": "image/png"}[suffix]
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _width(address: str) -> float | None:
    """In rem, how wide a PNG is shown, of which 200 pixels are an inch; None of any other picture.

    An SVG has a width of its own.
    """
    kind, _, content = address.partition(",")
    # The first chunk of the file, which its size is in.
    start = base64.b64decode(content[:32]) if kind == "data:image/png;base64" else b""
    return int.from_bytes(start[16:20]) * 6 / 200 if len(start) == 24 else None


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
    environment.filters["width"] = _width
    template = resources.files("fermm.evaluate").joinpath("report.html.jinja").read_text()
    return environment.from_string(template).render(name=name, sections=sections)

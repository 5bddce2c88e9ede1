"""Writes what evaluation finds; everything else in `fermm.evaluate` only returns it."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fermm import rundir
from fermm.errors import InputError, printable
from fermm.evaluate import assess
from fermm.evaluate.run import Run
from fermm.paths import make_directory, whole
from fermm.samples import Feature, Samples

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What plots takes seconds to import, for which a run's errors at its start should not wait: it is
# imported by the functions that need it.


def metrics(run: Run) -> dict[str, Any]:
    """Writes `metrics.json`.

    Returns:
        What it holds, see `fermm.evaluate.assess.values`.
    """
    values = assess.values(run)
    rundir.write_json(run.directory.metrics, values)
    return values


def data_figures(
    run: Run, samples: Samples, splits: Mapping[str, np.ndarray], class_weights: np.ndarray
) -> dict[str, str]:
    """Writes the figures of a run that show its samples, for which their features are needed.

    Args:
        run: the run.
        samples: all samples of the run.
        splits: by name of the split, int64 indices into `samples`.
        class_weights: float (K,), in the training loss.

    Returns:
        See `draw`.
    """
    from fermm.evaluate import faces

    data = faces.Data(samples, splits, class_weights, run.title)
    return draw(run.directory.figures, faces.of_data(data) | faces.of_mistakes(data, run))


def report(
    run: Run, failed: Mapping[str, str] | None = None, *, redraw_networks: bool = True
) -> dict[str, str]:
    """Writes all that is made from a run's predictions, checkpoints and histories.

    That is `assessment.json`, `tables.md`, `report.html`, and the figures, but for those of
    `data_figures`, which stay as they are. A figure that cannot be drawn is named in its place and
    in the terminal.

    Args:
        run: the run.
        failed: what `data_figures` returned.
        redraw_networks: draw the architecture of each network, for which JAX and the code of the
            network are needed; else only those that are not there.

    Returns:
        All figures that could not be drawn, and why.
    """
    from fermm.evaluate import figures
    from fermm.evaluate import report as pages

    directory = run.directory
    assessment = assess.assess(run)
    rundir.write_json(directory.assessment, assessment)
    failures = dict(failed or {}) | draw(directory.figures, figures.of_run(run, assessment))
    failures |= _architectures(run, redraw=redraw_networks)
    sections = pages.sections(run, assessment, _addresses(directory.figures), failures)
    tables = [made.markdown() for section in sections for made in section.tables]
    rundir.write_text(directory.tables, "\n\n".join(tables) + "\n")
    title = f"{run.title}, {directory.path.resolve().name}"
    rundir.write_text(directory.report, pages.render(title, sections))
    return failures


def comparison(runs: Sequence[Run], file: Path) -> None:
    """Writes one HTML page about several runs, and its numbers as JSON beside it.

    Args:
        runs: two or more, all assessed on the split of the same name.
        file: the page; the numbers are in the file of this name with the suffix `.json`.

    Raises:
        InputError: they cannot be compared, or a file cannot be written.
    """
    from fermm.evaluate import compare

    made = compare.compare(runs)
    if made.failure:
        print(f"the figure was not drawn ({made.failure}); all else is written", flush=True)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{file}: cannot be written ({error.strerror})") from None
    rundir.write_json(file.with_suffix(".json"), made.numbers)
    rundir.write_text(file, made.page)


def draw(
    directory: Path, jobs: Mapping[str, Callable[[], "Figure"]], *, keep: bool = False
) -> dict[str, str]:
    """Draws figures one after the other, and writes each as SVG and PNG.

    One that cannot be drawn does not stop the others.

    Args:
        directory: where; it is made if needed.
        jobs: by the name of its files, what draws a figure.
        keep: whether files of a figure that failed stay as an earlier call wrote them. Else they
            are removed, for they would show something else than the rest of the report.

    Returns:
        For each figure that was not drawn, why. Each is named in the terminal as well.
    """
    from fermm.evaluate import figures

    make_directory(directory)
    failed = {}
    for name, job in jobs.items():
        files = {suffix: directory / f"{name}{suffix}" for suffix in (".svg", ".png")}
        try:
            for suffix, content in figures.render(job).items():
                with whole(files[suffix]) as aside:
                    aside.write_bytes(content)
        except Exception as error:  # whatever matplotlib, JAX or a network of the user's raises
            text = (str(error).splitlines() or [""])[0][:200]
            failed[name] = printable(f"{type(error).__name__}: {text}" if text else repr(error))
            print(f"figure {name}: not drawn ({failed[name]}); all else is written", flush=True)
            for file in files.values():
                if file.is_file() and not keep:
                    file.unlink()
    return failed


def _architectures(run: Run, *, redraw: bool) -> dict[str, str]:
    titles = run.titles
    jobs: dict[str, Callable[[], Figure]] = {}
    for name, seeds in run.networks.items():
        stem, meta = f"architecture_{name}", seeds[0].meta
        if redraw or not any(run.directory.figures.glob(f"{stem}.*")):
            jobs[stem] = functools.partial(_architecture, meta, run.classes, titles[name])
    # A network stays what it is, so that an earlier drawing is right. It is needed where the code
    # that registers a network is not there, as when a report is made again.
    return draw(run.directory.figures, jobs, keep=True)


def _architecture(meta: Mapping[str, Any], classes: Sequence[str], title: str) -> "Figure":
    from fermm.evaluate import architecture  # which needs JAX

    features = {name: Feature.from_json(of) for name, of in meta["features"].items()}
    return architecture.draw(meta["spec"], features, classes, title, meta["trained"])


def _addresses(directory: Path) -> dict[str, str]:
    """By name, the address of each figure that there is: of the SVG, or of the PNG if smaller."""
    from fermm.evaluate.report import address

    files: dict[str, list[Path]] = {}
    for suffix in (".svg", ".png"):
        for file in directory.glob(f"*{suffix}"):
            if file.is_file():
                files.setdefault(file.stem, []).append(file)
    smallest = {name: min(of, key=lambda f: f.stat().st_size) for name, of in files.items()}
    return {name: address(file.read_bytes(), file.suffix) for name, file in smallest.items()}

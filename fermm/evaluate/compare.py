"""Several runs side by side: other configs on the same samples, or one config on several splits.

Writes nothing.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fermm.errors import InputError, printable
from fermm.evaluate import figures, report, statistics
from fermm.evaluate.assess import estimate
from fermm.evaluate.metrics import METRICS
from fermm.evaluate.run import Run
from fermm.evaluate.table import Table
from fermm.evaluate.text import interval, p_value, points, sentence, spread

_METRIC = METRICS["accuracy"]


class Comparison(NamedTuple):
    """Runs side by side.

    Attributes:
        numbers: JSON types.
        page: HTML.
        failure: why the figure could not be drawn, or "".
    """

    numbers: dict[str, Any]
    page: str
    failure: str


def compare(runs: Sequence[Run]) -> Comparison:
    """Compares two runs or more that were all assessed on the split of the same name.

    Raises:
        InputError: they were assessed on different splits or differ in their classes, or one is
            given twice.
    """
    assessed = {run.assessed for run in runs}
    if len(assessed) > 1:
        raise InputError(
            f"the runs were assessed on different splits ({', '.join(sorted(assessed))}): evaluate "
            "them with the same config.evaluate.splits"
        )
    if len({run.classes for run in runs}) > 1:
        raise InputError(
            "the runs have different classes "
            f"({'; '.join(sorted({', '.join(run.classes) for run in runs}))}), so that their "
            "accuracies cannot be compared"
        )
    names, titles, settings = _names(runs), _titles(runs), _settings(runs)
    only_split_seed = [path for path, *_ in settings] == ["data.split_seed"]
    accuracy = _estimates(runs)
    same = [] if only_split_seed else same_network(runs)
    swept = None if only_split_seed else _swept(settings)
    sentences, notes = _words(runs, same, only_split_seed=only_split_seed)
    tables = [_accuracies(runs, names, titles, accuracy, repeated=only_split_seed)]
    if only_split_seed:
        tables.append(_over_splits(runs, names, titles))
    elif same:
        tables.append(_same_network(same, names, titles))
    over_splits = _numbers_over_splits(runs) if only_split_seed else None
    shown, failed = _figure(
        runs, names, titles, accuracy, swept, over_splits["accuracy"] if over_splits else {}
    )
    if failed:
        notes.append(f"The figure could not be drawn: {failed}.")
    sections = [report.Section("Accuracy", sentences, notes, shown, [t for t in tables if t.rows])]
    if settings:
        differing = Table(
            "Where their configurations differ.",
            ["field", *names],
            [[path, *map(str, values)] for path, *values in settings],
            words=True,
        )
        sections.append(report.Section("Configurations", tables=[differing]))
    numbers = {
        "split": runs[0].assessed,
        "runs": names,
        "titles": titles,
        "differing": {path: values for path, *values in settings},
        "swept": swept[0] if swept else None,
        "accuracy": {
            network: [found and dataclasses.asdict(found) for found in of]
            for network, of in accuracy.items()
        },
        "same_network": [
            {
                "network": found.network,
                "first": names[found.first],
                "second": names[found.second],
                "seeds": found.seeds,
                "difference": dataclasses.asdict(found.compared.estimate),
                "simultaneous": found.compared.simultaneous,
                "p": found.compared.p,
                "shown": found.compared.shown,
            }
            for found in same
        ],
        "over_splits": over_splits,
    }
    page = report.render(f"{len(runs)} runs: {', '.join(names)}", sections)
    return Comparison(numbers, page, failed)


def _words(
    runs: Sequence[Run], same: Sequence["Difference"], *, only_split_seed: bool
) -> tuple[list[str], list[str]]:
    """Sentences, and notes of what changes the meaning of the numbers."""
    said = dict.fromkeys(note for run in runs for note in (*run.data_notes, *run.code_notes))
    notes = [sentence(note) for note in said]
    if any(run.synthetic for run in runs):
        notes.append(
            "The samples are synthetic. Nothing measured on them says anything about real ones."
        )
    if only_split_seed:
        return [
            f"The runs differ in nothing but the seed of the split: {len(runs)} splits of the same "
            "samples. Intervals over splits are Student's, corrected for the samples that the "
            "splits share by the ratio of test to training samples (Nadeau and Bengio, 2003)."
        ], notes
    if runs[0].assessed == "test":
        notes.append(
            "These runs are compared on test data. Whoever chooses one of them by these numbers "
            "has tuned on test data, and its accuracy here is too high. Choose by validation data "
            "(config.evaluate.splits with validation last), and assess on test data what was "
            "chosen."
        )
    if not same:
        return [
            "No network was tested on the same samples and seeds in two of the runs, so that no "
            "difference between runs is given."
        ], notes
    shown = [found for found in same if found.compared.shown]
    if not shown:
        return ["No difference between two runs is shown."], notes
    return [
        f"{len(shown)} of {len(same)} differences between two runs are shown, looked at all "
        "together."
    ], notes


def _titles(runs: Sequence[Run]) -> dict[str, str]:
    """What each network is called; by its own name if it is not the same network in all runs."""
    found: dict[str, set[str]] = {}
    for run in runs:
        for network, title in run.titles.items():
            found.setdefault(network, set()).add(title)
    return {n: next(iter(titles)) if len(titles) == 1 else n for n, titles in found.items()}


def _estimates(runs: Sequence[Run]) -> dict[str, list[statistics.Estimate | None]]:
    """The accuracy of each network in each run, None where a run does not have it."""
    return {
        network: [
            estimate("accuracy", [t.predictions[run.assessed] for t in run.networks[network]])
            if network in run.networks
            else None
            for run in runs
        ]
        for network in _networks(runs)
    }


# Fields that change nothing that is measured, and so may differ between the runs of a sweep.
_IRRELEVANT = {
    *("data.path", "data.cache_dir", "data.workers", "data.streaming", "checkpoint_minutes"),
    *("tensorboard", "report", "parallel", "debug_nans"),
}


def _swept(settings: Sequence[Sequence[Any]]) -> tuple[str, list[float]] | None:
    """The one number in the config that the runs differ in, if there is one.

    Several fields count as one if they have the same value as each other in every run.

    Args:
        settings: path and values of each field in which the runs differ.

    Returns:
        Its path and its value in each run; None where there is none or another field differs too.
    """
    relevant = [
        (path, values)
        for path, *values in settings
        if path not in _IRRELEVANT and not path.endswith(".seeds_at_once")
    ]
    if not relevant or any(values != relevant[0][1] for _, values in relevant):
        return None
    values = relevant[0][1]
    if not all(isinstance(x, int | float) and not isinstance(x, bool) for x in values):
        return None
    return ", ".join(path for path, _ in relevant), [float(x) for x in values]


def _names(runs: Sequence[Run]) -> list[str]:
    """The shortest ends of their paths that differ."""
    paths = [run.directory.path.resolve().parts for run in runs]
    for run, path in zip(runs, paths, strict=True):
        if paths.count(path) > 1:
            raise InputError(f"{run.directory.path}: the same run is given twice")
    length = 1
    while len({path[-length:] for path in paths}) < len(paths):
        length += 1
    return ["/".join(path[-length:]) for path in paths]


def _networks(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.networks))


def _values(run: Run, network: str) -> list[float]:
    return [_METRIC(t.predictions[run.assessed]) for t in run.networks[network]]


def _rows(run: Run) -> np.ndarray:
    return next(iter(run.networks.values()))[0].predictions[run.assessed].rows


def _settings(runs: Sequence[Run]) -> list[list[Any]]:
    """Path and values of each field of the config in which the runs differ."""

    def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in tree.items():
            if isinstance(value, Mapping) and value:
                found |= flat(value, f"{prefix}{key}.")
            else:
                found[f"{prefix}{key}"] = value
        return found

    configs = [flat(run.config) for run in runs]
    paths = dict.fromkeys(path for config in configs for path in config)
    rows = [[path, *(config.get(path, "none") for config in configs)] for path in paths]
    return [row for row in rows if any(value != row[1] for value in row[2:])]


def _accuracies(
    runs: Sequence[Run],
    names: Sequence[str],
    titles: Mapping[str, str],
    accuracy: Mapping[str, Sequence[statistics.Estimate | None]],
    *,
    repeated: bool,
) -> Table:
    rows = []
    for network, estimates in accuracy.items():
        row = [titles[network]]
        for found in estimates:
            ends = "" if found is None else f" ({interval(found.interval)})"
            row.append("" if found is None else spread(found.seeds) + ends)
        if repeated:
            means = [found.mean for found in estimates if found]
            row.append(_over(means, _ratio(runs[0]), 0.0))
        rows.append(row)
    head = ["network", *names] + ["over splits (95%)"] * repeated
    several = any(len(run.seeds) > 1 for run in runs)
    return Table(
        f"Accuracy in percent on {runs[0].assessed} data"
        + (", mean and standard deviation over the seeds" if several else "")
        + "; in brackets 95% intervals "
        + ("over seeds and samples." if several else "over samples."),
        head,
        rows,
    )


def _ends(
    values: Sequence[float], ratio: float, lowest: float, comparisons: int = 1
) -> list[float]:
    """The interval over splits, of values from `lowest` to 1."""
    error_rate = (1 - statistics.LEVEL) / comparisons
    return np.clip(statistics.splits_interval(values, ratio, error_rate), lowest, 1).tolist()


def _over(values: Sequence[float], ratio: float, lowest: float, comparisons: int = 1) -> str:
    mean = points(float(np.mean(values)))
    if len(values) == 1:
        return mean
    ends = interval(_ends(values, ratio, lowest, comparisons))
    return f"{mean} ± {points(float(np.std(values, ddof=1)))} ({ends})"


def _ratio(run: Run) -> float:
    """Assessed samples for each training sample."""
    sizes = run.identity["sizes"]
    return sizes[run.assessed] / sizes["train"]


def _numbers_over_splits(runs: Sequence[Run]) -> dict[str, Any]:
    """Accuracies and differences of accuracy over the splits, as JSON."""

    def numbers(values: Sequence[float], lowest: float, comparisons: int = 1) -> dict[str, Any]:
        ratio = _ratio(runs[0])
        ends = _ends(values, ratio, lowest, comparisons) if len(values) > 1 else None
        return {"values": list(values), "mean": float(np.mean(values)), "interval": ends}

    pairs = _pairs(runs)
    return {
        "accuracy": {
            network: numbers([_mean(run, network) for run in runs if network in run.networks], 0.0)
            for network in _networks(runs)
        },
        "pairs": [
            {"first": one, "second": other} | numbers(list(found.values()), -1.0, len(pairs))
            for (one, other), found in pairs.items()
        ],
    }


def _mean(run: Run, network: str) -> float:
    return float(np.mean(_values(run, network)))


def _pairs(runs: Sequence[Run]) -> dict[tuple[str, str], dict[int, float]]:
    """For every two networks that a run has: by index of the run, the second minus the first."""
    found = {
        (one, other): {
            i: _mean(run, other) - _mean(run, one)
            for i, run in enumerate(runs)
            if {one, other} <= run.networks.keys()
        }
        for one, other in itertools.combinations(_networks(runs), 2)
    }
    return {pair: values for pair, values in found.items() if values}


def _over_splits(runs: Sequence[Run], names: Sequence[str], titles: Mapping[str, str]) -> Table:
    """Differences between networks within each run, and over the runs."""
    rows = []
    pairs = _pairs(runs)
    for (one, other), found in pairs.items():
        cells = [points(found[i]) if i in found else "" for i in range(len(runs))]
        over = _over(list(found.values()), _ratio(runs[0]), -1.0, len(pairs))
        rows.append([f"{titles[other]} minus {titles[one]}", *cells, over])
    return Table(
        "Differences between networks in points, mean over the seeds of each run. The intervals "
        "hold for all pairs of networks at once (Bonferroni).",
        ["networks", *names, "over splits (95% at once for all)"],
        rows,
    )


class Difference(NamedTuple):
    """The same network in two runs, on the same samples and seeds.

    Attributes:
        network: its name.
        first: index of the run that is subtracted.
        second: index of the other.
        seeds: those that both runs have.
        compared: second minus first, with what corrects for the number of all differences.
    """

    network: str
    first: int
    second: int
    seeds: tuple[int, ...]
    compared: statistics.Compared


def same_network(runs: Sequence[Run]) -> list[Difference]:
    """Each network that was tested in two of the runs on the same samples, with a seed in common.

    The intervals and p-values of all these differences are of one `statistics.Family`.
    """
    found: list[tuple[str, int, int, tuple[int, ...]]] = []
    tables, samples = [], []
    for (i, run), (j, other) in itertools.combinations(enumerate(runs), 2):
        if not _on_same_samples(run, other):
            continue
        seeds = tuple(seed for seed in run.seeds if seed in other.seeds)
        for network in run.networks:
            if network not in other.networks or not seeds:
                continue
            first, second = (
                np.stack([correct[seed] for seed in seeds])
                for correct in (
                    {
                        t.seed: t.predictions[r.assessed].correct.astype(float)
                        for t in r.networks[network]
                    }
                    for r in (run, other)
                )
            )
            found.append((network, i, j, seeds))
            tables.append(second - first)
            samples.append(_rows(run).tobytes() + run.samples.digests.tobytes())
    if not found:
        return []
    family = statistics.Family(tables, samples)
    return [Difference(*x, y) for x, y in zip(found, family.compared, strict=True)]


def _on_same_samples(one: Run, other: Run) -> bool:
    """Whether two runs were assessed on the same samples, in the same order."""
    pairs = zip(one.samples.of(one.assessed)[:4], other.samples.of(other.assessed)[:4], strict=True)
    same = np.array_equal(_rows(one), _rows(other))
    return same and all(np.array_equal(a, b) for a, b in pairs)


def _same_network(
    same: Sequence[Difference], names: Sequence[str], titles: Mapping[str, str]
) -> Table:
    rows = [
        [
            titles[found.network],
            "shown" if found.compared.shown else "not shown",
            f"{names[found.second]} minus {names[found.first]}",
            points(found.compared.estimate.mean),
            interval(found.compared.simultaneous),
            p_value(found.compared.p),
            str(len(found.seeds)),
        ]
        for found in same
    ]
    return Table(
        "The same network in two runs: difference of accuracy in points, on the same samples and "
        "seeds. The intervals hold for all rows at once; p is corrected likewise.",
        ["network", "verdict", "runs", "difference", "95% at once", "p, corrected", "seeds"],
        rows,
    )


def _figure(
    runs: Sequence[Run],
    names: Sequence[str],
    titles: Mapping[str, str],
    accuracy: Mapping[str, Sequence[statistics.Estimate | None]],
    swept: tuple[str, list[float]] | None,
    over_splits: Mapping[str, Mapping[str, Any]],
) -> tuple[list[dict[str, Any]], str]:
    """The figure for `report.Section`, and why it could not be drawn, or ""."""
    label = f"accuracy on {runs[0].assessed} data in %"
    as_json: dict[str, list[dict[str, Any] | None]] = {
        network: [dataclasses.asdict(found) if found else None for found in of]
        for network, of in accuracy.items()
    }
    pictures = []
    try:
        if swept:
            field, values = swept
            order = np.argsort(values, kind="stable")
            over = {titles[n]: [of[i] for i in order] for n, of in as_json.items()}
            content = _svg(figures.accuracies_over, [values[i] for i in order], over, field, label)
            caption = f"Accuracy over {field}; lines: 95% intervals of each run."
            pictures.append((content, f"Accuracy of each network over {field}, with intervals."))
        else:
            caption = "Accuracy of each network in each run, with its 95% interval"
            several = any(len(run.seeds) > 1 for run in runs)
            caption += "; small marks: each seed." if several else "."
            for network, of in as_json.items():
                rows = [(name, found) for name, found in zip(names, of, strict=True) if found]
                if over_splits and (found := over_splits[network])["interval"]:
                    rows.append(("over splits", {**found, "seeds": []}))
                content = _svg(figures.accuracies_of_runs, rows, titles[network], label)
                pictures.append((content, f"{titles[network]}: accuracy in each run."))
    except Exception as error:  # whatever matplotlib raises; the rest of the page is written
        reason = printable(f"{type(error).__name__}: {error}")[:200]
        return [], reason
    shown = [
        {"description": text, "address": report.address(content, ".svg"), "failure": ""}
        for content, text in pictures
    ]
    return [{"caption": caption, "pictures": shown}], ""


def _svg(draw: Callable[..., Any], *arguments: Any) -> bytes:
    return figures.render(functools.partial(draw, *arguments))[".svg"]

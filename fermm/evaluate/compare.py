"""Several runs side by side: other configs on the same faces, or one config on several splits."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fermm.errors import InputError
from fermm.evaluate import figures, report, statistics, table
from fermm.evaluate.metrics import METRICS
from fermm.evaluate.run import Run, write_text
from fermm.evaluate.table import Table

title = str

_METRIC = METRICS["accuracy"]


def write(runs: Sequence[Run], file: Path) -> None:
    """Writes one HTML page about several runs.

    Args:
        runs: two or more, all assessed on the split of the same name.
        file: the page.

    Raises:
        InputError: they were assessed on different splits, or the file cannot be written.
    """
    assessed = {run.assessed for run in runs}
    if len(assessed) > 1:
        raise InputError(
            f"the runs were assessed on different splits ({', '.join(sorted(assessed))}): evaluate "
            "them with the same config.evaluate.splits"
        )
    names = _names(runs)
    only_split_seed = [path for path, *_ in _settings(runs)] == ["data.split_seed"]
    tables = [_accuracies(runs, names, repeated=only_split_seed)]
    sentences = []
    if only_split_seed:
        tables.append(_over_splits(runs, names))
        sentences.append(
            f"The runs differ in nothing but the seed of the split: {len(runs)} splits of the same "
            "faces. Intervals over splits are Student's; training and test faces of the splits "
            "overlap, so they are a rough guide."
        )
    else:
        tables += _same_network(runs, names)
        if len(tables) == 1:
            sentences.append(
                "No network was tested on the same faces and seeds in two of the runs, so that no "
                "difference between runs is given."
            )
    settings = Table(
        "Where their configurations differ.",
        ["field", *names],
        [[path, *map(str, values)] for path, *values in _settings(runs)],
        words=True,
    )
    sections = [
        report.Section("Accuracy", sentences, [t for t in tables if t.rows], [_figure(runs, names)])
    ]
    if settings.rows:
        sections.append(report.Section("Configurations", tables=[settings]))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, report.render(f"{len(runs)} runs: {', '.join(names)}", sections))
    except OSError as error:
        raise InputError(f"{file}: cannot be written ({error.strerror})") from None


def _names(runs: Sequence[Run]) -> list[str]:
    """The shortest ends of their paths that differ."""
    paths = [run.directory.resolve().parts for run in runs]
    for run, path in zip(runs, paths, strict=True):
        if paths.count(path) > 1:
            raise InputError(f"{run.directory}: the same run is given twice")
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


def _accuracies(runs: Sequence[Run], names: Sequence[str], *, repeated: bool) -> Table:
    rows = []
    for network in _networks(runs):
        has = [run for run in runs if network in run.networks]
        row = [title(network)]
        row += [table.spread(_values(run, network)) if run in has else "" for run in runs]
        if repeated:
            row.append(_over([float(np.mean(_values(run, network))) for run in has]))
        rows.append(row)
    head = ["network", *names] + ["over splits (95%)"] * repeated
    return Table(
        f"Accuracy in percent on {runs[0].assessed} data; with several seeds, mean and standard "
        "deviation over them.",
        head,
        rows,
    )


def _over(values: Sequence[float]) -> str:
    mean = table.points(float(np.mean(values)))
    if len(values) == 1:
        return mean
    return (
        f"{mean} ± {table.points(float(np.std(values, ddof=1)))} "
        f"({table.interval([float(np.clip(x, -1, 1)) for x in statistics.t_interval(values)])})"
    )


def _over_splits(runs: Sequence[Run], names: Sequence[str]) -> Table:
    """Differences between networks within each run, and over the runs."""
    rows = []
    for one, other in itertools.combinations(_networks(runs), 2):
        both = [run for run in runs if {one, other} <= run.networks.keys()]
        found = {
            run.directory: float(np.mean(_values(run, other)) - np.mean(_values(run, one)))
            for run in both
        }
        if found:
            cells = [table.points(found[r.directory]) if r in both else "" for r in runs]
            rows.append([f"{title(other)} minus {title(one)}", *cells, _over(list(found.values()))])
    return Table(
        "Differences between networks in points, mean over the seeds of each run.",
        ["networks", *names, "over splits (95%)"],
        rows,
    )


def _same_network(runs: Sequence[Run], names: Sequence[str]) -> list[Table]:
    """The same network in two runs, on the same faces."""
    rows = []
    for (run, name), (other, other_name) in itertools.combinations(
        zip(runs, names, strict=True), 2
    ):
        a, b = _rows(run), _rows(other)
        if run.identity["faces"] != other.identity["faces"] or not np.array_equal(a, b):
            continue
        seeds = [seed for seed in run.seeds if seed in other.seeds]
        weights = statistics.resample(len(a)) if seeds else None
        for network in run.networks:
            if network not in other.networks or weights is None:
                continue
            correct = [
                np.stack(
                    [
                        t.predictions[r.assessed].correct.astype(float)
                        for t in r.networks[network]
                        if t.seed in seeds
                    ]
                )
                for r in (run, other)
            ]
            found = statistics.estimate(
                (correct[1] - correct[0])[..., None], weights, bounds=(-1.0, 1.0)
            )
            rows.append(
                [
                    title(network),
                    f"{other_name} minus {name}",
                    str(len(seeds)),
                    table.points(found.mean),
                    table.interval(found.interval),
                    "shown" if found.interval[0] > 0 or found.interval[1] < 0 else "not shown",
                ]
            )
    if not rows:
        return []
    return [
        Table(
            "The same network in two runs: difference of accuracy in points, on the same faces and "
            "seeds.",
            ["network", "runs", "seeds", "difference", "95%", "verdict"],
            rows,
        )
    ]


def _figure(runs: Sequence[Run], names: Sequence[str]) -> dict[str, str]:
    accuracies = {
        title(network): {
            name: _values(run, network)
            for run, name in zip(runs, names, strict=True)
            if network in run.networks
        }
        for network in _networks(runs)
    }
    return {
        "caption": "Accuracy of each network in each run; small: each seed.",
        "description": "Points of accuracy for every network and run; the numbers are in the "
        "table.",
        "address": report.address(
            figures.accuracies_of_runs(accuracies, f"accuracy on {runs[0].assessed} data in %"),
            ".svg",
        ),
    }

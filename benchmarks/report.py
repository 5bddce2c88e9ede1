"""Tables and a plot from what `benchmarks` measured."""

import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

EPOCHS = 16  # of each network, in the paper
ADAM_ARRAYS = 7  # it reads parameters, gradients and two means, and writes all but the gradients
NAMES = {
    "keras": "Keras/TensorFlow",
    "pytorch": "PyTorch",
    "pytorch_compiled": "PyTorch, torch.compile",
    "pytorch_plain": "PyTorch, as commonly written",
    "fermm": "fermm",
    "paper": "the paper's way",
    "pandas_c": "pandas' C parser, NumPy",
    "image": "NN1 (image)",
    "landmarks": "NN2 (landmarks)",
    "decision_fusion": "fusion of decisions",
    "feature_fusion": "fusion of features",
}
_COLOURS = {"keras": "#d55e00", "pytorch": "#e69f00", "fermm": "#0072b2"}

median = statistics.median


def write(results: dict[str, Any], out: Path) -> None:
    """Writes `tables.md`, `performance.svg` and `performance.png` into `out`."""
    sections = [_machine(results)]
    for part, table in _TABLES.items():
        if part in results:
            sections.append(table(results))
    if {"csv", "landmarks", "epochs"} <= results.keys():
        sections.append(_whole(results))
    (out / "tables.md").write_text("\n\n".join(sections) + "\n")
    if {"steps", "epochs", "growth"} <= results.keys():
        _plot(results, out)


def spread(values: list[float], scale: float = 1.0) -> str:
    """Median and range, e.g. "45.1 (44.0-47.2)"."""
    low, middle, high = (scale * f(values) for f in (min, median, max))
    digits = 2 if middle < 10 else 1 if middle < 100 else 0
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def ratios(slow: list[float], fast: list[float]) -> list[float]:
    """Of two lists timed in turns, the ratio in each round."""
    return [a / b for a, b in zip(slow, fast, strict=True)]


def limit(step: dict[str, Any]) -> float:
    """Seconds that a step takes at least: XLA's operations, then Adam's traffic with memory."""
    cost, ceilings = step["cost"], step["ceilings"]
    arithmetic = cost["flops"] / median(ceilings["matmul_flops"])
    return arithmetic + 4 * ADAM_ARRAYS * cost["parameters"] / median(ceilings["memory_bytes"])


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _machine(results: dict[str, Any]) -> str:
    machine = results["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in results["versions"].items())
    return (
        f"{machine['processor']} ({machine['vectors']}), {machine['cores']} cores, "
        f"{machine['system']}, Python {machine['python']}; {versions}."
    )


def _ceilings(results: dict[str, Any]) -> str:
    ceilings = results["ceilings"]
    return (
        "Ceilings: products of float32 matrices "
        f"{spread(ceilings['matmul_flops'], 1e-9)} GFLOP/s, memory "
        f"{spread(ceilings['memory_bytes'], 1e-9)} GB/s."
    )


def _steps(results: dict[str, Any]) -> str:
    rows, roofline = [], []
    for network, step in results["steps"].items():
        seconds = step["seconds"]
        for peer, values in seconds.items():
            against = ratios(values, seconds["fermm"])
            rows.append(
                [
                    NAMES[network],
                    NAMES[peer],
                    spread(values, 1e3),
                    spread(against) if peer != "fermm" else "1",
                    f"{step['first_step'][peer]:.1f}",
                    f"{step['peak_memory'][peer] / 1e6:.0f}" if network == "image" else "",
                ]
            )
        cost, ours = step["cost"], median(seconds["fermm"])
        ceiling = median(step["ceilings"]["matmul_flops"])
        roofline.append(
            [
                NAMES[network],
                f"{cost['parameters']:,}",
                f"{cost['flops'] / 1e6:,.1f}",
                f"{cost['bytes'] / 1e6:,.1f}",
                f"{1e3 * cost['flops'] / ceiling:.3g}",
                f"{1e3 * limit(step):.3g}",
                f"{1e3 * ours:.3g}",
                f"{ours / limit(step):.2f}",
                f"{100 * cost['flops'] / ours / ceiling:.0f}%",
            ]
        )
    return (
        "Training steps of 32 faces\n\n"
        + _table(
            ["network", "", "ms a step", "times fermm's", "first step, s", "peak memory, MB"], rows
        )
        + "\n\nRoofline of fermm's step\n\n"
        + _table(
            [
                *("network", "trained parameters", "MFLOP", "MB accessed", "arithmetic, ms"),
                *("limit, ms", "measured, ms", "measured / limit", "of the product ceiling"),
            ],
            roofline,
        )
    )


def _epochs(results: dict[str, Any]) -> str:
    rows = []
    for network, epoch in results["epochs"].items():
        ours = epoch["seconds"]["fermm"]
        for peer, values in epoch["seconds"].items():
            against = spread(ratios(values, ours)) if peer != "fermm" else "1"
            total = EPOCHS * median(values) + epoch["once"][peer]
            rows.append(
                [
                    *(NAMES[network], NAMES[peer], spread(values), against),
                    *(f"{epoch['once'][peer]:.1f}", f"{total:.0f}"),
                ]
            )
    return "Epochs, validation included\n\n" + _table(
        ["network", "", "s an epoch", "times fermm's", "s once", f"s for {EPOCHS} epochs"], rows
    )


def _training(results: dict[str, Any], peer: str, networks: Any = None) -> float:
    """Seconds of whole trainings; both fusions use the same frozen outputs, computed once."""
    epochs = [e for name, e in results["epochs"].items() if networks is None or name in networks]
    once = max(epoch["once"][peer] for epoch in epochs)
    return once + sum(EPOCHS * median(epoch["seconds"][peer]) for epoch in epochs)


def _whole(results: dict[str, Any]) -> str:
    ours = _training(results, "fermm")
    fusions = ("decision_fusion", "feature_fusion")
    rows = []
    for peer in ("keras", "pytorch", "fermm"):
        total = _training(results, peer)
        both = _training(results, peer, fusions)
        rows.append(
            [
                NAMES[peer],
                f"{total:.0f}",
                f"{total / ours:.2f}",
                f"{both:.0f}",
                f"{both / _training(results, 'fermm', fusions):.1f}",
            ]
        )
    text = (
        f"The paper's four networks, training only ({EPOCHS} x the median epoch; the frozen "
        "outputs, which a run computes once for both fusions, included)\n\n"
        + _table(["", "all four, s", "times fermm's", "both fusions, s", "times fermm's"], rows)
    )
    reading, landmarks = results["csv"]["paper"][0], median(results["landmarks"]["1"])
    keras = reading + landmarks + _training(results, "keras")
    text += (
        f"\n\nFrom CSV to trained networks the paper's way: {reading:.0f} s reading + "
        f"{landmarks:.0f} s landmarks + {_training(results, 'keras'):.0f} s training = "
        f"{keras:.0f} s."
    )
    if "whole" in results:
        whole = results["whole"]["seconds"]
        training = sum(results["whole"]["training"].values())
        text += (
            f" fermm, one run of configs/paper.py from CSV to figures and table, nothing prepared "
            f"or compiled before: {whole:.0f} s, of which {training:.0f} s training "
            f"({results['whole']['left_out']:.0f} s of it not run but counted: NN1's last epochs, "
            f"at the mean of its first): {keras / whole:.2f} times as fast."
        )
    return text


def _growth(results: dict[str, Any]) -> str:
    growth = results["growth"]
    text = "Growth with the batch: microseconds a face\n\n"
    rows = [
        [NAMES[network], *(f"{size}: {spread(v, 1e6)}" for size, v in sizes.items())]
        for network, sizes in growth["batch"].items()
    ]
    width = max(map(len, rows))
    rows = [row + [""] * (width - len(row)) for row in rows]
    text += _table(["network", *(["batch: time"] * (width - 1))], rows)
    rows = []
    for network, seeds in growth["seeds"].items():
        for count, values in seeds.items():
            rows.append(
                [
                    NAMES[network],
                    count,
                    spread(values, 1e3),
                    spread(ratios(values, seeds["1"])) if count != "1" else "1",
                ]
            )
    text += "\n\nGrowth with the number of seeds trained at once\n\n"
    text += _table(["network", "seeds", "ms a step of all", "times one seed"], rows)
    text += "\n\nGrowth with the number of faces (NN2)\n\n"
    rows = [[faces, spread(v)] for faces, v in growth["faces"].items()]
    return text + _table(["of the training faces", "s an epoch"], rows)


def _csv(results: dict[str, Any]) -> str:
    seconds = results["csv"]
    ours = median(seconds["fermm"])
    rows = [
        [NAMES[way], spread(values), f"{median(values) / ours:.2f}"]
        for way, values in seconds.items()
    ]
    return "CSV to arrays\n\n" + _table(["", "s", "times fermm's"], rows)


def _landmarks(results: dict[str, Any]) -> str:
    seconds = results["landmarks"]
    rows = [
        [count, spread(values), spread(ratios(seconds["1"], values)) if count != "1" else "1"]
        for count, values in seconds.items()
    ]
    return "Landmarks of all faces\n\n" + _table(["processes", "s", "times as fast"], rows)


def _predictions(results: dict[str, Any]) -> str:
    rows = []
    predictions = dict(results["predictions"])
    whole = predictions.pop("pixels_to_probabilities")
    for network, counts in predictions.items():
        for peer in counts["1"]:
            one = counts["1"][peer]
            rows.append(
                [
                    NAMES[network],
                    NAMES[peer],
                    f"{1e3 * median(one):.2f}",
                    f"{1e3 * _percentile(one, 99):.2f}",
                    *(f"{int(n) / median(counts[n][peer]):,.0f}" for n in ("256", "4096")),
                ]
            )
    text = "Predictions, landmarks given\n\n" + _table(
        ["network", "", "one face, p50, ms", "p99, ms", "faces/s of 256", "faces/s of 4096"], rows
    )
    rows = [
        [NAMES[network], f"{1e3 * median(values):.2f}", f"{1e3 * _percentile(values, 99):.2f}"]
        for network, values in whole.items()
    ]
    return (
        text
        + "\n\nOne face from pixels to probabilities, landmarks found by dlib\n\n"
        + _table(["network", "p50, ms", "p99, ms"], rows)
    )


def _percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _starts(results: dict[str, Any]) -> str:
    rows = [
        [NAMES[network], f"{seconds['nothing kept']:.1f}", f"{seconds['kept']:.1f}"]
        for network, seconds in results["starts"].items()
    ]
    return "fermm's first step in a new process, s\n\n" + _table(
        ["network", "nothing compiled before", "compiled by an earlier process"], rows
    )


_TABLES = {
    "ceilings": _ceilings,
    "csv": _csv,
    "landmarks": _landmarks,
    "steps": _steps,
    "starts": _starts,
    "epochs": _epochs,
    "growth": _growth,
    "predictions": _predictions,
}


def _plot(results: dict[str, Any], out: Path) -> None:
    plt.rcParams["svg.hashsalt"] = "fermm"
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    peers, networks = list(_COLOURS), list(results["steps"])
    hatches = {"keras": "//", "pytorch": "..", "fermm": ""}
    for i, peer in enumerate(peers):
        heights = [1e3 * median(results["steps"][n]["seconds"][peer]) for n in networks]
        places = [x + 0.27 * (i - 1) for x in range(len(networks))]
        bars = axes[0].bar(
            places, heights, 0.25, color=_COLOURS[peer], hatch=hatches[peer], label=NAMES[peer]
        )
        labels = [f"{h:.0f}" if h >= 10 else f"{h:.2g}" for h in heights]
        axes[0].bar_label(bars, labels, fontsize=6)
    for x, network in enumerate(networks):
        at_least = 1e3 * limit(results["steps"][network])
        label = "limit of the machine" if x == 0 else None
        axes[0].hlines(at_least, x - 0.42, x + 0.42, color="black", lw=1.2, label=label)
    axes[0].set_yscale("log")
    axes[0].set_ylim(top=5000)
    axes[0].set_xticks(range(len(networks)), ["NN1", "NN2", "decisions", "features"])
    axes[0].set_ylabel("ms a training step of 32 faces")
    axes[0].legend(fontsize=7, ncols=2, loc="upper center")
    for (network, sizes), marker in zip(results["growth"]["batch"].items(), "os", strict=True):
        x = [int(size) for size in sizes]
        y = [1e6 * median(v) for v in sizes.values()]
        axes[1].plot(x, y, marker=marker, label=NAMES[network])
    axes[1].set_xscale("log", base=2)
    axes[1].set_yscale("log")
    axes[1].set_xlabel("faces in a batch")
    axes[1].set_ylabel("microseconds a face")
    axes[1].legend(fontsize=7)
    for (network, seeds), marker in zip(results["growth"]["seeds"].items(), "osD", strict=True):
        x = [int(count) for count in seeds]
        y = [median(ratios(v, seeds["1"])) for v in seeds.values()]
        axes[2].plot(x, y, marker=marker, label=NAMES[network])
    axes[2].plot([1, 8], [1, 8], color="grey", ls=":", label="one after the other")
    axes[2].set_xlabel("seeds trained at once")
    axes[2].set_ylabel("time of a step, in those of one seed")
    axes[2].legend(fontsize=7)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    for suffix in ("svg", "png"):
        metadata = {"Date": None} if suffix == "svg" else None
        figure.savefig(out / f"performance.{suffix}", dpi=150, metadata=metadata)
    plt.close(figure)

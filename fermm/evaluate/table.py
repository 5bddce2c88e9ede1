"""Table 2 of the paper: the accuracy of the networks, ours and the paper's."""

from collections.abc import Mapping
from typing import Any

import numpy as np

PAPER = {
    "image": {"validation": 47.0, "test": 45.2},
    "landmarks": {"validation": 42.7, "test": 43.9},
    "decision_fusion": {"validation": 48.9, "test": 48.0},
    "feature_fusion": {"validation": 49.4, "test": 48.5},
}
"""Table 2 of the paper: accuracy in percent, of one run each."""

TITLES = {
    "image": "NN1 (image)",
    "landmarks": "NN2 (landmarks)",
    "decision_fusion": "Fusion of decisions",
    "feature_fusion": "Fusion of features",
}


def title(network: str) -> str:
    """How a network is called in tables and figures."""
    return TITLES.get(network, network)


def table_2(metrics: Mapping[str, Any], *, data: str, paper: bool) -> str:
    """Table 2 as text.

    Args:
        metrics: the content of `metrics.json`.
        data: what the networks were evaluated on, for the caption.
        paper: whether the paper's numbers, which are of FER2013 in the paper's split, stand beside.
    """
    splits = [s for s in ("train", "validation", "test") if s in next(iter(metrics.values()))]
    seeds = max(len(m[s]["accuracy"]) for m in metrics.values() for s in splits)
    head = f"{'':<22}" + "".join(
        f"{split:>16}" + (f"{'paper':>8}" if paper and split != "train" else "") for split in splits
    )
    lines = [
        f"Table 2. Accuracy in percent on {data}"
        + (f", mean and standard deviation over {seeds} seeds." if seeds > 1 else ", one seed."),
        head,
    ]
    for network, figures in metrics.items():
        line = f"{title(network):<22}"
        for split in splits:
            values = 100 * np.asarray(figures[split]["accuracy"])
            spread = f" +- {values.std(ddof=1):.1f}" if len(values) > 1 else ""
            line += f"{f'{values.mean():.1f}{spread}':>16}"
            if paper and split != "train":
                known = PAPER.get(network, {}).get(split)
                line += f"{'' if known is None else f'{known:.1f}':>8}"
        lines.append(line)
    return "\n".join(lines)

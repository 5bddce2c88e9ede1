"""What is the paper's own: its networks, what it calls them, its numbers, and its requirements.

A network of a run bears the paper's name, and has the paper's numbers beside its own, only where it
is that network: the same model with the same arguments, and of a fusion the same head over the same
members. What its section in the config is called does not matter.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fermm.data import fingerprints
from fermm.evaluate.reference import NOTHING, Reference
from fermm.evaluate.text import interval, points
from fermm.faces import EMOTIONS

if TYPE_CHECKING:
    from fermm.evaluate.run import Run

Spec = Mapping[str, Any]
Json = dict[str, Any]

COUNTS = (4953, 547, 5121, 8989, 6077, 4002, 6198)
WEIGHTS = (1.815, 16.433, 1.755, 1.0, 1.479, 2.246, 1.450)
"""Table 1 of the paper: faces of each emotion, and what they weigh in the loss."""

GAP = 0.03  # of training over validation accuracy, beyond which a network counts as overfitted
HOUR = 3600.0


class Network(NamedTuple):
    """A network of the paper.

    Attributes:
        title: how tables and figures call it.
        figure: the number of the figure that shows its architecture.
        accuracy: table 2, by split: accuracy in percent, of one run.
        spec: how it is built, see `fermm.models.building`, with every argument.
    """

    title: str
    figure: int
    accuracy: Mapping[str, float]
    spec: Spec


# All arguments stand here, so that specs can be compared without the modules, which need JAX.
_COMMON = {"dtype": "float32", "plain": False, "classes": len(EMOTIONS)}
_NN1 = {
    "model": "nn1",
    "arguments": {"filters": (16, 32, 64), "hidden": 512, "features": 16, **_COMMON},
}
_NN2 = {
    "model": "nn2",
    "arguments": {
        "point_features": 4,
        "hidden": (256, 512),
        "features": 16,
        "dropout": 0.2,
        **_COMMON,
    },
}
_HEAD = {"classes": len(EMOTIONS)}
_MEMBERS = {"image": _NN1, "landmarks": _NN2}

KNOWN = (
    Network("NN1 (image)", 6, {"validation": 47.0, "test": 45.2}, _NN1),
    Network("NN2 (landmarks)", 7, {"validation": 42.7, "test": 43.9}, _NN2),
    Network(
        "Fusion of decisions",
        8,
        {"validation": 48.9, "test": 48.0},
        {"head": "decision", "arguments": _HEAD, "members": _MEMBERS},
    ),
    Network(
        "Fusion of features",
        9,
        {"validation": 49.4, "test": 48.5},
        {"head": "feature", "arguments": {"hidden": (64, 16), **_HEAD}, "members": _MEMBERS},
    ),
)
"""The paper's four networks (sections 5.2.2 to 5.2.4, figures 6 to 9, table 2)."""

_FIGURES_OF_NETWORKS = {
    "validation": "figures 11 and 12",
    "confusion_matrix": "figure 13",
    "training": "figure 15",
}
_FIGURES_OF_DATA = {
    "samples": "figure 3",
    "classes": "figure 4",
    "landmarks": "figure 5",
    "landmarks_good_and_bad": "figure 14",
}


def find(spec: Spec) -> Network | None:
    """The network of the paper that `spec` describes, None if it describes another one."""
    return next((known for known in KNOWN if _is_same(spec, known.spec)), None)


def _is_same(spec: Spec, known: Spec) -> bool:
    """Whether `spec` describes the network `known`, whose arguments are those that are absent."""
    for kind in ("model", "head"):
        if spec.get(kind) != known.get(kind):
            return False
    own = {k: tuple(v) if isinstance(v, list) else v for k, v in spec["arguments"].items()}
    if known["arguments"] | own != known["arguments"]:
        return False
    members, expected = spec.get("members", {}), known.get("members", {})
    return members.keys() == expected.keys() and all(
        _is_same(members[name], expected[name]) for name in members
    )


def is_fer2013(identity: Mapping[str, Any]) -> bool:
    """Whether the samples are all of FER2013's faces and no others, by their pixels and labels."""
    return identity.get("fer2013") in (fingerprints.IN_ORDER, fingerprints.REORDERED)


def has_rows(identity: Mapping[str, Any]) -> bool:
    """Whether the very faces train, validate and test that do so in the paper."""
    split = (identity["split"], identity["split_seed"])
    return split == ("paper", 0) and identity.get("fer2013") == fingerprints.IN_ORDER


def reference(
    classes: Sequence[str], identity: Mapping[str, Any], specs: Mapping[str, Spec]
) -> Reference:
    """What the paper says about a run's networks and data.

    Args:
        classes: the names of the run's classes.
        identity: what tells its data from others.
        specs: by name, how each of its networks is built.

    Returns:
        Nothing, where the classes are not the paper's seven emotions. Requirements are checked of
        all other runs, names and numbers are the paper's only on its data.
    """
    if tuple(classes) != EMOTIONS:
        return NOTHING
    on_its_data = is_fer2013(identity)
    found = {name: find(spec) if on_its_data else None for name, spec in specs.items()}
    known = {name: network for name, network in found.items() if network}
    accuracy = {name: network.accuracy for name, network in known.items()}
    cited = {f"architecture_{name}": f"figure {n.figure}" for name, n in known.items()}
    if on_its_data:
        cited |= {"table_of_classes": "Table 1", **_FIGURES_OF_DATA}
        if all(found.values()):
            cited |= _FIGURES_OF_NETWORKS
        if has_rows(identity) and known:
            cited["table_of_accuracies"] = "Table 2"
    return Reference(
        "paper",
        titles(found),
        accuracy if has_rows(identity) else {},
        COUNTS if on_its_data else (),
        WEIGHTS if on_its_data else (),
        cited,
        "Audit of the paper's requirements (section 5.1).",
        audit,
    )


def titles(networks: Mapping[str, Network | None]) -> dict[str, str]:
    """What the paper's networks of a run are called in tables and figures.

    Args:
        networks: by the name of their section, the network of the paper that each is, or None.

    Returns:
        The paper's name of each network that is the paper's, with the section's name if the run has
        several of it.
    """
    found = [known.title for known in networks.values() if known]
    return {
        section: known.title if found.count(known.title) == 1 else f"{known.title}, {section}"
        for section, known in networks.items()
        if known
    }


def audit(run: "Run", assessment: Mapping[str, Any]) -> list[Json]:
    """The requirements of the paper's section 5.1, checked on a run.

    Returns:
        For each: `number`, e.g. "functional 1"; `requirement`; `check`, how it is checked; `value`,
        what was found; `met`: True, False, or None where this run cannot tell.
    """
    chance = 1 / len(run.classes)
    specs = {name: seeds[0].meta["spec"] for name, seeds in run.networks.items()}
    singles = {name: spec for name, spec in specs.items() if "head" not in spec}
    fusions = {name: spec for name, spec in specs.items() if "head" in spec}
    titles = run.titles
    rows: list[Json] = []

    def row(number: str, requirement: str, check: str, value: str, met: bool | None) -> None:
        fields = ("number", "requirement", "check", "value", "met")
        rows.append(dict(zip(fields, (number, requirement, check, value, met), strict=True)))

    def names(of: Iterable[str]) -> str:
        return ", ".join(titles[name] for name in of) or "none"

    inputs = {name: tuple(seeds[0].meta["inputs"]) for name, seeds in run.networks.items()}
    by_input = {
        kind: [name for name, reads in inputs.items() if reads == kind]
        for kind in (("images",), ("landmarks",))
    }
    row(
        "functional 1",
        "A network recognises emotions in face images (NN1).",
        "a trained network reads images alone",
        names(by_input["images",]),
        bool(by_input["images",]),
    )
    row(
        "functional 2",
        "A network recognises emotions from facial landmarks (NN2).",
        "a trained network reads landmarks alone",
        names(by_input["landmarks",]),
        bool(by_input["landmarks",]),
    )
    row(
        "functional 3",
        "A network recognises emotions from both.",
        "a trained network is a fusion of two",
        names(fusions),
        bool(fusions),
    )
    heads = {spec["head"] for spec in fusions.values()}
    row(
        "functional 4",
        "There are two versions of it: from decisions, and from features.",
        "heads of the fusions",
        ", ".join(sorted(heads)) or "none",
        {"decision", "feature"} <= heads,
    )
    by_dlib = run.config["data"].get("landmarks", "paper") == "paper"
    found_by = "by dlib in the images" if by_dlib else str(run.config["data"]["landmarks"])
    row(
        "functional 5",
        "All data is from FER2013, or made from it.",
        "source of the images; how landmarks were found",
        f"{run.title} ({run.identity.get('fer2013', fingerprints.OTHER)}); landmarks "
        + ("synthetic" if run.synthetic else found_by),
        False if run.synthetic else (is_fer2013(run.identity) and by_dlib) or None,
    )
    versions = next(iter(run.networks.values()))[0].meta["versions"]
    row(
        "non-functional 1",
        "All networks are built and trained in Python.",
        "packages that trained them",
        f"fermm {versions['fermm']}, JAX {versions['jax']}, Flax {versions['flax']}",
        True,
    )
    count = sum(len(seeds) for seeds in run.networks.values())
    row(
        "non-functional 2",
        "All trained networks are saved.",
        "checkpoints of the last epoch that could be read",
        f"{count} of {len(run.networks) * len(run.seeds)}",
        count == len(run.networks) * len(run.seeds),
    )
    where = f"on {assessment['split']} data"
    # With one seed nothing is known of another network of the kind.
    several = len(run.seeds) > 1
    this, over = ("", "seeds and samples") if several else ("As trained here, ", "samples")
    for name in singles:
        accuracy = assessment["networks"][name]["accuracy"]
        row(
            "non-functional 3",
            f"{this}{titles[name]} is at least three times as accurate as chance.",
            f"95% interval over {over} of the accuracy {where} above "
            f"3/{len(run.classes)} = {points(3 * chance)}%",
            f"{points(accuracy['mean'])}%, 95% interval {interval(accuracy['interval'])}",
            _beyond(accuracy["interval"], 3 * chance),
        )
    for name in fusions:
        members = assessment["fusions"].get(name, {"members": {}})["members"]
        gains = {member: of["gain"] for member, of in members.items()}
        row(
            "non-functional 4",
            f"{this}{titles[name]} is better than "
            + ("both its members." if len(specs[name]["members"]) == 2 else "all its members."),
            f"simultaneous 95% intervals over {over} of the differences {where} above 0, for each",
            "; ".join(
                f"{points(abs(gain['mean']))} points "
                f"{'above' if gain['mean'] >= 0 else 'below'} {member} alone, "
                f"interval {interval(gain['simultaneous'])}"
                for member, gain in gains.items()
            )
            or "what its members say is not known",
            _all([_beyond(gain["simultaneous"], 0.0) for gain in gains.values()]),
        )
    for name in run.networks:
        gap = assessment["networks"][name]["gap"]
        row(
            "non-functional 5",
            f"{this}{titles[name]} is not overfitted.",
            "95% interval of training minus validation accuracy at the end, evaluated, over "
            f"{over}, below {points(GAP)} points; its course: figure 15",
            "not evaluated on both"
            if gap is None
            else f"{points(gap['mean'])} points, 95% interval {interval(gap['interval'])}",
            None if gap is None else _beyond([-x for x in reversed(gap["interval"])], -GAP),
        )
    total = sum(network["seconds"] for network in assessment["networks"].values())
    machine = next(iter(run.networks.values()))[0].meta["machine"]
    row(
        "non-functional 6",
        "All networks are trained in less than an hour altogether (on the paper's GPU).",
        "seconds of training and validation, all networks, mean over the seeds",
        f"{total:,.0f} s on {machine['devices']}, {machine['cores']} cores",
        total < HOUR,
    )
    return rows


def _beyond(bounds: Sequence[float], least: float) -> bool | None:
    """Whether an interval lies above a value; None if it contains it."""
    low, high = bounds
    return True if low > least else False if high < least else None


def _all(met: Sequence[bool | None]) -> bool | None:
    """Whether all are met; None if that cannot be told, or there are none."""
    if False in met:
        return False
    return None if None in met or not met else True

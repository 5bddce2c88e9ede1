"""Run directories written by hand, whose numbers are known.

No network is trained: predictions, histories and what checkpoints say of themselves are written as
`fermm.experiment` leaves them.
"""

import collections
import json
import runpy
import sys

import numpy as np

from configs import paper, synthetic
from fermm import rundir
from fermm.data import fingerprints
from fermm.evaluate import assess, run
from fermm.faces import EMOTIONS, FEATURES
from fermm.rundir import RunDirectory

SIZES = {"train": 42, "validation": 28, "test": 70}
# Samples of the source stand in the splits in another order, as they do in a real run.
ORDER = np.random.RandomState(0).permutation(sum(SIZES.values()))
INDICES = dict(zip(SIZES, np.split(ORDER, [42, 70]), strict=True))
ROWS = 1000 + 3 * np.arange(len(ORDER))
CONFIDENCE = 0.79  # of every decision; the other classes share the rest, 0.035 each of six

MINUS = "\N{MINUS SIGN}"
NAMES = ("image", "landmarks", "decision_fusion", "feature_fusion")
ALL = range(70)
NOT_ONE = ()
READS = {
    "nn1": ["images"],
    "nn2": ["landmarks"],
    "animal picture": ["images"],
    "animal points": ["landmarks"],
    "animal song": ["song"],
}
PAPER = {"title": "FER2013", "fer2013": fingerprints.IN_ORDER, "data__source": "fer2013"}

RIGHT = {
    "image": [range(30), range(33)],
    "landmarks": [range(30, 66), range(30, 70)],
    "decision_fusion": [range(15), range(17)],
    "feature_fusion": [range(15, 40), range(16, 41)],
}
MEMBERS = {
    "image": (range(30), [range(40), range(35)]),
    "landmarks": (range(30, 66), [range(20), range(25)]),
}
# Few of the 28 validation and 42 training faces: right on all of either is no proof of a small gap.
SOME = {"validation": NOT_ONE, "train": range(20)}


def labels_of(classes=7):
    """int32 (140,), in the order of the source; sample i of each split has the class i % K."""
    labels = np.empty(len(ORDER), np.int32)
    for indices in INDICES.values():
        labels[indices] = np.arange(len(indices)) % classes
    return labels


def predictions(split, wrong, classes=7):
    """Of one network on a split: wrong at these positions of it, where it says the next class."""
    rows, labels = ROWS[INDICES[split]], labels_of(classes)[INDICES[split]]
    decisions = labels.copy()
    wrong = list(wrong)
    decisions[wrong] = (labels[wrong] + 1) % classes
    rest = (1 - CONFIDENCE) / (classes - 1)
    probabilities = np.full((len(labels), classes), rest, np.float32)
    probabilities[np.arange(len(labels)), decisions] = CONFIDENCE
    return rundir.Predictions(rows, labels, probabilities)


def fabricate(
    directory,
    wrong,
    *,
    modalities=None,
    specs=None,
    copied=(),
    splits=tuple(SIZES),
    title="synthetic faces",
    note="",
    digests=0,
    fer2013=fingerprints.OTHER,
    seconds=1.5,
    classes=EMOTIONS,
    features=FEATURES,
    votes=None,
    **changes,
):
    """Writes the directory of a finished run.

    Args:
        directory: where.
        wrong: by network, for each seed: positions of the test samples that it gets wrong, or by
            split such positions. It is right wherever nothing is said.
        modalities: by fusion, for each seed: by member, the positions that it gets wrong alone, and
            for each permutation those that the fusion does with it shuffled. By default the members
            are the networks of the run, and shuffled the fusion does as they do.
        specs: by network, how it is built; by default as its section in the config says.
        copied: positions of test samples that are duplicates of training samples.
        splits: `config.evaluate.splits`.
        title: of the data.
        note: about the data.
        digests: added to those of all samples: with another number they are other samples.
        fer2013: what they have in common with FER2013.
        seconds: of each of the two epochs.
        classes: their names.
        features: of the samples, by name.
        votes: float32 (140, K), in the order of the source.
        changes: of the config, by path with `__`.

    Returns:
        The directory.
    """
    config = synthetic.get_config()
    for name in wrong:
        if name not in config:
            config[name] = config.decision_fusion
    config.networks = tuple(wrong)
    config.seeds = tuple(range(len(next(iter(wrong.values())))))
    config.evaluate.splits = splits
    if fer2013 == fingerprints.OTHER:
        config.image.arguments.hidden = 16  # a network of its own
    else:
        config.image.arguments = paper.get_config().image.arguments
    for path, value in changes.items():
        *sections, field = path.split("__")
        section = config
        for name in sections:
            section = section[name]
        section[field] = value
    config = config.to_dict()
    specs = {name: _spec(config, name) for name in wrong} | (specs or {})
    count = len(classes)
    run_directory = RunDirectory(directory)
    directory.mkdir(parents=True)
    identity = {
        "fer2013": fer2013,
        "split": config["data"]["split"],
        "split_seed": config["data"]["split_seed"],
        "sizes": SIZES,
    }
    rundir.write_json(run_directory.config, config)
    data = {
        "title": title,
        "notes": [note] if note else [],
        "classes": classes,
        "features": {name: feature.to_json() for name, feature in features.items()},
        "identity": identity,
    }
    rundir.write_json(run_directory.data, data)
    where = np.empty(len(ORDER), np.int8)
    for i, indices in enumerate(INDICES.values()):
        where[indices] = i
    copies = np.zeros(len(ORDER), bool)
    copies[INDICES["test"][list(copied)]] = True
    samples = rundir.RunSamples(
        ROWS,
        labels_of(count),
        where,
        (ROWS + digests).astype(np.uint64),
        copies,
        np.arange(1.0, 1 + count),
        votes,
    )
    rundir.write_samples(run_directory.samples, samples)

    for name, of_seeds in wrong.items():
        for seed, of_splits in enumerate(of_seeds):
            if not isinstance(of_splits, dict):
                of_splits = {"test": of_splits}
            own = run_directory.seed(name, seed)
            own.path.mkdir(parents=True)
            for split in splits:
                made = predictions(split, of_splits.get(split, ()), count)
                rundir.write_predictions(own.predictions(split), made)
            members = (modalities or {}).get(name)
            if members is None and set(specs[name].get("members", "?")) <= set(wrong):
                alone = {
                    member: w["test"] if isinstance(w := wrong[member][seed], dict) else w
                    for member in specs[name]["members"]
                }
                members = {seed: {member: (w, [w]) for member, w in alone.items()}}
            if members:
                fused = of_splits.get("test", ())
                rundir.write_modalities(
                    own.modalities(splits[-1]), _modalities(fused, members[seed], count)
                )
            history = [
                dict.fromkeys(rundir.HISTORY_COLUMNS, 0.5) | {"epoch": e, "seconds": seconds}
                for e in (1, 2)
            ]
            rundir.write_history(own.history, history)
            reads = _inputs(specs[name])
            meta = {
                "format": rundir.FORMAT,
                "network": name,
                "seed": seed,
                "epoch": 2,
                "history": history,
                "spec": specs[name],
                "inputs": reads,
                "trained": [],
                "parameters": 1234567,
                "classes": classes,
                "features": {f: features[f].to_json() for f in reads if f in features},
                "config": config,
                "data": identity,
                "code": [{"epoch": 1, "files": {}}],
                "versions": {"fermm": "1", "jax": "2", "flax": "3"},
                "machine": {"system": "s", "python": "3", "cores": 2, "devices": "an abacus"},
            }
            (own.checkpoints / "2").mkdir(parents=True)
            rundir.write_meta(own.checkpoints / "2", meta)
    return directory


def _spec(config, name):
    section = config[name]
    if "head" not in section:
        return {"model": section["model"], "arguments": section["arguments"]}
    members = {member: _spec(config, member) for member in ("image", "landmarks")}
    return {"head": section["head"], "arguments": section["arguments"], "members": members}


def _inputs(spec):
    if "members" in spec:
        return list(dict.fromkeys(x for m in spec["members"].values() for x in _inputs(m)))
    return READS.get(spec["model"], ["landmarks"])


def _modalities(wrong, members, classes):
    def decisions(wrong):
        return predictions("test", wrong, classes).decisions.astype(np.int16)

    rows, labels, _, _ = predictions("test", (), classes)
    return rundir.Modalities(
        rows,
        labels,
        decisions(wrong),
        {name: decisions(alone) for name, (alone, _) in members.items()},
        {
            name: np.stack([decisions(each) for each in shuffled])
            for name, (_, shuffled) in members.items()
        },
    )


def assessed(directory, *args, **kwargs):
    """A fabricated run, read back, and its assessment, which must be JSON."""
    read = run.load(fabricate(directory, *args, **kwargs))
    found = assess.assess(read)
    assert json.loads(json.dumps(found, allow_nan=False)) == json.loads(json.dumps(found))
    return read, found


def audit_of(found):
    rows = collections.defaultdict(list)
    for row in found["audit"]:
        rows[row["number"]].append(row)
    return rows


def evaluate(*arguments):
    """`python -m fermm.evaluate` with these arguments, in this process."""
    before = sys.argv
    sys.argv = ["fermm.evaluate", *map(str, arguments)]
    # Warns of a module that is there already, which for this one changes nothing.
    sys.modules.pop("fermm.evaluate.__main__", None)
    try:
        runpy.run_module("fermm.evaluate", run_name="__main__")
    finally:
        sys.argv = before

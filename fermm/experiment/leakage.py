"""Whether members from other runs have seen, in training, what this run validates or tests with."""

import itertools
from collections.abc import Iterable

import numpy as np

from fermm import rundir
from fermm.data import splits
from fermm.data.source import Source
from fermm.errors import InputError
from fermm.experiment.plan import Job
from fermm.paths import expand
from fermm.rundir import RunDirectory
from fermm.samples import SPLITS


def describe_samples(source: Source) -> rundir.RunSamples:
    """The samples of a run without their features; which of them duplicate training samples."""
    samples = source.samples
    where = np.full(len(samples), -1, np.int8)
    for i, name in enumerate(SPLITS):
        where[source.splits[name]] = i
    digests = splits.digests(samples)
    first = splits.first_of_equals(digests)
    training = where == SPLITS.index("train")
    # How many other training samples are duplicates of each sample.
    alike = np.bincount(first[training], minlength=len(samples))[first] - training
    return rundir.RunSamples(
        samples.rows,
        samples.labels,
        where,
        digests,
        alike > 0,
        source.class_weights,
        samples.votes,
    )


def refuse_seen(samples: rundir.RunSamples, jobs: Iterable[Job]) -> None:
    """Checks that members of other runs were not trained on what evaluates their fusion.

    What stands on both sides of this run's own split, as duplicates in FER2013 do, is let pass.

    Raises:
        InputError: one was, or what it was trained on is not known.
    """
    own = samples.of("train").digests
    held_out = samples.digests[samples.splits != SPLITS.index("train")]
    held_out = held_out[~np.isin(held_out, own)]
    for job in jobs:
        for name, member in job.members.items():
            if not member.run:
                continue
            file = RunDirectory(expand(member.run)).samples
            try:
                theirs = rundir.read_samples(file).of("train").digests
            except FileNotFoundError:
                raise InputError(
                    f"{file} is missing, so which samples trained the networks there is not known: "
                    "run what trained them again"
                ) from None
            if seen := int(np.isin(held_out, theirs).sum()):
                raise InputError(
                    f"config.{job.name}.members.{name}.run: the networks of {file.parent} were "
                    f"trained on {seen} of the {len(held_out)} samples by which this run validates "
                    "and tests: use the data and the config.data.split and split_seed of that run"
                )


def refuse_other_landmarks(
    jobs: Iterable[Job], directory: RunDirectory, seeds: Iterable[int], source: Source
) -> None:
    """Checks that members of other runs were trained on landmarks of this run's predictor.

    What found landmarks that come from a file is not known.

    Raises:
        InputError: one was trained on landmarks of another predictor.
    """
    for job, seed in itertools.product(jobs, seeds):
        for name, member in job.members.items():
            if not member.run:
                continue
            where = job.member_directory(directory, name, seed)
            meta = rundir.read_meta(rundir.locate(where.checkpoints))
            then, now = meta["predictor"], source.predictor
            reads = "landmarks" in meta["inputs"]
            if reads and then and now and then["sha256"] != now["sha256"]:
                raise InputError(
                    f"config.{job.name}.members.{name}.run: {where.path} was trained on landmarks "
                    f"of another predictor (SHA-256 {then['sha256']}) than this run's "
                    f"({now['sha256']}): set config.data.predictor to that file, or train the "
                    "members in this run"
                )

"""A whole run, from a config to a report.

What a run directory holds is written down in README.md, "What a run leaves".
"""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from fermm import rundir
from fermm.data.source import Source, describe, load, write_rejected
from fermm.evaluate import run as evaluation
from fermm.evaluate import table, write
from fermm.experiment import directory as directory_lib
from fermm.experiment import finished, leakage, plan, training
from fermm.experiment.config import Config, read
from fermm.experiment.outputs import saying
from fermm.experiment.plan import Job
from fermm.paths import expand
from fermm.rundir import RunDirectory
from fermm.samples import Feature
from fermm.train import devices
from fermm.train.stop import Stop


@devices.in_float32
def run(
    config: Mapping[str, Any],
    workdir: str | os.PathLike[str],
    stop: Stop | None = None,
    program: Sequence[str | os.PathLike[str]] = (),
) -> dict[str, Any]:
    """Trains, evaluates and compares the networks that the config names.

    A run that was stopped or killed goes on after its last checkpoint.

    Args:
        config: nested dict as the files in `configs/` make it (`ConfigDict.to_dict()`).
        workdir: the run's directory, new or of a run with this config.
        stop: says when to stop, see `fermm.train.stop`; None never does.
        program: files with code that takes part beside those that register networks, such as that
            of the config. Checkpoints keep a digest of these, see `fermm.experiment.provenance`.

    Returns:
        What `metrics.json` holds; with `split_seeds`, for each of them (`split_<seed>`). Of several
        processes, only the first has it; the others get an empty dict.

    Raises:
        InputError: bad config, data, checkpoint or directory.
        Stopped: `stop` said so.
    """
    parsed = read(config)
    devices.require_backend()
    devices.require_same("config: use the same flags", parsed.to_dict())
    directory = RunDirectory(expand(workdir))
    files = [expand(path) for path in program]
    if parsed.run.split_seeds:
        return _run_splits(config, directory, parsed, stop, files)
    directory_lib.check(parsed, directory)
    if jax.process_count() == 1:
        result = finished.show(parsed, directory, files)
        if result is not None:
            return result
    plan.check_members(parsed, directory)
    with saying("checking the networks"):
        inputs = plan.inputs_of(parsed, directory)
        known = describe(parsed.run.data)
        expected, jobs = None, []
        if known is not None:  # before hours of work, and before the data are read
            votes = parsed.run.data.labels == "votes"
            jobs = _plan(parsed, directory, files, *known, votes)
            expected = ([known.features.get(name) for name in inputs], known.classes, votes)
    training.check_layouts(parsed, directory)
    with devices.main_first("read the data"), saying("reading the data"):  # or preparing them
        source = load(parsed.run.data, inputs)  # bad data leave no directory
        samples = source.samples
        features, classes = samples.described, samples.classes
        votes = samples.targets is not None
        # Tracing the training steps takes seconds: not twice for the same.
        if ([features.get(name) for name in inputs], classes, votes) != expected:
            jobs = _plan(parsed, directory, files, features, classes, votes)
        if devices.is_main():
            described = leakage.describe_samples(source)
            leakage.refuse_seen(described, jobs)
            leakage.refuse_other_landmarks(jobs, directory, parsed.run.seeds, source)
    devices.require_same("data: see to config.data.path on every host", source.identity)
    with contextlib.ExitStack() as stack:
        with devices.main_first(f"use {directory.path}"):
            if devices.is_main():
                stack.enter_context(directory.lock())
                directory_lib.check(parsed, directory)  # another run may have been there since
                directory_lib.claim(parsed, source, directory)
                _describe(source, jobs)
                if samples.rejected or parsed.run.data.on_error == "quarantine":
                    write_rejected(directory.rejected, parsed.run.data.path, samples)
                rundir.write_samples(directory.samples, described)
        debugging = parsed.run.debug_nans
        # Of compiled functions JAX names the outermost loop at best.
        with jax.debug_nans(debugging), jax.disable_jit(debugging):
            training.train_all(parsed, directory, jobs, source, stop)
        with devices.main_first("evaluate the run"):
            return _evaluate(parsed, directory, source, files) if devices.is_main() else {}


def _plan(
    config: Config,
    directory: RunDirectory,
    program: Sequence[Path],
    features: Mapping[str, Feature],
    classes: Sequence[str],
    distributions: bool,
) -> list[Job]:
    jobs = plan.make(
        config, directory, program, features, len(classes), distributions=distributions
    )
    directory_lib.check_code(config, directory, jobs)
    return jobs


def _evaluate(
    config: Config, directory: RunDirectory, source: Source, program: Sequence[Path]
) -> dict[str, Any]:
    run = evaluation.load(directory.path)
    result = write.metrics(run)
    text = table.accuracies(run).text()
    failed: dict[str, str] = {}
    if config.run.report:
        with saying("drawing the report"):
            failed = write.data_figures(run, source.samples, source.splits, source.class_weights)
            failed = write.report(run, failed)
    if not failed:  # else they are drawn again when the run is called again
        finished.note(config, directory, program, text)
    finished.print_results(config, directory, text)
    return result


def _run_splits(
    given: Mapping[str, Any],
    directory: RunDirectory,
    config: Config,
    stop: Stop | None,
    program: Sequence[Path],
) -> dict[str, Any]:
    """A whole run for each seed of the split, in a directory of its own, and a page about all."""
    directory_lib.check_for_splits(directory)
    results = {}
    for seed in config.run.split_seeds:
        if devices.is_main():
            print(f"\nSplit seed {seed}:", flush=True)
        own = {**given, "split_seeds": (), "data": {**given["data"], "split_seed": seed}}
        each = directory.split(seed).path
        results[each.name] = run(own, each, stop, program)
    if len(results) > 1 and devices.is_main():
        runs = [evaluation.load(directory.path / name) for name in results]
        write.comparison(runs, directory.report)
        print(f"\nThe splits side by side: {directory.report}", flush=True)
    return results


def _describe(source: Source, jobs: Sequence[Job]) -> None:
    """Prints the data and the plan."""
    sizes = ", ".join(f"{len(rows)} {name}" for name, rows in source.splits.items())
    print(f"{len(source.samples)} {source.title}: {sizes}", flush=True)
    for note in source.notes:
        print(f"note: {note}", flush=True)
    for job in jobs:
        print(job, flush=True)

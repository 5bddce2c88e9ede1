"""A whole run: data, the networks in order, their evaluation, table and figures.

What a run directory holds is written down in README.md, "What a run leaves".
"""

import contextlib
import csv
import itertools
import os
import platform
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from fermm import finished, models, provenance, settings
from fermm.data import splits as splits_lib
from fermm.data import stream
from fermm.data.faces import EMOTIONS
from fermm.data.source import Source, load, write_rejected
from fermm.errors import InputError
from fermm.evaluate import metrics, table
from fermm.evaluate import run as run_lib
from fermm.models import checks
from fermm.models.specs import MODALITIES
from fermm.models.types import shapes
from fermm.notices import doing
from fermm.paths import REPORT, expand, make_directory
from fermm.train import checkpoint, devices, loop, partition, steps
from fermm.train.stop import Stop

SHUFFLES = 10  # ways to take a modality from other faces, whose effect is averaged


class Network(NamedTuple):
    """A network with the variables it has.

    Attributes:
        spec: how to build it, see `fermm.models.specs`.
        module: the network.
        variables: {"params": ..., "batch_stats": ...}.
        parts: for a fusion whose parts are frozen, these by name; else empty.
        key: names its variables, for `_Embeddings`.
    """

    spec: dict[str, Any]
    module: nn.Module
    variables: dict[str, Any]
    parts: dict[str, "Network"]
    key: str


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
            of the config. Checkpoints keep a digest of all these, see `fermm.provenance`.

    Returns:
        What `metrics.json` holds; with `split_seeds`, for each of them (`split_<seed>`). Of several
        processes, only the first has it; the others get an empty dict.

    Raises:
        InputError: bad config, data, checkpoint or directory.
        Stopped: `stop` said so.
    """
    settings.check(config)
    devices.require_backend()
    devices.require_same("config: use the same flags", config)
    workdir = expand(workdir)
    if config["split_seeds"]:
        return _run_splits(config, workdir, stop, program)
    settings.check_workdir(config, workdir)
    files = [expand(path) for path in program]
    if jax.process_count() == 1 and (result := finished.show(config, workdir, files)) is not None:
        return result
    _check_parts_exist(config, workdir)
    with _doing("checking the networks"):
        code = _check_code(config, workdir, _check_networks(config, workdir), files)
    _check_layouts(config, workdir)
    with devices.main_first("read the data"), _doing("reading the data"):  # or preparing it
        source = load(config["data"])  # before anything is written: bad data leaves no directory
        if devices.is_main():
            samples = _samples(source)
            _check_parts_have_not_seen(samples, config)
            _check_parts_read_the_same(config, workdir, source)
    devices.require_same("data: see to config.data.path on every host", source.identity)
    with contextlib.ExitStack() as stack:
        with devices.main_first(f"use {workdir}"):
            if devices.is_main():
                stack.enter_context(settings.lock(workdir))
                settings.check_workdir(config, workdir)  # another run may have been there since
                settings.claim(config, source, workdir)
                _describe(source)
                if config["data"]["on_error"] == "quarantine":
                    write_rejected(workdir, config["data"]["path"], source.faces)
                run_lib.save_samples(workdir, samples)
        debugging = config["debug_nans"]
        # Of compiled functions JAX names the outermost loop at best.
        with jax.debug_nans(debugging), jax.disable_jit(debugging):
            _train_all(config, workdir, source, code, stop)
        with devices.main_first("evaluate the run"):
            return _evaluate(config, workdir, source, files) if devices.is_main() else {}


def _doing(what: str) -> contextlib.AbstractContextManager[None]:
    """Says what is done if it takes long; of several processes, the main one does."""
    return doing(what) if devices.is_main() else contextlib.nullcontext()


def _train_all(
    config: Mapping[str, Any],
    workdir: Path,
    source: Source,
    code: Mapping[str, dict[str, str]],
    stop: Stop | None,
) -> None:
    embeddings = _Embeddings(source, devices.layout_of_evaluation(config["parallel"]))
    for name in _in_order(config):
        with (
            devices.main_first("look through the results"),
            _doing(f"{name}: looking through what is there"),
        ):
            complete = {
                seed
                for seed in config["seeds"]
                if _finished(config, workdir / name / f"seed_{seed}", name)
            }
        places = {seed: workdir / name / f"seed_{seed}" / "checkpoints" for seed in config["seeds"]}
        at_once = devices.seeds_at_once(config["parallel"], config[name]["seeds_at_once"])
        apart = devices.trains_apart(config["parallel"])
        for group in loop.groups(places, at_once, apart):
            left = [seed for seed in group if seed not in complete]
            if all(config[name]["epochs"] in checkpoint.epochs(places[seed]) for seed in left):
                group = left  # of which only the predictions are missing
            if group:
                _train_and_predict(config, workdir, name, group, source, code, embeddings, stop)
        with devices.main_first("remove checkpoints that are not needed any more"):
            if devices.is_main():
                for directory in places.values():
                    checkpoint.reduce(directory, config["keep"])


def _evaluate(
    config: Mapping[str, Any], workdir: Path, source: Source, program: Sequence[Path]
) -> dict[str, Any]:
    run = run_lib.load(workdir)
    result = run_lib.write_metrics(run)
    text = table.table_2(run).text()
    failed: dict[str, str] = {}
    if config["report"]:
        # Plotting takes seconds to import, for which errors at the start should not wait.
        with _doing("drawing the report"):
            from fermm.evaluate import faces, report

            failed = report.write(run, faces.save_all(workdir / "figures", source, run))
    if not failed:  # else they are drawn again when the run is called again
        finished.note(config, workdir, program, text)
    finished.print_results(config, workdir, text)
    return result


def _run_splits(
    config: Mapping[str, Any],
    workdir: Path,
    stop: Stop | None,
    program: Sequence[str | os.PathLike[str]],
) -> dict[str, Any]:
    """A whole run for each seed of the split, in a directory of its own, and a page about all."""
    settings.check_workdir_of_splits(workdir)
    results = {}
    for seed in config["split_seeds"]:
        name = f"split_{seed}"
        if devices.is_main():
            print(f"\nSplit seed {seed}:", flush=True)
        own = {**config, "split_seeds": (), "data": {**config["data"], "split_seed": seed}}
        results[name] = run(own, workdir / name, stop, program)
    if len(results) > 1 and devices.is_main():
        from fermm.evaluate import compare

        page = workdir / REPORT
        compare.write([run_lib.load(workdir / name) for name in results], page)
        print(f"\nThe splits side by side: {page}", flush=True)
    return results


def _in_order(config: Mapping[str, Any]) -> list[str]:
    """The networks, those that others depend on first."""
    return sorted(config["networks"], key=lambda name: models.is_fusion(config[name]))


def _describe(source: Source) -> None:
    sizes = ", ".join(f"{len(rows)} {name}" for name, rows in source.splits.items())
    print(f"{len(source.faces)} {source.title}: {sizes}", flush=True)
    if source.note:
        print(f"note: {source.note}", flush=True)


def _part_directory(config: Mapping[str, Any], workdir: Path, fusion: str, part: str) -> Path:
    start_from = config[fusion]["start_from"]
    return (expand(start_from) if start_from else workdir) / part


def _check_parts_exist(config: Mapping[str, Any], workdir: Path) -> None:
    """Fusions find their parts, now or when it is their turn: looked up before hours of work."""
    for name in config["networks"]:
        if not models.is_fusion(config[name]):
            continue
        for part in MODALITIES:
            start_from = config[name]["start_from"]
            if not start_from and part in config["networks"]:
                continue
            for seed in config["seeds"]:
                where = _part_directory(config, workdir, name, part) / f"seed_{seed}"
                if not _is_trained(where / "checkpoints"):
                    remedy = (
                        f"config.{name}.start_from must name a run that trained it"
                        if start_from
                        else f"add {part!r} to config.networks or name a run in "
                        f"config.{name}.start_from"
                    )
                    raise InputError(f"{where}: no trained {part} network for {name}: {remedy}")
                checkpoint.refuse_damage(checkpoint.locate(where / "checkpoints"))


def _check_networks(config: Mapping[str, Any], workdir: Path) -> dict[str, dict[str, Any]]:
    """Each network can be built, trained and evaluated: seen before hours of work.

    Returns:
        The spec of each network, by name.
    """
    specs: dict[str, dict[str, Any]] = {}
    for name in _in_order(config):
        section = config[name]
        spec: dict[str, Any] = {"arguments": dict(section["arguments"])}
        if models.is_fusion(section):
            spec["head"] = section["head"]
            for part in MODALITIES:
                if not section["start_from"] and part in specs:
                    spec[part] = specs[part]
                    continue
                where = _part_directory(config, workdir, name, part) / f"seed_{config['seeds'][0]}"
                spec[part] = checkpoint.read_meta(checkpoint.locate(where / "checkpoints"))["spec"]
        else:
            spec["model"] = section["model"]
        specs[name] = spec
        try:
            with checks.telling("cannot be made"):
                module = models.build(spec)
            variables = checks.check_network(module, len(EMOTIONS))
            trained = partition.trained_paths(variables["params"], section["trainable"])
            with checks.telling("its loss cannot be differentiated"):
                steps.check_step(models.build(spec, trained), variables, trained)
        except InputError as error:
            raise InputError(f"config.{name}: {error}") from None
    return specs


def _check_code(
    config: Mapping[str, Any],
    workdir: Path,
    specs: Mapping[str, dict[str, Any]],
    program: Sequence[Path],
) -> dict[str, dict[str, str]]:
    """Networks that are to be averaged or fused are of one program, see `fermm.provenance`.

    Returns:
        The digests of the code of each network as it is now.

    Raises:
        InputError: a checkpoint was made by another, and `config.accept_changed_code` is off.
    """
    code = {name: provenance.code_of(spec, program) for name, spec in specs.items()}
    others: dict[Path, list[str]] = {}
    for name, spec in specs.items():
        for seed in config["seeds"]:
            own = workdir / name / f"seed_{seed}"
            if before := _code_before(own / "checkpoints"):
                others[own] = run_lib.differing(before[-1]["files"], code[name])
        for part in MODALITIES if models.is_fusion(spec) else ():
            for seed in config["seeds"]:
                of = _part_directory(config, workdir, name, part) / f"seed_{seed}"
                if before := _code_before(of / "checkpoints"):
                    # Only what registers it: its run may have had another config file.
                    now, then = provenance.code_of(spec[part]), before[-1]["files"]
                    shared = now.keys() & then.keys()
                    found = [file for file in run_lib.differing(now, then) if file in shared]
                    others.setdefault(of, found)
    changed = {directory: names for directory, names in others.items() if names}
    if changed and not config["accept_changed_code"]:
        names = ", ".join(sorted({name for found in changed.values() for name in found}))
        raise InputError(
            f"{', '.join(map(str, changed))}: trained by other code of your own than there is now, "
            f"{names} differs; bring that code back, choose another --workdir, or set "
            "config.accept_changed_code, of which the report will tell"
        )
    return code


def _code_before(directory: Path) -> list[dict[str, Any]]:
    """What the last checkpoint says of the code that took part, see `_code_so_far`."""
    for position in reversed(checkpoint.positions(directory)):
        try:
            code = checkpoint.read_meta(directory / position.name)["code"]
            return [{"epoch": int(each["epoch"]), "files": dict(each["files"])} for each in code]
        except (InputError, KeyError, TypeError, ValueError):
            continue  # damaged, which is dealt with where training begins
    return []


def _code_so_far(directory: Path, now: dict[str, str]) -> list[dict[str, Any]]:
    """All code by which a network has been trained, in order: "epoch" (begun in) and "files"."""
    before = _code_before(directory)
    if before and before[-1]["files"] == now:
        return before
    epoch = checkpoint.positions(directory)[-1].epoch + 1 if before else 1
    return [*before, {"epoch": epoch, "files": now}]


def _check_layouts(config: Mapping[str, Any], workdir: Path) -> None:
    """A new run has work for all devices, with as many seeds as each network trains at once."""
    if (workdir / "config.json").is_file():
        return  # what is left of it shows when its checkpoints have been looked at
    count = len(config["seeds"])
    for name in config["networks"]:
        at_once = devices.seeds_at_once(config["parallel"], config[name]["seeds_at_once"])
        at_once = min(at_once, count)
        for seeds in {at_once, count % at_once or at_once}:
            devices.layout(config["parallel"], seeds)


def _is_trained(directory: Path) -> bool:
    """Whether there is a checkpoint of the last epoch that its own run wanted."""
    kept = checkpoint.epochs(directory)
    if not kept:
        return False
    meta = checkpoint.read_meta(directory / str(kept[-1]))
    return kept[-1] >= meta["config"][meta["network"]]["epochs"]


def _finished(config: Mapping[str, Any], directory: Path, name: str) -> bool:
    splits = config["evaluate"]["splits"]
    expected = [run_lib.predictions_file(directory, split) for split in splits]
    expected.append(directory / "history.csv")
    if models.is_fusion(config[name]):
        expected.append(run_lib.modalities_file(directory, splits[-1]))
    if not all(file.is_file() for file in expected):
        return False
    # Damaged ones are made again, from the checkpoint before or from the network.
    kept = checkpoint.epochs(directory / "checkpoints")
    if not kept or kept[-1] < config[name]["epochs"]:
        return False
    last = directory / "checkpoints" / str(kept[-1])
    if checkpoint.find_damage(last):
        return False
    try:
        if loop.read_history(directory / "history.csv") != checkpoint.read_meta(last)["history"]:
            return False
        for split in splits:
            metrics.load_predictions(run_lib.predictions_file(directory, split))
        if models.is_fusion(config[name]):
            run_lib.load_modalities(run_lib.modalities_file(directory, splits[-1]))
    except (InputError, ValueError, TypeError, csv.Error):
        return False
    return True


def _samples(source: Source) -> run_lib.Samples:
    faces = source.faces
    where = np.full(len(faces), -1, np.int8)
    for i, name in enumerate(splits_lib.NAMES):
        where[source.splits[name]] = i
    # How many training faces are the same image as each face, itself left out.
    digests = splits_lib.digests(faces.images)
    first = splits_lib.first_of_equals(digests)
    training = where == splits_lib.NAMES.index("train")
    alike = np.bincount(first[training], minlength=len(faces))[first] - training
    return run_lib.Samples(
        faces.rows, faces.labels, where, digests, alike > 0, source.class_weights
    )


def _check_parts_have_not_seen(samples: run_lib.Samples, config: Mapping[str, Any]) -> None:
    """That networks of other runs, to be fused, were not trained on what evaluates the fusion.

    What stands on both sides of this run's own split, as copies of FER2013 do, is let pass.
    """
    own = samples.of("train").digests
    held_out = samples.digests[samples.splits != splits_lib.NAMES.index("train")]
    held_out = held_out[~np.isin(held_out, own)]
    for name in config["networks"]:
        if not (models.is_fusion(config[name]) and config[name]["start_from"]):
            continue
        file = expand(config[name]["start_from"]) / run_lib.SAMPLES
        try:
            theirs = run_lib.load_samples(file).of("train").digests
        except FileNotFoundError:
            raise InputError(
                f"{file} is missing, so which faces trained these networks is not known: run what "
                "trained them again"
            ) from None
        if seen := int(np.isin(held_out, theirs).sum()):
            raise InputError(
                f"config.{name}.start_from: the networks of {file.parent} were trained on {seen} "
                f"of the {len(held_out)} faces by which this run validates and tests: use the data "
                "and the config.data.split and split_seed of that run"
            )


def _check_parts_read_the_same(config: Mapping[str, Any], workdir: Path, source: Source) -> None:
    """That networks of other runs, to be fused, were trained on landmarks of the same predictor.

    Of landmarks from a file it is not known what found them.
    """
    for name in config["networks"]:
        if not (models.is_fusion(config[name]) and config[name]["start_from"]):
            continue
        for part, seed in itertools.product(MODALITIES, config["seeds"]):
            where = _part_directory(config, workdir, name, part) / f"seed_{seed}"
            meta = checkpoint.read_meta(checkpoint.locate(where / "checkpoints"))
            then, now = meta["predictor"], source.predictor
            reads = "landmarks" in meta["inputs"]
            if reads and then and now and then["sha256"] != now["sha256"]:
                raise InputError(
                    f"config.{name}.start_from: {where} was trained on landmarks of another "
                    f"predictor (SHA-256 {then['sha256']}) than this run's ({now['sha256']}): set "
                    "config.data.predictor to that file, or train the parts in this run"
                )


class _Embeddings:
    """What `encode` gives for the faces of a split: computed once, for it is the expensive half."""

    def __init__(self, source: Source, layout: devices.Layout) -> None:
        self.layout = layout
        self._source = source
        self._known: dict[tuple[str, str], Any] = {}

    def inputs(self, module: nn.Module, split: str) -> dict[str, Any]:
        """What the network reads of the faces of a split: arrays, or columns on disk."""
        faces, rows = self._source.faces, self._source.splits[split]
        whole = {name: getattr(faces, name) for name in module.inputs}
        return {
            name: x.at(rows) if isinstance(x, stream.Column) else x[rows]
            for name, x in whole.items()
        }

    def labels(self, split: str) -> np.ndarray:
        return self._source.faces.labels[self._source.splits[split]]

    def embed(self, network: Network, split: str) -> Any:
        if network.parts:
            return {name: self.embed(part, split) for name, part in network.parts.items()}
        key = (network.key, split)
        if key not in self._known:
            forward = steps.make_forward(network.module, self.layout, "encode")
            with _doing(f"{network.key}: encoding the {split} faces"):
                self._known[key] = forward(network.variables, self.inputs(network.module, split))
        return self._known[key]


def _train_and_predict(
    config: Mapping[str, Any],
    workdir: Path,
    name: str,
    seeds: Sequence[int],
    source: Source,
    code: Mapping[str, dict[str, str]],
    embeddings: _Embeddings,
    stop: Stop | None,
) -> None:
    section = config[name]
    networks, tasks = [], []
    for seed in seeds:
        directory = workdir / name / f"seed_{seed}"
        make_directory(directory)
        network, trained = _initialise(config, workdir, name, seed, source)
        networks.append(network)

        began = time.perf_counter()
        reuse = bool(network.parts) and section["reuse_frozen_outputs"]
        train, validation = (
            steps.Data(
                embeddings.embed(network, split)
                if reuse
                else embeddings.inputs(network.module, split),
                embeddings.labels(split),
            )
            for split in ("train", "validation")
        )
        tasks.append(
            loop.Task(
                name=name,
                seed=seed,
                module=network.module,
                method="classify" if reuse else "__call__",
                variables=network.variables,
                trained=trained,
                settings=section,
                class_weights=source.class_weights,
                train=train,
                validation=validation,
                directory=directory,
                meta=_meta(config, name, seed, network, trained, source)
                | {"code": _code_so_far(directory / "checkpoints", code[name])},
                setup_seconds=time.perf_counter() - began,
                workers=config["data"]["workers"],
                events=workdir / "tensorboard" / name / f"seed_{seed}"
                if config["tensorboard"]
                else None,
            )
        )
    fitted = loop.fit(
        tasks,
        parallel=config["parallel"],
        stop=stop,
        checkpoint_minutes=config["checkpoint_minutes"],
    )
    for network, task, (variables, _) in zip(networks, tasks, fitted, strict=True):
        network = network._replace(variables=variables, key=str(task.directory))
        with _doing(f"{name}, seed {task.seed}: predicting"):
            _predict(config, network, task.directory, source, embeddings)


def _predict(
    config: Mapping[str, Any],
    network: Network,
    directory: Path,
    source: Source,
    embeddings: _Embeddings,
) -> None:
    """Writes what a trained network says about the faces of each split that is evaluated."""
    forward = steps.make_forward(network.module, embeddings.layout, "classify")
    for split in config["evaluate"]["splits"]:
        embedded, labels = embeddings.embed(network, split), embeddings.labels(split)
        rows = source.faces.rows[source.splits[split]]
        probabilities = np.asarray(jax.nn.softmax(forward(network.variables, embedded).logits))
        if devices.is_main():
            metrics.save_predictions(
                run_lib.predictions_file(directory, split),
                metrics.Predictions(rows, labels, probabilities),
            )
    if not isinstance(network.module, models.Fusion):
        return

    def decide(logits: np.ndarray) -> np.ndarray:
        return np.argmax(logits, -1).astype(np.int8)

    parts = steps.make_forward(network.module, embeddings.layout, models.Fusion.classify_parts)
    alone = parts(network.variables, embedded)
    shuffled: dict[str, list[np.ndarray]] = {name: [] for name in MODALITIES}
    for i in range(SHUFFLES):
        order = _others(len(labels), i)
        for name, decisions in shuffled.items():
            mixed = embedded | {name: embedded[name][order]}
            decisions.append(decide(forward(network.variables, mixed).logits))
    if not devices.is_main():
        return
    run_lib.save_modalities(
        run_lib.modalities_file(directory, split),
        run_lib.Modalities(
            rows,
            labels,
            decide(probabilities),
            {name: decide(alone[name].logits) for name in MODALITIES},
            {name: np.stack(decisions) for name, decisions in shuffled.items()},
        ),
    )


def _others(count: int, seed: int) -> np.ndarray:
    """For each of `count` faces another one, each once: int64 (count,), no index at its own place.

    One random cycle through all faces, so that at least two are needed.
    """
    cycle = np.random.default_rng(seed).permutation(count)
    order = np.empty_like(cycle)
    order[cycle] = np.roll(cycle, 1)
    return order


def _initialise(
    config: Mapping[str, Any], workdir: Path, name: str, seed: int, source: Source
) -> tuple[Network, frozenset[str]]:
    """The network as training finds it, and the paths of the parameters that are trained."""
    section = config[name]
    spec: dict[str, Any] = {"arguments": dict(section["arguments"])}
    parts: dict[str, Network] = {}
    if models.is_fusion(section):
        spec["head"] = section["head"]
        for part in MODALITIES:
            where = _part_directory(config, workdir, name, part) / f"seed_{seed}"
            parts[part] = _load_part(where)
            spec[part] = parts[part].spec
    else:
        spec["model"] = section["model"]

    module = models.build(spec)
    inputs = {k: getattr(source.faces, k)[:1] for k in module.inputs}

    @jax.jit  # which leaves out all but the random numbers that are asked for
    def initialise(key: jax.Array) -> dict[str, Any]:
        return {
            collection: {k: v for k, v in tree.items() if k not in parts}
            for collection, tree in module.init(key, inputs).items()
        }

    variables = initialise(loop.key_for(seed, name, "initialisation"))
    for part, network in parts.items():
        for collection, tree in network.variables.items():
            variables[collection][part] = tree

    trained = partition.trained_paths(variables["params"], section["trainable"])
    module = models.build(spec, trained)
    if any(not path.startswith("head/") for path in trained):
        parts = {}  # they change, so that nothing of theirs can be kept
    return Network(spec, module, variables, parts, f"{name} at its start"), trained


def _load_part(directory: Path) -> Network:
    where = checkpoint.locate(directory / "checkpoints")
    saved = checkpoint.read(where)
    spec = saved.meta["spec"]
    module = models.build(spec)
    expected = jax.eval_shape(module.init, jax.random.key(0), shapes(module.inputs))
    checkpoint.check_tree(expected, saved.variables, str(where))
    return Network(spec, module, saved.variables, {}, str(directory))


def _meta(
    config: Mapping[str, Any],
    name: str,
    seed: int,
    network: Network,
    trained: frozenset[str],
    source: Source,
) -> dict[str, Any]:
    params, _ = partition.split(network.variables["params"], trained)
    packages = ("fermm", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "network": name,
        "seed": seed,
        "spec": network.spec,
        "inputs": network.module.inputs,
        "trained": sorted(trained),
        "parameters": sum(x.size for x in jax.tree.leaves(params)),
        "labels": EMOTIONS,
        "config": config,
        "data": source.identity,
        "predictor": source.predictor,
        "versions": {package: metadata.version(package) for package in packages},
        "machine": {
            "system": platform.platform(),
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "devices": ", ".join(sorted({device.device_kind for device in jax.devices()})),
        },
    }

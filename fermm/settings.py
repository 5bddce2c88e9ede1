"""The config of a run: whether its fields make sense, and whose run directory it is. No JAX."""

import contextlib
import difflib
import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock

from fermm.data import dataset, fer2013, source, splits, synthetic
from fermm.data.landmarks import METHODS
from fermm.errors import InputError
from fermm.models.specs import is_fusion
from fermm.paths import NoHomeError, expand, whole
from fermm.train import checkpoint

_SCHEDULE_FIELDS = {
    "constant": {"kind"},
    "step": {"kind", "factor", "epochs"},
    "plateau": {"kind", "factor", "patience", "min_delta"},
}
PARALLEL = ("none", "batch", "seeds", "cores")  # what they mean: fermm.train.devices
LOCK = "lock"
_LOST = "put it back from a copy, or choose another --workdir"
_SWITCHES = (
    *("split_seeds", "report", "tensorboard"),
    *("parallel", "checkpoint_minutes", "keep", "accept_changed_code", "debug_nans"),
)
_DTYPES = ("float32", "bfloat16")
_DATA_FIELDS = {
    *("source", "path", "title", "on_error", "cache_dir", "landmarks", "predictor"),
    *("streaming", "workers", "split", "split_seed", "class_weights"),
}
_NETWORK_FIELDS = {
    *("arguments", "trainable", "epochs", "batch_size", "learning_rate", "schedule"),
    "seeds_at_once",
}
_FUSION_FIELDS = _NETWORK_FIELDS | {"head", "start_from", "reuse_frozen_outputs"}

_KINDS: dict[str, Callable[[Any], bool]] = {
    "a section": lambda x: isinstance(x, Mapping),
    "a text": lambda x: isinstance(x, str),
    "True or False": lambda x: isinstance(x, bool),
    "a whole number": lambda x: isinstance(x, int) and not isinstance(x, bool),
    "a number": lambda x: isinstance(x, int | float) and not isinstance(x, bool),
    "a tuple": lambda x: isinstance(x, tuple | list),
    "a tuple of texts": lambda x: isinstance(x, tuple | list) and all(map(_KINDS["a text"], x)),
}
_DATA_KINDS = {  # the others are texts
    "split_seed": "a whole number",
    "streaming": "True or False",
    "workers": "a whole number",
}
_SYNTHETIC_KINDS = {"count": "a whole number", "seed": "a whole number"}  # the others are numbers
_NETWORK_KINDS = {
    **dict.fromkeys(("model", "head", "start_from"), "a text"),
    **dict.fromkeys(("arguments", "schedule"), "a section"),
    **dict.fromkeys(("epochs", "batch_size", "seeds_at_once"), "a whole number"),
    "learning_rate": "a number",
    "trainable": "a tuple of texts",
    "reuse_frozen_outputs": "True or False",
}
_SCHEDULE_KINDS = {
    "kind": "a text",
    "factor": "a number",
    "epochs": "a tuple",
    "patience": "a whole number",
    "min_delta": "a number",
}

# What a run that was killed may have left where it has not yet written its config, and one over
# several splits beside their directories.
_BEFORE = {LOCK, "config.json.tmp"}
_OF_SPLITS = {"report.html", "report.html.tmp", "report.json", "report.json.tmp"}

# What may differ when a run directory is used again: it changes what is done, not how.
_MAY_DIFFER = (
    "networks",
    "seeds",
    "report",
    "tensorboard",
    "parallel",
    "checkpoint_minutes",
    "keep",
    "accept_changed_code",
    "debug_nans",
    "evaluate",
    "data.path",
    "data.title",
    "data.cache_dir",
    "data.predictor",
    "data.streaming",
    "data.workers",
)
_MAY_DIFFER_OF_NETWORKS = ("seeds_at_once",)


def check(config: Mapping[str, Any]) -> None:
    """Checks all that can be checked without data, before any work is done.

    Raises:
        InputError: the first field that makes no sense.
    """
    for section in ("networks", "seeds", *_SWITCHES, "data", "evaluate"):
        _require(section in config, f"config.{section} is missing in the config file")
    _need("config.networks", config["networks"], "a tuple of texts")
    for field in ("seeds", "split_seeds"):
        _need(f"config.{field}", config[field], "a tuple")
    for field in ("report", "tensorboard", "accept_changed_code", "debug_nans"):
        _need(f"config.{field}", config[field], "True or False")
    for field in ("parallel", "keep"):
        _need(f"config.{field}", config[field], "a text")
    _need("config.checkpoint_minutes", config["checkpoint_minutes"], "a number")
    for field in ("data", "evaluate"):
        _need(f"config.{field}", config[field], "a section")
    for name in config["networks"]:
        if not isinstance(config.get(name), Mapping):
            sections = [k for k, v in config.items() if isinstance(v, Mapping) and "epochs" in v]
            _unknown("config.networks", name, sections)
        _check_network(f"config.{name}", config[name])
    _require(len(config["networks"]) > 0, "config.networks is empty: name at least one network")
    _require(len(config["seeds"]) > 0, "config.seeds is empty: give at least one, e.g. (0,)")
    for field in ("seeds", "split_seeds"):
        for seed in config[field]:
            good = _KINDS["a whole number"](seed) and 0 <= seed < 2**31
            _require(
                good, f"config.{field}: {_short(seed)} is not a whole number from 0 to 2**31 - 1"
            )
    for field in ("networks", "seeds", "split_seeds"):
        repeated = len(set(config[field])) < len(config[field])
        _require(not repeated, f"config.{field} {config[field]} names something twice")
    _choice("config.parallel", config["parallel"], PARALLEL)
    _choice("config.keep", config["keep"], checkpoint.KEEP)
    minutes = config["checkpoint_minutes"]
    _require(minutes > 0, f"config.checkpoint_minutes is {minutes}: a number above 0")
    data = config["data"]
    for field in sorted(_DATA_FIELDS - data.keys()):
        raise InputError(f"config.data.{field} is missing in the config file")
    for field in data.keys() - _DATA_FIELDS - {"synthetic"}:
        _unknown("config.data", field, _DATA_FIELDS)
    for field in sorted(_DATA_FIELDS):
        _need(f"config.data.{field}", data[field], _DATA_KINDS.get(field, "a text"))
    _require(data["workers"] >= 0, f"config.data.workers is {data['workers']}: at least 0")
    expand(data["predictor"])
    try:
        expand(data["cache_dir"])
    except NoHomeError:
        if data["source"] != "synthetic":  # which keeps nothing there
            raise
    _need("config.data.synthetic", data.get("synthetic", {}), "a section")
    known = set(inspect.signature(synthetic.draw).parameters)
    for field in data.get("synthetic", {}).keys() - known:
        _unknown("config.data.synthetic", field, known)
    for field, value in data.get("synthetic", {}).items():
        _need(f"config.data.synthetic.{field}", value, _SYNTHETIC_KINDS.get(field, "a number"))
    _choice("config.data.source", data["source"], source.SOURCES)
    _choice("config.data.on_error", data["on_error"], fer2013.ON_ERROR)
    _choice("config.data.split", data["split"], splits.KINDS)
    _choice("config.data.class_weights", data["class_weights"], source.CLASS_WEIGHTS)
    if not dataset.is_landmark_file(data["landmarks"]):
        _choice("config.data.landmarks", data["landmarks"], METHODS)
    _require("splits" in config["evaluate"], "config.evaluate.splits is missing in the config file")
    _need("config.evaluate.splits", config["evaluate"]["splits"], "a tuple of texts")
    _require(len(config["evaluate"]["splits"]) > 0, "config.evaluate.splits is empty")
    for name in config["evaluate"]["splits"]:
        _choice("config.evaluate.splits", name, splits.NAMES)


def _check_network(where: str, section: Mapping[str, Any]) -> None:
    fields = _FUSION_FIELDS if is_fusion(section) else _NETWORK_FIELDS | {"model"}
    for field in sorted(fields - section.keys()):
        raise InputError(f"{where}.{field} is missing in the config file")
    for field in section.keys() - fields:
        _unknown(where, field, fields)
    for field in sorted(fields):
        _need(f"{where}.{field}", section[field], _NETWORK_KINDS[field])
    if "start_from" in fields:
        expand(section["start_from"])
    schedule = section["schedule"]
    _require("kind" in schedule, f"{where}.schedule.kind is missing in the config file")
    # Fields of another kind may stay when the kind is overridden; those of none are slips.
    known = set().union(*_SCHEDULE_FIELDS.values())
    for field in schedule.keys() - known:
        _unknown(f"{where}.schedule", field, known)
    for field, value in schedule.items():
        _need(f"{where}.schedule.{field}", value, _SCHEDULE_KINDS[field])
    for epoch in schedule.get("epochs", ()):
        good = _KINDS["a whole number"](epoch)
        _require(good, f"{where}.schedule.epochs: {_short(epoch)} is not a whole number")
    _choice(f"{where}.schedule.kind", schedule["kind"], _SCHEDULE_FIELDS)
    for field in sorted(_SCHEDULE_FIELDS[schedule["kind"]] - schedule.keys()):
        raise InputError(
            f"{where}.schedule.{field} is missing, which kind {schedule['kind']!r} needs: "
            "change the schedule in the config file"
        )
    if "dtype" in section["arguments"]:
        _choice(f"{where}.arguments.dtype", section["arguments"]["dtype"], _DTYPES)
    for field in ("epochs", "batch_size", "seeds_at_once"):
        _require(section[field] >= 1, f"{where}.{field} is {section[field]}: at least 1")
    factor = schedule.get("factor", 0.5)
    _require(0 < factor < 1, f"{where}.schedule.factor is {factor}: between 0 and 1")
    patience = schedule.get("patience", 1)
    _require(patience >= 1, f"{where}.schedule.patience is {patience}: at least 1")
    delta = schedule.get("min_delta", 0)
    good = 0 <= delta < float("inf")
    _require(good, f"{where}.schedule.min_delta is {delta}: a number from 0")
    rate = section["learning_rate"]
    _require(0 < rate < float("inf"), f"{where}.learning_rate is {rate}: a number above 0")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


def _need(field: str, value: Any, kind: str) -> None:
    _require(_KINDS[kind](value), f"{field} is {_short(value)}, needs {kind}")


def _short(value: Any) -> str:
    return _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}..."


def _choice(field: str, value: Any, known: Any) -> None:
    if value not in known:
        _unknown(field, value, known)


def _unknown(field: str, value: Any, known: Any) -> None:
    near = difflib.get_close_matches(str(value), list(known), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InputError(
        f"{field}: {_short(value)} is unknown; there are {', '.join(sorted(known))}.{hint}"
    )


def check_workdir(config: Mapping[str, Any], workdir: Path) -> None:
    """Checks that `workdir` is this config's run directory, or free; writes nothing.

    Raises:
        InputError: it is another config's, holds something else, or cannot be written.
    """
    nearest = next(path for path in (workdir, *workdir.parents) if path.exists())
    if nearest.is_dir() and not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(
            f"{workdir}: cannot be written (no right to write to {nearest}); choose another "
            "--workdir"
        )
    file = workdir / "config.json"
    if file.is_file():
        for path, there, now in _differences(
            _read_json(file, _LOST), json.loads(json.dumps(config))
        ):
            # Of a network added since.
            new_section = there is None and isinstance(now, dict) and "epochs" in now
            free = any(path == field or path.startswith(f"{field}.") for field in _MAY_DIFFER)
            free |= path.partition(".")[2] in _MAY_DIFFER_OF_NETWORKS
            if not new_section and not free:
                raise InputError(
                    f"{workdir}: a run with another config: config.{path} is {_cut(str(there))} "
                    f"there and {_cut(str(now))} now; choose another --workdir, or the same config"
                )
    elif workdir.exists() and (
        not workdir.is_dir() or any(path.name not in _BEFORE for path in workdir.iterdir())
    ):
        raise InputError(
            f"{workdir}: not empty, and not the directory of a run; choose another --workdir"
        )


def check_workdir_of_splits(workdir: Path) -> None:
    """Checks that `workdir` may hold a run for each seed of the split; writes nothing.

    Raises:
        InputError: it holds something else.
    """
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"{workdir}: not a directory; choose another --workdir")
    for path in workdir.iterdir() if workdir.exists() else ():
        if not path.name.startswith("split_") and path.name not in _OF_SPLITS:
            raise InputError(
                f"{workdir}: holds {path.name}, so it is not the directory of a run over several "
                "splits (config.split_seeds); choose another --workdir"
            )


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Keeps other runs out of `workdir`, which is made if needed, while the context lasts.

    The lock is the operating system's, on a file. It ends with the process that holds it,
    however that ends, so that the file may stay.

    Raises:
        InputError: another run is at work there, or the directory cannot be written.
    """
    held = filelock.FileLock(workdir / LOCK)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        held.acquire(timeout=0)
    except filelock.Timeout:
        raise InputError(
            f"{workdir}: another run is at work there; wait for its end, or choose another "
            "--workdir"
        ) from None
    except OSError as error:
        raise InputError(
            f"{workdir}: cannot be written ({error.strerror}); choose another --workdir"
        ) from None
    try:
        yield
    finally:
        held.release()


def claim(config: Mapping[str, Any], data: source.Source, workdir: Path) -> None:
    """Makes `workdir` the run directory of this config and data: `config.json`, `data.json`.

    Args:
        config: the config, for which `check_workdir` holds.
        data: its data.
        workdir: the directory.

    Raises:
        InputError: the run was begun with other data, or the directory cannot be written.
    """
    file = workdir / "data.json"
    if file.is_file():
        noted = _read_json(file, "delete it and run again").get("identity", {})
        for path, there, now in _differences(noted, data.identity):
            raise InputError(
                f"{workdir}: the run was begun with other data: {path or 'identity'} is "
                f"{_cut(str(there))} there and {_cut(str(now))} now; choose another --workdir, or "
                "the same data"
            )
    write_json(workdir / "config.json", config)
    write_json(file, {"title": data.title, "note": data.note, "identity": data.identity})


def _read_json(file: Path, remedy: str) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text())
        if not isinstance(value, dict):
            raise ValueError(f"{type(value).__name__}, needs an object")
    except (OSError, ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise InputError(f"{file}: cannot be read as JSON ({reason}); {remedy}") from None
    return value


def write_json(path: Path, value: Any) -> None:
    """Writes JSON; aside, then renamed.

    Raises:
        InputError: it cannot be written.
    """
    with whole(path) as aside:
        aside.write_text(json.dumps(value, indent=2) + "\n")


def _differences(a: Any, b: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*a, *(k for k in b if k not in a)]:
            below = f"{path}.{key}" if path else key
            yield from _differences(a.get(key), b.get(key), below)
    elif a != b:
        yield path, a, b

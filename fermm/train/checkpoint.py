"""Checkpoints on disk; the only importer of orbax.

A directory `checkpoints/` holds a sub-directory for each position that is kept: `3` after three
epochs, `3+250` after 250 steps of the fourth. Kept are the last two epochs, the best by validation
loss, the last position, and, while training goes on, the one before it. In each:

- `variables`: {"params": ..., "batch_stats": ...}, nested dicts of arrays, frozen parts included;
- `training`: what is needed to go on: the optimiser's state, the step, the epoch's sums so far;
- `meta.json`: how to build the network, its config, seed, position, history, versions, the digests
  of its data, of the predictor that found its landmarks and of the user's own code;
- `checksums.json`: size and SHA-256 of every other file; written last. In a checkpoint from which
  nobody can go on (see `reduce`), `training` stands there as null.

docs/design.md has the whole of the format. JAX, Flax and Orbax are imported where they are used:
looking through the checkpoints of a finished run needs none of them.
"""

import concurrent.futures
import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fermm.errors import InputError
from fermm.paths import bring_all_to_disk, bring_to_disk, whole

FORMAT = 4
WHICH = ("last", "best")
KEEP = ("all", "restore", "last")
_META, _CHECKSUMS = "meta.json", "checksums.json"
# The content is gone: no such file, no such block on the disk.
_LOST = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO)
_LAST = 2  # epochs kept: should the files of one be damaged, there is the one before


class Position(NamedTuple):
    """How far a training has come: whole epochs, and steps of the next one."""

    epoch: int
    step: int = 0

    @property
    def name(self) -> str:
        """Of the directory: "3", or "3+250" within the fourth epoch."""
        return f"{self.epoch}+{self.step}" if self.step else str(self.epoch)

    def __str__(self) -> str:
        return f"step {self.step} of epoch {self.epoch + 1}" if self.step else f"epoch {self.epoch}"


class Checkpoint(NamedTuple):
    """One checkpoint, read back.

    Attributes:
        variables: {"params": ..., "batch_stats": ...}, nested dicts of NumPy arrays.
        training: nested dict of NumPy arrays, or None if it was not asked for.
        meta: the JSON part.
    """

    variables: dict[str, Any]
    training: dict[str, Any] | None
    meta: dict[str, Any]


class Writer:
    """Writes the checkpoints of a training, one a seed, in the background; a context manager.

    A checkpoint is written aside, brought to the disk, and renamed: under its name there is all of
    it or nothing. Others are removed only then.

    Of several processes each calls `save` with the same. They write the arrays together, each a
    part, and the main process the rest.

    Args:
        directories: of each seed, its `checkpoints/`.
    """

    def __init__(self, directories: Sequence[Path]) -> None:
        import jax

        self._directories = [directory.absolute() for directory in directories]
        # Processes that write together must do so in the same order.
        at_once = len(directories) if jax.process_count() == 1 else 1
        self._threads = concurrent.futures.ThreadPoolExecutor(at_once)
        self._writing: list[concurrent.futures.Future[None]] = []

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        from fermm.train import devices

        try:
            # An error on the way out is of interest only if there is no other.
            with contextlib.suppress(*([Exception] if kind else [])):
                self.wait()
            if not kind and devices.is_main():
                for directory in self._directories:
                    _prune(directory, behind=False)
        finally:
            self._threads.shutdown()

    def save(self, position: Position, checkpoints: Sequence[Checkpoint]) -> None:
        """Begins to write, once those before are on disk; the arrays must stay as they are.

        Seeds that are trained at once are thus never two positions apart on disk.

        Raises:
            InputError: one before could not be written.
        """
        self.wait()
        self._writing = [
            self._threads.submit(_write, directory, position, checkpoint)
            for directory, checkpoint in zip(self._directories, checkpoints, strict=True)
        ]

    def wait(self) -> None:
        """Returns when all that was saved is on disk.

        Raises:
            InputError: it could not be written.
        """
        writing, self._writing = self._writing, []
        for each in concurrent.futures.wait(writing).done:
            each.result()


def _write(directory: Path, position: Position, checkpoint: Checkpoint) -> None:
    import jax

    from fermm.train import devices

    aside = directory / f"{position.name}.writing"
    trees = {"variables": checkpoint.variables, "training": checkpoint.training}
    try:
        if devices.is_main():
            shutil.rmtree(aside, ignore_errors=True)  # left by a run that was killed
            aside.mkdir(parents=True)
            # Found out here, for the threads of the array library print pages about it.
            if shutil.disk_usage(aside).free < sum(x.nbytes for x in jax.tree.leaves(trees)):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for name, tree in trees.items():
            _write_arrays(aside / name, tree)
        if devices.is_main():
            meta = {"format": FORMAT, **checkpoint.meta}
            write_json_files(aside, meta)
            bring_all_to_disk(aside)
            there = directory / position.name
            before = there.with_name(f"{there.name}.removing")
            if there.exists():
                shutil.rmtree(before, ignore_errors=True)
                os.replace(there, before)
            os.replace(aside, there)
            shutil.rmtree(before, ignore_errors=True)
            bring_to_disk(directory)
            _prune(directory, behind=True)
    # Orbax and tensorstore raise many types where the disk is full or a right is missing.
    except Exception as error:
        if devices.is_main():
            shutil.rmtree(aside, ignore_errors=True)
        raise InputError(
            f"{directory}: no checkpoint of {position} could be written "
            f"({_reason(error)}); make room or see to the rights, and run the same command "
            "again: it goes on after the last checkpoint"
        ) from error


def write_json_files(path: Path, meta: Mapping[str, Any]) -> None:
    """Writes `meta.json` of the checkpoint `path`, and the checksums of all its files."""
    (path / _META).write_text(json.dumps(meta, indent=1) + "\n")
    (path / _CHECKSUMS).write_text(json.dumps(_checksums(path), indent=1) + "\n")


def _prune(directory: Path, *, behind: bool) -> None:
    """Removes what need not be kept; `behind`, if other seeds may be one position behind."""
    kept = positions(directory)
    epochs_kept = [p for p in kept if not p.step]
    wanted = {*kept[-1 - behind :], *epochs_kept[-_LAST:], _best(directory, epochs_kept)}
    for position in kept:
        if position not in wanted:
            _remove(directory / position.name)


def _best(directory: Path, among: list[Position]) -> Position | None:
    """The position with the lowest validation loss, the first of equals."""
    return min(among, key=lambda p: _validation_loss(directory / p.name), default=None)


def reduce(directory: Path, keep: str) -> None:
    """Removes what a network that is trained to its end does not need any more.

    Killed meanwhile it leaves whole checkpoints, and does the rest when it is called again.

    Args:
        directory: its `checkpoints/`.
        keep: "all" removes nothing; "restore" leaves the last epoch and the best one, without what
            only further training needs; "last" leaves of these the last epoch alone.
    """
    kept = positions(directory)
    if keep == "all" or not kept:
        return
    epochs_kept = [p for p in kept if not p.step]
    wanted = {epochs_kept[-1], *([_best(directory, epochs_kept)] if keep == "restore" else [])}
    for position in kept:
        path = directory / position.name
        if position not in wanted:
            _remove(path)
            continue
        sums = json.loads((path / _CHECKSUMS).read_bytes())
        if any(name.startswith("training/") for name in sums):
            sums = {name: of for name, of in sums.items() if not name.startswith("training/")}
            with whole(path / _CHECKSUMS) as aside:
                aside.write_text(json.dumps({**sums, "training": None}, indent=1) + "\n")
        shutil.rmtree(path / "training", ignore_errors=True)
    for left in directory.glob("*.removing"):
        shutil.rmtree(left, ignore_errors=True)


def has_training(path: Path) -> bool:
    """Whether training can go on from the checkpoint `path`, see `reduce`."""
    try:
        return "training/_METADATA" in json.loads((path / _CHECKSUMS).read_bytes())
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def _validation_loss(path: Path) -> float:
    return read_meta(path)["history"][-1]["val_loss"]


def _write_arrays(path: Path, tree: Any) -> None:
    """Writes NumPy arrays; of several processes, each its part of all that are large enough."""
    import jax
    import orbax.checkpoint as ocp

    from fermm.train import devices

    everyone = set(range(jax.process_count()))
    options = ocp.options.MultiprocessingOptions(
        # Given these, Orbax meets outside of the devices, which are training meanwhile.
        active_processes=everyone,
        # Nobody meets by the same key twice.
        barrier_sync_key_prefix=str(path),
    )
    how: dict[str, Any] = {}
    if len(everyone) > 1:
        tree = devices.for_each_process(tree)
        arrays = ocp.type_handlers.ArrayHandler(
            enable_write_sharding_file=False, use_replica_parallel=True
        )
        how["type_handler_registry"] = ocp.type_handlers.create_type_handler_registry(
            (jax.Array, arrays)
        )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options, **how)
    with ocp.Checkpointer(handler, multiprocessing_options=options) as checkpointer:
        checkpointer.save(path, args=ocp.args.PyTreeSave(tree))


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.name != _CHECKSUMS:
            yield file.relative_to(path).as_posix(), file


def _checksums(path: Path) -> dict[str, dict[str, Any]]:
    return {
        name: {"bytes": file.stat().st_size, "sha256": _sha256(file)} for name, file in _files(path)
    }


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _remove(path: Path) -> None:
    """Removes a checkpoint; killed meanwhile, it leaves none that looks whole."""
    aside = path.with_name(f"{path.name}.removing")
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(path, aside)
    shutil.rmtree(aside, ignore_errors=True)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error)
    # tensorstore tells the operating system's words somewhere in a long message.
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EIO)
    for words in map(os.strerror, numbers):
        if words in text:
            return words
    return (text.splitlines() or [type(error).__name__])[0]


def positions(directory: Path) -> list[Position]:
    """The positions of which `directory` (a `checkpoints/`) holds a checkpoint, ascending.

    What is in their files is not looked at, see `find_damage`.
    """
    return [p for p in _names(directory) if is_checkpoint(directory / p.name)]


def _names(directory: Path) -> list[Position]:
    """The positions after which directories in `directory` are called, ascending."""
    if not directory.is_dir():
        return []
    found = []
    for path in directory.iterdir():
        epoch, _, step = path.name.partition("+")
        if epoch.isdecimal() and (step.isdecimal() or path.name == epoch) and path.is_dir():
            found.append(Position(int(epoch), int(step or 0)))
    return sorted(found)


def epochs(directory: Path) -> list[int]:
    """The epochs of which `directory` holds a checkpoint made at their end, ascending."""
    return [position.epoch for position in positions(directory) if not position.step]


def is_checkpoint(path: Path) -> bool:
    """Whether `path` is the directory of one checkpoint."""
    return (path / _META).is_file() and (path / _CHECKSUMS).is_file()


def find_damage(path: Path, only: str = "") -> str:
    """What is wrong with the files of the checkpoint `path`, or "" if they are as written.

    Args:
        path: the checkpoint's own directory.
        only: look at this file alone.

    Raises:
        InputError: a file is there, but the system does not let it be read, which is no damage.
    """
    try:
        expected = json.loads((path / _CHECKSUMS).read_bytes())
        if only:
            expected = {only: expected[only]}
        elif not {_META, "variables/_METADATA"} <= expected.keys() or (
            "training/_METADATA" not in expected and expected.get("training", path) is not None
        ):
            return f"{_CHECKSUMS} does not list all files"
        for name, of in expected.items():
            if (name, of) == ("training", None):
                continue
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != of["bytes"]:
                return f"{name} has {file.stat().st_size} bytes instead of {of['bytes']}"
            if _sha256(file) != of["sha256"]:
                return f"{name} has been altered, its SHA-256 is another"
    except OSError as error:
        what = f"{Path(error.filename or path).name} cannot be read: {error.strerror}"
        if error.errno not in _LOST:
            raise InputError(f"{path}: {what}; see to that, and try again") from None
        return what
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return f"{_CHECKSUMS} is not readable"
    return ""


def set_damaged_aside(directory: Path) -> list[str]:
    """Renames each damaged checkpoint of `directory` (a `checkpoints/`) to `<its name>.damaged`.

    Returns:
        A line for each that names it and its damage.
    """
    notes = []
    for position in _names(directory):
        path = directory / position.name
        if damage := find_damage(path):
            aside = path.with_name(f"{path.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(path, aside)
            notes.append(f"{path}: damaged checkpoint ({damage}); it is now {aside.name}")
    return notes


def forget_after(directory: Path, position: Position) -> None:
    """Removes the checkpoints of later positions, and what a killed run left of others."""
    for later in positions(directory):
        if later > position:
            _remove(directory / later.name)
    for pattern in ("*.writing", "*.removing"):
        for left in directory.glob(pattern):
            shutil.rmtree(left, ignore_errors=True)


def locate(path: Path, which: str = "last") -> Path:
    """The checkpoint in `path`, a `checkpoints/` directory or one checkpoint of it.

    Args:
        path: the directory.
        which: "last" complete epoch, or "best" (lowest validation loss).

    Raises:
        InputError: there is none.
    """
    if which not in WHICH:
        raise InputError(f"which={which!r} is unknown; it is 'last' or 'best'.")
    if is_checkpoint(path):
        return path
    kept = [position for position in positions(path) if not position.step]
    if not kept:
        raise InputError(f"{path}: no checkpoint there. Name a run's directory or a checkpoint.")
    found = kept[-1] if which == "last" else _best(path, kept)
    assert found is not None
    if which == "best":
        best = min(read_meta(path / kept[-1].name)["history"], key=lambda row: row["val_loss"])
        if best["val_loss"] < _validation_loss(path / found.name):
            raise InputError(
                f"{path}: epoch {best['epoch']} was the best and is gone (config.keep); "
                f"there is {', '.join(f'epoch {position.epoch}' for position in kept)}"
            )
    return path / found.name


def read_meta(path: Path) -> dict[str, Any]:
    """The JSON part of the checkpoint `path`.

    Raises:
        InputError: it cannot be read, is not as it was written, or is of another format.
    """
    file = path / _META
    if damage := find_damage(path, _META):
        raise _damaged(path, damage)
    try:
        meta = json.loads(file.read_bytes())
        found = meta["format"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{file}: not a readable checkpoint ({error}).") from None
    if found != FORMAT:
        raise InputError(f"{file}: checkpoint format {found!r}, this version reads {FORMAT}.")
    return meta


def read(path: Path, *, training: bool = False) -> Checkpoint:
    """Reads one checkpoint, whose files must be as they were written.

    Args:
        path: the checkpoint's own directory (see `locate`).
        training: also read what is needed to go on training.

    Raises:
        InputError: it cannot be read.
    """
    # Before anything opens them: the array library may crash on bytes that it did not write.
    refuse_damage(path)
    if training and not has_training(path):
        raise InputError(f"{path}: kept without what further training needs (config.keep)")
    try:
        return Checkpoint(
            _read_arrays(path / "variables"),
            _read_arrays(path / "training") if training else None,
            read_meta(path),
        )
    except (InputError, MemoryError):
        raise
    # Whatever orbax and tensorstore raise: no damage, for the files are as they were written.
    except Exception as error:
        versions = ", ".join(f"{k} {v}" for k, v in read_meta(path).get("versions", {}).items())
        raise InputError(
            f"{path}: cannot be read here ({type(error).__name__}: {_reason(error)}), although its "
            f"files are as they were written; use the versions that wrote it ({versions})"
        ) from error


def refuse_damage(path: Path) -> None:
    """Checks that the files of the checkpoint `path` are as they were written.

    Raises:
        InputError: they are not.
    """
    if damage := find_damage(path):
        raise _damaged(path, damage)


def _damaged(path: Path, damage: str) -> InputError:
    return InputError(
        f"{path}: damaged checkpoint ({damage}). The run that trains this network, called "
        "again, goes on from the one before it; in other code, name another checkpoint."
    )


def _read_arrays(path: Path) -> dict[str, Any]:
    import jax
    import orbax.checkpoint as ocp

    # The handler itself: a Checkpointer warns that a part of a checkpoint is not a whole one.
    handler = ocp.PyTreeCheckpointHandler()
    try:
        tree = handler.metadata(path.absolute()).tree
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return handler.restore(
            path.absolute(), args=ocp.args.PyTreeRestore(restore_args=restore_args)
        )
    finally:
        handler.close()


def check_tree(expected: Mapping[str, Any], found: Mapping[str, Any], where: str) -> None:
    """Compares paths, shapes and types of two nested dicts of arrays.

    Raises:
        InputError: they differ; the message lists what is missing, left over, or of another shape
            or type.
    """
    from flax import traverse_util

    want = {k: _kind(v) for k, v in traverse_util.flatten_dict(expected, sep="/").items()}
    have = {k: _kind(v) for k, v in traverse_util.flatten_dict(found, sep="/").items()}
    problems = []
    if missing := sorted(want.keys() - have.keys()):
        problems.append("missing " + ", ".join(f"{k} {want[k]}" for k in missing))
    if extra := sorted(have.keys() - want.keys()):
        problems.append("left over " + ", ".join(f"{k} {have[k]}" for k in extra))
    problems += [
        f"{k} is {have[k]} instead of {want[k]}"
        for k in sorted(want.keys() & have.keys())
        if want[k] != have[k]
    ]
    if problems:
        raise InputError(f"{where}: does not fit the network: {'; '.join(problems)}.")


def _kind(x: Any) -> str:
    return f"{x.dtype} {tuple(x.shape)}"

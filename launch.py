"""Trains and compares networks that recognise emotions, as a config says.

Without arguments: the four networks of the paper, made small, on drawn (synthetic) faces, in a
minute or two. Called again with the same --workdir, it goes on after its last checkpoint.

  uv run launch.py
  uv run launch.py --config configs/paper.py --config.data.path fer2013.csv --workdir runs/paper
  uv run launch.py --config.seeds="(0, 1, 2)" --config.image.epochs=4 --workdir runs/short
  uv run launch.py --config.seeds="(0, 1, 2, 3)" --config.parallel=cores --workdir runs/seeds
  uv run launch.py --config configs/paper.py --help

Flags:
  --config FILE            the experiment: a Python file with get_config(). It is run, so use only
                           files that you trust; no other file that it is given can.
  --config.FIELD=VALUE     instead of the field's value in the file; tuples as "(0, 1)"
  --workdir DIRECTORY      where the run leaves its results; without it, runs/ and the config's name
  --coordinator HOST:PORT, --processes COUNT, --process INDEX
                           one run in several processes, see docs/devices.md
"""

import errno
import hashlib
import importlib.util
import os
import platform
import re
import signal
import socket
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

if __name__ == "__main__":
    # Until fermm is there to answer them: a second or more of imports, with nothing to save.
    def _leave(number: int, frame: Any) -> None:
        os.write(2, b"launch.py: stopped\n")
        os._exit(128 + number)

    signal.signal(signal.SIGINT, _leave)
    signal.signal(signal.SIGTERM, _leave)

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

_DEFAULT = Path(__file__).resolve().parent / "configs" / "synthetic.py"
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's directory.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0.")
_PROCESSES = flags.DEFINE_integer("processes", 1, "How many processes.", lower_bound=1)
_PROCESS = flags.DEFINE_integer("process", None, "Which of them this is.", lower_bound=0)
# What a full disk, a missing right or a broken device is told by, and no mistake in the code.
_OF_THE_SYSTEM = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
    *(errno.EACCES, errno.EPERM, errno.EROFS),
}
_STOPPED = "stopped; the same command goes on after the last checkpoint"
# In what JAX raises where another process of the run is gone.
_LOST_PEER = re.compile("Gloo|NCCL|[Cc]oordination|[Hh]eartbeat|UNAVAILABLE|DEADLINE_EXCEEDED")
_HELP = {"--help", "-h", "-help", "--helpfull", "--helpshort"}


def main(argv: list[str]) -> None:
    """Runs the experiment; `argv` is what is left after the flags."""
    if len(argv) > 1:
        _fail(f"unknown argument {argv[1]!r}; fields are set as --config.FIELD=VALUE, see --help")
    from fermm.errors import InputError
    from fermm.notices import doing
    from fermm.train.stop import Stop, Stopped, leave

    logging.set_verbosity(logging.ERROR)  # orbax tells much that is of no use here
    config = _config_flag().value.to_dict()
    file: Path = _config_flag().file
    workdir = _WORKDIR.value or Path("runs") / file.stem
    with Stop() as stop:
        try:
            if _is_finished(config, workdir, file):
                return
            port = _check_processes()
            with doing("loading JAX and fermm"):
                from fermm import experiment
                from fermm.experiment import running  # noqa: F401, which is what takes long
            _keep_compiled(config)
            _join_processes(port)
            experiment.run(config, workdir, stop, program=(file,))
        except (InputError, Stopped) as error:
            if not stop.requested:
                _fail(str(error))
            leave(stop.number, _STOPPED)
        except BrokenPipeError:
            # Nobody reads what it says, as after `| head`: ended as by SIGPIPE, without a word.
            os._exit(128 + signal.SIGPIPE)
        except MemoryError as error:
            _fail(_without_memory(error))
        except OSError as error:
            if error.errno not in _OF_THE_SYSTEM:
                _end_with(error)
            _fail(
                f"{error.filename or 'a file'}: {error.strerror}; make room or see to the rights, "
                "and run the same command again: it goes on after the last checkpoint"
            )
        except Exception as error:
            of_jax = type(error).__name__ == "JaxRuntimeError"
            if of_jax and "RESOURCE_EXHAUSTED" in str(error):
                _fail(_without_memory(error))
            if of_jax and _LOST_PEER.search(str(error)) and _PROCESSES.value > 1:
                if stop.requested:
                    leave(stop.number, _STOPPED)
                _fail(
                    "ends, for another process of the run has ended or cannot be reached "
                    f"({str(error).splitlines()[0]}); see there"
                )
            _end_with(error)


def _is_finished(config: dict[str, Any], workdir: str | Path, file: Path) -> bool:
    """Whether nothing is left to do in the run directory, of which it then prints the table.

    Seen before JAX is loaded, which takes seconds, as is whether the config makes sense.
    """
    from fermm.experiment import config as run_config
    from fermm.experiment import directory as directory_lib
    from fermm.experiment import finished
    from fermm.paths import expand
    from fermm.rundir import RunDirectory

    parsed = run_config.read(config)
    if _PROCESSES.value > 1 or parsed.run.split_seeds:
        return False
    directory = RunDirectory(expand(workdir))
    directory_lib.check(parsed, directory)
    return finished.show(parsed, directory, [file]) is not None


def _without_memory(error: Exception) -> str:
    what = f" ({str(error).splitlines()[0]})" if str(error) else ""
    return (
        f"memory is not enough{what}; config.data.streaming leaves the data on disk, "
        "config.<network>.seeds_at_once=1 with config.parallel=none trains one seed at a time, "
        "and a smaller config.<network>.batch_size or network needs less"
    )


def _end_with(error: Exception) -> NoReturn:
    """Ends with a traceback; at once, if other processes would be waited for."""
    if _PROCESSES.value > 1:
        traceback.print_exception(error)
        _fail("ends with the error above")
    raise error


def _check_processes() -> int:
    """Whether the flags that tell of other processes are right, seen before JAX is loaded.

    Returns:
        The port at which the processes meet, 0 if there is one process.
    """
    if _PROCESSES.value == 1:
        if _COORDINATOR.value or _PROCESS.value is not None:
            _fail("--coordinator and --process need --processes=COUNT as well")
        return 0
    if not _COORDINATOR.value or _PROCESS.value is None:
        _fail("--processes needs --coordinator=HOST:PORT and --process=INDEX as well")
    port = re.fullmatch(r".+:(\d{1,5})", _COORDINATOR.value)
    if not port or not 0 < int(port[1]) < 2**16:
        _fail(f"--coordinator={_COORDINATOR.value}: needs HOST:PORT, as in host0:1234")
    if _PROCESS.value >= _PROCESSES.value:
        _fail(f"--process={_PROCESS.value}: of {_PROCESSES.value} processes, the first is 0")
    return int(port[1])


def _join_processes(port: int) -> None:
    """Meets the other processes of the run at this port, if it is not 0."""
    if not port:
        return
    import jax

    if _PROCESS.value == 0:
        try:  # JAX crashes on a port that is in use
            socket.create_server(("", port)).close()
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            _fail(f"--coordinator={_COORDINATOR.value}: {reason}; choose another port")
    print(
        f"process {_PROCESS.value} of {_PROCESSES.value}: meets the others at "
        f"{_COORDINATOR.value}, waits five minutes at most",
        flush=True,
    )
    # It would answer SIGTERM in our place.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    except (RuntimeError, ValueError) as error:
        _fail(f"--coordinator={_COORDINATOR.value}: {str(error).splitlines()[0]}")
    from fermm.train import devices

    devices.require_backend()
    # The first meeting must be over in half a minute, of which reading the data may take more.
    devices.wait_for_all("joined")


def _keep_compiled(config: dict[str, Any]) -> None:
    """Has JAX keep compiled programs beside the prepared data, so that later runs start sooner."""
    import jax

    from fermm.paths import NoHomeError, expand

    data = config.get("data")
    cache = data.get("cache_dir") if isinstance(data, dict) else None
    if os.environ.get("JAX_COMPILATION_CACHE_DIR") or not isinstance(cache, str) or not cache:
        return  # the environment has said where, or the config will be refused
    # One directory for each kind of processor: programs use the instructions that it has.
    info = Path("/proc/cpuinfo")
    flags = {x for x in info.read_text().splitlines() if "flags" in x} if info.exists() else ()
    kind = hashlib.sha256(" ".join([platform.machine(), *sorted(flags)]).encode()).hexdigest()[:16]
    try:
        where = expand(cache) / "compiled" / kind
    except NoHomeError:
        return  # whether the run needs the cache is looked at later
    if not os.access(next(p for p in (where, *where.parents) if p.exists()), os.W_OK):
        return  # the run may do without, and JAX would warn of every program
    jax.config.update("jax_compilation_cache_dir", str(where))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _parse_flags(argv: list[str]) -> list[str]:
    """As absl parses them, with errors on one line and a help of our own."""
    wants_help = not _HELP.isdisjoint(argv)
    argv = [argument for argument in argv if argument not in _HELP]
    argv, source = _take_file(_last_of_each(argv))
    file, config = _load(source)
    for field, value in _overrides(argv):
        _add_field(config, field, value)
    try:
        # It would look for overrides in sys.argv, in which the file still stands.
        config_flags.DEFINE_config_dict(
            "config", config, "The experiment.", flags.FLAGS, sys_argv=argv
        )
        _config_flag().file = file
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        _fail(_short(error))
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        where = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if where.name == "config_dict.py" and isinstance(error, AttributeError | KeyError):
            _fail(_explain_unknown_field(argv, str(error)))
        _fail(
            f"--config: an override cannot be read ({_short(error)}); fields are set as "
            "--config.FIELD=VALUE, see --help"
        )
    if wants_help:
        _print_help(file)
        sys.exit(0)
    return rest


def _config_flag() -> Any:
    """The flag whose value is the config, and whose `file` is the one that it comes from."""
    return flags.FLAGS["config"]


def _take_file(argv: list[str]) -> tuple[list[str], str]:
    """The arguments without `--config FILE`, and FILE."""
    for i, argument in enumerate(argv):
        if argument == "--":
            break
        if given := re.fullmatch("--?config=(.*)", argument, re.DOTALL):
            return argv[:i] + argv[i + 1 :], given[1]
        if re.fullmatch("--?config", argument):
            if i + 1 == len(argv):
                _fail("--config: needs a file, as in --config configs/paper.py")
            return argv[:i] + argv[i + 2 :], argv[i + 1]
    return argv, str(_DEFAULT)


def _load(source: str) -> tuple[Path, ConfigDict]:
    """The config file that `source` names, FILE or FILE:ARGUMENT, and what its get_config gives.

    What the file raises is not caught: it is a mistake in the file, which its author wants to see.
    """
    name, colon, argument = source.partition(":")
    file = Path(name).expanduser()
    if not file.is_file():
        _fail(f"--config: {name!r} is not a file; see configs/ for examples")
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    if spec is None or spec.loader is None:
        _fail(f"--config: {name!r} is not a Python file (.py); see configs/ for examples")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        _fail(f"--config: {name} has no function get_config(); see configs/ for examples")
    config = module.get_config(argument) if colon else module.get_config()
    if not isinstance(config, ConfigDict):
        _fail(
            f"--config: get_config() returns {type(config).__name__}, needs an "
            "ml_collections.ConfigDict; see configs/ for examples"
        )
    return file, config


def _overrides(argv: list[str]) -> Iterator[tuple[str, str]]:
    """The fields that are set on the command line, and the text of their values."""
    for i, argument in enumerate(argv):
        if argument == "--":
            return
        if given := re.match(r"--?config\.([^=]+)(?:=(.*))?$", argument, re.DOTALL):
            following = argv[i + 1] if i + 1 < len(argv) else ""
            yield given[1], following if given[2] is None else given[2]


def _add_field(config: ConfigDict, field: str, value: str) -> None:
    """Adds a field that the config file leaves at its default, so that it can be overridden.

    A field that fermm does not know is not added.
    """
    from fermm.errors import InputError
    from fermm.experiment.config import default_of

    *sections, name = field.split(".")
    if sections and sections[0] not in (*config, "data", "evaluate"):
        return  # not a network of this config
    try:
        default = default_of(field, value)
    except (InputError, LookupError):
        return
    with config.unlocked():
        section = config
        for each in sections:
            if each not in section:
                section[each] = ConfigDict()
            section = section[each]
            if not isinstance(section, ConfigDict):
                return
        if name not in section:
            section[name] = default


def _last_of_each(argv: list[str]) -> list[str]:
    """Without a `--config` or `--config.FIELD` that is given again later.

    ml_collections would put the values of a repeated flag together where the field is a tuple, and
    set fields of the first of two files.
    """
    kept: list[str] = []
    known = set()
    rest = argv[1:]
    after = rest[rest.index("--") :] if "--" in rest else []
    rest = rest[: len(rest) - len(after)]
    while rest:
        words = [rest.pop()]  # from the end, so that the last is met first
        # A value in a word of its own; a flag that is True or False has none.
        value = not re.match("--?[A-Za-z]", words[0])
        if rest and value and re.fullmatch(r"--?config(\.[^=]+)?", rest[-1]):
            words.insert(0, rest.pop())
        flag = re.match(r"--?(config(?:\.[^=]+)?)(?:=|$)", words[0])
        if flag and flag[1] in known:
            continue
        if flag:
            known.add(flag[1])
        kept = words + kept
    return [*argv[:1], *kept, *after]


def _short(error: Exception) -> str:
    """What is wrong with an override, without Python's own words for it."""
    text = re.split(r": (?:Syntax|Value)Error\(", str(error))[0]
    return text if len(text) <= 300 else f"{text[:300]}..."


def _explain_unknown_field(argv: list[str], error: str) -> str:
    """One line from what ml_collections says, which names the field and perhaps a near one."""
    field = re.search(r"\w+", error)[0]  # type: ignore[index]
    near = re.search(r'Did you mean "(\w+)"', error)
    argument = next((a for a in argv if f".{field}" in a.split("=")[0]), "--config")
    hint = f"did you mean {near[1]!r}?" if near else "--help shows the fields"
    return f"{argument}: the config has no field {field!r}; {hint}"


def _print_help(file: Path) -> None:
    from fermm.experiment import config as run_config

    print(__doc__)
    print(f"Values in {file}, overrides included:")
    for path, value in _flatten(_config_flag().value.to_dict()):
        print(f"  config.{path} = {value!r}")
    print("\nAll fields, what they mean, and their values where a file does not set them:")
    for path, doc, default in run_config.explain():
        print(f"  config.{path}{default}\n      {doc}")


def _flatten(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _fail(message: str) -> NoReturn:
    from fermm.errors import printable

    print(f"launch.py: {printable(message)}", file=sys.stderr, flush=True)
    if _PROCESSES.present and _PROCESSES.value > 1:
        os._exit(1)  # the regular end would wait for the others, which are waiting for this one
    sys.exit(1)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)

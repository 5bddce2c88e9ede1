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
from ml_collections import config_flags

_DEFAULT = Path(__file__).resolve().parent / "configs" / "synthetic.py"
# The default is put in by _parse_flags: ml_collections would apply the overrides to a default of
# its own even where --config names another file.
_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment.", lock_config=True)
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
    config = _CONFIG.value.to_dict()
    file = Path(config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0])
    workdir = _WORKDIR.value or Path("runs") / file.stem
    with Stop() as stop:
        try:
            if _is_finished(config, workdir, file):
                return
            with doing("loading JAX and fermm"):
                from fermm import experiment
            _keep_compiled(config)
            _join_processes()
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
    from fermm import finished, settings
    from fermm.paths import expand

    settings.check(config)
    if _PROCESSES.value > 1 or config["split_seeds"]:
        return False
    workdir = expand(workdir)
    settings.check_workdir(config, workdir)
    return finished.show(config, workdir, [expand(file)]) is not None


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


def _join_processes() -> None:
    """Meets the other processes of the run, if the flags tell of any."""
    if _PROCESSES.value == 1:
        if _COORDINATOR.value or _PROCESS.value is not None:
            _fail("--coordinator and --process need --processes=COUNT as well")
        return
    import jax

    if not _COORDINATOR.value or _PROCESS.value is None:
        _fail("--processes needs --coordinator=HOST:PORT and --process=INDEX as well")
    port = re.fullmatch(r".+:(\d{1,5})", _COORDINATOR.value)
    if not port or not 0 < int(port[1]) < 2**16:
        _fail(f"--coordinator={_COORDINATOR.value}: needs HOST:PORT, as in host0:1234")
    if _PROCESS.value >= _PROCESSES.value:
        _fail(f"--process={_PROCESS.value}: of {_PROCESSES.value} processes, the first is 0")
    if _PROCESS.value == 0:
        try:  # JAX crashes on a port that is in use
            socket.create_server(("", int(port[1]))).close()
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
    argv = _last_of_each(argv)
    if not any(re.fullmatch("--?config(=.*)?", argument, re.DOTALL) for argument in argv):
        argv.insert(1, f"--config={_DEFAULT}")
    try:
        rest = flags.FLAGS(argv)
        _CONFIG.value.to_dict()  # a file that could not be read is told of only here
    except flags.Error as error:
        if "Error whilst parsing config file" in str(error):
            raise  # a bug in the config file, which its author wants to see
        _fail(_short(error))
    except OSError as error:
        _fail(f"--config: {str(error.__cause__ or error).splitlines()[-1].strip()}")
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        if "no attribute 'get_config'" in str(error):
            _fail("--config: the file has no function get_config(); see configs/ for examples")
        if "no attribute 'to_dict'" in str(error):
            _fail(
                f"--config: get_config() returns {type(_CONFIG.value).__name__}, needs an "
                "ml_collections.ConfigDict; see configs/ for examples"
            )
        # One of an override, or a bug in the config file, which its author wants to see.
        where = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if where.name == "config_dict.py" and isinstance(error, AttributeError | KeyError):
            _fail(_explain_unknown_field(argv, str(error)))
        if "ml_collections" not in where.parts and where.name != "ast.py":
            raise
        _fail(
            f"--config: an override cannot be read ({_short(error)}); fields are set as "
            "--config.FIELD=VALUE, see --help"
        )
    if wants_help:
        _print_help()
        sys.exit(0)
    return rest


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


def _fields(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _fields(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _print_help() -> None:
    from fermm import fields

    print(__doc__)
    print(f"Fields of {config_flags.get_config_filename(flags.FLAGS['config'])} and their values:")
    for path, value in _fields(_CONFIG.value.to_dict()):
        print(f"  config.{path} = {value!r}\n      {fields.explain(path)}")


def _fail(message: str) -> NoReturn:
    from fermm.errors import printable

    print(f"launch.py: {printable(message)}", file=sys.stderr, flush=True)
    if _PROCESSES.present and _PROCESSES.value > 1:
        os._exit(1)  # the regular end would wait for the others, which are waiting for this one
    sys.exit(1)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)

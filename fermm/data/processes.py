"""How a worker process behaves, whoever starts it."""

import ast
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType

from fermm.errors import InputError


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Workers that are started within never see Ctrl-C, which would break off their imports too.

    Raises:
        InputError: the program is a script that would start again in each of them.
    """
    _require_guard()
    # Where a run is stopped it warns of what it then clears away.
    warnings = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker"
    try:
        resource_tracker.ensure_running()
    finally:
        del os.environ["PYTHONWARNINGS"]
        if warnings is not None:
            os.environ["PYTHONWARNINGS"] = warnings
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which a process inherits
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _require_guard() -> None:
    """Checks that what is at work now is not done again where a worker imports the main module.

    A process that is started by spawn does so; what stands below `if __name__ == "__main__":` is
    not done there.

    Raises:
        InputError: it would be.
    """
    main = vars(sys.modules["__main__"])
    file = main.get("__file__")  # there is none at a prompt, and workers then import nothing
    if not file or not Path(file).is_file() or multiprocessing.parent_process() is not None:
        return
    frame: FrameType | None = sys._getframe()
    while frame and (frame.f_code.co_name != "<module>" or frame.f_globals is not main):
        frame = frame.f_back
    if frame is None:
        return  # in a thread, of which it is not known what started it
    try:
        statements = ast.parse(Path(file).read_bytes()).body
    except (SyntaxError, ValueError, OSError):
        return  # no Python source, such as an archive
    line = frame.f_lineno
    for statement in statements:
        if not isinstance(statement, ast.If) or statement.lineno > line:
            continue
        test = [*ast.walk(statement.test)]
        if any(isinstance(node, ast.Name) and node.id == "__name__" for node in test):
            # Within it, or after one that ends a worker: `if __name__ != "__main__": sys.exit()`.
            ends = any(isinstance(node, ast.NotEq) for node in test)
            if ends or line <= (statement.end_lineno or 0):
                return
    raise InputError(
        f"{file}, line {line}: this starts processes, each of which imports the script and would "
        "do the same again: put it, and all that the script does, below `if __name__ == "
        '"__main__":`'
    )


def start_worker() -> None:
    """Called in a process of `multiprocessing` as it starts: has it end with its parent only."""
    # Ctrl-C reaches every process of the terminal: the parent answers it, by ending the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # A parent that is killed cannot do that, and its workers would wait for their next task.
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

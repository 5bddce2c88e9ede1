"""How a worker process behaves, whoever starts it."""

import multiprocessing
import os
import signal
import threading


def start_worker() -> None:
    """Called in a process of `multiprocessing` as it starts: has it end with its parent only."""
    # Ctrl-C reaches every process of the terminal: the parent answers it, by ending the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A parent that is killed cannot do that, and its workers would wait for their next task.
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

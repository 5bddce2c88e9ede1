"""Stopping when asked to: Ctrl-C, and SIGTERM, which schedulers send before they kill."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

LIMIT = 2.5  # seconds from the signal to the end of the process, whatever it is doing
AT_ONCE = "stopped at once; the same command goes on after the last checkpoint"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """The run was asked to stop.

    Attributes:
        signal: SIGINT or SIGTERM.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal = number


class Stop:
    """What the loop asks whether it shall stop; as a context manager it answers signals.

    While the context lasts, SIGINT and SIGTERM raise `Stopped`: at once, or, within `deferred`,
    when `check` is called. A process that does not end in LIMIT seconds after that (compiling can
    take longer, and cannot be broken off) is ended, as is one that gets a second signal. That is
    never a loss, for a run can be killed at any moment.

    The context must be entered in the main thread. Outside of one, nothing is ever asked.
    """

    def __init__(self) -> None:
        self._signal = 0
        self._deferred = 0

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return bool(self._signal)

    @property
    def number(self) -> int:
        """The number of the first signal that came, 0 if none did."""
        return self._signal

    def check(self) -> None:
        """Raises `Stopped` if a signal has come."""
        if self._signal:
            raise Stopped(self._signal)

    def request(self, number: int = signal.SIGTERM) -> None:
        """Asks for a stop, as a signal to another process of the run does."""
        self._signal = self._signal or number

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Within it a signal raises nothing; the code calls `check` where it can stop."""
        self._deferred += 1
        try:
            yield
        finally:
            self._deferred -= 1

    def __enter__(self) -> "Stop":
        self._before: dict[int, Any] = {n: signal.signal(n, self._handle) for n in _SIGNALS}
        # The handler runs only when the interpreter has its turn, which a compilation can keep from
        # it for long. The number of the signal is in the pipe at once.
        read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(read,), daemon=True).start()
        self._write = write
        self._unraisable = sys.unraisablehook
        sys.unraisablehook = self._answer_unraisable
        return self

    def __exit__(self, *_: object) -> None:
        sys.unraisablehook = self._unraisable
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._write)  # which ends the thread

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.request(number)
        if not self._deferred:
            self.check()

    def _answer_unraisable(self, lost: Any) -> None:
        # Raised in a callback or a destructor, `Stopped` reaches nobody.
        if isinstance(lost.exc_value, Stopped):
            leave(lost.exc_value.signal, AT_ONCE)
        self._unraisable(lost)

    def _watch(self, pipe: int) -> None:
        number = 0
        while not number:  # other signals, SIGCHLD for one, come this way too
            came = os.read(pipe, 1)
            if not came:
                os.close(pipe)
                return
            number = came[0] if came[0] in _SIGNALS else 0
        again = threading.Event()

        def listen() -> None:
            while came := os.read(pipe, 1):
                if came[0] in _SIGNALS:
                    again.set()

        threading.Thread(target=listen, daemon=True).start()
        again.wait(LIMIT)
        leave(number, AT_ONCE)


def leave(number: int, message: str) -> None:
    """Ends the process as a shell expects it after a signal, with a line on stderr."""
    sys.stdout.flush()
    for worker in multiprocessing.active_children():
        worker.kill()
    # By the system, for another thread may hold what print needs.
    os.write(2, f"launch.py: {message}\n".encode())
    os._exit(128 + number)

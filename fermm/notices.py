"""Says what is being done where it takes long enough for somebody to wonder."""

import contextlib
import threading
from collections.abc import Iterator

AFTER = 2.0  # seconds


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
    """Prints the line "`what` ..." if what is inside takes longer than AFTER seconds."""

    def say() -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            print(f"{what} ...", flush=True)

    timer = threading.Timer(AFTER, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()

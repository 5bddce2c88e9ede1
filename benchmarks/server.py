"""Runs one peer in a process of its own: commands as lines of JSON in, results out.

A process for each peer, so that no library's threads, allocator or settings touch another's; all
are alive at once, so that they can be timed in turns.
"""

import importlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent


class Server:
    """A peer in another process.

    Args:
        module: its module in `benchmarks.peers`.
        data: the .npz file of what `Peer` takes.
        options: further arguments of `Peer`.
        environment: variables to set for the process.
    """

    def __init__(
        self, module: str, data: Path, environment: dict[str, str] | None = None, **options: Any
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.server", module, str(data), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | (environment or {}),
        )

    def __call__(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """What the peer's `method` returns; "memory" is its peak resident memory in bytes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([method, args, kwargs]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of a peer ended during {method}{args}: see above")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _serve(module: str, data: str, options: dict[str, Any]) -> None:
    # What libraries print must not come between the results.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with np.load(data) as file:
        arrays = dict(file)
    peer = importlib.import_module(f"benchmarks.peers.{module}").Peer(arrays, **options)
    for line in sys.stdin:
        method, args, kwargs = json.loads(line)
        if method == "memory":
            result = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        else:
            result = getattr(peer, method)(*args, **kwargs)
        out.write(json.dumps(result) + "\n")
        out.flush()


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))

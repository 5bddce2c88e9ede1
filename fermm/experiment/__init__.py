"""A whole run: the plan, the data, the networks in their order, their evaluation, the report.

Public: `run`, imported only when it is used, for it brings JAX.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fermm.experiment.running import run

__all__ = ["run"]


def __getattr__(name: str) -> Any:
    if name == "run":
        from fermm.experiment import running

        return running.run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

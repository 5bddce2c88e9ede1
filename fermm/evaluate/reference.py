"""Published numbers that stand beside those of a run, such as those of the paper."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fermm.evaluate.run import Run


@dataclasses.dataclass(frozen=True)
class Reference:
    """What a publication says about the networks and the data of a run.

    Without arguments it says nothing, and the report is that of the run alone.

    Attributes:
        name: what tables call it, "paper".
        titles: by network of the run, what the publication calls it; others go by their own names.
        accuracy: by network and split, accuracy in percent, where it was measured on the very
            samples of the run.
        counts: how many samples each class has in the publication, or empty.
        weights: the weight of each class in the loss in the publication, or empty.
        cited: by figure or table of the report, what it is in the publication: {"training":
            "figure 15"}. The keys are those of `fermm.evaluate.report`.
        requirements: the caption of the table of requirements.
        audit: checks a run and its assessment against these requirements; for what it returns, see
            `fermm.evaluate.paper.audit`. None checks nothing.
    """

    name: str = ""
    titles: Mapping[str, str] = dataclasses.field(default_factory=dict)
    accuracy: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    counts: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()
    cited: Mapping[str, str] = dataclasses.field(default_factory=dict)
    requirements: str = ""
    audit: Callable[["Run", Mapping[str, Any]], list[dict[str, Any]]] | None = None


NOTHING = Reference()

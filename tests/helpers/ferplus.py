"""FER+'s `fer2013new.csv`, small."""

from fermm.data.fer2013 import USAGES

EMOTIONS = (
    *("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"),
    *("unknown", "NF"),
)
HEADER = f"Usage,Image name,{','.join(EMOTIONS)}"


def votes_row(votes, usage="Training"):
    """A line of the file; `votes` by the names of its columns, those left out being 0."""
    return ",".join([usage, "fer.png", *(str(votes.get(name, 0)) for name in EMOTIONS)])


def votes_csv(rows, official=None):
    """The text of the file; `official` has for each row its split, all Training without it."""
    splits = [0] * len(rows) if official is None else official
    lines = [votes_row(votes, USAGES[i]) for votes, i in zip(rows, splits, strict=True)]
    return "\n".join([HEADER, *lines]) + "\n"

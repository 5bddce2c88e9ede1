"""A CSV of FER2013's form with bad rows."""

from fermm.data.fer2013 import USAGES
from helpers.fer2013 import AGAIN, HEADER, NEEDED_PIXEL, row

COUNT = 40
# By the row (the first is 0) that each replaces, what comes instead and why it is set aside.
BAD = {
    2: (row(["7"] * 2303), f"has 2303 pixels, needs 2304; {AGAIN}"),
    3: (b"7 " * 100_000 + b"\n", f"has 65536 bytes or more; {AGAIN}"),
    17: (row(change=(5, "256")), f"pixel 5 is '256', {NEEDED_PIXEL}"),
    39: (b"x\n", f"has 1 fields, needs 3 as its header has; {AGAIN}"),
}


def write_csv(path, bad=BAD):
    """COUNT rows with a blank line after the first; row i is grey i, of emotion i % 7."""
    lines = [
        bad[i][0] if i in bad else row([str(i)] * 2304, str(i % 7), USAGES[i % 3])
        for i in range(COUNT)
    ]
    lines[0] += b"\n"
    path.write_bytes(HEADER + b"".join(lines))
    return path


def place(at):
    return f"line {at + 2 + (at > 0)}"

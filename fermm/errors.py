"""The one exception for what a user can mend."""


class InputError(ValueError):
    """Bad input: a file, a config value, a checkpoint.

    The message is one line that names what is wrong (file, row) and what to do about it.
    `launch.py` prints it without a traceback and exits with status 1.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    """`text` on one line: file names and damaged bytes may hold line ends and worse."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

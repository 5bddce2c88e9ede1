"""The one exception for what a user can mend."""


class InputError(ValueError):
    """Bad input: a file, a config value, a checkpoint.

    The message is one line that names what is wrong (file, row) and what to do about it.
    `launch.py` prints it without a traceback and exits with status 1.
    """

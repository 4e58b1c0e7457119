"""Errors that the user can correct: one line with the file, row or flag, and what was expected."""


class XmrankError(Exception):
    """An error that the user can correct; the command line prints it as one line and exits with status 1."""


class ConfigError(XmrankError):
    """A wrong flag, or flags that contradict each other; exit status 2."""


class DataError(XmrankError):
    """An input file or row that violates its format; exit status 1."""

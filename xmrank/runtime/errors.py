"""The failures a user can act on: each is one line that names the file, row or flag and what was expected."""


class XmrankError(Exception):
    """Something the user can mend; the command line prints it as one line and exits with status 1."""


class ConfigError(XmrankError):
    """A flag, or flags that contradict each other; exit status 2."""


class DataError(XmrankError):
    """An input file or row that is not as its format says; exit status 1."""

"""Errors that the user can correct: one line with the file, row or flag, and what was expected."""

from xmrank.runtime.redaction import redact_uri


class XmrankError(Exception):
    """An error that the user can correct; the command line prints it as one line and exits with status 1.

    Credentials of URIs in the message are left out, since messages end in logs, reports and manifests.
    """

    def __init__(self, message: str = "") -> None:
        """Keep the message, redacted."""
        super().__init__(redact_uri(message))


class ConfigError(XmrankError):
    """A wrong flag, or flags that contradict each other; exit status 2."""


class DataError(XmrankError):
    """An input file or row that violates its format; exit status 1."""

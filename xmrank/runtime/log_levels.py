"""What is logged on the screen: ``--log-level`` for xmrank and for the libraries below it."""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from xmrank.runtime.redaction import RedactingFormatter

LEVELS = ("debug", "info", "warning", "error")
DEFAULT_LEVEL = "warning"
STDERR = 2
NOTICE = b"Set ray log level from environment variable RAY_BACKEND_LOG_LEVEL"


def start_logging(level: str) -> None:
    """Log to standard error from this level on, without credentials; call it before Ray and MLflow are imported.

    MLflow tells of each step of a new database, and Ray's native code of every pool of Ray Data that its actors could
    not restart, although they do. Both read their level from the environment, as the processes that they start do.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger().setLevel(level.upper())
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", level.upper())
    # Ray's native code has no other way to keep its errors from the screen. What is fatal is shown.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", level if level in ("debug", "info") else "fatal")


@contextmanager
def drop_notice() -> Iterator[None]:
    """Leave out the line with which Ray's native code says, whatever the level, that it has read its level.

    It writes to the file descriptor, so that is what is replaced while the block runs. All else is shown afterwards.
    """
    original = os.dup(STDERR)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), STDERR)
        try:
            yield
        finally:
            os.dup2(original, STDERR)
            os.close(original)
            written.seek(0)
            os.write(STDERR, b"".join(line for line in written if NOTICE not in line))


def is_verbose() -> bool:
    """Whether messages of libraries are wanted, by the level of the root logger."""
    return logging.getLogger().getEffectiveLevel() <= logging.INFO

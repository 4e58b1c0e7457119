"""The object stores that fsspec knows, and requests that are repeated while a store does not answer."""

import contextlib
import errno
import os
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, TypeVar

from xmrank.runtime.errors import ConfigError, XmrankError, describe_error, is_permanent

Result = TypeVar("Result")

PATIENCE_VARIABLE = "XMRANK_STORAGE_TIMEOUT"
PATIENCE_S = 300.0
"""How long a store that does not answer is waited for, unless the variable says otherwise."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "az", "abfss": "az"}
"""Scheme → the extra of xmrank with its file system."""
OPTIONS: dict[str, dict[str, Any]] = {
    # Repetitions are ours to count: botocore's own would multiply with them.
    "s3": {"config_kwargs": {"retries": {"max_attempts": 0}, "connect_timeout": 5, "read_timeout": 30}},
    # Web servers: user and password from the file that NETRC names, and proxies.
    "http": {"client_kwargs": {"trust_env": True}},
    "https": {"client_kwargs": {"trust_env": True}},
}
"""Scheme → settings of its file system; endpoint, region and credentials come from the environment."""
ANSWERS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
"""What a store says about a file; other errors are about the store."""
SETTLED = (errno.EINVAL, errno.ENOSYS, errno.ENAMETOOLONG)
"""Answers that stay the same, besides `errors.PERMANENT`."""
CLIENTS = {
    *("aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "httpcore2", "httpx2", "huggingface_hub"),
    *("requests", "urllib3"),
}
"""Packages whose own errors say that a store was not reached, unless the name of the error is one of these."""
NOT_REPEATED = re.compile("Credential|Validation|Invalid|NotFound|NoRegion|Authentication|OfflineMode")
READ_ONLY = ("hf",)
"""Schemes of stores that are only read here: each file that is written would be a commit of its own on the hub."""
LOCAL_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of the own disk, which names the file better than the URI does."""


class StorageError(XmrankError):
    """A store that refuses a request, or that has not answered for too long."""


class Patience(threading.local):
    """How long this thread waits; None: as long as the variable says."""

    seconds: float | None = None


PATIENCE = Patience()


@lru_cache(maxsize=64)
def find_store(scheme: str) -> Any:
    """The fsspec file system of a scheme, without its memory of listings: other processes write there too.

    Raises:
        ConfigError: an unknown scheme, or one whose package is not installed; names the extra.
    """
    import fsspec

    try:
        return fsspec.filesystem(scheme, use_listings_cache=False, **OPTIONS.get(scheme, {}))
    except ImportError as error:
        extra = EXTRAS.get(scheme)
        remedy = f"install xmrank[{extra}]" if extra else " ".join(str(error).split())
        raise ConfigError(f"{scheme}://: the package that reads and writes there is not installed: {remedy}") from None
    except (ValueError, TypeError, OSError) as error:
        raise ConfigError(f"{scheme}://: {' '.join(str(error).split())}") from None


def read_patience() -> float:
    """How many seconds a store that does not answer is waited for.

    Raises:
        ConfigError: the variable is not a number of seconds.
    """
    if PATIENCE.seconds is not None:
        return PATIENCE.seconds
    text = os.environ.get(PATIENCE_VARIABLE) or str(PATIENCE_S)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ConfigError(f"{PATIENCE_VARIABLE} {text}: expected a number of seconds")
    return seconds


@contextlib.contextmanager
def one_attempt() -> Iterator[None]:
    """Within the block, this thread does not repeat a request that fails."""
    before, PATIENCE.seconds = PATIENCE.seconds, 0.0
    try:
        yield
    finally:
        PATIENCE.seconds = before


def attempt(request: Callable[[], Result], uri: str) -> Result:
    """The result of a request to a store; repeated, with growing pauses, while the store does not answer.

    Args:
        request: may be made any number of times.
        uri: what it is about, for messages.

    Raises:
        FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError: what the store says about the file.
        StorageError: the store refuses the request, or did not answer for too long.
        OSError: the own disk is full or read-only.
    """
    patience, pause, end = read_patience(), FIRST_PAUSE_S, 0.0
    while True:
        try:
            return request()
        except ANSWERS:
            raise
        except Exception as error:
            if not is_outage(error):
                raise translate_error(error, uri) from None
            now = time.monotonic()
            if not end:
                end = now + patience
                if patience:
                    say(f"{uri}: {describe_error(error)}; it is tried again for up to {patience:g} s")
            if now >= end:
                raise StorageError(f"{uri}: no answer for {patience:g} s: {describe_error(error)}") from None
        # Many workers should not return at the same moment.
        time.sleep(min(pause * random.uniform(0.5, 1), end - now))  # noqa: S311
        pause = min(2 * pause, LONGEST_PAUSE_S)


def is_outage(error: Exception) -> bool:
    """Whether an error says that the store was not reached, or could not answer for the moment."""
    if is_permanent(error) or isinstance(error, NotImplementedError):
        return False
    if isinstance(error, OSError) and not is_of_client(error):
        # PermissionError comes without the system's number.
        return not isinstance(error, PermissionError) and error.errno not in SETTLED
    if not is_of_client(error) or NOT_REPEATED.search(type(error).__name__):
        return False
    # A status of HTTP: what the client did wrong stays wrong, but for two that mean "later".
    answers = (error, getattr(error, "response", None))
    statuses = (getattr(answer, name, None) for answer in answers for name in ("status", "status_code", "code"))
    status = next((value for value in statuses if isinstance(value, int)), 0)
    return status in (408, 429) or not 400 <= status < 500


def is_of_client(error: Exception) -> bool:
    """Whether an error is one of the packages that speak to stores."""
    return type(error).__module__.partition(".")[0] in CLIENTS


def translate_error(error: Exception, uri: str) -> Exception:
    """The error to raise for one that repeating does not help: one line, unless it is a bug or about the own disk."""
    if isinstance(error, XmrankError) or (isinstance(error, OSError) and error.errno in LOCAL_FAULTS):
        return error
    if isinstance(error, NotImplementedError):
        return StorageError(f"{uri}: this store can only be read")
    known = isinstance(error, OSError) or is_of_client(error)
    return StorageError(f"{uri}: {describe_error(error)}") if known else error


def say(text: str) -> None:
    """Print a line about a store."""
    # As an error, so that it carries no credentials and is one line.
    print(f"storage: {StorageError(text)}", file=sys.stderr, flush=True)

"""Copies of remote files on this machine, found by URI and version; those that were not used for longest go first."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from xmrank.runtime.errors import ConfigError

CACHE_VARIABLE = "XMRANK_CACHE"
"""Names the folder for copies of remote files, and for what xmrank remembers of files; else ~/.cache/xmrank."""
LIMIT_VARIABLE = "XMRANK_CACHE_GB"
"""How many GB of copies are kept; without it, half of the disk."""
FILES, FOLDERS, UPLOADS, LOCKS = "files", "folders", "uploads", "locks"
"""In the cache: copies, folders of links to them, files that are written or fetched now, locks of those who fetch."""
IN_USE_S = 60.0
"""A copy that was used less than this ago stays: a process may be about to open it."""
ABANDONED_S = 86400.0
"""What was written, fetched or linked longer ago, and is no copy, was left behind."""
SCAN_PART = 20
"""The folder is measured when this part of the limit has been added by a process."""


class Added:
    """What this process has added since it last measured the cache; None: it has not measured it yet."""

    bytes: int | None = None


def cache_folder() -> Path:
    """The folder of the cache.

    Raises:
        ConfigError: no variable names it, and the user has no home.
    """
    try:
        return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "xmrank")
    except RuntimeError:
        raise ConfigError(f"set {CACHE_VARIABLE} to a folder: this user has no home directory") from None


def read_limit() -> int:
    """How many bytes the copies may take.

    Raises:
        ConfigError: the variable is not a number of GB.
    """
    text = os.environ.get(LIMIT_VARIABLE)
    if not text:
        return shutil.disk_usage(cache_folder()).total // 2
    try:
        size = float(text)
    except ValueError:
        size = -1.0
    if not 0 <= size < float("inf"):
        raise ConfigError(f"{LIMIT_VARIABLE} {text}: expected a number of GB")
    return int(size * 1e9)


def copy_path(uri: str, version: str) -> Path:
    """Where the copy of a version of a file is, or will be."""
    name = uri.rpartition("/")[2] or "file"
    return cache_folder() / FILES / shorten(uri) / shorten(version) / name


def shorten(text: str) -> str:
    """A name for a text, as good as unique."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def find_copy(uri: str, version: str, size: int | None) -> Path | None:
    """The copy of a version of a file, noted as used now; None without one."""
    path = copy_path(uri, version)
    try:
        whole = size is None or path.stat().st_size == size
        os.utime(path)
    except FileNotFoundError:
        return None
    # A machine that lost its power may have a name without the contents.
    return path if whole else None


@contextlib.contextmanager
def new_file(name: str) -> Iterator[Path]:
    """A path for a file that is to be kept or uploaded; what is left there at the end of the block is deleted."""
    path = cache_folder() / UPLOADS / f"{uuid.uuid4().hex[:12]}-{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def keep_copy(file: Path, uri: str, version: str) -> Path:
    """Move a file into the cache as the copy of a version of a remote file; earlier versions of it go."""
    path = copy_path(uri, version)
    size = file.stat().st_size
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another process has just removed the empty folder
            file.replace(path)
            break
    for other in path.parents[1].glob("*/*"):
        if other != path and not is_recent(other, IN_USE_S):
            shutil.rmtree(other.parent, ignore_errors=True)
    make_room(size)
    return path


def forget_copies(uri: str) -> None:
    """Remove all copies of a remote file."""
    shutil.rmtree(cache_folder() / FILES / shorten(uri), ignore_errors=True)


@contextlib.contextmanager
def only_fetcher(uri: str) -> Iterator[None]:
    """Within the block, no other process of this machine fetches the file: it waits, and then finds the copy."""
    # One of 256 locks, so that their files need no removal.
    path = cache_folder() / LOCKS / shorten(uri)[:2]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make_room(added: int) -> None:
    """Remove the copies that were not used for longest, as long as all together are over the limit.

    Args:
        added: bytes that came in now; the folder is only measured after a part of the limit has come in.
    """
    limit = read_limit()
    if Added.bytes is not None:
        Added.bytes += added
        if Added.bytes * SCAN_PART < limit:
            return
    Added.bytes = 0
    copies = sorted(measure_copies())
    total = sum(size for _, size, _ in copies)
    for _, size, path in copies:
        if total <= limit:
            break
        if not is_recent(path, IN_USE_S):
            shutil.rmtree(path.parent, ignore_errors=True)
            with contextlib.suppress(OSError):  # another version is there
                path.parents[1].rmdir()
            total -= size
    for path in [*(cache_folder() / UPLOADS).glob("*"), *(cache_folder() / FOLDERS).glob("*")]:
        if not is_recent(path, ABANDONED_S):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def measure_copies() -> Iterator[tuple[float, int, Path]]:
    """When every copy was last used, its size and its path."""
    for path in (cache_folder() / FILES).glob("*/*/*"):
        with contextlib.suppress(FileNotFoundError):  # another process makes room too
            state = path.stat()
            yield state.st_mtime, state.st_size, path


def is_recent(path: Path, seconds: float) -> bool:
    """Whether a file was used, or written to, less than this ago."""
    try:
        return time.time() - path.stat().st_mtime < seconds
    except FileNotFoundError:
        return False

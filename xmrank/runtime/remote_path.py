"""A path whose file is in an object store: stages use it as they use any path.

There are no folders in such a store, only names with slashes: nothing is made before a file is written, and a folder
is there as long as a name begins with it. What needs a file of this machine, such as a memory map, takes `fetch`.
"""

import datetime
import errno
import hashlib
import io
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path, PosixPath, PurePosixPath
from typing import IO, Any

from xmrank.runtime import file_cache
from xmrank.runtime.errors import ConfigError
from xmrank.runtime.object_stores import READ_ONLY, StorageError, attempt, find_store
from xmrank.runtime.redaction import redact_uri

URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""s3://bucket, or s3:/bucket: Path() folds the second slash."""
VERSIONS = ("ETag", "etag", "generation", "md5", "content_md5", "blob_id")
"""What stores call that which changes with a file's contents."""
TIMES = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")
"""What stores call the time of the last change."""


class RemotePath(PosixPath):
    """A path in an object store; its text is the URI. Requests are repeated while the store does not answer.

    Methods raise what those of a path raise, and `StorageError` for a store that refuses or does not answer.
    """

    @classmethod
    def of(cls, uri: str) -> "RemotePath":
        """The path of a URI.

        Raises:
            ConfigError: an unknown scheme, one whose package is not installed, or credentials in the URI.
        """
        if redact_uri(uri) != uri:
            raise ConfigError(
                f"{uri}: a URI of files must not hold credentials; give them in the environment, such as "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or in a file of the store's own tools"
            )
        path = cls(uri)
        # Before any work is done: whether its package is there.
        find_store(path.scheme)
        return path

    def __str__(self) -> str:
        text = super().__str__()
        # Path folds the slashes behind the scheme into one.
        return text.replace(":/", "://", 1) if URI.match(text) and "://" not in text else text

    def __fspath__(self) -> str:
        raise TypeError(f"{self} is not a file of this machine; xmrank.runtime.storage.local_copy gives one")

    def __reduce__(self) -> tuple[type["RemotePath"], tuple[str]]:
        return RemotePath, (str(self),)

    @property
    def scheme(self) -> str:
        """The scheme of the URI: s3."""
        return str(self).partition(":")[0]

    @property
    def store(self) -> Any:
        """The fsspec file system."""
        return find_store(self.scheme)

    @property
    def key(self) -> str:
        """The name of the file in its file system."""
        return str(self.store._strip_protocol(str(self)))

    def find_info(self) -> Mapping[str, Any] | None:
        """What the store says about a file, or about a folder; None where there is neither."""
        try:
            info: Mapping[str, Any] = attempt(lambda: self.store.info(self.key), str(self))
        except FileNotFoundError:
            return None
        return info

    def require_info(self) -> Mapping[str, Any]:
        """What the store says about a file.

        Raises:
            FileNotFoundError, IsADirectoryError: there is no file of this name.
        """
        info = self.find_info()
        if info is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        if info["type"] == "directory":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self))
        return info

    def list_infos(self) -> dict[str, Mapping[str, Any]]:
        """What the store says about all files below a folder, by path in it, sorted; one request for a thousand."""
        start = self.key.rstrip("/") + "/"
        try:
            found = attempt(lambda: self.store.find(self.key, detail=True), str(self))
        except FileNotFoundError:
            return {}
        return {name.removeprefix(start): found[name] for name in sorted(found) if name.startswith(start)}

    def fetch(self) -> Path:
        """The copy of the file on this machine; fetched unless the cache has this version of it.

        Raises:
            FileNotFoundError, IsADirectoryError: there is no file of this name.
        """
        uri = str(self)
        while True:
            info = self.require_info()
            version, size = describe_version(info), info.get("size")
            if copy := file_cache.find_copy(uri, version, size):
                return copy
            with file_cache.only_fetcher(uri), file_cache.new_file(self.name) as file:
                if copy := file_cache.find_copy(uri, version, size):
                    return copy
                attempt(lambda file=file: self.store.get_file(self.key, str(file)), uri)  # type: ignore[misc]
                # It may have been replaced meanwhile: then this is not the version that was looked for.
                if describe_version(self.require_info()) == version and size in (None, file.stat().st_size):
                    return file_cache.keep_copy(file, uri, version)
            # The hub's client remembers listings, whatever it is told.
            self.store.invalidate_cache(self.key)

    def publish(self, file: Path) -> None:
        """Upload a local file as one object, whole or not at all; the file becomes the copy in the cache."""
        uri, size = str(self), file.stat().st_size
        self._write(lambda: self.store.put_file(str(file), self.key))
        info = self.find_info()
        if info and info.get("size") == size:
            file_cache.keep_copy(file, uri, describe_version(info))

    def create(self, data: bytes) -> bool:
        """Make a file that must not exist; False if it does, perhaps from a request whose answer was lost."""
        # First: not all stores that speak S3's language know the condition.
        if self.exists():
            return False
        try:
            self._write(lambda: self.store.pipe_file(self.key, data, mode="create"))
        except FileExistsError:
            return False
        return True

    def _write(self, request: Any) -> None:
        """Make a request that writes; a bucket that does not exist is no answer about a file."""
        if self.scheme in READ_ONLY:
            raise StorageError(f"{self}: {self.scheme}:// is only read; write to a folder, and xmrank push it")
        try:
            attempt(request, str(self))
        except FileNotFoundError as error:
            raise StorageError(f"{self}: {error}") from None

    # What pathlib offers, for the store.

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:  # noqa: ARG002
        """Size and time of a file; instead of the inode, what its contents are known by."""
        info = self.find_info()
        if info is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        kind = stat.S_IFDIR if info["type"] == "directory" else stat.S_IFREG
        size, seconds, _, number = describe_remote(info)
        return os.stat_result((kind | 0o644, number, 0, 1, 0, 0, size, seconds, seconds, seconds))

    def exists(self, **_: Any) -> bool:
        """Whether there is a file or a folder."""
        return self.find_info() is not None

    def is_file(self, **_: Any) -> bool:
        """Whether there is a file."""
        info = self.find_info()
        return info is not None and info["type"] != "directory"

    def is_dir(self, **_: Any) -> bool:
        """Whether a name begins with this one and a slash."""
        info = self.find_info()
        return info is not None and info["type"] == "directory"

    def is_symlink(self) -> bool:
        """No."""
        return False

    def is_absolute(self) -> bool:
        """Whether it begins with a scheme; what is relative to a folder does not."""
        return bool(URI.match(str(self)))

    def absolute(self) -> "RemotePath":
        """The path itself."""
        return self

    def resolve(self, strict: bool = False) -> "RemotePath":  # noqa: ARG002
        """The path itself: there are no links."""
        return self

    def expanduser(self) -> "RemotePath":
        """The path itself."""
        return self

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a folder is there when a file is in it."""

    def iterdir(self) -> Iterator["RemotePath"]:  # type: ignore[override]
        """The files and folders in a folder; none where there is no folder."""
        try:
            names = attempt(lambda: self.store.ls(self.key, detail=False), str(self))
        except FileNotFoundError:
            return
        for name in sorted({PurePosixPath(name).name for name in names}):
            if name != self.name or f"{self.key}/{name}" in names:
                yield self / name

    def glob(self, pattern: str, **_: Any) -> Iterator["RemotePath"]:  # type: ignore[override]
        """The files below a folder whose path in it matches a pattern, part by part; sorted."""
        parts = pattern.count("/") + 1
        for path in self.rglob("*"):
            inside = PurePosixPath(*path.parts[len(self.parts) :])
            if len(inside.parts) == parts and inside.match(pattern):
                yield path

    def rglob(self, pattern: str, **_: Any) -> Iterator["RemotePath"]:  # type: ignore[override]
        """The files below a folder, at any depth, whose last parts match a pattern; sorted."""
        for name in self.list_infos():
            if PurePosixPath(name).match(pattern):
                yield self / name

    def open(self, mode: str = "r", *_: Any, encoding: str | None = None, **__: Any) -> IO[Any]:  # type: ignore[override]
        """The copy of the file on this machine, opened for reading."""
        if mode not in ("r", "rb"):
            raise io.UnsupportedOperation(f"{self}: files of an object store are written whole, not opened for writing")
        return self.fetch().open(mode, encoding=encoding)

    def read_bytes(self) -> bytes:
        """The contents of a small file, without a copy in the cache."""
        try:
            return bytes(attempt(lambda: self.store.cat_file(self.key), str(self)))
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self)) from None

    def read_text(self, encoding: str | None = None, errors: str | None = None, **_: Any) -> str:
        """The text of a small file."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def write_bytes(self, data: Any) -> int:
        """Write a small file, whole or not at all."""
        self._write(lambda: self.store.pipe_file(self.key, bytes(data)))
        return len(data)

    def write_text(self, data: str, encoding: str | None = None, *_: Any, **__: Any) -> int:
        """Write a small text file, whole or not at all."""
        return self.write_bytes(data.encode(encoding or "utf-8"))

    def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:  # noqa: ARG002
        """Make an empty file where there is none."""
        self.create(b"")

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the file."""
        if not missing_ok:
            self.require_info()
        # Gone already, or deleted by a request whose answer was lost.
        try:
            attempt(lambda: self.store.rm_file(self.key), str(self))
        except FileNotFoundError:
            return

    def rename(self, target: Any) -> "RemotePath":
        """Copy the file to another name in the same store, then delete it; returns the new path."""
        self._write(lambda: self.store.cp_file(self.key, target.key))
        self.unlink(missing_ok=True)
        return RemotePath(str(target))

    replace = rename


def describe_version(info: Mapping[str, Any]) -> str:
    """What tells a file's contents from earlier ones of its name."""
    for name in VERSIONS:
        if info.get(name):
            return str(info[name])
    # A web server may tell nothing but the size.
    return f"{info.get('size')} {find_time(info)}"


def find_time(info: Mapping[str, Any]) -> float:
    """When a file was last written, in seconds; 0 where the store does not say."""
    for name in TIMES:
        value = info.get(name)
        if isinstance(value, str) and value:
            value = datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
        if isinstance(value, datetime.datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return 0.0


def describe_remote(info: Mapping[str, Any]) -> list[int]:
    """Size, time of the contents twice, and a number that changes with the contents: as of a local file."""
    version = hashlib.sha256(describe_version(info).encode()).hexdigest()[:15]
    # In seconds: a listing and a question for one file give different fractions.
    return [int(info.get("size") or 0), int(find_time(info)), int(find_time(info)), int(version, 16)]

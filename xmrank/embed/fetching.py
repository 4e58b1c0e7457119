"""Imports at a URI: copied to this machine, because arrays are memory-mapped."""

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import pyarrow.fs as pafs

from xmrank.datasets.reader_settings import ArraySettings, ClipRetrievalSettings
from xmrank.datasets.uris import locate_file, one_line
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import resolve_uri
from xmrank.runtime.remote_path import URI

Settings = TypeVar("Settings", ArraySettings, ClipRetrievalSettings)


@contextmanager
def local_imports(settings: Settings) -> Iterator[Settings]:
    """The settings with local paths only; what is at a URI is copied, and the copies are removed at the end.

    Raises:
        DataError: a URI with nothing there, or that cannot be read; names the flag.
    """
    paths = {name: value for name, value in vars(settings).items() if name.startswith("import_")}
    remote = {name: str(resolve_uri(path)) for name, path in paths.items() if URI.match(str(path))}
    # Local files are mapped where they are.
    if not remote:
        yield settings
        return
    with tempfile.TemporaryDirectory(prefix="xmrank-import-") as folder:
        copies: dict[str, Any] = {}
        for name, uri in remote.items():
            # The copy keeps its name, which messages and the search for numbered files use.
            copies[name] = Path(folder) / name / PurePosixPath(uri).name
            copy_remote(uri, copies[name], f"--{name.replace('_', '-')}")
        yield dataclasses.replace(settings, **copies)


def copy_remote(uri: str, target: Path, flag: str) -> None:
    """Copy a file, or a folder with all that is in it."""
    system, path = locate_file(uri)
    target.parent.mkdir(parents=True)
    try:
        # copy_files would copy nothing, and say nothing.
        if system.get_file_info(path).type == pafs.FileType.NotFound:
            raise DataError(f"{uri}: no such file or folder ({flag})")
        pafs.copy_files(path, str(target), source_filesystem=system)
    except OSError as error:
        raise DataError(f"{uri}: cannot be read: {one_line(error)} ({flag})") from None

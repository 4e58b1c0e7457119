"""Imports that lie elsewhere: copied to this machine, because arrays are memory-mapped."""

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import pyarrow.fs as pafs

from xmrank.config import EmbedConfig
from xmrank.datasets.uris import located, one_line
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import URI, place

FIELDS = ("import_images", "import_texts", "import_ids", "import_clip_retrieval")


@contextmanager
def local_imports(config: EmbedConfig) -> Iterator[EmbedConfig]:
    """The configuration with all that it imports on this machine; copies are removed at the end.

    Raises:
        DataError: a URI where nothing is, or that cannot be read; names the flag.
    """
    remote = {name: str(place(path)) for name in FIELDS if (path := getattr(config, name)) and URI.match(str(path))}
    if not remote:
        yield config
        return
    with tempfile.TemporaryDirectory(prefix="xmrank-import-") as folder:
        copies = {}
        for name, uri in remote.items():
            copies[name] = Path(folder) / name / PurePosixPath(uri).name  # keeps its name: messages and forms use it
            fetch(uri, copies[name], f"--{name.replace('_', '-')}")
        yield dataclasses.replace(config, **copies)  # type: ignore[arg-type]


def fetch(uri: str, target: Path, flag: str) -> None:
    """Copy a file, or a folder with all that is in it."""
    system, path = located(uri)
    target.parent.mkdir(parents=True)
    try:
        if system.get_file_info(path).type == pafs.FileType.NotFound:
            raise DataError(f"{uri}: no such file or folder ({flag})")
        pafs.copy_files(path, str(target), source_filesystem=system)
    except OSError as error:
        raise DataError(f"{uri}: cannot be read: {one_line(error)} ({flag})") from None

"""Files of a stage wherever they are: what a path on disk and one in an object store do in different ways.

Stages use paths. For a memory map, a library that wants a file, and for all that is written or removed, they call
these functions, and need not know which kind of path they have.
"""

import contextlib
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from xmrank.runtime import file_cache
from xmrank.runtime.object_stores import attempt
from xmrank.runtime.remote_path import RemotePath, describe_remote, describe_version

THREADS = 16
"""Files that are fetched at once."""
READ_AHEAD = 64
"""Small files that are in memory at once."""
LOOK_S = 5.0


def local_copy(path: Path) -> Path:
    """A file on this machine with the contents of ``path``: itself, or its copy in the cache; only to be read.

    Raises:
        FileNotFoundError: a remote path without a file.
        StorageError: the store refuses or does not answer.
    """
    return path.fetch() if isinstance(path, RemotePath) else path


def local_tree(path: Path) -> Path:
    """A file or folder on this machine with the contents of ``path``, of the same name; only to be read.

    Raises:
        StorageError: the store refuses or does not answer.
    """
    if not isinstance(path, RemotePath):
        return path
    if path.is_file():
        return path.fetch()
    infos = path.list_infos()
    version = " ".join(f"{name} {describe_version(info)}" for name, info in infos.items())
    folder = make_cache() / file_cache.FOLDERS / file_cache.shorten(f"{path} {version}") / path.name
    folder.mkdir(parents=True, exist_ok=True)
    for name in infos:
        copy, file = path.joinpath(name).fetch(), folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        # Links cost no space, and last when the cache makes room.
        with contextlib.suppress(FileExistsError):
            os.link(copy, file)
    os.utime(folder.parent)
    return folder


def fetch_all(paths: Iterable[Path], *, afresh: bool = False) -> None:
    """Fetch the remote ones of some files, several at once, so that their copies are there when they are opened.

    Args:
        paths: files that exist.
        afresh: also those of which there is a copy.
    """
    remote = [path for path in paths if isinstance(path, RemotePath)]
    for path in remote if afresh else ():
        file_cache.forget_copies(str(path))
    if remote:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(RemotePath.fetch, remote))


@contextlib.contextmanager
def upload(path: RemotePath) -> Iterator[Path]:
    """A local file to write to, which becomes the remote one when the block ends without an error."""
    with file_cache.new_file(path.name) as file:
        yield file
        path.publish(file)


def list_files(folder: Path) -> list[Path]:
    """All files below a folder, sorted; none where there is no folder."""
    if isinstance(folder, RemotePath):
        return list(folder.rglob("*"))
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def list_folders(root: Path, without: Collection[str]) -> Iterator[tuple[Path, set[str]]]:
    """The folders at and below a path, sorted, each with the names of its files; none of these names, or below one."""
    if isinstance(root, RemotePath):
        found: dict[Path, set[str]] = {}
        for path in root.rglob("*"):
            if not set(without) & set(path.parent.parts[len(root.parts) :]):
                found.setdefault(path.parent, set()).add(path.name)
        yield from sorted(found.items())
        return
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in without)
        yield Path(folder), set(files)


def remove_tree(folder: Path, *, errors: bool = False) -> None:
    """Remove a folder with all that is in it; without ``errors``, what cannot be removed on a disk stays."""
    if not isinstance(folder, RemotePath):
        shutil.rmtree(folder, ignore_errors=not errors)
        return
    # Nothing there, or gone already by a request whose answer was lost.
    with contextlib.suppress(FileNotFoundError):
        attempt(lambda: folder.store.rm(folder.key, recursive=True), str(folder))


def read_states(folder: Path, names: Sequence[str]) -> dict[str, list[int]]:
    """Size, time of the contents, time of the inode and inode of the files of a folder that exist.

    The last two change with the contents also where the first two do not. A store is not questioned file by file.
    """
    if isinstance(folder, RemotePath):
        infos = folder.list_infos() if folder.scheme not in ("http", "https") else {}
        found = {name: infos.get(name) or (folder / name).find_info() for name in names}
        return {name: describe_remote(info) for name, info in found.items() if info and info["type"] != "directory"}
    return {name: read_state(folder / name) for name in names if (folder / name).is_file()}


def read_state(path: Path) -> list[int]:
    """The state of one file, as `read_states` gives it."""
    if isinstance(path, RemotePath):
        return describe_remote(path.require_info())
    state = path.stat()
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]


def measure_files(folder: Path) -> int:
    """Bytes of all files below a folder."""
    if isinstance(folder, RemotePath):
        return sum(int(info.get("size") or 0) for info in folder.list_infos().values())
    return sum(path.stat().st_size for path in list_files(folder))


def count_free_bytes(folder: Path) -> int:
    """What the disk of a folder has room for; what goes to a store is written to the cache's disk first."""
    return shutil.disk_usage(make_cache() if isinstance(folder, RemotePath) else folder).free


def scratch_folder(folder: Path) -> Path:
    """The folder itself; for a remote one, a folder of this machine for what no other machine reads."""
    if not isinstance(folder, RemotePath):
        return folder
    return make_cache() / "scratch" / file_cache.shorten(str(folder))


def drop_scratch(folder: Path) -> None:
    """Remove what `scratch_folder` gave for a remote folder."""
    if isinstance(folder, RemotePath):
        shutil.rmtree(scratch_folder(folder), ignore_errors=True)


def seconds_between_looks(folder: Path, seconds: float) -> float:
    """How long to wait between two looks at a folder that others write to: longer where each look is a request."""
    return max(seconds, LOOK_S) if isinstance(folder, RemotePath) else seconds


def make_cache() -> Path:
    """The cache's folder, which exists."""
    folder = file_cache.cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def read_contents(paths: Sequence[Path]) -> Iterator[bytes]:
    """The contents of small files that exist, in order; remote ones are read several at once."""
    for start in range(0, len(paths), READ_AHEAD):
        part = paths[start : start + READ_AHEAD]
        if not isinstance(part[0], RemotePath):
            yield from (path.read_bytes() for path in part)
            continue
        with ThreadPoolExecutor(THREADS) as pool:
            yield from pool.map(lambda path: path.read_bytes(), part)


def append_line(path: Path, line: bytes) -> None:
    """Append a line to a file that one process writes; a remote one is written anew, so only to a small file."""
    if isinstance(path, RemotePath):
        path.write_bytes((path.read_bytes() if path.exists() else b"") + line + b"\n")
        return
    # One write for each line; one that a kill cut off is closed first.
    with path.open("ab+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        start = b"\n" if size and file.read(1) != b"\n" else b""
        file.write(start + line + b"\n")


def read_bytes_from(path: Path, start: int) -> bytes:
    """The contents of a file from a byte on."""
    if isinstance(path, RemotePath):
        return path.read_bytes()[start:]
    with path.open("rb") as file:
        file.seek(start)
        return file.read()

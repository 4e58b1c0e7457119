"""Files wherever they are: local paths, and URIs that pyarrow (s3, gs, hdfs, ...) or fsspec (http, hf, ...) reads."""

import fnmatch
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar, cast

import pyarrow as pa
import pyarrow.fs as pafs

from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import URI, Place, place

NATIVE = {"file", "s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss"}
THREADS = 16
"""Requests at once to a remote store, where each waits for an answer."""
LIST_FROM = 1000
"""From so many files on, the sizes of remote ones come from listings, not from one request each."""
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
FAULTS = (pa.ArrowException, ValueError, OSError)
"""What pyarrow raises for a file that is not to be read, or not what it should be."""
A = TypeVar("A")
B = TypeVar("B")


def locate_file(address: Place) -> tuple[pafs.FileSystem, str]:
    """The file system of an address, and the path in it.

    Raises:
        DataError: a URI of a kind that neither pyarrow nor an installed part of fsspec reads.
    """
    text = str(address)
    if not URI.match(text):
        return pafs.LocalFileSystem(), text
    scheme, rest = str(place(text)).split("://", 1)
    try:
        if scheme not in NATIVE:
            return fsspec_file_system(scheme), strip_scheme(text)
        authority, _, path = rest.partition("/")
        system, base = native_file_system(f"{scheme}://{authority or '/'}")
    except (ImportError, ValueError, OSError) as error:
        raise DataError(f"{text}: cannot be read: {one_line(error)}") from None
    # Joined as it stands: names in a URI that pyarrow parses would have to be quoted.
    return system, f"{base.rstrip('/')}/{path}"


@lru_cache(maxsize=64)
def native_file_system(uri: str) -> tuple[pafs.FileSystem, str]:
    """pyarrow's file system and the path of a URI's bucket or host in it."""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    # Without it, pyarrow asks Amazon for the bucket's region, even when AWS_ENDPOINT_URL names another store.
    return pafs.FileSystem.from_uri(f"{uri}?region={region}" if region and uri.startswith("s3:") else uri)


@lru_cache(maxsize=64)
def fsspec_file_system(scheme: str) -> pafs.FileSystem:
    """fsspec's file system of a scheme, behind pyarrow's interface."""
    import fsspec

    return pafs.PyFileSystem(pafs.FSSpecHandler(fsspec.filesystem(scheme)))


def strip_scheme(uri: str) -> str:
    """The path of a URI in its fsspec file system."""
    import fsspec

    return str(fsspec.core.strip_protocol(str(place(uri))))


def open_file(address: Place) -> BinaryIO:
    """A file opened for reading at any place of it.

    Raises:
        OSError: FileNotFoundError and what else the store answers.
        DataError: a URI that cannot be read.
    """
    system, path = locate_file(address)
    return cast(BinaryIO, system.open_input_file(path))


def read_file(address: Place, flag: str, limit: int | None = None) -> bytes:
    """A small file's content.

    Args:
        address: where it is.
        flag: which led here.
        limit: read so many bytes at most; None: all.

    Raises:
        DataError: it is not there, or not to be read; names the flag that led here.
    """
    try:
        with open_file(address) as file:
            return bytes(file.read() if limit is None else file.read(limit))
    except FileNotFoundError:
        raise DataError(f"{address}: no such file ({flag})") from None
    except OSError as error:
        raise DataError(f"{address}: cannot be read: {one_line(error)} ({flag})") from None


def read_json(address: Place, flag: str) -> Any:
    """A JSON file's value.

    Raises:
        DataError: no such file, or not JSON in UTF-8.
    """
    try:
        return json.loads(read_file(address, flag).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{address}: not JSON: {one_line(error)}") from None


def find_image_folder(images: Path | str | None, annotations: str) -> Place:
    """The folder that ``--images`` names.

    Raises:
        DataError: there is none; names the annotations whose images it was to hold.
    """
    root = place(images or "")
    if not is_folder(root) and not is_web(root):
        raise DataError(f"{root}: no such folder; expected the images of {annotations} (--images)")
    return root


def is_folder(address: Place) -> bool:
    """Whether there is a folder."""
    system, path = locate_file(address)
    return bool(system.get_file_info(path.rstrip("/") or "/").type == pafs.FileType.Directory)


def is_web(address: Place) -> bool:
    """Whether an address is on a web server: there are files, but folders cannot be listed."""
    return str(address).startswith(("http://", "https://"))


def file_sizes(addresses: Sequence[str]) -> list[int | None]:
    """The sizes of files; None where there is none."""
    if not addresses or not URI.match(addresses[0]):
        return [local_size(address) for address in addresses]
    if len(addresses) < LIST_FROM or is_web(addresses[0]):
        return map_threads(remote_size, addresses)
    folders: dict[str, list[str]] = defaultdict(list)
    for address in addresses:
        folders[address.rpartition("/")[0]].append(address)
    known = {k: v for listing in map_threads(folder_sizes, list(folders)) for k, v in listing.items()}
    return [known.get(address) for address in addresses]


def local_size(address: str) -> int | None:
    """The size of a local file; None where there is none."""
    path = Path(address)
    return path.stat().st_size if path.is_file() else None


def remote_size(address: str) -> int | None:
    """The size of a remote file; None where there is none."""
    system, path = locate_file(address)
    info = system.get_file_info(path)
    return int(info.size or 0) if info.type == pafs.FileType.File else None


def folder_sizes(folder: str) -> dict[str, int]:
    """Address → size of the files in a remote folder, not of those below its folders."""
    system, path = locate_file(folder)
    found = system.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    return {f"{folder}/{info.base_name}": int(info.size or 0) for info in found if info.type == pafs.FileType.File}


def list_files(root: Place) -> list[str]:
    """The locations of all files below a folder, sorted; without those that are hidden or in a hidden folder.

    Raises:
        DataError: no such folder, or a name that is not text.
    """
    if not is_folder(root):
        raise DataError(f"{root}: no such folder (--images)")
    found = list_local(root) if isinstance(root, Path) else list_remote(root)
    names = sorted(name for name in found if not any(part.startswith((".", "__MACOSX")) for part in name.split("/")))
    for name in names:
        if not name.isprintable() and any("\udc80" <= sign <= "\udcff" for sign in name):
            raise DataError(f"{root}: the file name {name!r} is not UTF-8")
    return names


def list_local(root: Path) -> Iterable[str]:
    """The files below a local folder; linked folders are entered, each folder once."""
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        seen.add(os.path.realpath(folder))
        folders[:] = [name for name in folders if os.path.realpath(Path(folder, name)) not in seen]
        yield from (Path(folder, name).relative_to(root).as_posix() for name in files)


def list_remote(root: str) -> Iterable[str]:
    """The files below a remote folder."""
    system, path = locate_file(root)
    start = path.rstrip("/") + "/"
    for info in system.get_file_info(pafs.FileSelector(path.rstrip("/"), recursive=True)):
        if info.type == pafs.FileType.File:
            yield info.path.removeprefix(start)


def expand_pattern(pattern: Path | str, flag: str) -> tuple[Place, list[str]]:
    """The files that a pattern names, with ``{000..099}`` and ``{a,b}`` anywhere and ``*`` and ``?`` in the last part.

    Returns:
        their folder, and their locations in it: numbers and choices as they come, what ``*`` finds sorted.

    Raises:
        DataError: nothing fits.
    """
    folder, _, name = str(place(pattern)).rpartition("/")
    root = place(folder or "/")
    names = list(expand_braces(name))
    if any(sign in name for sign in "*?"):
        there = [file for file in list_files(root) if "/" not in file]
        names = [file for choice in names for file in there if fnmatch.fnmatchcase(file, choice)]
    if not names:
        raise DataError(f"{pattern}: no such files ({flag})")
    return root, names


def expand_braces(pattern: str) -> Iterable[str]:
    """The names that ``{000..099}`` and ``{a,b}`` stand for."""
    parts, choices, end = [], [], 0
    for match in BRACES.finditer(pattern):
        first, last, listed = match.groups()
        parts.append(pattern[end : match.start()])
        width = len(first or "")
        numbers = (f"{number:0{width}d}" for number in range(int(first or 0), int(last or 0) + 1))
        choices.append(listed.split(",") if listed else list(numbers))
        end = match.end()
    for chosen in product(*choices):
        yield "".join(text for pair in zip(parts, chosen, strict=True) for text in pair) + pattern[end:]


def map_threads(function: Callable[[A], B], items: Sequence[A]) -> list[B]:
    """The function of every item, some at once, in the items' order."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(function, items))


def suffix_of(location: str) -> str:
    """The last suffix of a location, in small letters, with its dot."""
    return PurePosixPath(location).suffix.lower()


def one_line(error: Exception) -> str:
    """An error's message without its line breaks."""
    return " ".join(str(error).split()) or type(error).__name__

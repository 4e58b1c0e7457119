"""Reads local paths and URIs: with pyarrow (s3, gs, hdfs, ...) or fsspec (http, hf, ...)."""

import errno
import fnmatch
import inspect
import json
import os
import re
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import product
from pathlib import Path
from posixpath import splitext
from typing import Any, BinaryIO, TypeVar, cast

import pyarrow as pa
import pyarrow.fs as pafs

from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import PathOrUri, resolve_uri
from xmrank.runtime.remote_path import URI

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
NATIVE = {"file", "s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss"}
THREADS = 16
"""Parallel requests to a remote store, where each waits for an answer."""
LIST_FROM = 1000
"""Number of remote files from which on their sizes come from folder listings, not from one request each."""
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
FAULTS = (pa.ArrowException, ValueError, OSError)
"""What pyarrow raises for a file that cannot be read, or has another format."""
NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""Answers of the system that mean that there is no file of a name."""
A = TypeVar("A")
B = TypeVar("B")


def locate_file(address: PathOrUri) -> tuple[pafs.FileSystem, str]:
    """The file system of an address, and the path in it.

    Raises:
        DataError: a URI whose scheme neither pyarrow nor an installed part of fsspec reads, or only with more settings.
    """
    text = str(address)
    if not URI.match(text):
        return pafs.LocalFileSystem(), text
    scheme, rest = str(resolve_uri(text)).split("://", 1)
    try:
        # fsspec is the fallback: pyarrow's own file systems are faster and release the GIL.
        if scheme not in NATIVE:
            return fsspec_file_system(scheme), strip_scheme(text)
        authority, _, path = rest.partition("/")
        system, base = native_file_system(f"{scheme}://{authority or '/'}")
    except (ImportError, ValueError, OSError) as error:
        raise DataError(f"{text}: cannot be read: {one_line(error)}") from None
    # Joined as text: in a URI that pyarrow parses itself, names would have to be quoted.
    return system, f"{base.rstrip('/')}/{path}"


@lru_cache(maxsize=64)
def native_file_system(uri: str) -> tuple[pafs.FileSystem, str]:
    """pyarrow's file system for a URI's bucket or host, and the path of the bucket in it."""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    # Without it, pyarrow requests the bucket's region from Amazon, even when AWS_ENDPOINT_URL names another store.
    return pafs.FileSystem.from_uri(f"{uri}?region={region}" if region and uri.startswith("s3:") else uri)


@lru_cache(maxsize=64)
def fsspec_file_system(scheme: str) -> pafs.FileSystem:
    """fsspec's file system of a scheme, with pyarrow's interface.

    Raises:
        ValueError: no such scheme, or a file system that needs arguments, such as ftp its host.
        ImportError: the package that it needs is not installed.
    """
    import fsspec

    parameters = list(inspect.signature(fsspec.get_filesystem_class(scheme).__init__).parameters.values())[1:]
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    # Tried without them, some would also print a traceback when Python deletes them.
    if needed:
        raise ValueError(f"{scheme} needs more than a URI: {', '.join(needed)}")
    # Web servers: user and password from the file that NETRC names, and proxies, so that a URI need not hold them.
    settings = {"client_kwargs": {"trust_env": True}} if scheme in ("http", "https") else {}
    return pafs.PyFileSystem(pafs.FSSpecHandler(fsspec.filesystem(scheme, **settings)))


def strip_scheme(uri: str) -> str:
    """The path of a URI in its fsspec file system."""
    import fsspec

    return str(fsspec.core.strip_protocol(str(resolve_uri(uri))))


def open_file(address: PathOrUri) -> BinaryIO:
    """A file opened for reading, with seek.

    Raises:
        OSError: FileNotFoundError, or another answer of the store.
        DataError: a URI that cannot be read, or a local pipe or device.
    """
    # Python's own files, where they are local: made in half the time, and there is one for every image.
    if not URI.match(str(address)):
        try:
            status = os.stat(address)  # noqa: PTH116 - a Path takes longer to make than the call
        except ValueError:  # a null character
            raise FileNotFoundError(errno.ENOENT, "no name of a file", str(address)) from None
        # To open anything else would wait for another process without end.
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            raise DataError(f"{address}: not a regular file")
        return open(address, "rb", buffering=0)  # type: ignore[return-value]  # noqa: PTH123
    system, path = locate_file(address)
    refuse_special(system, path)
    return cast(BinaryIO, system.open_input_file(path))


def refuse_special(system: pafs.FileSystem, path: str) -> None:
    """Raise DataError for a local pipe, device or socket: to open one would wait for another process without end."""
    if not isinstance(system, pafs.LocalFileSystem) or "\0" in path:
        return
    file = Path(path)
    if file.exists() and not file.is_file() and not file.is_dir():
        raise DataError(f"{path}: not a regular file")


def read_file(address: PathOrUri, flag: str, limit: int | None = None) -> bytes:
    """A small file's content.

    Args:
        address: local path or URI.
        flag: the one that named the file, for messages.
        limit: read at most this many bytes; None: all.

    Raises:
        DataError: the file does not exist or cannot be read.
    """
    try:
        with open_file(address) as file:
            return bytes(file.read() if limit is None else file.read(limit))
    except FileNotFoundError:
        raise DataError(f"{address}: no such file ({flag})") from None
    except OSError as error:
        raise DataError(f"{address}: cannot be read: {one_line(error)} ({flag})") from None


def read_json(address: PathOrUri, flag: str) -> Any:
    """The value in a JSON file.

    Raises:
        DataError: no such file, or not JSON in UTF-8.
    """
    return parse_json(read_file(address, flag), str(address))


def parse_json(content: bytes, source: str) -> Any:
    """The value in a JSON file's content; raises DataError where it is not JSON in UTF-8."""
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source}: not JSON: {one_line(error)}") from None


def find_image_folder(images: Path | str, annotations: str) -> PathOrUri:
    """The folder that ``--images`` names.

    Raises:
        DataError: no such folder; names the annotations whose images were expected there.
    """
    root = resolve_uri(images)
    # A web server cannot say what is a folder.
    if not is_folder(root) and not is_web(root):
        raise DataError(f"{root}: no such folder; expected the images of {annotations} (--images)")
    return root


def is_folder(address: PathOrUri) -> bool:
    """Whether there is a folder at a path or URI."""
    system, path = locate_file(address)
    return bool(system.get_file_info(path.rstrip("/") or "/").type == pafs.FileType.Directory)


def is_web(address: PathOrUri) -> bool:
    """Whether an address is on a web server: files can be read there, but folders cannot be listed."""
    return str(address).startswith(("http://", "https://"))


def file_sizes(addresses: Sequence[str]) -> list[int | None]:
    """The sizes of files; None where there is no file. All addresses are local, or all are remote."""
    if not addresses or not URI.match(addresses[0]):
        return [local_size(address) for address in addresses]
    if len(addresses) < LIST_FROM or is_web(addresses[0]):
        return map_threads(remote_size, addresses)
    # A listing returns a thousand sizes with one request.
    folders: dict[str, list[str]] = defaultdict(list)
    for address in addresses:
        folders[address.rpartition("/")[0]].append(address)
    known: dict[str, int] = {}
    for listing in map_threads(folder_sizes, list(folders)):
        known |= listing
    return [known.get(address) for address in addresses]


def local_size(address: str) -> int | None:
    """The size of a local file; None where there is no file."""
    try:
        status = os.stat(address)  # noqa: PTH116 - a Path takes longer to make than the call
    except ValueError:  # a name with a null character
        return None
    except OSError as error:
        if error.errno in NO_FILE:
            return None
        raise
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def remote_size(address: str) -> int | None:
    """The size of a remote file; None where there is no file."""
    system, path = locate_file(address)
    info = system.get_file_info(path)
    return int(info.size or 0) if info.type == pafs.FileType.File else None


def folder_sizes(folder: str) -> dict[str, int]:
    """Address → size of the files in a remote folder, without its subfolders."""
    system, path = locate_file(folder)
    entries = system.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    return {f"{folder}/{info.base_name}": int(info.size or 0) for info in entries if info.type == pafs.FileType.File}


def list_files(root: PathOrUri) -> list[str]:
    """The locations of all files below a folder, sorted, without hidden files and folders.

    Raises:
        DataError: no such folder, or a file name that is not UTF-8.
    """
    if not is_folder(root):
        raise DataError(f"{root}: no such folder (--images)")
    files = list_local(root) if isinstance(root, Path) else list_remote(root)
    names = sorted(name for name in files if not is_hidden(name))
    for name in names:
        # Python shows bytes of a file name that are not UTF-8 as these characters.
        if not name.isprintable() and any("\udc80" <= sign <= "\udcff" for sign in name):
            raise DataError(f"{root}: the file name {name!r} is not UTF-8")
    return names


def is_hidden(location: str) -> bool:
    """Whether a file or a folder above it is hidden, or macOS's own."""
    return any(part.startswith((".", "__MACOSX")) for part in location.split("/"))


def list_local(root: Path) -> Iterable[str]:
    """The files below a local folder; symbolic links to folders are followed, each folder is listed once."""
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        seen.add(os.path.realpath(folder))
        # Links may form a cycle: a folder that was listed is not entered again.
        folders[:] = [name for name in folders if os.path.realpath(Path(folder, name)) not in seen]
        # As text: a Path for each of a million files takes longer than listing them.
        inside = folder[len(str(root)) :].lstrip("/")
        yield from (f"{inside}/{name}" if inside else name for name in files)


def list_remote(root: str) -> Iterable[str]:
    """The files below a remote folder."""
    system, path = locate_file(root)
    start = path.rstrip("/") + "/"
    for info in system.get_file_info(pafs.FileSelector(path.rstrip("/"), recursive=True)):
        if info.type == pafs.FileType.File:
            yield info.path.removeprefix(start)


def expand_pattern(pattern: Path | str, flag: str) -> tuple[PathOrUri, list[str]]:
    """The files that a pattern names: ``{000..099}``, ``{a,b}``, ``*`` and ``?`` may occur in its last part.

    Returns:
        the folder, and the locations in it: those of braces in the pattern's order, those of ``*`` sorted.

    Raises:
        DataError: no file matches.
    """
    # Only the last part is a pattern: folders are taken literally.
    folder, _, name = str(resolve_uri(pattern)).rpartition("/")
    root = resolve_uri(folder or "/")
    names = list(expand_braces(name))
    if any(sign in name for sign in "*?"):
        there = [file for file in list_files(root) if "/" not in file]
        names = [file for choice in names for file in there if fnmatch.fnmatchcase(file, choice)]
    if not names:
        raise DataError(f"{pattern}: no such files ({flag})")
    return root, names


def expand_braces(pattern: str) -> Iterable[str]:
    """All names that a pattern with ``{000..099}`` and ``{a,b}`` expands to."""
    # The text between the braces alternates with what each pair of braces can become.
    parts, choices, end = [], [], 0
    for match in BRACES.finditer(pattern):
        first, last, listed = match.groups()
        parts.append(pattern[end : match.start()])
        width = len(first or "")  # {008..010} keeps its zeros
        numbers = (f"{number:0{width}d}" for number in range(int(first or 0), int(last or 0) + 1))
        choices.append(listed.split(",") if listed else list(numbers))
        end = match.end()
    for chosen in product(*choices):
        yield "".join(text for pair in zip(parts, chosen, strict=True) for text in pair) + pattern[end:]


def map_threads(function: Callable[[A], B], items: Sequence[A]) -> list[B]:
    """The function's results for all items, in their order; ``THREADS`` run at once."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(function, items))


def suffix_of(location: str) -> str:
    """The last suffix of a location, in lower case, with its dot."""
    return splitext(location)[1].lower()


def one_line(error: Exception) -> str:
    """An error's message on one line."""
    return " ".join(str(error).split()) or type(error).__name__

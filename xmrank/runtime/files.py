"""Atomic writes and content hashes, for the output of every stage."""

import contextlib
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError

from xmrank.runtime.errors import DataError
from xmrank.runtime.remote_path import RemotePath
from xmrank.runtime.storage import local_copy, upload

Value = TypeVar("Value", dict[str, Any], list[Any])
TEMPORARY = ".tmp-"
HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""Surrogates: halves of characters that need two. JSON can hold one alone, UTF-8 cannot."""


def read_json_file(path: Path, flag: str) -> Any:
    """The value in a JSON file of the user.

    Args:
        path: of the file.
        flag: the one that named it, for messages.

    Raises:
        DataError: no such file, not a regular one, or not JSON in UTF-8.
    """
    refuse_special_file(path, flag)
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file ({flag})") from None
    # The second for lists in lists in lists ….
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from None
    # Only an escape can have brought half a character, so most files need no second look.
    if "\\ud" in text.lower() and HALF_CHARACTER.search(json.dumps(value, ensure_ascii=False)):
        raise DataError(f"{path}: not text: holds half a character ({flag})")
    return value


def read_kept_json(path: Path, kind: type[Value]) -> Value:
    """The value in a JSON file that xmrank keeps for itself: run ids, results of an unfinished stage.

    Args:
        path: of the file.
        kind: dict or list.

    Raises:
        DataError: not JSON in UTF-8, or another kind of value; names the file.
        OSError: no such file.
    """
    refuse_special_file(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: damaged, not JSON: {error}") from None
    if not isinstance(value, kind):
        raise DataError(f"{path}: damaged: holds a {type(value).__name__}, expected a {kind.__name__}")
    return value


def refuse_special_file(path: Path, flag: str = "") -> None:
    """Raise DataError for a pipe, a device or a socket: to open one would wait for another process without end."""
    # A store has regular files only.
    if isinstance(path, RemotePath):
        return
    if path.exists() and not path.is_file() and not path.is_dir():
        raise DataError(f"{path}: not a regular file" + (f" ({flag})" if flag else ""))


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary file of this machine that becomes ``path`` when the block ends; after an error it is deleted.

    Raises:
        OSError: raised in the block; it gets the name of the file if it had none.
        StorageError: a remote path whose store refuses or does not answer.
    """
    with name_faults(path), upload(path) if isinstance(path, RemotePath) else replace_file(path) as temporary:
        yield temporary


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of ``path`` that replaces it when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept at the end, because writers such as numpy's append theirs to a name without it.
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        yield temporary
        # On the disk before it gets its name: after a crash, a file of that name is complete.
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        # The user knows the file by its own name, not by the temporary one.
        if error.errno is not None and error.filename == str(temporary):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def name_faults(path: Path) -> Iterator[None]:
    """Give the errors of the block the system's number, and the name of the file where they have none."""
    try:
        yield
    except SafetensorError as error:
        # safetensors raises an error of its own, whose text holds the system's number.
        if match := re.search(r"\(os error (\d+)\)", str(error)):
            number = int(match[1])
            raise OSError(number, os.strerror(number), str(path)) from None
        raise
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    if isinstance(path, RemotePath):
        path.write_text(text)
        return
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, as `to_json` gives it."""
    write_text(path, to_json(value))


def to_json(value: Any) -> str:
    """A value as the text of a JSON file, keys sorted, so that equal values give equal bytes."""
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array as ``.npy`` atomically."""
    write_rows(path, [array], array.shape, array.dtype)


def write_rows(path: Path, parts: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Write an array as ``.npy`` atomically, one part of its rows after the other.

    numpy's own writers are not used: on a full disk, a memory map kills the process and ``np.save`` gives no reason.
    """
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype).data)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as parquet atomically."""
    with atomic_path(path) as temporary, open_parquet_writer(temporary, table.schema) as writer:
        writer.write_table(table)


def open_parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer of a parquet file whose pages carry checksums."""
    return pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)


def read_parquet(path: Path, **options: Any) -> pa.Table:
    """The table in a parquet file of ours.

    Args:
        path: of the file.
        options: ``columns`` and ``filters`` of ``pyarrow.parquet.read_table``.

    Raises:
        DataError: no such file, not a parquet file, or a page that is not what its checksum says.
    """
    with parquet_errors(path):
        return pq.read_table(local_copy(path), page_checksum_verification=True, **options)


def read_batches(path: Path, size: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a parquet file of ours, up to ``size`` at a time.

    Raises:
        DataError: as `read_parquet`.
    """
    with parquet_errors(path), pq.ParquetFile(local_copy(path), page_checksum_verification=True) as file:
        yield from file.iter_batches(size, columns=columns)


@contextlib.contextmanager
def parquet_errors(path: Path) -> Iterator[None]:
    """Turn the errors of reading a damaged parquet file into one line.

    Raises:
        DataError: names the file.
    """
    try:
        yield
    except FileNotFoundError:  # pyarrow's own, without the system's number
        raise DataError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError) as error:
        # The system's own errors have a number; those of the format do not.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"{path}: damaged, not readable as parquet: {' '.join(str(error).split())}") from None


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """The sha256 of a JSON value's canonical text, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sha256_table(table: pa.Table) -> str:
    """The sha256 of a table's column names, types and values; it does not depend on the chunks."""
    digest = hashlib.sha256()
    # Neither the metadata (pandas writes its version there) nor the chunks are contents.
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema.remove_metadata()) as writer:
        writer.write_table(table.replace_schema_metadata(None).combine_chunks())
    digest.update(sink.getvalue())
    return digest.hexdigest()

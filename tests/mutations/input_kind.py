"""A kind of input: how a valid one is made, and what reads it."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class InputKind:
    """A kind of input.

    Attributes:
        name: in figures and messages.
        make: writes a valid input into an empty folder.
        read: what is read from the folder, a value that ``digest_value`` takes.
        files: pattern of the files that are changed, below the folder.
        is_covered: whether a checksum covers the files, so that other values must not be read from them.
        writes: whether reading changes the folder.
        also: names of further files or folders that a message may name instead of the file's own.
        read_many: reads many copies of the folder's file at once, where a process must be started to read one; returns
            what is read from each, or its error.
    """

    name: str
    make: Callable[[Path], object]
    read: Callable[[Path], Any]
    files: str = "*"
    is_covered: bool = False
    writes: bool = False
    also: tuple[str, ...] = ()
    read_many: Callable[[list[Path]], list[Any]] | None = None


def digest_value(value: Any) -> str:
    """A hash of whatever a reader returned: equal values have equal hashes, also with NaN in them."""
    digest = hashlib.sha256()
    add_value(digest, value)
    return digest.hexdigest()


def add_value(digest: Any, value: Any) -> None:
    """Add a value to a hash."""
    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, pa.Table):
        add_value(
            digest, {name: column.to_pylist() for name, column in zip(value.column_names, value.columns, strict=True)}
        )
    elif isinstance(value, Mapping):
        # The order counts: it is that of the file.
        for key, item in value.items():
            add_value(digest, key)
            add_value(digest, item)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        digest.update(f"[{len(value)}".encode())
        for item in value:
            add_value(digest, item)
    else:
        digest.update(f"{type(value).__name__} {value!r};".encode("utf-8", "backslashreplace"))

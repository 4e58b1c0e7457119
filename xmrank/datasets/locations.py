"""Where an image's bytes are: in a file, in a tar, or in a row of a parquet file.

A location is text, relative to the data set's root:

    train/17.jpg                              a file
    pairs-000.tar::17.jpg@1536+20480          20,480 bytes from byte 1,536 of a tar, its member 17.jpg
    data/train-0.parquet::image/17            row 17 of the column image

An address is a location with its root in front: a local path or a URI. The offset in a tar is part of the location, so
that any process can read a member directly, without the tar's headers.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xmrank.datasets.uris import file_sizes, locate_file, one_line, open_file, refuse_special
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import URI
from xmrank.runtime.redaction import redact_uri

MEMBER = re.compile(r"(?P<file>.+?\.(?P<kind>tar|parquet))::(?P<member>.+)", re.IGNORECASE | re.DOTALL)
SPAN = re.compile(r"@(\d+)\+(\d+)$")


def in_tar(file: str, member: str, offset: int, size: int) -> str:
    """The location of a tar's member."""
    return f"{file}::{member}@{offset}+{size}"


def in_parquet(file: str, column: str, row: int) -> str:
    """The location of a row of a parquet file."""
    return f"{file}::{column}/{row}"


def container_of(address: str) -> str:
    """The file that an address is in: the tar or parquet file, else the address itself."""
    match = MEMBER.fullmatch(address)
    return match["file"] if match else address


def read_bytes(address: str) -> bytes:
    """An image's bytes; empty where there is no such file, member or row.

    Raises:
        DataError: its parquet file is broken.
        OSError: the store does not answer; names the address.
    """
    try:
        return read_location(address)
    except (FileNotFoundError, IsADirectoryError):
        return b""
    except OSError as error:
        if error.filename is not None:
            raise
        # pyarrow names no file in its errors.
        raise OSError(error.errno, redact_uri(one_line(error)), redact_uri(address)) from None


def read_location(address: str) -> bytes:
    """An image's bytes.

    Raises:
        DataError: its parquet file is broken.
        OSError: FileNotFoundError, or another answer of the store.
    """
    match = MEMBER.fullmatch(address)
    if match is None:
        with open_file(address) as file:
            return bytes(file.read())
    if match["kind"].lower() == "parquet":
        # A column's name may contain a slash; a row number does not.
        column, _, row = match["member"].rpartition("/")
        return parquet_rows(match["file"], column, file_version(match["file"])).read_row(int(row))
    offset, size = parse_span(match["member"])
    with open_file(match["file"]) as file:
        file.seek(offset)
        return bytes(file.read(size))


def parse_span(member: str) -> tuple[int, int]:
    """Offset and size in a tar member's location."""
    match = SPAN.search(member)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def find_absent(addresses: Sequence[str]) -> list[int]:
    """Indices of the images whose file does not exist."""
    files = sizes_of_files(addresses)
    return [i for i, address in enumerate(addresses) if files[container_of(address)] is None]


def find_changed(addresses: Sequence[str], read: Sequence[int]) -> list[int]:
    """Indices of the images that have another size than when they were read.

    A row of a parquet file counts as unchanged while its file exists: the data set's fingerprint has the file's size.

    Args:
        addresses: of the images.
        read: their sizes when they were read; 0 for those that did not exist.
    """
    files = sizes_of_files(addresses)
    indices = []
    for index, (address, before) in enumerate(zip(addresses, read, strict=True)):
        if size_now(address, files[container_of(address)], before) != before:
            indices.append(index)
    return indices


def size_now(address: str, file_size: int | None, before: int) -> int:
    """An image's size, from that of its file."""
    match = MEMBER.fullmatch(address)
    if match is None or file_size is None:
        return file_size or 0
    if match["kind"].lower() == "parquet":
        return before  # only reading it would tell
    offset, size = parse_span(match["member"])
    # A tar that was cut short has less of the member, or nothing.
    return max(0, min(size, file_size - offset))


def sizes_of_files(addresses: Sequence[str]) -> dict[str, int | None]:
    """File → size, for the files that the addresses are in, each looked up once; None where there is no file."""
    files = list(dict.fromkeys(map(container_of, addresses)))
    return dict(zip(files, file_sizes(files), strict=True))


def leads_outside(location: str) -> bool:
    """Whether a location leaves its root: absolute, with .., or not a path at all."""
    return location.startswith("/") or ".." in location.split("/") or "\0" in location


def file_version(file: str) -> tuple[int, int]:
    """Changes when a local file is rewritten; remote files are assumed not to change while a process runs."""
    if URI.match(file):
        return (0, 0)
    status = Path(file).stat()
    return (status.st_mtime_ns, status.st_size)


class ParquetRows:
    """The images in one column of a parquet file. Keeps the row group that was read last: images are read in order.

    Args:
        file: its address.
        column: of binary values, or of structs with ``bytes``, as Hugging Face writes images.

    Raises:
        DataError: not a parquet file.
        OSError: FileNotFoundError, or another answer of the store.
    """

    def __init__(self, file: str, column: str) -> None:
        system, path = locate_file(file)
        refuse_special(system, path)
        self.name, self.column = file, column
        try:
            self.file = pq.ParquetFile(system.open_input_file(path), page_checksum_verification=True)
        except (pa.ArrowException, ValueError) as error:
            raise self.make_error(error) from None
        groups = self.file.metadata.num_row_groups
        # Row i is in the first row group that ends behind it.
        self.ends = np.cumsum([self.file.metadata.row_group(g).num_rows for g in range(groups)], dtype=np.int64)
        self.group: int | None = None
        self.values: Any = None

    def read_row(self, row: int) -> bytes:
        """A row's bytes; empty when it is null or there is no such row."""
        group = int(np.searchsorted(self.ends, row, side="right"))
        if group == len(self.ends):
            return b""
        if group != self.group:
            # Images are read in order, so the group is used until its last row.
            self.values, self.group = self.load_group(group), group
        start = int(self.ends[group - 1]) if group else 0
        return self.values[row - start].as_py() or b""

    def load_group(self, group: int) -> Any:
        """The binary values of a row group."""
        kind = self.file.schema_arrow.field(self.column).type
        is_struct = pa.types.is_struct(kind)
        try:
            table = self.file.read_row_group(group, columns=[f"{self.column}.bytes" if is_struct else self.column])
        except (pa.ArrowException, ValueError) as error:
            raise self.make_error(error) from None
        except OSError as error:
            if URI.match(self.name):  # the store may just not answer: that is no fault of the file
                raise
            raise self.make_error(error) from None
        return pc.struct_field(table[self.column], "bytes") if is_struct else table[self.column]

    def make_error(self, error: Exception) -> DataError:
        """The error for a file that exists but cannot be read as parquet."""
        return DataError(f"its file {Path(self.name).name} is not readable as parquet: {one_line(error)}")


@lru_cache(maxsize=2)
def parquet_rows(file: str, column: str, version: tuple[int, int]) -> ParquetRows:  # noqa: ARG001
    """The open file. ``version`` is part of the cache's key, so that a rewritten file is opened again."""
    return ParquetRows(file, column)

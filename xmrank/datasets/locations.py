"""Where an image's bytes are: in a file, in a tar, or in a row of a parquet file.

A location is text, relative to the data set's root:

    train/17.jpg                              a file
    pairs-000.tar::17.jpg@1536+20480          20,480 bytes from byte 1,536 of a tar, its member 17.jpg
    data/train-0.parquet::image/17            row 17 of the column image

An address is a location with its root in front: a local path or a URI. The offset in a tar is part of the location, so
that any process can read a member directly, without the tar's headers.
"""

import errno
import os
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
from xmrank.runtime.redaction import redact_uri
from xmrank.runtime.remote_path import URI

MEMBER = re.compile(r"(?P<file>.+?\.(?P<kind>tar|parquet))::(?P<member>.+)", re.IGNORECASE | re.DOTALL)
SPAN = re.compile(r"@([0-9]{1,18})\+([0-9]{1,18})")
UNKNOWN_SIZE = -1
ROW = re.compile(r"(?P<column>.+)/(?P<row>[0-9]{1,18})", re.DOTALL)
"""Numbers of 18 digits fit into the 64 bits that files are addressed with."""


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
        DataError: its parquet file is broken or has no such column, or the address is none.
        OSError: the store does not answer; names the address.
    """
    try:
        return read_location(address)
    except (FileNotFoundError, IsADirectoryError):
        return b""
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return b""
        if error.filename is not None:
            raise
        # pyarrow names no file in its errors.
        raise OSError(error.errno, redact_uri(one_line(error)), redact_uri(address)) from None


def read_location(address: str) -> bytes:
    """An image's bytes.

    Raises:
        DataError: its parquet file is broken or has no such column, or the address is none.
        OSError: FileNotFoundError, or another answer of the store.
    """
    match = MEMBER.fullmatch(address)
    if match is None:
        with open_file(address) as file:
            return bytes(file.read())
    if match["kind"].lower() == "parquet":
        column, row = parse_row(match["member"])
        return parquet_rows(match["file"], column, file_version(match["file"])).read_row(row)
    offset, size = parse_span(match["member"])
    with open_file(match["file"]) as file:
        end = file.seek(0, os.SEEK_END)
        # The memory for a whole span is taken before it is read, so a span must not be longer than its file.
        return bytes(file.read(min(size, end - file.seek(offset)))) if offset < end else b""


def parse_row(member: str) -> tuple[str, int]:
    """Column and row in the location of a parquet file's row.

    Raises:
        DataError: it does not end with a row number.
    """
    # A column's name may contain a slash; a row number does not.
    match = ROW.fullmatch(member)
    if match is None:
        raise DataError(f"{member!r} in a parquet file: expected COLUMN/ROW")
    return match["column"], int(match["row"])


def parse_span(member: str) -> tuple[int, int]:
    """Offset and size in a tar member's location.

    Raises:
        DataError: it does not end with them.
    """
    start = member.rfind("@")
    match = SPAN.fullmatch(member, max(start, 0))
    if match is None:
        raise DataError(f"{member!r} in a tar: expected NAME@OFFSET+SIZE")
    return int(match[1]), int(match[2])


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


def find_sizes(addresses: Sequence[str]) -> list[int | None]:
    """The sizes of images; None where there is no file, ``UNKNOWN_SIZE`` where only reading would tell."""
    files = sizes_of_files(addresses)
    sizes: list[int | None] = []
    for address in addresses:
        size = files[container_of(address)]
        sizes.append(None if size is None else size_now(address, size, UNKNOWN_SIZE))
    return sizes


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
        self.rows = range(0)
        self.values: Any = None

    def read_row(self, row: int) -> bytes:
        """A row's bytes; empty when it is null or there is no such row."""
        # Images are read in order, so the group is used until its last row.
        if row not in self.rows:
            group = int(np.searchsorted(self.ends, row, side="right"))
            if group == len(self.ends):
                return b""
            self.values = self.load_group(group)
            self.rows = range(int(self.ends[group - 1]) if group else 0, int(self.ends[group]))
        return self.values[row - self.rows.start].as_py() or b""

    def load_group(self, group: int) -> Any:
        """The binary values of a row group.

        Raises:
            DataError: no such column, one of other values, or a broken file.
            OSError: another answer of the store.
        """
        is_struct = self.find_struct()
        try:
            table = self.file.read_row_group(group, columns=[f"{self.column}.bytes" if is_struct else self.column])
        except (pa.ArrowException, ValueError) as error:
            raise self.make_error(error) from None
        except OSError as error:
            if URI.match(self.name):  # the store may just not answer: that is no fault of the file
                raise
            raise self.make_error(error) from None
        return pc.struct_field(table[self.column], "bytes") if is_struct else table[self.column]

    def find_struct(self) -> bool:
        """Whether the column has structs with ``bytes``; otherwise it has binary values.

        Raises:
            DataError: no such column, or it has other values.
        """
        try:
            schema = self.file.schema_arrow
        except (pa.ArrowException, ValueError) as error:
            raise self.make_error(error) from None
        # -1 also where two columns have the name.
        index = schema.get_field_index(self.column)
        if index < 0:
            raise DataError(f"its file {Path(self.name).name} has no column {self.column!r}")
        kind = schema.field(index).type
        is_struct = pa.types.is_struct(kind)
        # The names of its fields may repeat, or lack this one.
        values = kind.field("bytes").type if is_struct and kind.get_field_index("bytes") >= 0 else kind
        if not is_binary(values):
            raise DataError(f"its file {Path(self.name).name}: {self.column!r} has {kind}, expected bytes")
        return is_struct

    def make_error(self, error: Exception) -> DataError:
        """The error for a file that exists but cannot be read as parquet."""
        return DataError(f"its file {Path(self.name).name} is not readable as parquet: {one_line(error)}")


def is_binary(kind: pa.DataType) -> bool:
    """Whether a column's values are bytes, also where repeated ones are stored once."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    checks = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(check(kind) for check in checks)


@lru_cache(maxsize=2)
def parquet_rows(file: str, column: str, version: tuple[int, int]) -> ParquetRows:  # noqa: ARG001
    """The open file. ``version`` is part of the cache's key, so that a rewritten file is opened again."""
    return ParquetRows(file, column)

"""Where an image's bytes are: in a file of their own, in a tar, or in a row of a parquet file.

A location is text, relative to the data set's root:

    train/17.jpg                              a file
    pairs-000.tar::17.jpg@1536+20480          20,480 bytes from byte 1,536 of a tar, its member 17.jpg
    data/train-0.parquet::image/17            row 17 of the column image

An address is a location below its root: a local path or a URI. The place in a tar is part of the location, so that any
process reads a member at once, without the tar's headers.
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

from xmrank.datasets.uris import file_sizes, locate_file, one_line, open_file
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import URI

MEMBER = re.compile(r"(?P<file>.+?\.(?P<kind>tar|parquet))::(?P<member>.+)", re.IGNORECASE | re.DOTALL)
SPAN = re.compile(r"@(\d+)\+(\d+)$")


def in_tar(file: str, member: str, offset: int, size: int) -> str:
    """The location of a tar's member."""
    return f"{file}::{member}@{offset}+{size}"


def in_parquet(file: str, column: str, row: int) -> str:
    """The location of a row of a parquet file."""
    return f"{file}::{column}/{row}"


def container_of(address: str) -> str:
    """The file that an address lies in; its own when it is no member."""
    match = MEMBER.fullmatch(address)
    return match["file"] if match else address


def read_bytes(address: str) -> bytes:
    """An image's bytes; none where there is no such file, member or row.

    Raises:
        DataError: its parquet file is broken there.
        OSError: the store does not answer; names the address.
    """
    try:
        return read_location(address)
    except (FileNotFoundError, IsADirectoryError):
        return b""
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, one_line(error), address) from None


def read_location(address: str) -> bytes:
    """An image's bytes, wherever they are.

    Raises:
        DataError: its parquet file is broken there.
        OSError: FileNotFoundError, and what else the store answers.
    """
    match = MEMBER.fullmatch(address)
    if match is None:
        with open_file(address) as file:
            return bytes(file.read())
    if match["kind"].lower() == "parquet":
        column, _, row = match["member"].rpartition("/")
        return parquet_rows(match["file"], column, file_version(match["file"])).read(int(row))
    offset, size = parse_span(match["member"])
    with open_file(match["file"]) as file:
        file.seek(offset)
        return bytes(file.read(size))


def parse_span(member: str) -> tuple[int, int]:
    """Offset and size in a tar member's location."""
    match = SPAN.search(member)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def find_absent(addresses: Sequence[str]) -> list[int]:
    """Which of the images are not there: their positions."""
    files = sizes_of_files(addresses)
    return [i for i, address in enumerate(addresses) if files[container_of(address)] is None]


def find_changed(addresses: Sequence[str], read: Sequence[int]) -> list[int]:
    """Which of the images have another size than when they were read, 0 for those that were not there: their positions.

    A row of a parquet file counts as unchanged while its file is there: the data set's fingerprint knows its size.
    """
    files = sizes_of_files(addresses)
    now = [
        size_now(address, files[container_of(address)], before) for address, before in zip(addresses, read, strict=True)
    ]
    return [i for i, (size, before) in enumerate(zip(now, read, strict=True)) if size != before]


def size_now(address: str, file_size: int | None, before: int) -> int:
    """An image's size, from that of its file."""
    match = MEMBER.fullmatch(address)
    if match is None or file_size is None:
        return file_size or 0
    if match["kind"].lower() == "parquet":
        return before
    offset, size = parse_span(match["member"])
    return max(0, min(size, file_size - offset))


def sizes_of_files(addresses: Sequence[str]) -> dict[str, int | None]:
    """File → size, of the files that the addresses lie in, each asked once; None where there is none."""
    files = list(dict.fromkeys(map(container_of, addresses)))
    return dict(zip(files, file_sizes(files), strict=True))


def leads_outside(location: str) -> bool:
    """Whether a relative location climbs out of its folder, is absolute, or is no path at all."""
    return location.startswith("/") or ".." in location.split("/") or "\0" in location


def file_version(file: str) -> tuple[int, int]:
    """What tells a local file's versions apart; remote files are taken not to change under a running process."""
    if URI.match(file):
        return (0, 0)
    status = Path(file).stat()
    return (status.st_mtime_ns, status.st_size)


class ParquetRows:
    """The images in one column of a parquet file; keeps the row group that was read last.

    Args:
        file: its address.
        column: of binary values, or of structs with ``bytes``, as Hugging Face writes images.

    Raises:
        DataError: it is no parquet file.
        OSError: FileNotFoundError, and what else the store answers.
    """

    def __init__(self, file: str, column: str) -> None:
        system, path = locate_file(file)
        self.name, self.column = file, column
        try:
            self.file = pq.ParquetFile(system.open_input_file(path))
        except (pa.ArrowException, ValueError) as error:
            raise self.broken(error) from None
        groups = self.file.metadata.num_row_groups
        self.ends = np.cumsum([self.file.metadata.row_group(g).num_rows for g in range(groups)], dtype=np.int64)
        self.group: int | None = None
        self.values: Any = None

    def read(self, row: int) -> bytes:
        """A row's bytes; none when it is null or beyond the last."""
        group = int(np.searchsorted(self.ends, row, side="right"))
        if group == len(self.ends):
            return b""
        if group != self.group:
            self.values, self.group = self.load(group), group
        start = int(self.ends[group - 1]) if group else 0
        return self.values[row - start].as_py() or b""

    def load(self, group: int) -> Any:
        """The binary values of a row group."""
        kind = self.file.schema_arrow.field(self.column).type
        is_struct = pa.types.is_struct(kind)
        try:
            table = self.file.read_row_group(group, columns=[f"{self.column}.bytes" if is_struct else self.column])
        except (pa.ArrowException, ValueError) as error:
            raise self.broken(error) from None
        except OSError as error:
            if URI.match(self.name):  # the store may just not answer: no reason to give the images up
                raise
            raise self.broken(error) from None
        return pc.struct_field(table[self.column], "bytes") if is_struct else table[self.column]

    def broken(self, error: Exception) -> DataError:
        """The error of a file that is there and not as it should be."""
        return DataError(f"its file {Path(self.name).name} is not readable as parquet: {one_line(error)}")


@lru_cache(maxsize=2)
def parquet_rows(file: str, column: str, version: tuple[int, int]) -> ParquetRows:  # noqa: ARG001
    """The open file; ``version`` keeps a rewritten one from being taken for the old."""
    return ParquetRows(file, column)

"""The members of a tar and their offsets: headers are read once, members are never unpacked to disk."""

import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

from xmrank.datasets.locations import leads_outside
from xmrank.datasets.uris import file_sizes, one_line, open_file
from xmrank.runtime.errors import DataError

BUFFER = 1 << 18
"""Bytes that one request to a remote store reads: several headers and texts."""


@dataclass(frozen=True)
class TarMember:
    """A file in a tar.

    Attributes:
        offset: where its bytes begin in the tar.
        content: its bytes, if they were wanted.
    """

    name: str
    offset: int
    size: int
    content: bytes | None = None


def read_members(address: str, source: str, wanted: Callable[[str, int], bool]) -> list[TarMember]:
    """The files in a tar, in its order.

    Args:
        address: of an uncompressed tar.
        source: what messages call it.
        wanted: by name and size, whether a member's content is read too.

    Raises:
        DataError: no such file, not a tar, compressed, cut short, or with a member whose name leads out of it.
    """
    try:
        with open_file(address) as file, io.BufferedReader(cast(io.FileIO, file), BUFFER) as buffered:
            members = list(walk_members(cast(BinaryIO, buffered), source, wanted))
    except FileNotFoundError:
        raise DataError(f"{address}: no such file (--images)") from None
    except (tarfile.TarError, OSError, ValueError) as error:
        raise DataError(
            f"{source}: not readable as an uncompressed tar: {one_line(error)} (members are read by their offset in it)"
        ) from None
    # tarfile does not notice that the last member's bytes are missing: it reads headers only.
    length = file_sizes([address])[0] or 0
    for member in members:
        if member.offset + member.size > length:
            raise DataError(f"{source}: cut short in its member {member.name}, at {length} bytes")
    return members


def walk_members(file: BinaryIO, source: str, wanted: Callable[[str, int], bool]) -> Iterator[TarMember]:
    """The members of an open tar that are plain files."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (entry := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep every header while it is open
            if leads_outside(entry.name):
                raise DataError(f'{source}: its member "{entry.name}" leads out of the archive')
            if not entry.isreg() or entry.issparse():
                continue  # folders, links, devices: no bytes of their own
            content = None
            if wanted(entry.name, entry.size):
                # tarfile seeks to the next header by itself, so the position need not be restored.
                file.seek(entry.offset_data)
                content = file.read(entry.size)
            yield TarMember(entry.name, entry.offset_data, entry.size, content)
        # tarfile stops at a broken header as it does at the end, which is a block of zeros.
        start = tar.offset  # type: ignore[attr-defined]
        file.seek(start)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise DataError(f"{source}: broken at byte {start}: expected the header of a member")

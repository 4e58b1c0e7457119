"""Changes of a file that know nothing of its format, and things that are no file but have its name."""

import os
from collections.abc import Callable
from pathlib import Path
from random import Random

ByteEdit = Callable[[bytes, Random], bytes]


def flip_bits(content: bytes, random: Random) -> bytes:
    """One to eight bits are the other way round."""
    changed = bytearray(content)
    for _ in range(random.choice([1, 1, 1, 2, 8])):
        if changed:
            changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def flip_early_bit(content: bytes, random: Random) -> bytes:
    """A bit of the first 200 bytes, where headers are."""
    return flip_bits(content[:200], random) + content[200:]


def flip_late_bit(content: bytes, random: Random) -> bytes:
    """A bit of the last 200 bytes, where footers and directories are."""
    return content[:-200] + flip_bits(content[-200:], random)


def set_bytes(content: bytes, random: Random) -> bytes:
    """Some bytes get values that are limits: 0, 127, 128, 255."""
    changed = bytearray(content)
    for _ in range(random.choice([1, 2, 4])):
        if changed:
            changed[random.randrange(len(changed))] = random.choice([0, 127, 128, 255])
    return bytes(changed)


def zero_block(content: bytes, random: Random) -> bytes:
    """A block of zeros, as a crash leaves it in a file that was not synced."""
    start, end = span(content, random)
    return content[:start] + bytes(end - start) + content[end:]


def truncate(content: bytes, random: Random) -> bytes:
    """The file ends early."""
    return content[: random.randrange(len(content) + 1)]


def truncate_start(content: bytes, random: Random) -> bytes:
    """The file lacks its first bytes."""
    return content[span(content, random)[0] :]


def delete_block(content: bytes, random: Random) -> bytes:
    """A block is missing."""
    start, end = span(content, random)
    return content[:start] + content[end:]


def repeat_block(content: bytes, random: Random) -> bytes:
    """A block is there twice."""
    start, end = span(content, random)
    return content[:end] + content[start:]


def swap_blocks(content: bytes, random: Random) -> bytes:
    """Two halves of a span change their order."""
    start, end = span(content, random)
    middle = (start + end) // 2
    return content[:start] + content[middle:end] + content[start:middle] + content[end:]


def append_bytes(content: bytes, random: Random) -> bytes:
    """The file goes on with the beginning of itself, zeros or noise."""
    return content + random.choice([content, bytes(100), random.randbytes(100), b"\n"])


def empty(content: bytes, random: Random) -> bytes:
    """Nothing is left."""
    return b""


def span(content: bytes, random: Random) -> tuple[int, int]:
    """Start and end of a block."""
    start = random.randrange(len(content) + 1)
    return start, min(len(content), start + random.choice([1, 8, 64, 512, 4096]))


BYTE_EDITS: dict[str, ByteEdit] = {
    edit.__name__: edit
    for edit in (
        flip_bits, flip_early_bit, flip_late_bit, set_bytes, zero_block, truncate, truncate_start, delete_block,
        repeat_block, swap_blocks, append_bytes, empty,
    )
}  # fmt: skip


def make_pipe(path: Path) -> None:
    """A pipe that nobody writes to: whoever opens it waits."""
    os.mkfifo(path)


def make_folder(path: Path) -> None:
    """A directory with a file in it."""
    path.mkdir()
    (path / "file").write_text("x")


def make_loop(path: Path) -> None:
    """A symbolic link to itself."""
    path.symlink_to(path.name)


def make_broken_link(path: Path) -> None:
    """A symbolic link to nothing."""
    path.symlink_to("nothing-here")


def make_nothing(path: Path) -> None:
    """The file is missing."""


SPECIAL_FILES: dict[str, Callable[[Path], None]] = {
    make.__name__: make for make in (make_pipe, make_folder, make_loop, make_broken_link, make_nothing)
}
"""By name, what takes the file's name."""

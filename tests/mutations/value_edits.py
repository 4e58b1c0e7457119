"""Changes of the values in a file of a known format: JSON, YAML, tables, arrays, archives."""

import copy
import gzip
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from functools import cache
from random import Random
from typing import Any

import numpy as np
import yaml

from mutations.array_edits import edit_npy, edit_numbers, edit_parquet
from mutations.byte_edits import ByteEdit, flip_bits, swap_blocks, zero_block

DEEP = "@deep@"
"""Stands for lists in lists until the text is written: json.dumps could not write them."""
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 0.5, float("nan"), float("inf"), -float("inf"), 1e300, 2**31, 2**63, -(2**63), 10**30,
    10**400, "", " ", "x", "0", "nan", "\ud800", "\0", "../x", "/etc/hostname", "a\nb", "é" * 3, "x" * 5000, [], {},
    [[]], [None], [0], {"": None}, {"a": 1}, [1, "a"], DEEP,
)  # fmt: skip
"""What a value becomes: other types, limits of number types, texts that are not paths, not lines or not text."""


# JSON


def choose_odd(random: Random) -> Any:
    """One of the odd values, a copy: later edits may change it."""
    return copy.deepcopy(random.choice(ODD_VALUES))


def list_slots(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container and key below a value."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from list_slots(value[key])


def edit_value(value: Any, random: Random) -> Any:
    """A JSON value with one or two of its parts changed."""
    for _ in range(random.choice([1, 1, 1, 2])):
        slots = list(list_slots(value))
        if not slots or random.random() < 0.05:
            return choose_odd(random)
        holder, key = random.choice(slots)
        action = random.choice(["odd", "odd", "odd", "swap", "delete", "add", "rename", "number"])
        other, other_key = random.choice(slots)
        if action == "swap":
            # A value and what contains it would make a circle.
            first, second = json.dumps(holder[key]), json.dumps(other[other_key])
            holder[key], other[other_key] = json.loads(second), json.loads(first)
        elif action == "delete":
            del holder[key]
        elif action == "add":
            new = choose_odd(random)
            holder.insert(key, new) if isinstance(holder, list) else holder.update({"new": new})
        elif action == "rename" and isinstance(holder, dict):
            holder[f"{key}x"] = holder.pop(key)
        elif action == "number" and isinstance(holder[key], int | float):
            holder[key] += random.choice([1, -1, 0.5, 1000])
        else:
            holder[key] = choose_odd(random)
    return value


def write_json(value: Any, random: Random) -> bytes:
    """A JSON text; deep lists are put in."""
    depth = random.choice([1000, 100_000])
    deep = random.choice(["[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth])
    return json.dumps(value).replace(f'"{DEEP}"', deep).encode()


def edit_json(content: bytes, random: Random) -> bytes:
    """Values of a JSON file are changed."""
    return write_json(edit_value(json.loads(content), random), random)


def edit_json_line(content: bytes, random: Random) -> bytes:
    """Values in one line of a file of JSON lines are changed."""
    lines = content.splitlines()
    line = random.randrange(len(lines))
    lines[line] = edit_json(lines[line], random)
    return b"\n".join(lines) + b"\n"


def edit_yaml(content: bytes, random: Random) -> bytes:
    """Values of a YAML file are changed; it is written as JSON, which is YAML."""
    return write_json(edit_value(yaml.safe_load(content), random), random)


def write_alias_bomb(content: bytes, random: Random) -> bytes:
    """YAML of a few lines that stands for a value of 10^20 items."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 20)]
    return content + "\n".join(["", *lines, ""]).encode()


# Text


def edit_encoding(content: bytes, random: Random) -> bytes:
    """The text in another encoding, or with a byte order mark."""
    text = content.decode(errors="replace")
    encoded = [text.encode("utf-16"), text.encode("latin1", "replace"), text.encode("utf-8-sig"), text.encode("utf-32")]
    return random.choice([*encoded, b"\xff\xfe" + content])


def insert_sign(content: bytes, random: Random) -> bytes:
    """A sign that means something to parsers is put in somewhere, perhaps many times."""
    at = random.randrange(len(content) + 1)
    signs = [b'"', b"'", b",", b"\t", b"|", b";", b"\0", b"\n", b"\r", b"\\", b"{", b"[", b"]", b"}", b":", b"&a *a"]
    signs += [b"\xed\xa0\x80", b"\xff", b"\\ud800", b"%", b"%ff", b"nan", b"1e999", b" ", "\u2028".encode(), b"\x1a"]
    return content[:at] + random.choice(signs) * random.choice([1, 1, 1, 2, 2000]) + content[at:]


def delete_sign(content: bytes, random: Random) -> bytes:
    """One of the signs of the format is missing."""
    found = [at for at, byte in enumerate(content) if chr(byte) in "\"',\t\n{}[]:- "]
    if not found:
        return content
    at = random.choice(found)
    return content[:at] + content[at + 1 :]


def swap_words(content: bytes, random: Random) -> bytes:
    """Two words change their positions."""
    words = content.split(b" ")
    first, second = random.randrange(len(words)), random.randrange(len(words))
    words[first], words[second] = words[second], words[first]
    return b" ".join(words)


def swap_cells(content: bytes, random: Random) -> bytes:
    """Two cells of a table change their positions, or one becomes something odd."""
    rows = [line.split(b",") for line in content.split(b"\n")]
    first, second = random.choice(rows), random.choice(rows)
    one, other = random.randrange(len(first)), random.randrange(len(second))
    if random.random() < 0.5:
        first[one], second[other] = second[other], first[one]
    else:
        first[one] = str(choose_odd(random)).encode(errors="replace")
    return b"\n".join(b",".join(row) for row in rows)


def shuffle_lines(content: bytes, random: Random) -> bytes:
    """The lines are in another order, or some are there twice."""
    lines = content.splitlines(keepends=True)
    return b"".join(random.choices(lines, k=len(lines)) if random.random() < 0.5 else random.sample(lines, len(lines)))


# Other containers


def edit_npz(content: bytes, random: Random) -> bytes:
    """An archive of arrays with one of them changed, or with one that is far larger than it looks."""
    with np.load(io.BytesIO(content)) as archive:
        members = {name: npy_bytes(array) for name, array in archive.items()}
    name = random.choice(list(members))
    if random.random() < 0.05:
        return make_zip_bomb(name)
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as file:
        for member, own in members.items():
            if member != name:
                file.writestr(f"{member}.npy", own)
            else:
                file.writestr(f"{member}.npy", random.choice([edit_npy, edit_numbers, zero_middle])(own, random))
    return sink.getvalue()


def npy_bytes(array: np.ndarray) -> bytes:
    """An array as ``.npy``."""
    sink = io.BytesIO()
    np.save(sink, array)
    return sink.getvalue()


def zero_middle(content: bytes, random: Random) -> bytes:
    """The bytes of an array end early."""
    return content[: len(content) // 2]


@cache
def make_zip_bomb(name: str) -> bytes:
    """An archive of 1 MB whose array has 220 MB; made once, because that takes a second."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr(f"{name}.npy", npy_bytes(np.zeros((55, 1 << 20), np.float32)))
    return sink.getvalue()


@cache
def make_gzip_bomb() -> bytes:
    """220 MB of spaces in 1 MB."""
    return gzip.compress(b" " * 220_000_000, compresslevel=1, mtime=0)


def edit_gzip(content: bytes, random: Random) -> bytes:
    """A packed text whose text is changed, or that is far larger than it looks."""
    if random.random() < 0.05:
        return make_gzip_bomb()
    return gzip.compress(
        random.choice([insert_sign, delete_sign, swap_words, shuffle_lines])(gzip.decompress(content), random)
    )


def edit_safetensors(content: bytes, random: Random) -> bytes:
    """A file of tensors whose header says something else, or whose numbers are other ones."""
    (length,) = struct.unpack("<Q", content[:8])
    header, numbers = json.loads(content[8 : 8 + length]), content[8 + length :]
    change = random.choice(["header", "header", "length", "numbers", "swap"])
    if change == "numbers":
        return content[: 8 + length] + random.choice([flip_bits, swap_blocks, zero_block])(numbers, random)
    if change == "swap":
        first, second = random.choice(list(header)), random.choice(list(header))
        header[first], header[second] = header[second], header[first]
    if change == "header":
        header = edit_value(header, random)
    text = write_json(header, random)
    size = random.choice([len(text) + 1, 2**40, 2**63, 0]) if change == "length" else len(text)
    return struct.pack("<Q", size) + text + numbers


def edit_tar(content: bytes, random: Random) -> bytes:
    """An archive with a member that has another name, type, size or content."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar if member.isreg()]
    index = random.randrange(len(members))
    entry, own = members[index]
    change = random.choice(["name", "name", "type", "content", "content", "twice", "drop", "pax", "size"])
    if change == "name":
        base, _, suffix = entry.name.partition(".")
        names = ["../x.txt", "/x.png", "", ".", f"x/../{entry.name}", "a" * 300 + ".txt", f".{suffix}", f"{base}.json"]
        entry.name = random.choice([*names, f"{base}.cls", f"{base}.txt", "\udcff.txt", "a\nb.txt"])
    elif change == "type":
        entry.type = random.choice([tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, b"Z", b"S"])
        entry.linkname = "../../etc/hostname"
    elif change == "content":
        odd = [
            b"",
            b"\xff\xfe",
            b"x" * 2_000_000,
            b"[" * 100_000,
            b"null",
            write_json(choose_odd(random), random),
        ]
        own = random.choice([*odd, edit_json(own, random) if entry.name.endswith("json") else flip_bits(own, random)])
    elif change == "twice":
        members.append((entry, own))
    elif change == "drop":
        del members[index]
    elif change == "pax":
        entry.pax_headers = {
            random.choice(["path", "size", "GNU.sparse.size", "x"]): random.choice(["-1", "x", "9" * 30])
        }
    if change not in ("twice", "drop"):
        members[index] = entry, own
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for member, text in members:
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    return claim_size(sink.getvalue(), random) if change == "size" else sink.getvalue()


def claim_size(content: bytes, random: Random) -> bytes:
    """The first member of an archive says that it has another size, with a checksum that fits."""
    header = bytearray(content[:512])
    header[124:136] = random.choice(
        [b"77777777777\0", b"00000000000\0", b"-0000000001\0", b"\x80" + b"\xff" * 11, b"x" * 12]
    )
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content[512:]


TEXT_EDITS: tuple[ByteEdit, ...] = (edit_encoding, insert_sign, insert_sign, delete_sign, swap_words, shuffle_lines)
VALUE_EDITS: dict[str, tuple[ByteEdit, ...]] = {
    ".json": (edit_json, edit_json, edit_json, edit_json, edit_encoding, insert_sign, delete_sign, swap_words),
    ".jsonl": (edit_json_line, edit_json_line, edit_json_line, *TEXT_EDITS),
    ".yaml": (edit_yaml, edit_yaml, edit_yaml, write_alias_bomb, *TEXT_EDITS),
    ".csv": (swap_cells, swap_cells, *TEXT_EDITS),
    ".txt": TEXT_EDITS,
    ".list": TEXT_EDITS,
    ".qrels": TEXT_EDITS,
    ".run": TEXT_EDITS,
    ".sent": TEXT_EDITS,
    ".gz": (edit_gzip, edit_gzip),
    ".parquet": (edit_parquet, edit_parquet, edit_parquet),
    ".npy": (edit_npy, edit_npy, edit_numbers),
    ".npz": (edit_npz, edit_npz),
    ".safetensors": (edit_safetensors, edit_safetensors),
    ".tar": (edit_tar, edit_tar, edit_tar),
}
"""Edits by the suffix of the file; other files get those of bytes alone."""

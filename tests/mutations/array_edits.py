"""Changes of tables and arrays: parquet and ``.npy``."""

import io
import struct
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

# Parquet


def edit_parquet(content: bytes, random: Random) -> bytes:
    """A table with another column: other types, nulls, another name, other rows."""
    table = pq.read_table(io.BytesIO(content))
    for _ in range(random.choice([1, 1, 2])):
        table = edit_table(table, random)
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=random.choice([1, 100]))
    return sink.getvalue()


def edit_table(table: pa.Table, random: Random) -> pa.Table:
    """One change of a table."""
    actions = ["type", "type", "value", "value", "swap", "drop", "rename", "twice", "rows", "none"]
    action, index = random.choice(actions), random.randrange(max(1, table.num_columns))
    if not table.num_columns:
        return table
    name, count = table.column_names[index], len(table)
    if action == "drop":
        return table.remove_column(index)
    if action == "rename":
        return table.rename_columns([f"{n}x" if n == name else n for n in table.column_names])
    if action == "twice":
        return table.append_column(name, table[index])
    if action == "rows" and count:
        rows = [random.randrange(count) for _ in range(random.choice([0, 1, count, 2 * count]))]
        return table.take(pa.array(rows, pa.int64()))
    if action == "none":
        return table.set_column(index, name, pa.nulls(count, table[index].type))
    if action == "type":
        return table.set_column(index, name, make_column(count, random))
    values = table[index].to_pylist()
    if values:
        one, other = random.randrange(count), random.randrange(count)
        values[one] = values[other] if action == "swap" else None
    return table.set_column(index, name, pa.array(values, table[index].type))


def make_column(count: int, random: Random) -> pa.Array:
    """A column of a type that is hardly the expected one."""
    makers: list[Callable[[], pa.Array]] = [
        lambda: pa.array(range(count), pa.int8() if count < 100 else pa.int64()),
        lambda: pa.array([2**62] * count),
        lambda: pa.array([-1] * count, pa.int32()),
        lambda: pa.array([float("nan")] * count),
        lambda: pa.array([f"x{n}" for n in range(count)]),
        lambda: pa.array([b"\xff\xfe"] * count),
        lambda: pa.array([[n] for n in range(count)]),
        lambda: pa.array([[[1.0], []]] * count),
        lambda: pa.array([{"bytes": b"x", "path": "../x"}] * count),
        lambda: pa.array([True] * count),
        lambda: pa.nulls(count),
        lambda: pa.array([0] * count, pa.timestamp("us")),
        lambda: pa.array(["a"] * count).dictionary_encode(),
        lambda: pa.array([["a", None]] * count),
    ]
    return random.choice(makers)()


# Arrays


def edit_npy(content: bytes, random: Random) -> bytes:
    """An array whose header says something else than its bytes are."""
    array = np.load(io.BytesIO(content))
    shapes = [
        array.shape[::-1],
        (*array.shape, 1),
        (array.size,),
        (),
        (0, 4),
        (2**40, 2**20),
        (-1, 4),
        (2**62, 4),
        (1.5,),
    ]
    descriptions = ["<f8", ">f4", "<f2", "<i4", "<i8", "|b1", "<c8", "|O", "<U3", "|V4", "<M8[ns]", "|S4", "<f16", "x"]
    header: dict[str, Any] = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
    change = random.choice(["shape", "descr", "fortran_order", "structured", "missing", "nested"])
    if change == "shape":
        header["shape"] = random.choice(shapes)
    elif change == "descr":
        header["descr"] = random.choice(descriptions)
    elif change == "fortran_order":
        header["fortran_order"] = random.choice([True, None, "yes"])
    elif change == "structured":
        header["descr"] = [("a", "<f4"), ("b", "<f4")]
    elif change == "missing":
        del header[random.choice(list(header))]
    text = "(" * 500 + ")" * 500 if change == "nested" else repr(header)
    return write_npy(text, array.tobytes(), random.choice([1, 1, 1, 2, 3, 9]))


def write_npy(header: str, content: bytes, version: int) -> bytes:
    """An ``.npy`` file of any header."""
    padded = header.encode() + b" " * (63 - (len(header) + 10) % 64) + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(padded))
    return b"\x93NUMPY" + bytes([version, 0]) + length + padded + content


def edit_numbers(content: bytes, random: Random) -> bytes:
    """An array with NaN, infinity, zeros or equal rows, of another type."""
    array = np.load(io.BytesIO(content)).astype(np.float64)
    flat = array.reshape(-1)
    if flat.size:
        flat[random.randrange(flat.size)] = random.choice([np.nan, np.inf, -np.inf, 1e300, 0, 1e-300])
    if random.random() < 0.3 and len(array):
        array[random.randrange(len(array))] = 0
    kinds = [np.float16, np.float32, np.float64, np.int8, np.uint64, np.bool_, np.complex64, np.longdouble]
    sink = io.BytesIO()
    with np.errstate(all="ignore"):
        np.save(sink, array.astype(random.choice(kinds)))
    return sink.getvalue()

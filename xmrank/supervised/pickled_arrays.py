"""Reads pickles of arrays without trusting them: few instructions are carried out, and numpy gets no state from them.

A pickle is a program. Python's own reader lets it set the state of every object that it may make. An array's state can
claim a data type whose elements are pointers, and numpy would follow them. Here, an array is made from a shape, a data
type of numbers and bytes of just that size. Any other instruction is refused before it is carried out.
"""

import math
import pickle
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xmrank.runtime.errors import DataError

NUMBER_TYPE = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248])")
"""Data types that features and labels have: bool, integers, floats."""
BYTE_ORDERS = ("<", ">", "=", "|")
MAX_AXES = 8
CONTAINERS = [
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1",
    "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "LIST", "EMPTY_LIST",
    "APPEND", "APPENDS", "TUPLE", "EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "GET", "BINGET",
    "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GLOBAL", "STACK_GLOBAL",
]  # fmt: skip
"""Instructions that Python's reader carries out unchanged: they make numbers, text and containers."""
CONTAINER_CODES = [getattr(pickle, name)[0] for name in CONTAINERS]


@dataclass
class PickledType:
    """A data type as a pickle describes it; ``code`` is like ``<f8``, empty for types that are not of numbers."""

    code: str


@dataclass
class PickledArray:
    """An array of a pickle; ``value`` is None until its state is read, and for data types that are not of numbers."""

    value: np.ndarray | None = None


class ContentReader:
    """The bytes of a pickle as a file that never returns fewer bytes than requested."""

    def __init__(self, content: bytes) -> None:
        self.content, self.position = content, 0

    def read(self, size: int, /) -> bytes:
        """The next ``size`` bytes.

        Raises:
            EOFError: there are fewer.
        """
        if not 0 <= size <= len(self.content) - self.position:
            raise EOFError("the pickle ends early")
        self.position += size
        return self.content[self.position - size : self.position]

    def readline(self) -> bytes:
        """The bytes up to and with the next end of a line."""
        end = self.content.find(b"\n", self.position) + 1
        return self.read((end or len(self.content)) - self.position)


# Python has this reader twice. Only the one written in Python has a table of instructions that can be replaced.
PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]


class ArrayUnpickler(PythonUnpickler):  # type: ignore[misc]
    """Reads arrays, numbers, text, lists, tuples and dicts.

    Raises:
        DataError: the pickle names or does anything else.
    """

    def find_class(self, module: str, name: str) -> Any:
        """What a name means: one of the functions of ``MAKERS``, never one of numpy."""
        maker = MAKERS.get((module.replace("numpy._core", "numpy.core"), name))
        if maker is None:
            raise DataError(f"names {module}.{name}: a pickle may hold arrays, numbers and text only, others run code")
        return maker

    def call_maker(self) -> None:
        """REDUCE: call one of the functions of ``MAKERS``."""
        arguments = self.stack.pop()
        maker = self.stack[-1]
        if not any(maker is known for known in MAKERS.values()):
            raise DataError("calls what is not a function of arrays")
        self.stack[-1] = maker(*arguments)

    def set_state(self) -> None:
        """BUILD: the state of an array or of a data type, which is read here and not by numpy."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, PickledArray) and target.value is None:
            target.value = read_array_state(state)
        elif isinstance(target, PickledType):
            target.code = read_type_state(target.code, state)
        else:
            raise DataError("sets the state of something else than an array")

    def set_item(self) -> None:
        """SETITEM: one entry of a dict."""
        value, key = self.stack.pop(), self.stack.pop()
        set_entries(self.stack[-1], [key, value])

    def set_items(self) -> None:
        """SETITEMS: several entries of a dict."""
        items = self.pop_mark()
        set_entries(self.stack[-1], items)

    def make_dict(self) -> None:
        """DICT: a dict of the items since the last mark."""
        items = self.pop_mark()
        self.append(set_entries({}, items))

    def read_bytearray(self) -> None:
        """BYTEARRAY8: as bytes. The base class would reserve whatever size is claimed."""
        self.append(self.read(int.from_bytes(self.read(8), "little")))

    def refuse_instruction(self) -> None:
        """Any instruction that is not in the table below."""
        raise DataError("has an instruction that arrays do not need")

    # What each instruction does, by its byte. Those of CONTAINERS are the base class's own.
    dispatch: ClassVar[dict[int, Any]] = {
        **dict.fromkeys(range(256), refuse_instruction),
        **{opcode: PythonUnpickler.dispatch[opcode] for opcode in CONTAINER_CODES},
        pickle.REDUCE[0]: call_maker,
        pickle.BUILD[0]: set_state,
        pickle.SETITEM[0]: set_item,
        pickle.SETITEMS[0]: set_items,
        pickle.DICT[0]: make_dict,
        pickle.BYTEARRAY8[0]: read_bytearray,
    }


def load_pickled_arrays(content: bytes) -> Any:
    """The value of a pickle; arrays and lists of numbers in it are arrays, or None where they are not of numbers.

    Raises:
        DataError: the pickle does anything but make arrays, numbers, text and their containers.
        Exception: whatever Python's reader raises for bytes that are not a pickle.
    """
    # latin1 reads the bytes of arrays that Python 2 pickled.
    value = ArrayUnpickler(ContentReader(content), encoding="latin1").load()
    if isinstance(value, dict):
        return {name: unwrap_value(item, len(content)) for name, item in value.items()}
    return unwrap_value(value, len(content))


def unwrap_value(value: Any, limit: int) -> Any:
    """An array out of an array or a list; other values as they are.

    Args:
        value: an item of the pickle.
        limit: numbers of a list at most. A list that contains one row many times would need more than there is.
    """
    if isinstance(value, list | tuple):
        return stack_rows([row.value if isinstance(row, PickledArray) else row for row in value], limit)
    return value.value if isinstance(value, PickledArray) else value


def stack_rows(rows: Sequence[Any], limit: int) -> np.ndarray | None:
    """A list of numbers, or of rows of equal length, as an array; None for any other list."""
    if all(map(is_number, rows)):
        return np.asarray(rows)
    if not all(isinstance(row, np.ndarray | list | tuple) for row in rows):
        return None
    shapes = {row.shape if isinstance(row, np.ndarray) else (len(row),) for row in rows}
    if len(shapes) != 1:
        return None
    # Before the rows are looked at, which would take as long.
    if len(rows) * math.prod(shapes.pop()) > limit:
        raise DataError("repeats its rows until they need more memory than the file has bytes")
    return np.asarray(rows) if all(isinstance(row, np.ndarray) or all(map(is_number, row)) for row in rows) else None


def is_number(value: Any) -> bool:
    """Whether a value is a number, of Python or of numpy."""
    return isinstance(value, int | float | np.bool_ | np.number)


def set_entries(target: Any, items: Sequence[Any]) -> dict[Any, Any]:
    """Set entries of a dict, given as key, value, key, value. Hashing a deeply nested key would end the process."""
    if not isinstance(target, dict) or len(items) % 2:
        raise DataError("sets items of something else than a dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str | bytes | int | float | None):
            raise DataError("has a dict whose keys are neither text nor numbers")
        target[key] = value
    return target


def describe_type(text: Any, *_: Any) -> PickledType:
    """numpy.dtype: the type's text; what follows it in a pickle (align, copy) changes nothing."""
    match = NUMBER_TYPE.fullmatch(text) if isinstance(text, str) else None
    return PickledType(text if match else "")


def read_type_state(code: str, state: Any) -> str:
    """A data type with the byte order of its state; the other parts of the state belong to other types.

    Raises:
        DataError: not the state of a type of numbers.
    """
    if not code:
        return code
    if not isinstance(state, tuple) or len(state) < 2 or state[1] not in BYTE_ORDERS:
        raise DataError("has a data type without a byte order")
    # A type of numbers has no fields, no shape and no names.
    if any(part is not None for part in state[2:5]):
        raise DataError("has a data type of numbers with parts")
    return f"{state[1]}{code.lstrip('<>=|')}"


def read_array_state(state: Any) -> np.ndarray | None:
    """The array of numpy's state (version, shape, type, whether columns come first, bytes); None without numbers.

    Raises:
        DataError: not such a state, or another number of bytes than shape and type need.
    """
    if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], PickledType):
        raise DataError("has an array without shape, type and bytes")
    _, shape, kind, columns_first, content = state
    return make_array(content, kind, shape, "F" if columns_first else "C")


def make_array(content: Any, kind: Any, shape: Any, order: Any, axis_order: Any = None) -> np.ndarray | None:
    """An array out of its bytes; None for a data type that is not of numbers, whose content nobody reads.

    Raises:
        DataError: bytes that do not fit shape and type, or an unknown order.
    """
    if not isinstance(kind, PickledType):
        raise DataError("has an array without a data type")
    if not kind.code:
        return None
    if not isinstance(shape, tuple) or len(shape) > MAX_AXES or not all(is_axis(axis) for axis in shape):
        raise DataError("has an array whose shape is not of numbers")
    # Python 2's bytes come as text.
    raw = content.encode("latin1") if isinstance(content, str) else content
    dtype = np.dtype(kind.code)
    if not isinstance(raw, bytes) or len(raw) != math.prod(shape) * dtype.itemsize:
        raise DataError("has an array whose bytes do not fit its shape and data type")
    array = np.frombuffer(raw, dtype)
    if dtype.kind == "b":
        # Any byte but 0 is true: numpy expects 0 and 1 in a bool's memory.
        array = array.view(np.uint8) != 0
    if order == "K" and isinstance(axis_order, tuple) and sorted(axis_order) == list(range(len(shape))):
        # Protocol 5 has arrays whose axes were swapped.
        return array.reshape(shape).transpose(axis_order).copy(order="K")
    if order not in ("C", "F"):
        raise DataError("has an array in an unknown order")
    return array.reshape(shape, order=order).copy(order="K")


def is_axis(value: Any) -> bool:
    """Whether a value can be the length of an axis."""
    return isinstance(value, int) and 0 <= value < 2**40


def begin_array(*_: Any) -> PickledArray:
    """numpy's _reconstruct: an empty array, whose state follows."""
    return PickledArray()


def read_buffer(*arguments: Any) -> PickledArray:
    """numpy's _frombuffer: an array of protocol 5."""
    return PickledArray(make_array(*arguments))


def read_scalar(kind: Any, content: Any = None) -> Any:
    """numpy's scalar: a number of a data type, out of its bytes; None for other types."""
    array = make_array(content, kind, (), "C")
    return None if array is None else array[()]


def encode_text(text: Any, encoding: Any) -> bytes:
    """_codecs.encode: protocol 2 has bytes as latin1 text."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise DataError("encodes something else than bytes")
    return text.encode("latin1")


def make_no_bytes() -> bytes:
    """bytes, which protocols up to 2 call for those of an array without rows."""
    return b""


def refuse_call(*_: Any) -> None:
    """numpy.ndarray: is named in every array's pickle, but never called."""
    raise DataError("calls numpy.ndarray")


MAKERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): refuse_call,
    ("numpy", "dtype"): describe_type,
    ("numpy.core.multiarray", "_reconstruct"): begin_array,
    ("numpy.core.multiarray", "scalar"): read_scalar,
    ("numpy.core.numeric", "_frombuffer"): read_buffer,
    ("_codecs", "encode"): encode_text,
    ("__builtin__", "bytes"): make_no_bytes,
}
"""All names that a pickled array contains, with our own function for each."""

"""Captions: what can be one, and how fields, cells and text files hold several."""

import ast
import json
import math
import re
import warnings
from collections.abc import Sequence
from typing import Any

from xmrank.runtime.errors import DataError
from xmrank.runtime.files import HALF_CHARACTER

TEXT_LIMIT = 1 << 20
"""Characters of a caption, or bytes of a file of captions, above which it is taken for something else."""
LITERAL = r"""(?:'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|None|nan)"""
LITERALS = re.compile(LITERAL)
LITERAL_LIST = re.compile(rf"\[\s*{LITERAL}(?:(?:\s*,\s*|\s+){LITERAL})*\s*,?\s*\]")
"""A list of texts as Python writes it, or, without commas, as NumPy does."""
MISSING = "is missing"
LIST_BEGINS = ("['", '["')


def text_fault(text: object) -> str:
    """Why a value cannot be a caption; empty when it can."""
    if text is None:
        return MISSING
    if not isinstance(text, str):
        return f"is not text but {type(text).__name__}"
    if not text.strip():
        return "is empty"
    if len(text) > TEXT_LIMIT:
        return f"is longer than {TEXT_LIMIT} characters"
    if HALF_CHARACTER.search(text):
        return "holds half a character"
    return ""


def text_lines(content: bytes) -> Sequence[str]:
    r"""The lines of a text that are not blank; a line ends at \n or \r\n, at nothing else.

    Raises:
        DataError: it is not UTF-8, or longer than ``TEXT_LIMIT``.
    """
    if len(content) > TEXT_LIMIT:
        raise DataError("is too long")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError("is not UTF-8") from None
    # splitlines would also part captions at characters such as U+2028 and U+0085.
    return [line.removesuffix("\r") for line in text.split("\n") if line.strip()]


def is_missing(value: object) -> bool:
    """Whether a value stands for none: null, or the NaN that pandas writes for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def texts_of(value: object) -> list[object]:
    """The captions in a field: a text, a list of them, objects with the text under raw, text or caption, or none."""
    if type(value) is str:
        return [value]
    if isinstance(value, list | tuple):
        return [text for each in value for text in texts_of(each)]
    if isinstance(value, dict):
        # Objects are as Karpathy's JSON or COCO have them. One of another kind is no caption, and is counted as such.
        return next((texts_of(value[name]) for name in ("raw", "text", "caption") if name in value), None) or [value]
    return [] if is_missing(value) else [value]


def cell_texts(cell: object) -> list[object]:
    """The captions in a table's cell: a list written as text is a list too, as JSON, Python or NumPy write it."""
    if isinstance(cell, str) and (texts := list_in_text(cell)) is not None:
        return texts
    return texts_of(cell)


def list_in_text(cell: str) -> list[Any] | None:
    """The list that a text spells out; None where it does not."""
    cell = cell.strip()
    if not (cell.startswith("[") and cell.endswith("]")):
        return None
    if cell.strip("[] ") == "" and cell.count("[") == 1:
        return []
    if not cell[1:].lstrip().startswith(("'", '"', "None", "nan", "null")):
        return None
    try:
        return texts_of(json.loads(cell))
    except (ValueError, RecursionError):
        return read_literals(cell)


def read_literals(cell: str) -> list[Any] | None:
    """The texts in a list as Python or NumPy writes it; None where it is not one."""
    if not LITERAL_LIST.fullmatch(cell):
        return None
    try:
        with warnings.catch_warnings():
            # A backslash that begins no escape is kept as it is.
            warnings.simplefilter("ignore")
            # Each by itself: Python joins texts that no comma parts.
            return [ast.literal_eval(word) for word in LITERALS.findall(cell) if word not in ("None", "nan")]
    except (ValueError, SyntaxError):
        return None


def begins_like_list(text: object) -> bool:
    """Whether a text begins as a written list does: cut off, it would be taken for a caption."""
    return isinstance(text, str) and text.lstrip().startswith(LIST_BEGINS)

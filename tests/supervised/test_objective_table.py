"""The table of objectives in the documents: complete, right, and of pure functions of arrays."""

import importlib
import inspect
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from xmrank.config.supervised import METHODS

PAGE = Path(__file__).parents[2] / "docs" / "supervised.md"
PLAIN = (np.ndarray, Tensor, float, int, bool, str, type(None))
"""What an objective may take and give; beside sequences, tuples and choices of these."""


def read_rows():
    """Methods, objectives and parts of every row."""
    section = PAGE.read_text().split("## Objectives as functions\n")[1].split("\n## ")[0]
    cells = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    rows = [[re.findall(r"`([\w.]+)`", cell) for cell in row] for row in cells]
    return rows[1:] if rows[0][0] == [] else rows


ROWS = read_rows()
FUNCTIONS = sorted({name for _, objectives, parts in ROWS for name in (*objectives, *parts)})


def find_function(name):
    module, _, function = name.rpartition(".")
    room = module if module.startswith("baselines.") else f"supervised.{module}"
    return getattr(importlib.import_module(f"xmrank.{room}"), function)


def is_plain(kind):
    """Whether a type is an array, a number, a name, or made of these."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return all(isinstance(value, str) for value in inner)
    if origin in (Sequence, tuple, typing.Union, types.UnionType):
        return all(is_plain(part) for part in inner if part is not ...)
    return kind in PLAIN


def test_every_method_has_its_objective():
    named = [method for methods, _, _ in ROWS for method in methods if method != "--methods"]
    assert sorted(named) == sorted(set(METHODS) - {"embeddings"})
    assert all(objectives for methods, objectives, _ in ROWS if methods != ["--methods"])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_objective_takes_arrays_and_numbers_and_says_where_it_is_from(name):
    function = find_function(name)
    kinds = typing.get_type_hints(function)
    returned = kinds.pop("return")
    assert all(is_plain(kind) for kind in kinds.values()), kinds
    # Results may be named: a tuple or a dataclass of arrays.
    fields = [returned] if is_plain(returned) else list(typing.get_type_hints(returned).values())
    assert fields and all(is_plain(field) for field in fields), returned
    text = inspect.getdoc(function) or ""
    assert "Source:" in text
    documented = text.split("Args:")[1]
    assert not [own for own in inspect.signature(function).parameters if not re.search(rf"\b{own}\b", documented)]

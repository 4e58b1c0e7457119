"""The result tables as JSON: a finished report prints them again without its tests, which take seconds."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from xmrank.report.result_tables import ComparedCell, ResultTable, TableCell, TableRow
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import write_json


def keep_tables(path: Path, tables: Sequence[ResultTable]) -> None:
    """Write the tables."""
    write_json(path, [asdict(table) for table in tables])


def read_kept_tables(path: Path) -> list[ResultTable]:
    """The tables of a finished report.

    Raises:
        DataError: the file holds something else.
    """
    try:
        return [_read_table(table) for table in json.loads(path.read_text())]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise DataError(f"{path}: not the tables of a report (--overwrite to make it anew)") from None


def _read_table(values: dict[str, Any]) -> ResultTable:
    rows = tuple(_read_row(row) for row in values["rows"])
    ceiling = values["ceiling"] and _read_row(values["ceiling"])
    return ResultTable(**{**values, "rows": rows, "ceiling": ceiling})


def _read_row(values: dict[str, Any]) -> TableRow:
    return TableRow(**{**values, "cells": {metric: _read_cell(cell) for metric, cell in values["cells"].items()}})


def _read_cell(values: dict[str, Any]) -> TableCell:
    tests = {name: values[name] and ComparedCell(**values[name]) for name in ("test", "refined_test")}
    return TableCell(**{**values, "by_seed": tuple(values["by_seed"]), **tests})

"""Latency: how long re-ranking a query takes, by the number of candidates N."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmrank.pages.wording import DIRECTION_NAMES
from xmrank.report.inputs import read_json_object
from xmrank.runtime.errors import DataError

READING = (
    "By the number of candidates N from the first stage, on queries of the full gallery: the candidates’ embeddings "
    "(and tokens) are read, refined and re-ranked. Encoding of the query and the first stage’s search do not count. "
    "Neither does the projection of the gallery’s tokens, which happens once."
)
"""What the figures are."""
TEXTS, COUNTS, TIMES = ("direction", "ranker", "device"), ("candidates", "queries"), ("alone_ms", "batched_ms")
"""The fields of a measurement, by their type."""


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds a query of one ranker of each direction.

    Attributes:
        caption: what was measured, and on what.
        numbers: N of each column.
        rows: label, and a figure for each N; "–" where a gallery has fewer items.
    """

    caption: str
    numbers: tuple[int, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def read_latency(path: Path) -> LatencyTable | None:
    """The measurements in the evaluation's timing.json; None where there are none, as in earlier versions.

    Raises:
        DataError: measurements of another form; no fingerprint covers this file.
    """
    measured = read_json_object(path).get("depths", []) if path.exists() else []
    if not isinstance(measured, list) or not all(map(_is_measurement, measured)):
        raise DataError(f"{path}: expected depths with {', '.join((*TEXTS, *COUNTS, *TIMES))}")
    if not measured:
        return None
    numbers = tuple(sorted({entry["candidates"] for entry in measured}))
    rows = []
    for direction in dict.fromkeys(entry["direction"] for entry in measured):
        own = {entry["candidates"]: entry for entry in measured if entry["direction"] == direction}
        batch = next(iter(own.values()))["queries"]
        for label, key in (("one query alone", "alone_ms"), (f"in a batch of {batch}", "batched_ms")):
            figures = tuple(format_milliseconds(own[n][key]) if n in own else "–" for n in numbers)
            rows.append((f"{DIRECTION_NAMES.get(direction, direction)}, {label}", figures))
    ranker, device = measured[0]["ranker"], measured[0]["device"]
    where = "one CPU core" if device == "cpu" else "a GPU"
    return LatencyTable(f"Milliseconds for each query, {ranker} on {where}", numbers, tuple(rows))


def format_milliseconds(value: float) -> str:
    """A time with two significant digits, and whole from 10 on: 0.084, 0.84, 8.4, 84."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _is_measurement(entry: Any) -> bool:
    if not isinstance(entry, dict) or not entry.keys() >= {*TEXTS, *COUNTS, *TIMES}:
        return False
    if not all(isinstance(entry[name], str) for name in TEXTS):
        return False
    times = [entry[name] for name in TIMES]
    return all(isinstance(entry[name], int) for name in COUNTS) and all(
        isinstance(time, int | float) and math.isfinite(time) for time in times
    )

"""What finished stages took: time and size of the last runs of this machine, so that a dry run can tell of them."""

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xmrank.runtime.errors import ConfigError
from xmrank.runtime.file_cache import cache_folder
from xmrank.runtime.files import write_json
from xmrank.runtime.quantities import format_bytes, format_seconds

FILE = "measurements.json"
KEPT = 200
"""Runs that are remembered."""
SHOWN_COUNTS = 3


@dataclass(frozen=True)
class Measurement:
    """One run of a stage from its beginning to its end.

    Attributes:
        stage: its name.
        directory: of its output.
        seconds: from the opening of the directory to its manifest.
        bytes: size of the output.
        counts: how many items were made, as in the manifest.
        day: when, as 2026-12-31.
    """

    stage: str
    directory: str
    seconds: float
    bytes: int
    counts: dict[str, Any]
    day: str

    def describe(self) -> str:
        """The figures in words."""
        counts = describe_counts(self.counts)
        time_and_size = f"{format_seconds(self.seconds)}, {format_bytes(self.bytes)}, {self.day}"
        return f"{counts} in {time_and_size}" if counts else time_and_size


def record_run(stage: str, directory: Path, seconds: float, size: int, counts: Mapping[str, Any]) -> None:
    """Remember a run; a folder that cannot be written to is no reason to fail."""
    made = Measurement(stage, str(directory), round(seconds, 1), size, dict(counts), time.strftime("%Y-%m-%d"))
    with contextlib.suppress(OSError, ConfigError):
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        # Of two runs that end at the same moment, one may be forgotten.
        write_json(folder / FILE, [asdict(entry) for entry in [*read_runs(), made][-KEPT:]])


def read_runs() -> list[Measurement]:
    """All runs that are remembered, the last one last; none where the file is missing or damaged."""
    try:
        return [Measurement(**entry) for entry in json.loads((cache_folder() / FILE).read_text())]
    except (OSError, ValueError, TypeError, ConfigError):
        return []


def find_last(stage: str, directory: Path) -> Measurement | None:
    """The last run of a stage into this directory, or else into any other; None where there was none."""
    runs = [run for run in read_runs() if run.stage == stage]
    own = [run for run in runs if run.directory == str(directory)]
    return next(reversed(own or runs), None)


def describe_counts(counts: Mapping[str, Any]) -> str:
    """The first numbers of a manifest's counts that are not 0, in words: ``300 images, 1,500 captions``."""
    numbers = [(name, count) for name, count in counts.items() if isinstance(count, int) and count]
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in numbers[:SHOWN_COUNTS])

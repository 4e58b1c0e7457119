"""Journals: what is to be logged to MLflow runs, kept beside a stage's output until a server has it.

A stage appends to journals and never waits for a server; ``delivery`` sends the records.
"""

import io
import json
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from xmrank.runtime.files import write_text
from xmrank.runtime.manifest import JOURNAL
from xmrank.runtime.storage import append_line, read_bytes_from
from xmrank.tracking import runs

PARENT = "parent"
"""The key of the run that the others of a stage belong to."""
APPENDING = threading.Lock()
Record = dict[str, Any]
"""``run``, ``time`` in ms, ``step``, and one or more of ``begin`` (what the run is made of), ``metrics``, ``tags``,
``artifacts`` (paths) and ``status``."""


RECORD_TYPES = {
    "run": str,
    "time": int,
    "step": int,
    "begin": dict,
    "metrics": dict,
    "tags": dict,
    "artifacts": list,
    "status": str,
}
"""The fields of a record as JSON has them."""


class Journal:
    """The records of the runs of one key: a file of JSON lines, and a file with the number of bytes delivered."""

    def __init__(self, folder: Path, key: str) -> None:
        """Name the files; they are in the folder ``journal`` of a stage's output."""
        self.path = folder / JOURNAL / f"{key}.jsonl"
        self.mark = self.path.with_suffix(".sent")

    def create(self) -> None:
        """Make the file, so that a later look knows that nothing was added."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()

    def add_begin(self, run: str, begin: Mapping[str, Any] | None) -> None:
        """Append that a run goes on; with ``begin``, that it is to be made or continued with these of `runs.begin_run`.

        Args:
            run: the run id, or the reference under which it is made.
            begin: ``name``, ``parent``, ``tags``, ``params`` and ``inputs``; None: the server has it already.
        """
        self._append({"run": run, "status": runs.RUNNING} | ({"begin": dict(begin)} if begin else {}))

    def add(
        self,
        run: str,
        *,
        metrics: Mapping[str, float] | None = None,
        step: int = 0,
        tags: Mapping[str, str] | None = None,
        artifacts: Iterable[Path] = (),
        failed: bool | None = None,
    ) -> None:
        """Append a record.

        Args:
            run: the run id, or the reference under which it is made.
            metrics: names as MLflow allows them.
            step: of the metrics.
            tags: of the run.
            artifacts: files to copy to the run; they must stay where they are.
            failed: ends the run as failed or finished; None: it goes on.
        """
        record: Record = {"run": run, "step": step}
        if metrics:
            record["metrics"] = {name: float(value) for name, value in metrics.items()}
        if tags:
            record["tags"] = dict(tags)
        if paths := [str(path) for path in artifacts]:
            record["artifacts"] = paths
        if failed is not None:
            record["status"] = runs.name_end(failed=failed)
        self._append(record)

    def add_new(self, run: str, history: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Append steps with their metrics, but for values that were added before, perhaps by an interrupted call."""
        known = {
            (record["step"], name, repr(value))
            for record in self.records_of(run)
            for name, value in record.get("metrics", {}).items()
        }
        for step, metrics in history:
            new = {name: float(v) for name, v in metrics.items() if (step, name, repr(float(v))) not in known}
            if new:
                self.add(run, metrics=new, step=step)

    def _append(self, record: Record) -> None:
        self.create()
        # The load of the machine is added by a thread of its own.
        with APPENDING:
            append_line(self.path, json.dumps(record | {"time": int(time.time() * 1000)}).encode())

    def read_records(self, start: int = 0) -> list[tuple[Record, int]]:
        """The records from a byte on, each with the number of bytes up to its end."""
        # To open a pipe would wait for another process without end.
        if not self.path.is_file():
            return []
        records, end = [], start
        for line in io.BytesIO(read_bytes_from(self.path, start)):
            end += len(line)
            if not line.endswith(b"\n"):
                break  # still being written
            if record := parse_line(line):
                records.append((record, end))
        return records

    def records_of(self, run: str) -> list[Record]:
        """All records of a run, delivered or not."""
        return [record for record, _ in self.read_records() if record["run"] == run]

    def is_open(self, run: str) -> bool:
        """Whether nothing has ended a run since it was last begun."""
        statuses = [record["status"] for record in self.records_of(run) if "status" in record]
        # A run that is planned has no record until it begins.
        return bool(statuses[-1] == runs.RUNNING) if statuses else not run.startswith(runs.LATER)

    def has_ended(self, run: str) -> bool:
        """Whether something has ended a run since it was last begun."""
        return bool(self.records_of(run)) and not self.is_open(run)

    @property
    def delivered(self) -> int:
        """The number of bytes that a server has."""
        try:
            end = int(self.mark.read_text()) if self.mark.is_file() else 0
        except ValueError:
            end = 0
        # A damaged mark counts as none: what is sent twice is stored once.
        return end if self.path.is_file() and 0 <= end <= self.path.stat().st_size else 0

    def keep_delivered(self, end: int) -> None:
        """Note how many bytes a server has."""
        write_text(self.mark, str(end))

    @property
    def is_delivered(self) -> bool:
        """Whether a server has everything."""
        # The size alone says so for most; they are looked at twice a second.
        if not self.path.exists() or self.path.stat().st_size <= self.delivered:
            return True
        return not self.read_records(self.delivered)


def parse_line(line: bytes) -> Record | None:
    """The record in a line of a journal; None for one that a kill cut off, or that is damaged."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not {"run", "time"} <= record.keys():
        return None
    if not all(isinstance(record[name], kind) for name, kind in RECORD_TYPES.items() if name in record):
        return None
    return record if "step" in record or not record.get("metrics") else None

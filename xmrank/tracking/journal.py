"""Journals: what is to be logged to MLflow runs, kept beside a stage's output until a server has it.

Training appends to a journal and never waits for a server. A thread delivers the records in batches. What it could not
deliver stays on disk, for the next run of the stage or for ``xmrank sync``.
"""

import contextlib
import json
import logging
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from xmrank.runtime.errors import DataError
from xmrank.runtime.files import write_text
from xmrank.runtime.manifest import JOURNAL, MANIFEST
from xmrank.runtime.redaction import redact_uri
from xmrank.tracking import runs
from xmrank.tracking.run_tree import connect_tracking

Record = dict[str, Any]
"""``run``, ``time`` in ms, ``step``, and one or more of ``metrics``, ``tags``, ``artifacts`` (paths) and ``status``."""
BATCH = 500
"""Metrics sent at once; MLflow takes at most 1000."""
PERIOD_S = 0.5
LONGEST_PAUSE_S = 60.0
"""The pause between two attempts: doubled after each that fails, up to this."""
GRACE_S = 10.0
"""How long the end of a training waits for a server that has answered so far."""
REFUSED = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "INVALID_STATE"}
"""MLflow's codes for what would be refused again, such as a record of a run that was deleted."""


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
            run: the run id.
            metrics: names as MLflow allows them.
            step: of the metrics.
            tags: of the run.
            artifacts: files to copy to the run; they must stay where they are.
            failed: ends the run as failed or finished; None: it goes on.
        """
        record: Record = {"run": run, "time": int(time.time() * 1000), "step": step}
        if metrics:
            record["metrics"] = {name: float(value) for name, value in metrics.items()}
        if tags:
            record["tags"] = dict(tags)
        if paths := [str(path) for path in artifacts]:
            record["artifacts"] = paths
        if failed is not None:
            record["status"] = runs.name_end(failed=failed)
        self.create()
        # One write for each record; one that a kill cut off is closed first, and then left out by readers.
        with self.path.open("ab+") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 1))
            start = b"\n" if size and file.read(1) != b"\n" else b""
            file.write(start + json.dumps(record).encode() + b"\n")

    def read_records(self, start: int = 0) -> list[tuple[Record, int]]:
        """The records from a byte on, each with the number of bytes up to its end."""
        if not self.path.exists():
            return []
        records = []
        with self.path.open("rb") as file:
            end = file.seek(start)
            for line in file:
                end += len(line)
                if not line.endswith(b"\n"):
                    break  # still being written
                with contextlib.suppress(ValueError):
                    records.append((json.loads(line), end))
        return records

    def records_of(self, run: str) -> list[Record]:
        """All records of a run, delivered or not."""
        return [record for record, _ in self.read_records() if record["run"] == run]

    @property
    def delivered(self) -> int:
        """The number of bytes that a server has."""
        return int(self.mark.read_text()) if self.mark.exists() else 0

    @property
    def is_delivered(self) -> bool:
        """Whether a server has everything."""
        return not self.read_records(self.delivered)

    def deliver(self, uri: str) -> None:
        """Send what no server has yet, and note how far it came.

        Raises:
            Exception: whatever MLflow raises for a server that does not answer.
        """
        pending: list[Record] = []
        size, end = 0, 0
        for record, end in self.read_records(self.delivered):
            pending.append(record)
            size += len(record.get("metrics", ()))
            if size >= BATCH:
                self._send(uri, pending, end)
                pending, size = [], 0
        if pending:
            self._send(uri, pending, end)

    def _send(self, uri: str, records: Sequence[Record], end: int) -> None:
        """Send some records in their order; metrics of one run that follow each other are one request."""
        client = MlflowClient(uri)
        metrics: list[Metric] = []
        for number, record in enumerate(records):
            run = record["run"]
            metrics += [
                Metric(name, value, record["time"], record["step"]) for name, value in record.get("metrics", {}).items()
            ]
            following = records[number + 1]["run"] if number + 1 < len(records) else None
            closes = following != run or not record.keys().isdisjoint(("tags", "artifacts", "status"))
            if not closes:
                continue
            try:
                # The time of a metric is that of its record: one that is sent twice is stored once.
                if metrics:
                    client.log_batch(run, metrics=metrics)
                if "tags" in record:
                    runs.set_tags(uri, run, record["tags"])
                for path in record.get("artifacts", ()):
                    if Path(path).exists():
                        client.log_artifact(run, path)
                if "status" in record:
                    client.set_terminated(run, record["status"])
            except MlflowException as error:
                if error.error_code not in REFUSED:
                    raise
            metrics = []
        write_text(self.mark, str(end))


@contextlib.contextmanager
def attempt_once() -> Iterator[None]:
    """Give up on a server soon and without a message: MLflow's own attempts last minutes, and each is a line."""
    logger = logging.getLogger("urllib3.connectionpool")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with runs.default_environment(runs.FIRST_CALL):
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def deliver_in_background(uri: str, journals: Sequence[Journal]) -> Iterator[None]:
    """Deliver journals while the block runs; it never waits, and its end only for a server that has answered so far."""
    stop, is_well = threading.Event(), threading.Event()
    is_well.set()

    def deliver() -> None:
        pause = PERIOD_S
        while True:
            # What was added before the end is seen by the last round.
            last = stop.wait(pause)
            try:
                for journal in journals:
                    journal.deliver(uri)
                is_well.set()
                pause = PERIOD_S
            except Exception:  # each kind of server has errors of its own; the records stay in the journal
                is_well.clear()
                pause = min(2 * pause, LONGEST_PAUSE_S)
            if last:
                return

    with attempt_once():
        thread = threading.Thread(target=deliver, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(GRACE_S if is_well.is_set() else 0)


def list_journals(folder: Path) -> list[Journal]:
    """The journals beside the output of a stage."""
    return [Journal(folder, path.stem) for path in sorted((folder / JOURNAL).glob("*.jsonl"))]


def deliver_journals(folder: Path, uri: str = "") -> bool:
    """Deliver what is left of a stage's journals; where the server is away, say so in one line.

    Journals of a finished stage are removed when a server has everything.

    Args:
        folder: of the stage.
        uri: of MLflow; the default is to connect.

    Returns:
        Whether everything is delivered.
    """
    journals = [journal for journal in list_journals(folder) if not journal.is_delivered]
    try:
        if journals:
            uri = uri or connect_tracking()
            with attempt_once():
                for journal in journals:
                    journal.deliver(uri)
    except Exception as error:
        reason = str(error) if isinstance(error, DataError) else f"{redact_uri(uri)}: {runs.describe_error(error)}"
        print(
            f"MLflow: {redact_uri(reason)}; what is not logged is kept in {folder / JOURNAL}, to be delivered by the "
            f"next run or by: xmrank sync {folder}",
            file=sys.stderr,
        )
        return False
    remove_delivered(folder)
    return True


def remove_delivered(folder: Path) -> None:
    """Remove the journals of a finished stage, unless there is something left to deliver.

    An unfinished stage keeps them: they say which validations were logged.
    """
    if (folder / MANIFEST).exists() and all(journal.is_delivered for journal in list_journals(folder)):
        shutil.rmtree(folder / JOURNAL, ignore_errors=True)


def sync(directory: Path) -> bool:
    """Deliver the journals of a stage's directory, or of all stages in a directory; returns whether all are delivered.

    Raises:
        DataError: no such directory.
    """
    if not directory.is_dir():
        raise DataError(f"{directory}: no such directory")
    folders = [path.parent for path in sorted(directory.rglob(JOURNAL)) if path.is_dir()]
    done = [deliver_journals(folder) for folder in folders]
    if all(done):
        print(f"sync: everything below {directory} is delivered")
    return all(done)

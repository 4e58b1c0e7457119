"""Sends journals to an MLflow server, record by record. It imports MLflow, `delivery` imports it when it has to."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from xmrank.runtime.paths import as_path, home
from xmrank.runtime.redaction import redact_uri
from xmrank.runtime.storage import local_copy
from xmrank.tracking import runs
from xmrank.tracking.journal import Journal, Record
from xmrank.tracking.record_checks import keep_sound

BATCH = 500
"""Metrics sent at once; MLflow takes at most 1000."""
REFUSED = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "INVALID_STATE"}
"""MLflow's codes for what would be refused again, such as a record of a run that was deleted."""
INVALID = "INVALID_PARAMETER_VALUE"
"""MLflow's code for a value that it does not take, such as a metric's name; it may be one of many."""


class RunNotMadeError(Exception):
    """The records of a run came before those that make it: they are delivered later."""


class Delivery:
    """Sends journals to one server."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.client = MlflowClient(uri)
        self.requests = 0  # those answered: whether it goes on
        self._ids: dict[str, str | None] = {}
        self._left_out: dict[Path, list[str]] = {}  # journal → why, for each thing that no server will take
        self._faults: list[str] = []  # the same of the records that are being sent

    def deliver_all(self, journals: Sequence[Journal]) -> None:
        """Send what no server has yet of some journals, those of parents first.

        Raises:
            Exception: whatever MLflow raises for a server that does not answer.
        """
        waiting = [journal for journal in journals if not journal.is_delivered]
        while waiting:
            left = []
            for journal in waiting:
                try:
                    self.deliver(journal)
                except RunNotMadeError as error:
                    left.append((journal, error))
            # An evaluation comes before the rankers by name, but its records belong to their runs.
            if len(left) == len(waiting):
                raise left[0][1]
            waiting = [journal for journal, _ in left]

    def deliver(self, journal: Journal) -> None:
        """Send what no server has yet of a journal, and note how far it came.

        Raises:
            Exception: whatever MLflow raises for a server that does not answer.
        """
        pending: list[Record] = []
        size, end = 0, 0
        self._faults = []
        for raw, end in journal.read_records(journal.delivered):
            record, faults = keep_sound(raw, journal.path.parents[1])
            self._faults += faults
            pending += [record] if record else []
            size += len(raw.get("metrics", ()))
            if size >= BATCH:
                self._send_pending(journal, pending, end)
                pending, size = [], 0
        if pending or self._faults:
            self._send_pending(journal, pending, end)

    def _send_pending(self, journal: Journal, records: Sequence[Record], end: int) -> None:
        """Send some records of a journal, and note that it is delivered up to a byte."""
        self._send_records(records)
        journal.keep_delivered(end)
        # Only now: what is sent again after a failure would be counted again.
        self._left_out.setdefault(journal.path, []).extend(self._faults)
        self._faults = []

    def close(self) -> None:
        """Say in one line for each journal what of it no server will take, since the last call."""
        for path, faults in self._left_out.items():
            if faults:
                # It may hold line breaks and codes for the terminal.
                first = "".join(letter if letter.isprintable() else "?" for letter in redact_uri(faults[0]))
                print(f"MLflow: {path}: left out {len(faults)}, first {first}", file=sys.stderr)
        self._left_out.clear()

    def _send_records(self, records: Sequence[Record]) -> None:
        """Send some records in their order; metrics of one run that follow each other are one request."""
        metrics: list[Metric] = []
        for number, record in enumerate(records):
            # The time of a metric is that of its record: one that is sent twice is stored once.
            metrics += [
                Metric(name, value, record["time"], record["step"]) for name, value in record.get("metrics", {}).items()
            ]
            following = records[number + 1]["run"] if number + 1 < len(records) else None
            parts = ("begin", "tags", "artifacts", "status")
            closes = following != record["run"] or not record.keys().isdisjoint(parts)
            if not closes:
                continue
            try:
                if "begin" in record:
                    self._begin_run(record)
                run = self._find_id(record["run"])
                if run:
                    self._send_record(run, record, metrics)
            except MlflowException as error:
                self._note_refused(f"run {record['run']}", error)
            metrics = []

    def _note_refused(self, what: str, error: MlflowException) -> None:
        """Note what a server refuses; of a run that was deleted, nothing is missed.

        Raises:
            MlflowException: the error, if another attempt may succeed.
        """
        if error.error_code not in REFUSED:
            raise error
        if error.error_code == INVALID:
            self._faults.append(f"{what}: {runs.describe_error(error)}")

    def _send_items(self, items: Sequence[tuple[str, Any]], send: Callable[[list[Any]], None]) -> None:
        """Send named things at once; where the server refuses, in halves, so that one of them costs no others."""
        try:
            send([item for _, item in items])
            self.requests += 1
        except MlflowException as error:
            if error.error_code != INVALID or len(items) == 1:
                self._note_refused(items[0][0], error)
                return
            middle = len(items) // 2
            self._send_items(items[:middle], send)
            self._send_items(items[middle:], send)

    def _begin_run(self, record: Record) -> None:
        """Make a run, or continue it if an earlier call made it."""
        begin: dict[str, Any] = dict(record["begin"])
        if begin["parent"]:
            # A parent that is not on this server leaves its id as a tag, as MLflow allows.
            begin["parent"] = self._find_id(begin["parent"]) or begin["parent"]
        try:
            self._ids[record["run"]] = self._make_run(record, begin)
        except MlflowException as error:
            # A run without its parameters is better than none, to which no later record could be sent.
            self._note_refused(f"begin of {record['run']}", error)
            self._ids[record["run"]] = self._make_run(record, {"name": begin["name"], "parent": begin["parent"]})
        self.requests += 1

    def _make_run(self, record: Record, begin: dict[str, Any]) -> str:
        return runs.begin_run(self.uri, home(), resume=record["run"], **{"start": record["time"], **begin})

    def _find_id(self, reference: str) -> str | None:
        """The id of a run; None where there is no such run any more.

        Raises:
            RunNotMadeError: it was to be made later, and was not made yet.
        """
        if reference not in self._ids:
            run = runs.find_run(self.client, home(), reference)
            if run is None and reference.startswith(runs.LATER):
                raise RunNotMadeError("a run is not there yet: its journal is in another folder of the experiment")
            self._ids[reference] = str(run.info.run_id) if run else None
        return self._ids[reference]

    def _send_record(self, run: str, record: Record, metrics: Sequence[Metric]) -> None:
        """Send a record, and metrics of those before it."""
        if metrics:
            named = [(f"metric {metric.key}", metric) for metric in metrics]
            self._send_items(named, lambda part: self.client.log_batch(run, metrics=part))
        if record.get("tags"):
            pairs = [(f"tag {name}", (name, value)) for name, value in record["tags"].items()]
            self._send_items(pairs, lambda part: runs.set_tags(self.uri, run, dict(part)))
        for path in record.get("artifacts", ()):
            if as_path(path).is_file():
                file = str(local_copy(as_path(path)))
                self._send_items([(f"artefact {path}", file)], lambda part: self.client.log_artifact(run, part[0]))
        if record.get("status") == runs.RUNNING:
            self.client.update_run(run, runs.RUNNING)
        elif "status" in record:
            self.client.set_terminated(run, record["status"], record["time"])
        self.requests += 1

"""The MLflow runs of a stage: a parent and its children, whose ids are kept beside the stage's output."""

import contextlib
import hashlib
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmrank.runtime.errors import DataError
from xmrank.runtime.files import read_kept_json, write_json, write_text
from xmrank.runtime.paths import home
from xmrank.runtime.redaction import redact_uri
from xmrank.tracking import runs
from xmrank.tracking.delivery import DeliverySession, attempt_once, deliver_while_open
from xmrank.tracking.journal import PARENT, Journal
from xmrank.tracking.runs import connect_tracking
from xmrank.tracking.system_metrics import sample_system

TRACKING = "tracking.json"
"""File beside a stage's output: key → run id, and the notes."""
NOTES = "notes"
CONFIG = "config.yaml"
"""File with the full configuration of the tree's own parent, an artefact of its run."""


def read_run_ids(folder: Path) -> dict[str, str]:
    """Read the run ids that a stage kept in its folder, by key; empty where it kept none.

    A run that was begun while the server was away has a reference for an id: see `runs.find_run`.
    """
    return {key: run_id for key, run_id in read_kept(folder / TRACKING).items() if key != NOTES}


def read_kept(path: Path) -> dict[str, Any]:
    """What a stage kept of its runs; empty where it kept nothing.

    Raises:
        DataError: the file is damaged.
    """
    content = read_kept_json(path, dict) if path.exists() else {}
    notes = content.get(NOTES, {})
    ids = [value for key, value in content.items() if key != NOTES]
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in [*ids, *notes.values()]):
        raise DataError(f"{path}: damaged: expected run ids by key (remove it to begin new runs)")
    return content


@dataclass(frozen=True)
class PlannedRun:
    """A run that begins when its work does; can be pickled.

    Attributes:
        folder: of the journals.
        key: of the run in its tree.
        id: the run id, or a reference until the run is made.
        contents: what it is made of.
    """

    folder: Path
    key: str
    id: str
    contents: dict[str, Any]

    def begin(self) -> None:
        """Begin or continue it."""
        self.journal.add_begin(self.id, self.contents)

    @property
    def journal(self) -> Journal:
        """The journal of the run."""
        return Journal(self.folder, self.key)


class RunTree:
    """A parent run with children by key; a rerun of the stage continues them.

    Making a tree touches no server: the parent is begun by the first ``begin_parent`` or ``begin_child``. That
    connects, and refuses a server that is away. From then on, nothing waits for the server or fails because of it: what
    is logged goes to journals, which are delivered while the tree is ``open``.

    A tree can be pickled and used in another process, but only one process at a time may begin runs: give each process
    a ``branch_off`` with a folder of its own.
    """

    def __init__(
        self,
        folder: Path,
        stage: str,
        *,
        name: str = "",
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        inputs: Mapping[str, str] | None = None,
        parent: Callable[[], str] | None = None,
    ) -> None:
        """Read the run ids that an earlier call kept.

        Args:
            folder: keeps the run ids, in ``tracking.json``.
            stage: a tag of every run.
            name: of the parent in the UI; the default is the stage and the folder's name.
            tags: of every run, beside the stage and the code's origin.
            params: of the parent.
            inputs: name → fingerprint of the data that the runs use.
            parent: begins the run that the children belong to and returns its id. Without it the tree has a parent of
                its own.
        """
        self.path, self.journals = folder / TRACKING, folder
        self.name = name or f"{stage} {folder.name}"
        self.tags = {"stage": stage, **(tags or {})}
        self.params, self.inputs = dict(params or {}), dict(inputs or {})
        # The keys of children are free but for these two: parent, notes.
        content = read_kept(self.path)
        self.notes: dict[str, str] = content.pop(NOTES, {})
        self.ids: dict[str, str] = content
        self._given_parent = parent
        self._parent = ""  # the parent's id, once it is begun here
        self._uri = ""
        self._origin: dict[str, str] | None = None
        self._makes_runs = True  # whether runs are made at once, so that their ids are known

    @property
    def uri(self) -> str:
        """The tracking URI; the first use connects.

        Raises:
            DataError: the tracking server or file cannot be used.
        """
        if not self._uri:
            self._uri = connect_tracking()
        return self._uri

    @property
    def is_begun(self) -> bool:
        """Whether this call began or continued the parent."""
        return bool(self._parent)

    @property
    def owns_parent(self) -> bool:
        """Whether the parent is the tree's own, which the tree ends, and not that of an experiment."""
        return self._given_parent is None

    @contextlib.contextmanager
    def open(self, end: Callable[..., None] | None = None) -> Iterator[None]:
        """Deliver what is logged while the block runs, and end the runs with it, if any was begun.

        Args:
            end: called with ``failed``; the default is ``end``.
        """
        with deliver_while_open(self.journals):
            failed = True
            try:
                with sample_system(self._log_system) if self.owns_parent else contextlib.nullcontext():
                    yield
                failed = False
            finally:
                if self.is_begun:
                    self._deliver()
                    (end or self.end)(failed=failed)

    def begin_parent(self) -> str:
        """Begin the parent or continue it, once; returns its id.

        Raises:
            DataError: the tracking server or file cannot be used.
        """
        if not self._parent:
            self._uri = self.uri  # connects, also where the parent is another's
            if self._given_parent:
                self._parent = self._given_parent()
                self._keep(PARENT, self._parent)
            else:
                self._parent = self._begin(PARENT, self.name, params=self.params)
        return self._parent

    def begin_child(
        self,
        key: str,
        *,
        name: str = "",
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        inputs: Iterable[str] | None = None,
        seconds: float = 0.0,
    ) -> str:
        """Begin a child or continue it.

        Args:
            key: what it is called in the other methods.
            name: shown in the UI; the default is the key.
            tags: beside those of all runs.
            params: logged when it is new.
            inputs: names of the tree's inputs that it uses; None: all.
            seconds: how long ago its work began.

        Returns:
            The run id; a reference where the server did not answer.
        """
        parent = self.begin_parent()
        start = int((time.time() - seconds) * 1000) if seconds else None
        return self._begin(key, name or key, parent=parent, tags=tags, params=params, inputs=inputs, start=start)

    def plan_child(
        self,
        key: str,
        *,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> PlannedRun:
        """A child that begins when its work does, in another process; arguments as for `begin_child`.

        It is made when its journal is delivered, with the time of the record that begins it.
        """
        parent = self.begin_parent()
        if key not in self.ids:
            self._keep(key, f"{runs.LATER}{uuid.uuid4().hex}")
        return PlannedRun(self.journals, key, self.ids[key], self._describe(key, parent, tags, params))

    def branch_off(self, folder: Path) -> "RunTree":
        """A tree of the same parent that keeps its run ids in another folder, for use in another process.

        It touches no server: its runs are made when their journals, which are beside the tree's, are delivered.
        """
        self.begin_parent()
        branch = RunTree(folder, self.tags["stage"], tags=self.tags, inputs=self.inputs, parent=self.begin_parent)
        branch._parent, branch._uri = self._parent, self.uri
        branch._origin, branch._makes_runs, branch.journals = self._origin, False, self.journals
        return branch

    def journal(self, key: str) -> Journal:
        """The journal of a run."""
        return Journal(self.journals, key)

    def is_open(self, key: str) -> bool:
        """Whether there is such a run and nothing has ended it."""
        return key in self.ids and self.journal(key).is_open(self.ids[key])

    def log_metrics(self, key: str, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Log many metrics of a run at once; names as MLflow allows them (no ``@``)."""
        self.log_history(key, [(step, metrics)])

    def log_history(self, key: str, history: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Log steps with their metrics; values that an interrupted call has logged are left out."""
        self.journal(key).add_new(self.ids[key], history)

    def log_artifacts(self, key: str, *paths: Path) -> None:
        """Copy files to a run's artefacts; they must stay where they are."""
        self.journal(key).add(self.ids[key], artifacts=paths)

    def end_child(self, key: str, *, failed: bool = False) -> None:
        """End a child as finished or failed."""
        self.journal(key).add(self.ids[key], failed=failed)

    def end(
        self,
        *,
        failed: bool,
        is_done: Callable[[str], bool] | None = None,
        files_of: Callable[[str], Iterable[Path]] = lambda key: (),  # noqa: ARG005
    ) -> None:
        """End the children that are still running, then the parent if it is the tree's own.

        Does nothing where no run was begun. A child is still running where its worker was killed, perhaps between the
        end of its work and the end of its run.

        Args:
            failed: how the parent ends.
            is_done: whether the work of a child, by its key, was finished; None: unless ``failed``.
            files_of: artefacts of a finished child, by its key.
        """
        if not self.is_begun:
            return
        for key in self.ids:
            if key == PARENT or not self.is_open(key):
                continue
            # A worker may have been killed after its work was done and before its run was ended.
            done = is_done(key) if is_done else not failed
            if done:
                self.log_artifacts(key, *files_of(key))
            self.end_child(key, failed=not done)
        if self.owns_parent and self.is_open(PARENT):
            self.end_child(PARENT, failed=failed)

    def log_config(self, text: str) -> None:
        """Keep a configuration beside the run ids, and copy it to the artefacts of the tree's own parent, once.

        Args:
            text: as `xmrank.config.printing.format_config` writes it.
        """
        digest = hashlib.sha256(text.encode()).hexdigest()
        if self.owns_parent and self.notes.get(CONFIG) != digest:
            path = self.path.with_name(CONFIG)
            write_text(path, text + "\n")
            self.log_artifacts(PARENT, path)
            self.keep_note(CONFIG, digest)

    def keep_note(self, key: str, value: str) -> None:
        """Keep a fact beside the run ids for later calls; they find it in ``notes``."""
        self.notes[key] = value
        self._write()

    def _begin(
        self,
        key: str,
        name: str,
        *,
        parent: str | None = None,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        inputs: Iterable[str] | None = None,
        start: int | None = None,
    ) -> str:
        uri, session = self.uri, DeliverySession.open
        begin = self._describe(name, parent, tags, params, inputs) | ({"start": start} if start else {})
        # Kept at once, so that a call that is killed now is continued and leaves no second run.
        if key not in self.ids:
            self._keep(key, f"{runs.LATER}{uuid.uuid4().hex}")
        run, journal = self.ids[key], self.journal(key)
        # A child of a parent that is not made is made after it; older records of a run are delivered before newer ones.
        waits = (parent or "").startswith(runs.LATER) or not journal.is_delivered or (session and session.is_away)
        made = None if waits or not self._makes_runs else self._make_run(uri, run, begin)
        # It names the run in the journal, so it may not change once something is there.
        if made and not journal.records_of(run):
            self._keep(key, made)
        journal.add_begin(self.ids[key], None if made else begin)
        self._deliver()
        return self.ids[key]

    def _describe(
        self,
        name: str,
        parent: str | None,
        tags: Mapping[str, str] | None,
        params: Mapping[str, Any] | None,
        inputs: Iterable[str] | None = None,
    ) -> dict[str, Any]:
        """What a run is made of, for `Journal.add_begin`."""
        if self._origin is None:
            self._origin = runs.origin_tags()
        return {
            "name": name,
            "parent": parent,
            "tags": {**self.tags, **self._origin, **(tags or {})},
            "params": {name: redact_uri(str(v)) for name, v in runs.flatten_settings(params or {}).items()},
            "inputs": self.inputs if inputs is None else {name: self.inputs[name] for name in inputs},
        }

    def _log_system(self, metrics: Mapping[str, float], step: int) -> None:
        # Nothing may have been begun yet: a stage may read for long before it trains.
        if self.is_begun:
            self.journal(PARENT).add(self.ids[PARENT], metrics=metrics, step=step)

    def _deliver(self) -> None:
        """See that journals are delivered from now on; in another process than the stage's, nothing is."""
        if DeliverySession.open:
            DeliverySession.open.start(self.uri)

    def _make_run(self, uri: str, run: str, begin: Mapping[str, Any]) -> str | None:
        """Make a run or continue it; None where the server does not answer, which is then left alone."""
        try:
            with attempt_once():
                return runs.begin_run(uri, home(), resume=run, **begin)
        except Exception:  # each kind of server has errors of its own; the journal keeps what is to be made
            self._makes_runs = False
            return None

    def _keep(self, key: str, run_id: str) -> None:
        self.ids[key] = run_id
        self._write()

    def _write(self) -> None:
        write_json(self.path, self.ids | ({NOTES: self.notes} if self.notes else {}))

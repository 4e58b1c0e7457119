"""The MLflow runs of a stage: a parent and its children, whose ids are kept beside the stage's output."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from xmrank.runtime.errors import DataError
from xmrank.runtime.files import write_json
from xmrank.runtime.paths import home
from xmrank.tracking import runs

TRACKING = "tracking.json"
"""File beside a stage's output: key → run id, and the notes."""
PARENT = "parent"
NOTES = "notes"


def connect_tracking() -> str:
    """Return the tracking URI.

    Raises:
        DataError: the tracking server or file cannot be used.
    """
    try:
        return runs.connect(home())
    except runs.TrackingError as error:
        raise DataError(str(error)) from None


def read_run_ids(folder: Path) -> dict[str, str]:
    """Read the run ids that a stage kept in its folder, by key; empty where it kept none."""
    path = folder / TRACKING
    content = json.loads(path.read_text()) if path.exists() else {}
    return {key: run_id for key, run_id in content.items() if key != NOTES}


class RunTree:
    """A parent run with children by key; a rerun of the stage continues them.

    Making a tree touches no server: the parent is begun by the first ``begin_parent`` or ``begin_child``.
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
        self.path = folder / TRACKING
        self.name = name or f"{stage} {folder.name}"
        self.tags = {"stage": stage, **(tags or {})}
        self.params, self.inputs = dict(params or {}), dict(inputs or {})
        # The keys of children are free but for these two: parent, notes.
        content = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.notes: dict[str, str] = content.pop(NOTES, {})
        self.ids: dict[str, str] = content
        self._given_parent = parent
        self._parent = ""  # the parent's id, once it is begun here
        self._uri, self._home = "", Path()
        self._origin: dict[str, str] | None = None

    @property
    def uri(self) -> str:
        """The tracking URI; the first use connects.

        Raises:
            DataError: the tracking server or file cannot be used.
        """
        if not self._uri:
            self._uri, self._home = connect_tracking(), home()
        return self._uri

    @property
    def is_begun(self) -> bool:
        """Whether this call began or continued the parent."""
        return bool(self._parent)

    @property
    def owns_parent(self) -> bool:
        """Whether the parent is the tree's own, which the tree ends, and not that of an experiment."""
        return self._given_parent is None

    def begin_parent(self) -> str:
        """Begin the parent or continue it, once; returns its id."""
        if not self._parent:
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
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        inputs: Iterable[str] | None = None,
        resume: bool = True,
    ) -> str:
        """Begin a child or continue it.

        Args:
            key: its name, and what it is called in the other methods.
            tags: beside those of all runs.
            params: logged when it is new.
            inputs: names of the tree's inputs that it uses; None: all.
            resume: False: what an interrupted call began is replaced.

        Returns:
            The run id.
        """
        parent = self.begin_parent()
        return self._begin(key, key, parent=parent, tags=tags, params=params, inputs=inputs, resume=resume)

    def branch_off(self, folder: Path) -> "RunTree":
        """A tree of the same parent that keeps its run ids in another folder, for use in another process."""
        self.begin_parent()
        branch = RunTree(folder, self.tags["stage"], tags=self.tags, inputs=self.inputs, parent=self.begin_parent)
        branch._parent, branch._uri, branch._home = self._parent, self.uri, self._home
        branch._origin = self._origin
        return branch

    def is_open(self, key: str) -> bool:
        """Whether there is such a run and nothing has ended it."""
        return key in self.ids and runs.read_status(self.uri, self.ids[key]) == "RUNNING"

    def log_metrics(self, key: str, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Log many metrics of a run at once; names as MLflow allows them (no ``@``)."""
        runs.log_metrics(self.uri, self.ids[key], metrics, step=step)

    def log_artifacts(self, key: str, *paths: Path) -> None:
        """Copy files to a run's artefacts."""
        runs.log_artifacts(self.uri, self.ids[key], *paths)

    def end_child(self, key: str, *, failed: bool = False) -> None:
        """End a child as finished or failed."""
        runs.end_run(self.uri, self.ids[key], failed=failed)

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
        if not self._given_parent:
            runs.end_run(self.uri, self._parent, failed=failed)

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
        resume: bool = True,
    ) -> str:
        uri = self.uri
        if self._origin is None:
            self._origin = runs.origin_tags()
        used = self.inputs if inputs is None else {name: self.inputs[name] for name in inputs}
        run_id = runs.begin_run(
            uri,
            self._home,
            name,
            parent=parent,
            resume=self.ids.get(key) if resume else None,
            tags={**self.tags, **self._origin, **(tags or {})},
            params=params,
            inputs=used,
        )
        # Kept at once, so that a call that is killed now is continued and leaves no second run.
        self._keep(key, run_id)
        return run_id

    def _keep(self, key: str, run_id: str) -> None:
        self.ids[key] = run_id
        self._write()

    def _write(self) -> None:
        write_json(self.path, self.ids | ({NOTES: self.notes} if self.notes else {}))

"""The directory of a stage's output: skipped when it is finished, resumed when it is not, refused when it differs.

A plan is written first: the configuration and the fingerprints of the inputs. The manifest is written last: it lists
every file with its hash, so that its presence means that the output is complete.
"""

import json
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xmrank.runtime.errors import DataError
from xmrank.runtime.files import TEMPORARY, write_json
from xmrank.runtime.lock import acquire_lock, refuse_live_holder, release_collected, require_lock
from xmrank.runtime.manifest import (
    DAMAGED,
    JOURNAL,
    LOCK,
    MANIFEST,
    NOT_HASHED,
    PLAN,
    SCHEMA,
    WORK,
    Manifest,
    describe_outside,
    read_manifest,
)
from xmrank.runtime.measurements import record_run
from xmrank.runtime.pieces import Piece, describe_file, group_outputs, is_piece, read_pieces
from xmrank.runtime.redaction import redact_values
from xmrank.runtime.storage import fetch_all, list_files, remove_tree
from xmrank.runtime.verification import find_damage


@dataclass
class StageDirectory:
    """An open stage directory.

    Attributes:
        directory: absolute path.
        name: the stage.
        config: its semantic configuration, as JSON gives it back.
        inputs: fingerprint of every input by name.
        done: the manifest if the stage is finished, otherwise None.
    """

    directory: Path
    name: str
    config: dict[str, Any]
    inputs: dict[str, str]
    done: Manifest | None = None
    _begun: float | None = field(default=None, repr=False, compare=False)
    _release: Callable[[], object] = field(default=lambda: None, repr=False, compare=False)

    @classmethod
    def open(
        cls,
        directory: Path,
        name: str,
        *,
        config: Mapping[str, Any],
        inputs: Mapping[str, str],
        overwrite: bool = False,
    ) -> "StageDirectory":
        """Open the directory of a stage: new, partly done or finished.

        Args:
            directory: path of the output.
            name: the stage.
            config: its semantic configuration, values that JSON keeps: no paths, worker counts or times.
            inputs: fingerprint of every input by name.
            overwrite: delete the contents first; only those of a directory that this stage has planned.

        Raises:
            DataError: the directory contains the output of another configuration, of other inputs, or other files, or
                another run holds it.
        """
        stage = cls(directory, name, json.loads(json.dumps(config)), dict(inputs))
        stage._refuse_other_files()
        if not overwrite and stage._find_finished():
            return stage
        refuse_live_holder(directory)
        if not overwrite:
            stage._refuse_difference()
        directory.mkdir(parents=True, exist_ok=True)
        stage._hold()
        stage._prepare(overwrite=overwrite)
        # How long a run takes is known of one that makes everything.
        stage._begun = None if stage._holds_work() else time.monotonic()
        return stage

    @classmethod
    def find_finished(
        cls,
        directory: Path,
        name: str,
        *,
        config: Mapping[str, Any],
        inputs: Mapping[str, str],
        overwrite: bool = False,
    ) -> Manifest | None:
        """The manifest of a stage that is finished and whole; None for all else, which ``open`` takes or refuses.

        What was checked before this output was made need not be checked again: it is of the same configuration and
        inputs. Arguments as of ``open``.
        """
        stage = cls(directory, name, json.loads(json.dumps(config)), dict(inputs))
        try:
            stage._refuse_other_files()
            return stage.done if not overwrite and stage._find_finished() else None
        except DataError:
            return None

    def refuse_unusable(self, *, overwrite: bool) -> None:
        """Raise DataError for what ``open`` would refuse; nothing is changed, and no contents are verified."""
        self._refuse_other_files()
        refuse_live_holder(self.directory)
        if not overwrite:
            self._refuse_difference()

    def _find_finished(self) -> bool:
        """Whether the stage is finished and whole; ``done`` is then its manifest.

        It is only read: by any number of runs, whatever lock a killed one has left, also where nobody may write.
        """
        if not (self.directory / MANIFEST).exists():
            return False
        self._refuse_difference()
        manifest, damage = self._read_finished()
        self.done = None if damage else manifest
        return self.done is not None

    def _hold(self) -> None:
        """Hold the directory until the stage is finished or given up, at the latest until the process ends."""
        acquire_lock(self.directory)
        # An exception, SIGINT and SIGTERM end the stage's variable, or the interpreter: both call this.
        self._release = weakref.finalize(self, release_collected, self.directory)

    def _prepare(self, *, overwrite: bool) -> None:
        """Put the directory in order: all that deletes or replaces files, so only under the lock."""
        if overwrite:
            self._delete_contents()
        # Again: another run may have worked here before the lock was ours.
        self._refuse_difference()
        if overwrite or self._describe_difference() or not (self.directory / PLAN).exists():
            self._write_plan([])
        self._remove_temporaries()
        self.done, damage = self._read_finished()
        if self.done and not damage:
            self._release()
            return
        if self.done:
            self.done = None
            (self.directory / MANIFEST).unlink()
        for name, fault in damage.items():
            self._move_aside(name, fault)
        self._drop_damaged_pieces()

    @property
    def work(self) -> Path:
        """A folder for intermediate results of a resumable run; deleted when the stage finishes."""
        folder = self.directory / WORK
        folder.mkdir(exist_ok=True)
        return folder

    def finish(
        self,
        *,
        counts: Mapping[str, Any],
        left_out: list[dict[str, Any]] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Hash every output file and write the manifest.

        Raises:
            DataError: a file is not what was recorded when its piece was finished, or another run has taken the
                directory.

        Args:
            counts: how many items of each kind were made.
            left_out: one entry per item that was skipped, with the reason.
            settings: choices of the first run (batch size, threads), which are not part of the fingerprint.
        """
        require_lock(self.directory)
        # Everything in the directory but the files of NOT_HASHED and what a resumed run needed.
        files = [path for path in list_files(self.directory) if not self._is_beside_output(path)]
        fetch_all(files)
        outputs = {str(path.relative_to(self.directory)): describe_file(path) for path in files}
        pieces = read_pieces(self.directory).values()
        self._refuse_changed(outputs, pieces)
        # The plan keeps the hashes too: the manifest may be lost.
        self._write_plan(group_outputs(outputs, [*pieces, *self._read_finished_pieces()]))
        manifest = Manifest(
            self.name,
            self.config,
            self.inputs,
            outputs,
            dict(counts),
            redact_values(left_out or []),
            redact_values(dict(settings or {})),
        ).with_fingerprint()
        write_json(self.directory / MANIFEST, vars(manifest))
        # Only now: until the manifest is written, a killed run resumes from these files.
        remove_tree(self.directory / WORK)
        self._release()
        if self._begun is not None:
            size = sum(entry["bytes"] for entry in outputs.values())
            record_run(self.name, self.directory, time.monotonic() - self._begun, size, counts)
        return manifest

    def _is_beside_output(self, path: Path) -> bool:
        """Whether a file in the directory is not part of the output."""
        return path.name in NOT_HASHED or path.relative_to(self.directory).parts[0] in (WORK, DAMAGED, JOURNAL)

    def read_plan(self) -> dict[str, Any] | None:
        """The plan in the directory; None if there is none, or if the file of that name is something else."""
        path = self.directory / PLAN
        # To open a pipe would wait for another process without end.
        if not path.is_file():
            return None
        try:
            plan = json.loads(path.read_text())
        except (ValueError, RecursionError):
            return None
        if not isinstance(plan, dict) or not plan.keys() >= {"schema", "stage", "config", "inputs"}:
            return None
        return plan if isinstance(plan["config"], dict) and isinstance(plan["inputs"], dict) else None

    def _refuse_other_files(self) -> None:
        """Refuse a folder with files that this stage did not plan: it is never written to and never emptied."""
        if self.directory.exists() and not self.directory.is_dir():
            raise DataError(f"{self.directory}: expected a directory for the output, this is a file")
        plan = self.read_plan()
        if plan and plan["stage"] != self.name:
            raise DataError(
                f"{self.directory}: holds the output of the stage {plan['stage']}, not of {self.name}; "
                "give another --output"
            )
        if plan or not self.directory.exists():
            return
        if any(p.name != LOCK and not p.name.startswith(TEMPORARY) for p in self.directory.iterdir()):
            raise DataError(f"{self.directory}: is not empty and not the directory of a stage; give another --output")

    def _delete_contents(self) -> None:
        """Delete all but plan and lock, the manifest first, so that an interruption leaves an unfinished stage."""
        if not self.directory.exists():
            return
        for path in sorted(self.directory.iterdir(), key=lambda path: path.name != MANIFEST):
            if path.is_dir() and not path.is_symlink():
                remove_tree(path, errors=True)
            elif path.name not in (PLAN, LOCK):
                path.unlink()

    def _holds_work(self) -> bool:
        """Whether the directory contains more than its plan."""
        files = list_files(self.directory)
        return any(path.name not in (PLAN, LOCK) and not path.name.startswith(TEMPORARY) for path in files)

    def _refuse_difference(self) -> None:
        """Refuse the work of another plan; that of a run that failed before it wrote anything may be replaced."""
        if self._holds_work():
            self._refuse(self._describe_difference())

    def _refuse(self, difference: str) -> None:
        """Raise DataError for a difference, if there is one."""
        if difference:
            raise DataError(f"{self.directory}: {difference} (--overwrite to redo it, or another --output)")

    def _describe_difference(self) -> str:
        """How the plan in the directory differs from this stage; empty if it does not."""
        plan = self.read_plan()
        if plan is None:
            return ""
        # In this order: of another schema, the configuration cannot be compared.
        if plan["schema"] != SCHEMA:
            return f"has schema {plan['schema']}, expected {SCHEMA}"
        return self._compare(plan["config"], plan["inputs"])

    def _compare(self, config: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
        """How another configuration or other inputs differ from this stage's; empty if they do not."""
        for key in sorted(config.keys() | self.config.keys()):
            there, here = config.get(key), self.config.get(key)
            if there != here:
                return f"holds another configuration: {key} is {json.dumps(there)} there, {json.dumps(here)} here"
        for key in sorted(inputs.keys() | self.inputs.keys()):
            if inputs.get(key) != self.inputs.get(key):
                return f"was made from other {key}: {inputs.get(key)} there, {self.inputs.get(key)} here"
        return ""

    def _remove_temporaries(self) -> None:
        """Delete temporary files that a killed process has left."""
        for path in self.directory.rglob(f"{TEMPORARY}*"):
            if not path.is_dir():
                path.unlink(missing_ok=True)

    def _read_finished(self) -> tuple[Manifest | None, dict[str, str]]:
        """The manifest, if there is one, and its files that are not what it says, each with what is wrong.

        Raises:
            DataError: the manifest is that of another configuration or of other inputs than the plan.
        """
        if not (self.directory / MANIFEST).exists():
            return None, {}
        manifest = read_manifest(self.directory, self.name)
        # The plan may have been replaced since.
        self._refuse(self._compare(manifest.config, manifest.inputs))
        damage = find_damage(self.directory, manifest.outputs)
        if not damage:
            # Left by a run that was killed after it had written the manifest.
            remove_tree(self.directory / WORK)
        return manifest, damage

    def _write_plan(self, finished: list[Piece]) -> None:
        """Write the plan, with the pieces of the finished stage: empty until it is finished."""
        plan = {"schema": SCHEMA, "stage": self.name, "config": self.config, "inputs": self.inputs}
        write_json(self.directory / PLAN, {**plan, "finished": finished})

    def _read_finished_pieces(self) -> list[Piece]:
        """The pieces in the plan: of a stage that was finished, or of one that lost its manifest."""
        pieces = (self.read_plan() or {}).get("finished")
        return [piece for piece in pieces if is_piece(self.directory, piece)] if isinstance(pieces, list) else []

    def _drop_damaged_pieces(self) -> None:
        """Move the pieces aside of which a file is not what was recorded, so that the stage makes them again."""
        finished, recorded = self._read_finished_pieces(), read_pieces(self.directory)
        pieces = [*finished, *recorded.values()]
        files = {name: entry for piece in pieces for name, entry in piece.items()}
        damage = find_damage(self.directory, files, record="the record of what was finished")
        if not damage:
            return
        for piece in pieces:
            faults = damage.keys() & piece.keys()
            for name in piece if faults else ():
                self._move_aside(name, damage.get(name, f"is made anew with {min(faults)}"))
        self._write_plan([piece for piece in finished if not damage.keys() & piece.keys()])
        for path, piece in recorded.items():
            if damage.keys() & piece.keys():
                path.unlink()

    def _refuse_changed(self, outputs: Mapping[str, Mapping[str, Any]], pieces: Iterable[Piece]) -> None:
        """Raise DataError for an output that has changed since its piece was recorded."""
        for piece in pieces:
            for name, entry in piece.items():
                if name in outputs and outputs[name] != entry:
                    fault = "damaged: has changed since it was written; the same command makes it anew"
                    raise DataError(f"{self.directory / name}: {fault}")

    def _move_aside(self, name: str, fault: str) -> None:
        """Move a file to the folder of damaged ones: a record's word is not enough to delete what it names.

        Raises:
            DataError: the folder is a link that leads out of the directory.
        """
        file = self.directory / name
        if not is_there(file):
            return
        if fault_of_folder := describe_outside(self.directory, f"{DAMAGED}/{name}"):
            raise DataError(f"{self.directory / DAMAGED / name}: {fault_of_folder}; {name} is {fault}")
        print(f"{self.name}: {file}: {fault}; moved to {DAMAGED}/", file=sys.stderr)
        target = self.directory / DAMAGED / name
        while is_there(target):
            target = target.with_name(f"{target.name}-again")
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)


def write_finished_plan(directory: Path, manifest: Manifest) -> None:
    """Write the plan of a finished stage that came from somewhere else, so that its directory is taken for one."""
    plan = {"schema": SCHEMA, "stage": manifest.stage, "config": manifest.config, "inputs": manifest.inputs}
    write_json(directory / PLAN, {**plan, "finished": group_outputs(manifest.outputs, [])})


def is_there(path: Path) -> bool:
    """Whether there is something of this name, also a link that leads nowhere."""
    return path.is_symlink() or path.exists()

"""A stage's directory: planned, filled, finished; skipped when done, resumed when not, refused when it is another's."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xmrank import __version__
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import TEMPORARY, sha256_file, sha256_json, write_json

SCHEMA = 1
PLAN = "plan.json"
MANIFEST = "manifest.json"
WORK = "work"
NOT_HASHED = {PLAN, MANIFEST, "tracking.json", "timing.json", "results.html"}
"""Not part of the output: run ids, times, and the page of a ranking, which can be made anew at any time."""


@dataclass(frozen=True)
class Manifest:
    """What a finished stage made, from what, and what it left out."""

    stage: str
    config: dict[str, Any]
    inputs: dict[str, str]
    outputs: dict[str, dict[str, Any]]
    counts: dict[str, Any] = field(default_factory=dict)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA
    xmrank: str = __version__
    fingerprint: str = ""

    def with_fingerprint(self) -> "Manifest":
        """The same with its sha256 over schema, semantic configuration and the contents of inputs and outputs."""
        contents = {name: entry["sha256"] for name, entry in self.outputs.items()}
        body = [self.schema, self.stage, self.config, self.inputs, contents]
        return Manifest(**{**vars(self), "fingerprint": sha256_json(body)})


@dataclass
class StageDirectory:
    """An open stage directory.

    Attributes:
        directory: absolute path.
        done: the manifest when there is nothing left to do, else None.
    """

    directory: Path
    name: str
    config: dict[str, Any]
    inputs: dict[str, str]
    done: Manifest | None = None

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
        """Open a stage's directory, planned anew, half done or done.

        Args:
            directory: where the stage's output is or will be.
            name: the stage.
            config: its semantic configuration, JSON-able: no paths, worker counts or times.
            inputs: name → fingerprint of every input.
            overwrite: empty the directory first; only ever a directory that this stage has planned.

        Raises:
            DataError: the directory holds the output of another configuration, of other inputs, or of something else.
        """
        stage = cls(directory, name, json.loads(json.dumps(config)), dict(inputs))
        stage._refuse_strangers()
        if overwrite:
            stage._empty()
        difference = stage._difference()
        # A run that failed before it made anything binds nobody to what it asked for.
        if difference and stage._holds_work():
            raise DataError(f"{directory}: {difference} (--overwrite to redo it, or another --output)")
        directory.mkdir(parents=True, exist_ok=True)
        if difference or not (directory / PLAN).exists():
            write_json(
                directory / PLAN, {"schema": SCHEMA, "stage": name, "config": stage.config, "inputs": stage.inputs}
            )
        stage._sweep()
        stage.done = stage._finished()
        return stage

    @property
    def work(self) -> Path:
        """A folder for what a resumed run needs; removed when the stage finishes, not part of its output."""
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
        """Hash every output file and write the manifest last.

        Args:
            counts: what was made, how many of each.
            left_out: one entry an item that was skipped, with the reason.
            settings: what was chosen at the first run (batch size, threads); kept, not part of the fingerprint.
        """
        outputs = {
            str(path.relative_to(self.directory)): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            for path in sorted(self.directory.rglob("*"))
            if path.is_file() and path.name not in NOT_HASHED and not path.is_relative_to(self.directory / WORK)
        }
        manifest = Manifest(
            self.name, self.config, self.inputs, outputs, dict(counts), left_out or [], dict(settings or {})
        ).with_fingerprint()
        write_json(self.directory / MANIFEST, vars(manifest))
        shutil.rmtree(self.directory / WORK, ignore_errors=True)  # not before: it is what a killed run resumes from
        return manifest

    def _plan(self) -> dict[str, Any] | None:
        """What the directory's plan says; None where there is none, or a file of that name that is not ours."""
        try:
            plan = json.loads((self.directory / PLAN).read_text())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        return plan if isinstance(plan, dict) and plan.keys() >= {"schema", "stage", "config", "inputs"} else None

    def _refuse_strangers(self) -> None:
        """A folder with files that this stage did not plan is somebody's data: never written to, never emptied."""
        if self.directory.exists() and not self.directory.is_dir():
            raise DataError(f"{self.directory}: expected a directory for the output, this is a file")
        plan = self._plan()
        if plan and plan["stage"] != self.name:
            raise DataError(f"{self.directory}: holds the stage {plan['stage']}, not {self.name} ; another --output")
        if plan or not self.directory.exists():
            return
        if any(not p.name.startswith(TEMPORARY) for p in self.directory.iterdir()):
            raise DataError(f"{self.directory}: is not empty and not the directory of a stage; give another --output")

    def _empty(self) -> None:
        """Remove everything but the plan, the manifest first: wherever this is cut short, the rest stays a stage's."""
        if not self.directory.exists():
            return
        for path in sorted(self.directory.iterdir(), key=lambda path: path.name != MANIFEST):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != PLAN:
                path.unlink()

    def _holds_work(self) -> bool:
        """Whether there is more in the directory than its plan."""
        files = (path for path in self.directory.rglob("*") if path.is_file())
        return any(path.name != PLAN and not path.name.startswith(TEMPORARY) for path in files)

    def _difference(self) -> str:
        """How the directory differs from this stage's plan; empty when it does not."""
        plan = self._plan()
        if plan is None:
            return ""
        if plan["schema"] != SCHEMA:
            return f"has schema {plan['schema']}, expected {SCHEMA}"
        for key in sorted(plan["config"].keys() | self.config.keys()):
            there, here = plan["config"].get(key), self.config.get(key)
            if there != here:
                return f"holds another configuration: {key} is {json.dumps(there)} there, {json.dumps(here)} here"
        for key in sorted(plan["inputs"].keys() | self.inputs.keys()):
            if plan["inputs"].get(key) != self.inputs.get(key):
                return f"was made from other {key}: {plan['inputs'].get(key)} there, {self.inputs.get(key)} here"
        return ""

    def _sweep(self) -> None:
        """Remove what a killed writer left under a temporary name."""
        for path in self.directory.rglob(f"{TEMPORARY}*"):
            path.unlink(missing_ok=True)

    def _finished(self) -> Manifest | None:
        """The manifest, when every file that it names is there in full; else it goes, and the files that are not."""
        path = self.directory / MANIFEST
        if not path.exists():
            return None
        manifest = read_manifest(self.directory, self.name)
        files = {self.directory / name: entry["bytes"] for name, entry in manifest.outputs.items()}
        faulty = [file for file, size in files.items() if not file.is_file() or file.stat().st_size != size]
        if faulty:
            for file in faulty:
                file.unlink(missing_ok=True)
            path.unlink()
            return None
        shutil.rmtree(self.directory / WORK, ignore_errors=True)  # of a run that was killed just after the manifest
        return manifest


def read_manifest(directory: Path, stage: str) -> Manifest:
    """The manifest of a finished stage.

    Raises:
        DataError: no finished stage of that name is there, or one of another schema.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise DataError(f"{directory}: no finished output of the stage {stage} here (no {MANIFEST})")
    try:
        values = dict(json.loads(path.read_text()))
    except (ValueError, TypeError):
        raise DataError(f"{path}: not the manifest of a stage") from None
    if values.get("schema") != SCHEMA:
        made_by = f"made by xmrank {values.get('xmrank')}"
        raise DataError(f"{path}: schema {values.get('schema')}, expected {SCHEMA}: {made_by}")
    manifest = Manifest(**values)
    if manifest.stage != stage:
        raise DataError(f"{directory}: holds the output of the stage {manifest.stage}, expected {stage}")
    return manifest

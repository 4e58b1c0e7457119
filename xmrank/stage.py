"""A stage's directory: planned, filled, finished; skipped when done, resumed when not, refused when it is another's."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xmrank import __version__
from xmrank.errors import DataError
from xmrank.files import TEMPORARY, sha256_file, sha256_json, write_json

SCHEMA = 1
PLAN = "plan.json"
MANIFEST = "manifest.json"
WORK = "work"
NOT_HASHED = {PLAN, MANIFEST, "tracking.json"}


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
class Stage:
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
    ) -> "Stage":
        """Open a stage's directory, planned anew, half done or done.

        Args:
            directory: where the stage's output is or will be.
            name: the stage.
            config: its semantic configuration, JSON-able: no paths, worker counts or times.
            inputs: name → fingerprint of every input.
            overwrite: empty the directory first; only ever a directory that a stage has planned.

        Raises:
            DataError: the directory holds the output of another configuration, of other inputs, or of something else.
        """
        stage = cls(directory, name, json.loads(json.dumps(config)), dict(inputs))
        stage._refuse_strangers()
        if overwrite:
            shutil.rmtree(directory, ignore_errors=True)
        difference = stage._difference()
        if difference:
            raise DataError(f"{directory}: {difference} (--overwrite to redo it, or another --output)")
        directory.mkdir(parents=True, exist_ok=True)
        if not (directory / PLAN).exists():
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
        shutil.rmtree(self.directory / WORK, ignore_errors=True)
        outputs = {
            str(path.relative_to(self.directory)): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            for path in sorted(self.directory.rglob("*"))
            if path.is_file() and path.name not in NOT_HASHED
        }
        manifest = Manifest(
            self.name, self.config, self.inputs, outputs, dict(counts), left_out or [], dict(settings or {})
        ).with_fingerprint()
        write_json(self.directory / MANIFEST, vars(manifest))
        return manifest

    def _refuse_strangers(self) -> None:
        """A folder with files that no stage planned is somebody's data: never written to, never emptied."""
        if self.directory.exists() and not self.directory.is_dir():
            raise DataError(f"{self.directory}: expected a directory for the output, this is a file")
        if not self.directory.exists() or (self.directory / PLAN).exists():
            return
        if any(not p.name.startswith(TEMPORARY) for p in self.directory.iterdir()):
            raise DataError(f"{self.directory}: is not empty and not the directory of a stage; give another --output")

    def _difference(self) -> str:
        """How the directory differs from this stage's plan; empty when it does not."""
        plan_path = self.directory / PLAN
        if not plan_path.exists():
            return ""
        plan = json.loads(plan_path.read_text())
        if plan["stage"] != self.name:
            return f"holds the stage {plan['stage']}, not {self.name}"
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
        """The manifest, when every file that it names is there in full; a manifest that lies is removed."""
        path = self.directory / MANIFEST
        if not path.exists():
            return None
        manifest = read_manifest(self.directory, self.name)
        for name, entry in manifest.outputs.items():
            file = self.directory / name
            if not file.is_file() or file.stat().st_size != entry["bytes"]:
                path.unlink()
                file.unlink(missing_ok=True)
                return None
        return manifest


def read_manifest(directory: Path, stage: str) -> Manifest:
    """The manifest of a finished stage.

    Raises:
        DataError: no finished stage of that name is there, or one of another schema.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise DataError(f"{directory}: no finished output of the stage {stage} here (no {MANIFEST})")
    manifest = Manifest(**json.loads(path.read_text()))
    if manifest.stage != stage:
        raise DataError(f"{directory}: holds the output of the stage {manifest.stage}, expected {stage}")
    if manifest.schema != SCHEMA:
        raise DataError(f"{path}: schema {manifest.schema}, expected {SCHEMA}: made by xmrank {manifest.xmrank}")
    return manifest

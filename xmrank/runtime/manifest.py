"""The manifest of a stage: what it has written, from what. A manifest is data, not trust: what it says is checked."""

import json
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from xmrank import __version__
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import sha256_json

SCHEMA = 2
PLAN = "plan.json"
MANIFEST = "manifest.json"
WORK = "work"
JOURNAL = "journal"
"""Folder of a stage directory for what is to be logged to MLflow, until a server has it."""
DAMAGED = "damaged"
"""Folder of a stage directory for outputs that were not what the manifest says."""
LOCK = "run.lock"
"""Names the run that works in a stage directory."""
CARD = "README.md"
"""Says what a directory holds that was pulled from the hub."""
NOT_HASHED = {PLAN, MANIFEST, LOCK, CARD, "tracking.json", "config.yaml", "timing.json", "results.html", "report.html",
              "report.md"}  # fmt: skip
"""Files that are not part of the output: run ids, settings of a run, times, the card, and pages, which can be made
again."""
TYPES = {
    "stage": str,
    "config": dict,
    "inputs": dict,
    "outputs": dict,
    "counts": dict,
    "left_out": list,
    "settings": dict,
    "schema": int,
    "xmrank": str,
    "fingerprint": str,
}
"""The fields of a manifest as JSON has them."""


@dataclass(frozen=True)
class Manifest:
    """What a finished stage has written, from which inputs, and what it left out.

    Attributes:
        stage: name of the stage.
        config: its semantic configuration.
        inputs: fingerprint of every input by name.
        outputs: size ("bytes") and hash ("sha256") of every file by path in the directory.
        counts: how many items were made.
        left_out: one entry per item that was skipped, with the reason.
        settings: choices of the first run, such as a batch size; not part of the fingerprint.
        schema: version of this layout.
        xmrank: version of the package that wrote it.
        fingerprint: sha256 over schema, stage, configuration and the hashes of inputs and outputs.
    """

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
        """The same manifest with its fingerprint."""
        contents = {name: entry["sha256"] for name, entry in self.outputs.items()}
        body = [self.schema, self.stage, self.config, self.inputs, contents]
        return Manifest(**{**vars(self), "fingerprint": sha256_json(body)})


def read_manifest(directory: Path, stage: str) -> Manifest:
    """The manifest of a finished stage. The files it names are not read.

    Raises:
        DataError: the directory contains no finished output of this stage, or one of another schema, or a manifest
            that is damaged or names files outside the directory.
    """
    if not (directory / MANIFEST).is_file():
        raise DataError(f"{directory}: no finished output of the stage {stage} here (no {MANIFEST})")
    manifest = parse_manifest(directory)
    if manifest.stage != stage:
        raise DataError(f"{directory}: holds the output of the stage {manifest.stage}, expected {stage}")
    return manifest


def parse_manifest(directory: Path) -> Manifest:
    """The manifest in a directory, of whichever stage.

    Raises:
        DataError: as `read_manifest`.
    """
    path = directory / MANIFEST
    try:
        values = json.loads(path.read_text())
    except (ValueError, RecursionError):
        raise DataError(f"{path}: not the manifest of a stage") from None
    if not isinstance(values, dict):
        raise DataError(f"{path}: not the manifest of a stage")
    # Before the fields: another schema may have other ones.
    if values.get("schema") != SCHEMA:
        made_by = f"made by xmrank {values.get('xmrank')}"
        raise DataError(f"{path}: schema {values.get('schema')}, expected {SCHEMA}: {made_by}")
    check_fields(path, values)
    manifest = Manifest(**values)
    for name in manifest.outputs:
        fault = describe_bad_name(directory, name)
        if fault:
            raise DataError(f"{path}: refused: names the output {json.dumps(name)}, which {fault}")
    # A changed digit anywhere in what the fingerprint covers would otherwise pass for another stage's output.
    if manifest.with_fingerprint().fingerprint != manifest.fingerprint:
        raise DataError(f"{path}: damaged: its fingerprint is not that of its contents (--overwrite to redo the stage)")
    return manifest


def check_fields(path: Path, values: dict[str, Any]) -> None:
    """Raise DataError when a field of a manifest is missing, unknown or of another type."""
    if values.keys() != TYPES.keys():
        raise DataError(f"{path}: not the manifest of a stage: {', '.join(sorted(values.keys() ^ TYPES.keys()))}")
    for name, expected in TYPES.items():
        if not isinstance(values[name], expected):
            raise DataError(f"{path}: not the manifest of a stage: {name} is {type(values[name]).__name__}")
    for name, fingerprint in values["inputs"].items():
        if not isinstance(fingerprint, str):
            raise DataError(f"{path}: not the manifest of a stage: no fingerprint of the input {json.dumps(name)}")
    for name, entry in values["outputs"].items():
        if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
            raise DataError(f"{path}: not the manifest of a stage: no sha256 of {json.dumps(name)}")
        if not isinstance(entry.get("bytes"), int):
            raise DataError(f"{path}: not the manifest of a stage: no size of {json.dumps(name)}")


def describe_bad_name(directory: Path, name: str) -> str:
    """Why an output cannot have this name in a directory; empty if it can."""
    path = PurePosixPath(name)
    if path.parts and (path.name in NOT_HASHED or path.parts[0] in (WORK, DAMAGED)):
        return "is no output"
    return describe_outside(directory, name)


def describe_outside(directory: Path, name: str) -> str:
    """Why a name is not that of a file in a directory; empty if it is."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        return "is outside the directory"
    if "\0" in name or not path.parts:
        return "is not the name of a file"
    # Symbolic links in the directory are followed; the directory itself may be one.
    try:
        inside = (directory / path).resolve().is_relative_to(directory.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name that is too long or not text
        return "is not the name of a file"
    return "" if inside else "is outside the directory, through a symbolic link"

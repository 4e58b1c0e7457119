"""What a server can take of a journal's record: a journal is data, and may have come with a directory of others."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import RunStatus

from xmrank.runtime.errors import ConfigError
from xmrank.runtime.paths import as_path

LARGEST = 2**63 - 1
"""Servers keep times and steps as integers of 64 bits."""
STATUSES = {RunStatus.to_string(status) for status in RunStatus.all_status()}
REFERENCE = re.compile(r"[\w-]+", re.ASCII)
"""Run ids and references; they become part of a search, in which a quote would end the text."""


def keep_sound(record: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The part of a record that can be sent, and what is wrong with the rest.

    Args:
        record: as `journal.parse_line` returns it.
        folder: of the stage; only files in it become artefacts.

    Returns:
        The record, None if nothing can be sent, and a reason for each thing that is left out.
    """
    if not REFERENCE.fullmatch(record["run"]):
        return None, [f"run {record['run']!r}: expected an id"]
    if not is_count(record["time"]):
        return None, [f"time {str(record['time'])[:40]}: expected ms since 1970"]
    faults: list[str] = []
    sound = {}
    for name, value in record.items():
        if name == "begin" or is_encodable(value):
            sound[name] = value
        else:
            faults.append(f"{name}: expected text that UTF-8 can write")
    if "begin" in sound:
        sound["begin"] = keep_sound_begin(sound["begin"], faults)
    if not is_count(sound.get("step", 0)):
        faults += [f"metric {name}: step {str(sound['step'])[:40]}" for name in sound.pop("metrics", {})]
    if "metrics" in sound:
        sound["metrics"] = keep_sound_metrics(sound["metrics"], faults)
    if "artifacts" in sound:
        sound["artifacts"] = keep_own_files(sound["artifacts"], folder, faults)
    if sound.get("status", "RUNNING") not in STATUSES:
        faults.append(f"status {sound.pop('status')!r}: expected one of {', '.join(sorted(STATUSES))}")
    return sound, faults


def is_count(value: int) -> bool:
    """Whether a server can keep it as a time or a step."""
    return 0 <= value <= LARGEST


def is_encodable(value: object) -> bool:
    """Whether UTF-8 can write all of a JSON value: half of a surrogate pair is none of its characters."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def keep_sound_begin(begin: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """What a run is made of. A part that is odd is left out, so that the run is made and has its later records."""
    sound: dict[str, Any] = {"name": "unnamed", "parent": None}
    for name, kind in {"name": str, "parent": str, "tags": dict, "params": dict, "inputs": dict}.items():
        value = begin.get(name)
        if isinstance(value, kind) and is_encodable(value) and (name != "parent" or REFERENCE.fullmatch(str(value))):
            sound[name] = value
        elif value or name == "name":
            faults.append(f"begin: {name}: {str(value)[:40]!r}")
    for name in ("tags", "inputs"):
        sound[name] = {key: str(value) for key, value in sound.get(name, {}).items()}
    start = begin.get("start")
    if type(start) is int and is_count(start):
        sound["start"] = start
    elif start is not None:
        faults.append(f"begin: start: {str(start)[:40]!r}")
    return sound


def keep_sound_metrics(metrics: Mapping[str, Any], faults: list[str]) -> dict[str, float]:
    """The metrics whose values are numbers."""
    sound = {}
    for name, value in metrics.items():
        # Python reads integers of any length, of which the longest have no float.
        if isinstance(value, float) or (type(value) is int and abs(value) <= LARGEST):
            sound[name] = float(value)
        else:
            faults.append(f"metric {name}: {str(value)[:40]!r}: expected a number")
    return sound


def keep_own_files(paths: list[Any], folder: Path, faults: list[str]) -> list[str]:
    """The artefacts in a stage's folder: a path elsewhere, also by a link, would send any file of this machine."""
    own, root = [], folder.resolve()
    for path in paths:
        try:
            is_own = as_path(path).resolve().is_relative_to(root)
        # No text, a NUL, a name too long, a circle of links, a scheme that nobody knows.
        except (TypeError, ValueError, OSError, RuntimeError, ConfigError):
            is_own = False
        if is_own:
            own.append(path)
        else:
            faults.append(f"artefact {path}: not in {folder}")
    return own

"""Contents against the manifest: a stage reads another's output only if it is what the other stage wrote.

Hashing costs once: what was verified is remembered for this user, by the file's size, times and inode. The memory lies
in the user's cache folder and not in the stage's directory, so that it never comes with files from somewhere else.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.file_cache import cache_folder
from xmrank.runtime.files import sha256_file, write_json
from xmrank.runtime.manifest import DAMAGED, MANIFEST, PLAN, WORK, Manifest, parse_manifest, read_manifest
from xmrank.runtime.storage import fetch_all, list_folders, read_state, read_states

FRESH_NS = 100_000_000
"""A file changed less than this before it was hashed is not remembered: one more change could have the same time."""
INNER_FOLDERS = {"tune": "tune", "supervised": "supervised", "supervised-report": "supervised"}
"""Stages whose directory is a folder of the ``--output``, and their jobs."""


def read_outputs(directory: Path, stage: str) -> Manifest:
    """The manifest of a finished stage, with all its files verified: how a stage opens the output of another.

    It is for the process that opens a stage's inputs. Workers of that stage call `read_manifest`: nothing is hashed in
    every process.

    Raises:
        DataError: as `read_manifest`, and for a file that is missing or not what the manifest says, the first one.
    """
    manifest = read_manifest(directory, stage)
    verify_outputs(directory, manifest)
    return manifest


def verify_outputs(directory: Path, manifest: Manifest, *, afresh: bool = False) -> None:
    """Raise DataError for the first output of a stage that is missing or not what its manifest says.

    Args:
        directory: of the stage.
        manifest: of the stage.
        afresh: hash every file, also those that were verified before.
    """
    for name, damage in find_damage(directory, manifest.outputs, afresh=afresh).items():
        raise DataError(f"{directory / name}: {damage}; make it anew: {describe_remedy(directory, manifest.stage)}")


def verify_file(path: Path) -> None:
    """Raise DataError for a file of a finished stage that is not what the manifest beside it says.

    A file without a manifest beside it, or that the manifest does not name, is nothing that can be verified.
    """
    if not (path.parent / MANIFEST).is_file():
        return
    manifest = parse_manifest(path.parent)
    if entry := manifest.outputs.get(path.name):
        verify_outputs(path.parent, Manifest(manifest.stage, {}, {}, {path.name: entry}))


def find_damage(
    directory: Path, outputs: Mapping[str, Mapping[str, Any]], *, afresh: bool = False, record: str = MANIFEST
) -> dict[str, str]:
    """The files of a stage that are not what was recorded, each with what is wrong.

    Args:
        directory: of the stage.
        outputs: size ("bytes") and hash ("sha256") of every file by path in the directory.
        afresh: as for `verify_outputs`.
        record: where sizes and hashes come from, for the texts.
    """
    memory, states = VerifiedFiles(directory), read_states(directory, list(outputs))
    damage, unknown = {}, []
    for name, entry in outputs.items():
        state = states.get(name)
        if state is None:
            damage[name] = f"is missing, though {record} names it"
        elif state[0] != entry["bytes"]:
            damage[name] = f"damaged: holds {state[0]} bytes, {entry['bytes']} in {record}"
        elif afresh or not memory.holds(name, entry["sha256"], state):
            unknown.append(name)
    fetch_all([directory / name for name in unknown], afresh=afresh)
    for name in unknown:
        if not memory.check(name, outputs[name]["sha256"], states[name]):
            damage[name] = f"damaged: its contents are not those in {record}"
    memory.save()
    # In the order of the outputs: the first is named.
    return {name: damage[name] for name in outputs if name in damage}


def describe_remedy(directory: Path, stage: str) -> str:
    """The command that makes a stage's output anew."""
    job, output = INNER_FOLDERS.get(stage, stage), directory.parent if stage in INNER_FOLDERS else directory
    return f"xmrank {job} --output {output} and its other flags"


class VerifiedFiles:
    """What this user has verified in a directory before; a memory that is lost or damaged costs a hash, no more."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = memory_path(directory)
        self.entries = self._read()
        self.changed = False

    def holds(self, name: str, sha256: str, state: list[int]) -> bool:
        """Whether the file was found to have this hash, and has not been written to since."""
        return self.entries.get(name) == [sha256, *state]

    def check(self, name: str, sha256: str, state: list[int]) -> bool:
        """Hash a file whose state was just read, remember it if it has this hash, and return whether it has."""
        path, started = self.directory / name, time.time_ns()
        if sha256_file(path) != sha256:
            return False
        # Not if it was being written: the state before must also be the state after.
        if max(state[1:3]) < started - FRESH_NS and state == read_state(path):
            self.entries[name] = [sha256, *state]
            self.changed = True
        return True

    def save(self) -> None:
        """Write the memory; without a folder to write to, nothing is remembered."""
        if self.changed and self.path:
            # Without those of files that are gone, such as intermediate results.
            there = read_states(self.directory, list(self.entries))
            kept = {name: entry for name, entry in self.entries.items() if name in there}
            try:
                write_json(self.path, kept)
            except OSError:
                self.path = None

    def _read(self) -> dict[str, Any]:
        try:
            entries = json.loads(self.path.read_text()) if self.path else {}
        except (OSError, ValueError, RecursionError):
            entries = {}
        return entries if isinstance(entries, dict) else {}


def memory_path(directory: Path) -> Path | None:
    """The file that says what was verified in a directory; None where the user has no cache folder."""
    try:
        cache = cache_folder()
    except ConfigError:  # a user without a home
        return None
    key = hashlib.sha256(os.fsencode(str(directory.resolve()))).hexdigest()[:32]
    return cache / "verified" / f"{key}.json"


def list_stages(root: Path) -> Iterator[Path]:
    """The stage directories at and below a folder, by name: those with a plan or a manifest."""
    for folder, files in list_folders(root, without=(WORK, DAMAGED)):
        if {PLAN, MANIFEST} & files:
            yield folder


def verify_tree(root: Path) -> bool:
    """Hash every output of every stage at and below a folder, and print a line for each; whether all are whole.

    Raises:
        DataError: no stage there.
    """
    stages = list(list_stages(root))
    if not stages:
        raise DataError(f"{root}: no directory of a stage here or below")
    damaged = [directory for directory in stages if not verify_stage(directory)]
    return not damaged


def verify_stage(directory: Path) -> bool:
    """Hash every output of a stage, and print what was found in a line; False for damage."""
    if not (directory / MANIFEST).is_file():
        print(f"{directory}: not finished, nothing to verify")
        return True
    try:
        manifest = parse_manifest(directory)
    except DataError as error:
        print(error)
        return False
    damage = find_damage(directory, manifest.outputs, afresh=True)
    size = sum(entry["bytes"] for entry in manifest.outputs.values())
    found = "; ".join(f"{name} {fault}" for name, fault in damage.items()) or "ok"
    remedy = f"; make it anew: {describe_remedy(directory, manifest.stage)}" if damage else ""
    print(f"{directory}: {manifest.stage}, {len(manifest.outputs)} files, {size} bytes: {found}{remedy}")
    return not damage

"""Pulls a finished stage: into a folder beside the directory, which gets its name when all files are verified."""

import glob
import shutil
from pathlib import Path

from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

from xmrank.config.hub import PullConfig, RepositoryName
from xmrank.hub.requests import (
    DATASET,
    MODEL,
    TIMEOUT_S,
    HubError,
    hide_bars,
    hub_errors,
    open_api,
    read_remote_manifest,
    uri_of,
)
from xmrank.runtime.directory import write_finished_plan
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.files import write_json
from xmrank.runtime.manifest import CARD, MANIFEST, Manifest, parse_manifest
from xmrank.runtime.paths import resolve
from xmrank.runtime.remote_path import RemotePath
from xmrank.runtime.storage import list_files
from xmrank.runtime.verification import find_damage

CLIENTS_FOLDER = ".cache"
"""Where the hub's client notes what it has fetched into a folder."""


def pull(config: PullConfig) -> None:
    """Pull a finished stage from the hub; a killed pull is continued by the same command.

    Raises:
        DataError: the directory holds something else, or a file is not what the manifest says.
        HubError: no such repository or no right to read it, no stage in it, or a hub that is not reached.
    """
    directory, target = resolve(config.directory), RepositoryName.parse(config.repository)
    if isinstance(directory, RemotePath):
        raise ConfigError(f"{directory}: expected a folder of this machine")
    hide_bars()
    with hub_errors(target.name, "pull"):
        kind, commit = find_commit(target)
        if is_there(directory, target, kind, commit):
            print(f"pull: {directory}: this stage already")
            return
        partial = directory.with_name(f".pull-{directory.name}")
        manifest = fetch_stage(target, kind, commit, partial)
    accept_files(partial, manifest)
    partial.rename(directory)
    size = sum(entry["bytes"] for entry in manifest.outputs.values())
    print(
        f"pull: {manifest.stage}, {len(manifest.outputs)} files, {size:,} bytes, verified: {directory} "
        f"({uri_of(target, kind)}@{commit[:12]})"
    )


def find_commit(target: RepositoryName) -> tuple[str, str]:
    """The kind of a repository, and the commit that its revision is now: all files are of one commit."""
    api, kinds = open_api(), (MODEL, DATASET)
    for kind in [target.kind] if target.kind else kinds:
        try:
            info = api.repo_info(target.name, repo_type=kind, revision=target.revision, timeout=TIMEOUT_S)
        except RepositoryNotFoundError:
            if kind in (target.kind, kinds[-1]):
                raise
        else:
            return kind, str(info.sha)
    raise AssertionError("a loop that returns or raises")


def is_there(directory: Path, target: RepositoryName, kind: str, commit: str) -> bool:
    """Whether the directory holds the stage of a commit.

    Raises:
        DataError: it holds something else.
    """
    if not directory.exists():
        return False
    if directory.is_dir() and not any(directory.iterdir()):
        return False
    if (directory / MANIFEST).is_file():
        there = read_remote_manifest(target, kind, commit)
        if there.fingerprint == parse_manifest(directory).fingerprint:
            return True
    raise DataError(f"{directory}: is there, and not the stage of {target.name}; give another directory")


def fetch_stage(target: RepositoryName, kind: str, commit: str, folder: Path) -> Manifest:
    """Fetch the manifest, and then the files that it names and no others; what is there already stays.

    Raises:
        HubError: no stage in the repository.
    """
    try:
        manifest = read_remote_manifest(target, kind, commit)
    except EntryNotFoundError:
        raise HubError(f"{target.name}: holds no finished stage of xmrank (no {MANIFEST})") from None
    open_api().snapshot_download(
        target.name,
        repo_type=kind,
        revision=commit,
        local_dir=folder,
        # Names are taken literally, also those with brackets.
        allow_patterns=[glob.escape(name) for name in (CARD, *manifest.outputs)],
    )
    return manifest


def accept_files(folder: Path, manifest: Manifest) -> None:
    """Verify the fetched files, and leave nothing but them, a plan and the manifest: the directory of a finished stage.

    Raises:
        DataError: a file is missing or not what the manifest says; it is fetched again by the same command.
    """
    damage = find_damage(folder, manifest.outputs, afresh=True)
    for name in damage:
        (folder / name).unlink(missing_ok=True)
    for name, fault in damage.items():
        raise DataError(f"{folder / name}: {fault}; the same command fetches it again")
    shutil.rmtree(folder / CLIENTS_FOLDER, ignore_errors=True)
    # Of an earlier commit, which a killed pull had begun to fetch.
    wanted = {CARD, *manifest.outputs}
    for path in list_files(folder):
        if str(path.relative_to(folder)) not in wanted:
            path.unlink()
    write_finished_plan(folder, manifest)
    write_json(folder / MANIFEST, vars(manifest))

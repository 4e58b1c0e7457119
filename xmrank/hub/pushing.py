"""Pushes a finished stage: one commit with the files of its manifest and a card."""

from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from xmrank.config.hub import PushConfig, RepositoryName
from xmrank.hub.card import make_card
from xmrank.hub.figures import read_figures
from xmrank.hub.publishing import clean_manifest, refuse_private
from xmrank.hub.requests import (
    DATASET,
    MODEL,
    HubError,
    hide_bars,
    hub_errors,
    open_api,
    page_of,
    read_remote_manifest,
    require_token,
)
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import to_json
from xmrank.runtime.manifest import CARD, MANIFEST, Manifest, parse_manifest
from xmrank.runtime.paths import resolve
from xmrank.runtime.storage import fetch_all, local_copy
from xmrank.runtime.verification import verify_outputs

MODEL_STAGES = ("train", "train_encoder")
"""Stages whose output is a model; that of the others is a data set."""
HUBS_OWN = (".gitattributes",)
"""Files that the hub makes in a repository."""


def push(config: PushConfig) -> None:
    """Push a finished stage to the hub; a killed push is continued by the same command.

    The hub keeps what a killed push has uploaded, and takes all files with one commit or none.

    Raises:
        DataError: not a finished stage, a damaged file, or one that names folders of this machine.
        HubError: no token, no right, another stage in the repository, or a hub that is not reached.
    """
    directory, target = resolve(config.directory), RepositoryName.parse(config.repository)
    if not (directory / MANIFEST).is_file():
        raise DataError(f"{directory}: not a finished stage (no {MANIFEST})")
    if not config.dry_run:
        require_token(target.name)
    manifest = clean_manifest(parse_manifest(directory))
    kind = MODEL if manifest.stage in MODEL_STAGES else DATASET
    if target.kind not in (None, kind):
        raise DataError(f"{config.repository}: the stage {manifest.stage} goes to a {kind} repository")
    verify_outputs(directory, manifest)
    refuse_private(directory, manifest)
    card = make_card(config, directory, manifest, kind, read_figures(config, directory, manifest))
    files = [CARD, MANIFEST, *sorted(manifest.outputs)]
    if config.dry_run:
        print("\n".join(files), card, sep="\n\n")
        return
    hide_bars()
    with hub_errors(target.name, "push"):
        url = commit_stage(target, kind, directory, manifest, card, private=not config.public)
    size = sum(entry["bytes"] for entry in manifest.outputs.values())
    print(f"push: {manifest.stage}, {len(files)} files, {size:,} bytes: {page_of(target, kind)} ({url})")


def commit_stage(
    target: RepositoryName, kind: str, directory: Path, manifest: Manifest, card: str, *, private: bool
) -> str:
    """Make the repository if it is not there, and commit the files; returns the address of the commit."""
    api = open_api()
    api.create_repo(target.name, repo_type=kind, private=private, exist_ok=True)
    present = api.list_repo_files(target.name, repo_type=kind)
    refuse_other_contents(target, kind, manifest, present)
    fetch_all([directory / name for name in manifest.outputs])
    texts = {CARD: card, MANIFEST: to_json(vars(manifest))}
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(name, text.encode()) for name, text in texts.items()
    ]
    operations += [CommitOperationAdd(name, local_copy(directory / name)) for name in manifest.outputs]
    gone = set(present) - {operation.path_in_repo for operation in operations} - set(HUBS_OWN)
    operations += [CommitOperationDelete(name) for name in sorted(gone)]
    commit = api.create_commit(
        target.name, operations, repo_type=kind, commit_message=f"xmrank {manifest.stage} {manifest.fingerprint[:12]}"
    )
    return str(commit.commit_url)


def refuse_other_contents(target: RepositoryName, kind: str, manifest: Manifest, present: list[str]) -> None:
    """Raise HubError for a repository that holds something else: its files are never deleted."""
    if not set(present) - {CARD, *HUBS_OWN}:
        return
    if MANIFEST in present:
        there = read_remote_manifest(target, kind).stage
        if there == manifest.stage:
            return
        raise HubError(f"{target.name}: holds the stage {there}, not {manifest.stage}; give another name")
    raise HubError(f"{target.name}: holds files of something else; give another name")

"""Data sets of Hugging Face's hub: downloaded once, below XMRANK_HOME, where all nodes find them."""

import re
from pathlib import Path

from xmrank.datasets.uris import one_line
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import write_text
from xmrank.runtime.paths import resolve

NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
FOLDER = Path("data") / "hub"
MARK = ".xmrank-commit"
"""Written last: the commit of a complete copy."""
TIMEOUT_S = 30
PATTERNS = ["*.parquet", "*.tar", "*.csv", "*.jsonl", "*.jpg", "*.jpeg", "*.png", "*.webp", "*.JPG", "*.JPEG", "*.PNG"]
"""What the reader of Hugging Face's formats can use; code of data sets is never fetched."""


def is_hub_name(images: str) -> bool:
    """Whether ``--images`` looks like owner/name, perhaps with @revision."""
    return NAME.fullmatch(images) is not None and not images.startswith((".", "/"))


def download_dataset(images: str) -> Path:
    """The local copy of a data set on the hub, downloaded once; an interrupted download is continued.

    Raises:
        DataError: no such data set, no network, or no right to read it.
    """
    from huggingface_hub import HfApi, snapshot_download

    # The name was checked by is_hub_name.
    match = NAME.fullmatch(images)
    assert match is not None
    folder = resolve(FOLDER) / images.replace("/", "--")
    # Without a network, snapshot_download returns what it has, complete or not: only a marked copy is complete.
    if (folder / MARK).is_file():
        return folder
    try:
        # One commit for all files, even if somebody pushes in between.
        commit = HfApi().dataset_info(match["name"], revision=match["revision"], timeout=TIMEOUT_S).sha
        snapshot_download(
            match["name"], repo_type="dataset", revision=commit, allow_patterns=PATTERNS, local_dir=folder
        )
    except Exception as error:  # of the client, of its HTTP library, of the disk: many kinds
        raise DataError(
            f"{images}: no such folder, and the hub's data set of that name cannot be downloaded: {one_line(error)} "
            "(--images)"
        ) from None
    write_text(folder / MARK, f"{commit}\n")
    return folder

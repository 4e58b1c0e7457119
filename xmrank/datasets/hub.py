"""Data sets of Hugging Face's hub: downloaded once, below the home, where all nodes find them."""

import re
from pathlib import Path

from xmrank.datasets.places import one_line
from xmrank.errors import DataError
from xmrank.paths import resolve

NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
FOLDER = Path("data") / "hub"
PATTERNS = ["*.parquet", "*.tar", "*.csv", "*.jsonl", "*.jpg", "*.jpeg", "*.png", "*.webp", "*.JPG", "*.JPEG", "*.PNG"]
"""What the reader of Hugging Face's formats can use; code of data sets is never fetched."""


def is_hub_name(images: str) -> bool:
    """Whether ``--images`` reads like owner/name, perhaps with @revision."""
    return NAME.fullmatch(images) is not None and not images.startswith((".", "/"))


def download(images: str) -> Path:
    """The local copy of a data set on the hub; what an interrupted download brought is kept.

    Raises:
        DataError: no such data set, no network, or no right to read it.
    """
    from huggingface_hub import snapshot_download

    match = NAME.fullmatch(images)
    assert match is not None
    folder = resolve(FOLDER) / images.replace("/", "--")
    try:
        snapshot_download(
            match["name"],
            repo_type="dataset",
            revision=match["revision"],
            allow_patterns=PATTERNS,
            local_dir=folder,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{images}: no such folder, and the hub's data set of that name cannot be downloaded: {one_line(error)} "
            "(--images)"
        ) from None
    return folder

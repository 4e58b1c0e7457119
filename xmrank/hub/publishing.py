"""What of a finished stage is published: the manifest's files, without anything that names the machine or the user."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xmrank.runtime.errors import DataError
from xmrank.runtime.files import read_parquet
from xmrank.runtime.manifest import Manifest
from xmrank.runtime.redaction import redact_uri
from xmrank.runtime.storage import local_copy

TEXT_SUFFIXES = (".json", ".csv", ".tex", ".txt", ".yaml", ".md")
"""Outputs that are read for paths; arrays, weights and compressed rankings hold no text but ids."""
COLUMNS = ("location", "image_id")
"""Columns of the tables of images that may hold a path: of an image below its folder, or an id made of it."""
NAME = r"[^/\\\s\"'<>|,;:]+"
PATH = re.compile(
    # s3://bucket/folder/, but not https://host/folder/
    rf"\b(?!https?:|hf:|file:)[A-Za-z][A-Za-z0-9+.-]+://(?:{NAME}/)*"
    # /home/me/, ~/, file:///home/me/, but not the path of a URL, nor a/b.
    rf"|(?:file://(?=/)|(?<![\w.:/~-]))(?:~[\w.-]*/(?:{NAME}/)*|/(?:{NAME}/)+)"
    rf"|(?<!\w)[A-Za-z]:\\+(?:{NAME}\\+)*"
)
"""The folders of an absolute path."""
ABSOLUTE = r"^(?:/|~|[A-Za-z]:\\|[A-Za-z][A-Za-z0-9+.-]+:/)"
ON_THE_WEB = r"^(?:https?|hf)://"
"""Any other scheme says something of the owner's storage."""


def clean_manifest(manifest: Manifest) -> Manifest:
    """The manifest as it is published: no folder of images, no absolute paths, no credentials.

    Only settings and what was left out are changed, which the fingerprint does not cover.
    """
    settings = {**manifest.settings, **({"images_root": None} if "images_root" in manifest.settings else {})}
    return replace(manifest, settings=hide_paths(settings), left_out=hide_paths(manifest.left_out))


def hide_paths(value: Any) -> Any:
    """A JSON value whose texts have no credentials and, of absolute paths, only the last part; keys too."""
    if isinstance(value, str):
        return PATH.sub("…/", redact_uri(value, ""))
    if isinstance(value, dict):
        return {hide_paths(key): hide_paths(item) for key, item in value.items()}
    return [hide_paths(item) for item in value] if isinstance(value, list | tuple) else value


def refuse_private(directory: Path, manifest: Manifest) -> None:
    """Refuse a stage whose files name folders of this machine, its user, or hold credentials: hashes cover them.

    Args:
        directory: of the stage.
        manifest: of the stage, as it is published.

    Raises:
        DataError: names the first file and what it holds.
    """
    if found := find_private(json.dumps(vars(manifest), ensure_ascii=False)):
        raise DataError(f"{directory}: not pushed: its manifest names {found}, which its fingerprint covers")
    for name in manifest.outputs:
        path = directory / name
        found = None
        if path.suffix in TEXT_SUFFIXES:
            found = find_private(path.read_text(encoding="utf-8", errors="replace"))
        elif path.suffix == ".parquet":
            found = find_location(path)
        if found:
            raise DataError(f"{path}: not pushed: it names {found}; make the stage from relative paths")


def find_private(text: str) -> str | None:
    """The first thing in a text that is not for others: a credential, an absolute path, the user's name in a path."""
    if redact_uri(text) != text:
        return "a credential"
    if match := PATH.search(text):
        return match.group() + "…"
    home = str(Path.home())
    return home if home != "/" and home in text else None


def find_location(path: Path) -> str | None:
    """The first absolute path, or URI that is not on the web, in a table of images; None in any other table."""
    known = pq.read_schema(local_copy(path)).names
    for name in COLUMNS:
        column = read_parquet(path, columns=[name])[name] if name in known else None
        if column is None or not pa.types.is_string(column.type):
            continue
        absolute = pc.match_substring_regex(column, ABSOLUTE)
        private = column.filter(pc.and_(absolute, pc.invert(pc.match_substring_regex(column, ON_THE_WEB))))
        if len(private):
            return str(private[0])
    return None

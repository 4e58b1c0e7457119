"""Finished pieces of a stage with their hashes: damage between two runs is found, whatever else is lost.

A piece is the files that one task writes, such as a ranker with its history. Whoever finishes one records it; a run
that goes on makes a piece anew when one of its files is not what was recorded. When a stage finishes, its plan takes
all pieces, so that a manifest that is lost later does not leave files that nobody can tell whole from damaged.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from xmrank.runtime.files import sha256_file, write_json
from xmrank.runtime.manifest import WORK, describe_outside
from xmrank.runtime.storage import list_files, read_contents

PIECES = "pieces"
"""Folder of the records in a stage's folder for intermediate results."""
Piece = dict[str, dict[str, Any]]
"""Size ("bytes") and hash ("sha256") of every file of a piece by path in the directory, as in a manifest."""


def record_piece(work: Path, name: str, files: Iterable[Path]) -> None:
    """Record a finished piece.

    Args:
        work: the stage's folder for intermediate results, which is in its directory.
        name: of the piece; recorded again, it replaces what was recorded.
        files: those of the piece, in the stage's directory; all exist.
    """
    piece = {str(path.relative_to(work.parent)): describe_file(path) for path in files}
    write_json(work / PIECES / f"{quote(name, safe='')}.json", piece)


def describe_file(path: Path) -> dict[str, Any]:
    """Size and hash of a file."""
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def read_pieces(directory: Path) -> dict[Path, Piece]:
    """The pieces that the runs of an unfinished stage have recorded, by the paths of the records."""
    pieces = {}
    paths = [path for path in list_files(directory / WORK / PIECES) if path.suffix == ".json"]
    for path, content in zip(paths, read_contents(paths), strict=True):
        try:
            piece: Any = json.loads(content)
        except (ValueError, RecursionError):
            piece = None
        # A record that is damaged itself says nothing about its piece.
        if is_piece(directory, piece):
            pieces[path] = piece
    return pieces


def is_piece(directory: Path, value: Any) -> bool:
    """Whether a JSON value is a piece whose files are in the directory: a record is data, not trust."""
    if not isinstance(value, dict):
        return False
    for name, entry in value.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
            return False
        if not isinstance(entry.get("bytes"), int) or describe_outside(directory, name):
            return False
    return True


def group_outputs(outputs: Mapping[str, dict[str, Any]], pieces: Iterable[Piece]) -> list[Piece]:
    """A finished stage's outputs as pieces: those that were recorded, and every other file alone.

    Args:
        outputs: of the manifest.
        pieces: the recorded ones; files that are no outputs are left out of them.
    """
    grouped, left = [], dict(outputs)
    for piece in pieces:
        own = {name: left.pop(name) for name in piece if name in left}
        grouped += [own] if own else []
    return grouped + [{name: entry} for name, entry in left.items()]

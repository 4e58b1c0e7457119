"""Finished stages whose files a test changes on purpose."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from xmrank.runtime.files import sha256_file, write_json
from xmrank.runtime.manifest import MANIFEST, Manifest, parse_manifest


def accept_changes(directory: Path, added: Iterable[str] = ()) -> Manifest:
    """Write a manifest with the hashes that the files of a stage have now, as if the stage had made them so.

    Files of ``added`` become outputs; a file that is gone is none any more.
    """
    written = parse_manifest(directory)
    outputs = {
        name: {"bytes": (directory / name).stat().st_size, "sha256": sha256_file(directory / name)}
        for name in {*written.outputs, *added}
        if (directory / name).exists()
    }
    manifest = replace(written, outputs=outputs).with_fingerprint()
    write_json(directory / MANIFEST, vars(manifest))
    return manifest


def flip_byte(path: Path, offset: int) -> None:
    """Turn all bits of one byte of a file; a negative offset counts from the end."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)

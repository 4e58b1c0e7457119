"""Reader of JSON lists and JSON lines whose objects are rows: an image and its caption or captions.

LAVIS, ALBEF, BLIP and BEiT-3 come with such lists, one file a split: ``{"image": "a.jpg", "caption": "A dog."}``.
"""

import json
from collections.abc import Sequence
from typing import Any

from xmrank.datasets.columns import CAPTION, IMAGE
from xmrank.datasets.dataset import Dataset
from xmrank.datasets.pair_table import PairTable
from xmrank.datasets.path_tables import PathTable, add_path_table
from xmrank.datasets.reader_settings import JsonSettings
from xmrank.datasets.uris import expand_pattern, find_image_folder, parse_json, read_file, suffix_of
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import below

LINES = (".jsonl", ".ndjson")


def read_json_rows(settings: JsonSettings, max_broken: float) -> Dataset:
    """The objects in ``--annotations`` (a file, or a pattern) with the images below ``--images``.

    An object has the image's path and its caption, or a list of them, and perhaps its split, id and labels. Objects
    with the same path are captions of one image. Without a field for the split, the file's name says it.

    Raises:
        ConfigError: a flag names a field that no object has.
        DataError: no such file or folder, not JSON, objects that contradict each other, or more damaged ones than
            ``max_broken`` allows.
    """
    folder, names = expand_pattern(settings.annotations, "--annotations")
    root = find_image_folder(settings.images, settings.annotations.name)
    pairs = PairTable(settings.annotations.name)
    for name in names:
        add_path_table(pairs, read_json_table(below(folder, name), name), settings, root)
    return pairs.make_dataset(settings.name, root, settings.held_out, max_broken)


def read_json_table(address: str, source: str, flag: str = "--annotations", usual_image: str = IMAGE[0]) -> PathTable:
    """The rows of a JSON list, or of a file of JSON lines; messages expect an image under ``usual_image``."""
    content = read_file(address, flag)
    if suffix_of(source) in LINES:
        return read_lines(content, source, usual_image)
    entries = parse_json(content, source)
    if not isinstance(entries, list):
        raise DataError(f"{source}: expected a JSON list of objects with {IMAGE[0]} and {CAPTION[0]}")
    return make_entry_table(source, entries)


def make_entry_table(source: str, entries: Sequence[Any]) -> PathTable:
    """The rows of a list."""
    return make_table(source, "entry", list(enumerate(entries)))


def read_lines(content: bytes, source: str, usual_image: str) -> PathTable:
    """The rows of JSON lines."""
    rows, damaged = [], []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        # JSON lines may end with an empty line.
        if line.strip():
            try:
                rows.append((number, json.loads(line.decode("utf-8"))))
            except (ValueError, RecursionError):
                damaged.append((number, "not JSON"))
    return make_table(source, "line", rows, damaged, usual_image)


def make_table(
    source: str,
    unit: str,
    rows: Sequence[tuple[int, Any]],
    damaged: Sequence[tuple[int, str]] = (),
    usual_image: str = IMAGE[0],
) -> PathTable:
    """The table of numbered rows; its columns are all fields that any row has."""
    objects = [(number, row) for number, row in rows if isinstance(row, dict)]
    expected = f"expected an object with {usual_image} and a {CAPTION[0]}"
    others = [(number, expected) for number, row in rows if not isinstance(row, dict)]
    names = dict.fromkeys(name for _, row in objects for name in row)
    cells = {name: [row.get(name) for _, row in objects] for name in names}
    return PathTable(source, unit, cells, [number for number, _ in objects], sorted([*damaged, *others]))

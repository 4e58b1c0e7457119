"""Reader of Karpathy's JSON (Flickr8k, Flickr30k, COCO) and a folder of images."""

from pathlib import PurePosixPath
from typing import Any

from xmrank.datasets.caption_texts import texts_of
from xmrank.datasets.columns import CAPTION
from xmrank.datasets.dataset import Dataset
from xmrank.datasets.json_rows import make_entry_table
from xmrank.datasets.pair_table import PairTable
from xmrank.datasets.path_tables import add_path_table
from xmrank.datasets.reader_settings import KarpathySettings
from xmrank.datasets.splits import split_of_file
from xmrank.datasets.uris import expand_pattern, find_image_folder, read_json
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import below


def read_karpathy(settings: KarpathySettings, max_broken: float) -> Dataset:
    """The data set in ``--annotations`` (one file, or a pattern) with the images below ``--images``.

    Every entry needs ``filename`` and ``sentences`` (each with ``raw``, or just the text); ``filepath`` (a folder)
    and ``sentid`` are optional. The split is the field ``--split-field``, else the one in the file's name. Lists of
    images and captions (LAVIS and others) are read too.

    Raises:
        DataError: no such file or folder, not JSON, or more damaged entries than ``max_broken`` allows.
    """
    folder, names = expand_pattern(settings.annotations, "--annotations")
    root = find_image_folder(settings.images, settings.annotations.name)
    pairs = PairTable(settings.annotations.name)
    for name in names:
        entries = read_entries(below(folder, name))
        if is_pair_list(entries):
            add_path_table(pairs, make_entry_table(name, entries), settings, root)
        else:
            add_entries(pairs, entries, name, settings.split_field)
    return pairs.make_dataset(settings.name, root, settings.held_out, max_broken)


def read_entries(address: str) -> list[Any]:
    """The list under ``images`` of the JSON file, or the file's value when it is a list."""
    content = read_json(address, "--annotations")
    entries = content.get("images") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise DataError(f"{address}: expected Karpathy's JSON, an object with a list under images")
    return entries


def is_pair_list(entries: list[Any]) -> bool:
    """Whether entries have a caption or captions, as those of LAVIS, and none has sentences, as Karpathy's."""
    objects = [entry for entry in entries if isinstance(entry, dict)]
    if any("sentences" in entry for entry in objects):
        return False
    return any(name in entry for entry in objects for name in CAPTION)


def add_entries(pairs: PairTable, entries: list[Any], source: str, split_field: str) -> None:
    """Add the images and captions of Karpathy's entries; damaged ones are left out."""
    file_split = split_of_file(source)
    pairs.captions.begin_source(lambda number: f"{source}, entry {number}")
    # Other fields than "split" are there because the user names them.
    needed = ["filename", "sentences"] + [split_field] * (split_field != "split")
    for number, entry in enumerate(entries):
        missing = [name for name in needed if not isinstance(entry, dict) or entry.get(name) in (None, "")]
        where = f"{source}: entry {number}"
        if missing:
            pairs.left_out.add_row(where, f"has no field {missing[0]}", images=1, kind="an entry without a field")
            continue
        filename = str(entry["filename"])
        if not isinstance(entry["sentences"], list):
            reason = "expected a list under sentences"
            pairs.left_out.add_row(f"{where} ({filename})", reason, images=1, kind=reason)
            continue
        location = join_name(str(entry.get("filepath") or ""), filename)
        split = entry.get(split_field)
        # Names may repeat in several folders; then the whole path is the id.
        names = (filename, location)
        row = pairs.add_image(location, location, names, file_split if split is None else str(split))
        texts: list[object] = []
        own_ids: list[str | None] = []
        for sentence in entry["sentences"]:
            own_id = sentence.get("sentid") if isinstance(sentence, dict) else None
            found = texts_of(sentence) or [None]
            texts += found
            own_ids += [None if own_id is None else str(own_id)] * len(found)
        pairs.captions.add(row, texts, number, own_ids)


def join_name(folder: str, name: str) -> str:
    """Folder and name as one path, without empty parts and dots."""
    location = f"{folder}/{name}" if folder else name
    # Few paths have any, and a path takes time to make.
    return str(PurePosixPath(folder, name)) if "//" in location or "./" in location or name[:1] == "/" else location

"""Reader of COCO's captions JSON and a folder of images."""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from xmrank.datasets.dataset import Dataset
from xmrank.datasets.pair_table import PairTable
from xmrank.datasets.reader_settings import CocoSettings
from xmrank.datasets.splits import split_of_file
from xmrank.datasets.uris import expand_pattern, find_image_folder, is_folder, read_json
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import below


def read_coco(settings: CocoSettings, max_broken: float) -> Dataset:
    """The captions in ``--annotations`` (one file, or a pattern like captions_*2017.json) with their images.

    The images of captions_val2017.json are in ``--images``, or in its folder val2017 when there is one. Their split
    is the images' field ``--split-field``, else the one in the file's name. Images without captions are left out, and
    so are damaged entries.

    Raises:
        DataError: no such file or folder, not COCO's captions, or more left out than ``max_broken`` allows.
    """
    folder, names = expand_pattern(settings.annotations, "--annotations")
    root = find_image_folder(settings.images, settings.annotations.name)
    pairs = PairTable(settings.annotations.name)
    # train2017 and val2017 have a file each: their images and captions go into the same tables.
    for name in names:
        # The images of a file may be in a folder of its own.
        content = read_json(below(folder, name), "--annotations")
        part = PurePosixPath(name).stem.rpartition("_")[2]  # captions_val2017 → val2017
        prefix = f"{part}/" if is_folder(below(root, part)) else ""
        add_images(pairs, get_list(content, "images", name), name, prefix, settings.split_field)
        add_captions(pairs, get_list(content, "annotations", name), name)
    return pairs.make_dataset(settings.name, root, settings.held_out, max_broken)


def get_list(content: Any, field: str, source: str) -> list[Any]:
    """The list of objects in a field of the file."""
    entries = content.get(field) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DataError(f"{source}: expected COCO's captions, an object with lists under images and annotations")
    return entries


def find_fault(entry: Any, names: Sequence[str]) -> str:
    """Which of some fields an entry lacks; empty where it has all."""
    missing = [name for name in names if not isinstance(entry, dict) or entry.get(name) in (None, "")]
    return f"has no field {missing[0]}" if missing else ""


def add_images(pairs: PairTable, images: list[Any], source: str, prefix: str, split_field: str) -> None:
    """Add the images of one file; their ids are unique in it, and, as a rule, in all files."""
    file_split = split_of_file(source)
    # COCO itself has no field for the split: only one that the user names must be there.
    needed = ["id", "file_name"] + [split_field] * (split_field != "split")
    for number, entry in enumerate(images):
        if fault := find_fault(entry, needed):
            pairs.left_out.add_row(f"{source}: image {number}", fault, images=1, captions=0, kind=f"image {fault}")
            continue
        image_id, location = str(entry["id"]), prefix + str(entry["file_name"])
        split = entry.get(split_field)
        names = (image_id, f"{PurePosixPath(source).stem}/{image_id}")
        pairs.add_image((source, image_id), location, names, file_split if split is None else str(split))


def add_captions(pairs: PairTable, annotations: list[Any], source: str) -> None:
    """Add the captions of one file, under their own ids; damaged ones are left out."""
    pairs.captions.begin_source(lambda number: f"{source}, annotation {number}")
    seen: set[str] = set()
    for number, entry in enumerate(annotations):
        where = f"{source}: annotation {number}"
        fault = find_fault(entry, ["id", "image_id"])
        if not fault and "caption" not in entry:
            fault = "has no field caption"
        if fault:
            pairs.left_out.add_row(where, fault, kind=f"annotation {fault}")
            continue
        row = pairs.row_of.get((source, str(entry["image_id"])))
        if row is None:
            reason = f'belongs to image "{entry["image_id"]}", which is not among the images'
            pairs.left_out.add_row(where, reason, kind="annotation of no image")
            continue
        caption_id = str(entry["id"])
        if caption_id in seen:
            raise DataError(f'{source}: caption id "{caption_id}" occurs more than once')
        seen.add(caption_id)
        pairs.captions.add(row, [entry["caption"]], number, [caption_id])

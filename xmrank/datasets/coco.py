"""Reader of COCO's captions JSON and a folder of images."""

from pathlib import PurePosixPath
from typing import Any

from xmrank.datasets.dataset import Dataset
from xmrank.datasets.pair_table import PairTable, text_fault
from xmrank.datasets.reader_settings import CocoSettings
from xmrank.datasets.splits import split_of_file
from xmrank.datasets.uris import expand_pattern, find_image_folder, is_folder, read_json
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import below


def read_coco(settings: CocoSettings, max_broken: float) -> Dataset:
    """The captions in ``--annotations`` (one file, or a pattern like captions_*2017.json) with their images.

    The images of captions_val2017.json are in ``--images``, or in its folder val2017 when there is one. Their split
    is the images' field ``--split-field``, else the one in the file's name; images without captions are left out.

    Raises:
        DataError: no such file or folder, not COCO's captions, or an entry without a needed field, by its number.
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


def get_list(content: Any, field: str, source: str) -> list[dict[str, Any]]:
    """The list of objects in a field of the file."""
    entries = content.get(field) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DataError(f"{source}: expected COCO's captions, an object with lists under images and annotations")
    return entries


def require_field(entry: Any, name: str, where: str) -> Any:
    """A field of an entry that must be there."""
    if not isinstance(entry, dict) or entry.get(name) is None:
        raise DataError(f"{where} has no field {name}")
    return entry[name]


def add_images(pairs: PairTable, images: list[dict[str, Any]], source: str, prefix: str, split_field: str) -> None:
    """Add the images of one file."""
    file_split = split_of_file(source)
    for number, entry in enumerate(images):
        where = f"{source}: image {number}"
        image_id = str(require_field(entry, "id", where))
        file = str(require_field(entry, "file_name", where))
        # COCO itself has no field for the split: only one that the user names must be there.
        if split_field == "split":
            split = entry.get(split_field, file_split)
        else:
            split = require_field(entry, split_field, where)
        pairs.add_image(image_id, prefix + file, None if split is None else str(split))


def add_captions(pairs: PairTable, annotations: list[dict[str, Any]], source: str) -> None:
    """Add the captions of one file, under their own ids."""
    for number, entry in enumerate(annotations):
        where = f"{source}: annotation {number}"
        caption_id = str(require_field(entry, "id", where))
        image_id = str(require_field(entry, "image_id", where))
        text = require_field(entry, "caption", where)
        # COCO's captions are complete: a broken one means that the file is not what it seems to be.
        if fault := text_fault(text):
            raise DataError(f"{where}: the caption {fault}")
        # Captions follow their images: those of all earlier files are known by now.
        if image_id not in pairs.images:
            raise DataError(f'{where} belongs to image "{image_id}", which is not among the images')
        pairs.images[image_id].captions.append((caption_id, text.strip()))

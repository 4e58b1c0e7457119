"""Reader of COCO's captions JSON and a folder of images."""

from pathlib import PurePosixPath
from typing import Any

from xmrank.config import EmbedConfig
from xmrank.datasets.dataset import Dataset
from xmrank.datasets.pair_table import PairTable, text_fault
from xmrank.datasets.splits import split_of_file
from xmrank.datasets.uris import expand, is_folder, read_json, the_folder
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import below


def read_coco(config: EmbedConfig) -> Dataset:
    """The captions in ``--annotations`` (one file, or a pattern like captions_*2017.json) with their images.

    The images of captions_val2017.json are in ``--images``, or in its folder val2017 when there is one. Their split
    is the images' field ``--split-field``, else what the file is named after; images without captions are kept out.

    Raises:
        DataError: no such file or folder, not COCO's captions, or an entry without a needed field, by its number.
    """
    assert config.annotations is not None
    folder, names = expand(config.annotations, "--annotations")
    root = the_folder(config.images, config.annotations.name)
    pairs = PairTable(config.annotations.name)
    for name in names:
        content = read_json(below(folder, name), "--annotations")
        part = PurePosixPath(name).stem.rpartition("_")[2]  # captions_val2017 → val2017
        prefix = f"{part}/" if is_folder(below(root, part)) else ""
        add_images(pairs, entries(content, "images", name), name, prefix, config.split_field)
        add_captions(pairs, entries(content, "annotations", name), name)
    return pairs.dataset("coco", root, config)


def entries(content: Any, field: str, source: str) -> list[dict[str, Any]]:
    """The list of objects in a field of the file."""
    found = content.get(field) if isinstance(content, dict) else None
    if not isinstance(found, list):
        raise DataError(f"{source}: expected COCO's captions, an object with lists under images and annotations")
    return found


def value(entry: Any, name: str, where: str) -> Any:
    """A field of an entry that must be there."""
    if not isinstance(entry, dict) or entry.get(name) is None:
        raise DataError(f"{where} has no field {name}")
    return entry[name]


def add_images(pairs: PairTable, images: list[dict[str, Any]], source: str, prefix: str, split_field: str) -> None:
    """Take in the images of one file."""
    known = split_of_file(source)
    for number, entry in enumerate(images):
        where = f"{source}: image {number}"
        image_id, file = str(value(entry, "id", where)), str(value(entry, "file_name", where))
        split = entry.get(split_field, known) if split_field == "split" else value(entry, split_field, where)
        pairs.image(image_id, prefix + file, None if split is None else str(split))


def add_captions(pairs: PairTable, annotations: list[dict[str, Any]], source: str) -> None:
    """Take in the captions of one file, under their own ids."""
    for number, entry in enumerate(annotations):
        where = f"{source}: annotation {number}"
        caption_id, image_id = (str(value(entry, name, where)) for name in ("id", "image_id"))
        text = value(entry, "caption", where)
        if fault := text_fault(text):
            raise DataError(f"{where}: the caption {fault}")
        if image_id not in pairs.images:
            raise DataError(f'{where} belongs to image "{image_id}", which is not among the images')
        pairs.images[image_id].captions.append((caption_id, text.strip()))

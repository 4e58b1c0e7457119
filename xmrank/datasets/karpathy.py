"""Reader of Karpathy's JSON (Flickr8k, Flickr30k, COCO) and a folder of images."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from xmrank.datasets.dataset import CAPTIONS, IMAGES, Dataset, refuse_first
from xmrank.datasets.locations import leads_outside
from xmrank.datasets.reader_settings import KarpathySettings
from xmrank.datasets.uris import find_image_folder, read_json
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import PathOrUri, resolve_uri


def read_karpathy(settings: KarpathySettings, max_broken: float) -> Dataset:  # noqa: ARG001 - nothing may be broken
    """The data set in ``--annotations`` with the images below ``--images``.

    Every entry needs ``filename`` and ``sentences`` (each with ``raw``, or just the text); ``filepath`` (a folder)
    and ``sentid`` are optional; the split is the field ``--split-field``. ``restval`` counts as ``train``, as is
    usual on COCO.

    Raises:
        DataError: no such file or folder, not JSON, or an entry without a needed field, by its number.
    """
    name = settings.annotations.name
    root = find_image_folder(settings.images, name)
    images, captions = [], []
    for number, entry in enumerate(read_entries(resolve_uri(settings.annotations))):
        images.append(image_row(entry, number, name, settings.split_field))
        captions += caption_rows(entry, number, name, images[-1])
    # The file may come from anywhere: its paths must not lead to other files of this machine.
    outside = [image["location"] for image in images if leads_outside(image["location"])]
    refuse_first(outside, name, 'image "{}" lies outside of the image folder')
    return Dataset(
        settings.name,
        root,
        pa.Table.from_pylist(images, schema=IMAGES),
        pa.Table.from_pylist(captions, schema=CAPTIONS),
    )


def read_entries(path: PathOrUri) -> list[dict[str, Any]]:
    """The list under ``images`` of the JSON file, or the file's value when it is a list."""
    content = read_json(path, "--annotations")
    entries = content.get("images") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise DataError(f"{path}: expected Karpathy's JSON, an object with a list under images")
    return entries


def image_row(entry: dict[str, Any], number: int, source: str, split_field: str) -> dict[str, Any]:
    """One row of the images table."""
    for name in ("filename", "sentences", split_field):
        if not isinstance(entry, dict) or entry.get(name) is None:
            raise DataError(f"{source}: entry {number} has no field {name}")
    if not isinstance(entry["sentences"], list):
        raise DataError(f"{source}: entry {number} ({entry['filename']}): expected a list under sentences")
    split = "train" if entry[split_field] == "restval" else str(entry[split_field])
    location = str(Path(str(entry.get("filepath") or ""), str(entry["filename"])))
    return {"image_id": str(entry["filename"]), "location": location, "split": split, "labels": []}


def caption_rows(entry: dict[str, Any], number: int, source: str, image: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the captions table of one entry, whose row of the images table is given."""
    rows = []
    for number_in_entry, sentence in enumerate(entry["sentences"]):
        # Some versions of the file have plain texts instead of objects.
        if isinstance(sentence, str):
            sentence = {"raw": sentence}
        if not isinstance(sentence, dict) or not isinstance(sentence.get("raw"), str):
            raise DataError(
                f"{source}: entry {number} ({image['image_id']}), sentence {number_in_entry} has no field raw"
            )
        caption_id = str(sentence.get("sentid", f"{image['image_id']}#{number_in_entry}"))
        text = sentence["raw"].strip()
        rows.append({"caption_id": caption_id, "image_id": image["image_id"], "text": text, "split": image["split"]})
    return rows

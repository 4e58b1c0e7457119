"""Reader of Karpathy's JSON (Flickr8k, Flickr30k, COCO) and a folder of images."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from xmrank.config import EmbedConfig
from xmrank.datasets.tables import CAPTIONS, IMAGES, Dataset, refuse
from xmrank.errors import DataError
from xmrank.paths import resolve


def read_karpathy(config: EmbedConfig) -> Dataset:
    """The data set in ``--annotations`` with the images below ``--images``.

    Every entry needs ``filename`` and ``sentences`` (each with ``raw``); ``filepath`` (a folder) and ``sentid`` are
    optional; the split is the field ``--split-field``. ``restval`` counts as ``train``, as is usual on COCO.

    Raises:
        DataError: no such file or folder, not JSON, or an entry without a needed field, by its number.
    """
    assert config.annotations is not None
    assert config.images is not None
    path, root = resolve(config.annotations), resolve(config.images)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; expected the images of {path.name} (--images)")
    entries = read_entries(path)
    images = [image_row(entry, number, path.name, config.split_field) for number, entry in enumerate(entries)]
    captions = [row for number, entry in enumerate(entries) for row in caption_rows(entry, number, path.name, images)]
    outside = [image["location"] for image in images if leads_outside(image["location"])]
    refuse(outside, path.name, 'image "{}" lies outside of the image folder')
    return Dataset(
        "karpathy", root, pa.Table.from_pylist(images, schema=IMAGES), pa.Table.from_pylist(captions, schema=CAPTIONS)
    )


def read_entries(path: Path) -> list[dict[str, Any]]:
    """The list under ``images`` of the JSON file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file (--annotations)") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from None
    entries = content.get("images") if isinstance(content, dict) else None
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


def caption_rows(entry: dict[str, Any], number: int, source: str, images: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the captions table of one entry."""
    image = images[number]
    rows = []
    for place, sentence in enumerate(entry["sentences"]):
        if not isinstance(sentence, dict) or not isinstance(sentence.get("raw"), str):
            raise DataError(f"{source}: entry {number} ({image['image_id']}), sentence {place} has no field raw")
        caption_id = str(sentence.get("sentid", f"{image['image_id']}#{place}"))
        text = sentence["raw"].strip()
        rows.append({"caption_id": caption_id, "image_id": image["image_id"], "text": text, "split": image["split"]})
    return rows


def leads_outside(location: str) -> bool:
    """Whether a relative location climbs out of its folder, or is absolute."""
    path = Path(location)
    return path.is_absolute() or ".." in path.parts

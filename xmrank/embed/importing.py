"""Import of embeddings that exist: two arrays and their ids become a store, without a model."""

import json
import tokenize
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from xmrank.config import EmbedConfig
from xmrank.datasets.dataset import refuse, refuse_duplicates
from xmrank.datasets.uris import one_line
from xmrank.embed.store import STAGE, check_embeddings, normalised
from xmrank.runtime.directory import Manifest, StageDirectory
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.files import sha256_file, write_array, write_json, write_table
from xmrank.runtime.paths import resolve

CAPTIONS_AN_IMAGE = 5
"""The short form's rule: captions of image i in rows 5i … 5i + 4."""


def import_embeddings(config: EmbedConfig) -> Manifest:
    """Make a store from ``--import-images``, ``--import-texts`` and ``--import-ids``.

    Raises:
        DataError: a file that is missing, of another shape than the ids say, with NaN, or with ids that stand twice.
    """
    assert config.import_images and config.import_texts and config.import_ids
    images_path, texts_path, ids_path = map(resolve, (config.import_images, config.import_texts, config.import_ids))
    image, text = load_array(images_path, "--import-images"), load_array(texts_path, "--import-texts")
    ids = read_ids(ids_path, config.split_field)
    check_counts(image, text, ids, images_path.name, texts_path.name, ids_path.name)
    stage = StageDirectory.open(
        resolve(config.output),
        STAGE,
        config={"imported": True, "split_field": config.split_field},
        inputs={"images": sha256_file(images_path), "texts": sha256_file(texts_path), "ids": sha256_file(ids_path)},
        overwrite=config.overwrite,
    )
    if stage.done:
        return stage.done
    check_embeddings(image, images_path.name)
    check_embeddings(text, texts_path.name)
    return write_store(stage, image, text, ids)


def write_store(stage: StageDirectory, image: np.ndarray, text: np.ndarray, ids: dict[str, list[Any]]) -> Manifest:
    """Write the arrays at unit length and the tables of rows."""
    dtype = np.dtype(np.float16 if image.dtype == np.float16 == text.dtype else np.float32)
    write_array(stage.directory / "image.npy", normalised(image, dtype))
    write_array(stage.directory / "text.npy", normalised(text, dtype))
    write_table(stage.directory / "image.parquet", image_table(ids))
    write_table(stage.directory / "text.parquet", caption_table(ids))
    write_json(stage.directory / "encoder.json", describe_imported(image.shape[1]))
    return stage.finish(
        counts={"images": len(image), "captions": len(text)}, settings={"images_root": None, "dtype": dtype.name}
    )


def describe_imported(dimensions: int) -> dict[str, Any]:
    """What a store records of an encoder that it knows nothing of."""
    return {"name": "imported", "pretrained": None, "dimensions": int(dimensions), "weights_hash": None}


def load_array(path: Path, flag: str) -> np.ndarray:
    """A memory-mapped array from a ``.npy`` file; pickled content is refused."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file ({flag})") from None
    except (ValueError, EOFError, SyntaxError, tokenize.TokenError) as error:  # numpy parses the header as Python
        raise DataError(f"{path}: not an array in .npy form: {one_line(error)} ({flag})") from None
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: an archive of arrays, expected one array in .npy form ({flag})")
    return array


def rows_beside(path: Path, flag: str, count: int) -> np.ndarray:
    """A memory-mapped array that stands beside a side of a store: as many rows, of any length.

    Raises:
        DataError: no such file, no such array, one that embeddings cannot be, or of another number of rows.
    """
    array = load_array(path, flag)
    check_embeddings(array, path.name)
    if len(array) != count:
        raise DataError(f"{path}: {len(array)} rows, the store has {count} ({flag})")
    return array


def read_ids(path: Path, split_field: str) -> dict[str, list[Any]]:
    """The ids in row order: image_ids, splits (one an image), caption_ids and caption_image (one a caption).

    Raises:
        ConfigError: no field of the name ``--split-field``.
        DataError: a field that is missing, of another length, or holds what it must not.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file (--import-ids)") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from None
    for name in ("image_ids", "caption_ids"):
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise DataError(f"{path}: no list under {name}")
        content[name] = list(map(str, content[name]))
        refuse_duplicates(content[name], path.name, name.removesuffix("s").replace("_", " "))
    if split_field not in content:
        lists = ", ".join(k for k in content if not k.endswith("_ids"))
        raise ConfigError(f"--split-field {split_field}: not in {path.name}; its other fields: {lists or 'none'}")
    splits, images = content[split_field], len(content["image_ids"])
    if not isinstance(splits, list) or len(splits) != images:
        found = f"{len(splits)} values" if isinstance(splits, list) else "no list"
        raise DataError(f"{path}: {split_field} has {found}, expected one an image: {images}")
    content["splits"] = list(map(str, splits))
    content["caption_image"] = caption_image(content, path)
    return content


def caption_image(content: dict[str, Any], path: Path) -> list[int]:
    """The image row of every caption: the explicit column, or image-major fives."""
    images, captions = len(content["image_ids"]), len(content["caption_ids"])
    if "caption_image" not in content:
        if captions != CAPTIONS_AN_IMAGE * images:
            raise DataError(
                f"{path}: {captions} caption_ids for {images} image_ids: expected {CAPTIONS_AN_IMAGE} an image, "
                "or caption_image with the image row of every caption"
            )
        return [row // CAPTIONS_AN_IMAGE for row in range(captions)]
    column = content["caption_image"]
    if not isinstance(column, list) or len(column) != captions:
        raise DataError(f"{path}: caption_image: expected a list with one image row a caption: {captions}")
    wrong = [f"{r}: {v}" for r, v in enumerate(column) if type(v) is not int or not 0 <= v < images]
    refuse(wrong, path.name, f"caption_image, row {{}}, expected an image row from 0 to {images - 1}")
    return column


def check_counts(
    image: np.ndarray, text: np.ndarray, ids: dict[str, list[Any]], image_name: str, text_name: str, ids_name: str
) -> None:
    """Refuse arrays whose shapes do not fit the ids or each other."""
    for array, name, column in ((image, image_name, "image_ids"), (text, text_name, "caption_ids")):
        if array.ndim != 2:
            raise DataError(f"{name}: shape {list(array.shape)}, expected [items, dimensions]")
        if len(array) != len(ids[column]):
            raise DataError(f"{name}: {len(array)} rows, but {ids_name} has {len(ids[column])} {column}")
    if image.shape[1] != text.shape[1]:
        raise DataError(f"{text_name}: {text.shape[1]} dimensions, but {image_name} has {image.shape[1]}")


def image_table(ids: dict[str, list[Any]]) -> pa.Table:
    """The table of image rows."""
    return pa.table(
        {
            "row": pa.array(range(len(ids["image_ids"])), pa.int32()),
            "image_id": ids["image_ids"],
            "split": ids["splits"],
        }
    )


def caption_table(ids: dict[str, list[Any]]) -> pa.Table:
    """The table of caption rows; a caption's split is its image's."""
    rows = ids["caption_image"]
    return pa.table(
        {
            "row": pa.array(range(len(rows)), pa.int32()),
            "caption_id": ids["caption_ids"],
            "image_id": [ids["image_ids"][r] for r in rows],
            "image_row": pa.array(rows, pa.int32()),
            "split": [ids["splits"][r] for r in rows],
            "text": pa.array(ids.get("texts", [None] * len(rows)), pa.string()),
        }
    )

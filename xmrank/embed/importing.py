"""Import of existing embeddings: two arrays and their ids become a store, without a model."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xmrank.config.embed import TokenSettings
from xmrank.datasets.account import DataAccount
from xmrank.datasets.caption_texts import text_fault
from xmrank.datasets.reader_settings import ArraySettings
from xmrank.datasets.splits import usual_split
from xmrank.embed.loading import load_array
from xmrank.embed.regions import read_regions
from xmrank.embed.row_ids import RowIds, check_caption_image, check_dimensions, check_row_count, make_ids
from xmrank.embed.store import STAGE, check_embeddings, describe_imported, stored_dtype, to_unit_length
from xmrank.embed.token_parts import TokenPart
from xmrank.embed.token_store import Side
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.files import read_json_file, sha256_file, write_array, write_json, write_table
from xmrank.runtime.manifest import Manifest
from xmrank.runtime.paths import resolve

CAPTIONS_AN_IMAGE = 5
"""The short form's rule: captions of image i in rows 5i … 5i + 4."""


@dataclass(frozen=True)
class ImportedRows:
    """What an import says about the rows of its arrays.

    Attributes:
        ids: of the rows.
        source: what says how many rows there are.
        parts: the tokens of each side that has some.
        files: that ids and tokens come from, by the name that the manifest gives them.
    """

    ids: RowIds
    source: str
    parts: dict[Side, list[TokenPart]]
    files: dict[str, Path]


def import_embeddings(
    settings: ArraySettings, output: Path, *, overwrite: bool = False, tokens: TokenSettings | None = None
) -> Manifest:
    """Make a store from ``--import-images``, ``--import-texts`` and ``--import-ids`` or ``--import-regions``.

    Args:
        settings: the files.
        output: directory of the store.
        overwrite: empty it first.
        tokens: how imported tokens are stored; needed where there are some.

    Raises:
        DataError: a file that is missing, of another shape than the ids say, with NaN, or with ids that occur twice.
    """
    images_path, texts_path = resolve(settings.import_images), resolve(settings.import_texts)
    image, text = load_array(images_path, "--import-images"), load_array(texts_path, "--import-texts")
    rows = read_rows(settings)
    ids = rows.ids
    for array, path, column, count in (
        (image, images_path, "image_ids", len(ids.image_ids)),
        (text, texts_path, "caption_ids", len(ids.caption_ids)),
    ):
        check_row_count(array, path.name, count, f"{rows.source} has {count} {column}")
    check_dimensions(image, images_path.name, text, texts_path.name)
    # The shapes are checked first, the contents only when there is something to write: that reads all of both arrays.
    stage = StageDirectory.open(
        resolve(output),
        STAGE,
        config={"imported": True, "split_field": settings.split_field, **describe_storage(tokens)},
        inputs={
            name: sha256_file(path) for name, path in {"images": images_path, "texts": texts_path, **rows.files}.items()
        },
        overwrite=overwrite,
    )
    if stage.done:
        return stage.done
    check_embeddings(image, images_path.name)
    check_embeddings(text, texts_path.name)
    counts = write_imported_tokens(stage.directory, rows, tokens) if tokens else {}
    return write_store(stage, image, text, ids, counts)


def describe_storage(tokens: TokenSettings | None) -> dict[str, Any]:
    """What the configuration of the store says about imported tokens: nothing without any."""
    return {"tokens": {"width": tokens.width, "dtype": tokens.dtype, "seed": tokens.seed}} if tokens else {}


def read_rows(settings: ArraySettings) -> ImportedRows:
    """The ids of an import, and its tokens.

    Raises:
        ConfigError: no field of the name ``--split-field``.
        DataError: a file that is missing or does not fit.
    """
    if settings.import_regions:
        regions = read_regions(resolve(settings.import_regions))
        ids, source, files = regions.ids, settings.import_regions.name, dict(regions.files)
        parts: dict[Side, list[TokenPart]] = {"image": regions.parts}
    else:
        assert settings.import_ids is not None
        path = resolve(settings.import_ids)
        ids, source, files, parts = read_ids(path, settings.split_field), path.name, {"ids": path}, {}
    items: dict[Side, int] = {"image": len(ids.image_ids), "text": len(ids.caption_ids)}
    for side, count in items.items():
        tokens = getattr(settings, f"import_{side}_tokens")
        offsets = getattr(settings, f"import_{side}_token_offsets")
        if tokens:
            paths = [resolve(file) for file in (tokens, offsets) if file]
            parts[side] = [load_tokens(side, count, *paths)]
            files |= zip((f"{side}_tokens", f"{side}_token_offsets"), paths, strict=False)
    return ImportedRows(ids, source, parts, files)


def load_tokens(side: Side, items: int, path: Path, offsets_path: Path | None = None) -> TokenPart:
    """Tokens of one's own, for every row of a side.

    Raises:
        DataError: a file that is missing or does not fit.
    """
    flag = f"--import-{side}-tokens"
    values = load_array(path, flag)
    offsets = load_array(offsets_path, f"--import-{side}-token-offsets") if offsets_path else None
    part = TokenPart.from_arrays(values, offsets, path.name)
    if len(part.items) != items:
        raise DataError(f"{path}: tokens of {len(part.items)} items, the store has {items} ({flag})")
    return part


def write_imported_tokens(directory: Path, rows: ImportedRows, tokens: TokenSettings) -> dict[str, int]:
    """Write imported tokens; returns how many each side has."""
    # Only here: it needs torch, which an import of vectors does without.
    from xmrank.embed.token_importing import import_tokens

    splits = np.array(rows.ids.splits)
    training: dict[Side, np.ndarray] = {"image": splits == "train"}
    training["text"] = training["image"][np.asarray(rows.ids.caption_image, np.int64)]
    return import_tokens(directory, rows.parts, training, tokens)


def write_store(
    stage: StageDirectory, image: np.ndarray, text: np.ndarray, ids: RowIds, tokens: dict[str, int]
) -> Manifest:
    """Write the arrays at unit length and the tables of rows; ``tokens`` are counted in the manifest."""
    dtype = stored_dtype(image, text)
    write_array(stage.directory / "image.npy", to_unit_length(image, dtype))
    write_array(stage.directory / "text.npy", to_unit_length(text, dtype))
    write_table(stage.directory / "image.parquet", ids.image_table())
    write_table(stage.directory / "text.parquet", ids.caption_table())
    write_json(stage.directory / "encoder.json", describe_imported(image.shape[1]))
    account = DataAccount.from_tables(ids.image_table(), ids.caption_table())
    return stage.finish(
        counts={"images": len(image), "captions": len(text), **tokens},
        settings={"images_root": None, "dtype": dtype.name, "account": asdict(account)},
    )


def load_matching_rows(path: Path, flag: str, count: int) -> np.ndarray:
    """A memory-mapped array with one row, of any length, for each row of a store's images or captions.

    Raises:
        DataError: no such file, no array of embeddings in it, or another number of rows.
    """
    array = load_array(path, flag)
    check_embeddings(array, path.name)
    if len(array) != count:
        raise DataError(f"{path}: {len(array)} rows, the store has {count} ({flag})")
    return array


def read_ids(path: Path, split_field: str) -> RowIds:
    """The ids in row order, from a JSON object with image_ids, caption_ids, the split field and perhaps caption_image
    and texts.

    Raises:
        ConfigError: no field of the name ``--split-field``.
        DataError: a field that is missing, of another length, or holds a value it must not.
    """
    content = read_json_file(path, "--import-ids")
    image_ids = read_id_list(content, "image_ids", path)
    caption_ids = read_id_list(content, "caption_ids", path)
    if split_field not in content:
        # Shown to the user: the fields that could be meant.
        lists = ", ".join(name for name in content if not name.endswith("_ids"))
        raise ConfigError(f"--split-field {split_field}: not in {path.name}; its other fields: {lists or 'none'}")
    splits = content[split_field]
    if not isinstance(splits, list) or len(splits) != len(image_ids):
        held = f"{len(splits)} values" if isinstance(splits, list) else "no list"
        raise DataError(f"{path}: {split_field} has {held}, expected one an image: {len(image_ids)}")
    rows = read_caption_image(content, len(image_ids), len(caption_ids), path)
    texts = read_texts(content, len(caption_ids), path)
    return RowIds(image_ids, read_splits(splits, f"{path}: {split_field}"), caption_ids, rows, texts)


def read_splits(splits: list[Any], source: str) -> list[str]:
    """The images' splits by xmrank's names (``dev`` is val)."""
    for row, split in enumerate(splits):
        if not isinstance(split, str | int) or not str(split).strip():
            raise DataError(f"{source}: row {row} is {split!r}, expected the name of a split")
    return [usual_split(str(split)) for split in splits]


def read_id_list(content: Any, name: str, path: Path) -> list[str]:
    """The ids in a field of the file, as text, at least one, each once."""
    if not isinstance(content, dict) or not isinstance(content.get(name), list):
        raise DataError(f"{path}: no list under {name}")
    return make_ids(content[name], path.name, name.removesuffix("s").replace("_", " "))


def read_texts(content: dict[str, Any], captions: int, path: Path) -> list[str] | None:
    """The captions in the field ``texts``; None without it."""
    if "texts" not in content:
        return None
    texts = content["texts"]
    if not isinstance(texts, list) or len(texts) != captions:
        held = f"{len(texts)} values" if isinstance(texts, list) else "no list"
        raise DataError(f"{path}: texts has {held}, expected one a caption: {captions}")
    for row, text in enumerate(texts):
        if fault := text_fault(text):
            raise DataError(f"{path}: texts: row {row} {fault}")
    return [text.strip() for text in texts]


def read_caption_image(content: dict[str, Any], images: int, captions: int, path: Path) -> list[int]:
    """The image row of every caption: the field caption_image, or without it five captions an image, image by image."""
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
    check_caption_image(column, images, f"{path.name}: caption_image")
    return column

"""Import of the output of clip-retrieval's inference: img_emb/img_emb_0.npy, text_emb/text_emb_0.npy,
metadata/metadata_0.parquet, and so on; row i of the three with one number is one image and its caption."""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xmrank.datasets.account import DataAccount
from xmrank.datasets.dataset import refuse_first
from xmrank.datasets.reader_settings import ClipRetrievalSettings
from xmrank.datasets.splits import draw_splits, usual_split
from xmrank.datasets.uris import FAULTS, one_line
from xmrank.embed.loading import load_array
from xmrank.embed.row_ids import RowIds, check_dimensions
from xmrank.embed.store import STAGE, check_embeddings, describe_imported, stored_dtype, to_unit_length
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.files import refuse_special_file, sha256_file, sha256_json, write_json, write_rows, write_table
from xmrank.runtime.manifest import Manifest
from xmrank.runtime.paths import resolve

FLAG = "--import-clip-retrieval"
IMAGE, CAPTION = "image_path", "caption"
FORMS = {
    "images": "img_emb/img_emb_*.npy",
    "texts": "text_emb/text_emb_*.npy",
    "metadata": "metadata/metadata_*.parquet",
}
SAME = 0.99
"""Cosine from which two embeddings count as those of one image: batches and number formats change the last digits."""


@dataclass(frozen=True)
class ExportPart:
    """The three files with one number."""

    images: Path
    texts: Path
    metadata: Path


@dataclass(frozen=True)
class ExportRows:
    """Which rows of all parts together become the store's.

    Attributes:
        image_rows, caption_rows: int64, ascending; an image's row is the first with its path.
        ids: of these rows.
        left_out: the rows without a caption.
    """

    image_rows: np.ndarray
    caption_rows: np.ndarray
    ids: RowIds
    left_out: list[dict[str, Any]]


def import_clip_retrieval(
    settings: ClipRetrievalSettings, output: Path, *, max_broken: float = 0.01, overwrite: bool = False
) -> Manifest:
    """Make a store from the folder ``--import-clip-retrieval``. Rows with the same image_path are one image.

    The splits are the metadata's column ``--split-field``; without one they are drawn (``--held-out``). Rows without a
    caption are left out and listed.

    Args:
        settings: the folder, and where splits come from.
        output: directory of the store.
        max_broken: fraction of the rows that may have no caption.
        overwrite: empty the directory first.

    Raises:
        ConfigError: no column of the name ``--split-field``.
        DataError: a file that is missing, broken or of another length than the others with its number; NaN; one image
            with two embeddings; more rows without a caption than ``--max-broken`` allows.
    """
    folder = resolve(settings.import_clip_retrieval)
    parts = find_parts(folder)
    images, texts = load_side(parts, "images"), load_side(parts, "texts")
    check_dimensions(images[0], parts[0].images.name, texts[0], parts[0].texts.name)
    metadata = read_metadata(parts, images, texts, settings.split_field)
    rows = choose_rows(metadata, settings, max_broken, folder.name)
    stage = StageDirectory.open(
        resolve(output),
        STAGE,
        config={"imported": "clip-retrieval", "split_field": settings.split_field, "held_out": settings.held_out},
        inputs={kind: sha256_json([sha256_file(getattr(part, kind)) for part in parts]) for kind in FORMS},
        overwrite=overwrite,
    )
    if stage.done:
        return stage.done
    for kind, arrays in (("images", images), ("texts", texts)):
        for part, array in zip(parts, arrays, strict=True):
            check_embeddings(array, getattr(part, kind).name)
    refuse_ambiguous(images, rows, folder.name)
    return write_export(stage, images, texts, rows)


def find_parts(folder: Path) -> list[ExportPart]:
    """The files of every number, in the numbers' order."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder ({FLAG})")
    files = {kind: number_files(folder, form) for kind, form in FORMS.items()}
    # The three kinds may write a number with different zeros in front: 0 and 00 are one.
    numbers = sorted(set().union(*files.values()))
    if not numbers:
        raise DataError(f"{folder}: expected {', '.join(FORMS.values())} ({FLAG})")
    for number in numbers:
        for kind, form in FORMS.items():
            if number not in files[kind]:
                name = form.replace("*", str(number))
                raise DataError(f"{folder}: no {name}, though other files with this number are there ({FLAG})")
    return [ExportPart(files["images"][n], files["texts"][n], files["metadata"][n]) for n in numbers]


def number_files(folder: Path, form: str) -> dict[int, Path]:
    """Number → file; the numbers may have zeros in front."""
    paths = {}
    for path in sorted(folder.glob(form)):
        if match := re.search(r"_(\d+)\.\w+$", path.name):
            paths[int(match[1])] = path
    return paths


def load_side(parts: list[ExportPart], kind: str) -> list[np.ndarray]:
    """The memory-mapped arrays of one side, of equal dimensions."""
    arrays = [load_array(getattr(part, kind), FLAG) for part in parts]
    for part, array in zip(parts, arrays, strict=True):
        if array.ndim != 2 or array.shape[1] != arrays[0].shape[-1]:
            expected = f"[items, {arrays[0].shape[-1] if arrays[0].ndim == 2 else 'dimensions'}]"
            raise DataError(f"{getattr(part, kind).name}: shape {list(array.shape)}, expected {expected}")
    return arrays


def read_metadata(
    parts: list[ExportPart], images: list[np.ndarray], texts: list[np.ndarray], split_field: str
) -> pa.Table:
    """The columns image_path and caption of all rows, and the one of the splits if there is one.

    Raises:
        ConfigError: ``--split-field`` names a column that does not exist.
        DataError: a file that is not parquet, lacks a column, or is of another length than its embeddings.
    """
    tables = []
    for part, image, text in zip(parts, images, texts, strict=True):
        name = part.metadata.name
        refuse_special_file(part.metadata, FLAG)
        try:
            # Only the columns that are needed are read: the metadata often have many more.
            columns = pq.read_schema(part.metadata).names
            wanted = [column for column in (IMAGE, CAPTION, split_field) if column in columns]
            table = pq.read_table(part.metadata, columns=wanted, page_checksum_verification=True)
            table = table.cast(pa.schema([(c, pa.string()) for c in wanted]))
        except FAULTS as error:
            raise DataError(f"{name}: not readable as parquet: {one_line(error)}") from None
        refuse_first([column for column in (IMAGE, CAPTION) if column not in columns], name, "no column {}")
        if split_field not in columns and split_field != "split":
            raise ConfigError(
                f"--split-field {split_field}: no such column in {name}; its columns: {', '.join(columns)}"
            )
        for file, rows in ((part.images, len(image)), (part.texts, len(text))):
            if rows != len(table):
                raise DataError(f"{file.name}: {rows} rows, but {name} has {len(table)}")
        tables.append(table)
    # Splits of some rows only could not be completed.
    if len({tuple(table.column_names) for table in tables}) > 1:
        raise DataError(f"{parts[0].metadata.parent.name}: only some of the files have the column {split_field}")
    return pa.concat_tables(tables)


def choose_rows(metadata: pa.Table, settings: ClipRetrievalSettings, max_broken: float, source: str) -> ExportRows:
    """The rows that are captions, the first row of every image, and their ids and splits."""
    for column in (IMAGE, settings.split_field):
        if column in metadata.column_names:
            lengths = pc.utf8_length(pc.utf8_trim_whitespace(pc.fill_null(metadata[column], "")))
            missing = np.flatnonzero(pc.equal(lengths, 0).to_numpy()).tolist()
            refuse_first(missing, source, f"row {{}} of the metadata: nothing under {column}")
    # A caption of spaces only counts as empty.
    lengths = pc.utf8_length(pc.utf8_trim_whitespace(pc.fill_null(metadata[CAPTION], "")))
    sound = pc.greater(lengths, 0).to_numpy()
    empty = np.flatnonzero(~sound)
    if len(empty) > max_broken * len(metadata):
        raise DataError(
            f"{source}: row {empty[0]} of the metadata: the caption is empty ({len(empty)} in all; --max-broken "
            f"{max_broken})"
        )
    paths = metadata[IMAGE].to_pylist()
    left_out = [{"image_id": paths[row], "reason": f"row {row}: its caption is empty", "captions": 1} for row in empty]
    rows = np.flatnonzero(sound)
    if not len(rows):
        raise DataError(f"{source}: no rows in the metadata; expected at least one")
    kept = metadata.take(rows).combine_chunks()
    # Rows with the same path are captions of one image; its embedding is that of the first.
    image_of = kept[IMAGE].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    first = np.unique(image_of, return_index=True)[1]
    return ExportRows(rows[first], rows, make_ids(kept, image_of, first, settings), left_out)


def make_ids(kept: pa.Table, image_of: np.ndarray, first: np.ndarray, settings: ClipRetrievalSettings) -> RowIds:
    """The ids of the store's rows, from the rows that are kept."""
    images = kept[IMAGE].take(first).to_pylist()
    # Captions are numbered within their image in the order of the rows.
    order = np.argsort(image_of, kind="stable")
    starts = np.searchsorted(image_of[order], np.arange(len(first)))
    # Number of every caption among those of its image.
    number_of = np.empty(len(kept), np.int64)
    number_of[order] = np.arange(len(kept)) - starts[image_of[order]]
    if settings.split_field in kept.column_names:
        splits = [usual_split(split) for split in kept[settings.split_field].take(first).to_pylist()]
    else:
        splits = draw_splits(images, settings.held_out)
    return RowIds(
        image_ids=images,
        splits=splits,
        caption_ids=[f"{images[image]}#{number}" for image, number in zip(image_of, number_of, strict=True)],
        caption_image=image_of.tolist(),
        texts=[text.strip() for text in kept[CAPTION].to_pylist()],
    )


def refuse_ambiguous(arrays: list[np.ndarray], rows: ExportRows, source: str) -> None:
    """Raise DataError for rows with one image_path and different embeddings: keys that repeat from tar to tar, say."""
    first_row = rows.image_rows[np.asarray(rows.ids.caption_image, np.int64)]
    # Rows that are not the first of their image.
    again = np.flatnonzero(first_row != rows.caption_rows)
    for start in range(0, len(again), 65536):
        part = again[start : start + 65536]
        here, there = gather_rows(arrays, rows.caption_rows[part]), gather_rows(arrays, first_row[part])
        different = part[np.einsum("nd,nd->n", here, there) < SAME]
        pairs = [f'"{rows.ids.image_ids[rows.ids.caption_image[i]]}"' for i in different]
        refuse_first(pairs, source, "image_path {} names different images: the embeddings of its rows differ")


def gather_rows(arrays: list[np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Rows of all parts together, at unit length, in float32."""
    # Parts are numbered through: each begins where the one before ends.
    starts = np.cumsum([0, *map(len, arrays)])
    result = np.empty((len(rows), arrays[0].shape[1]), np.float32)
    for start, array in zip(starts, arrays, strict=False):
        inside = (rows >= start) & (rows < start + len(array))
        result[inside] = to_unit_length(array[rows[inside] - start], np.dtype(np.float32))
    return result


def write_export(
    stage: StageDirectory, images: list[np.ndarray], texts: list[np.ndarray], rows: ExportRows
) -> Manifest:
    """Write the arrays, one part after another, and the tables."""
    dtype = stored_dtype(*images, *texts)
    # Streamed: the embeddings of all parts together may not fit into memory.
    for kind, arrays, chosen in (("image", images, rows.image_rows), ("text", texts, rows.caption_rows)):
        shape = (len(chosen), arrays[0].shape[1])
        write_rows(stage.directory / f"{kind}.npy", choose_part_rows(arrays, chosen, dtype), shape, dtype)
    write_table(stage.directory / "image.parquet", rows.ids.image_table())
    write_table(stage.directory / "text.parquet", rows.ids.caption_table())
    write_json(stage.directory / "encoder.json", describe_imported(images[0].shape[1]))
    left_out = {"its caption is empty": len(rows.left_out)} if rows.left_out else {}
    account = DataAccount.from_tables(rows.ids.image_table(), rows.ids.caption_table(), left_out)
    return stage.finish(
        counts={"images": len(rows.image_rows), "captions": len(rows.caption_rows)},
        left_out=rows.left_out,
        settings={"images_root": None, "dtype": dtype.name, "account": asdict(account)},
    )


def choose_part_rows(arrays: list[np.ndarray], rows: np.ndarray, dtype: np.dtype) -> Iterator[np.ndarray]:
    """The chosen rows of each part at unit length; rows are numbered through all parts."""
    start = 0
    for array in arrays:
        yield to_unit_length(array[rows[(rows >= start) & (rows < start + len(array))] - start], dtype)
        start += len(array)

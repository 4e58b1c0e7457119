"""After all shards are encoded: their rows become the arrays of the store, in the order of its tables."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xmrank.datasets.dataset import Dataset
from xmrank.embed.planning import ShardPlan
from xmrank.embed.shards import Shard, read_reports
from xmrank.embed.token_store import Side
from xmrank.runtime.files import write_rows, write_table
from xmrank.runtime.storage import fetch_all, local_copy

BLOCK = 65536
"""Rows that are in memory at once."""


@dataclass
class StoreFacts:
    """The images' reports, put together.

    Attributes:
        bytes, sha256: of every image; one chunk for each shard.
        broken: row → reason.
        copied: rows whose embeddings were copied from another store.
    """

    bytes: list[pa.Array] = field(default_factory=list)
    sha256: list[pa.Array] = field(default_factory=list)
    broken: dict[int, str] = field(default_factory=dict)
    copied: list[int] = field(default_factory=list)


def join_reports(shards: list[Shard], work: Path) -> StoreFacts:
    """The reports of the images' shards, all of which are done; read a few at a time."""
    facts = StoreFacts()
    for shard, report in zip(shards, read_reports(shards, work), strict=True):
        facts.bytes.append(pa.array(report.bytes, pa.int64()))
        facts.sha256.append(pa.array(report.sha256, pa.string()))
        facts.broken |= report.broken
        # The report counts from the start of its shard.
        facts.copied += [shard.start + index for index in report.copied]
    return facts


@dataclass(frozen=True)
class StoreRows:
    """The images and captions of the store: all but the broken images and their captions.

    Attributes:
        images, captions: rows of the data set's tables, ascending.
        image_of: for each of these captions, the row of its image in the store.
    """

    images: np.ndarray
    captions: np.ndarray
    image_of: np.ndarray

    @classmethod
    def without_broken(cls, dataset: Dataset, broken: dict[int, str]) -> "StoreRows":
        """The rows of a data set without its broken images."""
        # The rows of the images close up: the store has none without an embedding.
        sound = np.setdiff1d(np.arange(len(dataset.images)), list(broken))
        new_row = np.full(len(dataset.images), -1, np.int64)
        new_row[sound] = np.arange(len(sound))
        image_of = new_row[pc.index_in(dataset.captions["image_id"], dataset.images["image_id"]).to_numpy()]
        kept = np.flatnonzero(image_of >= 0)
        return cls(sound, kept, image_of[kept])


def write_store(
    directory: Path, work: Path, dataset: Dataset, plan: ShardPlan, images: pa.Table, rows: StoreRows
) -> dict[Side, np.ndarray]:
    """Write the two arrays and the two tables of rows; ``images`` is what ``make_image_table`` gives.

    Returns:
        For every row of a side, its item among those that were encoded.
    """
    # A caption's embedding is that of its text, which other captions may share.
    chosen: dict[Side, np.ndarray] = {"image": rows.images, "text": plan.text_of[rows.captions]}
    for kind, of_side in chosen.items():
        parts = [shard.array_path(work) for shard in plan.select_kind(kind)]
        write_side(directory / f"{kind}.npy", parts, of_side)
    write_table(directory / "image.parquet", images)
    write_table(directory / "text.parquet", make_caption_table(dataset.captions, images, rows))
    return chosen


def write_side(path: Path, parts: list[Path], rows: np.ndarray) -> None:
    """Write the chosen rows of consecutive parts into one ``.npy`` file.

    Args:
        path: the file.
        parts: arrays of equal length, but for the last one; rows are numbered through all parts.
        rows: in the order of the file; a row may occur more than once.
    """
    fetch_all(parts)
    # All parts but the last are as long as the first.
    first = np.load(local_copy(parts[0]), allow_pickle=False)
    write_rows(path, read_blocks(parts, len(first), rows), (len(rows), first.shape[1]), first.dtype)


def read_blocks(parts: list[Path], size: int, rows: np.ndarray) -> Iterator[np.ndarray]:
    """The chosen rows, a block at a time. Of a part, only the chosen rows are read."""
    for start in range(0, len(rows), BLOCK):
        chosen = rows[start : start + BLOCK]
        of_part = chosen // size
        # Grouped by part, so that every part is opened once for a block.
        order = np.argsort(of_part, kind="stable")
        numbers, starts = np.unique(of_part[order], return_index=True)
        block: np.ndarray | None = None
        for number, indices in zip(numbers, np.split(order, starts[1:]), strict=True):
            array = np.load(local_copy(parts[number]), mmap_mode="r", allow_pickle=False)
            if block is None:
                block = np.empty((len(chosen), array.shape[1]), array.dtype)
            block[indices] = array[chosen[indices] - number * size]
        assert block is not None
        yield block


def make_image_table(images: pa.Table, rows: np.ndarray, facts: StoreFacts) -> pa.Table:
    """The table of image rows, with the size and hash of every file as it was read."""
    # Before the rows are chosen: the reports have an entry for broken images too.
    images = images.append_column("bytes", pa.chunked_array(facts.bytes, pa.int64()))
    images = images.append_column("sha256", pa.chunked_array(facts.sha256, pa.string()))
    return add_row_numbers(images.take(rows))


def find_equal_across_splits(images: pa.Table) -> list[dict[str, str]]:
    """The groups of images that have the same bytes and are in different splits.

    Such an image is trained on and tested with, which no split by id or name prevents.

    Args:
        images: the store's table of image rows.

    Returns:
        Image id → split for each group, in the order of their first rows.
    """
    # Rows without a hash, of a store of another make, are not known to be equal.
    images = images.filter(pc.is_valid(images["sha256"]))
    groups = images.group_by("sha256", use_threads=False).aggregate([("split", "count_distinct")])
    shared = groups.filter(pc.greater(groups["split_count_distinct"], 1))["sha256"]
    # Only the rows of such groups become Python objects.
    equal = images.filter(pc.is_in(images["sha256"], value_set=shared.combine_chunks()))
    members: dict[str, dict[str, str]] = {}
    for row in equal.select(["sha256", "image_id", "split"]).to_pylist():
        members.setdefault(row["sha256"], {})[row["image_id"]] = row["split"]
    return list(members.values())


def make_caption_table(captions: pa.Table, images: pa.Table, rows: StoreRows) -> pa.Table:
    """The table of caption rows; ``images`` are those of the store, whose splits the captions have."""
    chosen = captions.take(rows.captions)
    position = chosen.column_names.index("split")
    splits = images["split"].take(pa.array(rows.image_of))
    chosen = chosen.set_column(position, chosen.schema.field(position), splits)
    return add_row_numbers(chosen.append_column("image_row", pa.array(rows.image_of, pa.int32())))


def add_row_numbers(table: pa.Table) -> pa.Table:
    """The table with its row numbers as first column."""
    return table.add_column(0, "row", pa.array(range(len(table)), pa.int32())).combine_chunks()


def list_broken(dataset: Dataset, broken: dict[int, str]) -> list[dict[str, Any]]:
    """One entry for each image that could not be read, with the number of captions that are left out with it."""
    if not broken:
        return []
    per_image = pc.value_counts(dataset.captions["image_id"]).to_pylist()
    captions = {entry["values"]: entry["counts"] for entry in per_image}
    ids = dataset.images["image_id"].to_pylist()
    return [
        {"image_id": ids[row], "reason": reason, "captions": captions.get(ids[row], 0)}
        for row, reason in sorted(broken.items())
    ]

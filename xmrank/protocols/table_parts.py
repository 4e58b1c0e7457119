"""What tables of rankings have in common: how text is stored, the ids of the rows, and joining part files."""

from pathlib import Path

import pyarrow as pa

from xmrank.embed.store import EmbeddingStore
from xmrank.runtime.files import atomic_path, open_parquet_writer, read_parquet

TEXT = pa.dictionary(pa.int32(), pa.string())
"""Ids and names repeat in many rows; a dictionary keeps each of them once."""


def side_ids(store: EmbeddingStore, direction: str) -> tuple[pa.Array, pa.Array]:
    """The ids of all rows of the query side and of the gallery side."""
    images = store.images["image_id"].combine_chunks()
    captions = store.captions["caption_id"].combine_chunks()
    return (images, captions) if direction == "i2t" else (captions, images)


def join_tables(path: Path, parts: list[Path], schema: pa.Schema) -> None:
    """Write parquet files one after another as one, with one of them in memory at a time."""
    with atomic_path(path) as temporary, open_parquet_writer(temporary, schema) as writer:
        # The parts may have different dictionaries; a parquet file needs one for each column.
        for part in parts:
            writer.write_table(read_parquet(part).unify_dictionaries().cast(schema))

"""A shard is one task: it encodes up to ``shard_size`` images or captions into one array and one report on disk."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from xmrank.datasets.locations import find_changed
from xmrank.embed.encoder import Encoder
from xmrank.embed.shard_report import ItemBatch, ShardReport
from xmrank.embed.store import EmbeddingStore
from xmrank.embed.token_shards import ShardTokens, TokenPaths, TokenRecipe
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import TEMPORARY, atomic_path, write_array, write_json
from xmrank.runtime.pieces import record_piece
from xmrank.runtime.storage import local_copy, read_contents

Kind = Literal["image", "text"]


@dataclass(frozen=True)
class Shard:
    """Rows ``start`` … ``stop`` of the images, or of the distinct captions.

    The items themselves are in a table beside the shards' output, one record batch for each shard: so a shard is a few
    numbers, cheap to send to any process.
    """

    kind: Kind
    number: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def read_items(self, work: Path) -> pa.RecordBatch:
        """The shard's rows of the table: ``item``, an address (``datasets.locations``) or a text, and ``copied``."""
        return pa.ipc.open_file(pa.memory_map(str(local_copy(items_path(work, self.kind))))).get_batch(self.number)

    def array_path(self, work: Path) -> Path:
        """The file of the shard's embeddings."""
        return work / f"{self.kind}-{self.number:06d}.npy"

    def report_path(self, work: Path) -> Path:
        """The file of the shard's report, written last: a shard with a report is done."""
        return work / f"{self.kind}-{self.number:06d}.json"


@dataclass
class PreparedShard:
    """A shard's input for the encoder.

    Attributes:
        report: complete when all batches have been iterated over.
        batches: none crosses shards, so the result does not depend on which shards an interrupted run had finished.
    """

    report: ShardReport
    batches: Iterable[ItemBatch]


def items_path(work: Path, kind: Kind) -> Path:
    """The table of all items of a kind: each run writes its own, and that of a killed run is removed as temporary."""
    return work / f"{TEMPORARY}{kind}s.arrow"


def write_items(work: Path, kind: Kind, items: pa.Array, copied: pa.Array, size: int) -> list[Shard]:
    """Write the table of items, one record batch for each shard, and return the shards."""
    # Arrow IPC, one batch for each shard: a worker maps the file and reads its own batch only.
    table = pa.table({"item": items, "copied": copied}).combine_chunks()
    path = items_path(work, kind)
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as file,
        pa.ipc.new_file(file, table.schema) as out,
    ):
        for start in range(0, len(table), size):
            out.write_batch(table.slice(start, size).combine_chunks().to_batches()[0])
    return [Shard(kind, i // size, i, min(i + size, len(table))) for i in range(0, len(table), size)]


def encode_shard(
    shard: Shard,
    prepared: PreparedShard,
    encoder: Encoder,
    work: Path,
    *,
    dtype: str,
    known: EmbeddingStore | None = None,
    tokens: TokenRecipe | None = None,
) -> ShardReport:
    """Encode one shard and write its array, then its report.

    Args:
        shard: the shard.
        prepared: its batches and report.
        encoder: on the device that encodes.
        work: folder of the arrays and reports.
        dtype: number format of the array.
        known: store of the rows that the report names as copied.
        tokens: how the items' tokens are made, if they are kept.

    Raises:
        DataError: the encoder returned NaN or infinity.
    """
    array = np.zeros((len(shard), encoder.dimensions), np.float32)
    encode = encoder.encode_images if shard.kind == "image" else encoder.encode_tokens
    kept = ShardTokens(tokens, shard.kind, encoder, len(shard)) if tokens else None
    for indices, inputs in prepared.batches:
        array[indices] = (kept.encode(indices, inputs) if kept else encode(inputs)).cpu().numpy()
    # Only now is the report complete: making the batches fills it.
    report = prepared.report
    # Copied rows go through the same array, so that the file's rows are the shard's items in order.
    if known and report.copied:
        side = known.image if shard.kind == "image" else known.text
        array[list(report.copied)] = side[list(report.copied.values())]
    if not np.isfinite(array).all():
        raise DataError(f"{encoder.name}: returned NaN or infinity for {shard.kind} rows {shard.start} and after")
    # The arrays first: a shard counts as done when it has a report.
    files = kept.write(TokenPaths.beside(shard.array_path(work))) if kept else []
    write_array(shard.array_path(work), array.astype(dtype))
    write_json(shard.report_path(work), asdict(report))
    record_piece(work, shard.report_path(work).stem, [*files, shard.array_path(work), shard.report_path(work)])
    return report


def read_report(shard: Shard, work: Path) -> ShardReport | None:
    """The report of a shard that an earlier run finished, or None."""
    try:
        return parse_report(shard.report_path(work).read_bytes())
    except FileNotFoundError:
        return None


def read_reports(shards: Sequence[Shard], work: Path) -> Iterator[ShardReport]:
    """The reports of shards that are done, in order."""
    yield from map(parse_report, read_contents([shard.report_path(work) for shard in shards]))


def parse_report(content: bytes) -> ShardReport:
    """The report in a file's content."""
    values: dict[str, Any] = json.loads(content)
    # JSON's keys are text.
    for name in ("broken", "copied"):
        values[name] = {int(row): value for row, value in values[name].items()}
    return ShardReport(**values)


def remove_changed_report(shard: Shard, report: ShardReport, work: Path) -> bool:
    """Remove a shard's report if an image file has changed its size since, so that the shard is encoded again."""
    if shard.kind == "image" and find_changed(shard.read_items(work)["item"].to_pylist(), report.bytes):
        shard.report_path(work).unlink()
        return True
    return False

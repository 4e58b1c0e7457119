"""A batch of new queries: embedded, searched in the gallery, re-ranked, and written as a part of the results."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from xmrank.config import Direction, MineConfig
from xmrank.embed.encoder import Encoder, load_encoder
from xmrank.embed.preparing import encode_files
from xmrank.embed.shards import ShardReport
from xmrank.embed.store import EmbeddingStore
from xmrank.mine.gallery_index import make_index
from xmrank.mine.nearest import SHARD
from xmrank.protocols.table_parts import TEXT, side_ids
from xmrank.rank.queries import Kind
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import write_json, write_table
from xmrank.train.checkpoint import load_ranker

SCORED = 64
"""Queries scored at once: with long lists, more only costs memory."""
RESULTS_SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("query", TEXT),
        ("candidate_id", TEXT),
        ("candidate", TEXT),
        ("rank", pa.int32()),
        ("score", pa.float32()),
        ("first_rank", pa.int32()),
        ("similarity", pa.float32()),
    ]
)
EMBEDDINGS = "queries.npy"


@dataclass(frozen=True)
class RankingJob:
    """All that a worker needs to know.

    Attributes:
        embeddings: the gallery's store.
        split: of the gallery; None: all of it.
        ranker: folder of the ranker.
        kind: what the queries are.
        encoder: arguments of ``load_encoder``; none for queries that are embeddings.
        weights_hash: what the encoder must have.
        folder: takes the parts; holds the queries' embeddings where they are given.
    """

    embeddings: Path
    split: str | None
    direction: Direction
    ranker: Path
    kind: Kind
    encoder: dict[str, Any]
    weights_hash: str | None
    batch_size: int
    top_n: int
    folder: Path


@dataclass(frozen=True)
class QueryBatch:
    """Some of the queries: ``start`` and after."""

    start: int
    ids: list[str]
    shown: list[str]
    items: list[str]

    def part(self, folder: Path) -> Path:
        """Its results."""
        return folder / f"part-{self.start:09d}.parquet"

    def report(self, folder: Path) -> Path:
        """What became of it, written last: a batch with a report is done."""
        return folder / f"part-{self.start:09d}.json"


@dataclass
class QueryTiming:
    """Seconds by step."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, step: str) -> Iterator[None]:
        """Add the time of the block."""
        started = time.perf_counter()
        yield
        self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - started


def gallery_rows(store: EmbeddingStore, direction: Direction, split: str | None) -> np.ndarray:
    """The rows that may be found, int64 ascending: captions for images, images for captions."""
    images = np.arange(len(store.image)) if split is None else store.image_rows(split)
    return np.flatnonzero(np.isin(store.image_of_caption, images)) if direction == "i2t" else images


class QueryRanker:
    """Ranks batches; loads what it needs once, at the first.

    Args:
        work: what to do.
    """

    def __init__(self, work: RankingJob) -> None:
        self.work = work
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.store = EmbeddingStore.open(work.embeddings)
        self.side = self.store.text if work.direction == "i2t" else self.store.image
        self.rows = gallery_rows(self.store, work.direction, work.split)
        self.ranker, _ = load_ranker(work.ranker, self.device)

    @cached_property
    def encoder(self) -> Encoder:
        """The gallery's encoder.

        Raises:
            DataError: what is loaded under its name has other weights.
        """
        encoder = load_encoder(**self.work.encoder, device=self.device)
        if encoder.weights_hash != self.work.weights_hash:
            raise DataError(
                f"{self.work.embeddings}: embedded with other weights of {encoder.name} than those that are loaded "
                f"({str(self.work.weights_hash)[:12]} there, {encoder.weights_hash[:12]} here)"
            )
        return encoder

    @cached_property
    def names(self) -> tuple[pa.Array, pa.Array]:
        """The gallery's ids, and its captions or the places of its images; of all rows of its side."""
        table, column = (
            (self.store.captions, "text") if self.work.direction == "i2t" else (self.store.images, "location")
        )
        ids = side_ids(self.store, self.work.direction)[1]
        known = column in table.column_names
        return ids, table[column].combine_chunks() if known else pa.nulls(len(ids), pa.string())

    @cached_property
    def first_index(self) -> Any:
        """The index of the gallery's first shard: in most galleries, of all of it."""
        return make_index(self.side, self.rows[:SHARD], MineConfig())

    def rank(self, batch: QueryBatch) -> int:
        """Rank a batch and write its part and report; returns the number of queries that could not be read."""
        timing, reading = QueryTiming(), ShardReport(len(batch.ids))
        _ = self.encoder if self.work.encoder else None, self.first_index, self.names  # their time is no query's
        with timing.of("embed"):
            queries, sound = self.embed(batch, reading)
        with timing.of("search"):
            found, similarity = self.search(queries)
        with timing.of("rank"):
            scores = self.score(queries, found, similarity)
        write_table(batch.part(self.work.folder), self.table(batch, sound, found, similarity, scores))
        broken = {batch.ids[row - batch.start]: reason for row, reason in reading.broken.items()}
        write_json(batch.report(self.work.folder), {"broken": broken, "seconds": timing.seconds})
        return len(broken)

    def embed(self, batch: QueryBatch, reading: ShardReport) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings of the sound queries in the store's number format, [sound, d], and their places in the batch."""
        size, count = self.work.batch_size, len(batch.ids)
        if self.work.kind == "embedding":
            given = np.load(self.work.folder / EMBEDDINGS, mmap_mode="r", allow_pickle=False)
            parts = [given[batch.start : batch.start + count]]
        elif self.work.kind == "text":
            parts = [self.encoder.encode_texts(batch.items[s : s + size]).cpu().numpy() for s in range(0, count, size)]
        else:
            parts = [
                encode_files(batch.items[s : s + size], self.encoder, reading, row=batch.start + s)
                for s in range(0, count, size)
            ]
        sound = np.array([i for i in range(count) if batch.start + i not in reading.broken], np.int64)
        return np.concatenate(parts)[sound].astype(self.side.dtype), sound

    def search(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first stage's nearest: places in ``rows`` and similarities, [queries, top_n], best first."""
        asked, n = queries.astype(np.float32), self.work.top_n
        found, similarity = np.empty((len(asked), 0), np.int64), np.empty((len(asked), 0), np.float32)
        for first in range(0, len(self.rows), SHARD):
            rows = self.rows[first : first + SHARD]
            index = self.first_index if first == 0 else make_index(self.side, rows, MineConfig())
            values, items = index.search(asked, min(n, len(rows)))
            found, similarity = np.hstack([found, items + first]), np.hstack([similarity, values])
            order = np.lexsort((found, -similarity), axis=1)[:, :n]
            found, similarity = np.take_along_axis(found, order, 1), np.take_along_axis(similarity, order, 1)
        return found, similarity

    @torch.inference_mode()
    def score(self, queries: np.ndarray, found: np.ndarray, similarity: np.ndarray) -> np.ndarray:
        """The ranker's scores, float32 [queries, top_n]."""
        parts = [np.empty((0, self.work.top_n), np.float32)]
        for start in range(0, len(queries), SCORED):
            part = slice(start, start + SCORED)
            candidates = self.side[self.rows[found[part]]]
            arrays = (
                torch.from_numpy(array).to(self.device) for array in (queries[part], candidates, similarity[part])
            )
            parts.append(self.ranker.score(*arrays).float().cpu().numpy())
        return np.concatenate(parts)

    def table(
        self, batch: QueryBatch, sound: np.ndarray, found: np.ndarray, similarity: np.ndarray, scores: np.ndarray
    ) -> pa.Table:
        """A batch's results, query by query, best first; between equal scores the first stage decides."""
        order = np.argsort(-scores, axis=1, kind="stable")
        candidates = self.rows[np.take_along_axis(found, order, 1)].ravel()
        owner = np.repeat(sound, scores.shape[1])
        ids, shown = self.names
        columns = [
            pa.array(batch.ids, pa.string()).take(owner),
            pa.array([text or None for text in batch.shown], pa.string()).dictionary_encode().take(owner),
            ids.take(candidates).dictionary_encode(),
            shown.take(candidates).dictionary_encode(),
            pa.array(np.tile(np.arange(1, scores.shape[1] + 1), len(scores)), pa.int32()),
            pa.array(np.take_along_axis(scores, order, 1).ravel(), pa.float32()),
            pa.array(order.ravel() + 1, pa.int32()),
            pa.array(np.take_along_axis(similarity, order, 1).ravel(), pa.float32()),
        ]
        return pa.table(columns, names=RESULTS_SCHEMA.names).cast(RESULTS_SCHEMA)


def read_report(batch: QueryBatch, folder: Path) -> dict[str, Any]:
    """What became of a batch."""
    return dict(json.loads(batch.report(folder).read_text()))

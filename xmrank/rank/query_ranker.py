"""One batch of new queries: embedded, searched in the gallery, re-ranked, and written as a part of the results."""

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

from xmrank.config.mine import MineConfig
from xmrank.embed.encoder import Encoder, load_encoder
from xmrank.embed.image_files import make_batches, prepare_images
from xmrank.embed.shard_report import ItemBatch, ShardReport
from xmrank.embed.store import EmbeddingStore
from xmrank.embed.token_shards import ShardTokens
from xmrank.embed.token_store import TokenArray
from xmrank.mine.gallery_index import SHARD, make_index
from xmrank.protocols.table_parts import side_ids
from xmrank.rank.checks import gallery_rows
from xmrank.rank.query_tokens import KEPT, TOKEN_SIDES, GalleryTokens
from xmrank.rank.ranking_job import EMBEDDINGS, QueryBatch, RankingJob
from xmrank.rank.results import RESULTS_SCHEMA
from xmrank.rankers.token_ranker import TokenRanker
from xmrank.runtime.device import own_device
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import write_json, write_table
from xmrank.runtime.pieces import record_piece
from xmrank.runtime.redaction import redact_uri
from xmrank.runtime.storage import local_copy
from xmrank.train.checkpoint import read_ranker
from xmrank.train.list_data import as_tensor
from xmrank.train.refined_gallery import RefinedGallery

SCORED = 64
"""Queries scored at once: with long lists, more only costs memory."""


@dataclass(frozen=True)
class EncodedQueries:
    """The readable queries of a batch.

    Attributes:
        embeddings: in the store's dtype, [readable, d].
        readable: their indices in the batch, int64 [readable].
        tokens: of all queries of the batch, for a ranker that reads them; a broken one has none.
    """

    embeddings: np.ndarray
    readable: np.ndarray
    tokens: TokenArray | None


@dataclass
class QueryTiming:
    """Seconds of each step."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure_step(self, step: str) -> Iterator[None]:
        """Add the time of the block to a step."""
        # A step may run several times; its times add up.
        started = time.perf_counter()
        yield
        self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - started


class QueryRanker:
    """Ranks batches with an encoder, an index and a ranker that are loaded once."""

    def __init__(self, job: RankingJob) -> None:
        self.job = job
        self.device = own_device()
        self.store = EmbeddingStore.open(job.embeddings, verify=False)
        self.side = self.store.text if job.direction == "i2t" else self.store.image
        # The gallery is a selection of rows: embeddings are never copied.
        self.rows = gallery_rows(self.store, job.direction, job.split)
        self.ranker, _ = read_ranker(job.ranker, self.device)

    @cached_property
    def encoder(self) -> Encoder:
        """The gallery's encoder.

        Raises:
            DataError: the weights that are loaded under its name are others.
        """
        encoder = load_encoder(**self.job.encoder, device=self.device)
        # A name may stand for other weights on another machine.
        if encoder.weights_hash != self.job.weights_hash:
            raise DataError(
                f"{self.job.embeddings}: embedded with other weights of {encoder.name} than those that are loaded "
                f"({str(self.job.weights_hash)[:12]} there, {encoder.weights_hash[:12]} here)"
            )
        return encoder

    @cached_property
    def names(self) -> tuple[pa.Array, pa.Array]:
        """Ids and texts (captions, or paths of images) of all rows of the gallery's side; a text may be null."""
        table, column = (
            (self.store.captions, "text") if self.job.direction == "i2t" else (self.store.images, "location")
        )
        ids = side_ids(self.store, self.job.direction)[1]
        # Imported embeddings may have neither captions nor paths.
        if column not in table.column_names:
            return ids, pa.nulls(len(ids), pa.string())
        texts = table[column].combine_chunks()
        if column == "location":  # may be a signed URI, and results are shown to others
            texts = pa.array([text and redact_uri(text) for text in texts.to_pylist()], pa.string())
        return ids, texts

    @cached_property
    def gallery_tokens(self) -> GalleryTokens | None:
        """The gallery's tokens, for a ranker that reads them."""
        if not isinstance(self.ranker, TokenRanker):
            return None
        return GalleryTokens(self.ranker, self.store.tokens(TOKEN_SIDES[self.job.direction][1]), self.rows, self.device)

    @cached_property
    def refined_gallery(self) -> RefinedGallery | None:
        """The gallery as the ranker's refinement sees it, where that is less work than to refine the candidates of all
        queries, and fits into memory."""
        refinement, rows = self.ranker.refinement, len(self.rows)
        if refinement is None or rows > self.job.queries * self.job.top_n:
            return None
        if rows * len(refinement.view_weights) * self.side.shape[1] > KEPT:
            return None
        return RefinedGallery.of(refinement, as_tensor(self.side, self.device), self.rows)

    @cached_property
    def first_index(self) -> Any:
        """The index of the gallery's first shard, which in most galleries is all of it."""
        return make_index(self.side, self.rows[:SHARD], MineConfig())

    def rank_batch(self, batch: QueryBatch) -> int:
        """Rank a batch and write its part and record; returns the number of queries that could not be read."""
        timing = QueryTiming()
        self.load_all()
        table, broken = self.rank_queries(batch, timing)
        write_table(batch.part_path(self.job.folder), table)
        record = batch.record_path(self.job.folder)
        write_json(record, {"broken": broken, "seconds": timing.seconds})
        record_piece(self.job.folder, record.stem, [batch.part_path(self.job.folder), record])
        return len(broken)

    def rank_queries(self, batch: QueryBatch, timing: QueryTiming) -> tuple[pa.Table, dict[str, str]]:
        """Rank a batch.

        Args:
            batch: the queries.
            timing: takes the seconds of each step.

        Returns:
            The results, in ``RESULTS_SCHEMA``, and why queries could not be read, by their ids.
        """
        reading = ShardReport(len(batch.ids))
        with timing.measure_step("embed"):
            queries = self.embed_queries(batch, reading)
        with timing.measure_step("search"):
            nearest, similarity = self.search_gallery(queries.embeddings)
        with timing.measure_step("rank"):
            scores = self.score_candidates(queries, nearest, similarity)
        table = self.make_table(batch, queries.readable, nearest, similarity, scores)
        return table, {batch.ids[row - batch.start]: reason for row, reason in reading.broken.items()}

    def load_all(self) -> None:
        """Load what all batches share: that is not part of a query's time."""
        _ = self.encoder if self.job.encoder else None, self.first_index, self.names, self.refined_gallery
        if self.gallery_tokens is not None:
            _ = self.gallery_tokens.projected

    def embed_queries(self, batch: QueryBatch, reading: ShardReport) -> EncodedQueries:
        """Embed a batch; ``reading`` takes the images that cannot be read."""
        count, tokens = len(batch.ids), None
        if self.job.kind == "embedding":
            # One array for all batches, of which each reads its own rows.
            given = np.load(local_copy(self.job.folder / EMBEDDINGS), mmap_mode="r", allow_pickle=False)
            embeddings = given[batch.start : batch.start + count]
        else:
            embeddings, tokens = self.encode_queries(batch, reading)
        readable = np.array([i for i in range(count) if batch.start + i not in reading.broken], np.int64)
        # In the store's dtype, as the ranker was trained on it.
        return EncodedQueries(embeddings[readable].astype(self.side.dtype), readable, tokens)

    def encode_queries(self, batch: QueryBatch, reading: ShardReport) -> tuple[np.ndarray, TokenArray | None]:
        """Encode a batch as the gallery's store was: embeddings [queries, d], zeros where broken, and tokens."""
        count, kept = len(batch.ids), None
        if self.job.tokens:
            kept = ShardTokens(self.job.tokens, TOKEN_SIDES[self.job.direction][0], self.encoder, count)
        encode = self.encoder.encode_images if self.job.kind == "image" else self.encoder.encode_tokens
        embeddings = np.zeros((count, self.encoder.dimensions), np.float32)
        for indices, inputs in self.make_inputs(batch, reading):
            embeddings[indices] = (kept.encode(indices, inputs) if kept else encode(inputs)).cpu().numpy()
        return embeddings, kept.join() if kept else None

    def make_inputs(self, batch: QueryBatch, reading: ShardReport) -> Iterator[ItemBatch]:
        """A batch's captions or readable images as the encoder takes them, with their indices."""
        size = self.job.batch_size
        if self.job.kind == "image":
            images = prepare_images(self.encoder.pixels, batch.items, reading, row=batch.start)
            yield from make_batches(images, size)
            return
        for start in range(0, len(batch.items), size):
            texts = batch.items[start : start + size]
            yield list(range(start, start + len(texts))), self.encoder.tokenizer(texts)

    def search_gallery(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first stage's top N: indices into ``rows`` and similarities, [queries, top_n], best first."""
        vectors, n = queries.astype(np.float32), self.job.top_n
        nearest, similarity = np.empty((len(vectors), 0), np.int64), np.empty((len(vectors), 0), np.float32)
        for first in range(0, len(self.rows), SHARD):
            rows = self.rows[first : first + SHARD]
            index = self.first_index if first == 0 else make_index(self.side, rows, MineConfig())
            values, items = index.search(vectors, min(n, len(rows)))
            # The best of the shards so far and of this one; equal similarities are in the order of rows.
            nearest, similarity = np.hstack([nearest, items + first]), np.hstack([similarity, values])
            order = np.lexsort((nearest, -similarity), axis=1)[:, :n]
            nearest, similarity = np.take_along_axis(nearest, order, 1), np.take_along_axis(similarity, order, 1)
        return nearest, similarity

    @torch.inference_mode()
    def score_candidates(self, queries: EncodedQueries, nearest: np.ndarray, similarity: np.ndarray) -> np.ndarray:
        """The ranker's scores, float32 [queries, top_n]."""
        parts = [np.empty((0, self.job.top_n), np.float32)]
        for start in range(0, len(nearest), SCORED):
            part = slice(start, start + SCORED)
            rows = self.rows[nearest[part]]
            arrays = (queries.embeddings[part], self.side[rows], similarity[part])
            tensors = [torch.from_numpy(array).to(self.device) for array in arrays]
            refined = self.refined_gallery
            if refined is not None:
                tensors[2] = refined.compare(tensors[0], np.empty(0, np.int64), rows)
            tokens = None
            if self.gallery_tokens is not None and queries.tokens is not None:
                tokens = self.gallery_tokens.make_lists(queries.tokens, queries.readable[part], nearest[part])
            parts.append(self.ranker.score(*tensors, refined=refined is not None, tokens=tokens).float().cpu().numpy())
        return np.concatenate(parts)

    def make_table(
        self, batch: QueryBatch, readable: np.ndarray, nearest: np.ndarray, similarity: np.ndarray, scores: np.ndarray
    ) -> pa.Table:
        """A batch's results, query by query, best first; equal scores are in the order of the first stage."""
        order = np.argsort(-scores, axis=1, kind="stable")
        candidates = self.rows[np.take_along_axis(nearest, order, 1)].ravel()
        owner = np.repeat(readable, scores.shape[1])
        # "candidates" are rows of the store, "owner" are indices in the batch.
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


def read_batch_record(batch: QueryBatch, folder: Path) -> dict[str, Any]:
    """A batch's times (seconds) and the queries that could not be read (broken), by id with the reason."""
    return dict(json.loads(batch.record_path(folder).read_text()))

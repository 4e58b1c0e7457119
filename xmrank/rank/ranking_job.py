"""What a worker of the ranking stage needs to know: the job, and a batch of its queries."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmrank.config.common import Direction
from xmrank.embed.store import EmbeddingStore
from xmrank.embed.token_shards import TokenRecipe
from xmrank.rank.checks import gallery_rows
from xmrank.rank.query_set import Kind
from xmrank.rank.query_tokens import make_recipe
from xmrank.train.checkpoint_json import read_about

BATCH = 256
"""Queries of one task; an interrupted run loses at most this many for each worker."""
ENCODED = 64
"""Queries encoded at once where the gallery does not record a batch size."""
EMBEDDINGS = "queries.npy"
"""The queries' embeddings, where they are given."""


@dataclass(frozen=True)
class RankingJob:
    """Everything that a worker needs to know.

    Attributes:
        embeddings: folder of the gallery's store.
        split: of the gallery; None: all of it.
        ranker: folder of the ranker.
        kind: of the queries.
        encoder: arguments of ``load_encoder``; empty for queries that are embeddings.
        tokens: how the gallery's were made; None for a ranker that reads none.
        weights_hash: the encoder's weights must have it.
        batch_size: queries encoded at once.
        top_n: candidates from the first stage for each query.
        queries: how many there are in all batches.
        folder: takes the parts; has the queries' embeddings where they are given.
    """

    embeddings: Path
    split: str | None
    direction: Direction
    ranker: Path
    kind: Kind
    encoder: dict[str, Any]
    tokens: TokenRecipe | None
    weights_hash: str | None
    batch_size: int
    top_n: int
    queries: int
    folder: Path

    @classmethod
    def of(
        cls,
        store: EmbeddingStore,
        ranker: Path,
        *,
        kind: Kind,
        encoder: dict[str, Any],
        top_n: int,
        queries: int,
        folder: Path,
        split: str | None = None,
    ) -> "RankingJob":
        """The job of a ranker with a gallery; a gallery of fewer than ``top_n`` is ranked as a whole, as in evaluation.

        Args:
            store: of the gallery.
            ranker, kind, encoder, top_n, queries, folder, split: as above.
        """
        about = read_about(ranker)
        direction: Direction = about["direction"]
        return cls(
            embeddings=store.directory,
            split=split,
            direction=direction,
            ranker=ranker,
            kind=kind,
            encoder=encoder,
            tokens=make_recipe(store) if about.get("tokens") else None,
            weights_hash=store.encoder.get("weights_hash"),
            batch_size=encoding_batch_size(store),
            top_n=min(top_n, len(gallery_rows(store, direction, split))),
            queries=queries,
            folder=folder,
        )


def encoding_batch_size(store: EmbeddingStore) -> int:
    """Queries to encode at once: as many as the gallery's items, where that is recorded, and at most a batch."""
    # Encoders are not exactly independent of the batch size: the gallery's own gives the gallery's own rounding.
    recorded = store.manifest.settings.get("batch_size") or store.manifest.config.get("batch_size")
    return min(int(recorded or ENCODED), BATCH)


@dataclass(frozen=True)
class QueryBatch:
    """Consecutive queries.

    Attributes:
        start: number of the first of them.
        ids, shown, items: as in ``QuerySet``.
    """

    start: int
    ids: list[str]
    shown: list[str]
    items: list[str]

    def part_path(self, folder: Path) -> Path:
        """The file of its results."""
        return folder / f"part-{self.start:09d}.parquet"

    def record_path(self, folder: Path) -> Path:
        """The file of its times and of the queries that could not be read; written last, so it marks a done batch."""
        return folder / f"part-{self.start:09d}.json"

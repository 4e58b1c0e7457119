"""Ranking: the queries in batches, which workers rank, and their parts joined."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xmrank.config.rank import RankConfig
from xmrank.embed.store import EmbeddingStore
from xmrank.protocols.table_parts import join_tables
from xmrank.rank.checks import gallery_rows
from xmrank.rank.query_ranker import read_batch_record
from xmrank.rank.query_set import QuerySet
from xmrank.rank.ranking_job import BATCH, EMBEDDINGS, QueryBatch, RankingJob
from xmrank.rank.ray import rank_batches
from xmrank.rank.results import RESULTS, RESULTS_SCHEMA, STEPS
from xmrank.rank.trained_rankers import copy_ranker
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import write_array
from xmrank.runtime.manifest import Manifest
from xmrank.runtime.progress import Progress
from xmrank.train.checkpoint_json import read_about


def rank_all(
    stage: StageDirectory,
    config: RankConfig,
    store: EmbeddingStore,
    queries: QuerySet,
    ranker: Path,
    encoder: dict[str, Any],
) -> Manifest:
    """Rank the batches that are not done, join the parts and finish the stage."""
    job = RankingJob.of(
        store,
        # Workers read the ranker from the output: a downloaded one lies on this machine alone.
        copy_ranker(ranker, stage.work / "ranker"),
        kind=queries.kind,
        encoder=encoder,
        top_n=config.top_n,
        queries=len(queries.ids),
        folder=stage.work,
        split=config.split,
    )
    if queries.embeddings is not None:
        write_array(job.folder / EMBEDDINGS, queries.embeddings)
    batches = plan_batches(queries)
    left = [batch for batch in batches if not batch.record_path(job.folder).exists()]
    # An interrupted run continues the bar where it was.
    done = len(queries) - sum(len(batch.ids) for batch in left)
    started = time.perf_counter()
    with Progress("rank", len(queries), done) as progress:
        # Without a batch that is left, no cluster is started.
        for result in rank_batches(left, job, config.workers) if left else ():
            progress.advance(int(result["queries"]))
    return finish_ranking(stage, job, batches, queries, time.perf_counter() - started)


def plan_batches(queries: QuerySet) -> list[QueryBatch]:
    """The queries in batches of ``BATCH``."""
    parts = [slice(start, start + BATCH) for start in range(0, len(queries), BATCH)]
    return [QueryBatch(part.start, queries.ids[part], queries.shown[part], queries.items[part]) for part in parts]


def finish_ranking(
    stage: StageDirectory, job: RankingJob, batches: list[QueryBatch], queries: QuerySet, elapsed: float
) -> Manifest:
    """Join the parts, and write the manifest with the queries that were left out and the time of each step.

    Args:
        elapsed: seconds since the first batch.

    Raises:
        DataError: none of the queries could be read.
    """
    records = [read_batch_record(batch, job.folder) for batch in batches]
    broken: dict[str, str] = {}
    for record in records:
        broken |= record["broken"]
    ranked = len(queries) - len(broken)
    if not ranked:
        name, reason = next(iter(broken.items()))
        raise DataError(f"--queries: none of {len(queries)} could be read; the first, {name}: {reason}")
    join_tables(stage.directory / RESULTS, [batch.part_path(job.folder) for batch in batches], RESULTS_SCHEMA)
    gallery = len(gallery_rows(EmbeddingStore.open(job.embeddings, verify=False), job.direction, job.split))
    return stage.finish(
        counts={"queries": ranked, "gallery": gallery, "top_n": job.top_n, "rows": ranked * job.top_n},
        left_out=[{"query_id": name, "reason": reason} for name, reason in {**queries.left_out, **broken}.items()],
        settings={
            "direction": job.direction,
            "ranker": {name: read_about(job.ranker)[name] for name in ("ranker", "loss", "seed")},
            "milliseconds_per_query": mean_milliseconds(records, len(queries)),
            "seconds": round(elapsed, 2),
        },
    )


def mean_milliseconds(records: Sequence[dict[str, Any]], queries: int) -> dict[str, float]:
    """The mean time of each step for one query, in milliseconds."""
    totals = {step: sum(record["seconds"][step] for record in records) for step in STEPS}
    return {step: round(1000 * seconds / queries, 3) for step, seconds in totals.items()}

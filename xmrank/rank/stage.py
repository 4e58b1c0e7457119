"""The ranking stage: a gallery is ranked for new queries, by the first stage and then a trained ranker."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xmrank.config.common import semantic
from xmrank.config.rank import RankConfig
from xmrank.config.register import AUTO_NAME, model_prefix
from xmrank.embed.store import EmbeddingStore
from xmrank.protocols.table_parts import join_tables
from xmrank.rank.checks import (
    check_request,
    direction_of_queries,
    direction_of_ranker,
    encoder_arguments,
    gallery_rows,
)
from xmrank.rank.queries import read_queries
from xmrank.rank.query_ranker import read_batch_record
from xmrank.rank.query_set import QuerySet
from xmrank.rank.ranking_job import BATCH, EMBEDDINGS, QueryBatch, RankingJob
from xmrank.rank.ray import rank_batches
from xmrank.rank.results import RESULTS, RESULTS_SCHEMA, SIDES, STEPS
from xmrank.rank.trained_rankers import (
    ALIAS,
    GAIN,
    MODEL_URI,
    copy_ranker,
    locate_ranker,
    ranker_fingerprint,
    read_registered_tags,
)
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.files import write_array
from xmrank.runtime.manifest import Manifest
from xmrank.runtime.paths import resolve
from xmrank.runtime.progress import Progress
from xmrank.train.checkpoint_json import read_about

STAGE = "rank"


def rank(config: RankConfig) -> Manifest:
    """Rank the gallery for every query, and write the page where ``--page`` is set.

    Batches that an interrupted run finished are kept; results that are there already only get their page.

    Raises:
        ConfigError: flags that do not fit each other, the queries or the gallery.
        DataError: no queries, no such ranker, or one that was trained on embeddings of another encoder.
    """
    if config.queries is None:
        raise ConfigError("--queries: expected a text file, a table or a folder of images")
    store = EmbeddingStore.open(resolve(config.embeddings))
    output = resolve(config.output)
    with tempfile.TemporaryDirectory() as downloads:
        # The direction decides which column of a table is meant, so it is needed before the queries.
        wanted = config.direction or direction_of_ranker(config)
        queries = read_queries(resolve(config.queries), config.column, wanted, config.id_column)
        direction = direction_of_queries(queries, wanted)
        source = config.ranker or f"{MODEL_URI}{model_prefix(AUTO_NAME, store.dataset)}-{direction}@{ALIAS}"
        ranker = locate_ranker(source, direction, Path(downloads))
        check_request(config, store, read_about(ranker), queries, direction, source)
        encoder = encoder_arguments(store, config) if queries.kind != "embedding" else {}
        # The ranker counts by its content, so that a registered copy gives the same results.
        inputs = {"embeddings": store.fingerprint, "queries": queries.fingerprint}
        inputs["ranker"] = ranker_fingerprint(ranker)
        settings = {**semantic(config), "direction": direction}
        stage = StageDirectory.open(output, STAGE, config=settings, inputs=inputs, overwrite=config.overwrite)
        manifest = stage.done or rank_all(stage, config, store, queries, ranker, encoder)
        print(describe_ranker(source, ranker))
    print(summarise_ranking(manifest, output))
    if config.page:
        # Templates and pictures are loaded only where a page is wanted.
        from xmrank.rank.results_page import write_page

        write_page(config, manifest, output)
    return manifest


def describe_ranker(source: str, ranker: Path) -> str:
    """One line: which ranker ranks, and how it did where that is known."""
    about = read_about(ranker)
    line = f"rank: {about['ranker']} trained with {about['loss']}, seed {about['seed']}, from {source}"
    gain = read_registered_tags(source).get(GAIN) if source.startswith(MODEL_URI) else None
    return f"{line}; test {gain}" if gain else line


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


def summarise_ranking(manifest: Manifest, output: Path) -> str:
    """One line: how many queries were ranked, how fast, and where the results are."""
    counts, settings = manifest.counts, manifest.settings
    items = SIDES[settings["direction"]][1]
    left = f" ({len(manifest.left_out)} could not be read)" if manifest.left_out else ""
    steps = ", ".join(f"{name} {settings['milliseconds_per_query'][name]:g}" for name in STEPS)
    return (
        f"rank: {counts['queries']} queries{left}, the first stage's {counts['top_n']} of {counts['gallery']} {items} "
        f"re-ranked in {settings['seconds']:g} s (milliseconds for each query: {steps}) in {output / RESULTS}"
    )

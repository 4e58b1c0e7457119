"""The ranking stage: new queries over a gallery, by the first stage and a trained ranker."""

import tempfile
import time
from pathlib import Path
from typing import Any

from xmrank.config import Direction, RankConfig, semantic
from xmrank.embed.store import EmbeddingStore, encoder_name
from xmrank.protocols.table_parts import join_tables
from xmrank.rank.batches import EMBEDDINGS, RESULTS_SCHEMA, QueryBatch, RankingJob, gallery_rows, read_report
from xmrank.rank.queries import ASKS, QuerySet, read_queries
from xmrank.rank.ray import rank_batches
from xmrank.register.stage import ALIAS, MODEL_URI, copy_ranker, fetch_ranker, fingerprint
from xmrank.runtime.directory import Manifest, StageDirectory
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.files import sha256_file, write_array
from xmrank.runtime.paths import resolve
from xmrank.runtime.progress import Progress
from xmrank.train.checkpoint import read_about

STAGE = "rank"
RESULTS = "results.parquet"
BATCH = 256
"""Queries of one task; what an interrupted run loses at most, for each worker."""
ENCODED = 64
"""Queries to encode at once where the gallery says nothing."""
STEPS = ("embed", "search", "rank")
SIDES: dict[Direction, tuple[str, str]] = {"i2t": ("images", "captions"), "t2i": ("captions", "images")}


def rank(config: RankConfig) -> Manifest:
    """Rank the gallery for every query; what an interrupted run finished is kept.

    Raises:
        ConfigError: flags that do not fit each other, the queries or the gallery.
        DataError: no queries, no such ranker, or one that was trained on embeddings of another encoder.
    """
    if config.queries is None:
        raise ConfigError("--queries: expected a text file, a folder of images or a parquet file")
    store = EmbeddingStore.open(resolve(config.embeddings))
    output = resolve(config.output)
    with tempfile.TemporaryDirectory() as folder:
        asked = config.direction or direction_of_ranker(config)
        queries = read_queries(resolve(config.queries), config.column, asked)
        direction = direction_of(queries, asked)
        where = config.ranker or f"{MODEL_URI}xmrank-{direction}@{ALIAS}"
        ranker = fetch_ranker(where, direction, Path(folder))
        check(config, store, read_about(ranker), queries, direction, where)
        encoder = encoder_of(store, config) if queries.kind != "embedding" else {}
        stage = StageDirectory.open(
            output,
            STAGE,
            config={**semantic(config), "direction": direction},
            inputs={"embeddings": store.fingerprint, "queries": queries.fingerprint, "ranker": fingerprint(ranker)},
            overwrite=config.overwrite,
        )
        manifest = stage.done or rank_all(stage, config, store, queries, direction, ranker, encoder)
    print(summary(manifest, output))
    return manifest


def direction_of_ranker(config: RankConfig) -> Direction | None:
    """The direction of ``--ranker`` when it is a ranker's folder."""
    if config.ranker is None or config.ranker.startswith(MODEL_URI):
        return None
    directory = resolve(config.ranker)
    return read_about(directory)["direction"] if (directory / "ranker.json").is_file() else None


def direction_of(queries: QuerySet, asked: Direction | None) -> Direction:
    """What asks for what.

    Raises:
        ConfigError: embeddings, which do not say it, or queries that are something else than is asked.
    """
    own = ASKS.get(queries.kind, asked)
    if own is None:
        raise ConfigError("--direction: the queries are embeddings; expected i2t (of images) or t2i (of captions)")
    if asked and own != asked:
        raise ConfigError(f"--direction: the queries are {SIDES[own][0]}, the ranker's or the flag's is {asked}")
    return own


def check(
    config: RankConfig,
    store: EmbeddingStore,
    about: dict[str, Any],
    queries: QuerySet,
    direction: Direction,
    where: str,
) -> None:
    """Refuse what does not belong together."""
    if about["direction"] != direction:
        raise ConfigError(f"--ranker {where}: its direction is {about['direction']}, the queries ask {direction}")
    check_encoder(store, about, where)
    if config.split is not None and config.split not in store.splits():
        raise ConfigError(f"--split {config.split}: the gallery's splits are {', '.join(store.splits())}")
    size = len(gallery_rows(store, direction, config.split))
    if config.top_n > size:
        raise ConfigError(f"--top-n {config.top_n}: the gallery has {size} {SIDES[direction][1]}")
    if queries.embeddings is not None and queries.embeddings.shape[1] != store.dimensions:
        found = queries.embeddings.shape[1]
        raise DataError(f"{config.queries}: embeddings of {found} dimensions, the gallery's have {store.dimensions}")


def check_encoder(store: EmbeddingStore, about: dict[str, Any], where: str) -> None:
    """Refuse a ranker that learned from embeddings of another encoder than the gallery's.

    Imported embeddings do not say which weights made them: of these only name and dimensions can be compared.
    """
    own, theirs = store.encoder, about.get("encoder") or {}
    same = own["name"] == theirs.get("name") and own.get("weights_hash") == theirs.get("weights_hash")
    if not same or about["dimensions"] != store.dimensions:
        raise DataError(
            f"--ranker {where}: trained on embeddings of {encoder_name(theirs)}, the gallery {store.directory} has "
            f"those of {encoder_name(own)}"
        )


def encoder_of(store: EmbeddingStore, config: RankConfig) -> dict[str, Any]:
    """Arguments that load the gallery's encoder.

    Raises:
        ConfigError: it is not known, or its checkpoint is not given.
        DataError: another checkpoint than the gallery's.
    """
    encoder = store.encoder
    if encoder.get("weights_hash") is None:
        raise ConfigError(
            "--queries: the gallery's embeddings were imported, their encoder is not known; give the queries' "
            "embeddings in a parquet file"
        )
    pretrained = encoder["pretrained"]
    if pretrained and pretrained.startswith("sha256:"):
        if config.pretrained is None:
            raise ConfigError(
                f"--pretrained: the gallery was embedded with a checkpoint of {encoder['name']}; its path"
            )
        path = resolve(config.pretrained)
        if not path.is_file():
            raise DataError(f"{path}: no such file (--pretrained)")
        if f"sha256:{sha256_file(path)}" != pretrained:
            raise DataError(f"{path}: not the checkpoint that the gallery was embedded with (--pretrained)")
        pretrained = str(path)
    return {
        "model": encoder["name"],
        "pretrained": pretrained,
        "init_seed": encoder.get("init_seed"),
        "precision": encoder.get("precision", "fp32"),
    }


def rank_all(
    stage: StageDirectory,
    config: RankConfig,
    store: EmbeddingStore,
    queries: QuerySet,
    direction: Direction,
    ranker: Path,
    encoder: dict[str, Any],
) -> Manifest:
    """Rank the batches that are not done, join the parts and finish the stage."""
    work = RankingJob(
        embeddings=store.directory,
        split=config.split,
        direction=direction,
        ranker=copy_ranker(ranker, stage.work / "ranker"),
        kind=queries.kind,
        encoder=encoder,
        weights_hash=store.encoder.get("weights_hash"),
        batch_size=batch_size_of(store),
        top_n=config.top_n,
        folder=stage.work,
    )
    if queries.embeddings is not None:
        write_array(work.folder / EMBEDDINGS, queries.embeddings)
    batches = plan(queries)
    left = [batch for batch in batches if not batch.report(work.folder).exists()]
    done = len(queries) - sum(len(batch.ids) for batch in left)
    started = time.perf_counter()
    with Progress("rank", len(queries), done) as progress:
        for result in rank_batches(left, work, config.workers) if left else ():
            progress.advance(int(result["queries"]))
    return put_together(stage, work, batches, queries, time.perf_counter() - started)


def batch_size_of(store: EmbeddingStore) -> int:
    """Queries to encode at once: what the gallery was encoded with, as far as it is known and no more than a batch."""
    recorded = store.manifest.settings.get("batch_size") or store.manifest.config.get("batch_size")
    return min(int(recorded or ENCODED), BATCH)


def plan(queries: QuerySet) -> list[QueryBatch]:
    """The queries in batches."""
    parts = (slice(start, start + BATCH) for start in range(0, len(queries), BATCH))
    return [QueryBatch(p.start, queries.ids[p], queries.shown[p], queries.items[p]) for p in parts]


def put_together(
    stage: StageDirectory, work: RankingJob, batches: list[QueryBatch], queries: QuerySet, elapsed: float
) -> Manifest:
    """Join the parts, and finish with what was left out and how long the steps took.

    Raises:
        DataError: not one query could be read.
    """
    reports = [read_report(batch, work.folder) for batch in batches]
    broken = {name: reason for report in reports for name, reason in report["broken"].items()}
    ranked = len(queries) - len(broken)
    if not ranked:
        name, reason = next(iter(broken.items()))
        raise DataError(f"--queries: none of {len(queries)} could be read; the first, {name}: {reason}")
    join_tables(stage.directory / RESULTS, [batch.part(work.folder) for batch in batches], RESULTS_SCHEMA)
    milliseconds = {s: round(1000 * sum(r["seconds"][s] for r in reports) / len(queries), 3) for s in STEPS}
    gallery = len(gallery_rows(EmbeddingStore.open(work.embeddings), work.direction, work.split))
    return stage.finish(
        counts={"queries": ranked, "gallery": gallery, "top_n": work.top_n, "rows": ranked * work.top_n},
        left_out=[{"query_id": name, "reason": reason} for name, reason in broken.items()],
        settings={
            "direction": work.direction,
            "ranker": {name: read_about(work.ranker)[name] for name in ("ranker", "loss", "seed")},
            "milliseconds_per_query": milliseconds,
            "seconds": round(elapsed, 2),
        },
    )


def summary(manifest: Manifest, output: Path) -> str:
    """What was done, how fast, and where it is."""
    counts, settings = manifest.counts, manifest.settings
    found = SIDES[settings["direction"]][1]
    left = f" ({len(manifest.left_out)} could not be read)" if manifest.left_out else ""
    steps = ", ".join(f"{name} {settings['milliseconds_per_query'][name]:g}" for name in STEPS)
    return (
        f"rank: {counts['queries']} queries{left}, the first stage's {counts['top_n']} of {counts['gallery']} {found} "
        f"re-ranked in {settings['seconds']:g} s (milliseconds a query: {steps}) in {output / RESULTS}"
    )

"""Rankings measured by more judgements than one caption's own image: qrels files, and class labels of the images."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xmrank.config import QrelsConfig, semantic
from xmrank.embed.store import EmbeddingStore
from xmrank.metrics import list_metrics, metrics_at_r, pmrp
from xmrank.protocols.query_tables import KEYS, METRICS_SCHEMA, make_metrics_table, summarise_metrics
from xmrank.protocols.table_parts import side_ids
from xmrank.protocols.trec_reading import Qrels, read_qrels
from xmrank.runtime.directory import MANIFEST, Manifest, StageDirectory, read_manifest
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import sha256_file, write_json, write_table
from xmrank.runtime.paths import resolve

STAGE = "qrels"
MEASURED = ("evaluate", "baselines")


@dataclass(frozen=True)
class GalleryRankings:
    """One method's rankings of one protocol.

    Attributes:
        key: what its rows of the table begin with.
        queries: query ids.
        items: ranked item ids of each query, the best first.
        scores: likewise.
    """

    key: dict[str, Any]
    queries: list[str]
    items: list[list[str]]
    scores: list[np.ndarray]


def evaluate_qrels(config: QrelsConfig) -> Manifest:
    """Measure all rankings of galleries in an evaluation's or the baselines' directory.

    Raises:
        DataError: inputs that are not finished or do not belong together, a qrels file without a judgement of these
            queries, images without labels, or rankings that are too short to judge.
    """
    store, results = EmbeddingStore.open(resolve(config.embeddings)), resolve(config.results)
    made = read_manifest(results, stage_of(results))
    if made.inputs["embeddings"] != store.fingerprint:
        raise DataError(f"{results}: ranks other embeddings than {store.directory}")
    qrels = read_qrels(resolve(config.qrels), flag="--qrels") if config.qrels else {}
    inputs = {"results": made.fingerprint} | ({"qrels": sha256_file(resolve(config.qrels))} if config.qrels else {})
    output = resolve(config.output)
    stage = StageDirectory.open(output, STAGE, config=semantic(config), inputs=inputs, overwrite=config.overwrite)
    manifest = stage.done or evaluate_rankings(stage, config, store, results, qrels)
    for row in json.loads((output / "summary.json").read_text())["rows"]:
        seed = "" if row["seed"] < 0 else f" seed {row['seed']}"
        if row["mean"] is not None:
            place = f"{row['protocol']} {row['direction']} {row['method']}{seed}"
            print(f"{place}: {row['metric']} {100 * row['mean']:.1f} % of {row['queries']} queries")
    print(f"qrels: {manifest.counts['methods']} rankings in {output}")
    return manifest


def stage_of(results: Path) -> str:
    """Which of the stages made a directory.

    Raises:
        DataError: none of them.
    """
    try:
        found = str(json.loads((results / MANIFEST).read_text())["stage"])
    except (OSError, ValueError, KeyError, TypeError):
        found = ""
    if found not in MEASURED:
        raise DataError(f"{results}: expected a finished output of {' or '.join(MEASURED)} (--results)")
    return found


def evaluate_rankings(
    stage: StageDirectory, config: QrelsConfig, store: EmbeddingStore, results: Path, qrels: Qrels
) -> Manifest:
    """Judge every method and finish the stage."""
    tables, rows = [], []
    judgements = {q: {i: g for i, g in items.items() if g >= config.least_grade} for q, items in qrels.items()}
    for ranked in rankings_of(results / "rankings.parquet"):
        metrics: dict[str, np.ndarray] = {}
        positives = np.zeros(len(ranked.queries), np.int64)
        if config.qrels:
            metrics |= metrics_of_qrels(ranked, judgements)
            positives = np.array([len(judgements.get(query, {})) for query in ranked.queries])
        if config.plausible:
            metrics["pmrp"] = pmrp_of_labels(ranked, store)
        tables.append(make_metrics_table(ranked.key, ranked.queries, metrics, positives))
        rows += summarise_metrics(ranked.key, metrics)
    if config.qrels and not any(row["queries"] for row in rows if row["metric"] == "map@r"):
        raise DataError(f"{resolve(config.qrels)}: judges none of the ranked queries (--qrels)")
    write_table(stage.directory / "metrics.parquet", pa.concat_tables(tables).unify_dictionaries().cast(METRICS_SCHEMA))
    write_json(stage.directory / "summary.json", {"rows": rows})
    return stage.finish(counts={"methods": len(tables), "judged_queries": len(qrels)})


def rankings_of(path: Path) -> Iterator[GalleryRankings]:
    """Every method's rankings of every gallery, by key; candidate lists are left out: they are not of a data set."""
    table = pq.read_table(path, filters=[("protocol", "!=", "lists")]).to_pandas()
    table = table.astype({name: str for name in (*KEYS, "query_id", "candidate_id") if name != "seed"})
    for values, part in table.groupby(list(KEYS), sort=True):
        by_query = part.sort_values(["query_id", "rank"]).groupby("query_id", sort=True)
        yield GalleryRankings(
            dict(zip(KEYS, values, strict=True)) | {"seed": int(part["seed"].iloc[0])},
            [str(query) for query in by_query.groups],
            [group.tolist() for _, group in by_query["candidate_id"]],
            [group.to_numpy(np.float64) for _, group in by_query["score"]],
        )


def metrics_of_qrels(ranked: GalleryRankings, qrels: Qrels) -> dict[str, np.ndarray]:
    """hit@k, recall@k, MRR and NDCG@10 by grade, mAP@R and R-precision of every query; NaN where none is judged.

    Judged items that are not ranked stand behind all that are.
    """
    grades = [qrels.get(query, {}) for query in ranked.queries]
    missed = [[item for item in of if item not in set(items)] for of, items in zip(grades, ranked.items, strict=True)]
    refuse_short(ranked, np.array([len(of) for of in grades]))
    width = max(len(items) + len(more) for items, more in zip(ranked.items, missed, strict=True))
    scores, labels = np.full((len(grades), width), -np.inf), np.zeros((len(grades), width))
    mask = np.zeros(scores.shape, bool)
    for row, (of, items, more) in enumerate(zip(grades, ranked.items, missed, strict=True)):
        every = [*items, *more]
        scores[row, : len(items)] = ranked.scores[row]
        labels[row, : len(every)] = [of.get(item, 0.0) for item in every]
        mask[row, : len(every)] = True
    totals = (labels > 0).sum(1)
    return list_metrics(scores, labels, mask=mask) | metrics_at_r(scores, labels > 0, totals=totals)


def pmrp_of_labels(ranked: GalleryRankings, store: EmbeddingStore) -> np.ndarray:
    """PMRP of every query by the class labels of the images, over the gallery of all items that anyone ranked.

    Raises:
        DataError: the images have no labels, or a query has more plausible matches than items that were ranked.
    """
    asking, found = side_ids(store, ranked.key["direction"])
    labels = label_table(store)
    of_caption = labels[store.image_of_caption]
    sides = (labels, of_caption) if ranked.key["direction"] == "i2t" else (of_caption, labels)
    gallery = rows_of_split(store, ranked.key)
    place = {name: number for number, name in enumerate(found.take(gallery).to_pylist())}
    scores = np.full((len(ranked.queries), len(gallery)), -np.inf)
    for row, (items, values) in enumerate(zip(ranked.items, ranked.scores, strict=True)):
        scores[row, [place[item] for item in items]] = values
    number = {name: row for row, name in enumerate(asking.to_pylist())}
    queries = sides[0][[number[query] for query in ranked.queries]]
    differing = (queries[:, None, :] != sides[1][gallery][None]).sum(2)
    refuse_short(ranked, (differing <= 2).sum(1))
    return pmrp(scores, queries, sides[1][gallery])


def rows_of_split(store: EmbeddingStore, key: dict[str, Any]) -> np.ndarray:
    """The rows of the gallery's side in the split that is reported."""
    return store.caption_rows(key["split"]) if key["direction"] == "i2t" else store.image_rows(key["split"])


def label_table(store: EmbeddingStore) -> np.ndarray:
    """Which class labels each image has, bool [images, classes].

    Raises:
        DataError: none has any.
    """
    names = store.images["labels"].to_pylist() if "labels" in store.images.column_names else []
    classes = sorted({label for labels in names for label in labels or ()})
    if not classes:
        raise DataError(f"{store.directory}: its images have no labels (--plausible)")
    return np.array([[label in (labels or ()) for label in classes] for labels in names])


def refuse_short(ranked: GalleryRankings, positives: np.ndarray) -> None:
    """Refuse rankings that end before the R-th place of a query.

    Raises:
        DataError: names the method, and what its evaluation would need.
    """
    lengths = np.array([len(items) for items in ranked.items])
    if (positives > lengths).any():
        worst = int(np.argmax(positives - lengths))
        raise DataError(
            f"{ranked.key['method']} {ranked.key['direction']} {ranked.key['protocol']}: query {ranked.queries[worst]} "
            f"has {positives[worst]} positives, its ranking {lengths[worst]} items; evaluate again with --top-n "
            f"{int(positives.max())} or more"
        )

"""The qrels stage: rankings measured by relevance judgements beyond an image's own captions.

The judgements are a qrels file, or the class labels of the images.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from xmrank.config import QrelsConfig, semantic
from xmrank.embed.store import EmbeddingStore
from xmrank.metrics import list_metrics, metrics_at_r, pmrp
from xmrank.protocols.query_tables import KEYS, METRICS_SCHEMA, make_metrics_table, summarise_metrics
from xmrank.protocols.table_parts import side_ids
from xmrank.protocols.trec_reading import Qrels, read_qrels
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import read_parquet, sha256_file, write_json, write_table
from xmrank.runtime.manifest import MANIFEST, Manifest
from xmrank.runtime.paths import resolve
from xmrank.runtime.verification import read_outputs

STAGE = "qrels"
MEASURED = ("evaluate", "baselines")
"""Stages whose rankings can be measured."""


@dataclass(frozen=True)
class GalleryRankings:
    """One method's rankings of one gallery.

    Attributes:
        key: what its rows of the table begin with.
        queries: query ids.
        items: item ids of each query, best first.
        scores: float64, of these items.
    """

    key: dict[str, Any]
    queries: list[str]
    items: list[list[str]]
    scores: list[np.ndarray]


def evaluate_qrels(config: QrelsConfig) -> Manifest:
    """Measure all rankings of galleries in an evaluation's or the baselines' directory.

    Raises:
        DataError: inputs that are not finished or not of one run, a qrels file without a judgement of these queries,
            images without labels, or rankings that are too short.
    """
    store, results = EmbeddingStore.open(resolve(config.embeddings)), resolve(config.results)
    made = read_outputs(results, stage_of(results))
    if made.inputs["embeddings"] != store.fingerprint:
        raise DataError(f"{results}: ranks other embeddings than {store.directory}")
    # Before the output is opened, so that a bad file leaves nothing behind.
    qrels = read_qrels(resolve(config.qrels), flag="--qrels") if config.qrels else {}
    inputs = {"results": made.fingerprint} | ({"qrels": sha256_file(resolve(config.qrels))} if config.qrels else {})
    output = resolve(config.output)
    stage = StageDirectory.open(output, STAGE, config=semantic(config), inputs=inputs, overwrite=config.overwrite)
    manifest = stage.done or evaluate_rankings(stage, config, store, results, qrels)
    # Printed also when the output was there already.
    for row in json.loads((output / "summary.json").read_text())["rows"]:
        seed = "" if row["seed"] < 0 else f" seed {row['seed']}"
        if row["mean"] is not None:
            setting = f"{row['protocol']} {row['direction']} {row['method']}{seed}"
            print(f"{setting}: {row['metric']} {100 * row['mean']:.1f} % of {row['queries']} queries")
    print(f"qrels: {manifest.counts['methods']} rankings in {output}")
    return manifest


def stage_of(results: Path) -> str:
    """The stage that made a directory, one of ``MEASURED``.

    Raises:
        DataError: another one, or none.
    """
    try:
        stage = str(json.loads((results / MANIFEST).read_text())["stage"])
    except (OSError, ValueError, KeyError, TypeError):
        stage = ""
    if stage not in MEASURED:
        raise DataError(f"{results}: expected a finished output of {' or '.join(MEASURED)} (--results)")
    return stage


def evaluate_rankings(
    stage: StageDirectory, config: QrelsConfig, store: EmbeddingStore, results: Path, qrels: Qrels
) -> Manifest:
    """Measure every method and finish the stage."""
    tables, rows = [], []
    judgements: Qrels = {}
    for query, grades in qrels.items():
        judgements[query] = {item: grade for item, grade in grades.items() if grade >= config.least_grade}
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
    # Ids of another data set match nothing: every mean would be over no query.
    if config.qrels and not any(row["queries"] for row in rows if row["metric"] == "map@r"):
        raise DataError(f"{resolve(config.qrels)}: has no judgement of the ranked queries (--qrels)")
    write_table(stage.directory / "metrics.parquet", pa.concat_tables(tables).unify_dictionaries().cast(METRICS_SCHEMA))
    write_json(stage.directory / "summary.json", {"rows": rows})
    return stage.finish(counts={"methods": len(tables), "queries_with_qrels": len(qrels)})


def rankings_of(path: Path) -> Iterator[GalleryRankings]:
    """Every method's rankings of every gallery, by key.

    Candidate lists are left out: their items were chosen by this program, so judgements of others do not fit them.
    """
    table = read_parquet(path, filters=[("protocol", "!=", "lists")]).to_pandas()
    # Categories would make groups of combinations that do not occur.
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
    """hit@k, recall@k, MRR and NDCG@10 by grade, mAP@R and R-precision of every query, float64 [queries].

    They are NaN for a query without a relevant item. Relevant items that were not retrieved are tied at the end of the
    ranking.
    """
    grades = [qrels.get(query, {}) for query in ranked.queries]
    refuse_short(ranked, np.array([len(relevant) for relevant in grades]))
    # The retrieved items of each query, then its relevant items that were not retrieved.
    listed = []
    for relevant, items in zip(grades, ranked.items, strict=True):
        retrieved = set(items)
        listed.append([*items, *(item for item in relevant if item not in retrieved)])
    width = max(len(items) for items in listed)
    scores, labels = np.full((len(grades), width), -np.inf), np.zeros((len(grades), width))
    mask = np.zeros(scores.shape, bool)
    for row, (relevant, items) in enumerate(zip(grades, listed, strict=True)):
        scores[row, : len(ranked.items[row])] = ranked.scores[row]
        labels[row, : len(items)] = [relevant.get(item, 0.0) for item in items]
        mask[row, : len(items)] = True
    totals = (labels > 0).sum(1)
    return list_metrics(scores, labels, mask=mask) | metrics_at_r(scores, labels > 0, totals=totals)


def pmrp_of_labels(ranked: GalleryRankings, store: EmbeddingStore) -> np.ndarray:
    """PMRP of every query by the class labels of the images, over the gallery of the reported split.

    Raises:
        DataError: the images have no labels, or a query has more plausible matches than retrieved items.
    """
    query_ids, item_ids = side_ids(store, ranked.key["direction"])
    labels = label_table(store)
    of_caption = labels[store.image_of_caption]
    sides = (labels, of_caption) if ranked.key["direction"] == "i2t" else (of_caption, labels)
    gallery = rows_of_split(store, ranked.key)
    column_of = {name: column for column, name in enumerate(item_ids.take(gallery).to_pylist())}
    # Items that were not retrieved are at the end, tied.
    scores = np.full((len(ranked.queries), len(gallery)), -np.inf)
    for row, (items, values) in enumerate(zip(ranked.items, ranked.scores, strict=True)):
        scores[row, [column_of[item] for item in items]] = values
    row_of = {name: row for row, name in enumerate(query_ids.to_pylist())}
    queries = sides[0][[row_of[query] for query in ranked.queries]]
    # Images whose labels differ in at most two classes are plausible matches.
    differing = (queries[:, None, :] != sides[1][gallery][None]).sum(2)
    refuse_short(ranked, (differing <= 2).sum(1))
    return pmrp(scores, queries, sides[1][gallery])


def rows_of_split(store: EmbeddingStore, key: dict[str, Any]) -> np.ndarray:
    """The rows of the gallery side in the reported split."""
    return store.caption_rows(key["split"]) if key["direction"] == "i2t" else store.image_rows(key["split"])


def label_table(store: EmbeddingStore) -> np.ndarray:
    """The class labels of the images, bool [images, classes].

    Raises:
        DataError: no image has a label.
    """
    names = store.images["labels"].to_pylist() if "labels" in store.images.column_names else []
    # An image without labels may have None in place of a list.
    names = [labels or () for labels in names]
    classes = sorted({label for labels in names for label in labels})
    if not classes:
        raise DataError(f"{store.directory}: its images have no labels (--plausible)")
    return np.array([[label in labels for label in classes] for labels in names])


def refuse_short(ranked: GalleryRankings, positives: np.ndarray) -> None:
    """Refuse rankings that are shorter than R, the number of a query's positives.

    Raises:
        DataError: names the method, and the --top-n that its evaluation needs.
    """
    lengths = np.array([len(items) for items in ranked.items])
    if (positives > lengths).any():
        worst = int(np.argmax(positives - lengths))
        raise DataError(
            f"{ranked.key['method']} {ranked.key['direction']} {ranked.key['protocol']}: query {ranked.queries[worst]} "
            f"has {positives[worst]} positives, its ranking {lengths[worst]} items; evaluate again with --top-n "
            f"{int(positives.max())} or more"
        )

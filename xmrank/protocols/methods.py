"""One method on every protocol: its per-query metrics, its rankings, their TREC files, how long a query takes."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from xmrank.baselines.baseline_features import BaselineFeatures, products, projected
from xmrank.baselines.registry import BASELINES
from xmrank.baselines.towers import load_towers
from xmrank.config import BaselinesConfig, Direction
from xmrank.config.evaluate import TrecFiles
from xmrank.embed.store import EmbeddingStore
from xmrank.evaluate.scoring import score_lists, seconds_alone
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.mine.stage import lists_path
from xmrank.protocols.galleries import GalleryProtocol, Protocol, galleries_of, reported_lists, tops_of, whole_gallery
from xmrank.protocols.query_tables import metrics_table, rankings_table, side_ids, summarise
from xmrank.protocols.recall_at_k import curve_of
from xmrank.protocols.trec import query_names, trec_path, write_qrels, write_run
from xmrank.runtime.files import write_json, write_table
from xmrank.train.checkpoint import load_ranker

FIRST_STAGE = "cosine"
ORACLE = "oracle"
"""The best that any re-ranking of a top N could be: its relevant items first."""
BASELINE = "baseline"
"""What stands for the ranker of a baseline."""
PARTS = ("metrics", "rankings", "timing", "curves", "summary")
"""Of a task; the last is written last."""


@dataclass(frozen=True)
class EvaluationTask:
    """The evaluation of one method in one direction: a trained ranker, a fitted baseline, or the first stage.

    Attributes:
        name: of its part files; a ranker's is its trial's name.
        ranker: the ranker's folder; None for the others.
        work: the folder of its parts.
        top_n, galleries, trec: as configured.
        trec_folder: of the TREC files of all tasks.
        baseline: the baseline's folder; None for the others.
        features: names the features that baselines project.
    """

    name: str
    direction: Direction
    embeddings: Path
    lists: Path
    ranker: Path | None
    work: Path
    top_n: tuple[int, ...]
    galleries: tuple[str, ...]
    trec: TrecFiles
    trec_folder: Path
    baseline: Path | None = None
    features: BaselinesConfig | None = None

    def part(self, kind: str) -> Path:
        """A part file, of one of ``PARTS``."""
        return self.work / f"{self.name}.{kind}"


@dataclass(frozen=True)
class MethodResult:
    """A method's figures on one protocol.

    Attributes:
        key: what its rows of the tables begin with.
        protocol: the lists that it ranked.
        metrics: of each query.
        scores: flat as the protocol's lists; None where no ranking is kept.
        timing: of one query, in milliseconds; empty where nothing was computed.
    """

    key: dict[str, Any]
    protocol: Protocol
    metrics: dict[str, np.ndarray]
    scores: np.ndarray | None
    timing: dict[str, float]


@dataclass(frozen=True)
class SearchedGallery:
    """A gallery, the first stage's figures on it, and its tops by ascending N."""

    gallery: GalleryProtocol
    first: dict[str, np.ndarray]
    tops: list[Protocol]


@dataclass(frozen=True)
class SharedProtocols:
    """What all methods of a direction share in one process."""

    store: EmbeddingStore
    lists: Protocol
    searched: list[SearchedGallery]


def evaluate_one(task: EvaluationTask) -> None:
    """Evaluate one method and write its parts."""
    torch.set_num_threads(1)  # as in training: the same scores wherever it runs
    shared = prepared(task.embeddings, task.lists, task.direction, task.top_n, task.galleries)
    key = {"direction": task.direction, "split": reported_split(task.lists)}
    if task.baseline is not None:
        if task.trec != "none":
            write_relevant(task, shared)
        measured = projections(key, shared, task)
    elif task.ranker is None:
        if task.trec != "none":
            write_relevant(task, shared)
        measured = first_stage(key, shared)
    else:
        measured = re_ranked(key, shared, task)
    write_parts(task, shared.store, measured)


@lru_cache(maxsize=2)
def prepared(
    embeddings: Path, lists: Path, direction: Direction, top_n: Sequence[int], galleries: Sequence[str]
) -> SharedProtocols:
    """Open the store and make the protocols of one direction."""
    store = EmbeddingStore.open(embeddings)
    mined = reported_lists(CandidateLists.read(lists_path(lists, direction, "test")), direction)
    found = galleries_of(store, reported_images(lists), direction, galleries)
    searched = [SearchedGallery(g, whole_gallery(store, g), tops_of(store, g, top_n)) for g in found]
    return SharedProtocols(store, mined, searched)


def reported_split(lists: Path) -> str:
    """The name of the split that is reported."""
    return str(json.loads((lists / "splits.json").read_text())["test"]["split"])


def reported_images(lists: Path) -> np.ndarray:
    """The rows of the images that are reported, ascending."""
    return np.array(json.loads((lists / "splits.json").read_text())["test"]["images"], np.int64)


def first_stage(key: dict[str, Any], shared: SharedProtocols) -> Iterator[MethodResult]:
    """The first stage on the lists and on the whole galleries, and the oracle on their tops."""
    cosine = {**key, "method": FIRST_STAGE, "loss": "", "ranker": "", "seed": -1}
    lists = shared.lists
    scores = lists.lists.similarity
    yield MethodResult({**cosine, "protocol": lists.name}, lists, lists.metrics(scores), scores, {})
    for searched in shared.searched:
        deepest = searched.tops[-1]  # no ranking of the gallery is longer
        name = searched.gallery.name
        yield MethodResult({**cosine, "protocol": name}, deepest, searched.first, deepest.lists.similarity, {})
        for top in searched.tops:
            best = top.metrics(top.lists.labels)
            yield MethodResult({**cosine, "method": ORACLE, "protocol": top.name}, top, best, None, {})


def re_ranked(key: dict[str, Any], shared: SharedProtocols, task: EvaluationTask) -> Iterator[MethodResult]:
    """A ranker on the lists and on every top."""
    assert task.ranker
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ranker, about = load_ranker(task.ranker, device)
    named = {**key, "method": about["loss"], "loss": about["loss"], "ranker": about["ranker"], "seed": about["seed"]}
    for protocol in (shared.lists, *(top for searched in shared.searched for top in searched.tops)):
        work = (ranker, protocol.lists, shared.store, task.direction, device)
        started = time.perf_counter()
        scores = score_lists(*work)
        seconds = time.perf_counter() - started
        timing = {
            "batched_ms": 1000 * seconds / max(len(protocol.lists), 1),
            "alone_ms": 1000 * seconds_alone(*work),
        }
        yield MethodResult({**named, "protocol": protocol.name}, protocol, protocol.metrics(scores), scores, timing)


def projections(key: dict[str, Any], shared: SharedProtocols, task: EvaluationTask) -> Iterator[MethodResult]:
    """A baseline on the lists and on the whole galleries, by the cosine of its projections."""
    assert task.baseline and task.features
    towers, about = load_towers(task.baseline)
    ranker = "" if about["method"] == FIRST_STAGE else BASELINE
    key = {**key, "method": about["method"], "loss": "", "ranker": ranker, "seed": about["seed"]}
    own = BASELINES[about["baseline"]].embeddings
    plain = BaselineFeatures(shared.store.image, shared.store.text, shared.store.text)
    features = plain if own else BaselineFeatures.open(task.features, shared.store)
    store = projected(towers, features, shared.store, reported_images(task.lists))
    lists = shared.lists.lists
    asking, items = np.repeat(lists.queries, lists.lengths), lists.candidates
    rows, columns = (asking, items) if task.direction == "i2t" else (items, asking)
    scores = products(store.image[rows], store.text[columns])
    yield MethodResult({**key, "protocol": shared.lists.name}, shared.lists, shared.lists.metrics(scores), scores, {})
    for searched in shared.searched:
        gallery, (top,) = searched.gallery, tops_of(store, searched.gallery, task.top_n)
        yield MethodResult(
            {**key, "protocol": gallery.name}, top, whole_gallery(store, gallery), top.lists.similarity, {}
        )


def write_parts(task: EvaluationTask, store: EmbeddingStore, measured: Iterator[MethodResult]) -> None:
    """Write a method's per-query metrics, rankings and TREC runs, and last its summary."""
    ids = side_ids(store, task.direction)
    metrics, rankings, summary, timing, curves = [], [], [], [], []
    for one in measured:
        lists = one.protocol.lists
        query_ids = ids[0].take(lists.queries).to_pylist()
        metrics.append(metrics_table(one.key, query_ids, one.metrics, one.protocol.positives))
        summary += summarise(one.key, one.metrics)
        if one.timing:
            timing.append({**one.key, "items": lists.longest, "queries": len(lists), **one.timing})
        if one.scores is not None:
            curves.append({**one.key, **curve_of(one.protocol, one.scores)})
            rankings.append(rankings_table(one.key, one.protocol, one.scores, ids))
            if task.trec != "none":
                path = trec_path(task.trec_folder / task.direction, one.key["protocol"], task.name, task.trec)
                write_run(path, query_names(ids[0], lists.queries), lists.lengths, rankings[-1])
    for kind, tables in (("metrics", metrics), ("rankings", rankings)):
        write_table(task.part(kind), pa.concat_tables(tables).unify_dictionaries())
    write_json(task.part("timing"), timing)
    write_json(task.part("curves"), curves)
    write_json(task.part("summary"), summary)


def write_relevant(task: EvaluationTask, shared: SharedProtocols) -> None:
    """Write the qrels of every protocol of a direction."""
    assert task.trec != "none"
    ids = side_ids(shared.store, task.direction)
    lists = shared.lists.lists
    owner = np.repeat(np.arange(len(lists)), lists.lengths)
    relevant = lists.labels > 0
    jobs = [(shared.lists.name, lists.queries, (owner[relevant], lists.candidates[relevant]))]
    for searched in shared.searched:
        gallery = searched.gallery
        names = (gallery.name, *(top.name for top in searched.tops))
        jobs += [(name, gallery.queries, gallery.relevant()) for name in names]
    for name, queries, pairs in jobs:
        path = trec_path(task.trec_folder / task.direction, name, "qrels", task.trec)
        write_qrels(path, query_names(ids[0], queries), pairs, ids[1])

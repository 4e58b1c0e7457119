"""Metrics of any rankings by any relevance judgements: dictionaries or TREC files, from here or from another system."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike

import numpy as np

from xmrank.metrics import KS, list_metrics, mean_over_queries
from xmrank.protocols.trec_reading import read_qrels, read_run
from xmrank.runtime.paths import as_path

Rankings = Mapping[str, Sequence[str] | Mapping[str, float]]
"""Query id → item ids, best first, or item id → score, higher is better."""
Judgements = Mapping[str, Mapping[str, float]]
"""Query id → item id → grade; an item is relevant where its grade is above 0."""


@dataclass(frozen=True)
class RunMetrics:
    """The metrics of a run.

    Attributes:
        queries: all queries of the rankings and of the qrels, in the order of the qrels.
        per_query: float64 [queries] by name (hit@1, …, recall@1, …, mrr, ndcg@10); NaN for a query without a relevant
            item, 0 for one with relevant items that was not ranked.
        means: over the queries that have a relevant item.
        counted: how many these are.
        excluded: how many queries have no relevant item.
    """

    queries: list[str]
    per_query: dict[str, np.ndarray]
    means: dict[str, float]
    counted: int
    excluded: int


def evaluate_run(
    rankings: Rankings | str | PathLike[str], qrels: Judgements | str | PathLike[str], *, ks: Sequence[int] = KS
) -> RunMetrics:
    """Measure rankings by relevance judgements.

    hit@k, recall@k, MRR and NDCG follow ``xmrank.metrics.list_metrics``: equal scores count by the mean over all their
    orders, gains are 2^grade − 1. An item that is not retrieved counts as relevant but is never in a top k.

    Args:
        rankings: query id → item ids, best first, or item id → score; or the path of a TREC run file.
        qrels: query id → item id → grade, at least 0; or the path of a TREC qrels file.
        ks: cut-offs of hit@k and recall@k; NDCG is measured at the largest.

    Raises:
        ValueError: a score that is NaN, a negative grade, an item twice in a ranking, or bad cut-offs.
        DataError: a file that is not there or of another form.

    >>> run = {"q1": ["a", "b", "c"], "q2": {"d": 0.9, "e": 0.9}, "q3": ["a"]}
    >>> qrels = {"q1": {"b": 1, "x": 1}, "q2": {"e": 1}, "q4": {"a": 1}}
    >>> metrics = evaluate_run(run, qrels, ks=(1, 5))
    >>> dict(zip(metrics.queries, metrics.per_query["hit@1"].tolist()))  # a tie, one not ranked, one without qrels
    {'q1': 0.0, 'q2': 0.5, 'q4': 0.0, 'q3': nan}
    >>> metrics.per_query["recall@5"].tolist()
    [0.5, 1.0, 0.0, nan]
    >>> metrics.means["hit@1"], metrics.counted, metrics.excluded
    (0.16666666666666666, 3, 1)
    """
    run = rankings if isinstance(rankings, Mapping) else read_run(as_path(rankings))
    graded = qrels if isinstance(qrels, Mapping) else read_qrels(as_path(qrels))
    # Queries of either side: one that was not ranked scores 0, one without judgements is counted as excluded.
    queries = list(dict.fromkeys([*graded, *run]))
    retrieved = [read_scores(query, run.get(query, {})) for query in queries]
    grades = [graded.get(query, {}) for query in queries]
    per_query = measure_queries(retrieved, grades, tuple(ks))
    means = {name: mean_over_queries(values).mean for name, values in per_query.items()}
    # The counts are the same for every metric.
    counts = mean_over_queries(per_query["mrr"])
    return RunMetrics(queries, per_query, means, counts.counted, counts.excluded)


def read_scores(query: str, ranking: Sequence[str] | Mapping[str, float]) -> dict[str, float]:
    """A ranking as item id → score.

    Raises:
        ValueError: an item that is ranked twice, or a score that is NaN.
    """
    if isinstance(ranking, Mapping):
        if any(math.isnan(score) for score in ranking.values()):
            raise ValueError(f"query {query}: a score is NaN")
        return dict(ranking)
    # An order as scores: the lower the rank, the higher the score.
    scores = {item: -float(rank) for rank, item in enumerate(ranking, start=1)}
    if len(scores) < len(ranking):
        raise ValueError(f"query {query}: an item is ranked more than once")
    return scores


def measure_queries(
    retrieved: Sequence[Mapping[str, float]], grades: Sequence[Mapping[str, float]], ks: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Per-query metrics, float64 [queries] by name.

    Args:
        retrieved: scores of the retrieved items, for each query.
        grades: grades of the items in the qrels, for each query.
        ks: cut-offs.
    """
    depth = max(ks, default=0)
    rows = [pad_query(scores, graded, depth) for scores, graded in zip(retrieved, grades, strict=True)]
    width = max((len(keys) for keys, _ in rows), default=0)
    keys, labels = np.zeros((len(rows), width)), np.zeros((len(rows), width))
    real, is_retrieved = np.zeros(keys.shape, np.bool_), np.zeros(keys.shape, np.bool_)
    for row, (own_keys, own_labels) in enumerate(rows):
        keys[row, : len(own_keys)] = own_keys
        labels[row, : len(own_keys)] = own_labels
        real[row, : len(own_keys)] = True
        is_retrieved[row, : len(retrieved[row])] = True
    # Retrieved and missed ones.
    totals = (labels > 0).sum(1)
    metrics = list_metrics(keys, labels, mask=is_retrieved, ks=ks, total_positives=totals)
    # total_positives knows no grades; with the missed items in the list, the ideal order of NDCG has them.
    ndcg = f"ndcg@{depth}"
    return {**metrics, ndcg: list_metrics(keys, labels, mask=real, ks=ks)[ndcg]}


def pad_query(scores: Mapping[str, float], graded: Mapping[str, float], depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys that sort like the scores, and grades: of the retrieved items, of ``depth`` fillers, of the missed items.

    Behind the fillers, which are not relevant, no cut-off reaches the missed items.
    """
    missed = [grade for item, grade in graded.items() if item not in scores]
    # Ranks from 0 up in place of scores, equal for equal ones, so that −1, −2, … are below all of them.
    _, ranks = np.unique(np.array(list(scores.values()), np.float64), return_inverse=True)
    below = -1.0 - np.arange(depth + len(missed))
    grades = [graded.get(item, 0.0) for item in scores]
    return np.concatenate([ranks, below]), np.array([*grades, *[0.0] * depth, *missed], np.float64)

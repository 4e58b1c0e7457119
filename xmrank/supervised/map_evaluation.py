"""A trained method on the queries of a set: by distance and by two-stage search, in both directions."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from xmrank.config import DIRECTIONS, Direction
from xmrank.supervised.labelled_set import LabelledSet
from xmrank.supervised.method_training import FittedMethod, Side, average_precisions
from xmrank.supervised.two_stage_knn import TwoStageRanking, by_distance, label_ranks, predict_labels, two_stage

NAIVE, TWO_STAGE, PREDICTED = "distance", "two_stage", "two_stage_predicted"
SIDES: dict[Direction, tuple[Side, Side]] = {"i2t": ("image", "text"), "t2i": ("text", "image")}


@dataclass(frozen=True)
class SearchResult:
    """What one search of one direction retrieved.

    Attributes:
        ranking: of all queries.
        precision: average precision of each query, float64 [queries]; NaN where nothing shares a label with it.
        reciprocal_rank: 1 / rank of a query's best true label in stage 1, float64 [queries]; NaN without a label;
            None for a search without stage 1, or where it counts clusters.
        milliseconds: time per query, all in one call.
    """

    direction: Direction
    search: str
    ranking: TwoStageRanking
    precision: np.ndarray
    reciprocal_rank: np.ndarray | None
    milliseconds: float

    @property
    def digest(self) -> str:
        """sha256 of the ranking: equal for equal orders of all items for all queries."""
        return hashlib.sha256(np.ascontiguousarray(self.ranking.order).data).hexdigest()


def measure_searches(data: LabelledSet, fitted: FittedMethod, neighbours: int) -> list[SearchResult]:
    """Every search that the method allows: no distance without a common space, no true labels for clusters.

    The rankings are made before any label of a query is looked at.
    """
    results = []
    for direction in DIRECTIONS:
        for search, (ranking, milliseconds) in rank_queries(data, fitted, neighbours, direction).items():
            precision = average_precisions(ranking, data.query.labels, data.retrieval.labels)
            reciprocal = None
            if search == TWO_STAGE:
                reciprocal = reciprocal_ranks(data, fitted, neighbours, direction)
            results.append(SearchResult(direction, search, ranking, precision, reciprocal, milliseconds))
    return results


def rank_queries(
    data: LabelledSet, fitted: FittedMethod, neighbours: int, direction: Direction
) -> dict[str, tuple[TwoStageRanking, float]]:
    """The rankings of all queries in one direction, with the milliseconds that a query took."""
    query_side, item_side = SIDES[direction]
    queries = fitted.embed(query_side, getattr(data.query, query_side))
    items = fitted.embed(item_side, getattr(data.retrieval, item_side))
    train, labels = fitted.embed(query_side, getattr(data.train, query_side)), fitted.train_labels
    made = {}
    # Features of two lengths have no distance; embeddings as they are may be such.
    if items.shape[1] == queries.shape[1]:
        made[NAIVE] = _time_search(lambda: by_distance(queries, items), len(queries))
    # Clusters are not labels of the retrieval set, so the second stage cannot be given true ones.
    if fitted.own_labels:
        true = data.retrieval.labels
        made[TWO_STAGE] = _time_search(
            lambda: two_stage(queries, train, labels, items, true, neighbours=neighbours), len(queries)
        )
    # Once for the whole retrieval set, so not part of a query's time.
    other = fitted.embed(item_side, getattr(data.train, item_side))
    guessed = predict_labels(items, other, labels, neighbours=neighbours)
    made[PREDICTED] = _time_search(
        lambda: two_stage(queries, train, labels, items, guessed, neighbours=neighbours), len(queries)
    )
    return made


def reciprocal_ranks(data: LabelledSet, fitted: FittedMethod, neighbours: int, direction: Direction) -> np.ndarray:
    """1 / rank of the best true label of each query in stage 1's order, float64 [queries]; NaN without a label."""
    side, _ = SIDES[direction]
    queries, train = (fitted.embed(side, getattr(items, side)) for items in (data.query, data.train))
    ranks = label_ranks(queries, train, fitted.train_labels, neighbours=neighbours).astype(np.float64)
    best = np.where(data.query.labels, ranks, np.inf).min(axis=1)
    return np.where(np.isfinite(best), 1 / (best + 1), np.nan)


def _time_search(search: Callable[[], TwoStageRanking], queries: int) -> tuple[TwoStageRanking, float]:
    started = time.perf_counter()
    ranking = search()
    return ranking, 1000 * (time.perf_counter() - started) / queries

"""A trained method on the queries of a set: by distance and by two-stage search, in both directions."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from xmrank.config import DIRECTIONS, Direction
from xmrank.metrics import average_precision, expected_relevance
from xmrank.supervised.hash_codes import by_hamming
from xmrank.supervised.labelled_set import LabelledSet
from xmrank.supervised.method_training import FittedMethod, Side, share_a_label
from xmrank.supervised.two_stage_knn import TwoStageRanking, by_distance, label_ranks, predict_labels, two_stage

NAIVE, TWO_STAGE, PREDICTED = "distance", "two_stage", "two_stage_predicted"
CUT = 50
"""R of mAP@R beside the mAP over all items, as in papers on hashing."""
TOP = (1, 10, 50, 100, 200, 500, 1000)
"""N of the top-N precision."""
RECALLS = tuple(step / 10 for step in range(11))
LABEL_STREAM = 0x1AB
"""Separates the choice of items whose labels are told from other draws under the same seed."""
SIDES: dict[Direction, tuple[Side, Side]] = {"i2t": ("image", "text"), "t2i": ("text", "image")}


@dataclass(frozen=True)
class SearchResult:
    """What one search of one direction retrieved.

    Attributes:
        ranking: of all queries.
        precision: average precision of each query, float64 [queries]; NaN where nothing shares a label with it.
        top_precision: AP@50 of each query, likewise.
        curves: precisions at ``TOP``, and at the recalls of ``RECALLS``, means over queries; NaN without a query.
        reciprocal_rank: 1 / rank of a query's best true label in stage 1, float64 [queries]; NaN without a label;
            None for a search without stage 1, or where it counts clusters.
        milliseconds: time per query, all in one call.
    """

    direction: Direction
    search: str
    ranking: TwoStageRanking
    precision: np.ndarray
    top_precision: np.ndarray
    curves: "PrecisionCurves"
    reciprocal_rank: np.ndarray | None
    milliseconds: float

    @property
    def digest(self) -> str:
        """sha256 of the ranking: equal for equal orders of all items for all queries."""
        return hashlib.sha256(np.ascontiguousarray(self.ranking.order).data).hexdigest()


@dataclass(frozen=True)
class PrecisionCurves:
    """Precision at the first N items and over recall, means over the queries that have a relevant item.

    Attributes:
        top: at each of ``TOP``, as far as there are so many items, float64.
        recall: the highest precision at a recall of at least each of ``RECALLS``, float64.
    """

    top: np.ndarray
    recall: np.ndarray

    @classmethod
    def of(cls, relevant: np.ndarray, tied: np.ndarray) -> "PrecisionCurves":
        """The curves of rankings, bool [queries, items]; tied items count as their expectation."""
        counted = relevant.any(axis=1)
        expected = np.cumsum(expected_relevance(relevant[counted], tied=tied[counted]), axis=1)
        ranks = np.arange(1, relevant.shape[1] + 1)
        tops = [n for n in TOP if n <= len(ranks)]
        if not counted.any():
            return cls(np.full(len(tops), np.nan), np.full(len(RECALLS), np.nan))
        precision, recall = expected / ranks, expected / expected[:, -1:]
        # From the right, so that each recall has the best precision that any higher one has too.
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        reached = [(recall >= level - 1e-9).argmax(axis=1) for level in RECALLS]
        over_recall = [np.take_along_axis(best, rows[:, None], axis=1).mean() for rows in reached]
        return cls(np.array([precision[:, n - 1].mean() for n in tops]), np.array(over_recall))


@dataclass(frozen=True)
class ExtraSearches:
    """Searches that test where two-stage search has its gain from.

    Attributes:
        shares: of the retrieval set whose labels stage 2 is told; it predicts the others.
        counts: numbers of neighbours in stage 1, with all true labels in stage 2.
        seed: chooses the items whose labels are told; fewer are a part of more.
    """

    shares: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    seed: int = 0

    def known_items(self, share: float, items: int) -> np.ndarray:
        """True for the items whose labels are told, bool [items]."""
        order = np.random.default_rng([self.seed, LABEL_STREAM]).permutation(items)
        return order < round(share * items)


def share_name(share: float) -> str:
    """Of the search that is told a share of the labels."""
    return f"{TWO_STAGE}_{100 * share:g}_percent"


def count_name(count: int) -> str:
    """Of the search with another number of neighbours."""
    return f"{TWO_STAGE}_{count}_neighbours"


def measure_searches(
    data: LabelledSet, fitted: FittedMethod, neighbours: int, extra: ExtraSearches = ExtraSearches()
) -> list[SearchResult]:
    """Every search that the method allows: no distance without a common space, no true labels for clusters.

    The rankings are made before any label of a query is looked at.
    """
    results = []
    for direction in DIRECTIONS:
        for search, (ranking, milliseconds) in rank_queries(data, fitted, neighbours, direction, extra).items():
            relevant = share_a_label(ranking, data.query.labels, data.retrieval.labels)
            precision = average_precision(relevant, tied=ranking.tied)
            top = average_precision(relevant, tied=ranking.tied, cut=CUT)
            curves = PrecisionCurves.of(relevant, ranking.tied)
            reciprocal = None
            if search == TWO_STAGE:
                reciprocal = reciprocal_ranks(data, fitted, neighbours, direction)
            results.append(SearchResult(direction, search, ranking, precision, top, curves, reciprocal, milliseconds))
    return results


def rank_queries(
    data: LabelledSet,
    fitted: FittedMethod,
    neighbours: int,
    direction: Direction,
    extra: ExtraSearches = ExtraSearches(),
) -> dict[str, tuple[TwoStageRanking, float]]:
    """The rankings of all queries in one direction, with the milliseconds that a query took."""
    query_side, item_side = SIDES[direction]
    queries = fitted.embed(query_side, getattr(data.query, query_side))
    items = fitted.embed(item_side, getattr(data.retrieval, item_side))
    train, labels = fitted.embed(query_side, getattr(data.train, query_side)), fitted.train_labels
    made = {}
    # Features of two lengths have no distance; embeddings as they are may be such.
    if items.shape[1] == queries.shape[1]:
        rank = by_hamming if fitted.binary else by_distance
        made[NAIVE] = _time_search(lambda: rank(queries, items), len(queries))

    def search(told: np.ndarray, count: int) -> tuple[TwoStageRanking, float]:
        return _time_search(lambda: two_stage(queries, train, labels, items, told, neighbours=count), len(queries))

    # Once for the whole retrieval set, so not part of a query's time.
    other = fitted.embed(item_side, getattr(data.train, item_side))
    guessed = predict_labels(items, other, labels, neighbours=neighbours)
    # Clusters are not labels of the retrieval set, so the second stage cannot be given true ones.
    if fitted.own_labels:
        true = data.retrieval.labels
        made[TWO_STAGE] = search(true, neighbours)
        for share in extra.shares:
            known = extra.known_items(share, len(items))
            made[share_name(share)] = search(np.where(known[:, None], true, guessed), neighbours)
        for count in extra.counts:
            made[count_name(count)] = search(true, count)
    made[PREDICTED] = search(guessed, neighbours)
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

"""How long a ranker takes for a query: alone, and in a batch."""

import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from xmrank.evaluate.list_scoring import score_batch
from xmrank.rankers import Ranker
from xmrank.train.list_data import ListData

SAMPLE = 20
"""Queries that are timed one at a time."""
BATCH = 32
"""Queries that are timed together."""
REPEATS = 3
"""How often a batch is timed; the median counts."""


def time_queries(ranker: Ranker, data: ListData) -> dict[str, float]:
    """Milliseconds a query of some lists: ``alone_ms``, the median, and ``batched_ms``, of a batch; NaN without lists.

    Reading of the candidates, the query's refinement, its tokens and the ranker count.

    Args:
        ranker: in evaluation mode.
        data: the lists. What is done once for a gallery is done before, and does not count: its tokens are projected,
            and its embeddings refined (``data.refined``).
    """
    return {"batched_ms": 1000 * time_batch(ranker, data), "alone_ms": 1000 * time_single_queries(ranker, data)}


def time_single_queries(ranker: Ranker, data: ListData) -> float:
    """The median time of one query by itself, in seconds, over up to ``SAMPLE`` of them; NaN where there are none."""
    numbers = spread_over(data, SAMPLE)
    # The first query runs twice, and its first run is not counted: it warms up.
    seconds = [measure(partial(score_batch, ranker, data, np.array([n]))) for n in [*numbers[:1], *numbers]]
    return statistics.median(seconds[1:]) if seconds else float("nan")


def time_batch(ranker: Ranker, data: ListData) -> float:
    """Seconds a query where up to ``BATCH`` lists are one batch: the median of several runs, after one that warms up.

    NaN where there are no lists.
    """
    numbers = spread_over(data, BATCH)
    if not len(numbers):
        return float("nan")
    seconds = [measure(partial(score_batch, ranker, data, numbers)) for _ in range(1 + REPEATS)]
    return statistics.median(seconds[1:]) / len(numbers)


def spread_over(data: ListData, count: int) -> np.ndarray:
    """The numbers of up to so many lists from the whole range, because lists may differ in length."""
    lists = len(data.lists)
    return np.unique(np.linspace(0, max(lists - 1, 0), min(count, lists)).astype(np.int64))


def measure(function: Callable[[], object]) -> float:
    """The seconds that a call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started

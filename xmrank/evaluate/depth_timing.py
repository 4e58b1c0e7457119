"""How long re-ranking takes by its depth N: for one query alone, and in a batch."""

import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xmrank.config.common import Direction
from xmrank.embed.store import EmbeddingStore
from xmrank.evaluate.scoring import open_data, score_batch, time_single_queries
from xmrank.protocols.galleries import ListProtocol, make_galleries, make_tops
from xmrank.protocols.reported import reported_images
from xmrank.rankers import Ranker
from xmrank.train.checkpoint import read_ranker
from xmrank.train.list_data import ListData
from xmrank.train.projected_tokens import project_list_data

DEPTHS = (10, 50, 100, 200)
"""The numbers of candidates; at most the gallery's size."""
QUERIES = 32
"""Queries that are timed, and the size of the batch."""
REPEATS = 3
"""How often a batch is timed; the median counts."""


@dataclass(frozen=True)
class DepthTimingTask:
    """One ranker on the full gallery of a direction.

    Attributes:
        embeddings, lists, ranker: folders.
    """

    embeddings: Path
    lists: Path
    ranker: Path
    direction: Direction


def time_depths(task: DepthTimingTask) -> list[dict[str, Any]]:
    """Milliseconds a query, one row for each depth: of one query by itself (the median), and of a batch.

    Reading of the candidates, refinement and ranker count; encoding of the query, the first stage's search and the
    projection of the gallery's tokens do not.

    Raises:
        DataError: no ranker there, or weights that do not fit its parameters.
    """
    torch.set_num_threads(1)  # as in evaluation
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ranker, about = read_ranker(task.ranker, device)
    store = EmbeddingStore.open(task.embeddings, verify=False)
    tops = make_small_tops(store, reported_images(task.lists), task.direction)
    # The candidates of the deepest top are those of all.
    data = project_list_data(ranker, open_data(ranker, tops[-1].lists, store, task.direction, device))
    rows = []
    for top in tops:
        own = replace(data, lists=top.lists)
        times = {"alone_ms": 1000 * time_single_queries(ranker, own), "batched_ms": 1000 * time_batch(ranker, own)}
        named = {"direction": task.direction, "ranker": about["ranker"], "device": device.type}
        rows.append({**named, "candidates": top.lists.longest, "queries": len(top.lists), **times})
    return rows


def make_small_tops(store: EmbeddingStore, images: np.ndarray, direction: Direction) -> list[ListProtocol]:
    """The first stage's tops of the full gallery for up to ``QUERIES`` queries, by ascending depth."""
    (gallery,) = make_galleries(store, images, direction)
    (pool,) = gallery.pools
    chosen = np.unique(np.linspace(0, len(pool.queries) - 1, QUERIES).astype(np.int64))
    return make_tops(store, replace(gallery, pools=(pool[chosen],)), DEPTHS)


def time_batch(ranker: Ranker, data: ListData) -> float:
    """Seconds a query where all lists are one batch: the median of several runs, after one that warms up."""
    numbers, seconds = np.arange(len(data.lists)), []
    for _ in range(1 + REPEATS):
        started = time.perf_counter()
        score_batch(ranker, data, numbers)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:]) / len(numbers)

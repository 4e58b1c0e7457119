"""How long re-ranking takes by its depth N: for one query alone, and in a batch."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xmrank.config.common import Direction
from xmrank.embed.store import EmbeddingStore
from xmrank.evaluate.list_scoring import make_list_data
from xmrank.evaluate.query_timing import time_queries
from xmrank.protocols.galleries import ListProtocol, make_galleries, make_tops
from xmrank.protocols.reported import reported_images
from xmrank.runtime.device import own_device
from xmrank.train.checkpoint import read_ranker

DEPTHS = (10, 50, 100, 200)
"""The numbers of candidates; at most the gallery's size."""
QUERIES = 32
"""Queries that are timed, and the size of the batch."""


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

    Reading of the candidates, the query's refinement and the ranker count; encoding of the query, the first stage's
    search, and what is done once for a gallery (refined embeddings, projected tokens) do not.

    Raises:
        DataError: no ranker there, or weights that do not fit its parameters.
    """
    torch.set_num_threads(1)  # as in evaluation
    device = own_device()
    ranker, about = read_ranker(task.ranker, device)
    store = EmbeddingStore.open(task.embeddings, verify=False)
    tops = make_small_tops(store, reported_images(task.lists), task.direction)
    # The candidates of the deepest top are those of all.
    data = make_list_data(ranker, tops[-1].lists, store, task.direction, device)
    rows = []
    for top in tops:
        times = time_queries(ranker, replace(data, lists=top.lists))
        named = {"direction": task.direction, "ranker": about["ranker"], "device": device.type}
        rows.append({**named, "candidates": top.lists.longest, "queries": len(top.lists), **times})
    return rows


def make_small_tops(store: EmbeddingStore, images: np.ndarray, direction: Direction) -> list[ListProtocol]:
    """The first stage's tops of the full gallery for up to ``QUERIES`` queries, by ascending depth."""
    (gallery,) = make_galleries(store, images, direction)
    (pool,) = gallery.pools
    chosen = np.unique(np.linspace(0, len(pool.queries) - 1, QUERIES).astype(np.int64))
    return make_tops(store, replace(gallery, pools=(pool[chosen],)), DEPTHS)

"""Scores of a trained ranker for many lists, and how long they take."""

import statistics
import time

import numpy as np
import torch

from xmrank.config import Direction
from xmrank.embed.store import EmbeddingStore
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.rankers import Ranker
from xmrank.train.list_data import ListData
from xmrank.train.trial_data import refined

BATCH = 256
SAMPLE = 50
"""Queries that are timed one at a time."""


def score_lists(
    ranker: Ranker, lists: CandidateLists, store: EmbeddingStore, direction: Direction, device: torch.device
) -> np.ndarray:
    """The ranker's score of every item of every list, flat as in ``Lists``: float32 [items]."""
    data = refined(ranker, ListData.of(lists, store, direction, device))
    numbers = np.arange(len(lists))
    parts = [
        score_batch(ranker, data, numbers[start : start + BATCH], refined=True) for start in range(0, len(lists), BATCH)
    ]
    return np.concatenate([np.empty(0, np.float32), *parts])


@torch.inference_mode()
def score_batch(ranker: Ranker, data: ListData, numbers: np.ndarray, *, refined: bool = False) -> np.ndarray:
    """The scores of the lists with these numbers, flat: float32 [items]."""
    batch = data.batch(numbers)
    scores = ranker.score(batch.query, batch.candidates, batch.similarity, mask=batch.mask, refined=refined)
    return scores[batch.mask].float().cpu().numpy()


def seconds_alone(
    ranker: Ranker, lists: CandidateLists, store: EmbeddingStore, direction: Direction, device: torch.device
) -> float:
    """The median time that one query takes by itself, in seconds, over up to ``SAMPLE`` of them; NaN without any."""
    data = ListData.of(lists, store, direction, device)
    chosen = np.unique(np.linspace(0, max(len(lists) - 1, 0), min(SAMPLE, len(lists))).astype(np.int64))
    seconds = []
    for number in [*chosen[:1], *chosen]:  # the first one twice, and once not counted: it warms up
        started = time.perf_counter()
        score_batch(ranker, data, np.array([number]))
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:]) if seconds else float("nan")

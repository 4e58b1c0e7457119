"""Scores of a trained ranker for many lists."""

import numpy as np
import torch

from xmrank.candidates import Lists
from xmrank.config import Direction
from xmrank.embedding import EmbeddingStore
from xmrank.rankers import Ranker
from xmrank.training.data import ListData

BATCH = 256


@torch.inference_mode()
def score_lists(
    ranker: Ranker, lists: Lists, store: EmbeddingStore, direction: Direction, device: torch.device
) -> np.ndarray:
    """The ranker's score of every item of every list, flat as in ``Lists``: float32 [items]."""
    data = ListData.of(lists, store, direction, device)
    parts = [np.empty(0, np.float32)]
    for start in range(0, len(lists), BATCH):
        batch = data.batch(np.arange(start, min(start + BATCH, len(lists))))
        scores = ranker.score(batch.query, batch.candidates, batch.similarity, mask=batch.mask)
        parts.append(scores[batch.mask].float().cpu().numpy())
    return np.concatenate(parts)

"""A ranker's scores of many lists."""

from dataclasses import replace

import numpy as np
import torch

from xmrank.config.common import Direction
from xmrank.embed.store import EmbeddingStore
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.rankers import Ranker
from xmrank.train.list_data import ListData
from xmrank.train.projected_tokens import project_list_data
from xmrank.train.training_data import refine_list_data

BATCH = 256
"""Lists scored at once."""


def make_list_data(
    ranker: Ranker, lists: CandidateLists, store: EmbeddingStore, direction: Direction, device: torch.device
) -> ListData:
    """The lists with what the ranker reads of the store; the tokens of their candidates are projected, each once.

    Args:
        ranker: in evaluation mode.
        lists: of the direction.
    """
    data = ListData.of(lists, store, direction, device, tokens=ranker.hyperparameters.reads_tokens)
    return project_list_data(ranker, data)


def score_lists(ranker: Ranker, data: ListData, refined: CandidateLists | None = None) -> np.ndarray:
    """The ranker's score of every item of every list, flat as in ``CandidateLists``: float32 [items].

    Args:
        ranker: in evaluation mode.
        data: as ``make_list_data`` gives it.
        refined: its lists with the refined similarity, where that is known.
    """
    # Once for all lists: a batch at a time would search the key–value memory again.
    data = refine_list_data(ranker, data) if refined is None else replace(data, lists=refined)
    numbers = np.arange(len(data.lists))
    batches = [numbers[start : start + BATCH] for start in range(0, len(numbers), BATCH)]
    return np.concatenate([np.empty(0, np.float32), *(score_batch(ranker, data, batch) for batch in batches)])


@torch.inference_mode()
def score_batch(ranker: Ranker, data: ListData, numbers: np.ndarray) -> np.ndarray:
    """The scores of the lists with these numbers, flat: float32 [items].

    Args:
        ranker: in evaluation mode.
        data: its lists have the refined similarity, or it refines that of a batch (``data.refined``).
        numbers: of the lists, int64.
    """
    batch = data.gather_batch(numbers)
    scores = ranker.score(
        batch.query, batch.candidates, batch.similarity, mask=batch.mask, refined=True, tokens=batch.tokens
    )
    return scores[batch.mask].float().cpu().numpy()

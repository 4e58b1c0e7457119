"""A ranker's scores of many lists, and the refined similarity that it starts from."""

from dataclasses import replace

import numpy as np
import torch

from xmrank.config.common import Direction
from xmrank.embed.store import EmbeddingStore
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.rankers import Ranker
from xmrank.train.list_data import SCORED_AT_ONCE, ListData
from xmrank.train.projected_tokens import project_list_data
from xmrank.train.refined_gallery import RefinedGallery


def make_list_data(
    ranker: Ranker, lists: CandidateLists, store: EmbeddingStore, direction: Direction, device: torch.device
) -> ListData:
    """The lists with what the ranker reads of the store; what belongs to a gallery is computed once, here.

    The tokens of the candidates are projected, and their embeddings refined.

    Args:
        ranker: in evaluation mode.
        lists: of the direction.
    """
    data = ListData.of(lists, store, direction, device, tokens=ranker.hyperparameters.reads_tokens)
    if ranker.refinement is not None:
        rows = np.unique(lists.candidates).astype(np.int64)
        data = replace(data, refined=RefinedGallery.of(ranker.refinement, data.gallery, rows))
    return project_list_data(ranker, data)


def score_lists(ranker: Ranker, data: ListData) -> np.ndarray:
    """The ranker's score of every item of every list, flat as in ``CandidateLists``: float32 [items].

    Args:
        ranker: in evaluation mode.
        data: as ``make_list_data`` gives it.
    """
    parts = [score_batch(ranker, data, numbers) for numbers in split_lists(data)]
    return np.concatenate([np.empty(0, np.float32), *parts])


def refine_similarity(data: ListData) -> np.ndarray:
    """The refined similarity of every item of every list, flat: float32 [items]."""
    batches = (data.gather_batch(numbers) for numbers in split_lists(data))
    parts = [batch.similarity[batch.mask].cpu().numpy() for batch in batches]
    return np.concatenate([np.empty(0, np.float32), *parts])


def split_lists(data: ListData) -> list[np.ndarray]:
    """The numbers of all lists, as many at a time as ``SCORED_AT_ONCE`` says."""
    numbers, size = np.arange(len(data.lists)), SCORED_AT_ONCE[data.device.type]
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


@torch.inference_mode()
def score_batch(ranker: Ranker, data: ListData, numbers: np.ndarray) -> np.ndarray:
    """The scores of the lists with these numbers, flat: float32 [items].

    Args:
        ranker: in evaluation mode.
        data: as ``make_list_data`` gives it.
        numbers: of the lists, int64.
    """
    batch = data.gather_batch(numbers)
    scores = ranker.score(
        batch.query, batch.candidates, batch.similarity, mask=batch.mask, refined=True, tokens=batch.tokens
    )
    return scores[batch.mask].float().cpu().numpy()

"""A trained ranker as a method of the evaluation: its scores of many lists, and how long they take."""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from xmrank.config.common import Direction
from xmrank.config.method_names import REFINED
from xmrank.embed.store import EmbeddingStore
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.protocols.scorer import DirectionProtocols, MethodResult, Scorer
from xmrank.rankers import Ranker
from xmrank.train.checkpoint import read_ranker
from xmrank.train.list_data import ListData
from xmrank.train.projected_tokens import project_list_data
from xmrank.train.training_data import refine_list_data

BATCH = 256
"""Lists scored at once."""
SAMPLE = 50
"""Queries that are timed one at a time."""


@dataclass(frozen=True)
class RankerScorer(Scorer):
    """A ranker on the mined lists and on every top.

    Attributes:
        directory: the ranker's folder.
    """

    directory: Path

    def measure(self, protocols: DirectionProtocols) -> Iterator[MethodResult]:
        """The ranker's results; it is loaded here.

        Raises:
            DataError: no ranker there, or weights that do not fit its parameters.
        """
        torch.set_num_threads(1)  # as in training, so that scores do not depend on the machine's cores
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        ranker, about = read_ranker(self.directory, device)
        tops = [top for search in protocols.searches for top in search.tops]
        # A ranker never ranks a whole gallery, only its tops.
        for protocol in (protocols.lists, *tops):
            lists = protocol.lists
            started = time.perf_counter()
            scores = score_lists(ranker, lists, protocols.store, protocols.direction, device)
            seconds = time.perf_counter() - started
            data = open_data(ranker, lists, protocols.store, protocols.direction, device)
            alone = time_single_queries(ranker, project_list_data(ranker, data))
            timing = {"batched_ms": 1000 * seconds / max(len(lists), 1), "alone_ms": 1000 * alone}
            key = protocols.table_key(
                protocol.name, method=about["loss"], loss=about["loss"], ranker=about["ranker"], seed=about["seed"]
            )
            yield MethodResult(key, protocol, protocol.measure(scores), scores, timing)


@dataclass(frozen=True)
class RefinedScorer(Scorer):
    """The refined similarity of a ranker by itself: what adapters, hubness and memory do, without a ranking loss.

    All rankers of one seed and direction share it.

    Attributes:
        directory: of one of these rankers.
    """

    directory: Path

    def measure(self, protocols: DirectionProtocols) -> Iterator[MethodResult]:
        """The results of ranking by the refined similarity; the ranker is loaded here.

        Raises:
            DataError: no ranker there, or weights that do not fit its parameters.
        """
        torch.set_num_threads(1)  # as in training, so that scores do not depend on the machine's cores
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        ranker, about = read_ranker(self.directory, device)
        tops = [top for search in protocols.searches for top in search.tops]
        for protocol in (protocols.lists, *tops):
            data = ListData.of(protocol.lists, protocols.store, protocols.direction, device)
            scores = refine_list_data(ranker, data).lists.similarity
            key = protocols.table_key(protocol.name, method=REFINED, seed=about["seed"])
            yield MethodResult(key, protocol, protocol.measure(scores), scores, {})


def score_lists(
    ranker: Ranker, lists: CandidateLists, store: EmbeddingStore, direction: Direction, device: torch.device
) -> np.ndarray:
    """The ranker's score of every item of every list, flat as in ``CandidateLists``: float32 [items]."""
    # Once for all lists: a batch at a time would search the key–value memory, and encode tokens, again.
    data = refine_list_data(ranker, open_data(ranker, lists, store, direction, device))
    data = project_list_data(ranker, data)
    numbers = np.arange(len(lists))
    batches = [numbers[start : start + BATCH] for start in range(0, len(lists), BATCH)]
    parts = [score_batch(ranker, data, batch, refined=True) for batch in batches]
    return np.concatenate([np.empty(0, np.float32), *parts])


def open_data(
    ranker: Ranker, lists: CandidateLists, store: EmbeddingStore, direction: Direction, device: torch.device
) -> ListData:
    """The lists with what the ranker reads of the store."""
    return ListData.of(lists, store, direction, device, tokens=ranker.hyperparameters.reads_tokens)


@torch.inference_mode()
def score_batch(ranker: Ranker, data: ListData, numbers: np.ndarray, *, refined: bool = False) -> np.ndarray:
    """The scores of the lists with these numbers, flat: float32 [items].

    Args:
        refined: whether the data's similarity is refined already.
    """
    batch = data.gather_batch(numbers)
    scores = ranker.score(
        batch.query, batch.candidates, batch.similarity, mask=batch.mask, refined=refined, tokens=batch.tokens
    )
    return scores[batch.mask].float().cpu().numpy()


def time_single_queries(ranker: Ranker, data: ListData) -> float:
    """The median time of one query by itself, in seconds, over up to ``SAMPLE`` of them; NaN where there are none.

    Args:
        ranker: in evaluation mode.
        data: the lists; their candidates' tokens are projected before, so that their time does not count.
    """
    lists = data.lists
    # Queries from the whole range, because their lists may differ in length.
    chosen = np.unique(np.linspace(0, max(len(lists) - 1, 0), min(SAMPLE, len(lists))).astype(np.int64))
    seconds = []
    # The first query runs twice, and its first run is not counted: it warms up.
    for number in [*chosen[:1], *chosen]:
        started = time.perf_counter()
        score_batch(ranker, data, np.array([number]))
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:]) if seconds else float("nan")

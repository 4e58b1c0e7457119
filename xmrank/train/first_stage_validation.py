"""What the first stage reaches on the lists that choose a training's epoch."""

import statistics
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from xmrank.config.common import Direction
from xmrank.metrics import list_metrics, mean_over_queries
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.mine.list_paths import lists_path
from xmrank.mine.mapped_lists import open_lists
from xmrank.train.schedule import VALIDATION_METRICS

AT_ONCE = 8192
"""Lists whose metrics are computed together."""


def measure_first_stage(lists: Path, directions: Iterable[Direction], cache: Path) -> dict[str, float]:
    """What the first stage reaches on the validation lists of each direction, by the mean that chooses epochs."""
    opened = {direction: open_lists(lists_path(lists, direction, "validation"), cache) for direction in directions}
    return {direction: mean_of_similarity(part) for direction, part in opened.items() if len(part)}


def mean_of_similarity(lists: CandidateLists) -> float:
    """The mean of the validation metrics where the similarity is the score."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in VALIDATION_METRICS}
    for start in range(0, len(lists), AT_ONCE):
        _, labels, similarity, mask = lists.pad_lists(np.arange(start, min(start + AT_ONCE, len(lists))))
        values = list_metrics(similarity, labels, mask=mask)
        for name, part in parts.items():
            part.append(values[name])
    return statistics.fmean(mean_over_queries(np.concatenate(part)).mean for part in parts.values())

"""Rankers that end below the first stage on the lists that chose their epoch: said at once, with what to try."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from xmrank.config.common import Direction
from xmrank.metrics import list_metrics, mean_over_queries
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.mine.list_paths import lists_path
from xmrank.mine.mapped_lists import open_lists
from xmrank.train.epoch_metrics import VALIDATION_METRICS
from xmrank.train.run_journals import read_epochs
from xmrank.train.trials import Trial

AT_ONCE = 8192
"""Lists whose metrics are computed together."""
TOLERANCE = 1e-6
"""What sums in another order may differ by."""
REMEDY = (
    "try --preset strong, or start from the first stage and keep the best epoch: --validate-start "
    "--ranker.features product cosine --ranker.residual 15 --ranker.zero-init-output"
)


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


def describe_weak_rankers(trials: Sequence[Trial], output: Path, first_stage: Mapping[str, float]) -> str:
    """One line about the rankers whose best validation is below the first stage; empty where there are none."""
    best = {
        trial: max(float(epoch["validation_mean"]) for epoch in read_epochs(trial.directory(output)))
        for trial in trials
        if trial.direction in first_stage
    }
    weak = [trial for trial, value in best.items() if value < first_stage[trial.direction] - TOLERANCE]
    if not weak:
        return ""
    lowest = min(weak, key=lambda trial: best[trial] - first_stage[trial.direction])
    return (
        f"train: warning: {len(weak)} of {len(trials)} rankers stay below the first stage on the validation lists, "
        f"{lowest.name} most: {best[lowest]:.3f}, the first stage {first_stage[lowest.direction]:.3f}; {REMEDY}"
    )

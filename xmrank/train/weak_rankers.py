"""Rankers that end below the first stage on the lists that chose their epoch: said at once, with what to try."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from xmrank.train.run_journals import read_epochs
from xmrank.train.trials import Trial

FIRST_STAGE = "first_stage_validation"
"""In the manifest's settings: direction → what the first stage reaches on the lists that choose the epoch."""
TOLERANCE = 1e-6
"""What sums in another order may differ by."""
REMEDY = (
    "try the defaults of train, which start from a refined first stage and keep the best epoch (no --preset paper), or "
    "at least: --validate-start --ranker.features product cosine --ranker.residual 15 --ranker.zero-init-output"
)


def best_validations(trials: Sequence[Trial], output: Path) -> dict[Trial, float]:
    """What the kept ranker of each trial reaches on the lists that chose its epoch."""
    best = {}
    for trial in trials:
        best[trial] = max(float(epoch["validation_mean"]) for epoch in read_epochs(trial.directory(output)))
    return best


def describe_weak_rankers(trials: Sequence[Trial], output: Path, first_stage: Mapping[str, float]) -> str:
    """One line about the rankers whose best validation is below the first stage; empty where there are none."""
    best = best_validations([trial for trial in trials if trial.direction in first_stage], output)
    weak = [trial for trial, value in best.items() if value < first_stage[trial.direction] - TOLERANCE]
    if not weak:
        return ""
    lowest = min(weak, key=lambda trial: best[trial] - first_stage[trial.direction])
    return (
        f"train: warning: {len(weak)} of {len(trials)} rankers stay below the first stage on the validation lists, "
        f"{lowest.name} most: {best[lowest]:.3f}, the first stage {first_stage[lowest.direction]:.3f}; {REMEDY}"
    )

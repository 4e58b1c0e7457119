"""Which trials are trained together: each alone, or those of one shape as a stack."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from xmrank.config import TrainConfig
from xmrank.runtime.errors import DataError
from xmrank.train.checkpoint_json import read_meta
from xmrank.train.schedule import TrialProgress
from xmrank.train.step import ORDINAL
from xmrank.train.trials import STATE, Trial

STACK_LIMIT = 64
"""Rankers of one stack at most."""


def group_trials(
    trials: Sequence[Trial], config_of: Callable[[Trial], TrainConfig], output: Path, *, stacked: bool
) -> Iterator[list[Trial]]:
    """The trials that are trained together.

    Args:
        trials: of one direction, not done.
        config_of: the configuration of a trial.
        output: the stage's directory, where earlier runs left states.
        stacked: whether to stack; otherwise each trial is alone, as one whose ranker reads tokens always is.
    """
    # The dropout of tokens depends on which items a batch holds: in a stack it would not be that of a trial alone.
    alone = [trial for trial in trials if not stacked or config_of(trial).ranker.reads_tokens]
    for trial in alone:
        yield [trial]
    # A stack needs one configuration, one shape of output, and one step to go on from.
    alike: dict[tuple[TrainConfig, bool, int], list[Trial]] = {}
    for trial in trials[len(alone) :]:
        key = config_of(trial), trial.loss == ORDINAL, read_step(trial, output)
        alike.setdefault(key, []).append(trial)
    for group in alike.values():
        # Trials of one loss next to each other: the loss is then computed once for all of them.
        ordered = sorted(group, key=lambda trial: (trial.loss, trial.seed))
        for start in range(0, len(ordered), STACK_LIMIT):
            yield ordered[start : start + STACK_LIMIT]


def read_step(trial: Trial, output: Path) -> int:
    """The number of steps that an earlier run took; −1 for a damaged state, which is an error of this trial alone."""
    state = trial.directory(output) / STATE
    # Opening the trial will report the damage; here it must only not share a group with healthy trials.
    try:
        return TrialProgress(**read_meta(state)).step if state.exists() else 0
    except DataError:
        return -1

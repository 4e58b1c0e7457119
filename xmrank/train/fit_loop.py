"""The loop over epochs that baselines and supervised methods share: train, validate, keep the best, stop early."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from xmrank.runtime.errors import DataError

EpochFigures = dict[str, float]
"""Figures of one epoch: losses of training and metrics of validation."""
ReportEpoch = Callable[[EpochFigures], object]
State = TypeVar("State")


def ignore_epoch(_figures: EpochFigures) -> None:
    """Do nothing with the figures of an epoch."""


@dataclass(frozen=True)
class BestEpoch(Generic[State]):
    """What a loop over epochs leaves.

    Attributes:
        state: the copy made after the best epoch.
        number: of the best epoch, from 1; the earliest on ties.
        epochs: figures of every epoch.
    """

    state: State
    number: int
    epochs: list[EpochFigures]


def fit_epochs(
    train_epoch: Callable[[int], EpochFigures],
    validate: Callable[[], EpochFigures],
    copy_state: Callable[[], State],
    *,
    metric: str,
    epochs: int,
    patience: int | None = None,
    report_epoch: ReportEpoch = ignore_epoch,
) -> BestEpoch[State]:
    """Train epoch by epoch and keep the state of the best one.

    Args:
        train_epoch: trains the epoch of a number, from 1; returns its figures.
        validate: figures on validation, after each epoch.
        copy_state: a copy of what is trained, that later epochs do not change; called after each best epoch so far.
        metric: the figure that decides, the higher the better.
        epochs: most epochs, at least 1.
        patience: stop after this many epochs in a row without a better one; None: never.
        report_epoch: called after each epoch with all of its figures.

    Raises:
        DataError: the figure that decides is NaN in every epoch.
    """
    if epochs < 1:
        raise ValueError(f"epochs {epochs}: expected at least 1")
    history: list[EpochFigures] = []
    best: BestEpoch[State] | None = None
    best_value = -math.inf
    for number in range(1, epochs + 1):
        figures = {**train_epoch(number), **validate()}
        history.append(figures)
        # Strictly greater: of equal epochs the earliest stays, which is the one that saw the fewest steps. NaN is
        # never greater, so an epoch without a figure is never the best.
        if figures[metric] > best_value:
            best, best_value = BestEpoch(copy_state(), number, history), figures[metric]
        report_epoch(figures)
        if patience is not None and number - (best.number if best else 0) >= patience:
            break
    if best is None:
        raise DataError(f"{metric} is nan in all {len(history)} epochs: there is no best one")
    return best

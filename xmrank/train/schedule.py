"""Where a training stands: its validations, its best one, and the stretches between them."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from xmrank.config import TrainConfig
from xmrank.train.list_data import epoch_order

Epoch = dict[str, float]
"""One validation: ``epoch`` (passes over the lists so far), ``step``, and the metrics."""


@dataclass
class TrialProgress:
    """The validations of one trial, and the best of them (the earliest on ties)."""

    epochs: list[Epoch] = field(default_factory=list)
    best_epoch: float = 0
    best_value: float = -1.0
    best_number: int = 0

    def add(self, epoch: Epoch) -> bool:
        """Add a validation; returns whether it is the best so far."""
        self.epochs.append(epoch)
        if epoch["validation_mean"] <= self.best_value:
            return False
        self.best_epoch, self.best_value, self.best_number = epoch["epoch"], epoch["validation_mean"], len(self.epochs)
        return True

    @property
    def step(self) -> int:
        """Steps taken."""
        return int(self.epochs[-1]["step"]) if self.epochs else 0

    def is_over(self, plan: "TrainingSchedule") -> bool:
        """Whether all steps are taken, or the last ``patience`` validations brought nothing better."""
        waited = len(self.epochs) - self.best_number
        return self.step >= plan.steps or (plan.config.patience is not None and waited >= plan.config.patience)


@dataclass(frozen=True)
class TrainingSchedule:
    """The steps of a training on so many lists."""

    config: TrainConfig
    lists: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass; the last one may hold fewer lists."""
        return -(-self.lists // self.config.batch_size)

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.config.epochs * self.steps_per_epoch

    def next_validation(self, step: int) -> int:
        """The first step after which to validate, given that so many are taken."""
        every = self.config.validate_every_steps or self.config.validate_every * self.steps_per_epoch
        return min((step // every + 1) * every, self.steps)

    def epochs(self, step: int) -> float:
        """Passes over the lists after so many steps; a whole number at the end of one."""
        whole, rest = divmod(step, self.steps_per_epoch)
        return whole + rest / self.steps_per_epoch if rest else whole

    def batches(self, seed: int, start: int, end: int) -> Iterator[np.ndarray]:
        """The lists of the steps from ``start`` to ``end``; they follow from the seed and the step alone."""
        order, size = np.empty(0, np.int64), self.config.batch_size
        for step in range(start, end):
            epoch, place = divmod(step, self.steps_per_epoch)
            if place == 0 or step == start:
                order = epoch_order(self.lists, seed, epoch + 1)
            yield order[place * size : (place + 1) * size]

    def rate(self, step: int) -> float:
        """The step size: constant, or one cycle (a linear rise over the first tenth, then a cosine to zero)."""
        peak = self.config.learning_rate
        return peak if self.config.schedule == "constant" else one_cycle(peak, step, self.steps)


def one_cycle(peak: float, step: int, steps: int) -> float:
    """The step size: a linear rise over the first tenth of the steps, then a cosine to zero."""
    warm = max(1, steps // 10)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(1, steps - warm))))

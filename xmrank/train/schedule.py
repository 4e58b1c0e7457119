"""The steps of a training: when to validate, which lists a step takes, the step size, and how far a trial is."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from xmrank.config import TrainConfig

VALIDATION_METRICS = ("hit@1", "hit@5", "hit@10")
"""Their mean chooses the epoch."""
DATA_STREAM = 0xDA7A
"""Separates the order of the lists from other draws under the same seed."""
Epoch = dict[str, float]
"""One validation: ``epoch`` (passes over the lists so far), ``step``, and the metrics."""


def describe_validation(epoch: Mapping[str, float]) -> str:
    """A validation in words: its epoch, the loss of training, and the figure that chooses the epoch."""
    loss = f"loss {epoch['train_loss']:.4g}, " if "train_loss" in epoch else ""
    return f"epoch {epoch['epoch']:.4g}: {loss}validation {epoch['validation_mean']:.4f}"


@dataclass
class TrialProgress:
    """The validations of one trial, and which of them is the best (the earliest one on ties)."""

    epochs: list[Epoch] = field(default_factory=list)
    best_epoch: float = 0
    best_value: float = -1.0
    best_number: int = 0

    def add_validation(self, epoch: Epoch) -> bool:
        """Add a validation; returns whether it is the best so far."""
        self.epochs.append(epoch)
        # Strictly greater, so that the earliest of equal validations stays the best, and NaN never becomes it.
        if not epoch["validation_mean"] > self.best_value:
            return False
        self.best_epoch, self.best_value, self.best_number = epoch["epoch"], epoch["validation_mean"], len(self.epochs)
        return True

    @property
    def step(self) -> int:
        """The number of steps taken."""
        return int(self.epochs[-1]["step"]) if self.epochs else 0

    def is_over(self, schedule: "TrainingSchedule") -> bool:
        """Whether all steps are taken, or none of the last ``patience`` validations was the best so far."""
        since_best = len(self.epochs) - self.best_number
        patience = schedule.config.patience
        return self.step >= schedule.steps or (patience is not None and since_best >= patience)


@dataclass(frozen=True)
class TrainingSchedule:
    """The steps of a training.

    Attributes:
        config: epochs, batch size, step size, how often to validate.
        lists: number of lists of an epoch.
    """

    config: TrainConfig
    lists: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass over the lists; the last one may have fewer lists."""
        return -(-self.lists // self.config.batch_size)

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.config.epochs * self.steps_per_epoch

    def next_validation(self, step: int) -> int:
        """The number of steps after which to validate next, when ``step`` steps are taken."""
        # Multiples of the period, whatever step a resumed training starts from, and always the last step.
        every = self.config.validate_every_steps or self.config.validate_every * self.steps_per_epoch
        return min((step // every + 1) * every, self.steps)

    def count_epochs(self, step: int) -> float:
        """Passes over the lists after a number of steps; a whole number at the end of one."""
        whole, rest = divmod(step, self.steps_per_epoch)
        return whole + rest / self.steps_per_epoch if rest else whole

    def epoch_of(self, step: int) -> int:
        """The epoch that a step belongs to, from 1."""
        return step // self.steps_per_epoch + 1

    def list_rows(self, seed: int, start: int, end: int) -> Iterator[np.ndarray]:
        """The numbers of the lists of each step from ``start`` to ``end``; they follow from seed and step alone."""
        order, size = np.empty(0, np.int64), self.config.batch_size
        for step in range(start, end):
            # A resumed training starts within an epoch: it draws the epoch's order and takes the rest of it.
            epoch, index = divmod(step, self.steps_per_epoch)
            if index == 0 or step == start:
                order = self.order_lists(seed, epoch + 1)
            yield order[index * size : (index + 1) * size]

    def order_lists(self, seed: int, epoch: int) -> np.ndarray:
        """The order of the lists in an epoch, int64 [lists]."""
        # In-batch lists are drawn batch by batch, in random order already; a shuffle would part what shares its items.
        return np.arange(self.lists) if self.config.sampling == "in-batch" else epoch_order(self.lists, seed, epoch)

    def step_size(self, step: int) -> float:
        """The step size: constant, or one cycle."""
        peak = self.config.learning_rate
        return peak if self.config.schedule == "constant" else one_cycle(peak, step, self.steps)


def one_cycle(peak: float, step: int, steps: int) -> float:
    """A step size that rises linearly over the first tenth of the steps and then falls as a cosine to zero."""
    warm = max(1, steps // 10)
    # Counted from 1, so that the first step already moves the weights.
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(1, steps - warm))))


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the lists in an epoch, int64 [count].

    It follows from the seed and the epoch alone, so a resumed training needs no position of a generator.
    """
    return np.random.default_rng([seed, DATA_STREAM, epoch]).permutation(count)

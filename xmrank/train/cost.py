"""What a trial costs, under the names that MLflow shows."""

import resource
import sys
from dataclasses import dataclass, field

import torch

from xmrank.train.schedule import Epoch

RSS_UNITS = 1 if sys.platform == "darwin" else 1024
"""Bytes of the unit in which the system gives the resident memory."""


@dataclass
class TrialCost:
    """Adds up the costs of the trials of one process.

    Attributes:
        lists: lists of an epoch.
        device: where the trials are trained.
        workers: processes that train a trial together.
        spent: trial → epochs and seconds so far. What a run spent that was killed is not known.
    """

    lists: int
    device: torch.device
    workers: int = 1
    spent: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add_epoch(self, trial: str, epoch: Epoch, seconds: float) -> dict[str, float]:
        """Add the epochs since a trial's last validation; returns its costs in seconds, lists a second and MiB.

        Args:
            trial: its name.
            epoch: the new validation.
            seconds: time of each epoch since the last validation.
        """
        # A trial that is first seen late was continued here: only its last epoch was spent in this process.
        before, total = self.spent.get(trial, (max(epoch["epoch"] - 1, 0), 0.0))
        total += seconds * (epoch["epoch"] - before)
        self.spent[trial] = epoch["epoch"], total
        costs = {
            "cost/epoch_seconds": seconds,
            "cost/seconds": total,
            "cost/lists_per_second": self.lists / seconds,
            "cost/peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNITS / 2**20,
        }
        # All processes that train the trial occupy a GPU each.
        if self.device.type == "cuda":
            costs["cost/gpu_seconds"] = total * self.workers
            costs["cost/peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated(self.device) / 2**20
        return costs

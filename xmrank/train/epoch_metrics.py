"""Loss and metrics over many lists, collected batch by batch while rankers score them."""

import numpy as np
import torch
from torch import Tensor

from xmrank.metrics import list_metrics, mean_over_queries
from xmrank.train.list_data import RankerBatch
from xmrank.train.schedule import VALIDATION_METRICS, Epoch
from xmrank.train.worker_group import WorkerGroup

BATCHES_AT_ONCE = 64
"""Batches whose metrics are computed together."""


class EpochMetrics:
    """The loss and the metrics of one ranker, or of each ranker of a stack, over the lists that they scored.

    Only scores, labels and masks are kept, not embeddings: the memory of a batch is free after its step.

    Attributes:
        models: number of rankers.
        loss_sums: numerator and denominator of each ranker's loss so far, float64 [models, 2].
        batches: scores, labels and mask of each batch, [models · lists, items], one ranker after another.
    """

    def __init__(self, models: int, device: torch.device) -> None:
        self.models = models
        self.loss_sums = torch.zeros(models, 2, dtype=torch.float64, device=device)
        self.batches: list[tuple[Tensor, Tensor, Tensor]] = []

    def add_scores(self, scores: Tensor, batch: RankerBatch) -> None:
        """Keep the scores of a batch, [models · lists, items], with levels as a third axis from an ordinal head."""
        # An ordinal head gives the probability of each level: their sum is the expected level, which ranks the items.
        by_item = scores if scores.dim() == 2 else scores.float().sigmoid().sum(-1)
        self.batches.append((by_item, batch.labels, batch.mask))

    def summarise(self, prefix: str, group: WorkerGroup) -> list[Epoch]:
        """Each ranker's mean loss and metrics over the lists of all processes, by names such as ``train_loss``.

        Args:
            prefix: train or validation.
            group: the processes whose lists are put together; ``loss_sums`` are those of all of them already.
        """
        # Denominators are whole numbers: one below 1 means that no list counted, and then the loss is 0.
        numerators, denominators = self.loss_sums.unbind(1)
        losses = (numerators / denominators.clamp(min=1)).tolist()
        values = self._gather_values(group)
        entries = []
        for model, loss in enumerate(losses):
            entry: Epoch = {f"{prefix}_loss": loss}
            for name, column in values.items():
                # Sorted, so that the mean's last digit does not depend on which process scored which list.
                entry[f"{prefix}_{name}"] = mean_over_queries(np.sort(column[model])).mean
            entries.append(entry)
        return entries

    def _gather_values(self, group: WorkerGroup) -> dict[str, np.ndarray]:
        """The metrics of every list of all processes, each [models, lists]."""
        parts: dict[str, list[np.ndarray]] = {name: [np.empty((self.models, 0))] for name in VALIDATION_METRICS}
        # Metrics are computed on the CPU, many batches at a time: one copy from the device instead of one per batch.
        for start in range(0, len(self.batches), BATCHES_AT_ONCE):
            scores, labels, mask = self._join_batches(start, start + BATCHES_AT_ONCE)
            values = list_metrics(scores.cpu().numpy(), labels.cpu().numpy(), mask=mask.cpu().numpy())
            for name in VALIDATION_METRICS:
                parts[name].append(values[name].reshape(self.models, -1))
        # Then every process gets the values of all.
        own = [torch.from_numpy(np.concatenate(parts[name], 1)) for name in VALIDATION_METRICS]
        columns = zip(*group.gather(own), strict=True)
        return {name: torch.cat(column, 1).numpy() for name, column in zip(VALIDATION_METRICS, columns, strict=True)}

    def _join_batches(self, start: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, labels and mask of several batches, still one ranker after another, [models · lists, items]."""
        joined = []
        for column in zip(*self.batches[start:end], strict=True):
            by_model = [tensor.unflatten(0, (self.models, -1)) for tensor in column]
            joined.append(torch.cat(by_model, 1).flatten(0, 1))
        scores, labels, mask = joined
        # NaN scores are of a ranker that has diverged, which its loss says; metrics refuse them.
        return scores.float().nan_to_num(), labels, mask

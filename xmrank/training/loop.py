"""The training of one ranker: plain torch, resumable at every epoch, the same alone and under DDP."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xmrank.config import TrainConfig
from xmrank.errors import DataError
from xmrank.evaluation import list_metrics, mean_over_queries
from xmrank.files import write_json
from xmrank.losses import LOSSES, Terms
from xmrank.rankers import RANKERS, Ranker, build
from xmrank.training.checkpoint import load_state, save_ranker, save_state
from xmrank.training.data import ListData, epoch_order
from xmrank.training.groups import Group
from xmrank.training.trials import HISTORY, STATE, Trial

SELECTION_METRICS = ("hit@1", "hit@5", "hit@10")
EVALUATION_BATCH = 256
DROPOUT_STREAM = 0xD50

Epoch = dict[str, float]
Scored = tuple[Tensor, Tensor, Tensor]
"""Scores, labels and mask of a batch, without the embeddings."""


@dataclass
class Progress:
    """How far a training is: one entry an epoch, and the best epoch so far (the earliest on ties)."""

    epochs: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float = -1.0

    def add(self, epoch: Epoch) -> bool:
        """Add an epoch; returns whether it is the best so far."""
        self.epochs.append(epoch)
        if epoch["selection_mean"] <= self.best_value:
            return False
        self.best_epoch, self.best_value = int(epoch["epoch"]), epoch["selection_mean"]
        return True


def train_trial(
    trial: Trial,
    config: TrainConfig,
    train: ListData,
    selection: ListData,
    directory: Path,
    *,
    group: Group,
    about: dict[str, Any],
    on_epoch: Callable[[Epoch, float], object],
) -> None:
    """Train one ranker and keep its best epoch; continues from the last finished epoch of an earlier run.

    Initial weights follow from the seed, the order of the lists from seed and epoch, dropout from seed, epoch and rank:
    an interrupted run ends in the same weights as one that was not.

    Args:
        trial: loss, direction and seed.
        config: the rest.
        train, selection: lists to learn from, and lists that choose the epoch.
        directory: where the state, the ranker and, last, the history go.
        group: this process's place among those that train the ranker.
        about: further fields of the ranker's JSON.
        on_epoch: called by the leading process with each new epoch and its seconds.
    """
    torch.manual_seed(trial.seed)
    ranker = make_ranker(config, train.queries.shape[1]).to(train.device)
    model = group.wrap(ranker)
    optimizer = make_optimizer(config, ranker)
    state = directory / STATE
    best, progress = {k: t.clone() for k, t in ranker.state_dict().items()}, Progress()
    if state.exists():
        best, meta = load_state(state, ranker, optimizer)
        progress = Progress(**meta)
    for epoch in range(len(progress.epochs) + 1, config.epochs + 1):
        started = time.perf_counter()
        entry = run_epoch(epoch, trial, config, model, optimizer, train, group)
        entry |= evaluate(ranker, selection, trial, group)
        if progress.add(entry):
            best = {name: tensor.clone() for name, tensor in ranker.state_dict().items()}
        if group.leads:
            save_state(state, ranker, best, optimizer, vars(progress))
            on_epoch(entry, time.perf_counter() - started)
    if group.leads:
        about = {**about, "loss": trial.loss, "direction": trial.direction, "seed": trial.seed}
        save_ranker(directory, ranker, best, {**about, "best_epoch": progress.best_epoch})
        write_json(directory / HISTORY, {**vars(trial), "best_epoch": progress.best_epoch, "epochs": progress.epochs})
        state.unlink(missing_ok=True)


def make_ranker(config: TrainConfig, dimensions: int) -> Ranker:
    """The configured ranker; settings that its kind does not have are not passed on."""
    known = RANKERS[config.ranker.name].parameters_type.__dataclass_fields__
    return build(
        config.ranker.name, dimensions=dimensions, **{k: v for k, v in vars(config.ranker).items() if k in known}
    )


def make_optimizer(config: TrainConfig, ranker: Ranker) -> torch.optim.AdamW:
    """Adam; weight decay, when there is any, is decoupled."""
    return torch.optim.AdamW(ranker.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def run_epoch(
    epoch: int,
    trial: Trial,
    config: TrainConfig,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: ListData,
    group: Group,
) -> Epoch:
    """One pass over the training lists; its metrics come from the scores of the training steps themselves."""
    torch.manual_seed(int(np.random.SeedSequence([trial.seed, DROPOUT_STREAM, epoch, group.rank]).generate_state(1)[0]))
    model.train()
    order = epoch_order(len(data.lists), trial.seed, epoch)
    steps = -(-len(order) // config.batch_size)
    total = torch.zeros(2, dtype=torch.float64, device=data.device)
    scored: list[Scored] = []
    for step in range(steps):
        rate = learning_rate(config, (epoch - 1) * steps + step, config.epochs * steps)
        for parameters in optimizer.param_groups:
            parameters["lr"] = rate
        rows = order[step * config.batch_size : (step + 1) * config.batch_size]
        batch = data.batch(rows[group.rank :: group.size])
        scores = model(batch.query, batch.candidates, batch.similarity, mask=batch.mask)
        terms = LOSSES[trial.loss].terms(scores, batch.labels, mask=batch.mask)
        optimizer.zero_grad(set_to_none=True)
        total += backward(terms, group, len(rows))
        if config.gradient_clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
        optimizer.step()
        scored.append((scores.detach(), batch.labels, batch.mask))
    loss = mean_loss(total, f"{trial.name}: the loss of epoch {epoch}")
    return {"epoch": epoch, "train_loss": loss, **prefixed("train", metrics_of(scored, group))}


def backward(terms: Terms, group: Group, lists: int) -> Tensor:
    """The gradient of the global batch's loss, whatever share of its ``lists`` this process holds.

    DDP averages gradients over the processes, so each one's share is scaled by their number over the global
    denominator.

    Returns:
        the loss's numerator and denominator over the group, float64 [2]; a sum over the batch is reported a list.
    """
    share = terms.total.sum()
    if terms.reduction == "sum":
        (share * group.size).backward()
        weight = torch.tensor(float(lists), device=share.device)
    else:
        weight = group.sum(terms.weight.sum())
        (share * group.size / torch.where(weight > 0, weight, 1)).backward()
    return torch.stack([group.sum(share.double()), weight.double()])


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """The step size: constant, or one cycle (a linear rise over the first tenth, then a cosine to zero)."""
    if config.schedule == "constant":
        return config.learning_rate
    warm = max(1, steps // 10)
    if step < warm:
        return config.learning_rate * (step + 1) / warm
    return config.learning_rate * 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(1, steps - warm))))


def mean_loss(total: Tensor, name: str) -> float:
    """The loss that a numerator and a denominator give; DataError where training has diverged."""
    loss = float(total[0] / total[1].clamp(min=1))
    if not np.isfinite(loss):
        raise DataError(f"{name} is {loss}; try a smaller --learning-rate")
    return loss


@torch.inference_mode()
def evaluate(ranker: Ranker, data: ListData, trial: Trial, group: Group) -> Epoch:
    """Loss and metrics on the selection lists, each list once, shared out over the group."""
    ranker.eval()
    rows = np.arange(len(data.lists))[group.rank :: group.size]
    scored, total = [], torch.zeros(2, dtype=torch.float64, device=data.device)
    for start in range(0, len(rows), EVALUATION_BATCH):
        batch = data.batch(rows[start : start + EVALUATION_BATCH])
        scores = ranker(batch.query, batch.candidates, batch.similarity, mask=batch.mask)
        terms = LOSSES[trial.loss].terms(scores, batch.labels, mask=batch.mask)
        weight = terms.weight.sum() if terms.reduction != "sum" else torch.tensor(float(len(batch.labels)))
        total += torch.stack([terms.total.sum().double(), weight.double().to(data.device)])
        scored.append((scores, batch.labels, batch.mask))
    loss = mean_loss(group.sum(total), f"{trial.name}: the loss on the selection lists")
    metrics = metrics_of(scored, group)
    mean = sum(metrics[name] for name in SELECTION_METRICS) / len(SELECTION_METRICS)
    return {**prefixed("selection", metrics), "selection_loss": loss, "selection_mean": mean}


def metrics_of(scored: list[Scored], group: Group) -> dict[str, float]:
    """Mean metrics over the lists that the whole group scored."""
    parts: dict[str, list[Tensor]] = {name: [] for name in SELECTION_METRICS}
    for scores, labels, mask in scored:
        values = list_metrics(scores.cpu().numpy(), labels.cpu().numpy(), mask=mask.cpu().numpy())
        for name in SELECTION_METRICS:
            parts[name].append(torch.from_numpy(values[name]))
    nothing = torch.empty(0, dtype=torch.float64)  # of a process that had no lists
    mine = [torch.cat([nothing, *parts[name]]) for name in SELECTION_METRICS]
    everyone = group.gather(mine)
    columns = [torch.cat(column).numpy() for column in zip(*everyone, strict=True)]
    # Sorted, so that the mean's last digit does not depend on who scored which list.
    return {n: mean_over_queries(np.sort(c)).mean for n, c in zip(SELECTION_METRICS, columns, strict=True)}


def prefixed(prefix: str, metrics: dict[str, float]) -> Epoch:
    """The metrics under names such as ``train_hit@1``."""
    return {f"{prefix}_{name}": value for name, value in metrics.items()}

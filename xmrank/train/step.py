"""Rankers that learn side by side: one, or a stack of one shape with a leading model axis; and their optimiser."""

import contextlib
import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from xmrank.config import TrainConfig
from xmrank.losses import LOSSES
from xmrank.rankers import Ranker
from xmrank.rankers.layers import dropout_draws
from xmrank.train.list_data import BatchSource, RankerBatch
from xmrank.train.settings import loss_parameters
from xmrank.train.worker_group import WorkerGroup

INDEPENDENT = {"neural_ndcg": {"independent": True}}
"""Parameters with which a list's loss depends on that list alone, so not on the batch, process or stack it is in."""

ORDINAL = "ordinal"
"""The loss whose ranker has an output a level."""

warnings.filterwarnings("ignore", message=".*batching rule for aten::_scaled_dot_product_flash_attention_for_cpu")


@dataclass(frozen=True)
class ScoredLists:
    """What is kept of a batch: the scores of every model's lists, one model after another, without the embeddings.

    Attributes:
        scores, labels, mask: [models · lists, items].
    """

    scores: Tensor
    labels: Tensor
    mask: Tensor


class TrainingStep:
    """One ranker, under DDP when its group has several processes, or a stack of several, each with a loss of its own.

    In a stack, every parameter has a leading model axis and a step is one computation for all of them. Where a model
    is small beside the cost of starting a computation, as on a GPU, a stack takes hardly longer than one of them.

    Args:
        rankers: of one shape, on one device; trained in place unless they are stacked.
        losses: the name of each one's loss; models that share one are best given next to each other.
        config: batch sizes, precision, optimiser.
        group: this process's place; a stack is trained by one process.
    """

    def __init__(
        self, rankers: Sequence[Ranker], losses: Sequence[str], config: TrainConfig, group: WorkerGroup
    ) -> None:
        self.losses, self.config, self.group, self.size = list(losses), config, group, len(rankers)
        self.loss_parameters = {n: {**INDEPENDENT.get(n, {}), **loss_parameters(config, n)} for n in set(losses)}
        self.module: nn.Module = rankers[0]
        self.parameters: dict[str, Tensor] = dict(rankers[0].named_parameters())
        self.buffers: dict[str, Tensor] = dict(rankers[0].named_buffers())
        self.decayed = [name for name, parameter in self.parameters.items() if parameter.dim() >= 2]
        self.device = next(iter(self.parameters.values())).device
        if self.size > 1:
            self.parameters, self.buffers = stack_module_state(list(rankers))  # type: ignore[arg-type]
            self.module = copy.deepcopy(rankers[0]).to("meta")
        elif group.size > 1:
            self.module = group.wrap(rankers[0])
        self.optimizer = make_optimizer(config, self.parameters, self.decayed)

    def scores(self, batch: RankerBatch) -> Tensor:
        """The scores of a batch that holds the lists of one model after another, [models · lists, items(, levels)].

        Similarities come refined with the lists (`courses`): computed once, not in every step.
        """
        inputs = (batch.query, batch.candidates, batch.similarity, batch.mask)
        if self.size == 1:
            scores: Tensor = self.module(*inputs[:3], mask=batch.mask, refined=True)
            return scores
        apart = (tensor.unflatten(0, (self.size, -1)) for tensor in inputs)
        return vmap(self._one_of_stack)(self.parameters, self.buffers, *apart).flatten(0, 1)

    def _one_of_stack(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], *inputs: Tensor) -> Tensor:
        *given, mask = inputs
        return functional_call(self.module, (parameters, buffers), tuple(given), {"mask": mask, "refined": True})

    def step(self, data: BatchSource, rows: Sequence[np.ndarray], rate: float, seeds: Sequence[int]) -> "StepResult":
        """One step of every model: the gradient of its global batch's loss, whatever share of it is computed here.

        Args:
            data: the lists; a stack's, of one model after another.
            rows: for each model, the numbers of its global batch's lists; all models have equally many.
            rate: step size.
            seeds: of each model's dropout in this step.
        """
        self.module.train()
        self.optimizer.zero_grad(set_to_none=True)
        parts = self._parts(rows)
        done = []
        with dropout_draws([torch.Generator(self.device).manual_seed(seed) for seed in seeds]):
            for number, part in enumerate(parts):
                with self._reducing(number == len(parts) - 1):
                    done.append(self._accumulate(data.batch(part)))
        totals = self.group.sum(torch.stack([terms.doubled() for terms, _ in done]).sum(0))
        summed = done[0][0].summed
        self._scale_gradients(torch.where(summed, 1.0, 1 / totals[:, 1].clamp(min=1)).float() * self.group.size)
        self._clip()
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        self.optimizer.step()
        # The sum over a batch is reported a list.
        weights = torch.where(summed, float(len(rows[0])), totals[:, 1])
        return StepResult(torch.stack([totals[:, 0], weights], 1), [scored for _, scored in done])

    def terms(self, scores: Tensor, batch: RankerBatch) -> "ModelLossSums":
        """The parts of every model's loss on the lists that it scored."""
        lists = len(scores) // self.size
        totals: list[Tensor] = []
        weights: list[Tensor] = []
        summed: list[bool] = []
        for name, run in groupby(range(self.size), key=self.losses.__getitem__):
            models = len(list(run))
            rows = slice(len(summed) * lists, (len(summed) + models) * lists)
            its = scores[rows].unsqueeze(-1) if name == ORDINAL and scores.dim() == 2 else scores[rows]
            sums = LOSSES[name].sums(its, batch.labels[rows], mask=batch.mask[rows], **self.loss_parameters[name])
            totals.append(sums.numerator.unflatten(0, (models, lists)).sum(1))
            weights.append(sums.denominator.unflatten(0, (models, lists)).sum(1))
            summed += [sums.reduction == "sum"] * models
        return ModelLossSums(torch.cat(totals), torch.cat(weights), torch.tensor(summed, device=scores.device))

    def weights(self, model: int) -> dict[str, Tensor]:
        """A copy of one model's state dict."""
        everything = {**self.parameters, **self.buffers}
        return {name: self._of(model, tensor).detach().clone() for name, tensor in everything.items()}

    def moments(self, model: int) -> dict[str, Tensor]:
        """A copy of what the optimiser has gathered for one model; names are ``parameter/kind``."""
        return {
            f"{name}/{kind}": (value if kind == "step" else self._of(model, value)).clone()
            for name, parameter in self.parameters.items()
            for kind, value in self.optimizer.state[parameter].items()
        }

    def resume(self, moments: Sequence[dict[str, Tensor]]) -> None:
        """Take up the optimiser where each model's moments left it; the rankers have their weights already.

        Raises:
            KeyError: moments of other parameters.
        """
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        ordered = [names[id(p)] for group in self.optimizer.param_groups for p in group["params"]]
        kinds = {key.rpartition("/")[2] for key in moments[0]}
        state = {
            number: {kind: self._joined([m[f"{name}/{kind}"] for m in moments], kind) for kind in kinds}
            for number, name in enumerate(ordered)
        }
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _of(self, model: int, tensor: Tensor) -> Tensor:
        return tensor[model] if self.size > 1 else tensor

    def _joined(self, values: list[Tensor], kind: str) -> Tensor:
        """One kind of moment of all models; they have taken the same number of steps."""
        return values[0] if kind == "step" or self.size == 1 else torch.stack(values)

    def _parts(self, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """This process's lists, in parts of which each goes through the model at once; every process has as many."""
        mine = [row[self.group.rank :: self.group.size] for row in rows]
        at_once = self.config.micro_batch or self.config.batch_size
        count = -(-len(rows[0]) // at_once)
        split = [np.array_split(row, count) for row in mine]
        return [np.concatenate(part) for part in zip(*split, strict=True)]

    def _accumulate(self, batch: RankerBatch) -> tuple["ModelLossSums", ScoredLists]:
        """Add the gradient of the batch's numerators; returns the loss's parts and what is kept."""
        with self.autocast():
            scores = self.scores(batch)
        terms = self.terms(scores, batch)
        terms.total.sum().backward()
        detached = ModelLossSums(terms.total.detach(), terms.weight, terms.summed)
        return detached, ScoredLists(figures(scores.detach()), batch.labels, batch.mask)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The arithmetic of the forward pass."""
        lower = self.config.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=lower)

    def _reducing(self, last: bool) -> contextlib.AbstractContextManager[object]:
        """Under DDP, gradients are exchanged after the last part only."""
        if self.group.size == 1 or last:
            return contextlib.nullcontext()
        return self.module.no_sync()  # type: ignore[operator, no-any-return]

    def _scale_gradients(self, factors: Tensor) -> None:
        """Multiply each model's gradient by its factor, [models]."""
        for gradient in self._gradients():
            gradient *= factors.view(-1, *[1] * (gradient.dim() - 1)) if self.size > 1 else factors[0]

    def _clip(self) -> None:
        """Shorten each model's gradient to the largest norm."""
        limit = self.config.gradient_clip
        if limit is None:
            return
        squares = [g.flatten(1).square().sum(1) if self.size > 1 else g.square().sum()[None] for g in self._gradients()]
        norms = torch.stack(squares).sum(0).sqrt()
        self._scale_gradients((limit / (norms + 1e-6)).clamp(max=1))

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]


@dataclass(frozen=True)
class ModelLossSums:
    """The parts of each model's loss.

    Attributes:
        total, weight: numerator and denominator, [models].
        summed: where the numerator alone is the loss, bool [models].
    """

    total: Tensor
    weight: Tensor
    summed: Tensor

    def doubled(self) -> Tensor:
        """Both, float64 [models, 2]."""
        return torch.stack([self.total.double(), self.weight.double()], 1)


@dataclass(frozen=True)
class StepResult:
    """What a step reports.

    Attributes:
        totals: the numerator and denominator of each model's loss over the group, float64 [models, 2].
        scored: this process's part.
    """

    totals: Tensor
    scored: list[ScoredLists]


def make_optimizer(config: TrainConfig, parameters: dict[str, Tensor], decayed: Sequence[str]) -> torch.optim.Optimizer:
    """Adam; weight decay, when there is any, is decoupled and of the matrices only, not of biases and norms."""
    groups = [
        {"params": [p for name, p in parameters.items() if name in decayed], "weight_decay": config.weight_decay},
        {"params": [p for name, p in parameters.items() if name not in decayed], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate, fused=True)


def figures(scores: Tensor) -> Tensor:
    """One figure an item to rank by: the score, or with an ordinal head the expected level."""
    return scores if scores.dim() == 2 else scores.float().sigmoid().sum(-1)

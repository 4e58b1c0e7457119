"""The training step: of one ranker, or of a stack of rankers of one shape with a leading model axis."""

import contextlib
import copy
import warnings
from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from xmrank.config import TrainConfig
from xmrank.losses import LOSSES
from xmrank.rankers import Ranker
from xmrank.rankers.layers import dropout_draws
from xmrank.train.epoch_metrics import EpochMetrics
from xmrank.train.list_data import SCORED_AT_ONCE, ListData, RankerBatch, gather_stacked_batch
from xmrank.train.loss_noise import StepNoise
from xmrank.train.trial_settings import loss_parameters
from xmrank.train.worker_group import WorkerGroup

INDEPENDENT = {"neural_ndcg": {"independent": True}}
"""Parameters that make the loss of a list depend on that list alone: not on its batch, its process or its stack."""

ORDINAL = "ordinal"
"""The loss whose ranker has one output for each level of relevance."""

warnings.filterwarnings("ignore", message=".*batching rule for aten::_scaled_dot_product_flash_attention_for_cpu")


class TrainingStep:
    """Trains one ranker, under DDP when its group has several processes, or a stack of rankers.

    In a stack, every parameter has a leading model axis, and a step is one computation for all models. Where a model
    is small beside the cost of starting a computation, as on a GPU, a stack takes hardly longer than one model.

    Args:
        rankers: of one shape, on one device; trained in place, unless they are several.
        losses: the name of each ranker's loss; rankers of one loss next to each other are computed together.
        config: batch sizes, precision, optimiser.
        group: the processes that train one ranker together; a stack is trained by one process.
        moments: for each ranker, the optimiser's state that ``copy_moments`` gave; empty at the start of a training.

    Raises:
        KeyError: moments of other parameters.
    """

    def __init__(
        self,
        rankers: Sequence[Ranker],
        losses: Sequence[str],
        config: TrainConfig,
        group: WorkerGroup,
        moments: Sequence[dict[str, Tensor]] = (),
    ) -> None:
        self.losses, self.config, self.group, self.models = list(losses), config, group, len(rankers)
        self.loss_parameters = {n: {**INDEPENDENT.get(n, {}), **loss_parameters(config, n)} for n in set(losses)}
        self.module: nn.Module = rankers[0]
        self.parameters: dict[str, Tensor] = dict(rankers[0].named_parameters())
        self.buffers: dict[str, Tensor] = dict(rankers[0].named_buffers())
        matrices = [name for name, parameter in self.parameters.items() if parameter.dim() >= 2]
        self.device = next(iter(self.parameters.values())).device
        if self.models > 1:
            # Parameters become tensors of their own; the module only gives the computation its shape.
            self.parameters, self.buffers = stack_module_state(list(rankers))  # type: ignore[arg-type]
            self.module = copy.deepcopy(rankers[0]).to("meta")
        elif group.size > 1:
            self.module = group.wrap(rankers[0])
        self.optimizer = make_optimizer(config, self.parameters, matrices)
        if moments and moments[0]:
            self._load_moments(moments)

    def take(
        self,
        data: Sequence[ListData],
        rows: Sequence[np.ndarray],
        step_size: float,
        dropout_seeds: Sequence[int],
        noise_seeds: Sequence[int],
        metrics: EpochMetrics,
    ) -> None:
        """Take one step of every ranker: down the gradient of its loss over its global batch.

        Args:
            data: the lists of each ranker.
            rows: for each ranker, the numbers of the lists of its global batch; all have equally many.
            step_size: the learning rate of this step.
            dropout_seeds: of each ranker in this step.
            noise_seeds: of each ranker's loss in this step, if the loss draws random numbers.
            metrics: takes the loss and the scores.
        """
        self.module.train()
        self.optimizer.zero_grad(set_to_none=True)
        parts = self._split_rows(rows)
        # Which lists of the global batch a part has: the same for every ranker.
        positions = [part[0] for part in self._split_rows([np.arange(len(rows[0]))])]
        noise = StepNoise(self.config, noise_seeds, len(rows[0]))
        part_sums = []
        with dropout_draws([torch.Generator(self.device).manual_seed(seed) for seed in dropout_seeds]):
            for number, part in enumerate(parts):
                # Under DDP, gradients are exchanged after the last part only.
                with self._gradient_exchange(last=number == len(parts) - 1):
                    # Forward: the scores of this process's lists of every ranker.
                    batch = gather_stacked_batch(data, part)
                    with self.autocast():
                        scores = self.score_batch(batch)
                    # Backward, of the numerators alone: the denominators of the global batch are not known yet.
                    numerators, denominators, is_sum = self.sum_losses(scores, batch, noise, positions[number])
                    numerators.sum().backward()
                    part_sums.append(torch.stack([numerators.detach().double(), denominators.double()], 1))
                    metrics.add_scores(scores.detach(), batch)
                    # Free the embeddings before those of the next part are gathered.
                    del batch, scores, numerators

        # Over all parts and processes: the loss of a model is its numerator over its denominator, or the numerator.
        totals = self.group.sum(torch.stack(part_sums).sum(0))
        denominators = torch.where(is_sum, 1.0, totals[:, 1].clamp(min=1))
        # DDP has divided the gradients by the number of processes.
        self._scale_gradients((1 / denominators).float() * self.group.size)
        self._clip_gradients()

        for parameters in self.optimizer.param_groups:
            parameters["lr"] = step_size
        self.optimizer.step()

        # A loss that is a sum over the lists is reported per list.
        lists = float(len(rows[0]))
        metrics.loss_sums += torch.stack([totals[:, 0], torch.where(is_sum, lists, totals[:, 1])], 1)

    @torch.no_grad()
    def validate(
        self, data: Sequence[ListData], noise_seeds: Sequence[int], scored: list[Tensor] | None = None
    ) -> EpochMetrics:
        """The loss and metrics of every ranker on its validation lists, each list once, divided among the processes.

        Args:
            data: the lists of each ranker; equally many for all.
            noise_seeds: of each ranker's loss; all of its lists get the same noise.
            scored: what this process has scored with the same weights before, batch by batch; filled if it is empty.
        """
        scored = [] if scored is None else scored
        self.module.eval()
        noise = StepNoise(self.config, noise_seeds, lists=1)
        metrics = EpochMetrics(self.models, self.device)
        rows = np.arange(len(data[0].lists))[self.group.rank :: self.group.size]
        at_once = max(1, SCORED_AT_ONCE[self.device.type] // self.models)
        for number, start in enumerate(range(0, len(rows), at_once)):
            part = rows[start : start + at_once]
            batch = gather_stacked_batch(data, [part] * self.models)
            if number == len(scored):
                with self.autocast():
                    scored.append(self.score_batch(batch))
            scores = scored[number]
            numerators, denominators, is_sum = self.sum_losses(scores, batch, noise)
            # A loss that is a sum over the lists is reported per list.
            counted = torch.where(is_sum, float(len(part)), denominators.double())
            metrics.loss_sums += torch.stack([numerators.double(), counted], 1)
            metrics.add_scores(scores, batch)
        metrics.loss_sums = self.group.sum(metrics.loss_sums)
        return metrics

    def score_batch(self, batch: RankerBatch) -> Tensor:
        """The scores of a batch that holds the lists of one ranker after another, [models · lists, items(, levels)].

        Similarities come refined with the lists (`training_data`): computed once, not in every step.
        """
        inputs = (batch.query, batch.candidates, batch.similarity, batch.mask)
        if self.models == 1:
            scores: Tensor = self.module(*inputs[:3], mask=batch.mask, refined=True, tokens=batch.tokens)
            return scores
        by_model = (tensor.unflatten(0, (self.models, -1)) for tensor in inputs)
        return vmap(self._score_with_one)(self.parameters, self.buffers, *by_model).flatten(0, 1)

    def _score_with_one(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], *inputs: Tensor) -> Tensor:
        """The scores of one ranker of the stack; ``vmap`` adds the model axis."""
        *given, mask = inputs
        return functional_call(self.module, (parameters, buffers), tuple(given), {"mask": mask, "refined": True})

    def sum_losses(
        self, scores: Tensor, batch: RankerBatch, noise: StepNoise, positions: np.ndarray | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of every ranker on the lists that it scored, as numerator and denominator.

        Args:
            scores: of the batch.
            batch: its lists, one ranker after another.
            noise: of the losses that take some.
            positions: of the lists in the global batch; None: all lists get the same noise.

        Returns:
            numerators, with a gradient, and denominators, both [models]; and where the numerator alone is the loss,
            bool [models].
        """
        lists = len(scores) // self.models
        numerators: list[Tensor] = []
        denominators: list[Tensor] = []
        is_sum: list[bool] = []
        # Rankers that share a loss are next to each other: their lists are one batch for the loss function.
        for name, same in groupby(self.losses):
            models = len(list(same))
            rows = slice(len(is_sum) * lists, (len(is_sum) + models) * lists)
            given = scores[rows]
            if name == ORDINAL and given.dim() == 2:
                given = given.unsqueeze(-1)  # a ranker with a single level has no axis for it
            labels = batch.labels[rows]
            drawn = noise.select(name, range(len(is_sum), len(is_sum) + models), positions, labels)
            keywords = self.loss_parameters[name] | drawn
            sums = LOSSES[name].sums(given, labels, mask=batch.mask[rows], **keywords)
            numerators.append(sums.numerator.unflatten(0, (models, lists)).sum(1))
            denominators.append(sums.denominator.unflatten(0, (models, lists)).sum(1))
            is_sum += [sums.reduction == "sum"] * models
        return torch.cat(numerators), torch.cat(denominators), torch.tensor(is_sum, device=scores.device)

    def copy_weights(self, model: int) -> dict[str, Tensor]:
        """A copy of one ranker's state dict."""
        # Not the module's state dict: a stack's module has no values, and DDP prefixes the names.
        everything = {**self.parameters, **self.buffers}
        return {name: self._select_model(model, tensor).detach().clone() for name, tensor in everything.items()}

    def copy_moments(self, model: int) -> dict[str, Tensor]:
        """A copy of the optimiser's state for one ranker, by ``parameter/kind``; empty before the first step."""
        moments = {}
        for name, parameter in self.parameters.items():
            for kind, value in self.optimizer.state[parameter].items():
                moments[f"{name}/{kind}"] = (value if kind == "step" else self._select_model(model, value)).clone()
        return moments

    def _load_moments(self, moments: Sequence[dict[str, Tensor]]) -> None:
        """Put the optimiser where each ranker's moments left it."""
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        # The optimiser numbers its parameters in the order of its groups.
        ordered = [names[id(p)] for group in self.optimizer.param_groups for p in group["params"]]
        kinds = {key.rpartition("/")[2] for key in moments[0]}
        state: dict[int, dict[str, Tensor]] = {}
        for number, name in enumerate(ordered):
            state[number] = {kind: self._stack_values([m[f"{name}/{kind}"] for m in moments], kind) for kind in kinds}
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _select_model(self, model: int, tensor: Tensor) -> Tensor:
        """One ranker's part of a tensor."""
        return tensor[model] if self.models > 1 else tensor

    def _stack_values(self, values: list[Tensor], kind: str) -> Tensor:
        """One kind of moment of all rankers; they have taken the same number of steps."""
        return values[0] if kind == "step" or self.models == 1 else torch.stack(values)

    def _split_rows(self, rows: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        """This process's lists of each ranker, cut into the parts that go through the rankers at once.

        Every process has as many parts, though some may be empty.
        """
        at_once = self.config.micro_batch or self.config.batch_size
        count = -(-len(rows[0]) // at_once)
        own = [numbers[self.group.rank :: self.group.size] for numbers in rows]
        by_model = [np.array_split(numbers, count) for numbers in own]
        return [list(part) for part in zip(*by_model, strict=True)]

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The arithmetic of the forward pass."""
        lower = self.config.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=lower)

    def _gradient_exchange(self, *, last: bool) -> contextlib.AbstractContextManager[object]:
        """Whether DDP averages gradients over the processes in a backward pass."""
        if self.group.size == 1 or last:
            return contextlib.nullcontext()
        return self.module.no_sync()  # type: ignore[operator, no-any-return]

    def _scale_gradients(self, factors: Tensor) -> None:
        """Multiply each ranker's gradient by its factor, [models]."""
        for gradient in self._list_gradients():
            gradient *= factors.view(-1, *[1] * (gradient.dim() - 1)) if self.models > 1 else factors[0]

    def _clip_gradients(self) -> None:
        """Shorten each ranker's gradient to the largest norm that is allowed."""
        limit = self.config.gradient_clip
        if limit is None:
            return
        # A norm for each ranker: a stack must not clip one ranker for the gradient of another.
        if self.models > 1:
            squares = [gradient.flatten(1).square().sum(1) for gradient in self._list_gradients()]
        else:
            squares = [gradient.square().sum()[None] for gradient in self._list_gradients()]
        norms = torch.stack(squares).sum(0).sqrt()
        self._scale_gradients((limit / (norms + 1e-6)).clamp(max=1))

    def _list_gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]


def make_optimizer(
    config: TrainConfig, parameters: dict[str, Tensor], matrices: Sequence[str]
) -> torch.optim.Optimizer:
    """Adam; weight decay is decoupled and only of the matrices, not of biases and norms."""
    groups = [
        {"params": [p for name, p in parameters.items() if name in matrices], "weight_decay": config.weight_decay},
        {"params": [p for name, p in parameters.items() if name not in matrices], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate, fused=True)

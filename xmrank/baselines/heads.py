"""Baselines that are trained: projection heads under a pairwise objective, perhaps with S-NDCG, or under DCCA's."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmrank.baselines import objectives
from xmrank.baselines.baseline_settings import DccaSettings, HeadSettings, InfonceSettings, VseppSettings
from xmrank.baselines.closed import linear_cca
from xmrank.baselines.feature_pairs import FeaturePairs
from xmrank.baselines.towers import Layers, ProjectionTowers, standardise_layers
from xmrank.runtime.errors import DataError
from xmrank.train.fit_loop import EpochFigures, ReportEpoch, fit_epochs, ignore_epoch

WARM_SHARE = 0.1
"""Of the steps: the step size rises, then falls as a cosine."""


@dataclass(frozen=True)
class HeadTraining:
    """What a trained baseline needs beside pairs and settings.

    Attributes:
        seed: of initial weights, data order and dropout.
        listwise: share of S-NDCG in the objective.
        validate: the figures of towers on the validation lists, validation_mean among them.
        report_epoch: called after each epoch with its figures.
    """

    seed: int
    device: torch.device
    validate: Callable[[ProjectionTowers], EpochFigures]
    listwise: float = 0.0
    report_epoch: ReportEpoch = ignore_epoch


@dataclass(frozen=True)
class BestFit:
    """The number of the best epoch, from 1 (0 where nothing was trained by epochs), and the figures of all epochs."""

    number: int = 0
    epochs: list[EpochFigures] = field(default_factory=list)


class Objective(nn.Module):
    """A pairwise objective of raw projections, with what parameters it has of its own.

    Called with the raw projections of a batch's images and texts, [pairs, d] each, and the indices of its images.
    """

    def forward(self, image: Tensor, text: Tensor, images: Tensor) -> Tensor:
        """A scalar."""
        raise NotImplementedError


class Vsepp(Objective):
    """The hardest-negative triplet hinge of cosines."""

    def __init__(self, settings: VseppSettings, _pairs: FeaturePairs) -> None:
        super().__init__()
        self.margin = settings.margin

    def forward(self, image: Tensor, text: Tensor, images: Tensor) -> Tensor:  # noqa: ARG002
        return objectives.vsepp_loss(F.normalize(image, dim=1), F.normalize(text, dim=1), margin=self.margin)


class Infonce(Objective):
    """Cross-entropy of cosines over a temperature that is trained, 0.01 at least."""

    def __init__(self, settings: InfonceSettings, _pairs: FeaturePairs) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(1 / settings.temperature).log())

    def forward(self, image: Tensor, text: Tensor, images: Tensor) -> Tensor:  # noqa: ARG002
        scale = self.log_scale.exp().clamp(max=100)
        return objectives.infonce_loss(F.normalize(image, dim=1), F.normalize(text, dim=1), scale)


class Cmpm(Objective):
    """Cross-modal projection matching; an image with its captions is one label."""

    def __init__(self, settings: HeadSettings, _pairs: FeaturePairs) -> None:  # noqa: ARG002
        super().__init__()

    def forward(self, image: Tensor, text: Tensor, images: Tensor) -> Tensor:
        return objectives.cmpm_loss(image, text, images)


class CmpmCmpc(Objective):
    """CMPM plus classification of each image and its captions as a class of their own."""

    def __init__(self, settings: HeadSettings, pairs: FeaturePairs) -> None:
        super().__init__()
        self.classes = nn.Parameter(nn.init.xavier_uniform_(torch.empty(settings.dimensions, len(pairs.image))))

    def forward(self, image: Tensor, text: Tensor, images: Tensor) -> Tensor:
        return objectives.cmpm_loss(image, text, images) + objectives.cmpc_loss(image, text, images, self.classes)


class Dcca(Objective):
    """Minus the sum of the batch's canonical correlations."""

    def __init__(self, settings: DccaSettings, _pairs: FeaturePairs) -> None:
        super().__init__()
        self.ridge = settings.ridge

    def forward(self, image: Tensor, text: Tensor, images: Tensor) -> Tensor:  # noqa: ARG002
        return objectives.dcca_loss(image.double(), text.double(), ridge=self.ridge)


def list_head_layers(width: int, settings: HeadSettings) -> Layers:
    """The layers of one projection head."""
    layers: list[tuple[str, dict[str, Any]]] = [("dropout", {"p": settings.dropout})]
    if settings.hidden:
        layers += [("linear", {"in_features": width, "out_features": settings.hidden}), ("relu", {})]
        width = settings.hidden
    return [*layers, ("linear", {"in_features": width, "out_features": settings.dimensions})]


def make_heads(pairs: FeaturePairs, settings: HeadSettings) -> ProjectionTowers:
    """Untrained heads behind the standardisation of each side."""
    sides = [standardise_layers(list_head_layers(rows.shape[1], settings), rows) for rows in (pairs.image, pairs.text)]
    towers = ProjectionTowers(*(layers for layers, _ in sides))
    # The standardisation is the first layer, so that a tower takes raw features.
    for tower, (_, first) in zip((towers.image, towers.text), sides, strict=True):
        tower[0].load_state_dict(first.state_dict())
    return towers


def train_heads(
    pairs: FeaturePairs, settings: HeadSettings, training: HeadTraining, kind: Callable[[Any, FeaturePairs], Objective]
) -> tuple[ProjectionTowers, BestFit]:
    """Train projection heads and keep those of the best epoch.

    Returns:
        The best epoch's towers on the CPU, and the figures of all epochs.

    Raises:
        DataError: the loss is not finite.
    """
    with torch.random.fork_rng(devices=[training.device] if training.device.type == "cuda" else []):
        torch.manual_seed(training.seed)
        trainer = HeadTrainer(pairs, settings, training, kind)
        best = fit_epochs(
            trainer.train_epoch,
            trainer.validate,
            lambda: copy_towers(trainer.completed),
            metric="validation_mean",
            epochs=settings.epochs,
            report_epoch=training.report_epoch,
        )
    return best.state, BestFit(best.number, best.epochs)


class HeadTrainer:
    """The heads, their objective and optimiser, and the steps of all epochs.

    Attributes:
        completed: the towers as they rank, of the last validation.
    """

    def __init__(
        self,
        pairs: FeaturePairs,
        settings: HeadSettings,
        training: HeadTraining,
        kind: Callable[[Any, FeaturePairs], Objective],
    ) -> None:
        self.pairs, self.settings, self.training = pairs, settings, training
        self.towers = make_heads(pairs, settings).to(training.device)
        self.objective = kind(settings, pairs).to(training.device)
        self.completed = self.towers
        parameters = [p for module in (self.towers, self.objective) for p in module.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        # All batches are drawn at the start, because the step size depends on how many steps there will be.
        self.plan = [
            list(pairs.draw_batches(settings.batch_size, training.seed, epoch)) for epoch in range(settings.epochs)
        ]
        self.steps, self.step = sum(map(len, self.plan)), 0
        self.own_captions = pairs.list_captions() if training.listwise else np.empty((0, 0), np.int64)

    def train_epoch(self, number: int) -> EpochFigures:
        """Train the epoch of a number, from 1; returns the mean loss.

        Raises:
            DataError: the loss is not finite.
        """
        self.towers.train()
        losses = []
        # One epoch's batches; no batch holds two captions of one image.
        for images, captions in self.plan[number - 1]:
            # Set before each step: one cycle over all steps of all epochs.
            self.optimizer.param_groups[0]["lr"] = self.settings.learning_rate * share_of_rate(self.step, self.steps)
            loss = self.compute_loss(images, captions)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(float(loss.detach()))
            self.step += 1
        # Once an epoch is enough: weights that are not finite stay so.
        if not np.isfinite(losses).all():
            raise DataError(f"the loss is no longer finite at learning rate {self.settings.learning_rate:g}")
        return {"epoch": float(number), "train_loss": float(np.mean(losses))}

    def compute_loss(self, images: np.ndarray, captions: np.ndarray) -> Tensor:
        """The objective of one batch, perhaps mixed with S-NDCG.

        Args:
            images, captions: indices of its pairs, int64 [pairs] each.
        """
        pairs, training, device = self.pairs, self.training, self.training.device
        image = self.towers.image(torch.from_numpy(pairs.image[images]).to(device))
        text = self.towers.text(torch.from_numpy(pairs.text[captions]).to(device))
        listwise = None
        if training.listwise:
            relevance = pairs.rate_captions(images, captions, self.own_captions).to(device)
            unit = F.normalize(image, dim=1), F.normalize(text, dim=1)
            listwise = objectives.listwise_loss(*unit, relevance, temperature=self.settings.listwise_temperature)
        # With S-NDCG alone, the pairwise objective is not computed at all: its parameters get no gradient.
        if training.listwise == 1:
            assert listwise is not None
            return listwise
        pairwise = self.objective(image, text, torch.from_numpy(images).to(device))
        return objectives.mix_losses(pairwise, listwise, training.listwise)

    def validate(self) -> EpochFigures:
        """The figures of the towers as they rank."""
        self.completed = complete_towers(self.towers, self.pairs, self.settings)
        return self.training.validate(self.completed)


def share_of_rate(step: int, steps: int) -> float:
    """The step size as a share of its highest: a linear rise, then a cosine to zero."""
    warm = max(1, round(WARM_SHARE * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(1, steps - warm))))


def complete_towers(towers: ProjectionTowers, pairs: FeaturePairs, settings: HeadSettings) -> ProjectionTowers:
    """The towers as they rank: DCCA's end in a linear CCA of what the networks make of the pairs."""
    towers.eval()
    # Other heads rank by the cosine of what they project.
    if not isinstance(settings, DccaSettings):
        return towers
    with torch.inference_mode():
        device = next(towers.parameters()).device
        image, text = (
            tower(torch.from_numpy(rows).to(device)).double().cpu().numpy()
            for tower, rows in ((towers.image, pairs.image), (towers.text, pairs.text))
        )
    paired = image[pairs.owner], text
    weights = linear_cca(*paired, settings.linear_ridge, settings.dimensions)[:2]
    # The linear CCA becomes the last layer of both towers.
    last = ("linear", {"in_features": settings.dimensions, "out_features": settings.dimensions})
    whole = ProjectionTowers([*towers.layers["image"], last], [*towers.layers["text"], last])
    for side, done, own, rows in zip(
        (whole.image, whole.text), (towers.image, towers.text), weights, paired, strict=True
    ):
        side[:-1].load_state_dict(done.state_dict())
        final = {"weight": torch.from_numpy(np.array(own.T)), "bias": torch.from_numpy(-rows.mean(0) @ own)}
        side[-1].load_state_dict({name: tensor.float() for name, tensor in final.items()})
    return whole.eval()


def copy_towers(towers: ProjectionTowers) -> ProjectionTowers:
    """A copy on the CPU."""
    # Built from the layers, because a deep copy would stay on the device.
    twin = ProjectionTowers(towers.layers["image"], towers.layers["text"])
    twin.load_state_dict({name: tensor.detach().cpu().clone() for name, tensor in towers.state_dict().items()})
    return twin.eval()

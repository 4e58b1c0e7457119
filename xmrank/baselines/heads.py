"""Baselines that are trained: projection heads under a pairwise objective, perhaps with S-NDCG, or under DCCA's."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmrank.baselines import objectives
from xmrank.baselines.closed import linear_cca
from xmrank.baselines.feature_pairs import FeaturePairs
from xmrank.baselines.towers import Layers, ProjectionTowers, standardised
from xmrank.runtime.errors import DataError

WARM_SHARE = 0.1
"""Of the steps: the step size rises, then falls as a cosine."""
Epoch = dict[str, float]


@dataclass(frozen=True)
class HeadSettings:
    """Settings of projection heads.

    Attributes:
        dimensions: of the common space.
        hidden: width of a hidden layer in each head; 0: heads are linear.
        dropout: share of the features that is dropped in training.
        epochs, batch_size (pairs), learning_rate, weight_decay: of AdamW, one cycle.
        listwise_temperature: of S-NDCG.
    """

    dimensions: int = 256
    hidden: int = 0
    dropout: float = 0.1
    epochs: int = 5
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    listwise_temperature: float = 0.01


@dataclass(frozen=True)
class VseppSettings(HeadSettings):
    """Settings of VSE++; margin: of the hinge."""

    margin: float = 0.2


@dataclass(frozen=True)
class InfonceSettings(HeadSettings):
    """Settings of InfoNCE heads; temperature: at the start, it is trained."""

    temperature: float = 0.07


@dataclass(frozen=True)
class DccaSettings(HeadSettings):
    """Settings of DCCA; ridge: in the objective, linear_ridge: in the linear CCA behind the networks."""

    dimensions: int = 128
    hidden: int = 1024
    dropout: float = 0.3
    epochs: int = 12
    batch_size: int = 2048
    ridge: float = 1e-3
    linear_ridge: float = 1e-4


@dataclass(frozen=True)
class HeadTraining:
    """What a trained baseline needs beside pairs and settings.

    Attributes:
        seed: of initial weights, data order and dropout.
        listwise: share of S-NDCG in the objective.
        select: the figures of the towers on the validation lists, validation_mean among them.
        on_epoch: called after each epoch with its figures.
    """

    seed: int
    device: torch.device
    select: Callable[[ProjectionTowers], Epoch]
    listwise: float = 0.0
    on_epoch: Callable[[Epoch], object] = lambda epoch: None  # noqa: ARG005


@dataclass
class BestHead:
    """The towers of the best epoch so far (the earliest on ties), and all epochs' figures."""

    towers: ProjectionTowers | None = None
    value: float = -1.0
    number: int = 0
    epochs: list[Epoch] = field(default_factory=list)


class Objective(nn.Module):
    """A pairwise objective of raw projections, with what parameters it has of its own.

    Called with the raw projections of a batch's images and texts, [pairs, d] each, and the places of its images.
    """

    def forward(self, image: Tensor, text: Tensor, places: Tensor) -> Tensor:
        """A scalar."""
        raise NotImplementedError


class Vsepp(Objective):
    """The hardest-negative triplet hinge of cosines."""

    def __init__(self, settings: VseppSettings, _pairs: FeaturePairs) -> None:
        super().__init__()
        self.margin = settings.margin

    def forward(self, image: Tensor, text: Tensor, places: Tensor) -> Tensor:  # noqa: ARG002
        return objectives.vsepp(F.normalize(image, dim=1), F.normalize(text, dim=1), margin=self.margin)


class Infonce(Objective):
    """Cross-entropy of cosines over a temperature that is trained, 0.01 at least."""

    def __init__(self, settings: InfonceSettings, _pairs: FeaturePairs) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(1 / settings.temperature).log())

    def forward(self, image: Tensor, text: Tensor, places: Tensor) -> Tensor:  # noqa: ARG002
        scale = self.log_scale.exp().clamp(max=100)
        return objectives.infonce(F.normalize(image, dim=1), F.normalize(text, dim=1), scale)


class Cmpm(Objective):
    """Cross-modal projection matching; an image with its captions is one label."""

    def __init__(self, settings: HeadSettings, _pairs: FeaturePairs) -> None:  # noqa: ARG002
        super().__init__()

    def forward(self, image: Tensor, text: Tensor, places: Tensor) -> Tensor:
        return objectives.cmpm(image, text, places)


class CmpmCmpc(Objective):
    """CMPM plus classification of each image and its captions as a class of their own."""

    def __init__(self, settings: HeadSettings, pairs: FeaturePairs) -> None:
        super().__init__()
        self.classes = nn.Parameter(nn.init.xavier_uniform_(torch.empty(settings.dimensions, len(pairs.image))))

    def forward(self, image: Tensor, text: Tensor, places: Tensor) -> Tensor:
        return objectives.cmpm(image, text, places) + objectives.cmpc(image, text, places, self.classes)


class Dcca(Objective):
    """Minus the sum of the batch's canonical correlations."""

    def __init__(self, settings: DccaSettings, _pairs: FeaturePairs) -> None:
        super().__init__()
        self.ridge = settings.ridge

    def forward(self, image: Tensor, text: Tensor, places: Tensor) -> Tensor:  # noqa: ARG002
        return objectives.dcca(image.double(), text.double(), ridge=self.ridge)


def head(width: int, settings: HeadSettings) -> Layers:
    """The layers of one projection head."""
    layers: list[tuple[str, dict[str, Any]]] = [("dropout", {"p": settings.dropout})]
    if settings.hidden:
        layers += [("linear", {"in_features": width, "out_features": settings.hidden}), ("relu", {})]
        width = settings.hidden
    return [*layers, ("linear", {"in_features": width, "out_features": settings.dimensions})]


def make_heads(pairs: FeaturePairs, settings: HeadSettings) -> ProjectionTowers:
    """Untrained heads behind the standardisation of each side."""
    sides = [standardised(head(rows.shape[1], settings), rows) for rows in (pairs.image, pairs.text)]
    towers = ProjectionTowers(*(layers for layers, _ in sides))
    for tower, (_, first) in zip((towers.image, towers.text), sides, strict=True):
        tower[0].load_state_dict(first.state_dict())
    return towers


def train_heads(
    pairs: FeaturePairs, settings: HeadSettings, training: HeadTraining, kind: Callable[[Any, FeaturePairs], Objective]
) -> tuple[ProjectionTowers, BestHead]:
    """Train projection heads and keep those of the best epoch.

    Returns:
        The best epoch's towers on the CPU, and the figures of all epochs.

    Raises:
        DataError: the loss is not finite.
    """
    with torch.random.fork_rng(devices=[training.device] if training.device.type == "cuda" else []):
        torch.manual_seed(training.seed)
        towers = make_heads(pairs, settings).to(training.device)
        objective = kind(settings, pairs).to(training.device)
        best = BestHead()
        for number, loss in enumerate(epochs_of(pairs, settings, training, towers, objective), 1):
            whole = completed(towers, pairs, settings)
            epoch = {"epoch": float(number), "train_loss": loss, **training.select(whole)}
            best.epochs.append(epoch)
            if epoch["validation_mean"] > best.value:
                best.value, best.number = epoch["validation_mean"], number
                best.towers = copied(whole)
            training.on_epoch(epoch)
    assert best.towers
    return best.towers, best


def epochs_of(
    pairs: FeaturePairs, settings: HeadSettings, training: HeadTraining, towers: ProjectionTowers, objective: Objective
) -> Iterator[float]:
    """Train; yields the mean loss of each epoch."""
    parameters = [p for module in (towers, objective) for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    plan = [list(pairs.batches(settings.batch_size, training.seed, epoch)) for epoch in range(settings.epochs)]
    steps, step = sum(map(len, plan)), 0
    table = pairs.own_captions() if training.listwise else np.empty((0, 0), np.int64)
    for batches in plan:
        towers.train()
        losses = []
        for images, captions in batches:
            optimizer.param_groups[0]["lr"] = settings.learning_rate * share_of_rate(step, steps)
            loss = loss_of(pairs, settings, training, towers, objective, images, captions, table)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            step += 1
        if not np.isfinite(losses).all():
            raise DataError(f"the loss is no longer finite at learning rate {settings.learning_rate:g}")
        yield float(np.mean(losses))


def loss_of(
    pairs: FeaturePairs,
    settings: HeadSettings,
    training: HeadTraining,
    towers: ProjectionTowers,
    objective: Objective,
    images: np.ndarray,
    captions: np.ndarray,
    table: np.ndarray,
) -> Tensor:
    """The objective of one batch."""
    inputs = (pairs.image[images], pairs.text[captions])
    image, text = (
        tower(torch.from_numpy(rows).to(training.device))
        for tower, rows in zip((towers.image, towers.text), inputs, strict=True)
    )
    ranked = None
    if training.listwise:
        relevance = pairs.relevance_of(images, captions, table).to(training.device)
        unit = F.normalize(image, dim=1), F.normalize(text, dim=1)
        ranked = objectives.listwise(*unit, relevance, temperature=settings.listwise_temperature)
    if training.listwise == 1:
        assert ranked is not None
        return ranked
    return objectives.mixed(
        objective(image, text, torch.from_numpy(images).to(training.device)), ranked, training.listwise
    )


def share_of_rate(step: int, steps: int) -> float:
    """The step size as a share of its highest: a linear rise, then a cosine to zero."""
    warm = max(1, round(WARM_SHARE * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(1, steps - warm))))


def completed(towers: ProjectionTowers, pairs: FeaturePairs, settings: HeadSettings) -> ProjectionTowers:
    """The towers as they rank: DCCA's end in a linear CCA of what the networks make of the pairs."""
    towers.eval()
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
    last = ("linear", {"in_features": settings.dimensions, "out_features": settings.dimensions})
    whole = ProjectionTowers([*towers.layers["image"], last], [*towers.layers["text"], last])
    for side, done, own, rows in zip(
        (whole.image, whole.text), (towers.image, towers.text), weights, paired, strict=True
    ):
        side[:-1].load_state_dict(done.state_dict())
        final = {"weight": torch.from_numpy(np.array(own.T)), "bias": torch.from_numpy(-rows.mean(0) @ own)}
        side[-1].load_state_dict({name: tensor.float() for name, tensor in final.items()})
    return whole.eval()


def copied(towers: ProjectionTowers) -> ProjectionTowers:
    """A copy on the CPU."""
    twin = ProjectionTowers(towers.layers["image"], towers.layers["text"])
    twin.load_state_dict({name: tensor.detach().cpu().clone() for name, tensor in towers.state_dict().items()})
    return twin.eval()

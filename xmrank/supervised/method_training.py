"""What the training of every method shares: batches, early stopping on validation, the best state kept."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmrank.metrics import average_precision
from xmrank.supervised.labelled_set import LabelledItems, LabelledSet
from xmrank.supervised.two_stage_knn import TwoStageRanking, by_distance, two_stage
from xmrank.train.fit_loop import BestEpoch, EpochFigures, ReportEpoch, fit_epochs, ignore_epoch

Side = Literal["image", "text"]
EMBED_ROWS = 8192


class TwoSides(nn.Module):
    """A network for each modality into a common space where Euclidean distance tells what is alike."""

    image: nn.Module
    text: nn.Module

    @torch.no_grad()
    def embed(self, side: Side, features: np.ndarray) -> np.ndarray:
        """Features in the common space, float32 [items, d], with the network in evaluation mode."""
        self.eval()
        network, device = getattr(self, side), next(self.parameters()).device
        parts = [network(torch.from_numpy(features[i : i + EMBED_ROWS]).to(device)) for i in list_starts(features)]
        return torch.cat(parts).float().cpu().numpy()


class UnitLength(nn.Module):
    """Rows at unit length."""

    def forward(self, rows: Tensor) -> Tensor:
        """[rows, d] → [rows, d]."""
        return F.normalize(rows, dim=1)


@dataclass(frozen=True)
class FittedMethod:
    """A trained method.

    Attributes:
        embed: (side, features) → float32 [items, d].
        train_labels: what stage 1 counts, bool [training items, classes or clusters].
        own_labels: whether these are the set's labels; False for clusters, which the retrieval set does not have.
        history: of each round: losses and the validation mAP.
        best_round: the one that was kept; 0 without training.
        module: None for embeddings as they are.
        binary: whether what is embedded are hash codes of ±1, searched by Hamming distance.
    """

    embed: Callable[[Side, np.ndarray], np.ndarray]
    train_labels: np.ndarray
    own_labels: bool = True
    history: list[EpochFigures] = field(default_factory=list)
    best_round: int = 0
    module: TwoSides | None = None
    binary: bool = False


def list_starts(rows: np.ndarray) -> range:
    """Where the parts of a large array begin."""
    return range(0, len(rows), EMBED_ROWS)


def draw_batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """All rows in random order, ``size`` at a time; a single last row joins the part before: batch norm needs two."""
    # The generator is the method's own, so that dropout does not change the order of items.
    parts = list(torch.randperm(count, generator=generator).split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    yield from parts


def train_module(
    module: TwoSides,
    train_epoch: Callable[[], EpochFigures],
    validate: Callable[[], float],
    *,
    epochs: int,
    patience: int,
    report: ReportEpoch = ignore_epoch,
) -> BestEpoch[dict[str, Tensor]]:
    """Train until the validation mAP has not risen for ``patience`` epochs; the module is left in its best state.

    Args:
        module: what is trained.
        train_epoch: trains an epoch; returns its losses.
        validate: the mAP of the module on validation.
        epochs: most epochs.
        patience: epochs without a better mAP.
        report: called with the figures of every epoch.
    """

    def train_in_training_mode(_number: int) -> EpochFigures:
        module.train()  # validation puts it in evaluation mode
        return train_epoch()

    best = fit_epochs(
        train_in_training_mode,
        lambda: {"validation_map": validate()},
        lambda: {name: tensor.clone() for name, tensor in module.state_dict().items()},
        metric="validation_map",
        epochs=epochs,
        patience=patience,
        report_epoch=report,
    )
    module.load_state_dict(best.state)
    return best


def fit_pairs(
    module: TwoSides,
    adam: torch.optim.Optimizer,
    loss_of: Callable[[Tensor, Tensor, Tensor], Tensor],
    data: LabelledSet,
    *,
    batch_size: int,
    epochs: int,
    patience: int,
    seed: int,
    report: ReportEpoch = ignore_epoch,
) -> FittedMethod:
    """Train a module on pairs and their labels by one loss; stops on the mAP of validation by distance.

    Args:
        module: on the device to train on.
        adam: of its parameters.
        loss_of: of a batch's image features, text features and labels (0 or 1).
        data: the set.
        batch_size: pairs a step.
        epochs, patience, report: as for ``train_module``.
        seed: of the order of pairs.
    """
    device = next(module.parameters()).device
    image, text = (torch.from_numpy(side).to(device) for side in (data.train.image, data.train.text))
    labels = torch.from_numpy(data.train.labels).float().to(device)
    generator = torch.Generator().manual_seed(seed)

    def train_epoch() -> EpochFigures:
        losses = []
        for rows in draw_batches(len(labels), batch_size, generator):
            loss = loss_of(image[rows], text[rows], labels[rows])
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses.append(float(loss.detach()))
        return {"total": sum(losses) / len(losses)}

    best = train_module(
        module, train_epoch, lambda: naive_map(module, data.validation), epochs=epochs, patience=patience, report=report
    )
    return FittedMethod(module.embed, data.train.labels, history=best.epochs, best_round=best.number, module=module)


def naive_map(module: TwoSides, items: LabelledItems) -> float:
    """Mean over both directions of the mAP by distance, where the items are both queries and retrieval set."""
    image, text = module.embed("image", items.image), module.embed("text", items.text)
    return mean_map([by_distance(image, text), by_distance(text, image)], items.labels)


def two_stage_map(module: TwoSides, data: LabelledSet, neighbours: int) -> float:
    """The same of the validation items by two-stage search over the training items."""
    sides = {
        side: (
            module.embed(side, getattr(data.validation, side)),
            module.embed(side, getattr(data.train, side)),
        )
        for side in ("image", "text")
    }
    (image, train_image), (text, train_text) = sides["image"], sides["text"]
    labels, own = data.train.labels, data.validation.labels
    results = [
        two_stage(image, train_image, labels, text, own, neighbours=neighbours),
        two_stage(text, train_text, labels, image, own, neighbours=neighbours),
    ]
    return mean_map(results, own)


def mean_map(rankings: list[TwoStageRanking], labels: np.ndarray) -> float:
    """The mean of several rankings' mAP, where the items with these labels are queries and retrieval set."""
    return float(np.mean([np.nanmean(average_precisions(ranking, labels, labels)) for ranking in rankings]))


def average_precisions(ranking: TwoStageRanking, query_labels: np.ndarray, item_labels: np.ndarray) -> np.ndarray:
    """Average precision of every query, float64 [queries]; NaN where nothing shares a label with it."""
    return average_precision(share_a_label(ranking, query_labels, item_labels), tied=ranking.tied)


def share_a_label(ranking: TwoStageRanking, query_labels: np.ndarray, item_labels: np.ndarray) -> np.ndarray:
    """Whether each ranked item is relevant: it shares a label with its query; bool [queries, items]."""
    # Float32 counts shared labels exactly and multiplies faster than integers.
    shared = query_labels.astype(np.float32) @ item_labels.astype(np.float32).T > 0
    return np.take_along_axis(shared, ranking.order, axis=1)

"""ACMR: embeddings predict labels, triplets order them, and an adversary cannot tell their modality."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmrank.config.supervised import SupervisedConfig
from xmrank.config.supervised_methods import AcmrConfig
from xmrank.supervised.labelled_set import LabelledSet
from xmrank.supervised.method_training import FittedMethod, TwoSides, UnitLength, fit_pairs
from xmrank.train.fit_loop import ReportEpoch


def label_loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """L_imd of one modality: cross entropy of label predictions; several labels share the target evenly.

    Args:
        logits: [items, classes].
        labels: 0 or 1, [items, classes].

    Source: Wang et al., "Adversarial cross-modal retrieval", ACM Multimedia 2017, equation 3.
    """
    counts = labels.sum(dim=1, keepdim=True)
    losses = -(labels / counts.clamp(min=1) * F.log_softmax(logits, dim=1)).sum(dim=1)
    return losses.sum() / (counts > 0).sum().clamp(min=1)


def triplet_loss_of(
    anchors: Tensor, others: Tensor, labels: Tensor, *, margin: float = 0.1, weight: float = 1.0
) -> Tensor:
    """L_imi of one modality: near to the other modality's items of the same label, away from those of other labels.

    Definition: the mean over anchors of [mean over j of the same label of ‖a − o_j‖ + λ max(0, μ − min over k of other
    labels of ‖a − o_k‖)]. An anchor without an item of another label in the batch has no second part.

    Args:
        anchors, others: embeddings of the two modalities, [pairs, d].
        labels: of the pairs, 0 or 1, [pairs, classes].
        margin, weight: μ and λ.

    Source: the same, equations 5 to 7, with the nearest other item as its k.
    """
    distances = pair_distances(anchors, others)
    shared = labels @ labels.T > 0
    near = (distances * shared).sum(dim=1) / shared.sum(dim=1).clamp(min=1)
    # Infinite distances of items with the same label never are the smallest; margin − ∞ is cut to 0.
    far = F.relu(margin - distances.masked_fill(shared, torch.inf).amin(dim=1))
    return (near + weight * far).mean()


def acmr_loss(
    image: Tensor,
    text: Tensor,
    image_logits: Tensor,
    text_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float,
    beta: float,
    margin: float = 0.1,
    weight: float = 1.0,
    matrices: Sequence[Tensor] = (),
    decay: float = 1.0,
) -> Tensor:
    """L_emb = α (L_imi of images + L_imi of texts) + β (L_imd of images + L_imd of texts) + L_reg.

    The embedding networks minimise L_emb − L_adv, the adversary L_adv (``adversary_loss_of``).

    Args:
        image, text: embeddings, [pairs, d] each.
        image_logits, text_logits: of labels, [pairs, classes].
        labels: 0 or 1, [pairs, classes].
        alpha, beta: weights.
        margin, weight: of ``triplet_loss_of``.
        matrices: the weight matrices of both embedding networks, for L_reg = decay · Σ ‖W‖²_F; none leaves it out.
        decay: weight of L_reg.

    Source: the same, equation 8.
    """
    pairs = ((image, text), (text, image))
    alike = [triplet_loss_of(anchors, others, labels, margin=margin, weight=weight) for anchors, others in pairs]
    told = label_loss_of(image_logits, labels) + label_loss_of(text_logits, labels)
    loss = alpha * (alike[0] + alike[1]) + beta * told
    return loss + decay * torch.stack([matrix.square().sum() for matrix in matrices]).sum() if matrices else loss


def pair_distances(one: Tensor, other: Tensor) -> Tensor:
    """‖a − o‖ of all pairs, with a finite gradient where they coincide, [rows, others]."""
    squared = one.square().sum(1, keepdim=True) + other.square().sum(1) - 2 * one @ other.T
    return squared.clamp(min=1e-12).sqrt()


def adversary_loss_of(image_logits: Tensor, text_logits: Tensor) -> Tensor:
    """L_adv: how badly the modality is told, −1/n Σ [log D(v) + log(1 − D(t))].

    Args:
        image_logits, text_logits: of "it is an image", [pairs].

    Source: the same, equation 2.
    """
    return -(F.logsigmoid(image_logits) + F.logsigmoid(-text_logits)).mean()


class FlipGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by −strength."""

    @staticmethod
    def forward(context: torch.autograd.function.FunctionCtx, rows: Tensor, strength: float) -> Tensor:
        """Rows as they are."""
        context.strength = strength  # type: ignore[attr-defined]
        return rows.view_as(rows)

    @staticmethod
    def backward(context: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        """The gradient reversed; none for the strength."""
        return -context.strength * gradients[0], None  # type: ignore[attr-defined]


class Acmr(TwoSides):
    """Three layers with tanh for each modality, a linear label classifier, and three layers that tell the modality."""

    image: nn.Sequential
    text: nn.Sequential

    def __init__(self, image: int, text: int, classes: int, config: AcmrConfig) -> None:
        super().__init__()
        self.config, size = config, config.dimensions
        self.image, self.text = (
            nn.Sequential(
                *(nn.Linear(inputs, config.width), nn.Tanh()),
                *(nn.Linear(config.width, config.second_width), nn.Tanh()),
                *(nn.Linear(config.second_width, size), nn.Tanh(), UnitLength()),
            )
            for inputs in (image, text)
        )
        self.classifier = nn.Linear(size, classes)
        self.adversary = nn.Sequential(
            *(nn.Linear(size, max(1, size // 2)), nn.ReLU()),
            *(nn.Linear(max(1, size // 2), max(1, size // 4)), nn.ReLU(), nn.Linear(max(1, size // 4), 1)),
        )

    def compute_loss(self, image: Tensor, text: Tensor, labels: Tensor) -> Tensor:
        """α L_imi + β L_imd + ω L_reg, plus L_adv behind a layer that turns the gradient of the embeddings around."""
        own = self.config
        one, other = self.image[:-1](image), self.text[:-1](text)
        logits = self.classifier(one), self.classifier(other)
        loss = acmr_loss(
            one,
            other,
            logits[0],
            logits[1],
            labels,
            alpha=own.alpha,
            beta=own.beta,
            margin=own.margin,
            weight=own.triplet_weight,
            matrices=tuple(self._embedding_weights()),
            decay=own.decay,
        )
        flipped = [self.adversary(FlipGradient.apply(side, own.adversary)).squeeze(1) for side in (one, other)]
        return loss + adversary_loss_of(flipped[0], flipped[1])

    def _embedding_weights(self) -> Iterator[Tensor]:
        """The weight matrices of both embedding networks; biases are not in L_reg."""
        for side in (self.image, self.text):
            yield from (weights for weights in side.parameters() if weights.ndim == 2)


def fit_acmr(
    data: LabelledSet, config: SupervisedConfig, seed: int, device: torch.device, report: ReportEpoch
) -> FittedMethod:
    """ACMR; stops on the mAP of validation by distance."""
    own = config.acmr
    module = Acmr(*data.widths, own).to(device)
    return fit_pairs(
        module,
        torch.optim.Adam(module.parameters(), lr=own.learning_rate, betas=(0.5, 0.999), fused=True),
        module.compute_loss,
        data,
        batch_size=own.batch_size,
        epochs=own.epochs,
        patience=config.patience,
        report=report,
        seed=seed,
    )

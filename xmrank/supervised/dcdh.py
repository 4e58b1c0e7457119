"""DCDH on features: outputs of both modalities, of labels and of their outer products meet in common binary codes."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmrank.config.supervised import SupervisedConfig
from xmrank.config.supervised_methods import DcdhConfig
from xmrank.supervised.hash_codes import Signs, signs_of
from xmrank.supervised.labelled_set import LabelledSet
from xmrank.supervised.method_training import FittedMethod, TwoSides, draw_batches, naive_map, train_module
from xmrank.train.fit_loop import EpochFigures, ReportEpoch


def balanced_similarity(labels: Tensor, others: Tensor) -> Tensor:
    """1 for items that share a label and −r for others, r = pairs that share one / pairs that do not.

    Args:
        labels, others: 0 or 1, [items, classes] and [others, classes].

    Returns:
        [items, others]; all 1 where every pair shares a label.

    Source: the public code of Jiang and Li's asymmetric hashing, as of ``asymmetric_loss``.
    """
    shared = (labels @ others.T > 0).to(labels.dtype)
    ratio = shared.sum() / (1 - shared).sum().clamp(min=1)
    return shared * (1 + ratio) - ratio


def asymmetric_loss(outputs: Tensor, codes: Tensor, own: Tensor, similarity: Tensor, *, gamma: float) -> Tensor:
    """How far products of outputs and codes are from similarities, and outputs from their codes.

    Definition: (Σ (u · vⱼ − k Sᵢⱼ)² + γ Σ ‖vᵢ − uᵢ‖²) / (items · codes).

    Args:
        outputs: u of a batch, [items, k], from −1 to 1.
        codes: v of the training items, ±1, [codes, k].
        own: the batch's own codes, [items, k].
        similarity: S of the batch and the training items, [items, codes].
        gamma: γ.

    Source: Wang et al., "Deep collaborative discrete hashing with semantic-invariant structure", SIGIR 2019 (arXiv
        1911.01565), section 2, and TMM 2021; Jiang and Li, "Asymmetric deep supervised hashing", AAAI 2018, equation 2.
    """
    square = (outputs @ codes.T - outputs.shape[1] * similarity).square().sum()
    return (square + gamma * (own - outputs).square().sum()) / (len(outputs) * len(codes))


def focal_loss(logits: Tensor, labels: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Binary cross entropy in which what is predicted well counts little; the mean over items and classes.

    Definition: w (1 − p)^γ · −log p, p the probability of the true answer, w = α for a label and 1 − α for none.

    Args:
        logits: [items, classes].
        labels: 0 or 1, [items, classes].
        alpha, gamma: α and γ.

    Source: Lin et al., "Focal loss for dense object detection", ICCV 2017, equation 5; of label predictions in DCDH.
    """
    chance = logits.sigmoid()
    right = chance * labels + (1 - chance) * (1 - labels)
    weight = (alpha * labels + (1 - alpha) * (1 - labels)) * (1 - right).pow(gamma)
    return (weight * F.binary_cross_entropy_with_logits(logits, labels, reduction="none")).mean()


def product_loss(
    logits: Tensor,
    outputs: Tensor,
    told: Tensor,
    labels: Tensor,
    asymmetric: Tensor,
    *,
    distance_weight: float = 0.01,
) -> Tensor:
    """Of the outputs for outer products: their asymmetric loss + focal loss of labels + d · mean ‖u − l‖².

    Args:
        logits: of labels, out of the outputs for outer products of u and l, [items, classes].
        outputs, told: u of a modality and l of the label network, [items, k] each.
        labels: 0 or 1, [items, classes].
        asymmetric: the ``asymmetric_loss`` of the outputs for outer products, a scalar.
        distance_weight: d.

    Source: as for ``asymmetric_loss``.
    """
    apart = (outputs - told).square().sum(dim=1).mean()
    return asymmetric + focal_loss(logits, labels) + distance_weight * apart


def dcdh_loss(
    outputs: Sequence[Tensor],
    told: Tensor,
    joined: Sequence[Tensor],
    logits: Sequence[Tensor],
    labels: Tensor,
    codes: Tensor,
    own: Tensor,
    similarity: Tensor,
    *,
    gamma: float = 200.0,
    label_weight: float = 0.5,
    product_weight: float = 0.5,
    distance_weight: float = 0.01,
) -> Tensor:
    """The loss of a batch of pairs.

    Definition: Σ over both modalities of [asym(u) + μ (asym(h) + focal + d ‖u − l‖²)], plus λ asym(l), where asym is
    ``asymmetric_loss``, h the output for the outer product of u and l, and the distance of u and l a mean over items.

    Args:
        outputs: u of images and of texts, [items, k] each.
        told: l, outputs of the label network, [items, k].
        joined: h of images and of texts, [items, k] each.
        logits: of labels, out of h of images and of texts, [items, classes] each.
        labels: 0 or 1, [items, classes].
        codes, own, similarity, gamma: as for ``asymmetric_loss``.
        label_weight, product_weight, distance_weight: λ, μ and d.

    Source: as for ``asymmetric_loss``, with texts as a second modality.
    """

    def measure(rows: Tensor) -> Tensor:
        return asymmetric_loss(rows, codes, own, similarity, gamma=gamma)

    total = label_weight * measure(told)
    for rows, products, predicted in zip(outputs, joined, logits, strict=True):
        product = product_loss(predicted, rows, told, labels, measure(products), distance_weight=distance_weight)
        total = total + measure(rows) + product_weight * product
    return total


def update_codes(codes: Tensor, outputs: Sequence[tuple[float, Tensor]], similarity: Tensor, *, gamma: float) -> Tensor:
    """Codes that lower Σ_o w_o (‖O Vᵀ − k S‖² + γ ‖V − O‖²), bit by bit.

    Definition: bit b of V becomes −sign(Σ_o w_o [2 V' O'ᵀ o_b − 2 k Sᵀ o_b − 2 γ o_b]), where ' leaves out bit b.

    Args:
        codes: V before, ±1, [items, k].
        outputs: weights w and outputs O of the items, [items, k] each.
        similarity: S, [items, items].
        gamma: γ.

    Source: Jiang and Li, AAAI 2018, equation 8 (discrete cyclic coordinate descent).
    """
    made, bits = codes.clone(), codes.shape[1]
    for bit in range(bits):
        rest = [other for other in range(bits) if other != bit]
        slope = torch.zeros_like(made[:, bit])
        for weight, rows in outputs:
            own = rows[:, bit]
            across = made[:, rest] @ (rows[:, rest].T @ own)
            slope += 2 * weight * (across - bits * similarity.T @ own - gamma * own)
        made[:, bit] = signs_of(-slope)
    return made


class Dcdh(TwoSides):
    """Two layers for each modality and for labels, and for the outer product of an item's output and its label's."""

    image: nn.Sequential
    text: nn.Sequential

    def __init__(self, image: int, text: int, classes: int, config: DcdhConfig) -> None:
        super().__init__()
        bits, width = config.bits, config.width
        self.image, self.text = (
            nn.Sequential(nn.Linear(d, width), nn.ReLU(), nn.Linear(width, bits), nn.Tanh(), Signs())
            for d in (image, text)
        )
        self.label = nn.Sequential(nn.Linear(classes, width), nn.ReLU(), nn.Linear(width, bits), nn.Tanh())
        self.product = nn.Sequential(nn.Linear(bits * bits, width), nn.ReLU(), nn.Linear(width, bits), nn.Tanh())
        self.classifier = nn.Linear(bits, classes)

    def join_outputs(self, rows: Tensor, labels: Tensor) -> Tensor:
        """The product network's output for an item's output and its label's, [items, bits]."""
        outer = torch.einsum("ib,ic->ibc", labels, rows).flatten(1)
        made: Tensor = self.product(outer)
        return made


class DcdhTrainer:
    """A round: an epoch of the networks on drawn items, then the codes of those items."""

    def __init__(self, module: Dcdh, data: LabelledSet, config: DcdhConfig, seed: int, device: torch.device) -> None:
        self.module, self.config = module, config
        self.sides = [torch.from_numpy(side).to(device) for side in (data.train.image, data.train.text)]
        self.labels = torch.from_numpy(data.train.labels).float().to(device)
        self.generator = torch.Generator().manual_seed(seed)
        coins = torch.rand(len(self.labels), config.bits, generator=self.generator)
        self.codes = signs_of(coins - 0.5).to(device)
        self.adam = torch.optim.Adam(module.parameters(), lr=config.learning_rate, fused=True)

    def train_round(self) -> EpochFigures:
        """Train the networks, then move the codes; returns the mean loss of the steps."""
        drawn = torch.randperm(len(self.labels), generator=self.generator)[: self.config.samples]
        losses = []
        for _ in range(self.config.passes):
            for batch in draw_batches(len(drawn), self.config.batch_size, self.generator):
                loss = self.compute_loss(drawn[batch], drawn)
                self.adam.zero_grad()
                loss.backward()
                self.adam.step()
                losses.append(float(loss.detach()))
        self._move_codes(drawn)
        return {"total": sum(losses) / len(losses)}

    def compute_loss(self, rows: Tensor, drawn: Tensor) -> Tensor:
        """The loss of some items, with the codes of all that are drawn."""
        own, module, labels = self.config, self.module, self.labels[rows]
        told = module.label(labels)
        outputs = [
            network[:-1](side[rows]) for network, side in zip((module.image, module.text), self.sides, strict=True)
        ]
        joined = [module.join_outputs(side, told) for side in outputs]
        return dcdh_loss(
            outputs,
            told,
            joined,
            [module.classifier(side) for side in joined],
            labels,
            self.codes[drawn],
            self.codes[rows],
            balanced_similarity(labels, self.labels[drawn]),
            gamma=own.gamma,
            label_weight=own.label_weight,
            product_weight=own.product_weight,
            distance_weight=own.distance_weight,
        )

    @torch.no_grad()
    def _move_codes(self, drawn: Tensor) -> None:
        module, own, labels = self.module.eval(), self.config, self.labels[drawn]
        told = module.label(labels)
        outputs = [(own.label_weight, told)]
        for network, features in ((module.image, self.sides[0]), (module.text, self.sides[1])):
            rows = network[:-1](features[drawn])
            outputs += [(1.0, rows), (own.product_weight, module.join_outputs(rows, told))]
        similarity = balanced_similarity(labels, labels)
        self.codes[drawn] = update_codes(self.codes[drawn], outputs, similarity, gamma=own.gamma)


def fit_dcdh(
    data: LabelledSet, config: SupervisedConfig, seed: int, device: torch.device, report: ReportEpoch
) -> FittedMethod:
    """DCDH without its image network; stops on the mAP of validation by Hamming distance."""
    module = Dcdh(*data.widths, config.dcdh).to(device)
    trainer = DcdhTrainer(module, data, config.dcdh, seed, device)
    best = train_module(
        module,
        trainer.train_round,
        lambda: naive_map(module, data.validation),
        epochs=config.dcdh.epochs,
        patience=config.patience,
        report=report,
    )
    return FittedMethod(
        module.embed, data.train.labels, history=best.epochs, best_round=best.number, module=module, binary=True
    )

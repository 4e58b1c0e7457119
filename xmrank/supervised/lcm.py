"""LCM: two light networks and a label autoencoder, trained in turn towards binary pivots."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

from xmrank.config.supervised import LcmConfig, SupervisedConfig
from xmrank.supervised.labelled_set import LabelledItems, LabelledSet, with_labels
from xmrank.supervised.method_training import FittedMethod, TwoSides, draw_batches, train_module, two_stage_map
from xmrank.train.fit_loop import EpochFigures, ReportEpoch


class Lcm(TwoSides):
    """F and G into the common space, and the label network Z of encoder E and decoder D.

    Args:
        image, text, classes: lengths of the inputs.
        config: widths and dropout.
    """

    def __init__(self, image: int, text: int, classes: int, config: LcmConfig) -> None:
        super().__init__()
        self.image, self.text = (self._make_side(inputs, config) for inputs in (image, text))
        self.encoder = nn.Sequential(nn.Linear(classes, config.dimensions), nn.Tanh())
        self.decoder = nn.Sequential(nn.Linear(config.dimensions, classes), nn.Sigmoid())

    @staticmethod
    def _make_side(inputs: int, config: LcmConfig) -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(inputs, config.width),
            nn.BatchNorm1d(config.width),
            nn.Sigmoid(),
            nn.Dropout(config.dropout),
            nn.Linear(config.width, config.dimensions),
            nn.Tanh(),
        )


def make_pivots(image: Tensor, text: Tensor, latent: Tensor | None, *, a: float, b: float, c: float) -> Tensor:
    """B = sign(a F + b G + c E) with sign(0) = +1: of all B of ±1, the one with the least ``pivot_loss``.

    Args:
        image, text: F and G, [items, d] each.
        latent: E, [items, d]; None stands for c = 0.
        a, b, c: weights.

    Returns:
        1 or −1, [items, d].

    Source: Gohil, Bithel and Bedathur, "LCM", CODS-COMAD 2023, equation 6.
    """
    weighted = a * image + b * text
    if latent is not None:
        weighted = weighted + c * latent
    return torch.where(weighted >= 0, 1.0, -1.0)


def squared_distance(output: Tensor, target: Tensor) -> Tensor:
    """L_F and L_G: the mean over items of the squared Euclidean distance of outputs and pivots.

    Args:
        output, target: [items, d] each.

    Source: the same, equations 3 and 4.
    """
    return (output - target).square().sum(dim=1).mean()


def label_loss(latent: Tensor, rebuilt: Tensor, labels: Tensor, pivots: Tensor, *, sigma: float = 1e-2) -> Tensor:
    """L_intra = ‖D(E(Y)) − Y‖² + σ ‖B − E(Y)‖², means over items.

    Args:
        latent: E(Y), [items, d].
        rebuilt: D(E(Y)), [items, classes].
        labels: Y, 0 or 1, [items, classes].
        pivots: B, [items, d].
        sigma: σ.

    Source: the same, equation 5.
    """
    return squared_distance(rebuilt, labels) + sigma * squared_distance(latent, pivots)


def pivot_loss(
    image: Tensor, text: Tensor, latent: Tensor, pivots: Tensor, *, a: float = 1e-2, b: float = 1e-2, c: float = 1e-1
) -> Tensor:
    """L_pivot = a ‖B − F‖² + b ‖B − G‖² + c ‖B − E(Y)‖², squared Frobenius norms: sums over items.

    Args:
        image, text, latent: F, G and E(Y), [items, d] each.
        pivots: B, [items, d].
        a, b, c: weights.

    Source: the same, section 3.1.3.
    """
    sides = (a, image), (b, text), (c, latent)
    return torch.stack([weight * (pivots - side).square().sum() for weight, side in sides]).sum()


def lcm_loss(
    image: Tensor,
    text: Tensor,
    latent: Tensor,
    rebuilt: Tensor,
    labels: Tensor,
    pivots: Tensor,
    *,
    a: float = 1e-2,
    b: float = 1e-2,
    c: float = 1e-1,
    sigma: float = 1e-2,
) -> Tensor:
    """What LCM minimises in turn: L_F + L_G + L_intra + L_pivot.

    Training lowers it part by part. What is logged as the total has means over items in L_pivot too.

    Args:
        image, text, latent, rebuilt, labels, pivots, a, b, c, sigma: as for ``label_loss`` and ``pivot_loss``.

    Source: the same, equations 1 and 2.
    """
    across = squared_distance(image, pivots) + squared_distance(text, pivots)
    within = label_loss(latent, rebuilt, labels, pivots, sigma=sigma)
    return across + within + pivot_loss(image, text, latent, pivots, a=a, b=b, c=c)


class LcmTrainer:
    """The alternating training: a round is an Adam epoch of F, of G and of Z, then the pivots."""

    def __init__(self, module: Lcm, data: LabelledSet, config: LcmConfig, seed: int, device: torch.device) -> None:
        self.module, self.config = module, config
        self.image, self.text = (torch.from_numpy(side).to(device) for side in (data.train.image, data.train.text))
        self.labels = torch.from_numpy(data.train.labels).float().to(device)
        self.generator = torch.Generator().manual_seed(seed)
        # The pivots start at random signs, as in the paper.
        coins = torch.rand(len(data.train), config.dimensions, generator=self.generator)
        self.pivots = torch.where(coins < 0.5, -1.0, 1.0).to(device)
        label_network = [*module.encoder.parameters(), *module.decoder.parameters()]
        self.adams = [
            torch.optim.Adam(parameters, lr=config.learning_rate, fused=True)
            for parameters in (module.image.parameters(), module.text.parameters(), label_network)
        ]

    def train_round(self) -> EpochFigures:
        """Train every network for an epoch, then move the pivots; returns the losses after that."""
        module = self.module
        self._train_epoch(
            self.adams[0], lambda rows: squared_distance(module.image(self.image[rows]), self.pivots[rows])
        )
        self._train_epoch(self.adams[1], lambda rows: squared_distance(module.text(self.text[rows]), self.pivots[rows]))
        # With c = 0 the label network has no part in the pivots and need not be trained.
        if self.config.c:
            self._train_epoch(
                self.adams[2],
                lambda rows: self.measure_labels(self.labels[rows], self.pivots[rows]),
            )
        return self._move_pivots()

    def _train_epoch(self, adam: torch.optim.Adam, loss_of: Callable[[Tensor], Tensor]) -> None:
        for rows in draw_batches(len(self.labels), self.config.batch_size, self.generator):
            loss = loss_of(rows)
            adam.zero_grad()
            loss.backward()
            adam.step()

    def measure_labels(self, labels: Tensor, pivots: Tensor) -> Tensor:
        """The label network's loss of some items, [items, classes] and [items, d]."""
        latent = self.module.encoder(labels)
        return label_loss(latent, self.module.decoder(latent), labels, pivots, sigma=self.config.sigma)

    @torch.no_grad()
    def _move_pivots(self) -> EpochFigures:
        module, config = self.module.eval(), self.config
        image, text = module.image(self.image), module.text(self.text)
        latent = module.encoder(self.labels) if config.c else None
        # All networks in evaluation mode: dropout and batch statistics would move the pivots at random.
        self.pivots = make_pivots(image, text, latent, a=config.a, b=config.b, c=config.c)
        losses = {"image": squared_distance(image, self.pivots), "text": squared_distance(text, self.pivots)}
        pivot = config.a * losses["image"] + config.b * losses["text"]
        if latent is not None:
            losses["label"] = self.measure_labels(self.labels, self.pivots)
            pivot = pivot + config.c * squared_distance(latent, self.pivots)
        losses["pivot"] = pivot
        return {name: float(loss) for name, loss in losses.items()} | {"total": float(sum(losses.values()))}


def fit_lcm(
    data: LabelledSet, config: SupervisedConfig, seed: int, device: torch.device, report: ReportEpoch
) -> FittedMethod:
    """LCM as the paper has it; stops on the two-stage mAP of validation.

    Source: Gohil, Bithel and Bedathur, "LCM: a surprisingly effective framework for supervised cross-modal retrieval",
        CODS-COMAD 2023, section 3.1.
    """
    module = Lcm(*data.widths, config.lcm).to(device)
    trainer = LcmTrainer(module, data, config.lcm, seed, device)
    best = train_module(
        module,
        trainer.train_round,
        lambda: two_stage_map(module, data, config.neighbours),
        epochs=config.lcm.rounds,
        patience=config.patience,
        report=report,
    )
    return FittedMethod(module.embed, data.train.labels, history=best.epochs, best_round=best.number, module=module)


def fit_lcm_kmeans(
    data: LabelledSet, config: SupervisedConfig, seed: int, device: torch.device, report: ReportEpoch
) -> FittedMethod:
    """LCM where clusters stand for labels, in the label network, in stage 1 and in validation: it sees no label at all.

    As many k-means clusters as there are classes, of the training pairs' image and text features side by side.
    """
    # As many clusters as classes, so that stage 1 has as much to count.
    count = min(len(data.classes), len(data.train))
    clusters = KMeans(count, n_init=4, random_state=seed).fit(_side_by_side(data.train))
    train, validation = (
        with_labels(items, clusters.predict(_side_by_side(items))[:, None] == np.arange(count))
        for items in (data.train, data.validation)
    )
    fitted = fit_lcm(replace(data, train=train, validation=validation), config, seed, device, report)
    return replace(fitted, own_labels=False)


def _side_by_side(items: LabelledItems) -> np.ndarray:
    return np.concatenate([items.image, items.text], axis=1)

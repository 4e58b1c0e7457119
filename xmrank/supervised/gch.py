"""GCH on features: a label network teaches both modalities, and a graph network over a batch refines their codes."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmrank.config.supervised import SupervisedConfig
from xmrank.config.supervised_methods import GchConfig
from xmrank.supervised.hash_codes import Signs, signs_of
from xmrank.supervised.labelled_set import LabelledSet
from xmrank.supervised.method_training import FittedMethod, TwoSides, draw_batches, naive_map, train_module
from xmrank.train.fit_loop import EpochFigures, ReportEpoch

SLOPE = 0.2
"""Of the leaky ReLUs."""


def likelihood_loss(one: Tensor, other: Tensor, shared: Tensor) -> Tensor:
    """The mean of log(1 + e^Θ) − S Θ with Θ = ½ h · h'.

    Args:
        one, other: hash outputs, [items, bits] each.
        shared: S, 1 where two items share a label, else 0, [items, items].

    Source: Xu et al., "Graph convolutional network hashing for cross-modal retrieval", IJCAI 2019, section 3; Jiang and
        Li, "Deep cross-modal hashing", CVPR 2017, equation 1.
    """
    theta = one @ other.T / 2
    return (F.softplus(theta) - shared * theta).mean()


def affinity_of(labels: Tensor) -> Tensor:
    """D^(−½) A D^(−½) with A the numbers of labels that items share, [items, items]; items without labels have none.

    Args:
        labels: 0 or 1, [items, classes].

    Source: as for ``likelihood_loss``.
    """
    together = labels @ labels.T
    scale = together.sum(dim=1).clamp(min=1).rsqrt()
    return scale[:, None] * together * scale


def teacher_loss(hashed: Tensor, logits: Tensor, labels: Tensor, shared: Tensor) -> Tensor:
    """Of the label network: the likelihood of its codes, and mean squared error of the labels that it rebuilds.

    Args:
        hashed: outputs of the label network, [items, bits].
        logits: of the labels, out of them, [items, classes].
        labels: 0 or 1, [items, classes].
        shared: S, as for ``likelihood_loss``.

    Source: as for ``likelihood_loss``.
    """
    return likelihood_loss(hashed, hashed, shared) + F.mse_loss(logits.sigmoid(), labels)


def student_loss(hashed: Tensor, logits: Tensor, codes: Tensor, labels: Tensor) -> Tensor:
    """Of a modality: mean squared distance to the teacher's codes, and of the labels that it predicts.

    Args:
        hashed: outputs of the modality, [items, bits].
        logits: of the labels, [items, classes].
        codes: of the label network, ±1, [items, bits].
        labels: 0 or 1, [items, classes].

    Source: as for ``likelihood_loss``.
    """
    return F.mse_loss(hashed, codes) + F.mse_loss(logits.sigmoid(), labels)


def graph_code_loss(hashed: Tensor, logits: Tensor, labels: Tensor, shared: Tensor) -> Tensor:
    """Of the graph network: the likelihood of its codes, and binary cross entropy of labels.

    Args:
        hashed, logits, labels, shared: as for ``teacher_loss``, of the graph network.

    Source: as for ``likelihood_loss``.
    """
    return likelihood_loss(hashed, hashed, shared) + F.binary_cross_entropy_with_logits(logits, labels)


def beacon_loss(hashed: Tensor, beacon: Tensor, codes: Tensor) -> Tensor:
    """Of a modality, second: mean squared distance to the graph network's outputs and to the teacher's codes.

    Args:
        hashed, beacon: outputs of the modality and of the graph network, [items, bits] each.
        codes: of the label network, ±1, [items, bits].

    Source: as for ``likelihood_loss``.
    """
    return F.mse_loss(hashed, beacon) + F.mse_loss(hashed, codes)


class Gch(TwoSides):
    """Two layers of features, a hash layer and label logits for each modality; the label and the graph network."""

    image: nn.Sequential
    text: nn.Sequential

    def __init__(self, image: int, text: int, classes: int, config: GchConfig) -> None:
        super().__init__()
        width, bits = config.width, config.bits
        self.image, self.text = (
            nn.Sequential(make_features(d, width), nn.Linear(width, bits), nn.Tanh(), Signs()) for d in (image, text)
        )
        self.image_labels, self.text_labels = nn.Linear(width, classes), nn.Linear(width, classes)
        self.teacher = nn.Sequential(make_features(classes, width), nn.Linear(width, bits), nn.Tanh())
        self.teacher_labels = nn.Linear(bits, classes)
        self.graph_first, self.graph_second = (
            nn.Linear(width, width, bias=False),
            nn.Linear(width, bits, bias=False),
        )
        self.graph_labels = nn.Linear(bits, classes)

    def convolve(self, features: Tensor, affinity: Tensor) -> Tensor:
        """tanh(Â relu(Â F W₁) W₂), [items, bits]."""
        hidden = F.relu(affinity @ self.graph_first(features))
        return torch.tanh(affinity @ self.graph_second(hidden))


def make_features(inputs: int, width: int) -> nn.Sequential:
    """Linear, batch norm, leaky ReLU, twice."""
    return nn.Sequential(
        *(nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.LeakyReLU(SLOPE)),
        *(nn.Linear(width, width), nn.BatchNorm1d(width), nn.LeakyReLU(SLOPE)),
    )


class GchTrainer:
    """A round: an epoch of the label network, of both modalities, of the graph network, of both modalities again."""

    def __init__(self, module: Gch, data: LabelledSet, config: GchConfig, seed: int, device: torch.device) -> None:
        self.module, self.config = module, config
        self.sides = [torch.from_numpy(side).to(device) for side in (data.train.image, data.train.text)]
        self.labels = torch.from_numpy(data.train.labels).float().to(device)
        self.generator = torch.Generator().manual_seed(seed)
        parts = {
            "teacher": (module.teacher, module.teacher_labels),
            "students": (module.image, module.text, module.image_labels, module.text_labels),
            "graph": (module.graph_first, module.graph_second, module.graph_labels),
        }
        self.adams = {
            name: torch.optim.Adam(
                [parameter for part in modules for parameter in part.parameters()], lr=config.learning_rate, fused=True
            )
            for name, modules in parts.items()
        }

    def train_round(self) -> EpochFigures:
        """Train every part for an epoch; returns their mean losses."""
        losses = {
            "teacher": self._train_epoch("teacher", self.measure_teacher),
            "students": self._train_epoch("students", self.measure_students),
            "graph": self._train_epoch("graph", self.measure_graph),
            "beacon": self._train_epoch("students", self.measure_beacon),
        }
        return {**losses, "total": sum(losses.values())}

    def _train_epoch(self, part: str, loss_of: Callable[[Tensor], Tensor]) -> float:
        adam, losses = self.adams[part], []
        for rows in draw_batches(len(self.labels), self.config.batch_size, self.generator):
            loss = loss_of(rows)
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses.append(float(loss.detach()))
        return sum(losses) / len(losses)

    def measure_teacher(self, rows: Tensor) -> Tensor:
        """The label network's loss of a batch."""
        labels, hashed = self.labels[rows], self.module.teacher(self.labels[rows])
        return teacher_loss(hashed, self.module.teacher_labels(hashed), labels, share_labels(labels))

    def measure_students(self, rows: Tensor) -> Tensor:
        """Both modalities' loss of a batch under the label network's codes."""
        codes, labels = self._teacher_codes(rows), self.labels[rows]
        total = torch.zeros((), device=labels.device)
        for network, side, head in self._students():
            features = network[0](side[rows])
            total = total + student_loss(network[1:3](features), head(features), codes, labels)
        return total

    def measure_graph(self, rows: Tensor) -> Tensor:
        """The graph network's loss of a batch; the modalities stay as they are."""
        labels = self.labels[rows]
        hashed = self.module.convolve(self._joined_features(rows), affinity_of(labels))
        return graph_code_loss(hashed, self.module.graph_labels(hashed), labels, share_labels(labels))

    def measure_beacon(self, rows: Tensor) -> Tensor:
        """Both modalities' loss of a batch under the graph network's outputs."""
        labels, codes = self.labels[rows], self._teacher_codes(rows)
        with torch.no_grad():
            beacon = self.module.convolve(self._joined_features(rows), affinity_of(labels))
        losses = [beacon_loss(network[:-1](side[rows]), beacon, codes) for network, side, _ in self._students()]
        return losses[0] + losses[1]

    def _students(self) -> tuple[tuple[nn.Sequential, Tensor, nn.Linear], ...]:
        module = self.module
        return (module.image, self.sides[0], module.image_labels), (module.text, self.sides[1], module.text_labels)

    @torch.no_grad()
    def _teacher_codes(self, rows: Tensor) -> Tensor:
        # In evaluation mode, so that an item's code does not depend on its batch.
        teacher = self.module.teacher.eval()
        codes = signs_of(teacher(self.labels[rows]))
        teacher.train()
        return codes

    @torch.no_grad()
    def _joined_features(self, rows: Tensor) -> Tensor:
        """The mean of both modalities' features."""
        features = [network[0](side[rows]) for network, side, _ in self._students()]
        return (features[0] + features[1]) / 2


def share_labels(labels: Tensor) -> Tensor:
    """1 where two items share a label, else 0, [items, items]."""
    return (labels @ labels.T > 0).to(labels.dtype)


def fit_gch(
    data: LabelledSet, config: SupervisedConfig, seed: int, device: torch.device, report: ReportEpoch
) -> FittedMethod:
    """GCH without its image network; stops on the mAP of validation by Hamming distance."""
    module = Gch(*data.widths, config.gch).to(device)
    trainer = GchTrainer(module, data, config.gch, seed, device)
    best = train_module(
        module,
        trainer.train_round,
        lambda: naive_map(module, data.validation),
        epochs=config.gch.epochs,
        patience=config.patience,
        report=report,
    )
    return FittedMethod(
        module.embed, data.train.labels, history=best.epochs, best_round=best.number, module=module, binary=True
    )

"""ALGCN: label classifiers come out of a graph network over the labels, whose graph is learned with them."""

from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmrank.config.supervised import SupervisedConfig
from xmrank.config.supervised_methods import AlgcnConfig
from xmrank.supervised.dscmr import dscmr_loss
from xmrank.supervised.labelled_set import LabelledSet
from xmrank.supervised.method_training import FittedMethod, TwoSides, UnitLength, fit_pairs
from xmrank.train.fit_loop import ReportEpoch

LEAST_PRODUCT = 1e-6
"""Added to the product of two lengths that a cosine is divided by, as in the authors' code."""


def label_graph(labels: np.ndarray, threshold: float) -> np.ndarray:
    """A: ½ where P(other | label) reaches the threshold, plus the identity, float64 [classes, classes].

    Args:
        labels: of training items, 0 or 1, [items, classes].
        threshold: t, least share of a label's items that carry the other label too.

    Source: as for ``algcn_loss``; the shares are those of Chen et al., "Multi-label image recognition with graph
        convolutional networks", CVPR 2019.
    """
    values = np.asarray(labels, np.float64)
    together = values.T @ values
    share = together / np.maximum(together.diagonal(), 1)[:, None]
    return 0.5 * (share >= threshold) + np.eye(len(share))


def normalise_graph(graph: Tensor) -> Tensor:
    """D^(−½) Aᵀ D^(−½), D the row sums of A, [classes, classes].

    Args:
        graph: A, at least 0, [classes, classes].

    Source: as for ``label_graph``, its public code.
    """
    scale = graph.sum(dim=1).clamp(min=LEAST_PRODUCT).rsqrt()
    return scale[:, None] * graph.T * scale


def graph_loss(adaptive: Tensor, graph: Tensor, drawn: Tensor) -> Tensor:
    """The self-supervision of the learned graph: mean squared distance to min(A + drawn edges, ½).

    Args:
        adaptive: the normalised learned graph, [classes, classes].
        graph: A.
        drawn: 0 or 1, edges drawn at random, which keep the graph from copying A.

    Source: as for ``algcn_loss``: the authors' code.
    """
    return F.mse_loss(adaptive, (graph + drawn).clamp(max=0.5))


def algcn_loss(
    image: Tensor,
    text: Tensor,
    image_predictions: Tensor,
    text_predictions: Tensor,
    labels: Tensor,
    *,
    alpha: float = 0.2,
) -> Tensor:
    """The loss of a batch of pairs, without the graph's own.

    Definition: Σ mean ‖p − y‖ over both modalities + α Σ mean[log(1 + e^Θ) − S Θ] over image–image, image–text and
    text–text; Θ = cos / 2, S = the number of labels that two items share: DSCMR's without its third part.

    Args:
        image, text: before they get unit length, [pairs, d] each.
        image_predictions, text_predictions: cosines with the classifiers (``predict_labels_by_cosine``), [pairs,
            classes] each.
        labels: 0 or 1, [pairs, classes].
        alpha: α.

    Source: Qian et al., "Adaptive label-aware graph convolutional networks for cross-modal retrieval", TMM 2021, and
        its authors' code.
    """
    return dscmr_loss(image, text, image_predictions, text_predictions, labels, alpha=alpha, beta=0.0)


class Algcn(TwoSides):
    """A layer with ReLU for each modality, and three graph layers whose outputs become one classifier a label."""

    image: nn.Sequential
    text: nn.Sequential
    graph: Tensor

    def __init__(self, image: int, text: int, graph: Tensor, config: AlgcnConfig) -> None:
        super().__init__()
        self.config, size, classes = config, config.dimensions, len(graph)
        self.image, self.text = (nn.Sequential(nn.Linear(d, size), nn.ReLU(), UnitLength()) for d in (image, text))
        self.register_buffer("graph", graph)
        self.words = nn.Parameter(torch.rand(classes, config.label_size))
        self.learned = nn.Parameter(0.02 * torch.rand(classes, classes))
        inputs = (config.label_size, size, size)
        self.layers = nn.ParameterList(torch.empty(d, size).uniform_(-(size**-0.5), size**-0.5) for d in inputs)
        self.classifiers = nn.Linear(3 * size, size)

    def adaptive_graph(self) -> Tensor:
        """relu(A + γB), normalised."""
        return normalise_graph(F.relu(self.graph + self.config.gamma * self.learned))

    def make_classifiers(self, graph: Tensor) -> Tensor:
        """A classifier for each label, [classes, d]."""
        rows: Tensor = self.words
        outputs: list[Tensor] = []
        for weights in self.layers:
            rows = F.leaky_relu(graph @ (rows @ weights), 0.2)
            outputs.append(rows)
        made: Tensor = self.classifiers(torch.cat(outputs, dim=1))
        return made

    def compute_loss(self, image: Tensor, text: Tensor, labels: Tensor, *, alpha: float, supervision: float) -> Tensor:
        """The loss of pairs of features and of the graph, once for each graph layer."""
        one, other, graph = self.image[:-1](image), self.text[:-1](text), self.adaptive_graph()
        classifiers = self.make_classifiers(graph)
        predictions = [predict_labels_by_cosine(side, classifiers) for side in (one, other)]
        drawn = [torch.bernoulli(torch.full_like(graph, self.config.drawn_edges)) for _ in self.layers]
        own = torch.stack([graph_loss(graph, self.graph, edges) for edges in drawn]).sum()
        return algcn_loss(one, other, predictions[0], predictions[1], labels, alpha=alpha) + supervision * own


def predict_labels_by_cosine(features: Tensor, classifiers: Tensor) -> Tensor:
    """Cosines of items and classifiers, [items, classes].

    Args:
        features: [items, d].
        classifiers: one a label, [classes, d].

    Source: as for ``algcn_loss``: the authors' code.
    """
    lengths = torch.linalg.vector_norm(features, dim=1)[:, None] * torch.linalg.vector_norm(classifiers, dim=1)
    return features @ classifiers.T / (lengths + LEAST_PRODUCT)


def fit_algcn(
    data: LabelledSet, config: SupervisedConfig, seed: int, device: torch.device, report: ReportEpoch
) -> FittedMethod:
    """ALGCN; the learned graph has a step size of its own. Stops on the mAP of validation by distance."""
    own = config.algcn
    graph = torch.from_numpy(label_graph(data.train.labels, own.threshold)).float()
    module = Algcn(*data.widths[:2], graph, own).to(device)
    others = [parameter for parameter in module.parameters() if parameter is not module.learned]
    groups: list[dict[str, Any]] = [
        {"params": others},
        {"params": [module.learned], "lr": own.graph_rate * own.learning_rate},
    ]
    return fit_pairs(
        module,
        torch.optim.Adam(groups, lr=own.learning_rate, betas=(0.5, 0.999), fused=True),
        partial(module.compute_loss, alpha=own.alpha, supervision=own.supervision),
        data,
        batch_size=own.batch_size,
        epochs=own.epochs,
        patience=config.patience,
        report=report,
        seed=seed,
    )

"""JFSSL: each modality is regressed on the labels, with few features chosen and a graph over both modalities."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy.sparse
import torch
from sklearn.neighbors import kneighbors_graph

from xmrank.config.supervised import SupervisedConfig
from xmrank.supervised.labelled_set import LabelledSet
from xmrank.supervised.method_training import FittedMethod
from xmrank.supervised.projected_sides import LabelGroups, Projection, project_linearly
from xmrank.train.fit_loop import ReportEpoch

LEAST_NORM = 1e-8
"""Added to squared row norms, so that a row of zeros has a finite weight."""


@dataclass(frozen=True)
class GraphBlocks:
    """XₚᵀLₚqX_q of the graph over the items of both modalities.

    Attributes:
        image, text: p = q, [d1, d1] and [d2, d2].
        across: images and texts, [d1, d2].
    """

    image: np.ndarray
    text: np.ndarray
    across: np.ndarray


def neighbour_weights(rows: np.ndarray, nearest: int, bandwidth: float) -> scipy.sparse.csr_matrix:
    """exp(−‖x − y‖² / 2σ²) where x is among the nearest of y or y among those of x; else 0, [items, items]."""
    graph = kneighbors_graph(rows, min(nearest, len(rows) - 1), mode="distance")
    graph.data = np.exp(-np.square(graph.data) / (2 * bandwidth**2))
    return graph.maximum(graph.T).tocsr()


def graph_blocks(
    image: np.ndarray, text: np.ndarray, labels: np.ndarray, *, within: float, nearest: int, bandwidth: float
) -> GraphBlocks:
    """The blocks of the Laplacian D − W, with features on both sides, without the Laplacian itself.

    Definition: W joins an image and a text that share a label by 1, and the nearest items of a modality by β times
    their Gaussian; D is the degree over all of these edges.

    Args:
        image, text: float64 [items, d1] and [items, d2].
        labels: 0 or 1, [items, classes].
        within: β.
        nearest: how many items of a modality an item is joined to.
        bandwidth: σ of the Gaussian.

    Source: Wang, He, Wang, Wang and Tan, TPAMI 2016 (as ``jfssl_objective``), section 3.
    """
    groups = LabelGroups.of(labels)
    joined = (groups.rows @ groups.rows.T > 0).astype(np.float64)
    degree = (joined @ groups.counts)[groups.group]
    own = []
    for rows in (image, text):
        weights = within * neighbour_weights(rows, nearest, bandwidth)
        whole = degree + np.asarray(weights.sum(axis=1)).reshape(-1)
        own.append((whole[:, None] * rows).T @ rows - rows.T @ (weights @ rows))
    # Off the diagonal the Laplacian is −W, which only depends on labels: sums of groups are enough.
    across = -groups.sum_items(image).T @ joined @ groups.sum_items(text)
    return GraphBlocks(own[0], own[1], across)


def jfssl_objective(
    image: np.ndarray,
    text: np.ndarray,
    labels: np.ndarray,
    image_weights: np.ndarray,
    text_weights: np.ndarray,
    laplacian: np.ndarray,
    *,
    sparsity: float,
    graph: float,
) -> float:
    """What JFSSL minimises.

    Definition: Σₚ ‖XₚUₚ − Y‖²_F + λ₁ Σₚ ‖Uₚ‖₂,₁ + λ₂ Σₚq tr(UₚᵀXₚᵀLₚqX_qU_q).

    Args:
        image, text: features, [items, d1] and [items, d2].
        labels: Y, 0 or 1, [items, classes].
        image_weights, text_weights: U, [d1, classes] and [d2, classes].
        laplacian: L = D − W of all images, then all texts, [2 items, 2 items].
        sparsity, graph: λ₁ and λ₂.

    Source: Wang, He, Wang, Wang and Tan, "Joint feature selection and subspace learning for cross-modal retrieval",
        TPAMI 2016, equations 4 to 7.
    """
    fit = np.square(image @ image_weights - labels).sum() + np.square(text @ text_weights - labels).sum()
    norms = np.linalg.norm(image_weights, axis=1).sum() + np.linalg.norm(text_weights, axis=1).sum()
    projected = np.concatenate([image @ image_weights, text @ text_weights])
    # Σₚq tr(ZₚᵀLₚqZ_q) over the blocks is tr(ZᵀLZ) of both modalities, one above the other.
    return float(fit + sparsity * norms + graph * np.sum(projected * (laplacian @ projected)))


def update_weights(
    rows: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    own: np.ndarray,
    pull: np.ndarray,
    *,
    sparsity: float,
    graph: float,
) -> np.ndarray:
    """One modality's step: (XᵀX + λ₁R + λ₂XᵀLX)⁻¹(XᵀY − λ₂ pull) with R = diag(1 / 2‖uᵢ‖).

    Args:
        rows: features of the modality, [items, d].
        labels: [items, classes].
        weights: U before the step, [d, classes].
        own: the modality's block of the graph, [d, d].
        pull: XₚᵀLₚqX_qU_q of the other modality, [d, classes].
        sparsity, graph: λ₁ and λ₂.

    Returns:
        U after the step, [d, classes].

    Source: the same, Algorithm 1.
    """
    shrink = np.diag(1 / (2 * np.sqrt(np.square(weights).sum(axis=1) + LEAST_NORM)))
    left = rows.T @ rows + sparsity * shrink + graph * own
    return np.asarray(np.linalg.solve(left, rows.T @ labels - graph * pull))


def fit_jfssl(
    data: LabelledSet, config: SupervisedConfig, _seed: int, _device: torch.device, _report: ReportEpoch
) -> FittedMethod:
    """JFSSL, both modalities in turn; the common space is that of the labels."""
    own, labels = config.jfssl, data.train.labels.astype(np.float64)
    image, text = data.train.image.astype(np.float64), data.train.text.astype(np.float64)
    blocks = graph_blocks(image, text, labels, within=own.within, nearest=own.nearest, bandwidth=own.bandwidth)
    update = partial(update_weights, sparsity=own.sparsity, graph=own.graph)
    # Identities, cut to shape, as in the authors' Algorithm 1.
    image_weights, text_weights = (np.eye(rows.shape[1], labels.shape[1]) for rows in (image, text))
    for _ in range(own.rounds):
        image_weights = update(image, labels, image_weights, blocks.image, blocks.across @ text_weights)
        text_weights = update(text, labels, text_weights, blocks.text, blocks.across.T @ image_weights)
    centres = np.zeros(image.shape[1]), np.zeros(text.shape[1])
    return project_linearly(data, Projection(centres[0], image_weights), Projection(centres[1], text_weights))

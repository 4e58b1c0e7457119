"""What the dual encoders minimise: pure functions of the embeddings of a batch of pairs.

Row i of the images and row i of the texts belong together. All are computed in the embeddings' own precision.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from xmrank.losses import smooth_ndcg, softmax, triplet

EPSILON = 1e-8
"""Inside CMPM's logarithm, as published."""


def canonical_correlations(first: Tensor, second: Tensor, ridge: float = 1e-3) -> Tensor:
    """The singular values of T = Σ11^(−1/2) Σ12 Σ22^(−1/2), largest first, [min(d1, d2)].

    T is computed with the Cholesky factors of Σ11 and Σ22 instead of their symmetric roots: they whiten as well, so
    the singular values are the same, and their gradient does not divide by differences of eigenvalues.

    Args:
        first, second: [pairs, d1], [pairs, d2].
        ridge: added to the variances on the diagonals of Σ11 and Σ22, which are over pairs − 1.

    Source: Andrew et al., "Deep canonical correlation analysis", ICML 2013, section 3.
    """
    centred = [side - side.mean(0) for side in (first, second)]
    share = 1 / (len(first) - 1)
    roots = [
        torch.linalg.cholesky(share * side.T @ side + ridge * torch.eye(side.shape[1]).to(side)) for side in centred
    ]
    between = share * centred[0].T @ centred[1]
    left = torch.linalg.solve_triangular(roots[0], between, upper=False)
    whitened = torch.linalg.solve_triangular(roots[1], left.T, upper=False)
    return torch.linalg.svdvals(whitened)


def dcca_loss(first: Tensor, second: Tensor, *, ridge: float = 1e-3, smoothing: float = 0.0) -> Tensor:
    """Minus the sum of the canonical correlations of a batch.

    Args:
        first, second: [pairs, d1], [pairs, d2]; many more pairs than dimensions.
        ridge: as for ``canonical_correlations``.
        smoothing: added to the squares of the correlations before their root is taken, as a public implementation does.

    Source: Andrew et al., "Deep canonical correlation analysis", ICML 2013, eq. 10; Yan and Mikolajczyk, "Deep
    correlation for matching images and text", CVPR 2015.
    """
    return -(canonical_correlations(first, second, ridge).square() + smoothing).sqrt().sum()


def cmpm_loss(image: Tensor, text: Tensor, labels: Tensor) -> Tensor:
    """Cross-modal projection matching: the KL divergence of projections from matches, both directions added.

    Definition: with p = softmax over j of x_i · z_j/‖z_j‖ and q the matches of i, 1 / their number each: the mean over
    i of Σ_j p_ij · log(1e-8 + p_ij / (q_ij + 1e-8)).

    Args:
        image, text: [pairs, d], not normalised.
        labels: pairs with the same one match, integers [pairs].

    Source: Zhang and Lu, "Deep cross-modal projection learning for image-text matching", ECCV 2018, eq. 1 to 6.
    """
    match = (labels.unsqueeze(1) == labels).to(image.dtype)
    wanted = match / match.sum(1, keepdim=True) + EPSILON
    total = image.new_zeros(())
    for queries, candidates in ((image, text), (text, image)):
        projected = (queries @ F.normalize(candidates, dim=1).T).softmax(1)
        total = total + (projected * torch.log(EPSILON + projected / wanted)).sum(1).mean()
    return total


def cmpc_loss(image: Tensor, text: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Cross-modal projection classification: cross-entropy of each side's projection onto the other, added.

    Args:
        image, text: [pairs, d], not normalised.
        labels: the class of each pair, int64 [pairs].
        weights: [d, classes]; columns are normalised here.

    Source: Zhang and Lu, "Deep cross-modal projection learning for image-text matching", ECCV 2018, eq. 8 to 11.
    """
    # Columns are classes, rows dimensions.
    classes = F.normalize(weights, dim=0)
    total = image.new_zeros(())
    for projected, onto in ((image, text), (text, image)):
        direction = F.normalize(onto, dim=1)
        along = (projected * direction).sum(1, keepdim=True) * direction
        total = total + F.cross_entropy(along @ classes, labels)
    return total


def vsepp_loss(image: Tensor, text: Tensor, *, margin: float = 0.2, hardest: bool = True) -> Tensor:
    """The triplet hinge of each pair against the batch's other items, the mean of both directions.

    Args:
        image, text: unit length, [pairs, d]; no two pairs match one another.
        margin, hardest: as for the loss ``triplet``.

    Source: Faghri et al., "VSE++: improving visual-semantic embeddings with hard negatives", BMVC 2018, eq. 6.
    """
    scores = image @ text.T
    # Only the pair itself is relevant.
    own = torch.eye(len(scores), device=scores.device)
    return (
        triplet(scores, own, margin=margin, hardest=hardest) + triplet(scores.T, own, margin=margin, hardest=hardest)
    ) / 2


def infonce_loss(image: Tensor, text: Tensor, scale: Tensor | float) -> Tensor:
    """Cross-entropy of each item's own partner among the batch's, the mean of both directions.

    Args:
        image, text: unit length, [pairs, d]; no two pairs match one another.
        scale: the inverse temperature.

    Source: van den Oord et al., "Representation learning with contrastive predictive coding", 2018; both ways as in
    Radford et al., "Learning transferable visual models from natural language supervision", ICML 2021.
    """
    scores = scale * (image @ text.T)
    own = torch.eye(len(scores), device=scores.device)
    return (softmax(scores, own) + softmax(scores.T, own)) / 2


def listwise_loss(
    image: Tensor, text: Tensor, relevance: Tensor, *, temperature: float = 0.01, reference_compatible: bool = False
) -> Tensor:
    """S-NDCG of the batch's cosines, the mean of both directions.

    Args:
        image, text: unit length, [pairs, d].
        relevance: of text b to image a at [a, b], [pairs, pairs].
        temperature: as for the loss ``smooth_ndcg``.
        reference_compatible: for tests only: with the two faults of the paper's public code.

    Source: Li et al., "Integrating listwise ranking into pairwise-based image-text retrieval", 2023.
    """
    scores = image @ text.T
    text_relevance = relevance if reference_compatible else relevance.T
    both = [
        smooth_ndcg(square, labels, temperature=temperature, reference_compatible=reference_compatible)
        for square, labels in ((scores, relevance), (scores.T, text_relevance))
    ]
    return (both[0] + both[1]) / 2


def mix_losses(pairwise: Tensor, ranked: Tensor | None, weight: float) -> Tensor:
    """(1 − weight) · pairwise + weight · listwise; the pairwise loss alone where there is no listwise one."""
    return pairwise if ranked is None else (1 - weight) * pairwise + weight * ranked


def caption_relevance(own: Tensor, real: Tensor, captions: Tensor) -> Tensor:
    """How relevant each caption is to each image, by its likeness to the image's own captions: [images, captions].

    Definition: (1 + max over the captions c of image a of cos(c, b)) / 2 at [a, b].

    Args:
        own: unit-length text embeddings of every image's captions, [images, most, d].
        real: which of them are captions and no padding, bool [images, most]; one at least of every image.
        captions: unit-length text embeddings, [captions, d].

    Source: Li et al., "Integrating listwise ranking into pairwise-based image-text retrieval", 2023, RSC.
    """
    images, most, width = own.shape
    likeness = (own.reshape(-1, width) @ captions.T).view(images, most, -1)
    return (1 + likeness.masked_fill(~real.unsqueeze(2), -1.0).amax(1)) / 2

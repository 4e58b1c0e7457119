"""The fusion weights of a refinement's views, fitted on training lists that the views were not trained on."""

import numpy as np
import torch
from torch import Tensor

from xmrank.losses import LOSSES
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.rankers.refinement import Refinement
from xmrank.train.refined_embeddings import RefinedEmbeddings

SCALE = 20.0
"""Initial scale of the similarities in the softmax; it is fitted with the weights."""
DECAY = 1e-5
"""Weight of the squared weights in the loss."""
STEPS = 100
"""Iterations of L-BFGS at most."""


def fit_fusion_weights(refinement: Refinement, embeddings: RefinedEmbeddings, lists: CandidateLists) -> None:
    """Set a refinement's fusion weights to those that rank lists best, by a softmax over each list.

    The members' cosine keeps the weight 1, so that similarities keep their scale. The weights stay as they were if no
    list has a relevant item, or if the members' cosine would count against a candidate.

    Args:
        refinement: its weights are set: of the members, and of the memory if there is one.
        embeddings: of views that were not trained on the images of the lists: one member, and perhaps the memory.
        lists: drawn for training; their rows are in ``embeddings``.
    """
    features, labels, mask = pad_view_features(embeddings, lists)
    if not labels.any():
        return
    current = refinement.fusion_weights[: features.shape[2]]
    # Scale and weights are one product, fitted together.
    weights = (SCALE * current).requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        scores = torch.einsum("livk,vk->li", features, weights)
        loss: Tensor = LOSSES["softmax"](scores, labels, mask=mask, multi_positive="mass")
        # The decay keeps the solution finite where the lists can be ranked perfectly.
        loss = loss + DECAY * weights.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    # Divided by the weight of the members' cosine, which takes the scale out again.
    fitted = weights.detach()
    if torch.isfinite(fitted).all() and fitted[0, 0] > 0:
        current.copy_(fitted / fitted[0, 0])


def pad_view_features(embeddings: RefinedEmbeddings, lists: CandidateLists) -> tuple[Tensor, Tensor, Tensor]:
    """What the weights multiply, as padded lists.

    Returns:
        cosine and negative hubness of every view, [lists, items, views, 2]; labels, [lists, items]; mask, bool
        [lists, items].
    """
    blocks = []
    for cosine, hubness in embeddings.compare_items(lists):
        blocks.append(torch.stack([cosine, -hubness], -1).transpose(0, 1))
    flat = torch.cat(blocks)
    _, labels, _, mask = lists.pad_lists(np.arange(len(lists)))
    real = torch.from_numpy(mask).to(flat.device)
    features = flat.new_zeros(*real.shape, *flat.shape[1:])
    features[real] = flat
    return features, torch.from_numpy(labels).to(flat.device), real

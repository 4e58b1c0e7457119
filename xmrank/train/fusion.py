"""The weights of a refinement's views, learned from training lists that the views have not seen."""

import numpy as np
import torch
from torch import Tensor

from xmrank.losses import LOSSES
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.rankers.refinement import Refinement
from xmrank.train.refined_lists import RefinedLists

SCALE = 20.0
"""What similarities are multiplied by in the softmax, to begin with; it is learned with the weights."""
DECAY = 1e-5
"""Weight of the squares."""
STEPS = 100


def weigh(refinement: Refinement, table: RefinedLists, lists: CandidateLists) -> None:
    """Set a refinement's weights to those that rank lists best, by softmax over the list.

    The members' cosine keeps the weight 1, so that similarities keep their scale. Where no list has a relevant item, or
    the members' cosine would count against a candidate, the weights stay as they were.

    Args:
        refinement: members, and perhaps a memory.
        table: of views that have not seen the images of the lists: one member, and perhaps the memory.
        lists: drawn for training, their rows in the table.
    """
    columns, labels, mask = by_list(table, lists)
    if not labels.any():
        return
    learned = refinement.fusion_weights[: columns.shape[2]]
    weights = (SCALE * learned).requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        scores = torch.einsum("livk,vk->li", columns, weights)
        loss: Tensor = LOSSES["softmax"](scores, labels, mask=mask, multi_positive="mass")
        loss = loss + DECAY * weights.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    found = weights.detach()
    if torch.isfinite(found).all() and found[0, 0] > 0:
        learned.copy_(found / found[0, 0])


def by_list(table: RefinedLists, lists: CandidateLists) -> tuple[Tensor, Tensor, Tensor]:
    """Cosine and negative hubness of every view, [lists, items, views, 2], labels and mask, [lists, items]."""
    flat = torch.cat([torch.stack([cosine, -hubness], -1).transpose(0, 1) for cosine, hubness in table.items(lists)])
    _, labels, _, mask = lists.pad_lists(np.arange(len(lists)))
    real = torch.from_numpy(mask).to(flat.device)
    columns = flat.new_zeros(*real.shape, *flat.shape[1:])
    columns[real] = flat
    return columns, torch.from_numpy(labels).to(flat.device), real

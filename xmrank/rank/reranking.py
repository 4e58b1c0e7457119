"""Re-ranking of arrays: a trained ranker in a notebook, without stages or files."""

from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from xmrank.metrics import compute_similarities
from xmrank.rankers import ListTokens, Ranker
from xmrank.rankers.token_ranker import TokenRanker

SCORED = 64
"""Queries scored at once."""
Array = TypeVar("Array", np.ndarray, Tensor)


class RerankedCandidates(NamedTuple, Generic[Array]):
    """Candidates in the order of a ranker's scores.

    Attributes:
        order: indices of the candidates, best first, int64 [top] or [queries, top]; masked ones come last.
        scores: their scores, float32, likewise; −inf where masked.
    """

    order: Array
    scores: Array


def rerank(
    ranker: Ranker,
    query: Array,
    candidates: Array,
    *,
    similarity: Array | None = None,
    mask: Array | None = None,
    top: int | None = None,
    query_tokens: Array | None = None,
    candidate_tokens: Array | None = None,
    query_token_mask: Array | None = None,
    candidate_token_mask: Array | None = None,
) -> RerankedCandidates[Array]:
    """Order candidates by a trained ranker.

    Args:
        ranker: as ``load_ranker`` gives it; its device is used, and its training mode is left as it is.
        query: embeddings of unit length, [d] or [queries, d], NumPy or torch, any floating dtype.
        candidates: likewise, [items, d], the same for all queries, or [queries, items, d].
        similarity: the first stage's, [items] or [queries, items]; None: the dot product, as mined lists have it.
        mask: True where an item is real, bool, of the similarity's shape; None: all are.
        top: how many of the best to return; None: all.
        query_tokens: for a ranker that reads tokens, floating point [longest, width] or [queries, longest, width], as
            `TokenArray.gather` gives them.
        candidate_tokens: likewise, [items, longest, width] for all queries, or [queries, items, longest, width].
        query_token_mask, candidate_token_mask: True where a token is real, bool, of the tokens' shape without the
            width; None: all are.

    Returns:
        Order and scores, of the kind of ``query``: NumPy arrays, or tensors on its device. Equal scores are in the
        order of the similarity, and then of the candidates.

    Raises:
        ValueError: shapes that do not fit each other or the ranker, ``top`` below 1, or tokens that are missing or
            that the ranker does not read.

    >>> from xmrank.rankers import LinearParameters, build_ranker
    >>> ranker = build_ranker(LinearParameters(), dimensions=2)
    >>> best = rerank(ranker, np.array([1.0, 0.0]), np.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0]]), top=2)
    >>> best.order.shape, best.scores.shape
    ((2,), (2,))
    """
    if top is not None and top < 1:
        raise ValueError(f"top is {top}; expected at least 1")
    queries, items, cosine, real = make_lists(query, candidates, similarity, mask)
    tokens = make_tokens(query_tokens, candidate_tokens, query_token_mask, candidate_token_mask)
    scores = score_in_blocks(ranker, queries, items, cosine, real, tokens)
    order, scores = sort_candidates(scores, cosine)
    # A single query comes back without the dimension of the queries.
    if query.ndim == 1:
        order, scores = order[0], scores[0]
    order, scores = order[..., :top], scores[..., :top]
    # The result is of the kind of the query.
    if isinstance(query, Tensor):
        return RerankedCandidates(order.to(query.device), scores.to(query.device))
    return RerankedCandidates(order.numpy(), scores.numpy())


def make_lists(query: Any, candidates: Any, similarity: Any, mask: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The arguments of ``rerank`` as lists on the CPU.

    Returns:
        query [queries, d], candidates [queries, items, d], similarity float32 and mask bool [queries, items].

    Raises:
        ValueError: shapes that do not fit.
    """
    queries, items = torch.as_tensor(query).detach().cpu(), torch.as_tensor(candidates).detach().cpu()
    queries = queries[None] if queries.dim() == 1 else queries
    if queries.dim() != 2 or items.dim() not in (2, 3) or items.shape[-1] != queries.shape[-1]:
        raise ValueError(f"query {list(queries.shape)} and candidates {list(items.shape)} do not fit each other")
    if items.dim() == 3 and len(items) != len(queries):
        raise ValueError(f"{len(queries)} queries and candidates of {len(items)}; expected as many, or one gallery")
    shape = (len(queries), items.shape[-2])
    if similarity is None:
        cosine = first_stage_similarity(queries, items)
    else:
        cosine = expand_to("similarity", torch.as_tensor(similarity).detach().cpu().float(), shape)
    real = torch.ones(shape, dtype=torch.bool)
    if mask is not None:
        real = expand_to("mask", torch.as_tensor(mask).cpu(), shape)
    return queries, items.expand(*shape, items.shape[-1]), cosine, real


def expand_to(name: str, tensor: Tensor, shape: tuple[int, int]) -> Tensor:
    """A tensor [queries, items]; one of [items] is the same for every query.

    Raises:
        ValueError: another shape.
    """
    if tuple(tensor.shape) not in (shape, shape[1:]):
        raise ValueError(f"{name} is {list(tensor.shape)}; expected {list(shape)}")
    return tensor.expand(shape)


def first_stage_similarity(queries: Tensor, items: Tensor) -> Tensor:
    """The dot product in float64, rounded to float32 as in mined lists, [queries, items]."""
    # NumPy has no bfloat16; float64 holds every value of the other types.
    query, gallery = queries.double().numpy(), items.double().numpy()
    # One gallery for all queries is a single product.
    if items.dim() == 2:
        return torch.from_numpy(compute_similarities(query, gallery))
    rows = [compute_similarities(query[row : row + 1], gallery[row]) for row in range(len(queries))]
    return torch.from_numpy(np.concatenate([np.empty((0, gallery.shape[1]), np.float32), *rows]))


def make_tokens(query: Any, candidates: Any, query_mask: Any, candidate_mask: Any) -> ListTokens | None:
    """The tokens of ``rerank`` as those of lists, on the CPU; None without any.

    Raises:
        ValueError: the tokens of one side only, or of another number of axes.
    """
    if query is None and candidates is None:
        return None
    if query is None or candidates is None:
        raise ValueError("query_tokens and candidate_tokens: expected both, or none")
    own, theirs = torch.as_tensor(query).detach().cpu(), torch.as_tensor(candidates).detach().cpu()
    masks = [None if mask is None else torch.as_tensor(mask).cpu() for mask in (query_mask, candidate_mask)]
    if own.dim() == 2:
        own, masks[0] = own[None], None if masks[0] is None else masks[0][None]
    if own.dim() != 3 or theirs.dim() not in (3, 4):
        raise ValueError(f"query_tokens {list(own.shape)} and candidate_tokens {list(theirs.shape)} do not fit")
    return ListTokens.of_lists(own, theirs, *masks)


@torch.inference_mode()
def score_in_blocks(
    ranker: Ranker,
    query: Tensor,
    candidates: Tensor,
    similarity: Tensor,
    mask: Tensor,
    tokens: ListTokens | None = None,
) -> Tensor:
    """The ranker's scores in evaluation mode, float32 [queries, items], on the CPU; −inf where masked."""
    device = next(ranker.parameters()).device
    # Dropout must not change the scores, and the caller's ranker stays as it is.
    training = ranker.training
    ranker.eval()
    try:
        parts = [similarity.new_empty((0, similarity.shape[1]))]
        if tokens is not None:
            tokens = tokens.to(device)
        if tokens is not None and isinstance(ranker, TokenRanker):
            # Before the blocks, which may have items in common.
            tokens.require_fitting(similarity)
            tokens = ranker.project_lists(tokens)
        # In blocks: all lists at once may not fit into the device's memory.
        for start in range(0, len(query), SCORED):
            block = slice(start, start + SCORED)
            tensors = [tensor[block].to(device) for tensor in (query, candidates, similarity)]
            own = None if tokens is None else tokens[block]
            scores = ranker.score(*tensors, mask=mask[block].to(device), tokens=own)
            parts.append(scores.float().cpu())
    finally:
        ranker.train(training)
    return torch.cat(parts).masked_fill(~mask, -torch.inf)


def sort_candidates(scores: Tensor, similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Indices and scores by falling score; equal scores by falling similarity, then by index."""
    by_similarity = similarity.argsort(dim=1, descending=True, stable=True)
    # A stable sort of what is sorted by similarity already keeps that order among equal scores.
    by_score = scores.gather(1, by_similarity).argsort(dim=1, descending=True, stable=True)
    order = by_similarity.gather(1, by_score)
    return order, scores.gather(1, order)

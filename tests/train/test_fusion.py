"""The weights of a refinement's views: what they are fitted on, and when they stay."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from xmrank.mine.candidate_lists import CandidateLists
from xmrank.rankers import RefinementParameters, RefinementSizes
from xmrank.rankers.refinement import Refinement
from xmrank.train.fusion import fit_fusion_weights
from xmrank.train.refined_embeddings import RefinedEmbeddings


def toy(views=2, lists=200, items=6, seed=0):
    """Lists of which each item has a candidate row of its own, and random embeddings."""
    generator = np.random.default_rng(seed)
    rows = np.arange(lists * items, dtype=np.int64)

    def drawn(*shape):
        return torch.from_numpy(generator.normal(size=shape).astype(np.float32))

    embeddings = RefinedEmbeddings(
        np.arange(lists),
        rows,
        drawn(views, lists, 4) / 2,
        drawn(views, len(rows), 4) / 2,
        drawn(views, len(rows)) / 2,
        torch.zeros(views, 2),
    )
    made = CandidateLists(
        queries=np.arange(lists),
        offsets=np.arange(lists + 1) * items,
        candidates=rows,
        similarity=np.zeros(len(rows), np.float32),
        labels=np.zeros(len(rows), np.float32),
    )
    return embeddings, made


def label(embeddings, lists, weights, scale=20.0):
    """Mark one item a list, drawn from the softmax that the weights [2, views] give."""
    generator, scores = np.random.default_rng(1), []
    for cosine, hubness in embeddings.compare_items(lists):
        scores.append((weights[0] @ cosine - weights[1] @ hubness).numpy())
    scores = scale * np.concatenate(scores).reshape(len(lists), -1) + generator.gumbel(size=(len(lists), 6))
    lists.labels[np.arange(len(lists)) * 6 + scores.argmax(1)] = 1


def refinement(memory=True):
    parameters = RefinementParameters(members=3, width=1, neighbours=1, memory_weight=0.3)
    return Refinement(
        4, parameters, RefinementSizes(1, memory_pairs=1, memory_images=1) if memory else RefinementSizes(1)
    )


def likelihood(embeddings, lists, weights):
    """Mean −log softmax of the relevant items; weights [views, 2], of unscaled cosines and hubnesses."""
    (cosine, hubness), *more = embeddings.compare_items(lists)
    assert not more
    scores = (weights[:, 0] @ cosine.numpy() - weights[:, 1] @ hubness.numpy()).reshape(len(lists), -1)
    right = lists.labels.reshape(len(lists), -1) > 0
    shifted = scores - scores.max(1, keepdims=True)
    return -np.mean(shifted[right] - np.log(np.exp(shifted).sum(1)))


@pytest.mark.parametrize("views", [1, 2])
def test_they_are_those_that_make_the_relevant_items_likeliest(views):
    embeddings, lists = toy(views)
    label(embeddings, lists, torch.tensor([[1.0, 0.6], [0.8, -0.2]])[:, :views])
    made = refinement(memory=views == 2)
    fit_fusion_weights(made, embeddings, lists)
    best = minimize(
        lambda flat: likelihood(embeddings, lists, flat.reshape(views, 2)) + 1e-5 * (flat**2).sum(), np.ones(2 * views)
    ).x.reshape(views, 2)
    fitted = made.fusion_weights[:views].numpy()
    np.testing.assert_allclose(fitted, best / best[0, 0], atol=0.01)
    assert fitted[0, 0] == 1 and abs(fitted[0, 1] - 0.8) < 0.2
    if views == 1:
        assert made.fusion_weights[1].tolist() == pytest.approx([0.3, 0.15])


def test_they_stay_where_nothing_is_relevant():
    embeddings, lists = toy()
    made = refinement()
    fit_fusion_weights(made, embeddings, lists)
    assert made.fusion_weights.tolist() == [[1.0, 0.5], pytest.approx([0.3, 0.15])]


def test_they_stay_where_likeness_would_count_against_a_candidate():
    embeddings, lists = toy()
    label(embeddings, lists, torch.tensor([[-1.0, 0.3], [0.0, 0.0]]))
    made = refinement()
    fit_fusion_weights(made, embeddings, lists)
    assert made.fusion_weights[0].tolist() == [1.0, 0.5]


def test_lists_of_different_lengths_are_told_apart():
    """Lists of six, four and two items in turn; the softmax of each is over its own items."""
    embeddings, lists = toy(1, lists=150)
    label(embeddings, lists, torch.tensor([[1.0], [0.2]]), scale=2.0)
    kept = np.concatenate([np.arange(6) < (6, 4, 2)[row % 3] for row in range(150)])
    offsets = np.concatenate([[0], np.cumsum(kept.reshape(150, 6).sum(1))])
    fewer = CandidateLists(lists.queries, offsets, lists.candidates[kept], lists.labels[kept], lists.similarity[kept])
    assert 0 < (np.add.reduceat(fewer.labels, offsets[:-1]) == 0).sum() < 75  # the right one is not among the first
    (cosine, hubness), *_ = embeddings.compare_items(fewer)

    def loss(weights):
        scores, fitted = weights[0] * cosine[0].numpy() - weights[1] * hubness[0].numpy(), []
        for start, end in itertools.pairwise(offsets):
            right = fewer.labels[start:end] > 0
            if right.any():
                fitted.append(math.log(np.exp(scores[start:end]).sum()) - scores[start:end][right].item())
        return sum(fitted) / len(fitted) + 1e-5 * (weights**2).sum()

    best = minimize(loss, np.ones(2)).x
    made = refinement(memory=False)
    fit_fusion_weights(made, embeddings, fewer)
    assert abs(best[1] / best[0] - 0.5) > 0.2  # where they started
    assert made.fusion_weights[0].tolist() == pytest.approx([1, best[1] / best[0]], abs=1e-3)

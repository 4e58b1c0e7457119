"""Re-ranking of arrays, against the ranker's own forward pass."""

import numpy as np
import pytest
import torch

from xmrank.rank.reranking import rerank
from xmrank.rankers import (
    ContextAwareParameters,
    LateInteractionParameters,
    LinearParameters,
    TokenSizes,
    build_ranker,
)

DIMENSIONS = 4


@pytest.fixture
def ranker():
    """A context-aware ranker with weights of seed 0, in training mode."""
    torch.manual_seed(0)
    return build_ranker(ContextAwareParameters(), dimensions=DIMENSIONS)


def unit(*shape, seed=0):
    """Random unit vectors, float32."""
    vectors = np.random.default_rng(seed).normal(size=(*shape, DIMENSIONS))
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def scores_of(ranker, query, candidates, similarity, mask=None):
    """The ranker's own scores in evaluation mode."""
    ranker.eval()
    with torch.no_grad():
        arrays = (torch.from_numpy(array) for array in (query, candidates, similarity))
        scores = ranker.score(*arrays, mask=None if mask is None else torch.from_numpy(mask)).numpy()
    ranker.train()
    return scores


def test_lists_are_ordered_by_the_rankers_score_of_the_cosine(ranker):
    query, candidates = unit(3), unit(3, 6, seed=1)
    similarity = np.einsum("qd,qnd->qn", query, candidates, dtype=np.float64).astype(np.float32)
    scores = scores_of(ranker, query, candidates, similarity)
    best = rerank(ranker, query, candidates)
    assert best.order.tolist() == np.argsort(-scores, axis=1).tolist()
    assert best.scores == pytest.approx(-np.sort(-scores, axis=1), abs=1e-6)
    assert best.order.dtype == np.int64
    assert best.scores.dtype == np.float32
    assert ranker.training  # as it was


def test_one_query_and_one_gallery_for_all_queries(ranker):
    query, gallery = unit(2), unit(5, seed=1)
    both = rerank(ranker, query, gallery)
    for row in range(2):
        one = rerank(ranker, query[row], gallery)
        assert one.order.tolist() == both.order[row].tolist()
        assert one.scores == pytest.approx(both.scores[row], abs=1e-6)
    assert rerank(ranker, query[0], gallery, top=2).order.tolist() == both.order[0, :2].tolist()


def test_many_queries_are_scored_in_blocks(ranker, monkeypatch):
    query, gallery = unit(7), unit(5, seed=1)
    whole = rerank(ranker, query, gallery)
    monkeypatch.setattr("xmrank.rank.reranking.SCORED", 3)
    parts = rerank(ranker, query, gallery)
    assert parts.order.tolist() == whole.order.tolist()
    assert parts.scores == pytest.approx(whole.scores, abs=1e-6)


def test_no_queries_give_no_results(ranker):
    for candidates in (unit(5), unit(0, 5)):
        best = rerank(ranker, unit(0), candidates)
        assert best.order.shape == best.scores.shape == (0, 5)


def test_masked_candidates_come_last_and_change_nothing(ranker):
    query, candidates = unit(2), unit(2, 4, seed=1)
    padded = np.concatenate([np.full((2, 1, DIMENSIONS), 9, np.float32), candidates], axis=1)
    mask = np.array([[False, True, True, True, True]] * 2)
    best = rerank(ranker, query, padded, mask=mask)
    plain = rerank(ranker, query, candidates)
    assert (best.order[:, :4] - 1).tolist() == plain.order.tolist()
    assert best.scores[:, :4] == pytest.approx(plain.scores, abs=1e-6)
    assert best.order[:, 4].tolist() == [0, 0]
    assert np.isneginf(best.scores[:, 4]).all()


def test_a_given_similarity_is_what_the_ranker_sees(ranker):
    query, candidates = unit(2), unit(2, 4, seed=1)
    similarity = np.random.default_rng(2).normal(size=(2, 4)).astype(np.float32)
    best = rerank(ranker, query, candidates, similarity=similarity)
    expected = scores_of(ranker, query, candidates, similarity)
    assert best.scores == pytest.approx(-np.sort(-expected, axis=1), abs=1e-6)


def test_equal_scores_keep_the_order_of_the_similarity():
    constant = build_ranker(LinearParameters(residual=None), dimensions=DIMENSIONS)
    similarity = np.array([0.1, 0.7, 0.7, 0.3], np.float32)
    best = rerank(constant, unit(1)[0], unit(4, seed=1), similarity=similarity)
    assert best.scores.tolist() == [0] * 4
    assert best.order.tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_tensors_of_any_dtype_come_back_as_tensors(ranker, dtype):
    query, gallery = (torch.from_numpy(array).to(dtype) for array in (unit(2), unit(5, seed=1)))
    best = rerank(ranker, query.requires_grad_(), gallery)
    assert isinstance(best.order, torch.Tensor)
    assert (best.scores.dtype, best.scores.requires_grad) == (torch.float32, False)
    same = rerank(ranker, query.detach().float().numpy(), gallery.float().numpy())
    assert best.order.tolist() == same.order.tolist()


@pytest.mark.parametrize(
    ("query", "candidates", "named", "message"),
    [
        (unit(2), unit(3, 4), {}, "2 queries and candidates of 3"),
        (unit(2)[:, :3], unit(4), {}, "do not fit"),
        (unit(1, 2), unit(4), {}, "do not fit"),
        (unit(2), unit(2, 2, 4), {}, "do not fit"),
        (unit(2), unit(4), {"top": 0}, "top is 0; expected at least 1"),
        (unit(2), unit(4), {"similarity": np.zeros(3)}, "similarity"),
        (unit(2), unit(4), {"mask": np.ones((3, 4), bool)}, "mask"),
    ],
)
def test_refused_shapes(ranker, query, candidates, named, message):
    with pytest.raises(ValueError, match=message):
        rerank(ranker, query, candidates, **named)


TOKEN_SIZES = TokenSizes(text_width=3, text_longest=5, image_width=2, image_longest=4, image_grid=2)


@pytest.fixture
def token_ranker():
    """A ranker of captions and images by their tokens."""
    torch.manual_seed(0)
    parameters = LateInteractionParameters(width=8, heads=2, token_width=8, zero_init_output=False)
    return build_ranker(parameters, dimensions=DIMENSIONS, tokens=TOKEN_SIZES)


def draw_tokens(*shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_tokens_of_one_gallery_and_of_every_list_give_equal_orders(token_ranker, monkeypatch):
    query, gallery = unit(5), unit(6, seed=1)
    words, regions = draw_tokens(5, 3, 3, seed=2), draw_tokens(6, 4, 2, seed=3)
    real = np.arange(3) < np.array([[1], [3], [2], [3], [1]])
    given = {"query_tokens": words, "query_token_mask": real}
    whole = rerank(token_ranker, query, gallery, candidate_tokens=regions, **given)
    spread = rerank(token_ranker, query, gallery, candidate_tokens=np.stack([regions] * 5), **given)
    assert spread.order.tolist() == whole.order.tolist()
    monkeypatch.setattr("xmrank.rank.reranking.SCORED", 2)
    blocks = rerank(token_ranker, query, gallery, candidate_tokens=regions, **given)
    assert blocks.scores == pytest.approx(whole.scores, abs=1e-5)
    # A single query without its padding.
    one = rerank(token_ranker, query[2], gallery, query_tokens=words[2, :2], candidate_tokens=regions)
    assert one.order.tolist() == whole.order[2].tolist()
    assert one.scores == pytest.approx(whole.scores[2], abs=1e-5)
    # The tokens count: with others the scores are others.
    assert rerank(token_ranker, query, gallery, candidate_tokens=regions[::-1].copy(), **given).scores != pytest.approx(
        whole.scores, abs=1e-3
    )


def test_tokens_that_are_missing_or_not_read_are_refused(token_ranker, ranker):
    query, gallery, words, regions = (
        unit(2),
        unit(3, seed=1),
        draw_tokens(2, 3, 3, seed=2),
        draw_tokens(3, 4, 2, seed=3),
    )
    with pytest.raises(ValueError, match="ranker late_interaction: reads tokens"):
        rerank(token_ranker, query, gallery)
    with pytest.raises(ValueError, match="query_tokens and candidate_tokens: expected both, or none"):
        rerank(token_ranker, query, gallery, query_tokens=words)
    with pytest.raises(ValueError, match=r"candidate_tokens \[4, 2\] do not fit"):
        rerank(token_ranker, query, gallery, query_tokens=words, candidate_tokens=regions[0])
    with pytest.raises(ValueError, match=r"candidate token index must be int64 \[2, 3\]"):
        rerank(token_ranker, query, gallery, query_tokens=words, candidate_tokens=regions[:2])
    with pytest.raises(ValueError, match="ranker context_aware: reads no tokens"):
        rerank(ranker, query, gallery, query_tokens=words, candidate_tokens=regions)

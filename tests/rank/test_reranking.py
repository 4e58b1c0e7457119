"""Re-ranking of arrays, against the ranker's own forward pass."""

import numpy as np
import pytest
import torch

from xmrank.rank.reranking import rerank
from xmrank.rankers import ContextAwareParameters, LinearParameters, build_ranker

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
    constant = build_ranker(LinearParameters(zero_init_output=True), dimensions=DIMENSIONS)
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

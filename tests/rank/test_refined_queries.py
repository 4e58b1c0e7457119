"""New queries are compared with a gallery that is refined once, where that is less work than query by query."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from xmrank.rank import query_ranker
from xmrank.rank.query_ranker import EncodedQueries, QueryRanker
from xmrank.rankers import LinearParameters, RefinementParameters, RefinementSizes, build_ranker

ROWS = np.array([1, 2, 4, 7, 8, 9])
TOP = 3


@pytest.fixture
def make_query_ranker():
    """Makes a ranker of so many queries over six of ten rows, two embeddings long."""
    torch.manual_seed(0)
    parameters = RefinementParameters(members=2, width=4, neighbours=2)
    linear = LinearParameters(features=("product", "cosine"), residual=1.0)
    ranker = build_ranker(linear, dimensions=6, refinement=parameters, sizes=RefinementSizes(bank=5)).eval()
    for value in ranker.refinement.state_dict().values():
        value.copy_(torch.randn(value.shape))
    side = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float16)

    def make(queries):
        made = QueryRanker.__new__(QueryRanker)  # without the files that a stage would give it
        made.job, made.device = SimpleNamespace(queries=queries, top_n=TOP), torch.device("cpu")
        made.side, made.rows, made.ranker = side, ROWS, ranker
        return made

    return make


def test_scores_are_those_of_candidates_that_are_refined_query_by_query(make_query_ranker):
    rng = np.random.default_rng(1)
    queries = EncodedQueries(rng.normal(size=(2, 6)).astype(np.float16), np.arange(2), None)
    nearest = np.array([[0, 5, 2], [3, 1, 4]])
    similarity = rng.random((2, TOP)).astype(np.float32)
    once, by_query = make_query_ranker(queries=2), make_query_ranker(queries=1)
    assert once.refined_gallery is not None and by_query.refined_gallery is None
    expected = by_query.score_candidates(queries, nearest, similarity)
    np.testing.assert_allclose(once.score_candidates(queries, nearest, similarity), expected, atol=1e-5)


def test_a_gallery_that_does_not_fit_into_memory_is_not_refined_as_a_whole(make_query_ranker, monkeypatch):
    monkeypatch.setattr(query_ranker, "KEPT", len(ROWS) * 2 * 6 - 1)
    assert make_query_ranker(queries=2).refined_gallery is None

"""Scores of many lists are those of a ranker called on each list alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from xmrank.evaluate import scoring
from xmrank.evaluate.scoring import score_lists
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.rankers import ContextAwareParameters, LinearParameters, build_ranker

CPU = torch.device("cpu")


@pytest.fixture
def store():
    rng = np.random.default_rng(0)
    return SimpleNamespace(
        image=rng.normal(size=(9, 6)).astype(np.float16), text=rng.normal(size=(30, 6)).astype(np.float16)
    )


@pytest.fixture
def lists():
    """Seven lists of two to eight captions."""
    rng = np.random.default_rng(1)
    lengths = np.arange(2, 9)
    candidates = np.concatenate([rng.choice(30, n, replace=False) for n in lengths])
    return CandidateLists(
        np.array([8, 0, 3, 3, 1, 2, 7], np.int32),
        np.concatenate([[0], np.cumsum(lengths)]),
        candidates.astype(np.int32),
        np.zeros(len(candidates), np.float32),
        rng.random(len(candidates)).astype(np.float32),
    )


@pytest.mark.parametrize("batch", [1, 3, 256])
def test_scores_are_those_of_every_list_alone(store, lists, monkeypatch, batch):
    torch.manual_seed(0)
    parameters = ContextAwareParameters(width=8, heads=2, dropout=0.5, features=("concat", "cosine"))
    ranker = build_ranker(parameters, dimensions=6).eval()
    monkeypatch.setattr(scoring, "BATCH", batch)
    scores = score_lists(ranker, lists, store, "i2t", CPU)
    assert scores.dtype == np.float32
    for number, query in enumerate(lists.queries):
        part = slice(lists.offsets[number], lists.offsets[number + 1])
        with torch.no_grad():
            alone = ranker(
                torch.from_numpy(store.image[[query]]),
                torch.from_numpy(store.text[lists.candidates[part]])[None],
                torch.from_numpy(lists.similarity[part])[None],
            )
        assert scores[part] == pytest.approx(alone[0].numpy(), abs=1e-5)


def test_no_lists_have_no_scores(store):
    nothing = np.zeros(0, np.float32)
    lists = CandidateLists(nothing.astype(np.int32), np.zeros(1, np.int64), nothing.astype(np.int32), nothing, nothing)
    ranker = build_ranker(LinearParameters(), dimensions=6).eval()
    assert score_lists(ranker, lists, store, "i2t", CPU).shape == (0,)

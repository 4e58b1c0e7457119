"""Scores of many lists are those of a ranker called on each list alone."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from xmrank.config import EvaluateConfig
from xmrank.embed.store import EmbeddingStore
from xmrank.embed.token_store import TokenArray
from xmrank.evaluate import list_scoring, scoring
from xmrank.evaluate.all_methods import plan_tasks
from xmrank.evaluate.list_scoring import make_list_data, score_lists
from xmrank.evaluate.query_timing import time_queries
from xmrank.evaluate.scoring import RankerScorer, RefinedScorer
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.protocols.galleries import make_list_protocol
from xmrank.protocols.scorer import DirectionProtocols
from xmrank.rankers import (
    ContextAwareParameters,
    LateInteractionParameters,
    LinearParameters,
    RefinementParameters,
    RefinementSizes,
    build_ranker,
)
from xmrank.train.checkpoint import save_ranker
from xmrank.train.list_data import ListData
from xmrank.train.token_sides import TokenSides

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
    monkeypatch.setitem(list_scoring.SCORED_AT_ONCE, "cpu", batch)
    scores = score_lists(ranker, make_list_data(ranker, lists, store, "i2t", CPU))
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
    assert score_lists(ranker, make_list_data(ranker, lists, store, "i2t", CPU)).shape == (0,)


def save_refined(directory, name="listnet-i2t-seed3", seed=3):
    """A ranker at its start, above a refinement with weights of its own; returns it and its folder."""
    torch.manual_seed(seed)
    refinement = RefinementParameters(members=2, width=4, neighbours=2)
    parameters = LinearParameters(features=("cosine",), residual=1.0, zero_init_output=True)
    ranker = build_ranker(parameters, dimensions=6, refinement=refinement, sizes=RefinementSizes(bank=5)).eval()
    with torch.no_grad():
        for value in ranker.refinement.state_dict().values():
            value.copy_(torch.randn_like(value))
    about = {"loss": "listnet", "ranker": "linear", "direction": "i2t", "seed": seed, "best_epoch": 0}
    folder = directory / "trials" / name
    folder.mkdir(parents=True)
    save_ranker(folder, ranker, ranker.state_dict(), about)
    return ranker, folder


def test_the_refined_first_stage_is_what_a_ranker_starts_from(tmp_path, store, lists):
    ranker, folder = save_refined(tmp_path)
    lists.labels[lists.offsets[:-1]] = 1
    protocols = DirectionProtocols(store, "i2t", "test", np.arange(9), (), make_list_protocol(lists, "i2t"), [])
    (refined,) = RefinedScorer(folder).measure(protocols)
    assert refined.key == protocols.table_key("lists", method="refined", seed=3)
    for number, query in enumerate(lists.queries):
        part = slice(lists.offsets[number], lists.offsets[number + 1])
        rows = torch.from_numpy(store.text[lists.candidates[part]]).float()[None]
        with torch.no_grad():
            expected = ranker.refinement(torch.from_numpy(store.image[[query]]).float(), rows)
        assert refined.scores[part] == pytest.approx(expected[0].numpy(), abs=1e-5)
    # The ranker has learned nothing: its metrics are the refined ones, and not those of the first stage.
    (ranked,) = RankerScorer(folder).measure(protocols)
    assert ranked.metrics["mrr"] == pytest.approx(refined.metrics["mrr"])
    assert refined.metrics["mrr"] != pytest.approx(protocols.lists.measure(lists.similarity)["mrr"])


def test_rankers_of_one_seed_refine_the_rows_once_and_each_query_of_a_timed_batch(tmp_path, store, lists, monkeypatch):
    refined, timed = [], []
    refine, time = scoring.refine_rows, scoring.time_queries
    monkeypatch.setattr(scoring, "refine_rows", lambda *given: refined.append(given[1]) or refine(*given))
    monkeypatch.setattr(scoring, "time_queries", lambda *given: timed.append(given) or time(*given))
    protocols = DirectionProtocols(store, "i2t", "test", np.arange(9), (), make_list_protocol(lists, "i2t"), [])
    results = {}
    for name, seed in (("listnet-i2t-seed3", 3), ("ranknet-i2t-seed3", 3), ("listnet-i2t-seed4", 4)):
        _, folder = save_refined(tmp_path, name, seed)
        (results[name],) = RankerScorer(folder).measure(protocols)
    assert len(refined) == 2
    same, other = results["ranknet-i2t-seed3"].scores, results["listnet-i2t-seed4"].scores
    np.testing.assert_array_equal(same, results["listnet-i2t-seed3"].scores)
    assert not np.allclose(same, other)
    # What is timed refines the query, and gives the same scores.
    ranker, data = timed[-1]
    assert data.refined is not None
    np.testing.assert_allclose(list_scoring.score_batch(ranker, data, np.arange(len(lists))), other, atol=1e-5)


def test_every_seed_and_direction_has_one_refined_first_stage(tmp_path, store):
    for name, seed in (("listnet-i2t-seed0", 0), ("ranknet-i2t-seed0", 0), ("listnet-i2t-seed1", 1)):
        save_refined(tmp_path, name, seed)
    stage = SimpleNamespace(work=tmp_path / "work", directory=tmp_path)
    config = EvaluateConfig(embeddings=tmp_path, lists=tmp_path, rankers=tmp_path, output=tmp_path)
    store.directory = tmp_path
    names = [task.name for task in plan_tasks(stage, config, store)]
    assert names == [
        *("cosine-i2t", "cosine-t2i", "refined-i2t-seed0", "refined-i2t-seed1"),
        *("listnet-i2t-seed0", "listnet-i2t-seed1", "ranknet-i2t-seed0"),
    ]


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
def test_tokens_that_are_projected_once_give_the_scores_of_every_list_alone(lists, monkeypatch, direction):
    rng = np.random.default_rng(2)
    store = EmbeddingStore.from_arrays(
        rng.normal(size=(9, 6)).astype(np.float32),
        rng.normal(size=(36, 6)).astype(np.float32),
        tokens={
            "image": TokenArray(rng.normal(size=(36, 5)).astype(np.float32), np.arange(0, 37, 4)),
            "text": TokenArray(rng.normal(size=(72, 3)).astype(np.float32), np.arange(37) + np.arange(37) ** 2 // 36),
        },
    )
    if direction == "t2i":
        lists = replace(lists, candidates=lists.candidates % 9)
    torch.manual_seed(0)
    parameters = LateInteractionParameters(width=8, heads=2, token_width=8, zero_init_output=False)
    sizes = TokenSides.of(store, direction).sizes
    ranker = build_ranker(parameters, dimensions=6, tokens=sizes).eval()
    encoded = []
    project = ranker.project_tokens
    monkeypatch.setattr(ranker, "project_tokens", lambda side, *rest: encoded.append(side) or project(side, *rest))
    monkeypatch.setitem(list_scoring.SCORED_AT_ONCE, "cpu", 3)
    scores = score_lists(ranker, make_list_data(ranker, lists, store, direction, CPU))
    assert encoded == ["candidate", "query", "query", "query"]

    data = ListData.of(lists, store, direction, CPU, tokens=True)
    for number in range(len(lists)):
        batch = data.gather_batch(np.array([number]))
        expected = ranker.score(batch.query, batch.candidates, batch.similarity, mask=batch.mask, tokens=batch.tokens)[
            batch.mask
        ]
        part = slice(lists.offsets[number], lists.offsets[number + 1])
        np.testing.assert_allclose(scores[part], expected.detach().numpy(), atol=1e-4)
    assert all(value > 0 for value in time_queries(ranker, data).values())

"""Times by re-ranking depth: of the right lists, with a gallery's tokens projected once."""

import numpy as np
import pytest
import torch

from xmrank.embed.store import EmbeddingStore
from xmrank.embed.token_store import TokenArray
from xmrank.evaluate import depth_timing, query_timing
from xmrank.evaluate.depth_timing import DepthTimingTask, make_small_tops, time_depths
from xmrank.evaluate.list_scoring import make_list_data, score_lists
from xmrank.rankers import LateInteractionParameters, build_ranker
from xmrank.rankers.token_ranker import TokenRanker
from xmrank.train.checkpoint import read_ranker, save_ranker
from xmrank.train.token_sides import TokenSides

IMAGES = 60


@pytest.fixture
def store():
    """60 images with a caption each, and tokens."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(IMAGES, 6)).astype(np.float32)
    tokens = {
        "image": TokenArray(rng.normal(size=(4 * IMAGES, 5)).astype(np.float32), np.arange(IMAGES + 1) * 4),
        "text": TokenArray(rng.normal(size=(2 * IMAGES, 3)).astype(np.float32), np.arange(IMAGES + 1) * 2),
    }
    return EmbeddingStore.from_arrays(image, image[::-1].copy(), splits=["test"] * IMAGES, tokens=tokens)


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
def test_every_depth_is_timed_on_the_first_stages_top(store, tmp_path, monkeypatch, direction):
    parameters = LateInteractionParameters(width=8, heads=2, token_width=8, zero_init_output=False)
    ranker = build_ranker(parameters, dimensions=6, tokens=TokenSides.of(store, direction).sizes)
    save_ranker(tmp_path, ranker, ranker.state_dict(), {"loss": "softmax", "direction": direction, "seed": 0})
    monkeypatch.setattr(depth_timing.EmbeddingStore, "open", lambda *given, **options: store)
    monkeypatch.setattr(depth_timing, "reported_images", lambda lists: np.arange(IMAGES))
    projected, scored = [], {}
    project, score = TokenRanker.project_tokens, query_timing.score_batch
    monkeypatch.setattr(TokenRanker, "project_tokens", lambda *given: projected.append(given[1]) or project(*given))
    monkeypatch.setattr(
        query_timing,
        "score_batch",
        lambda *given: scored.setdefault((given[1].lists.longest, len(given[2])), score(*given)),
    )
    rows = time_depths(DepthTimingTask(tmp_path, tmp_path, tmp_path, direction))
    assert [(row["candidates"], row["queries"]) for row in rows] == [(10, 32), (50, 32), (60, 32)]
    assert all(row["alone_ms"] > 0 and row["batched_ms"] > 0 for row in rows)
    assert {row[name] for row in rows for name in ("direction", "ranker", "device")} >= {direction, "late_interaction"}
    assert projected.count("candidate") == 1
    trained, _ = read_ranker(tmp_path)
    for top in make_small_tops(store, np.arange(IMAGES), direction):
        assert top.lists.queries[[0, -1]].tolist() == [0, IMAGES - 1]
        expected = score_lists(trained, make_list_data(trained, top.lists, store, direction, torch.device("cpu")))
        np.testing.assert_allclose(scored[top.lists.longest, len(top.lists)], expected, atol=1e-5)

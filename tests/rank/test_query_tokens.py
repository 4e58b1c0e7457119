"""Rankers that read tokens, on new queries: their scores are those on the store's own tokens."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from token_galleries import SIZES, save_random

from xmrank.config import EmbedConfig, RankConfig
from xmrank.datasets.reader_settings import ArraySettings
from xmrank.embed.stage import embed
from xmrank.embed.store import EmbeddingStore
from xmrank.rank import query_ranker, query_tokens
from xmrank.rank.checks import check_query_tokens
from xmrank.rank.query_ranker import QueryRanker
from xmrank.rank.stage import rank
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.train.checkpoint import read_ranker
from xmrank.train.checkpoint_json import read_about
from xmrank.train.token_sides import TokenSides

pytestmark = pytest.mark.ray
TOP = 9


def write_queries(store, direction, folder):
    """The store's captions or images of test as new queries; returns their path, and query id → row of the store."""
    if direction == "t2i":
        rows = store.caption_rows("test")
        path = folder / "captions.txt"
        path.write_text("".join(f"{text}\n" for text in store.captions["text"].take(rows).to_pylist()))
        return path, {str(number): row for number, row in enumerate(rows, start=1)}
    rows = store.image_rows("test")
    names = store.images["location"].take(rows).to_pylist()
    path = Path(store.images_root) / "queries.parquet"
    pq.write_table(pa.table({"image_id": names, "image": names}), path)
    return path, dict(zip(names, rows, strict=True))


def make_config(store, direction, folder, **changes):
    """The configuration that ranks the store's own items of test, and query id → row."""
    queries, rows = write_queries(store, direction, folder)
    ranker = save_random(store, direction, folder / "ranker")
    config = RankConfig(
        queries=queries, embeddings=store.directory, split="test", ranker=str(ranker), top_n=TOP,
        output=folder / "ranking", workers=1,
    )  # fmt: skip
    return replace(config, **changes), rows


def score_stored(store, direction, ranker, row, candidates):
    """The ranker's scores of one list, of the store's own embeddings and tokens."""
    sides = (store.image, store.text) if direction == "i2t" else (store.text, store.image)
    query, items = (torch.from_numpy(np.array(side[r])) for side, r in zip(sides, ([row], [candidates]), strict=True))
    similarity = (query.double()[:, None] * items.double()).sum(-1).float()
    tokens = TokenSides.of(store, direction).gather(np.array([row]), np.array([candidates]), torch.device("cpu"))
    with torch.inference_mode():
        return ranker.score(query, items, similarity, tokens=tokens)[0].numpy()


def assert_scores_of_stored_tokens(store, direction, config, rows):
    """Every query's scores in the results are the ranker's on what the store holds."""
    ranker, _ = read_ranker(Path(config.ranker))
    table = pd.read_parquet(config.output / "results.parquet").astype({"candidate_id": str})
    ids = (store.captions["caption_id"] if direction == "i2t" else store.images["image_id"]).to_pylist()
    spread = []
    assert table["query_id"].nunique() == len(rows)
    for query, results in table.groupby("query_id", sort=False):
        candidates = np.array([ids.index(name) for name in results["candidate_id"]])
        expected = score_stored(store, direction, ranker, rows[query], candidates)
        np.testing.assert_allclose(results["score"], expected, atol=2e-3)
        spread.append(np.ptp(expected))
    assert min(spread) > 0.05  # scores that differ, so that the tolerance says something


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("direction", ["i2t", "t2i"])
def test_a_stores_own_items_as_new_queries_have_the_scores_of_its_tokens(galleries, tmp_path, direction, dtype):
    store = getattr(galleries, dtype)
    assert store.tokens("image").dtype == store.tokens("text").dtype == dtype
    config, rows = make_config(store, direction, tmp_path)
    rank(config)
    assert_scores_of_stored_tokens(store, direction, config, rows)


@pytest.fixture
def ranking(galleries, tmp_path):
    """Captions as queries, and what ranks them."""
    config, rows = make_config(galleries.float16, "t2i", tmp_path)
    return SimpleNamespace(config=config, rows=rows, store=galleries.float16)


def assert_all_ranked(ranking, config=None):
    assert_scores_of_stored_tokens(ranking.store, "t2i", config or ranking.config, ranking.rows)


def test_workers_of_the_cluster_give_these_scores(ranking):
    rank(ranking.config)
    assert_all_ranked(ranking)


def test_the_gallery_is_projected_once_and_before_its_first_query(ranking, here, monkeypatch):
    project, done = query_tokens.project_rows, []
    encode = QueryRanker.encode_queries
    monkeypatch.setattr(query_tokens, "project_rows", lambda *given: done.append(len(given[2])) or project(*given))
    monkeypatch.setattr(QueryRanker, "encode_queries", lambda *given: done.append("encoded") or encode(*given))
    rank(ranking.config)
    assert here == [0, 32]
    assert done == [1, 12, "encoded", "encoded"]  # one row says how many numbers a projected token has


@pytest.mark.usefixtures("here")
def test_of_a_gallery_too_large_for_memory_the_candidates_are_projected(ranking, monkeypatch):
    monkeypatch.setattr(query_tokens, "KEPT", 12 * 64 * SIZES["token_width"] - 1)
    monkeypatch.setattr(query_ranker, "SCORED", 5)
    rank(ranking.config)
    assert_all_ranked(ranking)


def test_an_interrupted_ranking_continues_to_the_same_scores(ranking, here, tmp_path):
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(query_ranker, "write_json", lambda *given: interrupt())
        with pytest.raises(KeyboardInterrupt):
            rank(ranking.config)
    assert here == [0]
    first = rank(ranking.config)
    again = rank(replace(ranking.config, output=tmp_path / "again"))
    assert first.outputs == again.outputs


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.usefixtures("here")
def test_an_image_that_cannot_be_read_is_left_out_and_the_others_have_their_own_tokens(galleries, tmp_path):
    store = galleries.float16
    config, rows = make_config(store, "i2t", tmp_path)
    names = list(rows)
    images = [(Path(store.images_root) / name).read_bytes() for name in names]
    images.insert(3, images[0][:50])
    ids = [*names[:3], "broken", *names[3:]]
    pq.write_table(pa.table({"image_id": ids, "image": images}), tmp_path / "queries.parquet")
    manifest = rank(replace(config, queries=tmp_path / "queries.parquet", column="image"))
    assert [entry["query_id"] for entry in manifest.left_out] == ["broken"]
    assert_scores_of_stored_tokens(store, "i2t", replace(config), rows)


def test_queries_without_tokens_are_refused(ranking, tmp_path):
    pq.write_table(pa.table({"embedding": list(np.array(ranking.store.text[:2]))}), tmp_path / "queries.parquet")
    config = replace(ranking.config, queries=tmp_path / "queries.parquet")
    with pytest.raises(ConfigError, match=r"^--queries: late_interaction reads tokens, and embeddings have none; give"):
        rank(config)
    assert not config.output.exists()


def test_a_gallery_without_tokens_is_refused(ranking):
    plain, about = replace(ranking.store, token_arrays={}), read_about(Path(ranking.config.ranker))
    with pytest.raises(ConfigError, match=r"late_interaction reads tokens, and .*float16 has none; make it with `xmr"):
        check_query_tokens(plain, about, "text", "there")


def test_imported_tokens_are_refused(ranking, tmp_path):
    rng = np.random.default_rng(0)
    for name, shape in {"image": (4, 6), "text": (20, 6), "tokens": (4, 3, 5)}.items():
        np.save(tmp_path / f"{name}.npy", rng.normal(size=shape))
    ids = {"image_ids": [*"abcd"], "caption_ids": [*map(str, range(20))], "split": ["test"] * 4}
    ids["caption_image"] = [row // 5 for row in range(20)]
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    arrays = ArraySettings(
        import_images=tmp_path / "image.npy", import_texts=tmp_path / "text.npy",
        import_image_tokens=tmp_path / "tokens.npy", import_ids=tmp_path / "ids.json",
    )  # fmt: skip
    embed(EmbedConfig(dataset=arrays, output=tmp_path / "imported"))
    ranker = save_random(EmbeddingStore.open(tmp_path / "imported"), "t2i", tmp_path / "other")
    config = replace(ranking.config, embeddings=tmp_path / "imported", ranker=str(ranker))
    with pytest.raises(ConfigError, match="imported were imported: nothing says how to make those of new queries; `re"):
        rank(config)


def test_tokens_of_two_stores_fit_each_other_if_they_are_made_alike(galleries):
    store = galleries.float16
    about = {"ranker": "late_interaction", "tokens": {"text": "query"}, "embeddings": "other", "encoder": store.encoder}
    check_query_tokens(galleries.int8, about, "text", "there")  # of another number format, with equal axes
    message = "--ranker there: trained on tokens of another layer, grid or projection than those of the gallery"
    for change in ({"image_layer": 1}, {"text_layer": 0}, {"grid": 4}, {"axes": "0" * 64}):
        encoder = {**store.encoder, "tokens": {**store.encoder["tokens"], **change}}
        with pytest.raises(DataError, match=message):
            check_query_tokens(store, {**about, "encoder": encoder}, "text", "there")
    # A ranker whose JSON does not say it: only its own store.
    silent = {**about, "encoder": {**store.encoder, "tokens": None}}
    check_query_tokens(store, {**silent, "embeddings": store.fingerprint}, "text", "there")
    with pytest.raises(DataError, match=message):
        check_query_tokens(store, silent, "text", "there")
    check_query_tokens(store, {**silent, "tokens": None}, "embedding", "there")  # it reads none

"""The page of a ranking: the first queries, their best results, and each result's rank in the first stage."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xmrank.config import RankConfig
from xmrank.embed.store import EmbeddingStore
from xmrank.rank import ranking
from xmrank.rank.query_ranker import QueryRanker
from xmrank.rank.stage import rank

pytestmark = pytest.mark.ray


@pytest.fixture
def in_process(monkeypatch):
    """Ranks batches in this process."""

    def rank_batches(left, job, workers):
        ranker = QueryRanker(job)
        for batch in left:
            yield {"queries": len(batch.ids), "broken": ranker.rank_batch(batch)}

    monkeypatch.setattr(ranking, "rank_batches", rank_batches)


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
def test_the_page_shows_the_best_results_of_the_first_queries(trained, in_process, tmp_path, direction, capsys):
    side = trained.store.image if direction == "i2t" else trained.store.text
    table = pa.table({"id": ["q<1>", "q2", "q3"], "embedding": list(np.array(side[:3], np.float32))})
    pq.write_table(table, tmp_path / "q.parquet")
    config = RankConfig(
        queries=tmp_path / "q.parquet", embeddings=trained.config.embeddings, direction=direction, top_n=12,
        ranker=str(trained.config.output), output=tmp_path / "ranking", title="A & B",
    )  # fmt: skip
    rank(config)
    assert not (tmp_path / "ranking/results.html").exists()
    # Results that are there already only get their page.
    ranking.rank_batches = None
    rank(replace(config, page=2))
    page = (tmp_path / "ranking/results.html").read_text()
    assert f"page: {tmp_path / 'ranking/results.html'}" in capsys.readouterr().out
    assert "<h1>A &amp; B</h1>" in page
    assert page.count(f'<article class="example {direction}">') == 2
    assert "<code>q&lt;1&gt;</code>" in page
    assert "q3" not in page
    results = pd.read_parquet(tmp_path / "ranking/results.parquet")
    shown = results[(results["query_id"] != "q3") & (results["rank"] <= 10)]
    assert [int(n) for n in re.findall(r'<span class="muted">\((\d+)\)</span>', page)] == shown["first_rank"].tolist()


def test_remote_pictures_of_a_gallery_are_listed_as_missing(trained, in_process, tmp_path, monkeypatch):
    pq.write_table(pa.table({"embedding": list(np.array(trained.store.text[:2], np.float32))}), tmp_path / "q.parquet")
    read = []
    monkeypatch.setattr("xmrank.pages.thumbnails.read_bytes", lambda address: read.append(address) or b"")
    monkeypatch.setattr(EmbeddingStore, "images_root", "http://169.254.169.254/latest")
    monkeypatch.setattr("xmrank.rank.results_page.read_locations", lambda store, ids: dict.fromkeys(ids, "meta-data"))
    config = RankConfig(
        queries=tmp_path / "q.parquet", embeddings=trained.config.embeddings, direction="t2i", top_n=12, page=2,
        ranker=str(trained.config.output), output=tmp_path / "ranking",
    )  # fmt: skip
    rank(config)
    assert read == []
    note = "pictures cannot be shown (the images are remote, and are fetched only with --remote-images)"
    assert note in (tmp_path / "ranking/results.html").read_text()
    # The page is made anew, the results are kept.
    ranking.rank_batches = None
    rank(replace(config, remote_images=True))
    assert set(read) == {"http://169.254.169.254/latest/meta-data"}

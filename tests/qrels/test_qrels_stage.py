"""Rankings by more judgements: figures by hand from a qrels file, PMRP from labels, refusals."""

import gzip
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from changed_stages import accept_changes

from xmrank.config import QrelsConfig
from xmrank.embed.store import EmbeddingStore
from xmrank.protocols.query_tables import RANKINGS_SCHEMA
from xmrank.protocols.trec_reading import read_qrels
from xmrank.qrels.stage import evaluate_qrels
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.files import write_table


@pytest.fixture
def ranked(tiny_store, tmp_path):
    """A store of 4 reported images, two captions each, and a made-up evaluation of all of them."""
    store = tiny_store(tmp_path / "store", splits={"train": 4, "val": 4}, captions=2)
    labels = {
        row: [1, 2] if index == 0 else [1] if index == 1 else [7, 8, 9]
        for index, row in enumerate(store.image_rows("val"))
    }
    table = store.images.append_column("labels", pa.array([labels.get(row, []) for row in range(8)]))
    pq.write_table(table, store.directory / "image.parquet")
    accept_changes(store.directory)
    store = EmbeddingStore.open(store.directory)
    return store, made_up(store, tmp_path / "evaluation", 4)


def made_up(store, output, depth):
    """Rankings of one method, t2i: every caption finds the images in the order of their rows."""
    images = store.images["image_id"].take(store.image_rows("val")).to_pylist()
    captions = store.captions["caption_id"].take(store.caption_rows("val")).to_pylist()
    key = {"method": "cosine", "loss": "", "ranker": "", "seed": -1, "direction": "t2i", "split": "val"}
    rows = [
        {**key, "protocol": "gallery", "query_id": query, "candidate_id": image, "rank": rank, "score": -float(rank)}
        for query in captions
        for rank, image in enumerate(images[:depth], 1)
    ]
    stage = StageDirectory.open(output, "evaluate", config={}, inputs={"embeddings": store.fingerprint})
    write_table(
        output / "rankings.parquet", pa.Table.from_pylist(rows).select(RANKINGS_SCHEMA.names).cast(RANKINGS_SCHEMA)
    )
    stage.finish(counts={})
    return output


def names(store):
    images = store.images["image_id"].take(store.image_rows("val")).to_pylist()
    return images, store.captions["caption_id"].take(store.caption_rows("val")).to_pylist()


def values(output, query):
    table = pd.read_parquet(output / "metrics.parquet")
    return table[table["query_id"] == query].set_index("metric")["value"]


def test_judgements_by_hand(ranked, tmp_path, capsys):
    store, results = ranked
    images, captions = names(store)
    lines = [
        f"{captions[0]} 0 {images[1]} 2",  # rank 2
        f"{captions[0]} 0 {images[3]} 1",  # rank 4
        f"{captions[0]} 0 {images[2]} 0",  # judged, and not relevant
        f"{captions[1]} 0 {images[0]} 1",
    ]
    with gzip.open(tmp_path / "qrels.trec.gz", "wt") as file:
        file.write("\n".join(lines) + "\n")
    config = QrelsConfig(store.directory, results, tmp_path / "qrels.trec.gz", output=tmp_path / "measured")
    manifest = evaluate_qrels(config)
    first = values(config.output, captions[0])
    assert first["r_precision"] == pytest.approx(1 / 2)
    assert first["map@r"] == pytest.approx((1 / 2) / 2)
    assert (first["hit@1"], first["hit@5"], first["recall@5"]) == (0.0, 1.0, 1.0)
    discount = 1 / np.log2([2, 3, 4, 5])
    assert first["ndcg@10"] == pytest.approx((3 * discount[1] + 1 * discount[3]) / (3 * discount[0] + 1 * discount[1]))
    assert values(config.output, captions[1])["map@r"] == 1.0
    assert np.isnan(values(config.output, captions[2])["map@r"])  # without a judgement
    assert "gallery t2i cosine: map@r 62.5 % of 2 queries" in capsys.readouterr().out
    assert evaluate_qrels(config).fingerprint == manifest.fingerprint
    strict = QrelsConfig(store.directory, results, config.qrels, least_grade=2, output=tmp_path / "strict")
    evaluate_qrels(strict)
    assert values(strict.output, captions[0])["r_precision"] == 0.0  # one positive, at rank 2
    assert np.isnan(values(strict.output, captions[1])["map@r"])


def test_plausible_matches_by_hand(ranked, tmp_path):
    """The images' labels are {1, 2}, {1}, {7, 8, 9} and {7, 8, 9}; each caption finds them in this order."""
    store, results = ranked
    evaluate_qrels(config := QrelsConfig(store.directory, results, plausible=True, output=tmp_path / "measured"))
    owner = store.image_of_caption[store.caption_rows("val")]
    _, captions = names(store)
    of = dict(zip(store.image_rows("val").tolist(), range(4), strict=True))
    # ζ = 0, 1, 2. Image 0: {0}, {0, 1}, {0, 1}. Image 1: {1}, {0, 1}, {0, 1}. Images 2 and 3: each other, at any ζ.
    expected = [(1 + 1 + 1) / 3, (0 + 1 + 1) / 3, 0.0, 0.0]
    for caption, image in zip(captions, owner, strict=True):
        assert values(config.output, caption)["pmrp"] == pytest.approx(expected[of[int(image)]])


def test_rankings_that_are_too_short_are_refused(ranked, tmp_path):
    store, _ = ranked
    short = made_up(store, tmp_path / "short", 1)
    with pytest.raises(DataError, match=r"has 2 positives, its ranking 1 items; evaluate again with --top-n 2 or more"):
        evaluate_qrels(QrelsConfig(store.directory, short, plausible=True, output=tmp_path / "measured"))


def test_refusals(ranked, tmp_path):
    store, results = ranked
    with pytest.raises(ConfigError, match="--qrels: expected a qrels file, or --plausible"):
        QrelsConfig()
    with pytest.raises(DataError, match=r"none.trec: no such file \(--qrels\)"):
        evaluate_qrels(QrelsConfig(store.directory, results, tmp_path / "none.trec", output=tmp_path / "measured"))
    (tmp_path / "bad.trec").write_text("a 0 b 1\na 0 b\n")
    with pytest.raises(DataError, match="line 2: 'a 0 b', expected QUERY 0 ITEM GRADE"):
        evaluate_qrels(QrelsConfig(store.directory, results, tmp_path / "bad.trec", output=tmp_path / "measured"))
    (tmp_path / "other.trec").write_text("nobody 0 nothing 1\n")
    with pytest.raises(DataError, match="has no judgement of the ranked queries"):
        evaluate_qrels(QrelsConfig(store.directory, results, tmp_path / "other.trec", output=tmp_path / "measured"))
    with pytest.raises(DataError, match=r"expected a finished output of evaluate or baselines \(--results\)"):
        evaluate_qrels(QrelsConfig(store.directory, store.directory, plausible=True, output=tmp_path / "measured"))


def test_qrels_ids_are_decoded(tmp_path):
    (tmp_path / "q.trec").write_text("a%20b 0 c%7Cd 2\n\n")
    assert read_qrels(tmp_path / "q.trec") == {"a b": {"c|d": 2.0}}


def test_images_without_labels_have_no_plausible_matches(tiny_store, tmp_path):
    store = tiny_store(tmp_path / "store", splits={"train": 4, "val": 4}, captions=2)
    results = made_up(store, tmp_path / "evaluation", 4)
    with pytest.raises(DataError, match=r"its images have no labels \(--plausible\)"):
        evaluate_qrels(QrelsConfig(store.directory, results, plausible=True, output=tmp_path / "measured"))
    assert json.loads((results / "manifest.json").read_text())["stage"] == "evaluate"

"""Real embeddings: the first stage's figures are those that come with the data."""

import os
from pathlib import Path

import numpy as np
import pytest
from pipeline import mine_small

from xmrank.config import EmbedConfig
from xmrank.datasets.reader_settings import ArraySettings
from xmrank.embed.stage import embed
from xmrank.embed.store import EmbeddingStore
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.protocols.galleries import make_galleries, make_list_protocol, measure_gallery

DATA = Path(os.environ.get("XMRANK_TEST_DATA", "")) / "flickr8k"
pytestmark = pytest.mark.skipif(
    not os.environ.get("XMRANK_TEST_DATA") or not (DATA / "ids.json").is_file(),
    reason="needs XMRANK_TEST_DATA, a folder with flickr8k/ids.json and its embeddings",
)
GALLERY = {
    "i2t": {"hit@1": 22.0, "hit@5": 48.1, "hit@10": 58.1, "recall@1": 4.4, "recall@5": 17.5, "recall@10": 26.1},
    "t2i": {"hit@1": 17.5, "hit@5": 42.2, "hit@10": 54.1},
}
LISTS = {"i2t": {"hit@1": 37.6, "hit@5": 69.3, "hit@10": 80.3}, "t2i": {"hit@1": 36.6, "hit@5": 68.3, "hit@10": 79.4}}
"""In per cent; of the validation fold. The lists' are means over draws."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    output = tmp_path_factory.mktemp("flickr8k") / "embeddings"
    files = {"import_images": "image_embeddings.npy", "import_texts": "text_embeddings.npy", "import_ids": "ids.json"}
    settings = ArraySettings(split_field="fold", **{name: DATA / file for name, file in files.items()})
    embed(EmbedConfig(output=output, dataset=settings))
    return EmbeddingStore.open(output)


@pytest.fixture(scope="module")
def lists(store, tmp_path_factory):
    """Lists of 51 items, as in the paper."""
    folder = tmp_path_factory.mktemp("flickr8k") / "lists"
    mine_small(store.directory, folder, random_candidates=200, hard_negatives=50)
    return folder


def percent(values):
    return 100 * float(np.mean(values))


def test_the_folds_are_the_splits(store):
    assert store.splits() == ["align", "train", "val"]
    assert [len(store.image_rows(split)) for split in store.splits()] == [3000, 3000, 1000]
    assert (store.image.dtype, store.image.shape, store.text.shape) == (np.float16, (7000, 512), (35000, 512))


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
def test_cosine_on_the_whole_gallery(store, direction):
    measured = measure_gallery(store, make_galleries(store, store.image_rows("val"), direction)[0])
    for name, expected in GALLERY[direction].items():
        assert percent(measured[name]) == pytest.approx(expected, abs=0.1), name


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
def test_cosine_on_the_lists(lists, direction):
    protocol = make_list_protocol(CandidateLists.read(lists / f"{direction}-test.parquet"), direction)
    assert set(protocol.lists.lengths) == {51}
    assert protocol.positives.tolist() == [1] * 1000
    measured = protocol.measure(protocol.lists.similarity)
    for name, expected in LISTS[direction].items():
        assert percent(measured[name]) == pytest.approx(expected, abs=2.5), name


def test_nothing_is_chosen_on_what_is_reported_nor_trained_on_what_the_encoder_saw(store, lists):
    folds = store.images["split"].to_numpy()
    rows = {
        role: CandidateLists.read(lists / f"i2t-{role}.parquet").queries for role in ("train", "validation", "test")
    }
    assert {role: set(folds[part]) for role, part in rows.items()} == {
        "train": {"train"}, "validation": {"train"}, "test": {"val"},
    }  # fmt: skip
    assert not set(rows["train"]) & set(rows["validation"])

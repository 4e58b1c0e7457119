"""Captions embedded by a model of sentence-transformers: a small one that is made here, not downloaded."""

import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from changed_stages import accept_changes

from xmrank.config import MineConfig, SentencesConfig
from xmrank.embed.store import EmbeddingStore
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.mine.list_paths import lists_path
from xmrank.mine.stage import mine
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.sentences.stage import sentences

WORDS = ("a", "red", "blue", "dog", "cat", "runs", "sleeps")


@pytest.fixture
def worded(tiny_store, tmp_path):
    """A store whose captions have texts, some of them twice."""
    store = tiny_store(tmp_path / "store", splits={"train": 60, "val": 12}, captions=2)
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(WORDS, 3)) for _ in range(len(store.text))]
    texts[1] = texts[0]
    column = store.captions.column_names.index("text")
    pq.write_table(store.captions.set_column(column, "text", [texts]), store.directory / "text.parquet")
    accept_changes(store.directory)
    return EmbeddingStore.open(store.directory), texts


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An untrained BERT of two layers with a vocabulary of a few words."""
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs the extra sentences")
    import torch
    from sentence_transformers import models
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=12, **size)).save_pretrained(folder)
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    parts = models.Transformer(str(folder)), models.Pooling(16)
    whole = sentence_transformers.SentenceTransformer(modules=list(parts))
    whole.save(str(folder / "whole"))
    return folder / "whole", whole


def test_every_caption_gets_what_the_model_says_of_its_text(worded, model, tmp_path):
    store, texts = worded
    config = SentencesConfig(embeddings=store.directory, model=str(model[0]), output=tmp_path / "out")
    manifest = sentences(config)
    written = np.load(tmp_path / "out" / "texts.npy")
    expected = model[1].encode(texts)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert written.dtype == np.float16
    np.testing.assert_allclose(written, expected, atol=2e-3)
    assert manifest.counts == {"captions": len(texts), "distinct": len(set(texts)), "dimensions": 16}
    assert sentences(config).fingerprint == manifest.fingerprint
    mine(
        MineConfig(
            embeddings=store.directory, output=tmp_path / "lists", random_candidates=4, hard_negatives=3,
            relevance="captions", relevance_texts=tmp_path / "out" / "texts.npy", workers=1,
        )
    )  # fmt: skip
    lists = CandidateLists.read(lists_path(tmp_path / "lists", "i2t", "train"))
    query, start = int(lists.queries[0]), int(lists.offsets[0])
    items = range(start, int(lists.offsets[1]))
    own = np.flatnonzero(store.image_of_caption == query)
    for item in items:
        cosine = max(float(expected[lists.candidates[item]] @ expected[caption]) for caption in own)
        assert lists.labels[item] == pytest.approx(min((1 + cosine) / 2, 1), abs=3e-3)


def test_a_store_without_texts_is_refused(tiny_store, tmp_path):
    store = tiny_store(tmp_path / "store", splits={"train": 4, "val": 4}, captions=2)
    config = SentencesConfig(embeddings=store.directory, output=tmp_path / "out")
    with pytest.raises(DataError, match="has no texts of 16 of its 16 captions"):
        sentences(config)


def test_a_model_that_cannot_be_loaded_is_named(worded, tmp_path):
    pytest.importorskip("sentence_transformers", reason="needs the extra sentences")
    folder = tmp_path / "no-model"
    folder.mkdir()
    config = SentencesConfig(embeddings=worded[0].directory, model=str(folder), output=tmp_path / "out")
    with pytest.raises(DataError, match="no-model: no model of sentence-transformers could be loaded"):
        sentences(config)


def test_without_the_package_the_extra_is_named(worded, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    config = SentencesConfig(embeddings=worded[0].directory, output=tmp_path / "out")
    with pytest.raises(ConfigError, match=r"pip install 'xmrank\[sentences\]'"):
        sentences(config)

"""Repeated captions, embeddings copied from another store, batch sizes that are tried."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from embedding_samples import configured, make_pictures

from xmrank.config import EmbedConfig
from xmrank.datasets.reader_settings import ClipRetrievalSettings
from xmrank.embed import encoding
from xmrank.embed import ray as ray_stage
from xmrank.embed.encoder import Encoder, load_encoder
from xmrank.embed.stage import embed
from xmrank.embed.store import EmbeddingStore
from xmrank.runtime.errors import ConfigError, DataError


def recaption(folder, **changes):
    """Other texts for captions, by the number of their picture; a picture without text goes."""
    path = folder / "captions.json"
    images = json.loads(path.read_text())["images"]
    for entry in images:
        number = entry["filename"].split(".")[0]
        entry["sentences"] = [
            {"raw": text} for text in changes.get(f"p{number}", [s["raw"] for s in entry["sentences"]])
        ]
    path.write_text(json.dumps({"images": [entry for entry in images if entry["sentences"]]}))


def test_captions_of_one_text_are_encoded_once(folder, encoded, monkeypatch):
    texts = []
    tokens = Encoder.encode_tokens
    monkeypatch.setattr(Encoder, "encode_tokens", lambda self, batch: texts.append(len(batch)) or tokens(self, batch))
    recaption(folder, p3=["a cat", "picture 0 in words 0"], p7=["a cat", "a dog"])
    embed(configured(folder))
    store = EmbeddingStore.open(folder / "store")
    assert sum(texts) == len(set(store.captions["text"].to_pylist())) == 22
    assert [f"text-{number}" for number in range(5)] == [name for name in encoded if name.startswith("text")]
    rows = {text: [] for text in store.captions["text"].to_pylist()}
    for row, text in enumerate(store.captions["text"].to_pylist()):
        rows[text].append(row)
    assert rows["a cat"] == [6, 14] and rows["picture 0 in words 0"] == [0, 7]
    encoder = load_encoder("xmrank-tiny", "none", init_seed=0)
    for text, copies in rows.items():
        assert (store.text[copies] == store.text[copies[0]]).all()
        np.testing.assert_allclose(store.text[copies[0]], encoder.encode_texts([text])[0], atol=1e-5)


def test_bf16_is_warned_of_before_anything_is_encoded(folder, encoded, monkeypatch):
    warned = []
    monkeypatch.setattr(encoding, "warn_of_slow_bf16", lambda setting: warned.append((setting, len(encoded))))
    embed(configured(folder, precision="bf16"))
    assert warned == [("embed: --precision bf16", 0)]


def test_captions_of_broken_images_leave_the_others_in_place(folder, encoded):
    recaption(folder, p3=["a cat", "a dog"], p7=["a dog", "a bird"])
    (folder / "pictures" / "3.jpg").write_bytes(b"<html>")
    embed(configured(folder, max_broken=0.1))
    store = EmbeddingStore.open(folder / "store")
    texts = store.captions["text"].to_pylist()
    encoder = load_encoder("xmrank-tiny", "none", init_seed=0)
    assert len(texts) == 22 and "a cat" not in texts and texts.count("a dog") == 1
    np.testing.assert_allclose(store.text, encoder.encode_texts(texts), atol=1e-5)


@pytest.fixture
def grown(tmp_path, encoded):
    """A folder whose store lacks two of the twelve pictures, and its pictures all twelve, one of them another now."""
    make_pictures(tmp_path / "data")
    whole = (tmp_path / "data" / "captions.json").read_text()
    recaption(tmp_path / "data", p2=[], p9=[])
    embed(configured(tmp_path / "data", output=tmp_path / "old"))
    (tmp_path / "data" / "captions.json").write_text(whole)
    shutil.copy(tmp_path / "data" / "pictures" / "0.jpg", tmp_path / "data" / "pictures" / "5.jpg")
    recaption(tmp_path / "data", p6=["picture 6 in words 0", "something new"])
    encoded.clear()
    return tmp_path


def test_only_what_is_new_is_encoded(grown, monkeypatch):
    counted = {"images": 0, "tokens": 0}
    for name, kind in (("encode_images", "images"), ("encode_tokens", "tokens")):
        monkeypatch.setattr(Encoder, name, counting(getattr(Encoder, name), counted, kind))
    config = configured(grown / "data", output=grown / "new", reuse=grown / "old")
    manifest = embed(config)
    assert counted == {"images": 2, "tokens": 5}  # two pictures with two captions each, and the new caption
    assert manifest.counts["reused_images"] == 10  # also 5.jpg, which has 0.jpg's bytes now
    assert manifest.counts["reused_captions"] == 19
    assert manifest.settings["reuse"] == EmbeddingStore.open(grown / "old").fingerprint
    fresh = embed(replace(config, output=grown / "fresh", reuse=None))
    assert fresh.config == manifest.config and fresh.inputs == manifest.inputs
    new, whole = EmbeddingStore.open(grown / "new"), EmbeddingStore.open(grown / "fresh")
    assert new.images.equals(whole.images) and new.captions.equals(whole.captions)
    np.testing.assert_allclose(new.image, whole.image, atol=1e-6)
    np.testing.assert_allclose(new.text, whole.text, atol=1e-6)
    assert embed(replace(config, reuse=None)) == manifest  # a finished store does not depend on what it was made with


def counting(function, counted, kind):
    def counts(self, batch):
        counted[kind] += len(batch)
        return function(self, batch)

    return counts


def refusal(config, error=DataError):
    with pytest.raises(error) as caught:
        embed(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"init_seed": 1}, "old: another encoder: its weights_hash is '"),
        ({"model": "RN50", "pretrained": "none"}, "old: another encoder: its name is 'xmrank-tiny'"),
        ({"dtype": "float16"}, "old: holds float32, expected float16 (--dtype)"),
        ({"output": "old", "overwrite": True}, "old: is the --output itself; give the new store another --output"),
        ({"reuse": "none"}, "none: no finished output of the stage embed here"),
    ],
)
def test_a_store_that_cannot_be_reused_is_refused(grown, wrong, message):
    paths = {name: grown / value for name, value in wrong.items() if name in ("output", "reuse")}
    config = configured(grown / "data", output=grown / "new", reuse=grown / "old")
    assert message in refusal(replace(config, **{**wrong, **paths}))
    assert EmbeddingStore.open(grown / "old")


def test_what_was_begun_with_one_store_is_not_finished_with_another(grown, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    config = configured(grown / "data", output=grown / "new", reuse=grown / "old")
    with monkeypatch.context() as patched:
        patched.setattr(encoding, "finish_store", killed)
        with pytest.raises(KeyboardInterrupt):
            embed(config)
    begun = EmbeddingStore.open(grown / "old").fingerprint[:12]
    message = f"{grown / 'new'}: was started with --reuse of the store {begun}…; continue that way, or give --overwrite"
    assert refusal(replace(config, reuse=None)) == message
    assert embed(config).counts["reused_images"] == 10


def test_reuse_is_not_for_imports(tmp_path):
    with pytest.raises(ConfigError, match=r"--reuse .*: an import encodes nothing"):
        EmbedConfig(dataset=ClipRetrievalSettings(import_clip_retrieval=tmp_path), reuse=tmp_path)


def test_an_interrupted_run_goes_on_with_its_batch_size(folder, encoded, monkeypatch):
    sizes = iter([3])
    monkeypatch.setattr(encoding, "choose_batch_size", lambda *arguments: next(sizes))
    picture = folder / "pictures" / "6.jpg"
    whole = picture.read_bytes()
    picture.write_bytes(whole[:300])
    config = configured(folder, batch_size=0)
    refusal(config)  # one image of twelve is broken: stopped half way
    picture.write_bytes(whole)
    manifest = embed(config)
    assert manifest.settings["batch_size"] == 3
    assert manifest.outputs == embed(configured(folder, output=folder / "other", batch_size=3)).outputs


def test_a_batch_is_halved_until_it_fits(monkeypatch):
    tried = []

    def encode_images(images):
        tried.append(len(images))
        if len(images) > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")

    toy = SimpleNamespace(encode_images=encode_images, encode_tokens=lambda tokens: None)
    monkeypatch.setattr(ray_stage, "load_from_settings", lambda settings: toy)
    pixels = SimpleNamespace(prepare=lambda image: torch.zeros(3, 4, 4))
    preparer = SimpleNamespace(pixels=pixels, tokenizer=lambda texts: torch.zeros(1, 5))
    assert ray_stage.find_batch_size({"tokens": None}, preparer, 512) == 64
    assert tried == [512, 256, 128, 64]
    monkeypatch.setattr(toy, "encode_tokens", encode_images)
    assert ray_stage.find_batch_size({"tokens": None}, preparer, 3) == 3


def test_nothing_fits_a_gpu_that_is_full(monkeypatch):
    def full(images):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ray_stage, "load_from_settings", lambda settings: SimpleNamespace(encode_images=full))
    pixels = SimpleNamespace(prepare=lambda image: torch.zeros(3, 4, 4))
    assert ray_stage.find_batch_size({"tokens": None}, SimpleNamespace(pixels=pixels), 8) == 0
    assert ray_stage.catch_failure(lambda: full(None), None)["failure"].startswith(
        "a batch does not fit into the GPU's memory"
    )


@pytest.mark.parametrize(
    ("cluster", "requested", "shards", "expected"),
    [
        ({"CPU": 2.0}, 0, 9, ray_stage.WorkerPools(2, None, 0.75, 0)),
        ({"CPU": 2.0}, 0, 1, ray_stage.WorkerPools(1, None, 0.75, 0)),
        ({"CPU": 64.0}, 3, 99, ray_stage.WorkerPools(3, 3, 1.0, 0)),
        ({"CPU": 16.0, "GPU": 1.0}, 0, 99, ray_stage.WorkerPools(1, None, 0.5, 1, readers=15)),
        ({"CPU": 16.0, "GPU": 4.0}, 0, 8, ray_stage.WorkerPools(4, None, 0.5, 1, readers=8)),
        ({"CPU": 1.0, "GPU": 1.0}, 0, 8, ray_stage.WorkerPools(1, None, 0.5, 1, readers=0)),
    ],
)
def test_pools_follow_the_cluster(monkeypatch, cluster, requested, shards, expected):
    monkeypatch.setattr(ray_stage.ray, "cluster_resources", lambda: cluster)
    monkeypatch.setattr(ray_stage.ray, "nodes", lambda: [{"Alive": True, "Resources": cluster}])
    assert ray_stage.plan_pools(requested, shards) == expected


def test_a_compiled_encoder_is_another_configuration(folder, encoded, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(function.__name__) or function)
    embed(configured(folder, compile=True))
    assert compiled == ["encode_image", "encode_text", "forward_intermediates"]
    assert "compile is true there, false here" in refusal(configured(folder))


def test_a_store_is_verified(folder, encoded):
    embed(configured(folder))
    store = EmbeddingStore.open(folder / "store")
    store.verify()
    assert store.caption_rows("val").tolist() == [4, 5, 12, 13, 20, 21]
    assert store.gather("image", store.image_rows("val")).tolist() == store.image[[2, 6, 10]].tolist()
    assert store.gather("text", np.array([3, 3, 0])).dtype == np.float32
    path = folder / "store" / "text.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"text.npy: damaged: its contents are not those in manifest.json"):
        store.verify()
    path.unlink()
    with pytest.raises(DataError, match=r"text.npy: is missing, though manifest.json names it"):
        EmbeddingStore.open(folder / "store")

"""The embedding stage: the job's own function on a few pictures."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
import torch
from embedding_samples import CAPTIONS, IMAGES, configured, make_pictures, tokenised
from PIL import Image
from ray.train import WorkerGroupError

from xmrank.cli import find_cause, run
from xmrank.config import EmbedConfig
from xmrank.embed import encoding
from xmrank.embed import ray as ray_stage
from xmrank.embed import stage as stage
from xmrank.embed.encoder import load_encoder
from xmrank.embed.ray import WorkerPools
from xmrank.embed.stage import embed
from xmrank.embed.store import EmbeddingStore
from xmrank.embed.token_extraction import TokenExtractor
from xmrank.embed.token_projection import read_projections
from xmrank.runtime.cluster import run_tasks
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.manifest import read_manifest

ROOT = Path(__file__).parents[2]
ALL_SHARDS = [*(f"image-{n}" for n in range(3)), *(f"text-{n}" for n in range(5))]  # 12 / 5 and 24 / 5, rounded up


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, ray_cluster):
    """The folder of a run on the cluster that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    make_pictures(folder)
    embed(tokenised(folder, workers=2))
    return folder


def refusal(config, error=DataError):
    with pytest.raises(error) as caught:
        embed(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def by_hand(items, encode):
    """Embeddings of shards of five, in batches of two."""
    shards = [items[start : start + 5] for start in range(0, len(items), 5)]
    batches = [shard[start : start + 2] for shard in shards for start in range(0, len(shard), 2)]
    return torch.cat([encode(batch) for batch in batches]).numpy()


def test_the_store_holds_what_encoding_by_hand_gives(undisturbed):
    store = EmbeddingStore.open(undisturbed / "store")
    encoder = load_encoder("xmrank-tiny", "none", init_seed=0)

    def encode_files(paths):
        return encoder.encode_images(torch.stack([encoder.preprocess(Image.open(path)) for path in paths]))

    files = [undisturbed / "pictures" / f"{number}.jpg" for number in range(IMAGES)]
    texts = [f"picture {number} in words {index}" for number in range(IMAGES) for index in range(CAPTIONS)]
    np.testing.assert_allclose(store.image, by_hand(files, encode_files), atol=1e-5)
    np.testing.assert_allclose(store.text, by_hand(texts, encoder.encode_texts), atol=1e-5)
    assert store.image.dtype == np.float32
    assert store.captions["text"].to_pylist() == texts
    assert store.image_of_caption.tolist() == [row for row in range(IMAGES) for _ in range(CAPTIONS)]
    assert store.images["image_id"].to_pylist() == [f"{number}.jpg" for number in range(IMAGES)]
    assert store.images["bytes"].to_pylist() == [path.stat().st_size for path in files]
    assert store.images_root == undisturbed / "pictures"
    about = {key: store.encoder[key] for key in ("name", "pretrained", "init_seed", "dimensions", "weights_hash")}
    assert about == {
        "name": "xmrank-tiny",
        "pretrained": "none",
        "init_seed": 0,
        "dimensions": encoder.dimensions,
        "weights_hash": encoder.weights_hash,
    }
    counts = {"images": 12, "captions": 24, "broken_images": 0, "equal_across_splits": 0}
    # Words: "picture", a number of one or two digits, "in", "words", a number; each digit is a piece.
    counts |= {"image_tokens": 12 * 16, "text_tokens": (10 * 5 + 2 * 6) * 2}
    assert store.manifest.counts == counts
    assert not (undisturbed / "store" / "work").exists()


def assert_tokens(store, side, row, values):
    """The tokens of an item are these, projected, to the accuracy of int8."""
    projected = read_projections(store.directory)[side].project(values).numpy()
    tokens, mask = store.tokens(side).gather(np.array([row]))
    assert mask.all() and tokens.shape == (1, *projected.shape)
    np.testing.assert_allclose(tokens[0], projected, atol=np.abs(projected).max() / 120)


def test_the_store_holds_the_tokens_of_every_item(undisturbed):
    store, config = EmbeddingStore.open(undisturbed / "store", verify=True), tokenised(undisturbed)
    extractor = TokenExtractor(load_encoder("xmrank-tiny", "none", init_seed=0), config.token_settings)
    encoder = extractor.encoder
    assert store.tokens("image").dtype == store.tokens("text").dtype == np.int8
    for row in (0, 7, 11):
        pixels = encoder.preprocess(Image.open(undisturbed / "pictures" / f"{row}.jpg"))
        assert_tokens(store, "image", row, extractor.encode_images(pixels[None])[1].values)
    for row, text in enumerate(store.captions["text"].to_pylist()):
        assert_tokens(store, "text", row, extractor.encode_tokens(encoder.tokenizer([text]))[1].values)
    layers = {"image_layer": 2, "text_layer": 1}
    assert store.manifest.config["tokens"] == {**layers, "grid": 4, "width": 6, "dtype": "int8", "seed": 0}


def test_without_tokens_a_store_is_as_before(folder, encoded):
    manifest = embed(configured(folder))
    assert "tokens" not in manifest.config and not EmbeddingStore.open(folder / "store").has_tokens
    assert {"image.npy", "text.npy", "image.parquet", "text.parquet", "encoder.json"} == set(manifest.outputs)


def test_the_cluster_changes_nothing(undisturbed, folder, encoded):
    manifest = embed(tokenised(folder))
    assert encoded == ALL_SHARDS
    assert manifest.fingerprint == read_manifest(undisturbed / "store", "embed").fingerprint


def test_readers_of_their_own_change_nothing(undisturbed, folder, ray_cluster, monkeypatch):
    monkeypatch.setattr(ray_stage, "plan_pools", lambda *_: WorkerPools(1, None, cpus=0.5, gpus=0, readers=1))
    manifest = embed(tokenised(folder))
    assert manifest.fingerprint == read_manifest(undisturbed / "store", "embed").fingerprint


def test_a_second_call_touches_neither_cluster_nor_model(undisturbed, monkeypatch, capsys):
    for name in ("encode_shards", "load_encoder"):
        monkeypatch.setattr(encoding, name, None)
    assert embed(tokenised(undisturbed, workers=7)) == read_manifest(undisturbed / "store", "embed")
    account, last = capsys.readouterr().out.splitlines()
    assert account == (
        "embed: 12 images, 24 captions; captions an image: 2 to 2, mean 2; splits: train 6, val 3, test 3; images with "
        "the bytes of another: 0 within a split, 0 across splits; left out: nothing"
    )
    assert last == f"embed: 12 images, 24 captions in {undisturbed / 'store'}"


def test_images_that_changed_since_are_refused(undisturbed, tmp_path, encoded):
    shutil.copytree(undisturbed, tmp_path / "copy")
    config = tokenised(tmp_path / "copy")
    assert embed(config)
    picture = tmp_path / "copy" / "pictures" / "3.jpg"
    picture.write_bytes(picture.read_bytes() + b"more")
    assert refusal(config) == (
        f"{picture}: has changed since it was embedded in {config.output} (--overwrite to redo it)"
    )
    assert embed(replace(config, overwrite=True)).counts["images"] == 12
    picture.unlink()
    assert "3.jpg" in refusal(config)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"init_seed": 1}, "init_seed is 0 there, 1 here"),
        ({"dtype": "float16"}, 'dtype is "float32" there, "float16" here'),
        ({"batch_size": 3}, "batch_size is 2 there, 3 here"),
        ({"token_grid": 2}, 'tokens is {"dtype": "int8", "grid": 4, '),
    ],
)
def test_another_configuration_is_refused(undisturbed, change, difference):
    assert difference in refusal(tokenised(undisturbed, **change))


def test_other_captions_are_refused(undisturbed, tmp_path):
    captions = (undisturbed / "captions.json").read_text().replace("picture 3 in words 1", "picture 3 in phrases")
    (tmp_path / "captions.json").write_text(captions)
    config = tokenised(undisturbed)
    config = replace(config, dataset=replace(config.dataset, annotations=tmp_path / "captions.json"))
    assert "was made from other dataset" in refusal(config)


def test_images_that_cannot_be_read_are_left_out_with_their_captions(folder, encoded, capsys):
    pictures = folder / "pictures"
    (pictures / "2.jpg").write_bytes((pictures / "2.jpg").read_bytes()[:300])
    (pictures / "7.jpg").unlink()
    (pictures / "9.jpg").write_text("<html>404 not found</html>")
    manifest = embed(tokenised(folder, max_broken=0.25))  # three of twelve
    assert manifest.counts["images"] == 9 and manifest.counts["captions"] == 18
    assert manifest.counts["broken_images"] == 3
    assert [(entry["image_id"], entry["captions"]) for entry in manifest.left_out] == [
        ("2.jpg", 2),
        ("7.jpg", 2),
        ("9.jpg", 2),
    ]
    truncated, missing, foreign = (entry["reason"] for entry in manifest.left_out)
    assert truncated.startswith("not readable as an image: ")
    assert missing == "no such file, or an empty one"
    assert foreign == "not an image of a known format"
    assert "9 images, 18 captions, 3 left out in " in capsys.readouterr().out
    store, whole = EmbeddingStore.open(folder / "store"), load_encoder("xmrank-tiny", "none", init_seed=0)
    extractor = TokenExtractor(whole, tokenised(folder).token_settings)
    kept = [0, 1, 3, 4, 5, 6, 8, 10, 11]
    assert store.images["image_id"].to_pylist() == [f"{number}.jpg" for number in kept]
    assert store.images["row"].to_pylist() == list(range(9))
    assert store.image_of_caption.tolist() == [row for row in range(9) for _ in range(CAPTIONS)]
    assert store.captions["text"][4].as_py() == "picture 3 in words 0"
    for row, number in enumerate(kept):
        pixels = whole.preprocess(Image.open(pictures / f"{number}.jpg"))
        np.testing.assert_allclose(store.image[row], whole.encode_images(pixels[None]).numpy()[0], atol=1e-5)
        assert_tokens(store, "image", row, extractor.encode_images(pixels[None])[1].values)
    assert embed(tokenised(folder, max_broken=0.25)) == manifest  # the images left out do not count as changed


def test_equal_images_of_different_splits_are_counted_and_named(folder, encoded, capsys):
    pictures = folder / "pictures"
    # 0 and 4 are train, 2 is val, 3 is test: the second pair is within one split and harms nothing.
    for source, copy in ((0, 2), (0, 3), (4, 8)):
        (pictures / f"{copy}.jpg").write_bytes((pictures / f"{source}.jpg").read_bytes())
    for _ in range(2):  # a finished store says it again
        manifest = embed(configured(folder))
        assert manifest.counts["equal_across_splits"] == 3
        assert manifest.settings["equal_images"] == [{"0.jpg": "train", "2.jpg": "val", "3.jpg": "test"}]
        assert (
            "embed: warning: 3 images have the same bytes as an image of another split, "
            "the first: 0.jpg (train) = 2.jpg (val) = 3.jpg (test)\n"
        ) in capsys.readouterr().out


def test_too_many_missing_images_stop_before_anything_is_encoded(folder, encoded):
    for number in (4, 8):
        (folder / "pictures" / f"{number}.jpg").unlink()
    assert refusal(configured(folder, max_broken=0.1)) == (
        f'karpathy: image "4.jpg" is not in {folder / "pictures"} (1 more like it; --max-broken 0.1)'
    )
    assert not encoded and not (folder / "store").exists()
    assert embed(configured(folder, max_broken=0.2)).counts["images"] == 10


def test_too_many_broken_images_stop_and_a_repaired_one_is_read_again(folder, encoded, undisturbed):
    picture = folder / "pictures" / "6.jpg"
    whole = picture.read_bytes()
    picture.write_bytes(whole[:300])
    message = refusal(tokenised(folder))  # one of twelve is more than a hundredth
    assert message.startswith('karpathy: image "6.jpg": not readable as an image: ')
    assert message.endswith(" (1 in all; --max-broken 0.01)")
    assert encoded == ["image-0", "image-1"]  # 6.jpg stands in the second shard, the rest was not tried
    picture.write_bytes(whole)
    encoded.clear()
    manifest = embed(tokenised(folder))
    assert encoded == ALL_SHARDS[1:]
    assert manifest.fingerprint == read_manifest(undisturbed / "store", "embed").fingerprint


def test_a_higher_limit_continues_where_the_lower_stopped(folder, encoded):
    picture = folder / "pictures" / "6.jpg"
    picture.write_bytes(picture.read_bytes()[:300])
    refusal(configured(folder))
    encoded.clear()
    assert embed(configured(folder, max_broken=0.1)).counts["images"] == 11
    assert encoded == ALL_SHARDS[2:]


def test_a_run_that_was_cut_short_is_completed(folder, encoded, undisturbed, monkeypatch, capsys):
    config = tokenised(folder)
    with monkeypatch.context() as patched:
        patched.setattr(encoding, "finish_store", killed)
        with pytest.raises(KeyboardInterrupt):
            embed(config)
    work = folder / "store" / "work"
    (work / "image-000001.json").unlink()  # killed between array and report
    (work / "text-000004.json").unlink()
    (work / "text-000004.npy").unlink()
    (work / ".tmp-0123abcd-text-000004.npy").write_bytes(b"half")
    encoded.clear()
    capsys.readouterr()
    manifest = embed(config)
    assert encoded == ["image-1", "text-4"]
    assert "embed: 27 of 36 done before" in capsys.readouterr().err  # 36 items, without 5 images and 4 captions
    assert manifest.fingerprint == read_manifest(undisturbed / "store", "embed").fingerprint


def killed(*arguments):
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["image.npy", "text.parquet"])
def test_a_store_that_lost_a_file_is_made_again(undisturbed, tmp_path, encoded, name):
    shutil.copytree(undisturbed, tmp_path / "copy")
    (tmp_path / "copy" / "store" / name).write_bytes(b"")
    manifest = embed(tokenised(tmp_path / "copy"))
    assert manifest.fingerprint == read_manifest(undisturbed / "store", "embed").fingerprint


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": "xmrank-tinny"}, "--model xmrank-tinny: open_clip has no such model"),
        ({"pretrained": "openai", "init_seed": None}, "--pretrained openai: no such tag or file"),
        ({"pretrained": "lost.safetensors", "init_seed": None}, "--pretrained "),
        ({"init_seed": None}, "--pretrained none: an untrained model needs --init-seed"),
    ],
)
def test_a_wrong_model_or_tag_is_one_line_and_binds_nobody(home, folder, encoded, wrong, message):
    assert message in refusal(configured(folder, **wrong), ConfigError)
    assert embed(configured(folder)).counts["images"] == 12


def test_a_checkpoint_counts_by_its_content(home, folder, encoded):
    from safetensors.torch import save_file

    weights = load_encoder("xmrank-tiny", "none", init_seed=0).model.state_dict()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, home / "a.safetensors")
    shutil.copy(home / "a.safetensors", home / "b.safetensors")
    first = embed(configured(folder, pretrained="a.safetensors", init_seed=None))
    assert embed(configured(folder, pretrained=str(home / "b.safetensors"), init_seed=None)) == first
    assert first.config["pretrained"].startswith("sha256:")
    (home / "b.safetensors").write_bytes(b"another")
    assert "pretrained is " in refusal(configured(folder, pretrained="b.safetensors", init_seed=None))


def test_a_tag_is_no_path(monkeypatch, tmp_path):
    copy = tmp_path / "working_dir_files" / "pkg"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)  # as in a submitted job, where relative paths are refused
    monkeypatch.delenv("XMRANK_HOME", raising=False)
    assert stage.encoder_settings(EmbedConfig(model="ViT-B-32", pretrained="openai"))["pretrained"] == "openai"


def test_new_bundled_weights_make_another_configuration(monkeypatch, tmp_path):
    monkeypatch.setattr(stage, "BUNDLED", tmp_path)
    settings = []
    for weights in (b"old", b"new"):
        (tmp_path / "xmrank-tiny.safetensors").write_bytes(weights)
        settings.append(stage.encoder_settings(EmbedConfig())["pretrained"])
    assert settings[0] != settings[1]


def test_what_fails_on_the_cluster_is_found(ray_cluster):
    def refuse_row(row):
        raise DataError(f"captions.json: row {row} is empty")

    with pytest.raises(ray.exceptions.RayTaskError) as caught:
        list(run_tasks(refuse_row, [3], workers=1))
    cause = find_cause(caught.value)
    assert type(cause) is DataError and str(cause) == "captions.json: row 3 is empty"
    assert find_cause(WorkerGroupError("the training failed", {1: caught.value})) == cause


@pytest.fixture
def mounted(tmp_path):
    """Mounts a file system in memory."""
    disks = []

    def mount(options):
        disk = tmp_path / f"disk{len(disks)}"
        disk.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
        disks.append(disk)
        return disk

    yield mount
    for disk in disks:
        # Lazily: a worker may still hold a file of it open, and closes it when it ends.
        subprocess.run(["umount", "--lazy", disk], check=True)


def command(config):
    """The flags of a configuration of ``configured``."""
    names = ("output", "pretrained", "init_seed", "dtype", "batch_size", "shard_size", "workers")
    names += config.TOKEN_FIELDS if config.tokens else ()
    values = {name: getattr(config, name) for name in names}
    values |= {"dataset": config.dataset.name, "annotations": config.dataset.annotations}
    values |= {"images": config.dataset.images}
    words = [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return words + ["--tokens"] * config.tokens


def failure(monkeypatch, capsys, config):
    """What the job says last on standard error when it ends with status 1."""
    monkeypatch.setattr(sys, "argv", ["jobs/embed.py", *command(config)])
    with pytest.raises(SystemExit) as stop:
        run(embed, EmbedConfig)
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said and "Error" not in said
    return said.splitlines()[-1]


@pytest.mark.parametrize("pages", [4, 10, 18])  # full while shards are written, in the middle, and when joined
def test_a_full_disk_is_one_line(folder, encoded, mounted, monkeypatch, capsys, pages):
    disk = mounted(f"size={4 * pages}k")
    line = failure(monkeypatch, capsys, configured(folder, output=disk / "store"))
    assert line.startswith(f"embed: {disk}/store/") and line.endswith("No space left on device")
    left = [path.name for path in disk.rglob(".tmp-*")]
    assert set(left) <= {".tmp-images.arrow", ".tmp-texts.arrow"}  # the tables, which the next run sweeps away


def test_a_full_disk_of_a_worker_is_one_line(folder, ray_cluster, mounted, monkeypatch, capsys):
    disk = mounted("size=16k")
    line = failure(monkeypatch, capsys, configured(folder, output=disk / "store"))
    assert line.startswith(f"embed: {disk}/store/work/") and line.endswith("No space left on device")


def test_a_read_only_disk_is_one_line(folder, encoded, mounted, monkeypatch, capsys):
    disk = mounted("ro")
    line = failure(monkeypatch, capsys, configured(folder, output=disk / "store"))
    assert line == f"embed: {disk}/store: Read-only file system"


@pytest.mark.own_ray
def test_a_run_that_is_killed_ends_like_an_undisturbed_one(folder, encoded):
    config = tokenised(folder, shard_size=1)
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    job = subprocess.Popen(
        [sys.executable, "jobs/embed.py", *command(config)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    family = []
    try:
        wait_for(lambda: job.poll() is not None or any((folder / "store" / "work").glob("image-*.json")), seconds=180)
        assert job.poll() is None, "ended before it could be killed"
        family = psutil.Process(job.pid).children(recursive=True)
    finally:
        job.send_signal(signal.SIGKILL)
        job.wait()
        for process in psutil.wait_procs(family, timeout=5)[1]:
            process.kill()
    assert not (folder / "store" / "manifest.json").exists()
    manifest = embed(config)
    assert len(encoded) < IMAGES * (1 + CAPTIONS)
    assert manifest.fingerprint == embed(replace(config, output=folder / "undisturbed")).fingerprint


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)

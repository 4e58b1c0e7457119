"""The training of the bundled encoder, from its parts to the real job."""

import json
import math
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from pipeline import kill_train_workers
from safetensors.torch import load_file, save_file

from xmrank.config import TrainEncoderConfig
from xmrank.datasets.scenes.generate import compose_scene, describe_scene, draw_scene
from xmrank.embed.encoder import load_encoder
from xmrank.runtime.errors import ConfigError
from xmrank.runtime.manifest import read_manifest
from xmrank.train_encoder import ray as ray_part
from xmrank.train_encoder.contrastive import (
    ContrastiveTraining,
    HeldOutScenes,
    Vocabulary,
    draw_pairs,
    hit_at_1,
    read_history,
)
from xmrank.train_encoder.stage import train_encoder

SMALL = {"images": 64, "held_out": 20, "epochs": 2, "batch_size": 16, "autocast": False}


def untrained():
    return load_encoder("xmrank-tiny", "none", init_seed=0)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As the job's workers do; on a busy machine, threads that wait for each other take many times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pairs():
    return draw_pairs(untrained(), seed=9, split="train", numbers=range(64))


def make_training(pairs, **changes) -> ContrastiveTraining:
    return ContrastiveTraining(untrained(), pairs, TrainEncoderConfig(**(SMALL | changes)))


def test_pairs_are_the_scenes_of_the_data_set(pairs):
    encoder = untrained()
    assert pairs.pixels.shape == (64, 3, 64, 64)
    assert pairs.pixels.dtype == torch.uint8
    scene = compose_scene(9, "train", 3)
    assert torch.equal(pairs.tokens[3], encoder.tokenizer([caption.text for caption in describe_scene(scene)]))
    drawn = encoder.preprocess(draw_scene(scene))
    kept = make_training(pairs, shift=0).augment_images(torch.tensor([3]), torch.Generator())[0]
    assert (kept - drawn).abs().mean() < 0.1  # JPEG rounds a little


def test_shift_moves_all_of_the_image(pairs):
    training = make_training(pairs, shift=2)
    rng = torch.Generator().manual_seed(0)
    down, right = torch.randint(5, (2,), generator=torch.Generator().manual_seed(0)).tolist()
    still = make_training(pairs, shift=0).augment_images(torch.tensor([0]), torch.Generator())
    moved = training.augment_images(torch.tensor([0]), rng)
    # Pixel (y, x) of the shifted image is pixel (y + down − 2, x + right − 2) of the image.
    assert torch.equal(moved[..., 10:50, 10:50], still[..., 8 + down : 48 + down, 8 + right : 48 + right])


def test_a_step_uses_some_captions_of_every_image(pairs):
    training = make_training(pairs, captions=2)
    rows = torch.tensor([5, 7])
    first, second = torch.randperm(5, generator=torch.Generator().manual_seed(0))[:2].tolist()
    drawn = training.draw_captions(rows, torch.Generator().manual_seed(0))
    assert torch.equal(drawn[0], training.tokens[5][[first, second]])
    assert torch.equal(drawn[1], training.tokens[7][[first, second]])
    # In another step, other ones.
    rng = torch.Generator().manual_seed(0)
    assert len({str(training.draw_captions(rows, rng).tolist()) for _ in range(10)}) > 3


def test_vocabulary_changes_nothing_for_known_tokens(pairs):
    whole, cut = untrained(), untrained()
    vocabulary = Vocabulary(cut.model, pairs.tokens)
    assert len(cut.model.token_embedding.weight) == len(pairs.tokens.unique()) < 300
    tokens = pairs.tokens[:4].flatten(0, 1)
    expected = whole.model.encode_text(tokens)
    assert torch.allclose(cut.model.encode_text(vocabulary.compact_tokens(tokens)), expected, atol=1e-6)
    restored = vocabulary.restore_table(cut.model.state_dict())["token_embedding.weight"]
    known = torch.zeros(49408, dtype=torch.bool).index_fill_(0, pairs.tokens.unique(), True)
    assert torch.equal(restored[known], whole.model.token_embedding.weight[known])
    assert not restored[~known].any()


def test_learning_rate_rises_then_falls(pairs):
    training = make_training(pairs, epochs=5, warmup=0.2, learning_rate=1.0)  # 64 / 16 = 4 steps an epoch, 20 in all
    rates = []
    for step in (0, 1, 10, 19):
        training.set_learning_rate(step)
        rates.append(training.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx(
        [1 / 4, 2 / 4, 0.5 * (1 + math.cos(math.pi / 2)), 0.5 * (1 + math.cos(math.pi * 19 / 20))]
    )


def test_loss_falls(pairs):
    training = make_training(pairs, epochs=8, shift=0)
    losses = [training.train_epoch(epoch) for epoch in range(8)]
    assert losses[-1] < losses[0] - 0.5


def test_resumed_loop_ends_in_the_same_weights(pairs, tmp_path):
    whole, part = make_training(pairs), make_training(pairs)
    held_out = HeldOutScenes(whole.config, torch.device("cpu"))
    whole.train(tmp_path / "whole", held_out)
    part.history.append({"epoch": 1, "loss": part.train_epoch(0)} | held_out.measure_hits(part.copy_weights()))
    part.save_state(tmp_path / "part")
    resumed = make_training(pairs)
    resumed.train(tmp_path / "part", held_out)
    assert read_history(tmp_path / "part") == read_history(tmp_path / "whole")
    assert all(torch.equal(value, whole.copy_weights()[name]) for name, value in resumed.copy_weights().items())


def test_hit_at_1_counts_the_best_answers():
    similarity = torch.tensor([[0.9, 0.1, 0.8, 0.2], [0.3, 0.2, 0.1, 0.25]])  # 2 images, 2 captions each
    hits = hit_at_1(similarity, captions=2)
    assert hits["i2t_hit_at_1"] == pytest.approx(100 * 1 / 2)  # the second image's best caption, 0.3, is the first's
    assert hits["t2i_hit_at_1"] == pytest.approx(100 * 2 / 4)  # right: the first (0.9 > 0.3) and the last (0.25 > 0.2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 65}, "--batch-size 65 exceeds --images 64"),
        ({"captions": 6}, "--captions 6: expected at most 5, which an image has"),
        ({"epochs": 0}, "--epochs 0: expected at least 1"),
        ({"captions": 0}, "--captions 0: expected at least 1"),
        ({"learning_rate": 0.0}, "--learning-rate 0.0: expected more than 0"),
        ({"warmup": 1.5}, "--warmup 1.5: expected a fraction between 0 and 1"),
    ],
)
def test_configuration_out_of_range(changes, message):
    with pytest.raises(ConfigError, match=message):
        TrainEncoderConfig(**(SMALL | changes))


def test_the_bundled_weights_come_from_a_seed_of_their_own():
    assert TrainEncoderConfig().data_seed != 0


def kill_after_first_epoch(output: Path, killed: list[int]) -> None:
    """Kill the process that trains, as soon as its first epoch is saved."""
    deadline = time.monotonic() + 400
    while not read_history(output / "work/checkpoint.safetensors") and time.monotonic() < deadline:
        time.sleep(0.02)
    killed += kill_train_workers(1)


def test_a_worker_killed_in_training_ends_like_the_undisturbed_loop(ray_cluster, tmp_path):
    config = TrainEncoderConfig(output=tmp_path / "job", workers=1, **SMALL)
    killed: list[int] = []
    killer = threading.Thread(target=kill_after_first_epoch, args=(config.output, killed))
    killer.start()
    train_encoder(config)
    killer.join()
    assert len(killed) == 1
    assert set(read_manifest(config.output, "train_encoder").outputs) == {"xmrank-tiny.safetensors", "history.json"}

    pairs = draw_pairs(untrained(), config.data_seed, "train", range(config.images), "web")
    undisturbed = ContrastiveTraining(untrained(), pairs, config)
    undisturbed.train(tmp_path / "checkpoint", HeldOutScenes(config, torch.device("cpu")))
    assert json.loads((config.output / "history.json").read_text()) == read_history(tmp_path / "checkpoint")
    written = load_file(config.output / "xmrank-tiny.safetensors")
    assert all(torch.equal(written[name], value) for name, value in undisturbed.copy_weights().items())
    assert load_encoder("xmrank-tiny", str(config.output / "xmrank-tiny.safetensors")).dimensions == 256

    before = (config.output / "manifest.json").stat().st_mtime_ns
    train_encoder(config)
    assert (config.output / "manifest.json").stat().st_mtime_ns == before


def test_a_run_goes_on_with_the_number_of_workers_it_was_begun_with(tmp_path, monkeypatch):
    launched, cores = [], [2]

    def launch(function, work, *, workers, **settings):
        launched.append(workers)
        return workers

    monkeypatch.setattr(ray_part, "connect", lambda: None)
    monkeypatch.setattr(ray_part, "pool_size", lambda requested: (requested or cores[0], 1.0, 0))
    monkeypatch.setattr(ray_part, "launch_workers", launch)
    config = TrainEncoderConfig(**SMALL)
    ray_part.train_on_cluster(config, tmp_path)
    cores[0] = 3  # nothing is trained yet: the cluster as it is now
    ray_part.train_on_cluster(config, tmp_path)
    save_file({"weight": torch.zeros(1)}, tmp_path / ray_part.CHECKPOINT, metadata={"history": "[]"})
    cores[0] = 1
    ray_part.train_on_cluster(config, tmp_path)
    assert launched == [2, 3, 3]
    with pytest.raises(ConfigError, match="--workers 2: expected 3, with which this run was begun"):
        ray_part.train_on_cluster(replace(config, workers=2), tmp_path)


def train_rank(rank: int, folder: Path) -> None:
    """One of two processes that train together: each has its half of the scenes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    pairs = draw_pairs(untrained(), seed=9, split="train", numbers=range(16 * rank, 16 * (rank + 1)))
    config = TrainEncoderConfig(**(SMALL | {"images": 32, "epochs": 1}))
    training = ContrastiveTraining(untrained(), pairs, config, rank=rank, world_size=2)
    training.train_epoch(0)
    parameters = {name: value.detach() for name, value in training.model.named_parameters()}
    save_file({name: value.contiguous() for name, value in parameters.items()}, folder / f"{rank}.safetensors")
    dist.destroy_process_group()


def test_two_processes_train_one_model(tmp_path):
    torch.multiprocessing.spawn(train_rank, (tmp_path,), nprocs=2)
    one, other = load_file(tmp_path / "0.safetensors"), load_file(tmp_path / "1.safetensors")
    assert all(torch.equal(one[name], value) for name, value in other.items())
    start = untrained().model.state_dict()
    assert not torch.equal(one["visual.conv1.weight"], start["visual.conv1.weight"])
    assert len(one["token_embedding.weight"]) < 300  # the same tokens on both, though their captions differ

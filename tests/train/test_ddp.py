"""Several processes that train one ranker together end where one process with the same global batches ends.

Weights are compared after plain gradient steps: sums in another order differ in float32's last digits only. Adam
divides a gradient by its own size, and so blows up the rounding of weights that no score depends on (the bias of the
attention's keys, a constant added to all scores); after its steps, what the rankers score is compared.
"""

import contextlib
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from xmrank.train import step as step_module
from xmrank.train.checkpoint import read_ranker
from xmrank.train.trials import Trial
from xmrank.train.worker_group import WorkerGroup

from .toys import TOKENS, assert_equal_weights, result, run_toy, settings, toy_data, with_tokens

WEIGHTS, SCORES, FIGURES = 1e-5, 1e-3, 1e-4
"""Tolerances. One list more or less in a mean is at least 1/33, a wrong part of a batch moves weights by 0.01."""
LOSSES = ("lambdarank", "ranknet", "listnet", "neural_ndcg")
"""A sum over the batch, a mean over its pairs, and two means over its lists."""
CONFIG = settings(epochs=2, batch_size=8, learning_rate=0.01, gradient_clip=5.0)
LISTS = 33
"""Of 2 to 9 items, in batches of 8: the last batch is one list, and the second process has none of it."""
VALIDATION = {"plain": 21, "adam": 1}
"""Validation lists: an odd number, and one, which leaves the second process without any."""


def train_all(folder, group):
    """Train every loss by plain gradient steps, and with Adam."""
    torch.set_num_threads(1)
    for name in LOSSES:
        with mock.patch.object(step_module, "make_optimizer", plain_steps):
            train_one(folder, name, "plain", group)
        train_one(folder, name, "adam", group)
    with mock.patch.object(step_module, "make_optimizer", plain_steps):
        train_one(folder, "listnet", "plain", group, at="tokens", config=replace(CONFIG, ranker=TOKENS))
    continue_after_the_last_validation(folder, group)


def continue_after_the_last_validation(folder, group):
    """A training that is interrupted when only its ranker is left to write, and continued."""

    def stop(epoch, seconds):
        if epoch["epoch"] == CONFIG.epochs:
            raise InterruptedError

    # The second process sees none of the files, as where a network file system shows it an older folder.
    seen = "continued" if group.leads else "unseen"
    with contextlib.suppress(InterruptedError):
        train_one(folder, "listnet", "adam", group, at=seen, on_epoch=stop)
    assert not (folder / "continued/history.json").exists() or not group.leads
    if group.size > 1:
        dist.barrier()  # the processes of a restarted run begin when the state is on disk
    train_one(folder, "listnet", "adam", group, at=seen)


def train_one(folder, name, case, group, at=None, config=CONFIG, **options):
    data, validation = toy_data(LISTS, shortest=2, longest=9), toy_data(VALIDATION[case], seed=1)
    if config.ranker is TOKENS:
        data, validation = with_tokens(data), with_tokens(validation, seed=1)
    directory, trial = folder / (at or f"{name}-{case}"), Trial(name, "i2t", 0)
    run_toy(directory, config, trial, lists=data, validation=validation, group=group, **options)


def plain_steps(config, parameters, matrices):
    return torch.optim.SGD(parameters.values(), lr=config.learning_rate, momentum=0.9)


def one_of_two(rank, folder):
    """One of the two processes."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    train_all(folder / "two", WorkerGroup(rank, 2, dist.group.WORLD))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What one process trained, and what two did."""
    path = tmp_path_factory.mktemp("ddp")
    multiprocessing.spawn(one_of_two, (path,), nprocs=2)
    train_all(path / "one", WorkerGroup())
    return path


@pytest.mark.parametrize("name", [*(f"{loss}-plain" for loss in LOSSES), "tokens"])
def test_two_processes_end_in_the_weights_of_one(folder, name):
    one, two = (result(folder / size / name)[0] for size in ("one", "two"))
    assert one.keys() == two.keys()
    for key in one:
        assert torch.allclose(two[key], one[key], rtol=0, atol=WEIGHTS), key


@pytest.mark.parametrize("name", LOSSES)
def test_two_processes_end_in_a_ranker_that_scores_alike(folder, name):
    batch = toy_data(LISTS, shortest=5, longest=5).gather_batch(np.arange(LISTS))
    one, two = (
        read_ranker(folder / size / f"{name}-adam")[0](batch.query, batch.candidates, batch.similarity)
        for size in ("one", "two")
    )
    one, two = one - one.mean(1, keepdim=True), two - two.mean(1, keepdim=True)
    assert one.abs().max() > 100 * SCORES
    assert torch.allclose(two, one, rtol=0, atol=SCORES)


@pytest.mark.parametrize("case", VALIDATION)
@pytest.mark.parametrize("name", LOSSES)
def test_two_processes_report_the_figures_of_one(folder, name, case):
    one, two = (result(folder / size / f"{name}-{case}")[1]["epochs"] for size in ("one", "two"))
    for alone, together in zip(one, two, strict=True):
        assert together == pytest.approx(alone, abs=FIGURES)


@pytest.mark.parametrize("size", ["one", "two"])
def test_processes_that_continue_after_the_last_validation_only_write_the_ranker(folder, size):
    weights, history = result(folder / size / "continued")
    expected, figures = result(folder / size / "listnet-adam")
    assert_equal_weights(weights, expected)
    assert history == figures


def test_a_group_of_one_needs_no_process_group():
    alone, tensor = WorkerGroup(), torch.tensor([1.0, 2.0], requires_grad=True)
    assert alone.sum(tensor).tolist() == [1, 2]
    assert not alone.sum(tensor).requires_grad
    assert alone.gather([tensor]) == [[tensor]]
    assert alone.leads

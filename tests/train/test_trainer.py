"""The training of one ranker: it learns, keeps its best epoch, and reports the figures of the lists it saw."""

import math
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from plain import plain_ranker

from xmrank.losses import LOSSES
from xmrank.metrics import list_metrics
from xmrank.rankers import LinearParameters
from xmrank.runtime.errors import DataError
from xmrank.train import step as step_module
from xmrank.train import trainer
from xmrank.train.checkpoint import read_ranker
from xmrank.train.epoch_metrics import EpochMetrics
from xmrank.train.list_data import ListData
from xmrank.train.schedule import TrainingSchedule
from xmrank.train.step import TrainingStep, make_optimizer
from xmrank.train.trainer import make_ranker
from xmrank.train.trials import Trial
from xmrank.train.worker_group import WorkerGroup

from .toys import TINY, TRIAL, assert_equal_weights, result, run_toys, settings, toy_data, train_toy

PAPER_LOSSES = ("lambdarank", "neural_ndcg", "listnet", "ranknet")
STANDSTILL = 1e-300
"""A learning rate at which float32 weights do not move."""


@pytest.mark.parametrize("name", PAPER_LOSSES)
def test_a_ranker_learns_which_candidate_is_relevant(tmp_path, name):
    config = settings(epochs=6, learning_rate=0.02)
    _, history = train_toy(tmp_path, config, Trial(name, "i2t", 0), lists=toy_data(150))
    first, last = history["epochs"][0], history["epochs"][-1]
    assert last["validation_hit@1"] > 0.7  # chance is about 1/5
    assert last["train_hit@1"] > first["train_hit@1"]
    assert last["train_loss"] < first["train_loss"]


def test_a_training_leaves_its_ranker_and_history_and_no_state(tmp_path):
    _, history = train_toy(tmp_path, settings())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.json", "ranker.json", "ranker.safetensors"]
    assert {key: history[key] for key in ("loss", "direction", "seed")} == vars(TRIAL)
    assert [(epoch["epoch"], epoch["step"]) for epoch in history["epochs"]] == [(1, 4), (2, 8), (3, 12)]
    assert set(history["epochs"][0]) == {
        "epoch", "step", "train_loss", "train_hit@1", "train_hit@5", "train_hit@10",
        "validation_loss", "validation_hit@1", "validation_hit@5", "validation_hit@10", "validation_mean",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("means", "best"),
    [((0.1, 0.9, 0.5), 2), ((0.4, 0.4, 0.4), 1), ((0.1, 0.2, 0.3), 3), ((math.nan, 0.2, math.nan), 2)],
)
def test_the_best_epoch_is_kept_and_the_earliest_on_ties(tmp_path, monkeypatch, means, best):
    seen = []

    def validate(step, data, seeds, scored):
        seen.append(step.copy_weights(0))
        return [{"validation_mean": means[len(seen) - 1]}]

    monkeypatch.setattr(trainer, "validate_rankers", validate)
    weights, history = train_toy(tmp_path, settings())
    assert history["best_epoch"] == best
    assert_equal_weights(weights, seen[best - 1])
    assert read_ranker(tmp_path)[1]["best_epoch"] == best


def test_a_trial_whose_validations_are_all_nan_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "validate_rankers", lambda *_: [{"validation_mean": math.nan}])
    with pytest.raises(DataError, match="listnet-i2t-seed0: no validation gave a number"):
        train_toy(tmp_path, settings())
    assert not (tmp_path / "ranker.safetensors").exists()


@pytest.mark.parametrize("name", ["listnet", "lambdarank", "ranknet"])
def test_the_validation_figures_are_those_of_the_kept_ranker(tmp_path, name):
    validation = toy_data(20, seed=1)
    _, history = train_toy(tmp_path, settings(), Trial(name, "i2t", 0), validation=validation)
    ranker, _ = read_ranker(tmp_path)
    batch = validation.gather_batch(np.arange(20))
    with torch.no_grad():
        scores = ranker(batch.query, batch.candidates, batch.similarity, mask=batch.mask)
    values = list_metrics(scores.numpy(), batch.labels.numpy(), mask=batch.mask.numpy())
    kept = history["epochs"][history["best_epoch"] - 1]
    hits = [float(values[name].mean()) for name in ("hit@1", "hit@5", "hit@10")]
    assert [kept["validation_hit@1"], kept["validation_hit@5"], kept["validation_hit@10"]] == pytest.approx(hits)
    assert kept["validation_mean"] == pytest.approx(sum(hits) / 3)
    value = float(LOSSES[name](scores, batch.labels, mask=batch.mask))
    if name == "lambdarank":  # a sum over the lists is reported a list
        value /= 20
    assert kept["validation_loss"] == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("name", PAPER_LOSSES)
@pytest.mark.parametrize("batch_size", [7, 30])
def test_the_loss_of_an_epoch_does_not_depend_on_its_batches(tmp_path, name, batch_size):
    data = toy_data(30)
    config = settings(epochs=1, learning_rate=STANDSTILL, batch_size=batch_size)
    _, history = train_toy(tmp_path, config, Trial(name, "i2t", 0), lists=data)
    batch = data.gather_batch(np.arange(30))
    ranker, _ = read_ranker(tmp_path)
    with torch.no_grad():
        scores = ranker(batch.query, batch.candidates, batch.similarity, mask=batch.mask)
    sums = LOSSES[name].sums(scores, batch.labels, mask=batch.mask)
    weight = 30 if name == "lambdarank" else sums.denominator.sum()  # a sum over the batch is reported a list
    assert history["epochs"][0]["train_loss"] == pytest.approx(float(sums.numerator.sum() / weight), rel=1e-5)


def test_seeds_differ_in_their_initial_weights_and_in_the_order_of_the_lists(tmp_path):
    config = settings(epochs=1, learning_rate=STANDSTILL)
    starts = [train_toy(tmp_path / str(seed), config, Trial("listnet", "i2t", seed))[0] for seed in (0, 1)]
    assert not torch.equal(starts[0]["output.weight"], starts[1]["output.weight"])


def test_losses_of_one_seed_start_from_the_same_weights(tmp_path):
    config = settings(epochs=1, learning_rate=STANDSTILL)
    starts = [train_toy(tmp_path / name, config, Trial(name, "i2t", 4))[0] for name in ("listnet", "ranknet")]
    assert_equal_weights(*starts)


RESIDUAL = plain_ranker(features=("cosine",), width=8, heads=2, feed_forward=8, residual=20.0, zero_init_output=True)


def test_a_start_that_training_does_not_better_is_kept(tmp_path):
    """Labels that say the opposite of the similarity: whatever is learned from them, validation prefers the start."""
    data, validation = toy_data(30), toy_data(20, seed=1)
    data = replace(data, lists=replace(data.lists, similarity=-data.lists.similarity))
    config = settings(epochs=2, ranker=RESIDUAL, learning_rate=0.05, validate_start=True)
    logged = []
    run = {"lists": data, "validation": validation, "on_epoch": lambda epoch, seconds: logged.append(epoch["epoch"])}
    weights, history = train_toy(tmp_path / "start", config, **run)
    assert [epoch["epoch"] for epoch in history["epochs"]] == logged == [0, 1, 2]
    assert "train_loss" not in history["epochs"][0] and "train_loss" in history["epochs"][1]
    assert history["best_epoch"] == 0 and not weights["output.weight"].any()
    later, history = train_toy(tmp_path / "none", replace(config, validate_start=False), **run)
    assert history["best_epoch"] == 1 and later["output.weight"].any()


def test_losses_of_one_seed_share_the_scores_of_their_start(tmp_path, monkeypatch):
    config = settings(epochs=1, validate_start=True, ranker=replace(TINY, levels=3))
    trials = [Trial(name, "i2t", seed) for name in ("listnet", "ranknet", "ordinal") for seed in (0, 1)]
    alone = [train_toy(tmp_path / "alone" / trial.name, config, trial)[1] for trial in trials]
    counts = []
    score = TrainingStep.score_batch
    monkeypatch.setattr(TrainingStep, "score_batch", lambda step, batch: counts.append(1) or score(step, batch))
    assert run_toys(tmp_path / "one", config, trials[:1]) == {}
    one = len(counts)
    assert run_toys(tmp_path / "all", config, trials) == {}
    # The lists fit in one batch. Of each seed, the second loss scores no start; the ordinal head is another ranker.
    assert len(counts) - one == one * len(trials) - 2
    assert [result(tmp_path / "all" / trial.name)[1] for trial in trials] == alone
    losses = {history["epochs"][0]["validation_loss"] for history in alone}
    assert len(losses) == len(trials)


def test_a_training_that_was_killed_after_its_first_validation_goes_on_to_the_same_end(tmp_path):
    config = settings(epochs=2, ranker=RESIDUAL, validate_start=True)
    expected, history = train_toy(tmp_path / "undisturbed", config)

    def stop(epoch, seconds):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        train_toy(tmp_path / "killed", config, on_epoch=stop)
    weights, again = train_toy(tmp_path / "killed", config)
    assert_equal_weights(weights, expected)
    assert again == history and [epoch["epoch"] for epoch in again["epochs"]] == [0, 1, 2]


def test_a_stack_that_was_killed_between_first_validations_has_each_once(tmp_path):
    config = settings(epochs=2, ranker=RESIDUAL, validate_start=True)
    trials = [Trial("ranknet", "i2t", seed) for seed in (0, 1)]

    def stop(trial, epoch, seconds):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        run_toys(tmp_path, config, trials, stacked=True, on_epoch=stop)
    assert run_toys(tmp_path, config, trials, stacked=True) == {}
    for trial in trials:
        assert [epoch["epoch"] for epoch in result(tmp_path / trial.name)[1]["epochs"]] == [0, 1, 2]


def test_every_epoch_is_logged_once_with_its_seconds(tmp_path):
    logged = []
    _, history = train_toy(tmp_path, settings(), on_epoch=lambda epoch, seconds: logged.append((epoch, seconds)))
    assert [epoch for epoch, _ in logged] == history["epochs"]
    assert all(seconds > 0 for _, seconds in logged)


def test_one_cycle_rises_over_a_tenth_and_falls_as_a_cosine():
    schedule = TrainingSchedule(
        settings(schedule="one_cycle", learning_rate=1.0, epochs=4), lists=40
    )  # 4 epochs of 5 steps of 8
    rates = [schedule.step_size(step) for step in range(20)]
    assert rates[:3] == pytest.approx([1 / 2, 2 / 2, 0.5 * (1 + math.cos(0))])  # 2 of 20 steps rise
    assert rates[11] == pytest.approx(0.5 * (1 + math.cos(math.pi * 9 / 18)))  # half way down
    assert rates[19] == pytest.approx(0.5 * (1 + math.cos(math.pi * 17 / 18)))
    assert TrainingSchedule(settings(learning_rate=0.3), 40).step_size(9) == 0.3


@pytest.fixture
def watch_steps(monkeypatch):
    """Calls a function with the optimiser before each of its steps."""

    def watch(look):
        def make(*arguments):
            optimizer = make_optimizer(*arguments)
            optimizer.register_step_pre_hook(lambda made, *rest: look(made))
            return optimizer

        monkeypatch.setattr(step_module, "make_optimizer", make)

    return watch


def test_the_schedule_spans_all_steps_of_all_epochs(tmp_path, watch_steps):
    rates = []
    watch_steps(lambda optimizer: rates.append(optimizer.param_groups[0]["lr"]))
    config = settings(epochs=2, batch_size=8, schedule="one_cycle", learning_rate=0.01)
    train_toy(tmp_path, config, lists=toy_data(30))  # 30 lists are 4 steps of 8, 8, 8, 6
    assert rates == [TrainingSchedule(config, 30).step_size(step) for step in range(8)]


@pytest.mark.parametrize(("clip", "longest"), [(0.01, 0.01), (None, math.inf)])
def test_gradients_are_clipped_to_the_norm(tmp_path, watch_steps, clip, longest):
    norms = []

    def measure(optimizer):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(math.sqrt(sum(float(g.square().sum()) for g in gradients)))

    watch_steps(measure)
    train_toy(tmp_path, settings(epochs=1, gradient_clip=clip))
    assert max(norms) <= longest * 1.001
    assert max(norms) == pytest.approx(clip, rel=1e-3) if clip else max(norms) > 0.02


def test_weight_decay_is_decoupled_and_spares_biases_and_norms():
    config = settings(weight_decay=0.1, learning_rate=0.5)
    ranker = make_ranker(config, 6, "listnet")
    before = {name: tensor.clone() for name, tensor in ranker.state_dict().items()}
    made = TrainingStep([ranker], ["listnet"], config, WorkerGroup())
    for parameter in ranker.parameters():
        parameter.grad = torch.zeros_like(parameter)
    made.optimizer.step()
    for name, after in ranker.state_dict().items():
        shrunk = before[name] * (1 - 0.5 * 0.1) if before[name].dim() == 2 else before[name]
        assert torch.allclose(after, shrunk), name


@pytest.mark.parametrize("name", PAPER_LOSSES)
@pytest.mark.parametrize("batch_size", [8, 30])
def test_a_training_that_diverges_is_one_line_with_the_trials_name(tmp_path, name, batch_size):
    config = settings(learning_rate=1e38, batch_size=batch_size)
    with pytest.raises(DataError, match=rf"{name}-t2i-seed3: the loss .* try a smaller --learning-rate"):
        train_toy(tmp_path, config, Trial(name, "t2i", 3))


def test_only_the_ordinal_loss_has_a_ranker_with_several_levels():
    config = settings(ranker=LinearParameters(levels=3))
    assert make_ranker(config, 6, "listnet").levels == 1
    assert make_ranker(config, 6, "ordinal").levels == 3


def test_no_batch_of_embeddings_outlives_its_step(tmp_path, monkeypatch):
    born = []
    alive = []
    kept = []

    class Watched(ListData):
        def gather_batch(self, rows):
            made = super().gather_batch(rows)
            born.append(weakref.ref(made.candidates))
            alive.append(sum(ref() is not None for ref in born))
            return made

    def measure(metrics, prefix, group):
        kept.extend(tensor for batch in metrics.batches for tensor in batch)
        return summarise(metrics, prefix, group)

    summarise = EpochMetrics.summarise
    monkeypatch.setattr(EpochMetrics, "summarise", measure)
    data = Watched(**vars(toy_data(80)))
    train_toy(tmp_path, settings(epochs=1), lists=data, group=WorkerGroup())
    assert len(alive) == 10
    assert max(alive) <= 2  # the batch just made and the one before it
    assert all(tensor.dim() == 2 and not tensor.requires_grad for tensor in kept)
    assert all(tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size() for tensor in kept)

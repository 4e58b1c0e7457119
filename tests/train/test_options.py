"""What can be set about a training: when it validates and stops, its parts of a batch, its arithmetic."""

import numpy as np
import pytest
import torch

from xmrank.config import TrainConfig
from xmrank.losses import LOSSES
from xmrank.rankers import ContextAwareParameters
from xmrank.runtime.errors import ConfigError
from xmrank.train import step as step_module
from xmrank.train import trainer
from xmrank.train.epoch_metrics import EpochMetrics
from xmrank.train.schedule import TrainingSchedule, TrialProgress
from xmrank.train.step import TrainingStep
from xmrank.train.trials import Trial
from xmrank.train.worker_group import WorkerGroup

from .test_resume import DROPPING, StoppedError
from .toys import assert_equal_weights, settings, toy_data, train_toy


def take_step(rankers, losses, config, data, rows):
    """One step of size 0, which leaves its gradient."""
    step = TrainingStep(rankers, losses, config, WorkerGroup())
    step.take([data], rows, 0.0, [0], [0], EpochMetrics(1, step.device))


def validations(history):
    return [(epoch["epoch"], epoch["step"]) for epoch in history["epochs"]]


def test_validations_come_every_so_many_epochs_and_at_the_end(tmp_path):
    _, history = train_toy(tmp_path, settings(epochs=5, validate_every=2))  # 30 lists are 4 steps of 8
    assert validations(history) == [(2, 8), (4, 16), (5, 20)]


def test_validations_come_every_so_many_steps_across_epochs(tmp_path):
    _, history = train_toy(tmp_path, settings(epochs=2, validate_every_steps=3))
    assert validations(history) == [(0.75, 3), (1.5, 6), (2, 8)]
    assert history["best_epoch"] in (0.75, 1.5, 2)


@pytest.mark.parametrize("changes", [{"validate_every": 3}, {"validate_every_steps": 5}], ids=str)
def test_how_often_is_validated_does_not_change_the_weights(tmp_path, monkeypatch, changes):
    ends = []
    save_ranker = trainer.save_ranker

    def save(directory, ranker, *rest):
        ends.append(ranker.state_dict())
        save_ranker(directory, ranker, *rest)

    monkeypatch.setattr(trainer, "save_ranker", save)
    train_toy(tmp_path / "every", settings(ranker=DROPPING))
    train_toy(tmp_path / "other", settings(ranker=DROPPING, **changes))
    assert_equal_weights(*ends)


def test_a_training_that_is_interrupted_within_an_epoch_goes_on_there(tmp_path):
    config = settings(ranker=DROPPING, validate_every_steps=3, schedule="one_cycle")

    def stop(epoch, seconds):
        if epoch["step"] == 6:  # the second step of the second epoch
            raise StoppedError

    weights, history = train_toy(tmp_path / "undisturbed", config)
    with pytest.raises(StoppedError):
        train_toy(tmp_path / "resumed", config, on_epoch=stop)
    logged = []
    resumed, figures = train_toy(tmp_path / "resumed", config, on_epoch=lambda e, s: logged.append(e["step"]))
    assert logged == [9, 12]
    assert_equal_weights(resumed, weights)
    assert figures == history


@pytest.mark.parametrize(
    ("means", "patience", "count"),
    [((0.5, 0.4, 0.6, 0.6, 0.5, 0.9), 2, 5), ((0.5, 0.4, 0.3, 0.2, 0.1, 0.0), 1, 2), ((0.1, 0.2, 0.3, 0.4), 1, 4)],
)
def test_a_training_stops_after_so_many_validations_without_a_better_one(tmp_path, monkeypatch, means, patience, count):
    given = iter(means)
    monkeypatch.setattr(trainer, "validate_rankers", lambda *_: [{"validation_mean": next(given)}])
    _, history = train_toy(tmp_path, settings(epochs=len(means), patience=patience))
    assert len(history["epochs"]) == count


def test_a_training_that_had_stopped_early_is_not_taken_up_again():
    schedule = TrainingSchedule(settings(epochs=9, patience=2), lists=8)
    stopped = TrialProgress()
    for epoch, mean in enumerate((0.5, 0.4, 0.5), 1):
        assert not stopped.is_over(schedule)
        stopped.add_validation({"epoch": epoch, "step": epoch, "validation_mean": mean})
    assert TrialProgress(**vars(stopped)).is_over(schedule)
    assert not stopped.is_over(TrainingSchedule(settings(epochs=9), lists=8))


@pytest.mark.parametrize("name", ["lambdarank", "neural_ndcg", "listnet", "ranknet"])
def test_the_gradient_of_a_step_is_that_of_the_loss_of_its_batch(name):
    data, rows, config = toy_data(30, shortest=1, longest=9), np.arange(20), settings(batch_size=20)
    ranker = trainer.make_ranker(config, 6, name)
    batch = data.gather_batch(rows)
    scores = ranker(batch.query, batch.candidates, batch.similarity, mask=batch.mask)
    value = LOSSES[name](scores, batch.labels, mask=batch.mask, **step_module.INDEPENDENT.get(name, {}))
    expected = torch.autograd.grad(value, list(ranker.parameters()))
    take_step([ranker], [name], config, data, [rows])
    for parameter, gradient in zip(ranker.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["lambdarank", "neural_ndcg", "listnet", "ranknet"])
def test_parts_of_a_batch_add_up_to_its_gradient(name):
    data, gradients = toy_data(30, shortest=2, longest=9), []
    for micro_batch in (0, 3, 7):
        torch.manual_seed(0)
        config = settings(batch_size=20, micro_batch=micro_batch)
        ranker = trainer.make_ranker(config, 6, name)
        take_step([ranker], [name], config, data, [np.arange(20)])
        gradients.append({key: parameter.grad for key, parameter in ranker.named_parameters()})
    whole, *in_parts = gradients
    for other in in_parts:
        assert all(torch.allclose(other[key], whole[key], rtol=1e-4, atol=1e-6) for key in whole)


def test_a_part_holds_no_more_lists_than_it_should(monkeypatch, tmp_path):
    sizes = []
    score_batch = TrainingStep.score_batch

    def count(self, batch):
        sizes.append(len(batch.query))
        return score_batch(self, batch)

    monkeypatch.setattr(TrainingStep, "score_batch", count)
    train_toy(tmp_path, settings(epochs=1, batch_size=8, micro_batch=3), lists=toy_data(18), validation=toy_data(2))
    assert sizes == [3, 3, 2, 3, 3, 2, 2, 2]  # two batches of 8, one of 2, the validation lists


def test_bf16_computes_in_bf16_and_keeps_weights_and_losses_in_float32(tmp_path, monkeypatch):
    inside = []
    add_scores = EpochMetrics.add_scores

    def note_dtype(metrics, scores, batch):
        inside.append(scores.dtype)
        add_scores(metrics, scores, batch)

    monkeypatch.setattr(EpochMetrics, "add_scores", note_dtype)
    weights, history = train_toy(tmp_path / "bf16", settings(precision="bf16"))
    assert set(inside) == {torch.bfloat16}
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    _, exact = train_toy(tmp_path / "fp32", settings())
    assert history["epochs"][0]["train_loss"] == pytest.approx(exact["epochs"][0]["train_loss"], rel=0.02)
    assert history["epochs"][0]["train_loss"] != exact["epochs"][0]["train_loss"]


def test_an_ordinal_head_has_its_levels_and_the_other_losses_have_one_score(tmp_path):
    config = settings(ranker=ContextAwareParameters(**{**vars(settings().ranker), "levels": 3}))
    weights, history = train_toy(tmp_path / "ordinal", config, Trial("ordinal", "i2t", 0))
    assert weights["output.weight"].shape[0] == 3
    assert 0 <= history["epochs"][-1]["validation_hit@1"] <= 1
    assert train_toy(tmp_path / "listnet", config)[0]["output.weight"].shape[0] == 1
    assert train_toy(tmp_path / "one", settings(), Trial("ordinal", "i2t", 0))[0]["output.weight"].shape[0] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patience": 0}, "--patience 0: expected at least 1"),
        ({"validate_every": 0}, "--validate-every 0: expected at least 1"),
        ({"validate_every_steps": 0}, "--validate-every-steps 0: expected at least 1"),
        ({"micro_batch": -1}, "--micro-batch -1: expected at least 0"),
        ({"stack": "on", "workers_per_trial": 2}, "--stack on: trains in one process; --workers-per-trial is 2"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**changes)

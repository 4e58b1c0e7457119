"""Losses that draw random numbers draw them by seed and step: not by what ran before, beside or in which parts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from plain import plain_ranker

from xmrank.losses import LOSSES
from xmrank.losses.loss_parameters import LossParameters, NeuralNdcgParameters
from xmrank.train import trainer
from xmrank.train.trials import Trial

from .test_resume import StoppedError, stop_after
from .toys import assert_equal_weights, result, run_toys, settings, toy_data, train_toy

DROPPING = plain_ranker(width=8, layers=1, heads=2, feed_forward=8, dropout=0.2)
STOCHASTIC = LossParameters(neural_ndcg=NeuralNdcgParameters(stochastic_samples=3))
LOSSES_WITH_NOISE = ("neural_ndcg", "listmle")


def noisy_settings(loss, **changes):
    parameters = STOCHASTIC if loss == "neural_ndcg" else LossParameters()
    return settings(losses=(loss,), loss=parameters, **changes)


@pytest.mark.parametrize("loss", LOSSES_WITH_NOISE)
def test_an_interrupted_training_draws_the_same_noise(tmp_path, loss):
    trial, config = Trial(loss, "i2t", 0), noisy_settings(loss, ranker=DROPPING)
    weights, history = train_toy(tmp_path / "undisturbed", config, trial)
    with pytest.raises(StoppedError):
        train_toy(tmp_path / "resumed", config, trial, on_epoch=stop_after(2))
    torch.rand(7)  # whatever else the process draws
    resumed, figures = train_toy(tmp_path / "resumed", config, trial)
    assert_equal_weights(resumed, weights)
    assert figures == history


@pytest.mark.parametrize("loss", LOSSES_WITH_NOISE)
def test_neither_a_stack_nor_parts_of_a_batch_change_the_noise(tmp_path, loss):
    trials = [Trial(loss, "i2t", seed) for seed in (0, 1)]
    config = noisy_settings(loss, epochs=1, gradient_clip=1.0)
    run_toys(tmp_path / "alone", config, trials)
    run_toys(tmp_path / "stack", config, trials, stacked=True)
    run_toys(tmp_path / "parts", replace(config, micro_batch=3), trials)
    losses = {}
    for folder in ("alone", "stack", "parts"):
        entries = [result(tmp_path / folder / trial.name)[1]["epochs"][0] for trial in trials]
        losses[folder] = [entry[name] for entry in entries for name in ("train_loss", "validation_loss")]
    assert losses["stack"] == pytest.approx(losses["alone"], rel=1e-3)
    assert losses["parts"] == pytest.approx(losses["alone"], rel=1e-3)


@pytest.mark.parametrize("loss", LOSSES_WITH_NOISE)
def test_seeds_and_steps_have_noise_of_their_own(tmp_path, monkeypatch, loss):
    drawn = {}
    own = LOSSES[loss].sums

    def note(scores, labels, mask=None, **parameters):
        drawn.setdefault(parameters["noise"].flatten()[:6].numpy().tobytes(), scores.requires_grad)
        return own(scores, labels, mask, **parameters)

    monkeypatch.setattr(LOSSES[loss], "sums", note)
    run_toys(tmp_path, noisy_settings(loss, epochs=2), [Trial(loss, "i2t", seed) for seed in (0, 1)])
    # Of each seed: four steps in each of two epochs, and one draw for all validations.
    assert list(drawn.values()).count(True) == 16
    assert list(drawn.values()).count(False) == 2


def test_listmle_orders_its_ties_anew_in_every_step(tmp_path, monkeypatch):
    config = settings(epochs=1, batch_size=30)
    fixed = trainer.noise_seed
    trained = {}
    for name, seed_of in {"own": fixed, "other": lambda seed, step: fixed(seed, step + 100)}.items():
        monkeypatch.setattr(trainer, "noise_seed", seed_of)
        trained[name] = train_toy(tmp_path / name, config, Trial("listmle", "i2t", 0), lists=toy_data(30))[1]
    losses = [history["epochs"][0]["train_loss"] for history in trained.values()]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)


def test_listmle_orders_ties_by_the_noise_it_is_given():
    scores, labels = torch.tensor([[0.5, 1.0, 2.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    forwards, backwards = torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([[0.2, 0.1, 0.3]])
    listmle = LOSSES["listmle"]
    assert listmle(scores, labels, noise=forwards) == listmle(scores, labels)
    assert listmle(scores, labels, noise=backwards) == listmle(scores[:, [1, 0, 2]], labels)
    with pytest.raises(ValueError, match="noise must be"):
        listmle(scores, labels, noise=torch.from_numpy(np.ones((2, 3), np.float32)))

"""Rankers that are trained as a stack end as those that are trained alone: their own start, data order and dropout."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from xmrank.rankers import build_ranker
from xmrank.rankers.layers import dropout_draws
from xmrank.train import stack_states, trainer
from xmrank.train import step as step_module
from xmrank.train.step import TrainingStep
from xmrank.train.trials import NEXT_STATE, Trial
from xmrank.train.worker_group import WorkerGroup

from .toys import TINY, assert_equal_weights, run_toys, settings, toy_data

WEIGHTS, FIGURES = 1e-5, 1e-5
"""Sums in another order differ in float32's last digits; a wrong seed, order or mask of dropout by more than 0.01."""
TRIALS = [Trial(loss, "i2t", seed) for loss in ("lambdarank", "neural_ndcg", "ranknet") for seed in (3, 4)]
FEW = TRIALS[:4]
DROPPING = replace(TINY, dropout=0.2, input_dropout=0.1, features=("concat", "cosine"))


@pytest.fixture
def plain_steps(monkeypatch):
    """Plain gradient steps: Adam would blow up the rounding of weights that no score depends on."""

    def make(config, parameters, matrices):
        return torch.optim.SGD(parameters.values(), lr=config.learning_rate, momentum=0.9)

    monkeypatch.setattr(step_module, "make_optimizer", make)


def results(output, trials):
    return {trial: (load_file(output / trial.name / "ranker.safetensors"), history(output, trial)) for trial in trials}


def history(output, trial):
    return json.loads((output / trial.name / "history.json").read_text())


def assert_alike(one, other):
    for trial, (weights, figures) in one.items():
        theirs, their_figures = other[trial]
        for name, value in weights.items():
            assert torch.allclose(theirs[name], value, rtol=0, atol=WEIGHTS), (trial.name, name)
        assert their_figures["best_epoch"] == figures["best_epoch"]
        for mine, its in zip(figures["epochs"], their_figures["epochs"], strict=True):
            assert its == pytest.approx(mine, abs=FIGURES), trial.name


@pytest.mark.usefixtures("plain_steps")
@pytest.mark.parametrize("changes", [{}, {"gradient_clip": 0.05, "micro_batch": 3}], ids=["whole", "clipped parts"])
def test_a_stack_of_losses_and_seeds_ends_in_the_weights_of_each_alone(tmp_path, changes):
    config = settings(ranker=DROPPING, epochs=2, schedule="one_cycle", **changes)
    assert run_toys(tmp_path / "alone", config, TRIALS, stacked=False) == {}
    assert run_toys(tmp_path / "stack", config, TRIALS, stacked=True) == {}
    assert_alike(results(tmp_path / "alone", TRIALS), results(tmp_path / "stack", TRIALS))
    seeds = [results(tmp_path / "stack", TRIALS)[trial][0]["output.weight"] for trial in TRIALS[:2]]
    assert not torch.allclose(*seeds, atol=100 * WEIGHTS)


@pytest.mark.parametrize("stacked", [False, True])
def test_a_stack_with_adam_reports_the_figures_of_each_alone(tmp_path, stacked):
    config = settings(epochs=3, weight_decay=0.1)
    run_toys(tmp_path / "alone", config, TRIALS)
    run_toys(tmp_path / "other", config, TRIALS, stacked=stacked)
    for trial in TRIALS:
        mine, its = (history(tmp_path / folder, trial)["epochs"][-1] for folder in ("alone", "other"))
        assert its == pytest.approx(mine, abs=2e-3)


def test_a_trial_that_stops_early_leaves_the_stack_and_changes_nothing_for_the_others(tmp_path):
    config = settings(epochs=8, patience=1)
    run_toys(tmp_path / "alone", config, TRIALS)
    run_toys(tmp_path / "stack", config, TRIALS, stacked=True)
    lengths = [len(history(tmp_path / "alone", trial)["epochs"]) for trial in TRIALS]
    assert len(set(lengths)) > 1  # else nobody would leave before the others
    assert [len(history(tmp_path / "stack", trial)["epochs"]) for trial in TRIALS] == lengths


class StoppedError(Exception):
    """Stands for whatever ends a process."""


def test_a_stack_that_is_killed_between_two_of_its_states_is_continued(tmp_path):
    config = settings(ranker=DROPPING, epochs=3)
    run_toys(tmp_path / "whole", config, TRIALS, stacked=True)

    def stop(trial, epoch, seconds):
        if epoch["epoch"] == 2 and trial == TRIALS[3]:  # the others after it are one epoch behind
            raise StoppedError

    with pytest.raises(StoppedError):
        run_toys(tmp_path / "resumed", config, TRIALS, stacked=True, on_epoch=stop)
    assert run_toys(tmp_path / "resumed", config, TRIALS, stacked=True) == {}
    for trial in TRIALS:
        mine, its = (history(tmp_path / folder, trial)["epochs"][-1] for folder in ("whole", "resumed"))
        assert its == pytest.approx(mine, abs=2e-3)


@pytest.mark.parametrize("renamed", [False, True])
def test_a_stack_that_is_killed_within_its_save_goes_on_as_one(tmp_path, monkeypatch, renamed):
    """Some states of epoch 2 are written; or all are, and some have got their names."""
    config = settings(ranker=DROPPING, epochs=2)
    run_toys(tmp_path / "whole", config, FEW, stacked=True)
    calls = []

    def kill(method):
        def stop(*arguments):
            calls.append(arguments)
            if len(calls) == len(FEW) + 3:  # in the second save
                raise StoppedError
            return method(*arguments)

        return stop

    with monkeypatch.context() as broken:
        if renamed:
            replace_path = stack_states.Path.replace
            stop = kill(replace_path)
            broken.setattr(
                stack_states.Path,
                "replace",
                lambda path, to: stop(path, to) if path.name == NEXT_STATE else replace_path(path, to),
            )
        else:
            broken.setattr(stack_states, "save_state", kill(stack_states.save_state))
        with pytest.raises(StoppedError):
            run_toys(tmp_path / "resumed", config, FEW, stacked=True)
    assert list((tmp_path / "resumed").glob(f"*/{NEXT_STATE}"))
    resumed = []
    epochs = lambda trial, epoch, seconds: resumed.append((trial, epoch["epoch"]))  # noqa: E731
    assert run_toys(tmp_path / "resumed", config, FEW, stacked=True, on_epoch=epochs) == {}
    assert len(resumed) == (0 if renamed else len(FEW))
    whole, again = (results(tmp_path / folder, FEW) for folder in ("whole", "resumed"))
    for trial in FEW:
        assert_equal_weights(again[trial][0], whole[trial][0])
        assert again[trial][1] == whole[trial][1]


def test_a_trial_that_diverges_does_not_stop_the_others_of_its_stack(tmp_path, monkeypatch):
    ill = TRIALS[2]
    open_trial = trainer.open_trial

    def infect(trial, job):
        state = open_trial(trial, job)
        if trial == ill:
            state.ranker.output.bias.data.fill_(torch.nan)
        return state

    monkeypatch.setattr(trainer, "open_trial", infect)
    failures = run_toys(tmp_path, settings(epochs=2), TRIALS, stacked=True)
    assert list(failures) == [ill]
    assert f"{ill.name}: the loss" in failures[ill]
    assert sorted(p.parent.name for p in tmp_path.glob("*/history.json")) == sorted(t.name for t in TRIALS if t != ill)


def test_models_drop_the_same_alone_and_under_vmap():
    rankers = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        rankers.append(build_ranker(DROPPING, dimensions=6))
    stack = TrainingStep(rankers, ["listnet"] * 2, settings(), WorkerGroup())
    batch = toy_data(10).gather_batch(torch.arange(10).numpy())
    stack.module.train()
    with dropout_draws([torch.Generator().manual_seed(seed) for seed in (5, 6)]):
        together = stack.score_batch(batch).unflatten(0, (2, 5))
    for model, seed in enumerate((5, 6)):
        with dropout_draws([torch.Generator().manual_seed(seed)]):
            part = slice(5 * model, 5 * model + 5)
            alone = rankers[model](
                *(t[part] for t in (batch.query, batch.candidates, batch.similarity)), mask=batch.mask[part]
            )
        assert torch.allclose(together[model], alone, atol=1e-6)

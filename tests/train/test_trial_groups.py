"""Which trials are trained together."""

from dataclasses import replace

import pytest

from xmrank.train import trial_groups
from xmrank.train.checkpoint import save_state
from xmrank.train.trial_groups import group_trials
from xmrank.train.trials import STATE, Trial

from .toys import TOKENS, settings

TRIALS = [Trial(loss, "i2t", seed) for loss in ("ranknet", "listnet", "ordinal") for seed in (1, 0)]


def names(groups):
    return [[trial.name for trial in group] for group in groups]


def test_without_a_stack_every_trial_is_alone_and_keeps_its_order(tmp_path):
    groups = group_trials(TRIALS, lambda trial: settings(), tmp_path, stacked=False)
    assert list(groups) == [[trial] for trial in TRIALS]


def test_a_stack_has_one_shape_and_trials_of_one_loss_next_to_each_other(tmp_path):
    groups = group_trials(TRIALS, lambda trial: settings(), tmp_path, stacked=True)
    assert names(groups) == [
        ["listnet-i2t-seed0", "listnet-i2t-seed1", "ranknet-i2t-seed0", "ranknet-i2t-seed1"],
        ["ordinal-i2t-seed0", "ordinal-i2t-seed1"],
    ]


def test_a_stack_has_one_configuration(tmp_path):
    faster = {"listnet": replace(settings(), learning_rate=0.1)}
    groups = group_trials(TRIALS[:4], lambda trial: faster.get(trial.loss, settings()), tmp_path, stacked=True)
    assert names(groups) == [["ranknet-i2t-seed0", "ranknet-i2t-seed1"], ["listnet-i2t-seed0", "listnet-i2t-seed1"]]


def test_rankers_that_read_tokens_are_never_stacked(tmp_path):
    groups = group_trials(TRIALS, lambda trial: settings(ranker=TOKENS), tmp_path, stacked=True)
    assert list(groups) == [[trial] for trial in TRIALS]


@pytest.mark.parametrize("damaged", [False, True])
def test_a_stack_goes_on_from_one_step(tmp_path, damaged):
    state = TRIALS[0].directory(tmp_path) / STATE
    if damaged:
        state.parent.mkdir(parents=True)
        state.write_bytes(b"not a state")
    else:
        progress = {"epochs": [{"step": 4}], "best_epoch": 1, "best_value": 0.5, "best_number": 1}
        save_state(state, {}, {}, {}, progress)
    groups = group_trials(TRIALS[:3], lambda trial: settings(), tmp_path, stacked=True)
    assert names(groups) == [["ranknet-i2t-seed1"], ["listnet-i2t-seed1", "ranknet-i2t-seed0"]]


def test_a_stack_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(trial_groups, "STACK_LIMIT", 3)
    groups = group_trials(TRIALS[:4], lambda trial: settings(), tmp_path, stacked=True)
    assert [len(group) for group in groups] == [3, 1]

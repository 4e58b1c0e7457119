"""A training that is interrupted and called again ends where one that was left alone ends, to the last bit."""

import pytest
from plain import plain_ranker

from xmrank.train.list_data import ListData
from xmrank.train.trials import Trial

from .toys import assert_equal_weights, settings, toy_data, train_toy

DROPPING = plain_ranker(width=8, layers=1, heads=2, feed_forward=8, dropout=0.2, input_dropout=0.1)
CONFIG = settings(ranker=DROPPING, epochs=4, schedule="one_cycle", weight_decay=0.01, gradient_clip=1.0)


class StoppedError(Exception):
    """Stands for whatever ends a process."""


def stop_after(last):
    """An ``on_epoch`` that interrupts after an epoch."""

    def stop(epoch, seconds):
        if epoch["epoch"] == last:
            raise StoppedError

    return stop


class Failing(ListData):
    """Lists that interrupt at the twelfth batch; 80 lists are ten steps of 8 an epoch."""

    batches = 0

    def gather_batch(self, rows):
        Failing.batches += 1
        if Failing.batches == 12:
            raise StoppedError
        return super().gather_batch(rows)


@pytest.mark.parametrize("name", ["lambdarank", "neural_ndcg", "listnet", "ranknet"])
def test_an_interrupted_training_ends_in_the_same_weights_and_figures(tmp_path, name):
    trial = Trial(name, "i2t", 0)
    weights, history = train_toy(tmp_path / "undisturbed", CONFIG, trial)
    for epoch in (1, 3):
        with pytest.raises(StoppedError):
            train_toy(tmp_path / "resumed", CONFIG, trial, on_epoch=stop_after(epoch))
    resumed, figures = train_toy(tmp_path / "resumed", CONFIG, trial)
    assert_equal_weights(resumed, weights)
    assert figures == history


def test_an_interruption_within_an_epoch_repeats_that_epoch(tmp_path):
    data, config = toy_data(80), CONFIG
    weights, history = train_toy(tmp_path / "undisturbed", config, lists=data)
    with pytest.raises(StoppedError):
        train_toy(tmp_path / "resumed", config, lists=Failing(**vars(data)))
    logged = []
    resumed, figures = train_toy(
        tmp_path / "resumed", config, lists=data, on_epoch=lambda e, s: logged.append(e["epoch"])
    )
    assert logged == [2, 3, 4]
    assert_equal_weights(resumed, weights)
    assert figures == history


def test_the_best_epoch_before_an_interruption_is_still_the_best_after_it(tmp_path, monkeypatch):
    means = iter((0.1, 0.9, 0.5, 0.2))
    kept = []

    def validate(step, data, seeds, scored):
        kept.append(step.copy_weights(0))
        return [{"validation_mean": next(means)}]

    monkeypatch.setattr("xmrank.train.trainer.validate_rankers", validate)
    with pytest.raises(StoppedError):
        train_toy(tmp_path, CONFIG, on_epoch=stop_after(3))
    weights, history = train_toy(tmp_path, CONFIG)
    assert history["best_epoch"] == 2
    assert_equal_weights(weights, kept[1])


def test_an_interruption_after_the_last_epoch_only_writes_the_ranker(tmp_path):
    weights, history = train_toy(tmp_path / "undisturbed", CONFIG)
    with pytest.raises(StoppedError):
        train_toy(tmp_path / "resumed", CONFIG, on_epoch=stop_after(4))
    logged = []
    resumed, figures = train_toy(tmp_path / "resumed", CONFIG, on_epoch=lambda e, s: logged.append(e))
    assert logged == []
    assert_equal_weights(resumed, weights)
    assert figures == history

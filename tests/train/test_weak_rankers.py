"""Rankers that end below the first stage are named in the last line of a training."""

import json

import numpy as np
import pytest

from xmrank.mine.candidate_lists import CandidateLists, make_offsets
from xmrank.train.first_stage_validation import mean_of_similarity, measure_first_stage
from xmrank.train.trials import Trial
from xmrank.train.weak_rankers import describe_weak_rankers


def make_lists(*ranks):
    """Lists of 20 items in which the only positive has this rank by similarity."""
    count = len(ranks)
    similarity = np.tile(np.linspace(1, 0, 20, dtype=np.float32), (count, 1))
    labels = np.zeros((count, 20), np.float32)
    labels[np.arange(count), np.array(ranks) - 1] = 1
    items = np.tile(np.arange(20, dtype=np.int32), count)
    offsets = make_offsets(np.full(count, 20))
    return CandidateLists(np.arange(count, dtype=np.int32), offsets, items, labels.ravel(), similarity.ravel())


def test_the_first_stage_is_measured_by_the_mean_that_chooses_epochs():
    # hit@1: 1 of 4, hit@5: 2 of 4, hit@10: 3 of 4.
    assert mean_of_similarity(make_lists(1, 4, 9, 15)) == pytest.approx((1 / 4 + 2 / 4 + 3 / 4) / 3)


def test_many_lists_are_measured_in_parts(monkeypatch):
    monkeypatch.setattr("xmrank.train.first_stage_validation.AT_ONCE", 3)
    assert mean_of_similarity(make_lists(1, 4, 9, 15)) == pytest.approx(0.5)


def test_each_direction_has_its_own_lists(tmp_path):
    make_lists(1, 1).write(tmp_path / "i2t-validation.parquet")
    make_lists(15).write(tmp_path / "t2i-validation.parquet")
    measured = measure_first_stage(tmp_path, ("i2t", "t2i"), tmp_path / "cache")
    assert measured == {"i2t": 1.0, "t2i": 0.0}


@pytest.fixture
def trials(tmp_path):
    """Two trained rankers, by the means of their validations."""

    def write(**means):
        made = []
        for loss, values in means.items():
            trial = Trial(loss, "i2t", 0)
            trial.directory(tmp_path).mkdir(parents=True)
            epochs = [{"epoch": number, "validation_mean": value} for number, value in enumerate(values)]
            (trial.directory(tmp_path) / "history.json").write_text(json.dumps({"epochs": epochs}))
            made.append(trial)
        return made

    return write


def test_the_weakest_ranker_is_named_with_what_to_try(tmp_path, trials):
    made = trials(listnet=[0.2, 0.5, 0.4], ranknet=[0.3, 0.31], softmax=[0.7, 0.1])
    text = describe_weak_rankers(made, tmp_path, {"i2t": 0.6})
    assert text.startswith(
        "train: warning: 2 of 3 rankers stay below the first stage on the validation lists, ranknet-i2t-seed0 most: "
        "0.310, the first stage 0.600; try the defaults of train"
    )


def test_a_ranker_that_kept_the_first_stage_is_not_below_it(tmp_path, trials):
    made = trials(listnet=[0.6 - 1e-9, 0.5])
    assert describe_weak_rankers(made, tmp_path, {"i2t": 0.6}) == ""


def test_an_earlier_training_says_nothing_of_the_first_stage(tmp_path, trials):
    assert describe_weak_rankers(trials(listnet=[0.1]), tmp_path, {}) == ""

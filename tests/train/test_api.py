"""Training without a job: the same ranker as the trainer's, and settings that are refused."""

import subprocess
import sys

import pytest
import torch
from plain import PLAIN_TRAINING

from xmrank.mine.in_memory import mine_lists
from xmrank.runtime.errors import ConfigError
from xmrank.train import api
from xmrank.train.api import train_ranker
from xmrank.train.list_data import ListData
from xmrank.train.training_data import TrainingData
from xmrank.train.trials import Trial, TrialFailed

from .toys import TINY, assert_equal_weights, settings, train_toy

PLAIN = {name: value for name, value in PLAIN_TRAINING.items() if name in api.SETTINGS}
SETTINGS = {**PLAIN, "ranker": TINY, "epochs": 2, "batch_size": 8, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def store(tiny_store):
    return tiny_store(splits={"train": 40, "val": 20, "test": 20})


def mine(store, direction):
    return [mine_lists(store, direction=direction, split=split, random_candidates=12, hard_negatives=6)
            for split in ("train", "val")]  # fmt: skip


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
def test_the_ranker_and_its_history_are_those_of_a_job(store, tmp_path, direction):
    train, validation = mine(store, direction)
    state = torch.random.get_rng_state()
    ranker, history = train_ranker(store, train, validation, direction=direction, loss="listnet", seed=3, **SETTINGS)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not ranker.training
    data = TrainingData(*(ListData.of(part, store, direction, torch.device("cpu")) for part in (train, validation)))
    weights, expected = train_toy(tmp_path, settings(epochs=2), Trial("listnet", direction, 3), data=data)
    assert_equal_weights(ranker.state_dict(), weights)
    assert history == expected


def test_parameters_of_the_loss_are_passed_on(store):
    train, validation = mine(store, "i2t")
    losses = []
    for sigma in (1.0, 3.0):
        _, history = train_ranker(
            store, train, validation, direction="i2t", loss_parameters={"sigma": sigma}, **SETTINGS
        )
        losses.append(history["epochs"][0]["validation_loss"])
    assert losses[0] != pytest.approx(losses[1], rel=0.01)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"loss": "lstnet"}, "loss lstnet: expected one of ranknet"),
        ({"direction": "t2t"}, "direction t2t: expected one of i2t, t2i"),
        ({"sampling": "random-hard"}, "sampling: no setting of a training on fixed lists; expected one of ranker"),
        ({"epochs": 0}, "--epochs 0: expected at least 1"),
        ({"loss_parameters": {"tau": 1}}, "loss lambdarank has no such parameter"),
    ],
)  # fmt: skip
def test_what_is_not_possible_is_refused(store, wrong, message):
    train, validation = mine(store, "i2t")
    with pytest.raises(ConfigError, match=message):
        train_ranker(store, train, validation, **{"direction": "i2t", **wrong})


def test_a_training_that_diverges_is_an_error(store):
    train, validation = mine(store, "i2t")
    with pytest.raises(TrialFailed, match=r"lambdarank-i2t-seed0: the loss .* try a smaller --learning-rate"):
        train_ranker(store, train, validation, direction="i2t", **{**SETTINGS, "learning_rate": 1e38})


def test_neither_ray_nor_mlflow_is_imported():
    code = "import sys, xmrank.train.api; print(sorted({'ray', 'mlflow', 'faiss'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"

"""Lists small enough to train on in a blink, and one call that trains on them."""

import json
from unittest import mock

import numpy as np
import torch
from safetensors.torch import load_file

from xmrank.config import TrainConfig
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.rankers import ContextAwareParameters
from xmrank.runtime.errors import DataError
from xmrank.train.list_data import ListData
from xmrank.train.trainer import TrainingJob, train_trials
from xmrank.train.trial_data import TrialDataSource
from xmrank.train.trials import Trial
from xmrank.train.worker_group import WorkerGroup

DIMENSIONS = 6
TINY = ContextAwareParameters(width=8, layers=1, heads=2, feed_forward=8)
TRIAL = Trial("listnet", "i2t", 0)


def toy_data(lists, *, seed=0, shortest=3, longest=7):
    """Lists of unequal lengths whose relevant item is the candidate with the largest first coordinate."""
    rng = np.random.default_rng(seed)
    queries = rng.normal(size=(lists, DIMENSIONS)).astype(np.float32)
    gallery = rng.normal(size=(20 * longest, DIMENSIONS)).astype(np.float32)
    lengths = rng.integers(shortest, longest + 1, lists)
    candidates = np.concatenate([rng.choice(len(gallery), n, replace=False) for n in lengths])
    owner = np.repeat(np.arange(lists), lengths)
    height = gallery[candidates, 0]
    best = np.full(lists, -np.inf)
    np.maximum.at(best, owner, height)
    made = CandidateLists(
        queries=np.arange(lists, dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        candidates=candidates.astype(np.int32),
        labels=(height == best[owner]).astype(np.float32),
        similarity=(queries[owner] * gallery[candidates]).sum(1).astype(np.float32),
    )
    return ListData(made, torch.from_numpy(queries), torch.from_numpy(gallery), torch.device("cpu"))


def settings(**changes):
    return TrainConfig(**{"ranker": TINY, "epochs": 3, "batch_size": 8, "learning_rate": 0.01, **changes})


def run_toy(directory, config, trial=TRIAL, *, on_epoch=None, **material):
    """Train one ranker on toy lists, to the files in the directory."""
    told = on_epoch or (lambda epoch, seconds: None)
    failures = run_toys(
        directory.parent, config, [trial], on_epoch=lambda _, *rest: told(*rest), at=directory, **material
    )
    if failures:
        raise DataError(failures[trial])


def run_toys(
    output,
    config,
    trials,
    *,
    stacked=False,
    data=None,
    validation=None,
    group=None,
    on_epoch=None,
    at=None,
    courses=None,
):
    """Train rankers on toy lists; returns the failures."""
    material = TrainingJob(
        config,
        courses or TrialDataSource(data or toy_data(30), validation or toy_data(20, seed=1)),
        output,
        group or WorkerGroup(),
        {},
        on_epoch or (lambda trial, epoch, seconds: None),
    )
    with mock.patch.object(Trial, "directory", lambda trial, output: at or output / trial.name):
        return train_trials(trials, material, stacked=stacked)


def train_toy(directory, *arguments, **keywords):
    """Train one ranker on toy lists; returns its weights and its history."""
    run_toy(directory, *arguments, **keywords)
    return result(directory)


def result(directory):
    """The weights and the history that a training left."""
    return load_file(directory / "ranker.safetensors"), json.loads((directory / "history.json").read_text())


def assert_equal_weights(one, other):
    """Bit for bit."""
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name

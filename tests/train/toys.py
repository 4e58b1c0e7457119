"""Lists small enough to train on in a fraction of a second, and calls that train on them."""

import json
from dataclasses import replace
from unittest import mock

import numpy as np
import torch
from plain import plain_ranker, plain_training
from safetensors.torch import load_file

from xmrank.embed.token_store import TokenArray, count_to_offsets
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.rankers import LateInteractionParameters
from xmrank.runtime.errors import DataError
from xmrank.train.list_data import ListData
from xmrank.train.stack_states import settle_states
from xmrank.train.token_sides import TokenSides
from xmrank.train.trainer import TrainingJob, train_group
from xmrank.train.training_data import TrainingData
from xmrank.train.trial_groups import group_trials
from xmrank.train.trial_log import TrialLog
from xmrank.train.trials import Trial
from xmrank.train.worker_group import WorkerGroup

DIMENSIONS = 6
TINY = plain_ranker(width=8, layers=1, heads=2, feed_forward=8)
TOKENS = LateInteractionParameters(
    dropout=0.0,
    width=8,
    heads=2,
    feed_forward=8,
    token_width=8,
    token_heads=2,
    token_dropout=0.0,
    token_convolutions=2,
)
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


def with_tokens(data, *, text="query", seed=0):
    """The toy data with tokens: one to three words a text, a grid of two times two regions an image."""
    rng = np.random.default_rng(seed)

    def words(count):
        offsets = count_to_offsets(rng.integers(1, 4, count))
        return TokenArray(rng.normal(size=(offsets[-1], 3)).astype(np.float32), offsets)

    def regions(vectors):
        # One region holds what makes a candidate relevant.
        values = rng.normal(size=(len(vectors), 4, 5)).astype(np.float32)
        values[:, 1, 0] = vectors[:, 0]
        return TokenArray(values.reshape(-1, 5), count_to_offsets(np.full(len(vectors), 4)))

    queries, gallery = data.queries.numpy(), data.gallery.numpy()
    if text == "query":
        return replace(data, tokens=TokenSides(words(len(queries)), regions(gallery), text))
    return replace(data, tokens=TokenSides(regions(queries), words(len(gallery)), text))


def settings(**changes):
    return plain_training(**{"ranker": TINY, "epochs": 3, "batch_size": 8, "learning_rate": 0.01, **changes})


class ToyLog(TrialLog):
    """Calls a function after every validation, and keeps why trials failed."""

    def __init__(self, on_epoch):
        self.on_epoch, self.failures = on_epoch, {}

    def log_validation(self, trial, epoch, seconds):
        if self.on_epoch:
            self.on_epoch(trial, epoch, seconds)

    def fail_trial(self, trial, failure):
        self.failures[trial] = str(failure)


def run_toy(directory, config, trial=TRIAL, *, on_epoch=None, **options):
    """Train one ranker on toy lists, to the files in the directory."""
    heard = on_epoch and (lambda trial, epoch, seconds: on_epoch(epoch, seconds))
    failures = run_toys(directory.parent, config, [trial], on_epoch=heard, at=directory, **options)
    if failures:
        raise DataError(failures[trial])


def run_toys(
    output,
    config,
    trials,
    *,
    stacked=False,
    lists=None,
    validation=None,
    data=None,
    group=None,
    on_epoch=None,
    at=None,
):
    """Train rankers on toy lists, or on other training data; returns the failures."""
    data = data or TrainingData(lists or toy_data(30), validation or toy_data(20, seed=1))
    log = ToyLog(on_epoch)
    job = TrainingJob(config, data, output, group or WorkerGroup(), {}, log)
    with mock.patch.object(Trial, "directory", lambda trial, output: at or output / trial.name):
        settle_states(trials, output)
        for together in group_trials(trials, lambda trial: config, output, stacked=stacked):
            train_group(together, job)
    return log.failures


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

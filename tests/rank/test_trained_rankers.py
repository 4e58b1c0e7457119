"""The best ranker of a training; rankers located in folders, trainings and the registry, and loaded from there."""

import json
import shutil

import pytest
import torch
from changed_stages import accept_changes, flip_byte

from xmrank.rank.ranker_loading import load_ranker
from xmrank.rank.trained_rankers import best_rankers, locate_ranker, ranker_fingerprint
from xmrank.register.stage import register
from xmrank.runtime.errors import ConfigError, DataError

pytestmark = pytest.mark.ray


def validation(trial):
    """The figure of the epoch that was kept."""
    history = json.loads((trial / "history.json").read_text())
    return max(epoch["validation_mean"] for epoch in history["epochs"])


def test_the_best_is_the_highest_validation_mean_over_losses_and_seeds(rankers):
    best = best_rankers(rankers)
    assert set(best) == {"i2t", "t2i"}
    for direction, candidate in best.items():
        figures = {trial: validation(trial) for trial in rankers.glob(f"trials/*-{direction}-*")}
        assert len(figures) == 4
        assert candidate.validation == figures[candidate.directory] == max(figures.values())


def test_a_ranker_is_located_in_its_folder_in_a_training_and_in_the_registry(rankers, configure, tmp_path):
    register(configure("located"))
    best = best_rankers(rankers)["i2t"].directory
    assert locate_ranker(str(best), None, tmp_path) == best
    assert locate_ranker(str(rankers), "i2t", tmp_path) == best
    fetched = locate_ranker("models:/located-i2t@best", None, tmp_path)
    assert fetched.is_relative_to(tmp_path)
    assert ranker_fingerprint(fetched) == ranker_fingerprint(best)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("nowhere", "nowhere: no trained ranker here"),
        ("models:/nobody-t2i@best", "--ranker models:/nobody-t2i@best: no such model in sqlite:"),
    ],
)
def test_a_ranker_that_is_not_there_is_one_line(rankers, tmp_path, where, message):
    with pytest.raises(DataError) as failure:
        locate_ranker(where, "t2i", tmp_path)
    assert message in str(failure.value)
    assert "\n" not in str(failure.value)


def test_a_training_needs_the_direction(rankers, tmp_path):
    with pytest.raises(ConfigError, match="a training; give --direction i2t or t2i"):
        locate_ranker(str(rankers), None, tmp_path)


def test_a_damaged_history_is_one_line(rankers, tmp_path):
    copy = tmp_path / "rankers"
    shutil.copytree(rankers, copy)
    damaged = next(copy.glob("trials/*")) / "history.json"
    damaged.write_text("{}")
    with pytest.raises(DataError, match=f"{damaged}: damaged: holds 2 bytes, .*; make it anew: xmrank train --output"):
        best_rankers(copy)
    accept_changes(copy)
    with pytest.raises(DataError, match=f"{damaged}: not the history of a trial"):
        best_rankers(copy)


def test_weights_with_a_changed_byte_are_neither_loaded_nor_registered(rankers, tmp_path):
    folder = tmp_path / "ranker"
    shutil.copytree(best_rankers(rankers)["t2i"].directory, folder)
    flip_byte(folder / "ranker.safetensors", -1)
    for use in (load_ranker, ranker_fingerprint):
        with pytest.raises(DataError, match=r"ranker\.safetensors: damaged: its contents are not those of"):
            use(folder)


def test_a_ranker_is_loaded_from_its_folder_a_training_and_the_registry(rankers, configure):
    register(configure("loaded"))
    best = best_rankers(rankers)["t2i"].directory
    expected = load_ranker(best).state_dict()
    for source in (str(best), str(rankers), "models:/loaded-t2i@best"):
        ranker = load_ranker(source, direction="t2i")
        assert not ranker.training
        assert all(torch.equal(value, expected[name]) for name, value in ranker.state_dict().items())
    with pytest.raises(ConfigError, match="give --direction"):
        load_ranker(rankers)
    with pytest.raises(DataError, match="no such model"):
        load_ranker("models:/nobody-t2i@best")

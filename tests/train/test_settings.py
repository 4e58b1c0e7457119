"""Settings of trials: parameters of losses, and what a search found best for a direction and loss."""

import json

import pytest

from xmrank.config import TrainConfig
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.train.settings import check_loss, config_of, loss_parameters, read_best, semantic_with, with_point
from xmrank.train.trials import Trial

from .toys import assert_equal_weights, settings, train_toy


def test_parameters_are_those_of_the_loss_with_their_types():
    config = TrainConfig(loss_parameters=("neural_ndcg.temperature=0.5", "neural_ndcg.k=10", "listnet.eps=1e-8"))
    assert loss_parameters(config, "neural_ndcg") == {"temperature": 0.5, "k": 10}
    assert loss_parameters(config, "listnet") == {"eps": 1e-8}
    assert loss_parameters(config, "lambdarank") == {}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("neural_ndcg.temperature", "--loss-parameters neural_ndcg.temperature: expected LOSS.PARAMETER=VALUE"),
        ("temperature=1", "--loss-parameters temperature=1: expected LOSS.PARAMETER=VALUE"),
        ("neuralndcg.k=1", "--loss-parameters neuralndcg.k=1: expected LOSS"),
        ("neural_ndcg.tau=1", "--loss-parameters neural_ndcg.tau: expected one of k, log_scores"),
        ("neural_ndcg.temperature=-1", "--loss-parameters of neural_ndcg: temperature"),
        ("neural_ndcg.temperature=warm", "--loss-parameters of neural_ndcg: "),
    ],
)
def test_what_a_loss_does_not_have_is_refused(entry, message):
    with pytest.raises(ConfigError, match=message):
        check_loss(TrainConfig(loss_parameters=(entry,)), "neural_ndcg")


def test_parameters_reach_the_loss(tmp_path):
    trial = Trial("lambdarank", "i2t", 0)
    plain, _ = train_toy(tmp_path / "plain", settings(epochs=1), trial)
    same, _ = train_toy(tmp_path / "same", settings(epochs=1, loss_parameters=("lambdarank.sigma=1.0",)), trial)
    other, _ = train_toy(tmp_path / "other", settings(epochs=1, loss_parameters=("lambdarank.sigma=3.0",)), trial)
    assert_equal_weights(plain, same)
    assert any((plain[name] != other[name]).any() for name in plain)


def test_a_point_changes_settings_of_training_ranker_and_loss():
    point = {"learning_rate": 0.5, "ranker.width": 128, "ranker.hidden": [32], "loss.k": 5}
    config = with_point(TrainConfig(), "neural_ndcg", point)
    assert (config.learning_rate, config.ranker.width, config.ranker.hidden) == (0.5, 128, (32,))
    assert loss_parameters(config, "neural_ndcg") == {"k": 5}


@pytest.mark.parametrize("name", ["width", "ranker.depth", "seeds", "output"])
def test_a_point_of_unknown_names_is_refused(name):
    with pytest.raises(ConfigError, match=f"^{name}: no setting of a training"):
        with_point(TrainConfig(), "listnet", {name: 1})


def test_a_point_of_impossible_values_is_refused():
    with pytest.raises(ConfigError, match=r"--ranker\.width 30: expected a multiple of heads 4"):
        with_point(TrainConfig(), "listnet", {"ranker.width": 30})


def test_the_best_settings_go_before_the_flags_for_their_direction_and_loss(tmp_path):
    path = tmp_path / "best.json"
    path.write_text(json.dumps({"i2t": {"listnet": {"learning_rate": 0.5}}}))
    config = TrainConfig(best=path)
    best = read_best(config)
    assert config_of(Trial("listnet", "i2t", 0), config, best).learning_rate == 0.5
    assert config_of(Trial("listnet", "t2i", 0), config, best).learning_rate == 1e-3
    assert semantic_with(config, best)["best"] == best
    assert "best" not in semantic_with(TrainConfig(), {})


@pytest.mark.parametrize("content", ["not JSON", "[]", '{"i2t": 3}', '{"i2t": {"listnet": 4}}'])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "best.json").write_text(content)
    with pytest.raises(DataError, match=r"best.json: expected direction → loss → settings"):
        read_best(TrainConfig(best=tmp_path / "best.json"))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none.json: no such file \(--best\)"):
        read_best(TrainConfig(best=tmp_path / "none.json"))

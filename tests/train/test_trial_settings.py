"""Settings of trials: parameters of losses, and the best settings of a search for a direction and loss."""

import json

import pytest

from xmrank.config import TrainConfig, semantic
from xmrank.config.parsing import parse_config
from xmrank.losses import LOSSES
from xmrank.losses.loss_parameters import LambdaRankParameters, LossParameters, NeuralNdcgParameters, TripletParameters
from xmrank.rankers import LinearParameters
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.train.trial_settings import check_loss, config_of, loss_parameters, read_best, semantic_with, with_point
from xmrank.train.trials import Trial

from .toys import assert_equal_weights, settings, train_toy


def test_parameters_are_those_of_the_loss():
    chosen = LossParameters(neural_ndcg=NeuralNdcgParameters(temperature=0.5, k=10))
    config = TrainConfig(loss=chosen, losses=("neural_ndcg", "bce"))
    assert loss_parameters(config, "neural_ndcg")["temperature"] == 0.5
    assert loss_parameters(config, "neural_ndcg")["k"] == 10
    assert loss_parameters(config, "bce") == {}


@pytest.mark.parametrize("loss", LOSSES)
def test_the_default_parameters_of_every_loss_are_accepted(loss):
    check_loss(TrainConfig(losses=(loss,)), loss)


def test_parameters_that_a_loss_refuses_are_named():
    chosen = LossParameters(triplet=TripletParameters(margin="wide"))
    with pytest.raises(ConfigError, match=r"^--loss\.triplet: "):
        check_loss(TrainConfig(loss=chosen, losses=("triplet",)), "triplet")


def test_parameters_of_a_loss_that_is_not_trained_are_refused():
    message = r"^--loss\.triplet\.margin: triplet is not among --losses ranknet listnet$"
    with pytest.raises(ConfigError, match=message):
        parse_train("--losses", "ranknet", "listnet", "--loss.triplet.margin", "1")


def test_a_preset_may_have_parameters_of_losses_that_are_not_trained(tmp_path):
    preset = tmp_path / "own.yaml"
    preset.write_text("train:\n  loss:\n    triplet:\n      margin: 1\n")
    assert parse_train("--preset", str(preset), "--losses", "ranknet").losses == ("ranknet",)
    assert parse_train("--preset", str(preset), "--losses", "triplet").loss.triplet.margin == 1


def parse_train(*words):
    """The configuration of a command line of train.py."""
    return parse_config(TrainConfig, list(words), name="train")


def test_only_the_parameters_of_the_chosen_losses_decide_the_output():
    assert set(semantic(TrainConfig(losses=("ranknet", "bce")))["loss"]) == {"ranknet"}


def test_parameters_reach_the_loss(tmp_path):
    trial = Trial("lambdarank", "i2t", 0)

    def trained(name, **parameters):
        loss = LossParameters(lambdarank=LambdaRankParameters(**parameters))
        return train_toy(tmp_path / name, settings(epochs=1, loss=loss, losses=("lambdarank",)), trial)[0]

    plain, same, other = trained("plain"), trained("same", sigma=1.0), trained("other", sigma=3.0)
    assert_equal_weights(plain, same)
    assert any((plain[name] != other[name]).any() for name in plain)


def test_a_point_changes_settings_of_training_ranker_and_loss():
    point = {"learning_rate": 0.5, "ranker.width": 128, "ranker.hidden": [32], "loss.k": 5}
    config = with_point(TrainConfig(), "neural_ndcg", point)
    assert (config.learning_rate, config.ranker.width, config.ranker.hidden) == (0.5, 128, (32,))
    assert config.loss == LossParameters(neural_ndcg=NeuralNdcgParameters(k=5))


@pytest.mark.parametrize("name", ["width", "seeds", "output", "explicit", "loss", "ranker"])
def test_a_point_of_unknown_names_is_refused(name):
    with pytest.raises(ConfigError, match=f"^{name}: no setting of a training"):
        with_point(TrainConfig(), "listnet", {name: 1})


@pytest.mark.parametrize(
    ("config", "loss", "name", "message"),
    [
        (
            TrainConfig(),
            "listnet",
            "ranker.depth",
            "ranker.depth: ranker context_aware has no such parameter",
        ),
        (TrainConfig(ranker=LinearParameters()), "listnet", "ranker.width", "ranker.width: ranker linear has no such"),
        (TrainConfig(), "listnet", "loss.k", "loss.listnet.k: loss listnet has no such parameter; expected one of eps"),
        (TrainConfig(losses=("bce",)), "bce", "loss.k", "loss.bce.k: loss bce has no such parameter; it has none"),
    ],
)
def test_a_point_of_a_parameter_that_the_chosen_one_does_not_have_is_refused(config, loss, name, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        with_point(config, loss, {name: 1})


def test_a_point_of_impossible_values_is_refused():
    with pytest.raises(ConfigError, match=r"--ranker\.width 30: expected a multiple of heads 4"):
        with_point(TrainConfig(), "listnet", {"ranker.width": 30})
    with pytest.raises(ConfigError, match=r"--loss\.neural-ndcg\.temperature must be above 0"):
        with_point(TrainConfig(), "neural_ndcg", {"loss.temperature": -1})
    with pytest.raises(ConfigError, match=r"loss\.neural_ndcg \{'temperature': 'warm'\}: "):
        with_point(TrainConfig(), "neural_ndcg", {"loss.temperature": "warm"})


def test_the_best_settings_replace_defaults_for_their_direction_and_loss(tmp_path):
    path = tmp_path / "best.json"
    path.write_text(json.dumps({"i2t": {"listnet": {"learning_rate": 0.5}}}))
    config = TrainConfig(best=path, learning_rate=1e-3)
    best = read_best(config)
    assert config_of(Trial("listnet", "i2t", 0), config, best).learning_rate == 0.5
    assert config_of(Trial("listnet", "t2i", 0), config, best).learning_rate == 1e-3
    assert semantic_with(config, best)["best"] == best
    assert "best" not in semantic_with(TrainConfig(), {})


def test_the_best_settings_replace_those_of_a_preset_and_never_those_of_a_flag(tmp_path):
    best = {"learning_rate": 0.003, "weight_decay": 0.02, "ranker.width": 128, "loss.temperature": 0.5, "loss.k": 7}
    (tmp_path / "best.json").write_text(json.dumps({"i2t": {"neural_ndcg": best}}))
    (tmp_path / "own.yaml").write_text("train: {learning_rate: 0.1, weight_decay: 0.1, ranker: {width: 32}}")
    flags = ["--learning-rate", "0.5", "--loss.neural-ndcg.temperature=1", "--ranker.heads", "2"]
    files = ["--preset", str(tmp_path / "own.yaml"), "--best", str(tmp_path / "best.json")]
    config = parse_config(TrainConfig, [*files, *flags], name="train", presets=tmp_path)
    chosen = config_of(Trial("neural_ndcg", "i2t", 0), config, read_best(config))
    assert chosen.learning_rate == 0.5
    assert (chosen.weight_decay, chosen.ranker.width, chosen.ranker.heads) == (0.02, 128, 2)
    assert chosen.loss.neural_ndcg == NeuralNdcgParameters(temperature=1.0, k=7)
    assert semantic_with(config, read_best(config))["best"]["i2t"]["neural_ndcg"] == {
        "weight_decay": 0.02, "ranker.width": 128, "loss.k": 7
    }  # fmt: skip


def test_a_file_that_is_not_json_is_refused(tmp_path):
    (tmp_path / "best.json").write_text("not JSON")
    with pytest.raises(DataError, match=r"best.json: not JSON"):
        read_best(TrainConfig(best=tmp_path / "best.json"))


@pytest.mark.parametrize("content", ["[]", '{"i2t": 3}', '{"i2t": {"listnet": 4}}'])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "best.json").write_text(content)
    with pytest.raises(DataError, match=r"best.json: expected direction → loss → settings"):
        read_best(TrainConfig(best=tmp_path / "best.json"))


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"i2t": {"lstnet": {}}}', "no loss lstnet"), ('{"x2y": {"listnet": {}}}', "no direction x2y")],
)
def test_best_settings_of_unknown_names_are_refused(tmp_path, content, message):
    (tmp_path / "best.json").write_text(content)
    with pytest.raises(DataError, match=rf"best.json: {message} \(--best\)"):
        read_best(TrainConfig(best=tmp_path / "best.json"))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none.json: no such file \(--best\)"):
        read_best(TrainConfig(best=tmp_path / "none.json"))

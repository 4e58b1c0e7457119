"""Search spaces: how they are written, their points, and what cannot be searched."""

import pytest

from xmrank.config import TrainConfig, TuneConfig
from xmrank.runtime.errors import ConfigError
from xmrank.tune.baseline_target import BaselineTarget
from xmrank.tune.ranker_target import RankerTarget, read_loss_space
from xmrank.tune.search_target import SearchGroup
from xmrank.tune.space import NumberRange, draw_points, list_grid
from xmrank.tune.stage import list_all_points


def searching(*space, **changes):
    train = TrainConfig(losses=("listnet", "neural_ndcg"), directions=("i2t",))
    return TuneConfig(space=space, train=train, **changes)


def target_of(config):
    return RankerTarget(config, config.train, {}, {})


def test_values_have_their_types_and_a_loss_its_own_parameters():
    config = searching("learning_rate=[1e-3,0.5]", "ranker.width=[32, 64]", "neural_ndcg.temperature=[0.5,1]")
    assert read_loss_space(config, "listnet") == {"learning_rate": [0.001, 0.5], "ranker.width": [32, 64]}
    assert read_loss_space(config, "neural_ndcg")["loss.temperature"] == [0.5, 1]


def test_a_grid_has_every_combination_once():
    points = list_grid({"a": [1, 2], "b": ["x", "y", "z"]})
    assert points[:4] == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 1, "b": "z"}, {"a": 2, "b": "x"}]
    assert len(points) == 6
    config = searching("ranker.width=[32,64,32]", "neural_ndcg.temperature=[0.5,1]")
    target = target_of(config)
    every = list_all_points(target, target.list_groups(), config)
    assert [(point.group.labels["loss"], point.settings) for point in every] == [
        ("listnet", {"ranker.width": 32}),
        ("listnet", {"ranker.width": 64}),
        *(("neural_ndcg", {"ranker.width": w, "loss.temperature": t}) for w in (32, 64) for t in (0.5, 1)),
    ]


def test_draws_follow_from_the_seed_and_more_of_them_begin_alike():
    config = searching("learning_rate=log(1e-4,1e-2)", "ranker.width=[32,64]", search="random", samples=50, seed=3)
    space = read_loss_space(config, "listnet")
    points = draw_points(space, config)
    assert points == draw_points(space, config)
    assert draw_points(space, searching(*config.space, search="random", samples=60, seed=3))[:50] == points
    assert draw_points(space, searching(*config.space, search="random", samples=50, seed=4)) != points
    assert all(1e-4 <= point["learning_rate"] <= 1e-2 for point in points)
    assert sum(point["learning_rate"] < 1e-3 for point in points) in range(15, 36)  # half of a logarithmic range
    assert {point["ranker.width"] for point in points} == {32, 64}


def test_ranges_by_hand():
    assert NumberRange(1, 3, log=False).number_at(0.25) == 1.5
    assert NumberRange(1, 100, log=True).number_at(0.5) == pytest.approx(10)


def test_a_point_is_named_by_its_settings_alone():
    target, group = target_of(searching()), SearchGroup("listnet i2t", {"loss": "listnet", "direction": "i2t"}, {})
    one = target.make_point(group, {"a": 1, "b": 2}).name
    assert one == target.make_point(group, {"b": 2, "a": 1}).name
    assert one != target.make_point(group, {"a": 1, "b": 3}).name
    assert one.startswith("listnet-i2t-")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("learning_rate", "--space learning_rate: expected NAME=.VALUE"),
        ("learning_rate=0.1", "--space learning_rate=0.1: expected NAME=.VALUE"),
        ("learning_rate=[", "expected NAME=.VALUE"),
        ("learning_rate=[]", "expected NAME=.VALUE"),
        ("learning_rate=log(0.1,1)", "a grid needs values, a range is for --search random or optuna"),
        ("learning_rate=log(1,0.1)", "expected a lower and a higher bound"),
        ("learning_rate=log(0,1)", "expected a lower and a higher bound, above 0 for log"),
        ("depth=[1]", r"--space depth=\[1\]: depth: no setting of a training"),
        ("seeds=[1]", r"--space seeds=\[1\]: seeds: no setting of a training"),
        ("ranker.width=[30]", "--ranker.width 30: expected a multiple"),
        ("lambdarank.sigma=[1]", "lambdarank is not among --train.losses"),
        ("listnet.sigma=[1]", "loss.listnet.sigma: loss listnet has no such parameter; expected one of eps"),
    ],
)
def test_what_cannot_be_searched_is_refused(entry, message):
    with pytest.raises(ConfigError, match=message):
        read_loss_space(searching(entry), "listnet")


def test_a_wrong_space_is_refused_before_the_inputs_are_read(home):
    with pytest.raises(ConfigError, match="--space learning_rate: expected NAME="):
        RankerTarget.open_inputs(searching("learning_rate"))
    with pytest.raises(ConfigError, match="--space nothing: expected NAME="):
        BaselineTarget.open_inputs(searching("nothing"))


def test_nothing_to_search_is_refused():
    with pytest.raises(ConfigError, match="--space: nothing to search"):
        read_loss_space(searching(), "listnet")


def test_a_name_given_twice_is_refused():
    with pytest.raises(ConfigError, match="each name once"):
        read_loss_space(searching("epochs=[1]", "epochs=[2]"), "listnet")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 0}, "--samples 0: expected at least 1"),
        ({"repeats": (1, 1)}, "--repeats 1 1: expected one or more seeds, each once"),
        ({"train": TrainConfig(seeds=(3,))}, "--train.seeds: a search sets it"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        TuneConfig(**changes)

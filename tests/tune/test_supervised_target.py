"""The search over settings of methods on labelled sets."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from labelled_features import write_features
from mlflow.tracking import MlflowClient

from xmrank.config import SupervisedConfig, TuneConfig
from xmrank.config.supervised import LcmConfig
from xmrank.config.supervised_methods import AcmrConfig
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.supervised.method_training import naive_map, two_stage_map
from xmrank.supervised.methods import fit_method
from xmrank.supervised.set_readers import read_source, sources_of
from xmrank.supervised.stage import supervised
from xmrank.tune import ray as ray_stage
from xmrank.tune.search_target import PointOutcome, read_epochs
from xmrank.tune.stage import tune
from xmrank.tune.supervised_target import SupervisedTarget, read_method_spaces, reduce_weights

SPACE = ("a=[1,0.1]", "b=[1,0.1]", "c=[0.1]", "sigma=[0.01,1]", "neighbours=[3,9]")
BASE = SupervisedConfig(
    data=("wikipedia=features",), neighbours=5, lcm=LcmConfig(width=8, dimensions=4, rounds=2, batch_size=16)
)


@pytest.fixture
def config(tmp_path, track_at):
    """A grid of eight trainings on sixty pairs."""
    track_at(tmp_path)
    write_features(tmp_path / "features")
    return TuneConfig(target="supervised", space=SPACE, output=tmp_path / "tuned", supervised=BASE)


def read_json(config, name):
    return json.loads((config.output / "search" / name).read_text())


def test_a_grid_trains_each_proportion_once_and_validates_it_for_every_number_of_neighbours(config, here, tmp_path):
    manifest = tune(config)
    # a : b : c of 1 : 1 : 0.1, 1 : 0.1 : 0.1, 0.1 : 1 : 0.1, 0.1 : 0.1 : 0.1, and two sigmas
    assert manifest.counts == {"points": 4 * 2, "failed": 0, "stopped": 0}
    results = read_json(config, "results.json")
    names = [f"validation_map_{count}_neighbours" for count in (3, 9)]
    for result in results:
        assert result["set"] == "wikipedia"
        assert list(result["figures"]) == names
        assert result["value"] == max(result["figures"].values())
        assert result["figures"][f"validation_map_{result['settings']['neighbours']}_neighbours"] == result["value"]
    best = read_json(config, "best.json")["wikipedia"]
    assert best["points"] == 8
    assert best["value"] == max(result["value"] for result in results)
    assert best["settings"] == next(result["settings"] for result in results if result["value"] == best["value"])
    runs = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").search_runs(["1"])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len(runs) == 1 + 8
    assert {"validation_map", "total", *names} <= runs[0].data.metrics.keys()
    here.clear()
    assert tune(config) == manifest
    assert not here


def test_a_point_is_the_training_that_the_supervised_stage_would_make(config, here):
    tune(replace(config, space=("sigma=[1]", "neighbours=[9]")))
    (result,) = read_json(config, "results.json")
    data = read_source(sources_of(BASE.data, ())[0])
    fitted = fit_method("lcm", data, replace(BASE, lcm=replace(BASE.lcm, sigma=1.0)), 0)
    assert result["value"] == two_stage_map(fitted.module, data, 9)
    assert (result["best_epoch"], result["epochs"]) == (fitted.best_round, len(fitted.history))


def test_random_points_have_one_number_of_neighbours(config, here):
    tune(replace(config, search="random", samples=3, space=("sigma=log(0.01,1)", "neighbours=[3,9]")))
    for result in read_json(config, "results.json"):
        assert list(result["figures"]) == [f"validation_map_{result['settings']['neighbours']}_neighbours"]
        assert 0.01 <= result["settings"]["sigma"] <= 1


def test_an_interrupted_search_tries_only_what_is_missing(config, here, monkeypatch):
    undisturbed = tune(replace(config, output=config.output.parent / "undisturbed"))
    reported = []

    def stop(metrics):
        reported.append(metrics)
        if len(reported) == 3:  # the first round of the second point
            raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(ray_stage.tune, "report", stop)
        with pytest.raises(KeyboardInterrupt):
            tune(config)
    here.clear()
    assert tune(config).fingerprint == undisturbed.fingerprint
    assert len(here) == 7
    assert not list((config.output / "search" / "points").rglob("epochs.json"))


def test_the_supervised_stage_takes_the_best_and_flags_go_before_it(config, here, monkeypatch, tmp_path):
    tune(config)
    best = config.output / "search" / "best.json"
    settings = read_json(config, "best.json")["wikipedia"]["settings"]
    monkeypatch.setattr("xmrank.supervised.stage.run_tasks", lambda function, tasks, workers: map(function, tasks))
    own = replace(BASE, methods=("lcm",), runs=(0,), tsne=0, best=best)
    for name, flags, expected in (
        ("best", {}, settings),
        (
            "flag",
            {"lcm": replace(BASE.lcm, sigma=0.5), "explicit": frozenset({"lcm.sigma"})},
            {**settings, "sigma": 0.5},
        ),
    ):
        supervised(replace(own, output=tmp_path / name, **flags))
        ids = json.loads((tmp_path / name / "results" / "tracking.json").read_text())
        run = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").get_run(ids["wikipedia-lcm-run0"])
        params = run.data.params
        assert params["neighbours"] == str(expected["neighbours"])
        for weight in ("a", "b", "c", "sigma"):
            assert float(params[f"lcm.{weight}"]) == expected[weight]


def test_a_best_of_other_sets_or_of_another_search_is_refused(tmp_path, config):
    path = tmp_path / "best.json"
    path.write_text('{"pascal": {"settings": {"a": 1.0}}}')
    with pytest.raises(ConfigError, match=r"best.json: is of pascal; expected one of --data"):
        supervised(replace(BASE, best=path))
    for text in ("[1]", '{"wikipedia": {"settings": {"depth": 1}}}', '{"t2i": {"listnet": {}}}'):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"expected the best.json of jobs/tune.py --target supervised"):
            supervised(replace(BASE, best=path))


def test_points_whose_weights_are_in_proportion_are_one():
    settings = {"a": 0.01, "b": 0.01, "c": 0.1, "sigma": 1.0}
    same = {"a": 0.1, "b": 0.1, "c": 1.0, "sigma": 1.0}
    target = SupervisedTarget(TuneConfig(), BASE, (), {}, (), {}, {})
    key = target.canonical_settings
    assert key(settings) == key(same)
    assert key(settings) != key({**same, "c": 0.1})
    assert key(settings) != key({**settings, "sigma": 0.1})
    assert key(settings) != key({**settings, "neighbours": 3})
    assert key({"a": 0.1}) == key({"a": 0.1, "b": 0.01, "c": 0.1, "sigma": 0.01})  # what is not searched counts too
    weights = [1.0, 0.1, 0.01, 0.001]
    triples = {tuple(reduce_weights({"a": a, "b": b, "c": c})) for a in weights for b in weights for c in weights}
    assert len(triples) == 4**3 - 3**3  # each has one triple whose largest is 1


def test_the_epochs_of_a_stopped_point_are_its_outcome(tmp_path):
    assert read_epochs(tmp_path) is None
    (tmp_path / "epochs.json").write_text("[0.1, 0.4, 0.4, 0.2]")
    assert read_epochs(tmp_path) == PointOutcome(0.4, 2, 4)


@pytest.mark.parametrize(
    ("space", "changes", "message"),
    [
        (("d=[1]",), {}, "--space d=[1]: expected NAME=VALUES with NAME one of a, b, c, sigma, neighbours"),
        (("a=[x]",), {}, "--space a=[x]: expected numbers"),
        (("neighbours=[0]",), {}, "--space neighbours=[0]: 0 is too small"),
        (("a=[-1]",), {}, "--space a=[-1]: -1 is too small"),
        (("neighbours=[2.5]",), {}, "expected whole numbers"),
        (("neighbours=uniform(1,9)",), {"search": "random"}, "it is a whole number"),
        (("a=[1]", "a=[2]"), {}, "expected each name once"),
        (("pca.ridge=[1]",), {}, "--space pca.ridge=[1]: expected METHOD.NAME with METHOD one of lcm, dscmr, clip4cmr"),
        (("gma.depth=[1]",), {}, "--space gma.depth=[1]: expected METHOD.NAME"),
        (("gma.dimensions=[2.5]",), {}, "--space gma.dimensions=[2.5]: expected whole numbers"),
        (("gma.ridge=[-1]",), {}, "--gma.ridge -1: expected at least 0"),
        (("cca.dimensions=[-1]",), {}, "--space cca.dimensions=[-1]: dimensions -1: expected at least 0"),
    ],
)
def test_what_cannot_be_searched_is_refused(config, space, changes, message):
    with pytest.raises(ConfigError) as refused:
        tune(replace(config, space=space, **changes))
    assert message in str(refused.value)
    assert not config.output.exists()


def test_a_space_is_read():
    space = read_method_spaces(TuneConfig(space=("a=[1, 0.1]", "neighbours=[10,25]")))["lcm"]
    assert space == {"a": [1.0, 0.1], "neighbours": [10, 25]}


def test_a_space_may_have_several_methods():
    space = ("lcm.a=[1]", "gma.ridge=[1,0.1]", "gma.dimensions=[2]", "pan.classifier=[dot]")
    assert read_method_spaces(TuneConfig(space=space)) == {
        "lcm": {"a": [1.0]},
        "gma": {"ridge": [1.0, 0.1], "dimensions": [2]},
        "pan": {"classifier": ["dot"]},
    }


def test_every_method_has_a_best_point_of_its_own_and_the_stage_takes_it(config, here, monkeypatch, tmp_path):
    space = ("sigma=[1]", "gma.alignment=[0.5,2]", "acmr.alpha=[0.1]")
    quick = replace(BASE, acmr=AcmrConfig(width=8, second_width=4, dimensions=4, epochs=2))
    manifest = tune(replace(config, space=space, supervised=quick))
    assert manifest.counts["points"] == 1 + 2 + 1
    best = read_json(config, "best.json")
    assert {title: entry["points"] for title, entry in best.items()} == {
        "wikipedia": 1,
        "wikipedia gma": 2,
        "wikipedia acmr": 1,
    }
    data = read_source(sources_of(BASE.data, ())[0])
    values = {}
    for alignment in (0.5, 2.0):
        fitted = fit_method("gma", data, replace(quick, gma=replace(quick.gma, alignment=alignment)), 0)
        values[alignment] = naive_map(fitted.module, data.validation)
    assert best["wikipedia gma"]["value"] == max(values.values())
    chosen = best["wikipedia gma"]["settings"]["alignment"]
    assert values[chosen] == max(values.values())
    monkeypatch.setattr("xmrank.supervised.stage.run_tasks", lambda function, tasks, workers: map(function, tasks))
    own = replace(quick, methods=("gma",), runs=(0,), tsne=0, best=config.output / "search" / "best.json")
    supervised(replace(own, output=tmp_path / "best"))
    model = json.loads((tmp_path / "best/results/models/wikipedia-gma-run0/model.json").read_text())
    assert model["settings"]["alignment"] == chosen


def test_without_a_set_or_with_one_that_is_not_there_nothing_is_searched(config):
    with pytest.raises(ConfigError, match=r"--supervised.data: expected one or more labelled sets"):
        tune(replace(config, supervised=SupervisedConfig()))
    with pytest.raises(DataError):
        tune(replace(config, supervised=replace(BASE, data=(f"x={Path('nowhere')}",))))


@pytest.mark.parametrize("name", ["methods", "runs", "tsne"])
def test_what_a_search_does_not_need_is_refused(name):
    other = {"methods": ("dscmr",), "runs": (5,), "tsne": 0}[name]
    with pytest.raises(ConfigError, match=f"--supervised.{name}: a search sets it or does not need it"):
        TuneConfig(supervised=replace(BASE, **{name: other}))

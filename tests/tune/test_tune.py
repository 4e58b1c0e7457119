"""Searches on a tiny run: the best settings win by the validation lists, and nothing that is done is done again."""

import contextlib
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from mlflow.tracking import MlflowClient
from pipeline import TRAINING, mine_small
from plain import plain_refinement, plain_training

from xmrank.config import TuneConfig
from xmrank.runtime.errors import DataError
from xmrank.train import training_data
from xmrank.tune import ray as ray_stage
from xmrank.tune.points import SearchFolder, find_best
from xmrank.tune.ranker_target import RankerTarget
from xmrank.tune.search_target import PointResult, SearchGroup
from xmrank.tune.stage import list_all_points, tune

TRAIN = replace(TRAINING, losses=("listnet",), directions=("t2i",), seeds=(0, 1), epochs=2)
REFINE = plain_refinement(members=2, width=8, epochs=1, pairs=50, bank_size=20, neighbours=3)
SPACE = ("learning_rate=[0.02,1e-5]", "ranker.width=[4,8]")


@pytest.fixture
def config(tiny_store, tmp_path, track_at):
    """A grid of four points."""
    track_at(tmp_path)
    store = tiny_store(tmp_path / "store")
    lists = mine_small(store.directory, tmp_path / "lists")
    paths = {"embeddings": store.directory, "lists": lists.output, "output": tmp_path / "tuned"}
    return TuneConfig(**paths, space=SPACE, train=TRAIN, repeats=(0, 7), workers=2)


def results(output):
    return [PointResult.from_row(row) for row in json.loads((output / "search" / "results.json").read_text())]


def points_of(config):
    """All points of a grid, and their target."""
    target = RankerTarget.open_inputs(config)
    return target, list_all_points(target, target.list_groups(), config)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster", "in_process")
def test_a_grid_is_searched_and_its_best_trained_with_all_seeds(config, tmp_path, capsys):
    manifest = tune(config)
    actual = results(config.output)
    assert [r.settings for r in actual] == [point.settings for point in points_of(config)[1]]
    best = json.loads((config.output / "search" / "best.json").read_text())
    highest = max(r.value for r in actual)
    assert best == {"t2i": {"listnet": next(r.settings for r in actual if r.value == highest)}}
    assert {r.epochs for r in actual} == {2} and not any(r.stopped or r.failure for r in actual)
    trials = config.output / "rankers" / "trials"
    assert sorted(path.name for path in trials.iterdir()) == ["listnet-t2i-seed0", "listnet-t2i-seed7"]
    about = json.loads((trials / "listnet-t2i-seed7" / "ranker.json").read_text())
    assert about["parameters"]["width"] == best["t2i"]["listnet"]["ranker.width"]
    # The search's training of seed 0 and its repetition are the same training.
    history = json.loads((trials / "listnet-t2i-seed0" / "history.json").read_text())
    assert max(epoch["validation_mean"] for epoch in history["epochs"]) == highest
    runs = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["1"])
    assert {run.info.status for run in runs} == {"FINISHED"}
    parents = [run.data.tags.get("mlflow.parentRunId") for run in runs]
    assert parents.count(None) == 1 and len(set(parents)) == 2 and len(runs) == 1 + 4 + 2
    assert "best listnet t2i: " in capsys.readouterr().out
    assert tune(config) == manifest


@pytest.mark.usefixtures("here")
def test_the_points_of_a_search_share_a_refinement(config, monkeypatch):
    fitted = []
    fit = training_data.fit_refinement
    monkeypatch.setattr(training_data, "fit_refinement", lambda *given: fitted.append(given) or fit(*given))
    refined = plain_training(**{**vars(TRAIN), "refine": REFINE, "sampling": "random-hard"})
    tune(replace(config, train=refined, repeats=(0,)))
    # Once for the four points, and once for the training of the best of them.
    assert len(fitted) == 2


@pytest.mark.usefixtures("here")
def test_points_that_are_done_are_not_trained_again(config, tmp_path, monkeypatch):
    undisturbed = tune(replace(config, output=tmp_path / "undisturbed"))
    tune(config)
    points = SearchFolder(config.output / "search" / "points")
    target, every = points_of(config)
    results_of = {point.name: points.folder_of(point) / "result.json" for point in every}
    missing = every[1]
    results_of[missing.name].unlink()
    for path in target.trial_of(missing).directory(points.folder_of(missing)).iterdir():
        path.unlink()
    for folder in ("search", "rankers"):
        (config.output / folder / "manifest.json").unlink()
    before = {name: path.stat().st_mtime_ns for name, path in results_of.items() if name != missing.name}
    assert tune(config).fingerprint == undisturbed.fingerprint
    after = {name: path.stat().st_mtime_ns for name, path in results_of.items() if name != missing.name}
    assert after == before
    assert points.read_result(missing) is not None


@pytest.mark.usefixtures("here")
def test_a_point_that_diverges_is_left_out_and_told(config):
    tune(replace(config, space=("learning_rate=[0.02,1e38]",)))
    manifest = json.loads((config.output / "search" / "manifest.json").read_text())
    assert manifest["counts"] == {"points": 2, "failed": 1, "stopped": 0}
    assert "listnet-t2i-seed0: the loss" in manifest["left_out"][0]["reason"]
    assert json.loads((config.output / "search" / "best.json").read_text())["t2i"]["listnet"] == {"learning_rate": 0.02}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster", "in_process")
@pytest.mark.parametrize("changes", [{"search": "optuna"}, {"search": "optuna", "scheduler": "asha", "grace": 1}])
def test_other_searches_train_their_samples(config, changes):
    space = ("learning_rate=log(1e-5,0.05)", "ranker.width=[4,8]")
    tune(replace(config, space=space, samples=4, repeats=(0,), train=replace(TRAIN, epochs=3), **changes))
    actual = results(config.output)
    assert len(actual) == 4
    assert all(1e-5 <= r.settings["learning_rate"] <= 0.05 and r.settings["ranker.width"] in (4, 8) for r in actual)
    assert all(r.stopped == (r.epochs < 3) for r in actual)
    assert not list((config.output / "search" / "points").rglob("state.safetensors"))


@pytest.mark.usefixtures("here")
def test_a_search_that_is_interrupted_goes_on_within_its_point(config, tmp_path, monkeypatch):
    undisturbed = tune(replace(config, output=tmp_path / "undisturbed"))
    reported = []

    def stop(metrics):
        reported.append(metrics)
        if len(reported) == 3:  # the first epoch of the second point
            raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(ray_stage.tune, "report", stop)
        with pytest.raises(KeyboardInterrupt):
            tune(config)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert "RUNNING" not in {run.info.status for run in client.search_runs(["1"])}
    done = {p: p.stat().st_mtime_ns for p in (config.output / "search" / "points").glob("*/result.json")}
    assert len(done) == 1
    monkeypatch.setattr(ray_stage.tune, "report", reported.append)
    assert tune(config).fingerprint == undisturbed.fingerprint
    # The first epoch of the second point once more, its second one, and the two points after it.
    assert [report["reports"] for report in reported[3:]] == [1, 2] * 3
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert {run.info.status for run in client.search_runs(["1"])} == {"FINISHED"}


@pytest.mark.usefixtures("here")
def test_a_point_that_was_not_trained_to_its_end_has_no_result(config, tmp_path, monkeypatch):
    undisturbed = tune(replace(config, output=tmp_path / "undisturbed"))
    whole, reported = ray_stage.run_tuner, []

    def stop(metrics):
        reported.append(metrics)
        if len(reported) == 3:
            raise KeyboardInterrupt

    def ends_early(*arguments, **settings):  # as Ray's own handler of an interrupt does
        with contextlib.suppress(KeyboardInterrupt):
            whole(*arguments, **settings)

    with monkeypatch.context() as interrupted:
        interrupted.setattr(ray_stage.tune, "report", stop)
        interrupted.setattr(ray_stage, "run_tuner", ends_early)
        with pytest.raises(DataError, match="no finished training of listnet-t2i-"):
            tune(config)
    assert len(list((config.output / "search" / "points").glob("*/result.json"))) == 1
    assert tune(config).fingerprint == undisturbed.fingerprint


GROUP = SearchGroup("listnet i2t", {"loss": "listnet", "direction": "i2t"}, {})


def result(value, number, **changes):
    return PointResult(GROUP.labels, {"number": number}, value, **changes)


def test_the_best_is_the_earliest_of_the_highest():
    every = [result(0.1, 0), result(None, 1, failure="no"), result(0.3, 2), result(0.3, 3)]
    assert find_best(GROUP, every).settings == {"number": 2}
    assert find_best(GROUP, [result(None, 0, failure="no"), result(0.0, 1)]).settings == {"number": 1}


def test_a_loss_all_of_whose_points_failed_is_told():
    with pytest.raises(DataError, match="listnet i2t: every point failed, the first with: diverged"):
        find_best(GROUP, [result(None, 0, failure="diverged")])


def test_a_result_comes_back_from_its_row():
    kept = result(0.3, 2, best_epoch=1, epochs=2, figures={"validation_mean": 0.3})
    row = json.loads(json.dumps(kept.as_row()))
    assert (row["loss"], row["direction"], row["value"]) == ("listnet", "i2t", 0.3)
    assert PointResult.from_row(row) == kept


@pytest.mark.parametrize(
    ("nodes", "requested", "expected"),
    [
        ([{"CPU": 8.0, "GPU": 2.0}], 0, (2, {"cpu": 1.0, "gpu": 1.0})),
        ([{"CPU": 8.0, "GPU": 2.0}], 6, (6, {"cpu": 1.0, "gpu": 0.3333})),
        ([{"CPU": 2.0}], 0, (2, {"cpu": 1.0})),
        ([{"CPU": 2.0}], 4, (4, {"cpu": 0.5})),
        # A node with a GPU and one without; a point needs both kinds on one node.
        ([{"CPU": 1.0}, {"CPU": 2.0, "GPU": 1.0}], 2, (2, {"cpu": 1.0, "gpu": 0.5})),
        ([{"CPU": 4.0}, {"CPU": 1.0, "GPU": 1.0}], 2, (2, {"cpu": 0.5, "gpu": 0.5})),
        # Two thirds of a GPU, or three quarters of a core, would leave room for one on each node.
        ([{"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 1.0}], 3, (3, {"cpu": 1.0, "gpu": 0.5})),
        ([{"CPU": 1.0}, {"CPU": 1.0}, {"CPU": 1.0}], 4, (4, {"cpu": 0.5})),
    ],
)
def test_points_share_what_the_nodes_have(monkeypatch, nodes, requested, expected):
    totals = {kind: sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU")}
    monkeypatch.setattr(ray_stage.ray, "cluster_resources", lambda: totals)
    monkeypatch.setattr(ray_stage.ray, "nodes", lambda: [{"Alive": True, "Resources": node} for node in nodes])
    assert ray_stage.divide_resources(requested) == expected


def test_a_training_that_left_nothing_is_no_result(config, tmp_path):
    target, every = points_of(config)
    job = SimpleNamespace(target=target, points=SearchFolder(tmp_path))
    with pytest.raises(DataError, match="no finished training"):
        ray_stage.close_stopped(job, every[0])
    with pytest.raises(DataError, match="no finished training"):
        job.points.require_result(every[0])

"""What every stage logs reaches MLflow once, also when the server stops answering right after the start."""

import json
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow.tracking import MlflowClient

from xmrank.baselines.baseline_registry import BaselineFit
from xmrank.baselines.fitting import FitLog
from xmrank.baselines.stage import log_means
from xmrank.config import ExperimentConfig, SupervisedConfig, TuneConfig
from xmrank.evaluate.result_logging import log_results, make_run_tree
from xmrank.experiment.stage import ExperimentRun
from xmrank.runtime.manifest import Manifest
from xmrank.supervised.method_runs import MethodRun
from xmrank.supervised.run_logging import log_run
from xmrank.tracking import delivery, runs
from xmrank.tracking.delivery import sync
from xmrank.tracking.run_tree import RunTree
from xmrank.train.checkpoint_json import ABOUT_HASH, hash_about
from xmrank.train.run_journals import end_runs
from xmrank.train.trials import Trial
from xmrank.tune import ray as tune_ray
from xmrank.tune.points import SearchFolder
from xmrank.tune.search_job import SearchJob, end_point_run
from xmrank.tune.search_target import PointOutcome, SearchGroup, SearchPoint

ROW = {"method": "listnet", "loss": "listnet", "seed": 0, "direction": "i2t", "protocol": "lists", "metric": "hit@1"}


@pytest.fixture
def home(tmp_path, track_at):
    track_at(tmp_path)
    return tmp_path


@pytest.fixture
def silent(home, monkeypatch):
    """A server that answered when the job began and never answers again."""
    monkeypatch.setattr(delivery, "GRACE_S", 0.2)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as server, monkeypatch.context() as dead:
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        dead.setenv("MLFLOW_TRACKING_URI", uri)
        dead.setattr(runs, "CONNECTED", {(uri, str(home), "")})
        yield dead


def log_training(folder, parent):
    tree, trial = RunTree(folder, "train", parent=parent.begin_run), Trial("listnet", "i2t", 0)
    with tree.open(lambda *, failed: end_runs(tree, [trial], folder, by_step=False, failed=failed)):
        tree.plan_child(trial.name).begin()
        trial.directory(folder).mkdir(parents=True)
        epochs = [{"epoch": n, "step": n, "validation_mean": n / 4} for n in (1, 2)]
        # The second epoch is in the history only: its process was killed before it was logged.
        tree.log_metrics(trial.name, {"validation/mean": 0.25}, step=1)
        (trial.directory(folder) / "history.json").write_text(json.dumps({"epochs": epochs}))
        about = {"best_epoch": 2, "loss": "listnet", "direction": "i2t", "seed": 0}
        (trial.directory(folder) / "ranker.json").write_text(json.dumps({**about, ABOUT_HASH: hash_about(about)}))


def log_evaluation(folder, rankers):
    tree = make_run_tree(folder, rankers, "evaluate")
    first = {**ROW, "method": "cosine", "loss": "", "seed": -1, "mean": 0.5, "alone_ms": 2.0}
    log_results(tree, rankers, [{**ROW, "mean": 0.75}, first], [])
    log_results(tree, rankers, [{**ROW, "mean": 0.75}, first], [])  # killed before it was finished, and rerun
    tree.end(failed=False)


def log_baselines(folder):
    tree, fit = RunTree(folder, "baselines"), BaselineFit("vsepp", 0.0, 0)
    with tree.open():
        planned = tree.plan_child(fit.name)
        planned.begin()
        log = FitLog(planned)
        for epoch in (1, 1, 2):  # the fit was interrupted after its first epoch
            log.log_epoch({"epoch": epoch, "hit@1": epoch / 4})
        log.log_best({"hit@1": 0.5})
        log_means(tree, [{**ROW, "method": "vsepp", "mean": 0.25}])


def log_methods(folder):
    source = SimpleNamespace(key="wiki", name="wiki", features="clip")
    run = MethodRun(source, SupervisedConfig(), "lcm", 0, folder / "work", folder / "models", pictures=False)
    run.path_of("").mkdir(parents=True)
    history = [{"validation_map": 0.25}, {"validation_map": 0.5}]
    result = {"history": history, "best_round": 2, "rows": []}
    run.path_of("result.json").write_text(json.dumps(result))
    run.path_of("timing.json").write_text(
        json.dumps({"seconds": 1.5, "peak_mib": 9.0, "milliseconds": {"two_stage": 0.5}})
    )
    tree = RunTree(folder, "supervised", inputs={"data wiki": "abc"})
    with tree.open():
        for _ in range(2):
            log_run(tree, run)


class Target:
    """What is searched: one point, of two epochs."""

    def describe_run(self, point):
        return {"width": 8}

    def run_point(self, point, folder, cache, report):
        report(1, {"validation/mean": 0.25}, 0.25)
        return PointOutcome(0.5, figures={"best/mean": 0.5})

    def describe_outcome(self, outcome):
        return {"kept/value": outcome.value}

    def list_epochs(self, folder):  # the second was saved and not reported
        return [(1, {"validation/mean": 0.25}), (2, {"validation/mean": 0.5})]

    def list_reported(self, point, folder):  # nothing was reported by an earlier call
        return []

    def remove_state(self, point, folder):
        pass


def log_search(folder, monkeypatch):
    monkeypatch.setattr(tune_ray.tune, "report", lambda metrics: None)
    tree = RunTree(folder, "tune")
    with tree.open():
        tree.begin_parent()
        job = SearchJob(TuneConfig(), Target(), SearchFolder(folder / "search/points"), folder / "lists", tree)
        point = SearchPoint(SearchGroup("listnet i2t", {"loss": "listnet"}, {}), {}, "listnet-i2t-abc")
        job.points.folder_of(point).mkdir(parents=True)
        tune_ray.try_point({}, job, lambda given: point)
        end_point_run(job, job.points.folder_of(point), failed=True)  # it has ended


def log_all(folder: Path, monkeypatch):
    """All stages in one experiment, so that one session delivers and one line complains."""
    (folder / "report").mkdir(parents=True)
    for name in ("report.html", "report.md", "table.csv", "table.tex"):
        (folder / "report" / name).write_text(name)
    parent = ExperimentRun(folder, ExperimentConfig())
    with parent.runs.open():
        parent.begin_run()
        log_training(folder / "rankers", parent)
        log_evaluation(folder / "evaluation", folder / "rankers")
        log_baselines(folder / "baselines")
        log_methods(folder / "results")
        log_search(folder / "tuned", monkeypatch)
        parent.finish_run(Manifest("report", {}, {}, {}, fingerprint="abc"), folder / "report")


def test_a_server_that_never_answers_costs_a_moment_and_loses_nothing(home, silent, monkeypatch, capsys):
    started = time.monotonic()
    log_all(home / "run", monkeypatch)
    assert time.monotonic() - started < 4
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    (line,) = lines
    assert line.startswith("MLflow: http://127.0.0.1:")
    assert line.endswith(f"xmrank sync {home}/run")
    silent.undo()
    assert sync(home / "run")
    assert sync(home / "run")
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    found = client.search_runs(["1"])
    assert {run.info.status for run in found} == {"FINISHED"}
    by_name = {run.info.run_name: run.info.run_id for run in found}
    assert len(by_name) == len(found) == 9

    def history(name, metric):
        return [(entry.step, entry.value) for entry in client.get_metric_history(by_name[name], metric)]

    assert history("listnet-i2t-seed0", "validation/mean") == [(1, 0.25), (2, 0.5)]
    assert history("listnet-i2t-seed0", "i2t/hit_at_1") == [(0, 0.75)]
    assert history("cosine", "i2t/hit_at_1") == [(0, 0.5)]
    assert history("vsepp-seed0", "hit_at_1") == [(1, 0.25), (2, 0.5)]
    assert history("vsepp-seed0", "i2t/hit_at_1") == [(0, 0.25)]
    assert history("wiki-lcm-run0", "validation_map") == [(1, 0.25), (2, 0.5)]
    assert history("wiki-lcm-run0", "cost/train_seconds") == [(0, 1.5)]
    assert history("listnet i2t", "validation/mean") == [(1, 0.25), (2, 0.5)]
    assert history("listnet i2t", "best/mean") == [(0, 0.5)]
    assert {file.path for file in client.list_artifacts(by_name["experiment run"])} >= {"report.html", "table.tex"}
    children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == by_name["experiment run"]]
    assert sorted(run.info.run_name for run in children) == ["cosine", "listnet-i2t-seed0"]

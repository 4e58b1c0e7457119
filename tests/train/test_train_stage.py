"""The training stage: its files, its runs in MLflow, what it refuses, and that nothing disturbs its result."""

import json
import math
import shutil
import time
from dataclasses import replace

import pytest
from mlflow.tracking import MlflowClient
from pipeline import TRAINING, mine_small

from xmrank import tracking
from xmrank.cli import run
from xmrank.config import TrainConfig
from xmrank.runtime.errors import DataError
from xmrank.tracking.run_tree import read_run_ids
from xmrank.tracking.runs import find_run
from xmrank.tracking.sending import Delivery
from xmrank.train import trainer, training
from xmrank.train.stage import train
from xmrank.train.training_work import RunLog
from xmrank.train.trials import all_trials, pending_trials

NAMES = [trial.name for trial in all_trials(TRAINING)]
FILES = ("history.json", "ranker.json", "ranker.safetensors")


@pytest.fixture
def inputs(tiny_store, tmp_path, track_at):
    """A configuration of two trials, with a store and lists to train on."""
    track_at(tmp_path)
    store = tiny_store(tmp_path / "store")
    lists = mine_small(store.directory, tmp_path / "lists")
    paths = {"embeddings": store.directory, "lists": lists.output, "output": tmp_path / "rankers"}
    return replace(TRAINING, **paths, directions=("i2t",), seeds=(0,), workers=1)


@pytest.fixture
def no_training(monkeypatch):
    """Makes a training of anything a failure."""

    def refuse(*arguments, **settings):
        raise AssertionError("nothing was to be trained")

    monkeypatch.setattr(training, "launch_workers", refuse)


def runs_of(manifest_directory, home):
    """Name → MLflow run of a trained stage, of those in the tracking file that have begun."""
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    found = {name: find_run(client, home, run) for name, run in read_run_ids(manifest_directory).items()}
    return {name: run for name, run in found.items() if run}


@pytest.mark.ray
def test_every_trial_leaves_a_ranker_and_its_history(trained):
    assert set(trained.manifest.outputs) == {f"trials/{name}/{file}" for name in NAMES for file in FILES}
    assert trained.manifest.counts == {"rankers": 8}
    assert sorted(p.name for p in trained.config.output.iterdir()) == [
        "config.yaml", "manifest.json", "plan.json", "tracking.json", "trials",
    ]  # fmt: skip


@pytest.mark.ray
def test_a_ranker_says_what_it_was_trained_on_and_for(trained):
    about = json.loads((trained.config.output / "trials/lambdarank-t2i-seed1/ranker.json").read_text())
    assert (about["loss"], about["direction"], about["seed"], about["ranker"]) == (
        "lambdarank", "t2i", 1, "context_aware",
    )  # fmt: skip
    assert about["embeddings"] == trained.store.fingerprint
    assert about["lists"] == trained.manifest.inputs["lists"]
    assert about["encoder"]["name"] == "imported"
    assert 1 <= about["best_epoch"] <= 3


@pytest.mark.ray
def test_mlflow_has_a_finished_child_a_trial_under_one_finished_parent(trained):
    runs = runs_of(trained.config.output, trained.home)
    assert set(runs) == {"parent", *NAMES}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    parent = runs.pop("parent")
    assert "mlflow.parentRunId" not in parent.data.tags
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert {run.info.run_name for run in runs.values()} == set(NAMES)


@pytest.mark.ray
def test_a_child_has_its_parameters_tags_inputs_metrics_and_files(trained):
    run = runs_of(trained.config.output, trained.home)["listnet-t2i-seed1"]
    params = {"loss": "listnet", "direction": "t2i", "seed": "1", "epochs": "3", "ranker.width": "8"}
    assert params.items() <= run.data.params.items()
    assert not {"losses", "directions", "seeds", "output", "workers"} & set(run.data.params)
    # There is no refinement, no word detection, and no sampling that these would be settings of.
    off = ("refine.", "detect.", "sampling_", "ranker.residual", "ranker.positional", "ranker.max_rank", "patience")
    assert not [name for name in run.data.params if name.startswith(off)]
    tags = {"stage": "train", "loss": "listnet", "direction": "t2i", "encoder": "imported", "dataset": "imported"}
    assert tags.items() <= run.data.tags.items()
    assert run.data.tags["candidates"] == trained.manifest.inputs["lists"]
    assert {entry.dataset.name for entry in run.inputs.dataset_inputs} == {"imported"}
    inputs = {entry.tags[0].value: entry.dataset.digest for entry in run.inputs.dataset_inputs}
    assert inputs == {name: fingerprint[:36] for name, fingerprint in trained.manifest.inputs.items()}
    while_training = {name for name in run.data.metrics if name.startswith(("train/", "validation/", "cost/"))}
    assert while_training == {  # the evaluation of the same rankers may have logged its own by now
        "train/loss", "train/hit_at_1", "train/hit_at_5", "train/hit_at_10",
        "validation/loss", "validation/hit_at_1", "validation/hit_at_5", "validation/hit_at_10", "validation/mean",
        "cost/epoch_seconds", "cost/lists_per_second", "cost/seconds", "cost/peak_memory_mb",
    }  # fmt: skip
    client = MlflowClient(f"sqlite:///{trained.home}/mlflow.db")
    assert sorted(file.path for file in client.list_artifacts(run.info.run_id)) == sorted(FILES)


@pytest.mark.ray
def test_the_metrics_of_an_epoch_are_those_of_the_history(trained):
    name = "lambdarank-i2t-seed0"
    history = json.loads((trained.config.output / "trials" / name / "history.json").read_text())
    run = runs_of(trained.config.output, trained.home)[name].info.run_id
    for metric, key in (("train/loss", "train_loss"), ("validation/hit_at_5", "validation_hit@5")):
        logged = MlflowClient(f"sqlite:///{trained.home}/mlflow.db").get_metric_history(run, metric)
        assert [(m.step, m.value) for m in logged] == [(e["epoch"], e[key]) for e in history["epochs"]]


@pytest.mark.ray
def test_a_second_call_trains_nothing_and_starts_nothing(trained, no_training, monkeypatch, capsys):
    monkeypatch.setattr("xmrank.tracking.run_tree.connect_tracking", lambda: pytest.fail("nothing was to be logged"))
    before = (trained.config.output / "manifest.json").stat().st_mtime_ns
    assert train(replace(trained.config, workers=1)) == trained.manifest
    assert (trained.config.output / "manifest.json").stat().st_mtime_ns == before
    assert capsys.readouterr().out.startswith(f"train: 8 rankers in {trained.config.output}\n")


@pytest.mark.ray
def test_what_a_process_left_that_died_right_after_the_last_epoch_is_put_in_order(
    trained, no_training, tmp_path, track_at
):
    track_at(trained.home)
    output = tmp_path / "rankers"
    shutil.copytree(trained.config.output, output)
    (output / "manifest.json").unlink()
    (output / "trials" / NAMES[0] / "state.safetensors").write_bytes(b"all but removed")
    (output / "trials" / NAMES[1] / ".tmp-01234567-history.json").write_bytes(b"half")
    uri = tracking.connect(trained.home)
    left = [runs_of(output, trained.home)[name].info.run_id for name in (NAMES[0], "parent")]
    for run_id in left:
        tracking.begin_run(uri, trained.home, "", resume=run_id)
    assert train(replace(trained.config, output=output)).fingerprint == trained.manifest.fingerprint
    assert [tracking.read_status(uri, run_id) for run_id in left] == ["FINISHED", "FINISHED"]


def command(monkeypatch, capsys, *flags):
    """Run the job's command line in this process; returns the exit status and what it said."""
    monkeypatch.setattr("sys.argv", ["jobs/train.py", *map(str, flags)])
    with pytest.raises(SystemExit) as stop:
        run(train, TrainConfig)
    return stop.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--losses", "lstnet"], "--losses lstnet: expected one of ranknet, lambda_loss"),
        (["--gradient-clip", "-1"], "--gradient-clip -1.0: expected more than 0"),
        (["--learning-rate", "nan"], "--learning-rate nan: expected more than 0"),
        (["--weight-decay", "inf"], "--weight-decay inf: expected at least 0"),
        (["--directions", "t2t"], "t2t"),
        (["--ranker", "mlp"], "--ranker mlp: expected one of context_aware, pointwise, "),
        (["--ranker.features", "sum"], "invalid choice 'sum' for argument '--ranker.features'"),
        (["--ranker.dropout", "1.5"], "--ranker.dropout 1.5: expected at least 0 and below 1"),
        (["--seeds", "1", "1"], "--seeds 1 1: expected one or more, each once"),
        (["--workers", "3", "--workers-per-trial", "2"], "--workers 3: expected a multiple of --workers-per-trial 2"),
    ],
)
def test_a_wrong_flag_is_one_line_and_status_2(inputs, no_training, monkeypatch, capsys, flags, message):
    paths = ("--embeddings", inputs.embeddings, "--lists", inputs.lists, "--output", inputs.output)
    status, error = command(monkeypatch, capsys, *paths, *flags)
    assert status == 2
    assert error.startswith("train: ")
    assert message in error
    assert error.count("\n") == 1
    assert not inputs.output.exists()


def test_lists_of_other_embeddings_are_refused(inputs, no_training, tiny_store, tmp_path):
    other = tiny_store(tmp_path / "other", seed=1).directory
    with pytest.raises(DataError, match=f"{inputs.lists}: these lists were mined from other embeddings than {other}"):
        train(replace(inputs, embeddings=other))


@pytest.mark.parametrize("name", ["embeddings", "lists"])
def test_inputs_that_are_not_finished_are_refused(inputs, no_training, name):
    (getattr(inputs, name) / "manifest.json").unlink()
    with pytest.raises(DataError, match=f"{getattr(inputs, name)}: no finished output of the stage"):
        train(inputs)


def test_a_tracking_server_that_is_not_there_is_refused_before_anything_starts(inputs, no_training, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"http://127.0.0.1:9: cannot track runs there: Connection refused"):
        train(inputs)


@pytest.mark.usefixtures("in_process")
def test_a_trial_that_fails_does_not_take_the_others_with_it(inputs, tmp_path, monkeypatch):
    record_validation = trainer.record_validation

    def diverge(state, entry, *rest):
        if state.trial.loss == "listnet" and entry["epoch"] == 2:
            entry["train_loss"] = math.nan
        return record_validation(state, entry, *rest)

    with monkeypatch.context() as broken:
        broken.setattr(trainer, "record_validation", diverge)
        with pytest.raises(DataError, match="listnet-i2t-seed0: the loss of epoch 2 is nan"):
            train(inputs)
    status = {name: run.info.status for name, run in runs_of(inputs.output, tmp_path).items()}
    assert status == {"parent": "FAILED", "listnet-i2t-seed0": "FAILED", "lambdarank-i2t-seed0": "FINISHED"}
    assert [trial.name for trial in pending_trials(all_trials(inputs), inputs.output)] == ["listnet-i2t-seed0"]
    assert train(inputs).counts == {"rankers": 2}
    assert {run.info.status for run in runs_of(inputs.output, tmp_path).values()} == {"FINISHED"}


@pytest.mark.usefixtures("in_process")
def test_a_failed_training_is_continued_in_the_same_runs(inputs, tmp_path, monkeypatch):
    undisturbed = train(replace(inputs, output=tmp_path / "undisturbed"))

    def stop(*arguments, **keywords):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(RunLog, "log_validation", stop)  # called after the first epoch
        with pytest.raises(KeyboardInterrupt):
            train(inputs)
    before = runs_of(inputs.output, tmp_path)
    assert {run.info.status for run in before.values()} == {"KILLED"}
    assert len(before) == 2  # the second trial has not begun
    assert train(inputs).fingerprint == undisturbed.fingerprint
    after = runs_of(inputs.output, tmp_path)
    assert {name: after[name].info.run_id for name in before} == {name: r.info.run_id for name, r in before.items()}
    assert len(after) == 3
    assert {run.info.status for run in after.values()} == {"FINISHED"}


@pytest.mark.usefixtures("in_process")
def test_the_run_of_a_trial_lasts_as_long_as_its_training(inputs, tmp_path):
    train(inputs)
    runs = runs_of(inputs.output, tmp_path)
    parent = runs.pop("parent").info
    first, second = sorted((run.info for run in runs.values()), key=lambda info: info.start_time)
    assert parent.start_time < first.start_time <= first.end_time <= second.start_time <= second.end_time
    assert second.end_time <= parent.end_time


@pytest.mark.usefixtures("in_process")
def test_trials_have_the_load_of_the_machine_that_trains_them(inputs, tmp_path, monkeypatch):
    log_validation = RunLog.log_validation
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    monkeypatch.setattr(RunLog, "log_validation", lambda *given: time.sleep(0.5) or log_validation(*given))
    train(inputs)
    runs = runs_of(inputs.output, tmp_path)
    assert len(runs) == 3 and all("system/cpu_utilization_percentage" in run.data.metrics for run in runs.values())


def logged_epochs(output, home):
    """Trial → the epochs that MLflow has of it."""
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    runs = {name: run.info.run_id for name, run in runs_of(output, home).items() if name != "parent"}
    return {name: [m.step for m in client.get_metric_history(run, "validation/mean")] for name, run in runs.items()}


@pytest.mark.usefixtures("in_process")
def test_an_epoch_whose_process_was_killed_before_it_was_logged_is_not_lost(inputs, tmp_path, monkeypatch):
    log_validation = RunLog.log_validation

    def stop(log, trial, epoch, seconds):
        if epoch["epoch"] == 2:
            raise KeyboardInterrupt
        log_validation(log, trial, epoch, seconds)

    with monkeypatch.context() as broken:
        broken.setattr(RunLog, "log_validation", stop)
        with pytest.raises(KeyboardInterrupt):
            train(inputs)
    assert logged_epochs(inputs.output, tmp_path)["listnet-i2t-seed0"] == [1, 2]
    train(inputs)
    assert logged_epochs(inputs.output, tmp_path) == {f"{loss}-i2t-seed0": [1, 2, 3] for loss in inputs.losses}


@pytest.mark.usefixtures("in_process")
def test_a_tracking_server_that_goes_away_neither_stops_nor_loses_anything(inputs, tmp_path, monkeypatch, capsys):
    undisturbed = train(replace(inputs, output=tmp_path / "undisturbed"))

    def refuse(delivery, journals):
        raise ConnectionRefusedError(111, "Connection refused")

    with monkeypatch.context() as broken:
        broken.setattr(Delivery, "deliver_all", refuse)
        assert train(inputs).fingerprint == undisturbed.fingerprint
        warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("MLflow: ")]
        assert len(warnings) == 1
        assert warnings[0].endswith(f"xmrank sync {inputs.output}")
    assert {run.info.status for run in runs_of(inputs.output, tmp_path).values()} == {"RUNNING"}
    # The next run has nothing to train, and delivers.
    train(inputs)
    assert {run.info.status for run in runs_of(inputs.output, tmp_path).values()} == {"FINISHED"}
    assert logged_epochs(inputs.output, tmp_path) == {f"{loss}-i2t-seed0": [1, 2, 3] for loss in inputs.losses}
    assert not (inputs.output / "journal").exists()


@pytest.mark.usefixtures("in_process")
def test_a_damaged_state_is_one_line(inputs):
    state = inputs.output / "trials/listnet-i2t-seed0/state.safetensors"
    train(inputs)
    names = ("history.json", "ranker.json", "ranker.safetensors")
    # The plan knows a trial's files as one piece.
    pieces = json.loads((inputs.output / "plan.json").read_text())["finished"]
    assert sorted(f"trials/listnet-i2t-seed0/{name}" for name in names) in map(sorted, pieces)
    for name in names:
        (state.parent / name).unlink()
    (inputs.output / "manifest.json").unlink()
    state.write_bytes(b"not a state")
    with pytest.raises(DataError, match=f"{state}: cannot continue from it"):
        train(inputs)


@pytest.mark.usefixtures("in_process")
def test_an_experiment_gives_its_run_as_the_parent_and_ends_it_itself(inputs, tmp_path):
    uri = tracking.connect(tmp_path)
    parent = tracking.begin_run(uri, tmp_path, "experiment")
    train(inputs, lambda: parent)
    runs = runs_of(inputs.output, tmp_path)
    assert runs.pop("parent").info.run_id == parent
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent}
    assert tracking.read_status(uri, parent) == "RUNNING"
    train(inputs, lambda: pytest.fail("a finished stage needs no parent"))

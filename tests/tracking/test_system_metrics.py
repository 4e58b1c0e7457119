"""The load of the machine while a run goes on."""

import threading
import time

import pytest
from mlflow.tracking import MlflowClient

from xmrank.tracking import system_metrics
from xmrank.tracking.run_tree import RunTree
from xmrank.tracking.runs import connect_tracking
from xmrank.tracking.system_metrics import INTERVAL, SWITCH, log_samples, read_interval, sample_system

NAMES = {
    "system/cpu_utilization_percentage",
    "system/system_memory_usage_megabytes",
    "system/disk_usage_percentage",
    "system/network_receive_megabytes",
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setenv(INTERVAL, "0.1")
    monkeypatch.delenv(SWITCH, raising=False)


class Clock:
    """Time that passes only while one waits, and an event that is set at an end."""

    def __init__(self, end):
        self.now, self.end = 0.0, end

    def wait(self, seconds):
        self.now += seconds
        return self.now > self.end


class Monitor:
    """Counts its samples."""

    def __init__(self):
        self.count = 0

    def collect_metrics(self):
        self.count += 1

    def aggregate_metrics(self):
        return {"samples": self.count}

    def clear_metrics(self):
        self.count = 0


def test_a_run_has_the_load_of_the_machine_and_its_children_have_not(tmp_path, track_at):
    track_at(tmp_path)
    tree = RunTree(tmp_path / "stage", "train")
    with tree.open():
        tree.begin_child("a")
        time.sleep(1.5)
    client = MlflowClient(connect_tracking())
    metrics = client.get_run(tree.ids["parent"]).data.metrics
    assert metrics.keys() >= NAMES and all(name.startswith("system/") for name in metrics)
    assert metrics["system/system_memory_usage_megabytes"] > 100
    assert not client.get_run(tree.ids["a"]).data.metrics


def test_a_stage_of_an_experiment_leaves_it_to_the_experiment(tmp_path, track_at, monkeypatch):
    track_at(tmp_path)
    outer = RunTree(tmp_path / "all", "experiment")
    with outer.open():
        outer.begin_parent()
        monkeypatch.setattr("xmrank.tracking.run_tree.sample_system", lambda log: pytest.fail("sampled twice"))
        with RunTree(tmp_path / "all" / "train", "train", parent=outer.begin_parent).open():
            pass


@pytest.mark.parametrize(("end", "steps"), [(45, [10, 20, 30, 40]), (1030, [*range(10, 1001, 10), 1020])])
def test_means_are_logged_every_ten_seconds_and_later_less_often(monkeypatch, end, steps):
    clock, logged = Clock(end), []
    monkeypatch.setattr(system_metrics.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(system_metrics, "make_monitors", lambda: [Monitor()])
    log_samples(lambda metrics, step: logged.append((step, metrics)), clock, 10.0)
    assert [step for step, _ in logged] == steps
    # Every sample is in one mean.
    assert sum(metrics["system/samples"] for _, metrics in logged) == steps[-1] / 10


def test_a_thread_ends_with_its_block_and_is_not_started_where_it_is_turned_off(monkeypatch):
    before = threading.active_count()
    with sample_system(lambda metrics, step: None):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    monkeypatch.setenv(SWITCH, "false")
    with sample_system(lambda metrics, step: None):
        assert threading.active_count() == before


@pytest.mark.parametrize(("value", "seconds"), [("5", 5.0), ("0", 0.1), ("often", 10.0)])
def test_the_interval_is_mlflows(monkeypatch, value, seconds):
    monkeypatch.setenv(INTERVAL, value)
    assert read_interval() == seconds

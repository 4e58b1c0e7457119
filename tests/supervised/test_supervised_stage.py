"""The supervised stage through its real parts: files, resume, refusals, MLflow, report."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from labelled_features import write_features
from mlflow.tracking import MlflowClient
from pipeline import make_home

from xmrank.cli import run_job
from xmrank.config import SupervisedConfig
from xmrank.config.supervised import Clip4cmrConfig, DscmrConfig, LcmConfig
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.manifest import read_manifest
from xmrank.supervised import method_runs as runs
from xmrank.supervised import stage
from xmrank.supervised.lcm_tables import SupervisedResults, claim_table, feature_tables, format_change, format_spread
from xmrank.supervised.stage import supervised
from xmrank.tracking.journal import Journal
from xmrank.tracking.run_tree import RunTree

DATA = os.environ.get("XMRANK_TEST_DATA")
TINY = SupervisedConfig(
    data=("wikipedia=features",),
    methods=("embeddings", "lcm", "lcm_kmeans", "dscmr", "clip4cmr"),
    runs=(0, 1),
    neighbours=5,
    lcm=LcmConfig(width=8, dimensions=4, rounds=2, batch_size=16),
    dscmr=DscmrConfig(width=8, dimensions=4, epochs=2, batch_size=16),
    clip4cmr=Clip4cmrConfig(width=8, dimensions=4, epochs=2, batch_size=16),
    tsne=12,
)


@pytest.fixture
def home(tmp_path, track_at):
    """A home with features and a tracking file."""
    track_at(tmp_path)
    write_features(tmp_path / "features")
    return tmp_path


@pytest.fixture
def here(monkeypatch):
    """Makes tasks run in this process; the list names the runs that were made, and a count ends it."""
    return in_process(monkeypatch)


def in_process(monkeypatch):
    made = SimpleNamespace(names=[], limit=None)

    def run_tasks(function, tasks, workers=0):
        for task in tasks:
            if made.limit is not None and len(made.names) >= made.limit:
                raise KeyboardInterrupt
            made.names.append(task.name)
            yield function(task)

    monkeypatch.setattr(stage, "run_tasks", run_tasks)
    return made


@pytest.fixture(scope="module")
def done(tmp_path_factory, empty_tracking):
    """An experiment that nothing disturbed; for reading only."""
    home = tmp_path_factory.mktemp("done")
    write_features(home / "features")
    with pytest.MonkeyPatch.context() as patched:
        make_home(patched, home, empty_tracking)
        names = in_process(patched).names
        manifest = supervised(replace(TINY, output=home / "out"))
    results = json.loads((home / "out" / "results" / "results.json").read_text())
    return SimpleNamespace(output=home / "out", manifest=manifest, results=results, names=names)


def digests_of(results):
    return {
        (run["method"], run["seed"], row["direction"], row["search"]): row["ranking_sha256"]
        for run in results["runs"]
        for row in run["rows"]
    }


def children_of(home):
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    (parent,) = [r for r in client.search_runs(["1"]) if "mlflow.parentRunId" not in r.data.tags]
    return parent, {r.info.run_name: r for r in client.search_runs(["1"]) if r.info.run_id != parent.info.run_id}


def test_a_killed_experiment_goes_on_and_ends_the_same(done, home, here, capsys):
    assert len(done.names) == 1 + 4 * 2  # embeddings once
    config = replace(TINY, output=home / "killed")
    here.limit = 4
    with pytest.raises(KeyboardInterrupt):
        supervised(config)
    here.limit = None
    assert supervised(config).fingerprint == done.manifest.fingerprint
    assert here.names == done.names  # nothing twice
    supervised(config)
    assert here.names == done.names  # all is there
    printed = capsys.readouterr().out
    assert (
        "3 classes, 54 / 6 / 20 / 20 (train / validation / retrieval / query); paper's Table 1: 10 classes" in printed
    )


def test_what_an_experiment_leaves(done):
    assert done.manifest.counts == {"runs": 9, "sets": 1}
    names = {name for name in done.manifest.outputs if not name.startswith("models/")}
    assert names == {"metrics.parquet", "results.json", "tsne.json"}
    folder = done.output / "results"
    assert (folder / "models" / "wikipedia-lcm-run1" / "model.safetensors").is_file()
    assert {run["method"] for run in done.results["runs"]} == set(TINY.methods)
    pictures = json.loads((folder / "tsne.json").read_text())["wikipedia"]
    assert [[len(group["points"]) for group in picture["groups"]] for picture in pictures] == [[12, 12]] * 3


def test_means_derive_from_the_values_of_queries(done):
    queries = pd.read_parquet(done.output / "results" / "metrics.parquet")
    means = queries.groupby(["method", "seed", "direction", "search", "metric"])["value"].mean()
    for run in done.results["runs"]:
        for row in run["rows"]:
            key = (run["method"], run["seed"], row["direction"], row["search"])
            assert row["map"] == pytest.approx(means[(*key, "ap")])
            assert row["queries"] == 20
            assert np.dot(row["classes"], [7, 7, 6]) / 20 == pytest.approx(row["map"])  # queries of the classes
            assert ("mrr" in row) == (row["search"] == "two_stage")
            if "mrr" in row:
                assert row["mrr"] == pytest.approx(means[(*key, "mrr")])


def test_the_report_of_an_experiment(done):
    folder = done.output / "report"
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 3 + 3 + 1  # t-SNE, costs, and precision over recall
    assert not [link for link in re.findall(r'(?:src|href)="([^"]+)', page) if not link.startswith(("#", "data:"))]
    lcm = [run for run in done.results["runs"] if run["method"] == "lcm"]
    values = [np.mean([r["map"] for r in run["rows"] if r["search"] == "two_stage"]) for run in lcm]
    markdown = (folder / "report.md").read_text()
    assert f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f} | 0.64 | 0.85 | 0.75 |" in markdown
    table = pd.read_csv(folder / "table.csv")
    own = table[(table.method == "lcm") & (table.search == "two_stage") & (table.direction == "average")]
    whole = own[own["class"].isna() & (own.metric == "map")]
    assert whole["mean"].item() == pytest.approx(np.mean(values))
    assert read_manifest(folder, "supervised-report").inputs == {"supervised": done.manifest.fingerprint}


@pytest.mark.ray
def test_tasks_on_a_cluster_find_the_same(done, home, ray_cluster):
    config = replace(TINY, output=home / "cluster", methods=("embeddings", "lcm"), runs=(0,), tsne=0, workers=2)
    manifest = supervised(config)
    assert manifest.counts == {"runs": 2, "sets": 1}
    results = json.loads((home / "cluster" / "results" / "results.json").read_text())
    assert digests_of(results).items() <= digests_of(done.results).items()


def test_every_run_is_a_child_in_mlflow_once(home, here):
    config = replace(TINY, output=home / "out", methods=("lcm",))
    here.limit = 1
    with pytest.raises(KeyboardInterrupt):
        supervised(config)
    here.limit = None
    supervised(config)
    parent, children = children_of(home)
    assert parent.info.status == "FINISHED"
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    assert [file.path for file in client.list_artifacts(parent.info.run_id)] == ["config.yaml"]
    assert set(children) == {"wikipedia-lcm-run0", "wikipedia-lcm-run1"}
    child = children["wikipedia-lcm-run1"]
    metrics = child.data.metrics
    assert metrics["average/two_stage/map"] == pytest.approx(
        (metrics["i2t/two_stage/map"] + metrics["t2i/two_stage/map"]) / 2
    )
    assert {"i2t/two_stage/mrr", "validation_map", "loss/total", "cost/train_seconds"} <= metrics.keys()
    assert (child.data.params["seed"], child.data.params["lcm.sigma"]) == ("1", "0.01")
    lasted = (child.info.end_time - child.info.start_time) / 1000
    assert 0 <= lasted - metrics["cost/train_seconds"] < 5


def test_a_run_whose_beginning_was_lost_is_logged_by_the_next_call(home, here, monkeypatch):
    config = replace(TINY, output=home / "out", methods=("lcm",), runs=(0,), tsne=0)
    add_begin = Journal.add_begin

    def stop(journal, *given):
        if journal.path.stem != "parent":
            raise KeyboardInterrupt
        add_begin(journal, *given)

    with monkeypatch.context() as broken:
        broken.setattr(Journal, "add_begin", stop)
        # As where the server does not answer: the run is made later.
        broken.setattr(RunTree, "_make_run", lambda *given: None)
        with pytest.raises(KeyboardInterrupt):
            supervised(config)
    supervised(config)
    parent, children = children_of(home)
    assert {run.info.status for run in [parent, *children.values()]} == {"FINISHED"}
    assert set(children) == {"wikipedia-lcm-run0"}


def test_settings_of_lcm_without_labels_are_told_as_they_are(home, here):
    supervised(replace(TINY, output=home / "out", methods=("lcm", "lcm_c0"), runs=(0,), tsne=0))
    _, children = children_of(home)
    told = {
        method: (
            children[f"wikipedia-{method}-run0"].data.params["lcm.c"],
            json.loads((home / f"out/results/models/wikipedia-{method}-run0/model.json").read_text())["settings"]["c"],
        )
        for method in ("lcm", "lcm_c0")
    }
    assert told == {"lcm": ("0.1", 0.1), "lcm_c0": ("0.0", 0.0)}


def test_query_labels_replaced_by_noise_change_no_ranking_of_an_experiment(done, home, here, monkeypatch):
    """Through the whole stage: queries that have other labels than the retrieval set, which stays as it was."""
    read = stage.read_source

    def noisy(source):
        data = read(source)
        labels = np.random.default_rng(5).random(data.query.labels.shape) < 0.5
        return replace(data, query=replace(data.query, labels=labels))

    for module in (stage, runs):
        monkeypatch.setattr(module, "read_source", noisy)
    runs.cached_set.cache_clear()
    supervised(replace(TINY, output=home / "noise", tsne=0))
    runs.cached_set.cache_clear()
    results = json.loads((home / "noise" / "results" / "results.json").read_text())
    assert digests_of(results) == digests_of(done.results)
    assert len(digests_of(results)) == 6 + 6 * 2 * 3 + 4 * 2
    assert results["runs"][0]["rows"][0]["map"] != done.results["runs"][0]["rows"][0]["map"]


def test_told_labels_neighbours_and_wrong_labels_are_in_the_report(done, home, here):
    methods = ("embeddings", "gma", "srlch_hash")
    config = replace(TINY, output=home / "claims", methods=methods, tsne=0)
    supervised(replace(config, label_shares=(0.5,), neighbour_counts=(3,), label_noise=0.5))
    assert here.names == [
        f"wikipedia-{name}" for name in ("embeddings-run0", "gma-run0", "srlch_hash-run0", "srlch_hash-run1")
    ]
    results = json.loads((home / "claims" / "results" / "results.json").read_text())
    searches = {row["search"] for row in results["runs"][1]["rows"]}
    assert searches >= {
        "distance",
        "two_stage",
        "two_stage_50_percent",
        "two_stage_3_neighbours",
        "two_stage_predicted",
    }
    # Wrong training labels, but the same features: only searches that count labels change.
    clean, noisy = digests_of(done.results), digests_of(results)
    key = ("embeddings", 0, "i2t")
    assert noisy[*key, "distance"] == clean[*key, "distance"]
    assert noisy[*key, "two_stage"] != clean[*key, "two_stage"]
    markdown = (home / "claims" / "report" / "report.md").read_text()
    for title in (
        "Labels of the retrieval set",
        "Neighbours in stage 1",
        "Significance over queries",
        "The paper's Tables",
    ):
        assert f"## {title}" in markdown
    assert "| CMDN | 0.49 | 0.43 | 0.46 |" in markdown
    timing = json.loads((home / "claims" / "results" / "timing.json").read_text())
    # GMA of three classes: two directions of six features, and an offset each, for both modalities.
    assert {entry["method"]: entry["parameters"] for entry in timing}["gma"] == 2 * (2 * 6 + 2)
    assert all(entry["peak_mib"] >= 0 for entry in timing)


@pytest.mark.skipif(DATA is None, reason="XMRANK_TEST_DATA does not name the folder of real data")
def test_ccas_documented_figures_come_out_of_the_job(home, here, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "supervised.md").read_text()
    # The command of the page, and what the page says that it gives.
    command = re.search(r"python jobs/supervised.py (--data \S+ --methods cca .*?)\n```", page, re.DOTALL)[1]
    said = re.search(r"gives mAP (0\.\d+) \(image query\) and (0\.\d+) \(text query\)", page)
    words = command.replace("\\\n", " ").replace("data/features", DATA).split()
    monkeypatch.setattr("sys.argv", ["supervised.py", *words])
    run_job("supervised")
    (run,) = json.loads((home / "runs" / "wikipedia-cca" / "results" / "results.json").read_text())["runs"]
    actual = {row["direction"]: f"{row['map']:.3f}" for row in run["rows"] if row["search"] == "distance"}
    assert actual == {"i2t": said[1], "t2i": said[2]}


def test_other_features_and_settings_are_refused_by_name(home, here):
    config = replace(TINY, output=home / "out", methods=("embeddings",))
    supervised(config)
    with pytest.raises(DataError, match="neighbours is 5 there, 7 here"):
        supervised(replace(config, neighbours=7))
    write_features(home / "features", seed=1)
    with pytest.raises(DataError, match="was made from other data wikipedia"):
        supervised(config)


def test_kinds_of_features_of_a_set_make_a_table(home, here):
    write_features(home / "other", seed=3, width=9)
    data = ("x/one+one=features", "x/two+two=other", "x/one+two=features,other")
    supervised(replace(TINY, output=home / "out", data=data, methods=("lcm",), tsne=0))
    markdown = (home / "out" / "report" / "report.md").read_text()
    assert "## Input features: x" in markdown
    rows = [
        line for line in markdown.splitlines() if line.startswith(("| one | one |", "| one | two |", "| two | two |"))
    ]
    assert len(rows) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ("wikipedia",)}, "--data wikipedia: expected NAME=PATH or NAME/FEATURES=PATH"),
        ({"data": ("x=a,b,c",)}, "--data x=a,b,c: expected one path, or two with a comma"),
        ({"data": ("x=a", "x=b")}, "--data x x: expected one or more, each once"),
        ({"methods": ("lcm", "pca")}, "--methods pca: expected one of embeddings, lcm"),
        ({"runs": ()}, "--runs : expected one or more"),
        ({"labels": ("coco=a.json",)}, r"--labels coco: no such set in --data \(wikipedia\)"),
        ({"labels": ("wikipedia",)}, "--labels wikipedia: expected NAME=PATH"),
        ({"neighbours": 0}, "--neighbours 0: expected at least 1"),
        ({"label_shares": (1.0,)}, "--label-shares 1.0: expected more than 0 and less than 1"),
        ({"neighbour_counts": (0,)}, "--neighbour-counts 0: expected at least 1"),
        ({"label_noise": 2.0}, "--label-noise 2.0: expected a share from 0 to 1"),
        (
            {"methods": ("lcm_c0",), "explicit": frozenset({"lcm.a", "dscmr.epochs"})},
            "--dscmr.epochs: dscmr is not among --methods lcm_c0",
        ),
    ],
)
def test_wrong_settings_name_their_flag(changes, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        replace(TINY, **changes)


def test_without_a_set_nothing_is_done():
    with pytest.raises(ConfigError, match="--data: expected one or more labelled sets"):
        supervised(SupervisedConfig())


def test_claims_are_read_in_points_and_as_relative_changes_of_the_average():
    rows = [
        {"direction": d, "search": s, "map": value}
        for s, values in {"distance": (0.2, 0.4), "two_stage": (0.3, 0.33), "two_stage_predicted": (0.2, 0.25)}.items()
        for d, value in zip(("i2t", "t2i"), values, strict=True)
    ]
    results = SupervisedResults({"name": "x"}, [{"method": "lcm", "rows": rows}], [], pd.DataFrame())
    # 0.315 over 0.3, and 0.225 over 0.3
    assert claim_table(results).rows == (("LCM", "+0.015", "no", "+5 %", "no", "−0.075", "−25 %"),)
    # The two readings may differ: 0.05 points are 25 % of 0.2; and 0.3 over 0.2 is 0.10 points in full.
    for told, answers in ((0.25, ("no", "yes")), (0.3, ("yes", "yes"))):
        for one in rows:
            one["map"] = {"distance": 0.2, "two_stage": told, "two_stage_predicted": 0.2}[one["search"]]
        ((_, _, points, _, relative, *_),) = claim_table(results).rows
        assert (points, relative) == answers
    assert (format_change(0.33, 0.3), format_change(0.2999, 0.3), format_change(0.3, float("nan"))) == (
        "+10 %",
        "0 %",
        "–",
    )
    assert (format_spread([0.1, 0.3]), format_spread([0.25]), format_spread([])) == ("0.200 ± 0.141", "0.250", "–")
    assert feature_tables([results]) == []

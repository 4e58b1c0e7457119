"""The stage of the baselines, through its real job function: fits, figures, rerun, resume, refusals."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.tracking import MlflowClient
from pipeline import make_home, mine_small

from xmrank.baselines import ray as ray_stage
from xmrank.baselines import stage as stage
from xmrank.baselines.baseline_features import fitted_images
from xmrank.baselines.baseline_settings import KernelSettings, VseppSettings
from xmrank.baselines.stage import baselines
from xmrank.baselines.towers import load_towers
from xmrank.config import BaselinesConfig
from xmrank.metrics import METRICS
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.protocols import evaluation_run
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.launcher import Worker
from xmrank.runtime.manifest import read_manifest
from xmrank.tracking.runs import find_run

KEYS = ["method", "ranker", "seed", "direction", "protocol", "metric"]


@pytest.fixture(scope="module")
def inputs(tiny_store, tmp_path_factory, empty_tracking):
    """A store of three splits, lists, and features of their own beside the store: 12 and 9 numbers an item."""
    home = tmp_path_factory.mktemp("baselines")
    store = tiny_store(home / "store", splits={"align": 30, "train": 150, "val": 20})
    lists = mine_small(store.directory, home / "lists").output
    generator = np.random.default_rng(3)
    for name, side, width in (("image", store.image, 12), ("text", store.text, 9)):
        rows = np.asarray(side, np.float64) @ generator.normal(size=(16, width))
        np.save(home / f"{name}.npy", rows.astype(np.float32))
    config = BaselinesConfig(
        embeddings=store.directory,
        lists=lists,
        output=home / "out",
        baselines=("cosine", "cca", "kernel_cca", "vsepp"),
        image_features=home / "image.npy",
        text_features=home / "text.npy",
        fit_splits=("align", "train"),
        listwise=(0.0, 0.5),
        seeds=(0, 1),
        vsepp=VseppSettings(epochs=2, batch_size=16),
        kernel_cca=KernelSettings(pairs=50),
        top_n=10,
        workers=1,
    )
    return SimpleNamespace(home=home, store=store, lists=lists, config=config)


@pytest.fixture(scope="module")
def done(inputs, empty_tracking):
    """The stage, run once, in this process."""
    with pytest.MonkeyPatch.context() as environment:
        make_home(environment, inputs.home, empty_tracking)
        alone = Worker(0, 1, torch.device("cpu"))
        environment.setattr(ray_stage, "launch_workers", lambda function, job, **_: function(job, alone))
        environment.setattr(evaluation_run, "run_tasks", lambda function, tasks: map(function, tasks))
        manifest = baselines(inputs.config)
    output = inputs.config.output
    return SimpleNamespace(
        manifest=manifest, output=output, metrics=pd.read_parquet(output / "metrics.parquet"), **vars(inputs)
    )


@pytest.mark.ray
def test_on_the_cluster_the_towers_are_the_same(done, ray_cluster, track_at, tmp_path):
    track_at(done.home)
    config = replace(done.config, baselines=("vsepp",), kernel_cca=KernelSettings(), output=tmp_path / "out")
    baselines(config)
    for fit in ("vsepp-seed0", "vsepp-sndcg0.5-seed1"):
        ours, theirs = (load_towers(folder / "fits" / fit)[0].state_dict() for folder in (config.output, done.output))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_files_and_rows(done):
    assert done.manifest.counts == {"fits": 7, "methods": 5, "images": 30 + 135}  # 15 train images select
    fits = {"cosine", "cca", "kernel_cca", "vsepp-seed0", "vsepp-seed1", "vsepp-sndcg0.5-seed0", "vsepp-sndcg0.5-seed1"}
    assert {path.name for path in (done.output / "fits").iterdir()} == fits
    for fit in fits:
        files = sorted(path.name for path in (done.output / "fits" / fit).iterdir())
        assert files == ["baseline.json", "history.json", "towers.safetensors"]
    rows = done.metrics.groupby(["method", "ranker", "seed", "direction", "protocol"], observed=True)["metric"].unique()
    methods = {("cosine", "", -1), ("cca", "baseline", -1), ("kernel_cca", "baseline", -1)}
    methods |= {(name, "baseline", seed) for name in ("vsepp", "vsepp-sndcg0.5") for seed in (0, 1)}
    protocols = {(d, p) for d in ("i2t", "t2i") for p in ("lists", "gallery")}
    assert set(rows.index) == {(*method, *protocol) for method in methods for protocol in protocols}
    assert all(tuple(names) == METRICS for names in rows)
    assert (done.output / "trec" / "i2t" / "gallery" / "qrels.trec.gz").is_file()


def test_cca_on_lists_and_gallery_by_numpy(done):
    towers, _ = load_towers(done.output / "fits" / "cca")
    image, text = (towers.project(s, np.load(done.home / f"{s}.npy")).astype(float) for s in ("image", "text"))
    lists = CandidateLists.read(done.lists / "t2i-test.parquet")
    candidates, labels, _, mask = lists.pad_lists(np.arange(len(lists)))
    scores = np.where(mask, np.einsum("qd,qnd->qn", text[lists.queries], image[candidates]), -np.inf)
    first = np.take_along_axis(labels, scores.argmax(1)[:, None], 1).mean()
    assert value(done, method="cca", direction="t2i", protocol="lists", metric="hit@1") == pytest.approx(first)
    images = done.store.image_rows("val")
    captions = np.flatnonzero(np.isin(done.store.image_of_caption, images))
    actual = images[(text[captions] @ image[images].T).argmax(1)] == done.store.image_of_caption[captions]
    assert value(done, method="cca", direction="t2i", protocol="gallery", metric="hit@1") == pytest.approx(
        actual.mean()
    )


def test_cosine_ranks_the_store_and_the_others_the_features(done):
    images = done.store.image_rows("val")
    captions = np.flatnonzero(np.isin(done.store.image_of_caption, images))
    scores = np.asarray(done.store.text[captions], float) @ np.asarray(done.store.image[images], float).T
    actual = images[scores.argmax(1)] == done.store.image_of_caption[captions]
    key = {"direction": "t2i", "protocol": "gallery", "metric": "hit@1"}
    assert value(done, method="cosine", **key) == pytest.approx(actual.mean())
    assert value(done, method="vsepp", seed=0, **key) != value(done, method="vsepp", seed=1, **key)


def value(done, **key):
    """A mean over queries."""
    rows = done.metrics
    for name, wanted in key.items():
        rows = rows[rows[name] == wanted]
    assert rows[KEYS].drop_duplicates().shape[0] == 1
    return rows["value"].mean()


def test_runs_of_mlflow(done):
    client = MlflowClient(f"sqlite:///{done.home / 'mlflow.db'}")
    known = json.loads((done.output / "tracking.json").read_text())
    run, first = (find_run(client, done.home, known[f"vsepp-sndcg0.5-seed{seed}"]) for seed in (1, 0))
    # One after another, or on two workers; not both for the whole stage.
    parent = client.get_run(known["parent"])
    assert parent.info.start_time < min(run.info.start_time, first.info.start_time)
    assert max(run.info.end_time, first.info.end_time) < parent.info.end_time
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == known["parent"]
    assert run.data.params["listwise"] == "0.5"
    assert run.data.params["margin"] == "0.2"
    expected = value(done, method="vsepp-sndcg0.5", seed=1, direction="i2t", protocol="lists", metric="hit@1")
    assert run.data.metrics["i2t/hit_at_1"] == pytest.approx(expected)
    assert len(client.get_metric_history(run.info.run_id, "train_loss")) == 2
    assert client.get_run(known["parent"]).info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(known["parent"])] == ["config.yaml"]


def test_a_rerun_does_nothing_and_an_interrupted_one_fits_only_what_is_missing(done, track_at, monkeypatch, capsys):
    track_at(done.home)
    fitted = []
    monkeypatch.setattr(stage, "evaluate_all", None)  # a finished stage is not evaluated again
    assert baselines(done.config).fingerprint == done.manifest.fingerprint
    assert "lists i2t cca: hit@1/5/10" in capsys.readouterr().out
    monkeypatch.undo()
    track_at(done.home)
    (done.output / "manifest.json").unlink()
    (done.output / "fits" / "cca" / "history.json").unlink()
    whole = stage.fit_on_cluster

    def fit(work, scratch):
        fitted.extend(one.name for one in work.list_pending())
        whole(work, scratch)

    monkeypatch.setattr(stage, "fit_on_cluster", fit)
    monkeypatch.setattr(evaluation_run, "run_tasks", lambda function, tasks: map(function, tasks))
    assert baselines(done.config).fingerprint == done.manifest.fingerprint
    assert fitted == ["cca"]


def test_images_that_select_or_are_reported_are_never_fitted(inputs):
    fitted = fitted_images(inputs.config, inputs.store)
    roles = json.loads((inputs.lists / "splits.json").read_text())
    assert not set(fitted) & set(roles["validation"]["images"] + roles["test"]["images"])
    everything = replace(inputs.config, fit_splits=("align", "train", "val"))
    assert fitted_images(everything, inputs.store).tolist() == fitted.tolist()
    assert fitted_images(replace(inputs.config, fit_splits=()), inputs.store).tolist() == roles["train"]["images"]


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"fit_splits": ("dev",)}, ConfigError, "--fit-splits dev: the store has no such split; it has: align, train"),
        ({"fit_splits": ("val",)}, ConfigError, "--fit-splits val: all their images select or are reported"),
        ({"baselines": ("pls",)}, ConfigError, "--baselines pls: expected one of cosine"),
        ({"galleries": ("1000",)}, ConfigError, "--galleries 1000"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_started(inputs, tmp_path, changes, kind, message):
    with pytest.raises(kind) as refused:
        baselines(replace(inputs.config, output=tmp_path / "out", **changes))
    assert message in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_features_of_other_rows_than_the_stores_are_refused(inputs, tmp_path):
    np.save(tmp_path / "short.npy", np.ones((3, 4), np.float32))
    with pytest.raises(DataError, match=r"short.npy: 3 rows, the store has 200 \(--image-features\)"):
        baselines(replace(inputs.config, output=tmp_path / "out", image_features=tmp_path / "short.npy"))
    with pytest.raises(DataError, match=r"no such file \(--relevance-texts\)"):
        baselines(replace(inputs.config, output=tmp_path / "out", relevance_texts=tmp_path / "none.npy"))


def test_the_manifest_names_the_features(done):
    assert read_manifest(done.output, "baselines").inputs.keys() == {
        "embeddings", "lists", "image_features", "text_features",
    }  # fmt: skip

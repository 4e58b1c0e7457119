"""The search over settings of baselines."""

import json

import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from pipeline import mine_small

from xmrank.baselines.baseline_registry import settings_of
from xmrank.baselines.baseline_settings import VseppSettings
from xmrank.config import BaselinesConfig, TuneConfig
from xmrank.runtime.errors import ConfigError
from xmrank.tune.stage import tune


@pytest.fixture
def searched(tiny_store, track_at, tmp_path):
    """Makes the configuration of a search over a small store."""
    track_at(tmp_path)
    store = tiny_store(tmp_path / "store")
    lists = mine_small(store.directory, tmp_path / "lists").output

    def config(space, baselines=("regularised_cca", "vsepp"), **changes):
        settings = VseppSettings(epochs=1, batch_size=20) if "vsepp" in baselines else VseppSettings()
        own = BaselinesConfig(baselines=baselines, vsepp=settings)
        paths = {"embeddings": store.directory, "lists": lists, "output": tmp_path / "tuned"}
        return TuneConfig(**paths, target="baselines", space=space, baselines=own, **changes)

    return config, tmp_path / "tuned" / "search"


def test_a_grid_and_its_best_settings(searched, here, tmp_path):
    config, folder = searched
    settings = config(("regularised_cca.shrinkage=[0.0,0.9]", "dimensions=[2,8]", "vsepp.margin=[0.1]"))
    manifest = tune(settings)
    assert manifest.counts == {"points": 4 + 2, "failed": 0, "stopped": 0}
    results = json.loads((folder / "results.json").read_text())
    assert [result["name"] for result in results] == ["regularised_cca"] * 4 + ["vsepp"] * 2
    assert results[1]["settings"] == {"shrinkage": 0.0, "dimensions": 8}
    best = json.loads((folder / "best.json").read_text())
    values = [result["value"] for result in results[:4]]
    assert best["regularised_cca"]["value"] == max(values)
    assert best["regularised_cca"]["settings"] == results[int(np.argmax(values))]["settings"]
    taken = BaselinesConfig(best=folder / "best.json")
    assert settings_of(taken, "vsepp", "vsepp").margin == 0.1
    assert settings_of(taken, "vsepp", "vsepp-sndcg0.5").margin == 0.2  # nobody searched it
    run = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").search_runs(["1"], "params.margin = '0.1'")[0]
    assert "mlflow.parentRunId" in run.data.tags
    assert run.data.metrics["validation_mean"] in [result["value"] for result in results[4:]]
    assert {run.info.status for run in MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").search_runs(["1"])} == {
        "FINISHED"
    }
    before = len(here)
    (folder / "manifest.json").unlink()
    next((folder / "points").glob("vsepp-*/result.json")).unlink()
    assert tune(settings).fingerprint == manifest.fingerprint
    assert len(here) == before + 1  # only what was missing
    assert not list((folder / "points").rglob("epochs.json"))


def test_random_points_are_drawn_by_the_seed(searched, here):
    config, _ = searched
    tune(config(("shrinkage=uniform(0.1,0.5)",), baselines=("regularised_cca",), search="random", samples=3))
    drawn = [point.settings["shrinkage"] for point in here]
    assert len(set(drawn)) == 3
    assert all(0.1 <= value <= 0.5 for value in drawn)


@pytest.mark.parametrize(
    ("space", "changes", "message"),
    [
        ((), {}, "--space: nothing to search"),
        (("cca.depth=[1]",), {}, "--space cca.depth=[1]: expected NAME=[VALUE,...]"),
        (("infonce.temperature=[1]",), {}, "--space infonce.temperature=[1]: expected"),  # not among the baselines
        (("vsepp.margin=uniform(0,1)",), {}, "a grid needs values"),
        (("vsepp.margin=[-1]",), {}, "--space vsepp.margin -1.0: expected at least 0"),
        (("vsepp.margin=[0.1]", "margin=[0.2]"), {}, "--space margin=[0.2]: expected each name once"),
    ],
)
def test_what_cannot_be_searched_is_refused(searched, here, space, changes, message):
    config, folder = searched
    with pytest.raises(ConfigError) as refused:
        tune(config(space, **changes))
    assert message in str(refused.value)
    assert not here and not folder.exists()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster", "in_process")
def test_optuna_and_asha_search_baselines_too(searched):
    config, folder = searched
    spaces = ("vsepp.learning_rate=log(1e-4,0.1)", "vsepp.epochs=[4]")
    settings = config(spaces, baselines=("cosine", "vsepp"), search="optuna", scheduler="asha", grace=1, samples=3)
    manifest = tune(settings)
    results = [json.loads(path.read_text()) for path in (folder / "points").glob("*/result.json")]
    assert sorted(result["name"] for result in results) == ["cosine"] + ["vsepp"] * 3  # nothing to search for cosine
    assert manifest.counts["stopped"] == sum(result["epochs"] < 4 for result in results if result["name"] == "vsepp")
    best = json.loads((folder / "best.json").read_text())
    assert best["vsepp"]["value"] == max(result["value"] for result in results if result["name"] == "vsepp")
    assert not list((folder / "points").rglob("epochs.json"))


def test_a_file_that_is_no_search_is_refused(tmp_path):
    (tmp_path / "best.json").write_text("[1]")
    with pytest.raises(ConfigError, match=r"--best .*: expected the best.json of jobs/tune.py"):
        settings_of(BaselinesConfig(best=tmp_path / "best.json"), "vsepp", "vsepp")

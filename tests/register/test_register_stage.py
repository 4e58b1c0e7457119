"""The best ranker of each direction is registered once, and scores in the registry as in its folder."""

import json
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient

from xmrank.config import RegisterConfig
from xmrank.config.register import model_prefix
from xmrank.rank.trained_rankers import GAIN, best_rankers, read_registered_tags
from xmrank.register import serving
from xmrank.register import stage as registry
from xmrank.register.alias_guard import FirstStageGain, is_not_below
from xmrank.register.stage import register
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.tracking.runs import TrackingError, find_run
from xmrank.train.checkpoint import read_ranker

pytestmark = pytest.mark.ray
BELOW = FirstStageGain(0.5, 0.1, 0.01)


def test_both_directions_are_registered_once_with_what_tells_them_apart(rankers, trained, configure, capsys):
    for _ in range(2):
        register(configure("twice"))
    client = MlflowClient(f"sqlite:///{trained.home}/mlflow.db")
    for direction, candidate in best_rankers(rankers).items():
        (version,) = client.search_model_versions(f"name='twice-{direction}'")
        trial = candidate.directory.name
        assert f"{version.tags['loss']}-{direction}-seed{version.tags['seed']}" == trial
        assert float(version.tags["validation_mean"]) == candidate.validation
        run = find_run(client, trained.home, json.loads((rankers / "tracking.json").read_text())[trial])
        assert version.run_id == run.info.run_id and run.info.status == "FINISHED"
        assert "It takes embeddings and returns scores." in version.description
        assert "50.0 % against the first stage's 40.0 %, p = 0.01" in version.description
        assert client.get_model_version_by_alias(f"twice-{direction}", "best").version == version.version
    said = capsys.readouterr().out.splitlines()
    candidate = best_rankers(rankers)["i2t"]
    gain = "test 50.0 % against the first stage's 40.0 %, p = 0.01"
    takes = "it takes embeddings and returns scores"
    figures = f"{candidate.directory.name} (validation {candidate.validation:.4f}; {gain})"
    assert said[0] == f"register: {figures} is twice-i2t version 1; {takes}: models:/twice-i2t@best"
    assert said[2] == f"register: {figures} is twice-i2t version 1, registered before; {takes}: models:/twice-i2t@best"


def test_a_ranker_that_is_not_above_its_first_stage_has_the_alias_only_by_force(trained, configure, capsys):
    client = MlflowClient(f"sqlite:///{trained.home}/mlflow.db")
    register(configure("guarded", BELOW))
    assert client.get_registered_model("guarded-t2i").aliases == {}
    assert "there is no models:/guarded-t2i@best, since it is not significantly above" in capsys.readouterr().out
    register(configure("guarded", BELOW, force=True))
    assert str(client.get_model_version_by_alias("guarded-t2i", "best").version) == "1"
    assert read_registered_tags("models:/guarded-t2i@best")[GAIN].startswith("10.0 % against the first stage's 50.0 %")


def test_models_are_named_after_the_data_set(trained, configure):
    register(configure("auto"))
    client = MlflowClient(f"sqlite:///{trained.home}/mlflow.db")
    assert list(client.get_registered_model(f"xmrank-{trained.store.dataset}-i2t").aliases) == ["best"]
    assert model_prefix("auto", "a/b: 30%") == "xmrank-a-b-30-"


def test_a_ranker_registered_alone_scores_as_it_does(rankers, trained, configure, monkeypatch):
    register(configure("served", gallery="none"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{trained.home}/mlflow.db")
    model = mlflow.pyfunc.load_model("models:/served-t2i@best")
    query, candidates = trained.store.text[:3], trained.store.image[:15].reshape(3, 5, -1)
    similarity = np.einsum("qd,qnd->qn", query, candidates).astype(np.float32)
    given = {"query": query, "candidates": candidates, "similarity": similarity}
    given = {name: np.array(array, np.float32) for name, array in given.items()}
    ranker, _ = read_ranker(best_rankers(rankers)["t2i"].directory)
    with torch.no_grad():
        expected = ranker(*(torch.from_numpy(array) for array in given.values())).numpy()
    assert model.predict(given) == pytest.approx(expected, abs=1e-6)
    files = [path for path in (trained.home / "mlartifacts").rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in (".pkl", ".pickle", ".pt", ".bin")]


def test_the_example_suits_the_shapes():
    for name, array in serving.example_inputs(16).items():
        assert all(want in (-1, got) for want, got in zip(serving.input_shapes(16)[name], array.shape, strict=True))


@pytest.mark.parametrize(
    ("lists", "score", "takes"), [("a", "0.5", True), ("a", "0.7", False), ("a", "0.6", True), ("b", "0.7", True)]
)
def test_the_alias_goes_to_what_is_not_below_on_the_same_lists_or_to_the_newer_on_others(lists, score, takes):
    own = {"lists": "a", "validation_mean": "0.6"}
    assert is_not_below(own, {"lists": lists, "validation_mean": score}) is takes
    assert is_not_below(own, None)


def test_a_server_that_refuses_is_one_line(configure, monkeypatch):
    def refuse(*arguments, **named):
        raise TrackingError("no registry there")

    monkeypatch.setattr(registry.models, "register_model", refuse)
    with pytest.raises(DataError, match="no registry there"):
        register(configure("refused"))


@pytest.mark.parametrize("name", ["", "a/b", "a@b", "a:b"])
def test_a_name_that_mlflow_does_not_take_names_the_flag(name):
    with pytest.raises(ConfigError, match="--name"):
        RegisterConfig(Path("rankers"), name)

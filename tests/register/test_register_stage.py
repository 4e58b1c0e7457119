"""The best ranker of each direction is registered once, and scores in the registry as in its folder."""

import json
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient

from xmrank.config import RegisterConfig
from xmrank.register import serving
from xmrank.register import stage as registry
from xmrank.register.model_registry import best_rankers
from xmrank.register.stage import deserves_alias, register
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.tracking.runs import TrackingError
from xmrank.train.checkpoint import read_ranker

pytestmark = pytest.mark.ray


def test_both_directions_are_registered_once_with_what_tells_them_apart(rankers, trained, capsys):
    for _ in range(2):
        register(RegisterConfig(rankers, "twice"))
    client = MlflowClient(f"sqlite:///{trained.home}/mlflow.db")
    for direction, candidate in best_rankers(rankers).items():
        (version,) = client.search_model_versions(f"name='twice-{direction}'")
        trial = candidate.directory.name
        assert f"{version.tags['loss']}-{direction}-seed{version.tags['seed']}" == trial
        assert float(version.tags["validation_mean"]) == candidate.validation
        assert version.run_id == json.loads((rankers / "tracking.json").read_text())[trial]
        assert client.get_run(version.run_id).info.status == "FINISHED"
        assert client.get_model_version_by_alias(f"twice-{direction}", "best").version == version.version
    said = capsys.readouterr().out.splitlines()
    candidate = best_rankers(rankers)["i2t"]
    figures = f"{candidate.directory.name} (validation {candidate.validation:.4f})"
    assert said[0] == f"register: {figures} is twice-i2t version 1, models:/twice-i2t@best"
    assert said[2] == f"register: {figures} is twice-i2t version 1, registered before, models:/twice-i2t@best"


def test_the_registered_model_scores_as_the_ranker_does(rankers, trained, monkeypatch):
    register(RegisterConfig(rankers, "served"))
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
    ("lists", "score", "takes"), [("a", "0.5", True), ("a", "0.7", False), ("a", "0.6", False), ("b", "0.7", True)]
)
def test_the_alias_goes_to_the_better_on_the_same_lists_or_to_the_newer_on_others(lists, score, takes):
    own = {"lists": "a", "validation_mean": "0.6"}
    assert deserves_alias(own, {"lists": lists, "validation_mean": score}) is takes


def test_a_server_that_refuses_is_one_line(rankers, monkeypatch):
    def refuse(*arguments, **named):
        raise TrackingError("no registry there")

    monkeypatch.setattr(registry.models, "register_model", refuse)
    with pytest.raises(DataError, match="no registry there"):
        register(RegisterConfig(rankers))


@pytest.mark.parametrize("name", ["", "a/b", "a@b", "a:b"])
def test_a_name_that_mlflow_does_not_take_names_the_flag(name):
    with pytest.raises(ConfigError, match="--name"):
        RegisterConfig(Path("rankers"), name)

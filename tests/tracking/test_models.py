"""Models logged as code beside plain files: registered once, the alias decided once, nothing pickled."""

import json
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

from xmrank import tracking
from xmrank.tracking import models
from xmrank.tracking.models import ModelPackage

NAME = "toy-t2i"


def load_toy(folders, settings):
    """The toy's loader: a model that multiplies."""
    factor = json.loads((folders["numbers"] / "toy.json").read_text())
    return lambda arrays, parameters: arrays["x"] * np.float32(factor) + parameters["shift"] + settings["more"]


@pytest.fixture(autouse=True)
def home(tmp_path, track_at):
    track_at(tmp_path)
    return tmp_path


@pytest.fixture
def uri(home):
    return tracking.connect(home)


@pytest.fixture
def client(uri):
    return MlflowClient(uri)


@pytest.fixture
def register(uri, home, tmp_path):
    """Registers a toy of a factor; its score is the factor, and the higher one beats the other."""

    def make(factor, run=None, folder="toy", *, good=True, force=False):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "toy.json").write_text(str(factor))
        spec = Schema([TensorSpec(np.dtype(np.float32), (-1, 2), "x")])
        signature = ModelSignature(spec, spec, ParamSchema([ParamSpec("shift", DataType.long, 0)]))
        package = ModelPackage(
            {"numbers": tmp_path / folder},
            f"{__name__}:load_toy",
            {"more": 0},
            signature,
            {"x": np.ones((1, 2), np.float32)},
            ["mlflow"],
        )
        deserves = lambda holder: good and (holder is None or factor > float(holder["score"]))  # noqa: E731
        tags = {"score": str(factor)}
        return models.register_model(
            uri,
            home,
            NAME,
            package,
            fingerprint=f"toy{factor}",
            tags=tags,
            alias="best",
            deserves=deserves,
            force=force,
            run=run,
        )

    return make


def test_a_model_comes_back_through_mlflow_with_its_signature(register, uri, monkeypatch):
    register(3)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@best")
    twos = {"x": np.full((2, 2), 2, np.float32)}
    assert model.predict(twos).tolist() == [[6, 6], [6, 6]]
    assert model.predict(twos, params={"shift": 1}).tolist() == [[7, 7], [7, 7]]
    # Whoever loads it may give other settings.
    other = mlflow.pyfunc.load_model(f"models:/{NAME}@best", model_config={"more": 10})
    assert other.predict(twos).tolist() == [[16, 16], [16, 16]]
    (spec,) = model.metadata.signature.inputs.inputs
    assert (spec.name, spec.type, spec.shape) == ("x", np.float32, (-1, 2))
    with pytest.raises(mlflow.MlflowException):
        model.predict({"x": np.ones((2, 3), np.float32)})


def test_nothing_is_pickled_and_the_example_is_small(register, home):
    register(3)
    files = [path for path in (home / "mlartifacts").rglob("*") if path.is_file()]
    assert {"MLmodel", "model_code.py", "toy.json", "input_example.json", "requirements.txt"} <= {p.name for p in files}
    assert not [path for path in files if path.suffix in (".pkl", ".pickle", ".pt", ".bin")]
    assert next(p for p in files if p.name == "requirements.txt").read_text().split() == ["mlflow"]
    assert all(path.stat().st_size < 10_000 for path in files if "code" not in path.parts)
    # The package of the loader, which here is the folder of the tests.
    assert Path(__file__).read_text() in [path.read_text() for path in files if path.name == Path(__file__).name]


def test_the_same_model_is_registered_once(register, client):
    first, again = register(3), register(3)
    assert (first.version, first.new, first.holder) == ("1", True, "1")
    assert (again.version, again.new, again.holder) == ("1", False, "1")
    assert len(client.search_model_versions(f"name='{NAME}'")) == 1
    assert len(client.search_logged_models([client.get_experiment_by_name("xmrank").experiment_id])) == 1


def test_the_alias_goes_to_the_better_version_only(register, client):
    register(3)
    assert register(2).holder == "1"
    assert register(4).holder == "3"
    assert client.get_model_version_by_alias(NAME, "best").tags["score"] == "4"


def test_a_version_that_does_not_deserve_the_alias_leaves_a_model_without_it(register, client):
    assert register(3, good=False).holder is None
    assert register(2).holder == "2"
    # Version 1 was decided about: only force changes that.
    assert register(3).holder == "2"
    assert register(3, force=True).holder == "1"


def test_an_alias_that_the_user_moved_stays_where_it_is(register, client):
    register(3), register(4)
    client.set_registered_model_alias(NAME, "best", "1")
    assert register(4).holder == "1"
    client.delete_registered_model_alias(NAME, "best")
    assert register(4).holder == "2"


def test_a_call_that_was_killed_before_it_registered_is_taken_up(register, client, monkeypatch):
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(models, "add_version", lambda *arguments: pytest.fail("killed"))
        with pytest.raises(BaseException, match="killed"):
            register(3)
    assert register(3).new
    (model,) = client.search_logged_models([client.get_experiment_by_name("xmrank").experiment_id])
    assert client.get_model_version(NAME, "1").source == f"models:/{model.model_id}"


def test_a_call_that_was_killed_before_the_alias_gives_it_on_the_rerun(register, monkeypatch):
    register(3)
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(models, "assign_alias", lambda *arguments, **named: pytest.fail("killed"))
        with pytest.raises(BaseException, match="killed"):
            register(4)
    again = register(4)
    assert (again.version, again.new, again.holder) == ("2", False, "2")


def test_a_model_that_could_not_be_logged_is_marked_as_failed_and_made_anew(register, client, monkeypatch):
    def no_space(*arguments):
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(models, "save_model", no_space)
        with pytest.raises(tracking.TrackingError, match=f"the model {NAME} cannot be registered there: No space left"):
            register(3)
    experiment = client.get_experiment_by_name("xmrank").experiment_id
    assert [str(model.status) for model in client.search_logged_models([experiment])] == ["FAILED"]
    assert register(3).version == "1"


def test_a_model_belongs_to_its_run_whose_status_stays(register, client, uri, home):
    run = tracking.begin_run(uri, home, "trial", params={"seed": 1})
    tracking.end_run(uri, run)
    register(3, run=run)
    assert client.get_model_version(NAME, "1").run_id == run
    data = client.get_run(run)
    assert data.info.status == "FINISHED"
    assert [output.model_id for output in data.outputs.model_outputs]


def test_a_run_that_is_not_there_is_left_out(register, client):
    register(3, run="0" * 32)
    assert not client.get_model_version(NAME, "1").run_id


def test_files_are_fetched(register, uri, tmp_path):
    register(3)
    for model in (f"models:/{NAME}@best", f"models:/{NAME}/1"):
        assert (models.download_folder(uri, model, "toy", tmp_path / model[-2:]) / "toy.json").read_text() == "3"


@pytest.mark.parametrize("model", ["models:/other@best", f"models:/{NAME}@other", f"models:/{NAME}/7", "models:/"])
def test_a_model_that_is_not_there_is_one_line_with_those_that_are(register, uri, tmp_path, model):
    register(3)
    with pytest.raises(tracking.TrackingError, match=f"{model}: no such model in .*models:/{NAME}@best") as failure:
        models.download_folder(uri, model, "toy", tmp_path / "fetched")
    assert "\n" not in str(failure.value)

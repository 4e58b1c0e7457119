"""A registered ranker takes captions or images, ranks the gallery as `rank` does, and needs no xmrank where it runs."""

import http.server
import json
import os
import subprocess
import threading
import time
import urllib.request
from functools import partial
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from cluster_head import free_port
from environments import make_environment
from mlflow.tracking import MlflowClient
from token_galleries import save_random

from xmrank.config import RankConfig, RegisterConfig
from xmrank.rank.stage import rank
from xmrank.rank.trained_rankers import RANKER_FOLDER, TrainedRanker
from xmrank.register import packaging
from xmrank.register.packaging import package_ranker
from xmrank.register.retrieval import load_retriever
from xmrank.register.stage import register_ranker
from xmrank.runtime.errors import ConfigError
from xmrank.tracking.runs import connect_tracking

pytestmark = pytest.mark.ray


@pytest.fixture
def store(galleries):
    return galleries.float16


@pytest.fixture
def make_retriever(store, tmp_path):
    """The retriever of a direction, with a random ranker that reads tokens."""

    def make(direction):
        ranker = save_random(store, direction, tmp_path / direction)
        settings = {"encoder": {"model": "xmrank-tiny", "pretrained": None}}
        return load_retriever({RANKER_FOLDER: ranker, "gallery": store.directory}, settings)

    return make


def test_captions_have_the_results_of_rank(store, make_retriever, tmp_path):
    retriever = make_retriever("t2i")
    captions = store.captions["text"].to_pylist()[:40]
    (tmp_path / "captions.txt").write_text("\n".join(captions))
    paths = {"queries": tmp_path / "captions.txt", "embeddings": store.directory, "output": tmp_path / "ranking"}
    rank(RankConfig(**paths, ranker=str(tmp_path / "t2i"), workers=1))
    expected = pd.read_parquet(tmp_path / "ranking" / "results.parquet").groupby("query_id", sort=False)
    answers = retriever(pd.DataFrame({"caption": captions}), {"top_k": 5})
    assert list(answers.columns) == ["ids", "scores", "locations", "error"]
    assert len(answers) == len(captions) == len(expected)
    for answer, (_, results) in zip(answers.to_dict("records"), expected, strict=True):
        assert answer["ids"] == results["candidate_id"].to_list()[:5]
        assert answer["scores"] == pytest.approx(results["score"].to_list()[:5], abs=1e-4)
        assert answer["locations"] == results["candidate"].to_list()[:5] and answer["error"] == ""


@pytest.fixture
def web(store):
    """The store's images at an address."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=store.images_root)
    handler.func.log_message = lambda *arguments: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def test_an_image_is_a_path_an_address_or_bytes(store, make_retriever, web):
    name = store.images["location"][0].as_py()
    path = Path(store.images_root) / name
    frame = pd.DataFrame({
        "image": [str(path), f"{web}/{name}", None, None],
        "image_bytes": [None, None, path.read_bytes(), path.read_bytes()[:60]],
    })  # fmt: skip
    answers = make_retriever("i2t")(frame, {}).to_dict("records")
    assert [len(answer["ids"]) for answer in answers] == [10, 10, 10, 0]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0]["scores"] == sorted(answers[0]["scores"], reverse=True)
    texts = dict(zip(store.captions["caption_id"].to_pylist(), store.captions["text"].to_pylist(), strict=True))
    assert answers[0]["captions"] == [texts[name] for name in answers[0]["ids"]]
    assert "image" in answers[3]["error"] and "\n" not in answers[3]["error"]


@pytest.mark.parametrize(
    ("direction", "row", "reason"),
    [
        ("t2i", {"caption": ""}, "expected caption in each row"),
        ("t2i", {"image": "a.png"}, "expected caption in each row"),
        ("i2t", {"image": None, "image_bytes": None}, "expected image or image_bytes in each row"),
        ("i2t", {"image": "a.png", "image_bytes": b"a"}, "expected image or image_bytes in each row"),
        ("i2t", {"image": "/no/such/image.png"}, "no such file"),
    ],
)
def test_a_row_that_is_no_query_has_an_error(make_retriever, store, direction, row, reason):
    image = str(Path(store.images_root) / store.images["location"][0].as_py())
    good = {"caption": "a circle"} if direction == "t2i" else {"image": image}
    frame = pd.DataFrame([good, row]).astype(object)
    answers = make_retriever(direction)(frame.where(frame.notna(), None), {"top_k": 3}).to_dict("records")
    assert [len(answer["ids"]) for answer in answers] == [3, 0]
    assert answers[0]["error"] == "" and answers[1]["error"].startswith(reason)


def test_a_number_of_results_below_one_is_refused(make_retriever):
    with pytest.raises(ValueError, match="top_k is 0; expected at least 1"):
        make_retriever("t2i")(pd.DataFrame({"caption": ["a circle"]}), {"top_k": 0})


@pytest.fixture
def package(store, tmp_path):
    """Packages a ranker of captions."""

    def make(name="package", **settings):
        ranker = save_random(store, "t2i", tmp_path / "ranker-t2i")
        (tmp_path / name).mkdir()
        return package_ranker(ranker, store, RegisterConfig(**settings), tmp_path / name)

    return make


def test_what_is_kept_with_a_model_depends_on_the_gallery(store, package, monkeypatch):
    copied, path, alone = package("a"), package("b", gallery="path"), package("c", gallery="none")
    assert copied.model.folders["gallery"].is_dir() and "gallery" not in copied.model.settings
    assert path.model.folders.keys() == {RANKER_FOLDER} and path.model.settings["gallery"] == str(store.directory)
    assert alone.takes == "takes embeddings and returns scores"
    assert "open_clip_torch" not in str(alone.model.requirements)
    assert len({copied.fingerprint, path.fingerprint, alone.fingerprint}) == 3
    assert all("==" in line and "+" not in line for line in copied.model.requirements)
    monkeypatch.setattr(packaging, "COPIED", 10)
    assert package("d").fingerprint == path.fingerprint


def test_an_encoder_that_is_not_known_leaves_the_ranker_alone_unless_a_gallery_is_wanted(store, package):
    store.encoder["weights_hash"], kept = None, store.encoder["weights_hash"]
    try:
        assert package("a").takes == "takes embeddings and returns scores"
        with pytest.raises(ConfigError, match="their encoder is not known"):
            package("b", gallery="copy")
    finally:
        store.encoder["weights_hash"] = kept


def request(address, content=None):
    """The answer of a server."""
    given = urllib.request.Request(address, content, {"Content-Type": "application/json"})  # noqa: S310 (loopback)
    with urllib.request.urlopen(given, timeout=60) as answer:  # noqa: S310
        return answer.read()


def wait_for_server(address, process, log):
    """Until a server answers."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            return request(f"{address}/ping")
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


def test_mlflow_serves_a_registered_model_where_xmrank_is_not_installed(store, package, track_at, tmp_path):
    track_at(tmp_path)
    made = package()
    trained = TrainedRanker(tmp_path / "ranker-t2i", "t2i", 0.5)
    register_ranker(connect_tracking(), "served-t2i", trained, made, None, None)
    caption = store.captions["text"][0].as_py()
    scripts = make_environment(tmp_path / "environment")
    # Which an installation of MLflow there would have brought.
    uvicorn = scripts / "uvicorn"
    uvicorn.write_text(f'#!/bin/sh\nexec "{scripts}/python" -m uvicorn "$@"\n')
    uvicorn.chmod(0o755)
    port, log = free_port(), tmp_path / "log"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "XMRANK_"))}
    variables = kept | {"MLFLOW_TRACKING_URI": connect_tracking(), "XMRANK_CACHE": str(tmp_path / "cache")}
    variables["PATH"] = f"{scripts}{os.pathsep}{os.environ['PATH']}"
    command = [scripts / "python", "-m", "mlflow", "models", "serve", "--env-manager", "local", "--workers", "1"]
    command += ["--model-uri", "models:/served-t2i@best", "--port", str(port)]
    with log.open("w") as said:
        server = subprocess.Popen(command, env=variables, cwd=tmp_path, stdout=said, stderr=said)
    try:
        wait_for_server(f"http://127.0.0.1:{port}", server, log)
        records = {"dataframe_records": [{"caption": caption}], "params": {"top_k": 4}}
        answer = json.loads(request(f"http://127.0.0.1:{port}/invocations", json.dumps(records).encode()))
    finally:
        server.terminate()
        server.wait()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MLFLOW_TRACKING_URI", connect_tracking())
        here = mlflow.pyfunc.load_model("models:/served-t2i@best")
    (expected,) = here.predict(pd.DataFrame({"caption": [caption]}), params={"top_k": 4}).to_dict("records")
    version = MlflowClient(connect_tracking()).get_model_version("served-t2i", "1")
    assert 'predict(pd.DataFrame({"caption": [...]}))' in version.description
    (served,) = answer["predictions"]
    assert served["ids"] == expected["ids"] and len(served["ids"]) == 4
    np.testing.assert_allclose(served["scores"], expected["scores"], atol=1e-4)

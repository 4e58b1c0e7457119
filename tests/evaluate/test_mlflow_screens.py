"""MLflow's own pages in a real browser: what a user sees first of a training that was evaluated."""

import json
import os
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from browser import find_browser, open_browser
from cluster_head import free_port
from mlflow.tracking import MlflowClient

from xmrank.config import EvaluateConfig
from xmrank.evaluate.stage import evaluate
from xmrank.tracking.run_tree import read_run_ids
from xmrank.tracking.runs import find_run

BROWSER = find_browser()
pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome is installed"),
]
PAIR = ("listnet-t2i-seed0", "lambdarank-t2i-seed0")


@pytest.fixture(scope="module")
def screens(trained, tmp_path_factory):
    """MLflow's server on the runs of the trained rankers, which are evaluated, and a page of a browser."""
    config = EvaluateConfig(
        embeddings=trained.config.embeddings,
        lists=trained.config.lists,
        rankers=trained.config.output,
        output=tmp_path_factory.mktemp("screens") / "evaluation",
        top_n=(15,),
    )
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XMRANK_HOME", str(trained.home))
        environment.delenv("MLFLOW_TRACKING_URI", raising=False)
        evaluate(config)
    uri = f"sqlite:///{trained.home}/mlflow.db"
    client = MlflowClient(uri)
    runs = {name: find_run(client, trained.home, run) for name, run in read_run_ids(trained.config.output).items()}
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    server = subprocess.Popen(
        [*command, "--port", str(port), "--workers", "1"],
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: answers(port))
        with open_browser(BROWSER, tmp_path_factory.mktemp("profile")) as page:
            yield SimpleNamespace(url=url, page=page, runs=runs)
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)


def answers(port):
    """Whether a server takes connections."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition, seconds=120.0):
    """Wait until a condition holds; returns what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


def read_page(screens, path, *texts):
    """The words of a page, once it shows these texts; nothing in it has failed."""
    page = screens.page
    page.trouble.clear()
    # Only a new document loads the address behind # again.
    page.open("about:blank", 1280)
    page.open(f"{screens.url}/#/{path}", 1280)

    def find():
        shown = page.value("document.body.innerText") or ""
        return shown if all(text in shown for text in texts) else ""

    shown = wait_for(find)
    assert [entry for entry in page.trouble if "exceptionDetails" in entry] == []
    return shown


def test_the_table_of_runs_has_the_training_by_name_and_its_data(screens):
    shown = read_page(screens, f"experiments/{screens.runs['parent'].info.experiment_id}/runs", "Run Name", "train ")
    # Children are folded under the training.
    assert "Duration" in shown and not any(name in shown for name in PAIR)


def test_the_charts_of_runs_have_the_headline_metrics(screens):
    experiment = screens.runs["parent"].info.experiment_id
    read_page(screens, f"experiments/{experiment}/runs?compareRunsMode=CHART", "best/i2t", "first_stage")


def test_the_page_of_a_training_has_its_figures_its_description_and_its_rankers(screens):
    run = screens.runs["parent"].info
    # The children that began last come first.
    shown = read_page(
        screens, f"experiments/{run.experiment_id}/runs/{run.run_id}", "Duration", "Child runs", "Finished", "t2i-seed1"
    )
    assert "best_loss_t2i" in shown and "hit@1" in shown


def test_losses_are_compared_by_name_with_their_own_parameters(screens):
    runs = [screens.runs[name].info for name in PAIR]
    ids = json.dumps([run.run_id for run in runs]).replace(" ", "")
    query = f"compare-runs?runs={ids}&experiments=[%22{runs[0].experiment_id}%22]"
    shown = read_page(screens, query, "Comparing 2 Runs", *PAIR)
    assert "validation/loss" in shown

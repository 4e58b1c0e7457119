"""Push and pull between a stage directory and a hub on loopback, through huggingface_hub's own client."""

import json
import os
import subprocess
import sys
import time

import pytest
from hub_server import READER, WRITER, Repository
from report.synthetic import World, make_run

from xmrank.config.hub import PullConfig, PushConfig
from xmrank.hub.pulling import pull
from xmrank.hub.pushing import push
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.manifest import parse_manifest
from xmrank.runtime.verification import find_damage

SMALL = World(images=8, seeds=(0,), losses=("listnet",), epochs=2)


@pytest.fixture
def run(home):
    """Finished stages of an experiment, with what runs leave beside their output."""
    config = make_run(home / "runs", SMALL)
    (config.rankers / "tracking.json").write_text('{"listnet-i2t-seed0": "run id of somebody"}')
    (config.rankers / "journal").mkdir()
    (config.rankers / "journal" / "secret.jsonl").write_text("{}")
    return config


def contents(directory):
    """The bytes of all outputs of a stage."""
    return {name: (directory / name).read_bytes() for name in parse_manifest(directory).outputs}


def refused(function, config):
    """The message of a DataError in one line."""
    with pytest.raises(DataError) as caught:
        function(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def start(hub, *words):
    """A console command in a process of its own, which may be killed."""
    client = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": WRITER, "HF_HUB_DISABLE_XET": "1", "HF_HOME": os.devnull + "/no"}
    words = [sys.executable, "-m", "xmrank", *map(str, words)]
    return subprocess.Popen(words, env={**os.environ, **client}, stderr=subprocess.PIPE, text=True)


def kill_while_waiting(hub, process):
    """Kill a process in the middle of a request."""
    assert hub.waiting.wait(60), process.communicate(timeout=1)
    process.kill()
    process.communicate()
    hub.release()


def test_what_is_pushed_is_the_manifests_files_the_manifest_and_the_card(hub, run):
    push(PushConfig(run.rankers, "me/demo"))
    files = hub.files("models", "me/demo")
    assert files.keys() == {*parse_manifest(run.rankers).outputs, "manifest.json", "README.md"}
    assert {name: files[name] for name in parse_manifest(run.rankers).outputs} == contents(run.rankers)
    assert hub.repositories["models", "me/demo"].private


def test_no_file_names_a_folder_of_this_machine(hub, run, home):
    push(PushConfig(run.embeddings, "me/store", public=True))
    files = hub.files("datasets", "me/store")
    assert [name for name, data in files.items() if str(home).encode() in data] == []
    assert json.loads(files["manifest.json"])["settings"]["images_root"] is None
    assert not hub.repositories["datasets", "me/store"].private
    # The local one is as it was.
    assert parse_manifest(run.embeddings).settings["images_root"] == str(home / "runs" / "images")


def test_a_pulled_stage_is_the_one_that_was_pushed(hub, run, home):
    push(PushConfig(run.embeddings, "me/store"))
    pull(PullConfig("me/store", home / "pulled"))
    there, here = parse_manifest(run.embeddings), parse_manifest(home / "pulled")
    assert here.fingerprint == there.fingerprint and contents(home / "pulled") == contents(run.embeddings)
    kept = {path.name for path in (home / "pulled").iterdir()}
    assert kept == {"README.md", "plan.json", "manifest.json", "encoder.json", "image.parquet", "text.parquet"}
    # The stage's own command takes it as finished.
    assert StageDirectory.open(home / "pulled", "embed", config=here.config, inputs=here.inputs).done == here


def test_a_second_pull_and_a_second_push_change_nothing(hub, run, home, capsys):
    push(PushConfig(run.rankers, "me/demo"))
    pull(PullConfig("me/demo", home / "pulled"))
    before = list(hub.requests)
    pull(PullConfig("me/demo", home / "pulled"))
    assert "this stage already" in capsys.readouterr().out
    assert not any("safetensors" in line or "history" in line for line in hub.requests[len(before) :])
    push(PushConfig(run.rankers, "me/demo"))
    assert len(hub.repositories["models", "me/demo"].commits) == 2  # the hub's own, and the first push


def test_a_revision_is_pulled_as_it_was(hub, run, home):
    push(PushConfig(run.rankers, "me/demo"))
    first, repository = parse_manifest(run.rankers).fingerprint, hub.repositories["models", "me/demo"]
    revision = repository.sha()
    other = make_run(home / "other", World(images=8, seeds=(0, 1), losses=("listnet",), epochs=2))
    push(PushConfig(other.rankers, "me/demo"))
    pull(PullConfig(f"hf://me/demo@{revision}", home / "first"))
    pull(PullConfig("me/demo", home / "second"))
    assert parse_manifest(home / "first").fingerprint == first
    assert parse_manifest(home / "second").fingerprint == parse_manifest(other.rankers).fingerprint


def test_files_that_a_stage_no_longer_has_leave_the_repository(hub, run, home):
    other = make_run(home / "other", World(images=8, seeds=(0, 1), losses=("listnet",), epochs=2))
    push(PushConfig(other.rankers, "me/demo"))
    push(PushConfig(run.rankers, "me/demo"))
    assert not any("seed1" in name for name in hub.files("models", "me/demo"))


def test_a_killed_push_has_pushed_nothing_and_is_continued(hub, run):
    hub.held = (r"^PUT /lfs/", 1)
    kill_while_waiting(hub, start(hub, "push", run.evaluation, "me/results"))
    assert hub.files("datasets", "me/results") == {}
    sent = len(hub.uploads)
    assert sent >= 1
    hub.requests.clear()
    push(PushConfig(run.evaluation, "me/results"))
    assert hub.files("datasets", "me/results").keys() >= contents(run.evaluation).keys()
    # metrics and rankings; what had arrived is not sent again
    assert sum(line.startswith("PUT /lfs/") for line in hub.requests) == 2 - sent


def test_a_killed_pull_leaves_no_directory_and_is_continued(hub, run, home):
    push(PushConfig(run.embeddings, "me/store"))
    hub.held = (r"^GET /datasets/me/store/resolve/.*parquet", 1)
    process = start(hub, "pull", "datasets/me/store", home / "pulled")
    assert hub.waiting.wait(60)
    deadline = time.monotonic() + 30
    while not list((home / ".pull-pulled").glob("*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.05)
    kill_while_waiting(hub, process)
    assert not (home / "pulled").exists()
    fetched = {path.name for path in (home / ".pull-pulled").glob("*.parquet")}
    assert len(fetched) == 1
    hub.requests.clear()
    pull(PullConfig("datasets/me/store", home / "pulled"))
    assert contents(home / "pulled") == contents(run.embeddings) and not (home / ".pull-pulled").exists()
    assert not any(line.startswith("GET") and line.endswith(name) for line in hub.requests for name in fetched)


def test_a_damaged_file_gets_no_name_until_it_is_whole(hub, run, home):
    push(PushConfig(run.embeddings, "me/store"))
    files = hub.repositories["datasets", "me/store"].commits[-1]
    whole = files["encoder.json"]
    files["encoder.json"] = whole.replace(b"xmrank-tiny", b"xmrank-tinx")
    text = refused(pull, PullConfig("me/store", home / "pulled"))
    assert "encoder.json: damaged: its contents are not those in manifest.json" in text
    assert not (home / "pulled").exists()
    files["encoder.json"] = whole
    pull(PullConfig("me/store", home / "pulled"))
    assert find_damage(home / "pulled", parse_manifest(home / "pulled").outputs, afresh=True) == {}


def test_what_an_earlier_commit_left_is_not_in_the_directory(hub, run, home):
    push(PushConfig(run.embeddings, "me/store"))
    (home / ".pull-pulled").mkdir()
    (home / ".pull-pulled" / "old.npy").write_text("of another commit")
    pull(PullConfig("me/store", home / "pulled"))
    assert not (home / "pulled" / "old.npy").exists()


def test_a_manifest_that_leads_out_of_the_directory_is_refused(hub, run, home):
    push(PushConfig(run.embeddings, "me/store"))
    files = hub.repositories["datasets", "me/store"].commits[-1]
    values = json.loads(files["manifest.json"])
    values["outputs"]["../stolen.json"] = values["outputs"]["encoder.json"]
    files["manifest.json"] = json.dumps(values).encode()
    text = refused(pull, PullConfig("me/store", home / "pulled"))
    assert text == "me/store: its manifest.json is not that of a stage of this version"


def test_without_a_token_nothing_is_read(hub, run, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    text = refused(push, PushConfig(run.rankers, "me/demo"))
    assert text == "me/demo: no token: log in with hf auth login, or set HF_TOKEN; it needs the right to write"
    assert hub.requests == []


@pytest.mark.parametrize(("token", "expected"), [(READER, "no right to push"), ("hf_old", "does not accept the token")])
def test_a_token_that_may_not_write_is_one_line(hub, run, monkeypatch, token, expected):
    monkeypatch.setenv("HF_TOKEN", token)
    assert expected in refused(push, PushConfig(run.rankers, "me/demo"))
    assert hub.repositories == {}


def test_a_repository_that_is_not_there_is_one_line(hub, home, monkeypatch):
    assert refused(pull, PullConfig("me/nothing", home / "x")) == f"me/nothing: no such repository on {hub.endpoint}"
    monkeypatch.delenv("HF_TOKEN")
    assert refused(pull, PullConfig("me/nothing", home / "x")).endswith("log in first: hf auth login, or HF_TOKEN")


def test_a_private_repository_is_not_there_for_a_stranger(hub, run, home, monkeypatch):
    push(PushConfig(run.rankers, "me/demo"))
    monkeypatch.delenv("HF_TOKEN")
    assert "no such repository" in refused(pull, PullConfig("me/demo", home / "x"))


def test_a_hub_that_is_away_is_one_line(hub, run, home):
    hub.stop()
    for function, config in ((push, PushConfig(run.rankers, "me/demo")), (pull, PullConfig("me/demo", home / "x"))):
        text = refused(function, config)
        assert text.startswith(f"me/demo: {hub.endpoint} is not reached: ") and text.endswith("same command continues")


def test_what_is_no_finished_stage_is_refused(hub, home):
    (home / "notes").mkdir()
    assert refused(push, PushConfig(home / "notes", "me/demo")).endswith(
        "notes: not a finished stage (no manifest.json)"
    )
    hub.repositories["models", "me/bert"] = Repository(False, [{"config.json": b"{}"}])
    assert (
        refused(pull, PullConfig("me/bert", home / "x"))
        == "me/bert: holds no finished stage of xmrank (no manifest.json)"
    )


def test_a_repository_with_something_else_is_never_emptied(hub, run):
    hub.repositories["models", "me/bert"] = Repository(False, [{"config.json": b"{}"}])
    assert (
        refused(push, PushConfig(run.rankers, "me/bert")) == "me/bert: holds files of something else; give another name"
    )
    push(PushConfig(run.embeddings, "me/store"))
    assert "holds the stage embed, not evaluate" in refused(push, PushConfig(run.evaluation, "me/store"))


def test_a_directory_with_something_else_is_never_replaced(hub, run, home):
    push(PushConfig(run.rankers, "me/demo"))
    (home / "notes").mkdir()
    (home / "notes" / "mine.txt").write_text("mine")
    assert "give another directory" in refused(pull, PullConfig("me/demo", home / "notes"))
    assert "give another directory" in refused(pull, PullConfig("me/demo", run.embeddings))


def test_a_dry_run_shows_files_and_card_and_speaks_to_nobody(hub, run, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    push(PushConfig(run.rankers, "me/demo", dry_run=True))
    shown = capsys.readouterr().out
    assert shown.startswith("README.md\nmanifest.json\ntrials/") and "## How to use it" in shown
    assert hub.requests == []


@pytest.mark.parametrize(
    ("config", "values", "expected"),
    [
        (PushConfig, ("rankers", "demo"), "demo: expected OWNER/NAME of a repository on the hub"),
        (PushConfig, ("rankers", "me/demo@main"), "push goes to the main branch; leave out @main"),
        (
            PushConfig,
            ("rankers", "me/demo", "Apache 2"),
            "--licence Apache 2: expected an identifier such as apache-2.0",
        ),
        (PullConfig, ("https://hub/x", "x"), "https://hub/x: expected OWNER/NAME of a repository on the hub"),
    ],
)
def test_wrong_names_are_refused_before_any_work(config, values, expected):
    with pytest.raises(ConfigError, match=r"^[^\n]*$") as caught:
        config(*values)
    assert expected in str(caught.value)

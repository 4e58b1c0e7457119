"""An experiment: its directories, its run in MLflow, and the same result whatever interrupts it."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml
from mlflow.tracking import MlflowClient
from pipeline import make_home
from plain import PLAIN_RANKER, PLAIN_REFINEMENT, PLAIN_TRAINING

from xmrank import tracking
from xmrank.cli import run_job
from xmrank.config import (
    EmbedConfig,
    EvaluateConfig,
    ExperimentConfig,
    MineConfig,
    RankConfig,
    RefinementSettings,
    RegisterConfig,
    ReportConfig,
    TrainConfig,
)
from xmrank.config.parsing import parse_config
from xmrank.config.presets import PRESETS
from xmrank.datasets.reader_settings import ScenesConfig, ScenesSettings
from xmrank.experiment import stage as experiment_stage
from xmrank.experiment.stage import ExperimentRun, experiment, with_stage_directories
from xmrank.rankers import ContextAwareParameters
from xmrank.register.stage import register
from xmrank.runtime.errors import ConfigError
from xmrank.runtime.manifest import Manifest, read_manifest
from xmrank.tracking import run_tree, runs
from xmrank.tracking.runs import find_run

ROOT = Path(__file__).parents[2]
JOBS = {
    "embed": EmbedConfig,
    "mine": MineConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "report": ReportConfig,
    "rank": RankConfig,
    "register": RegisterConfig,
    "experiment": ExperimentConfig,
}
STAGES = {
    "embeddings": "embed",
    "lists": "mine",
    "rankers": "train",
    "evaluation": "evaluate",
    "report": "report",
}
SMALL = {
    "output": "runs/small",
    "embed": {
        "pretrained": "none",
        "init_seed": 0,
        "shard_size": 64,
        "scenes": {"train": 80, "val": 40, "test": 40},
    },
    "mine": {"random_candidates": 30, "hard_negatives": 10},
    "train": {
        **PLAIN_TRAINING,
        "refine": PLAIN_REFINEMENT,
        "losses": ["listnet", "ranknet"],
        "seeds": [0],
        "epochs": 2,
        "batch_size": 16,
        "ranker": {**PLAIN_RANKER, "features": ["concat"], "width": 8, "layers": 1, "heads": 2, "feed_forward": 8},
    },
    "evaluate": {"top_n": [20]},
    "report": {"examples": 3, "title": "A small experiment"},
}
"""A preset: 80/40/40 scenes, an untrained encoder, four rankers."""
TRIALS = [f"{loss}-{direction}-seed0" for loss in ("listnet", "ranknet") for direction in ("i2t", "t2i")]


def small():
    """What the preset is read as."""
    parts = {name: dict(SMALL[name]) for name in JOBS if name in SMALL}
    scenes = ScenesConfig(**parts["embed"].pop("scenes"))
    parts["embed"]["dataset"] = ScenesSettings(scenes=scenes)
    parts["evaluate"]["top_n"] = tuple(parts["evaluate"]["top_n"])
    train = parts["train"]
    train |= {name: tuple(train[name]) for name in ("losses", "seeds")} | {
        "ranker": ContextAwareParameters(**train["ranker"]),
        "refine": RefinementSettings(**train["refine"]),
    }
    made = {name: JOBS[name](**values) for name, values in parts.items()}
    return ExperimentConfig(output=Path(SMALL["output"]), **made)


def fingerprints(run):
    return {folder: read_manifest(run / folder, stage).fingerprint for folder, stage in STAGES.items()}


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("preset", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_suits_the_jobs_that_it_has_sections_for(preset, job):
    values = yaml.safe_load(preset.read_text())
    if job == "experiment" and {"tune", "supervised"} & values.keys():
        pytest.skip("a preset of another job")
    if job != "experiment" and job not in values:
        with pytest.raises(ConfigError, match=f"has no section {job}"):
            parse_config(JOBS[job], ["--preset", preset.stem], name=job)
        return
    config = parse_config(JOBS[job], ["--preset", preset.stem], name=job)
    section = values if job == "experiment" else values.get(job, {})
    for name, value in section.items():
        if not isinstance(value, dict):
            assert getattr(config, name) == type(getattr(config, name))(value)


@pytest.mark.parametrize("preset", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_begins_with_the_command_that_runs_it(preset):
    first = preset.read_text().splitlines()[0].split()
    assert first[:2] == ["#", "xmrank"]
    assert (ROOT / "jobs" / f"{first[2]}.py").is_file()
    assert first[3:5] == ["--preset", preset.stem]


def test_every_stage_gets_a_directory_in_the_experiments():
    config = with_stage_directories(replace(small(), output=Path("runs/x")))
    assert config.embed.output == Path("runs/x/embeddings")
    assert (config.mine.embeddings, config.mine.output) == (Path("runs/x/embeddings"), Path("runs/x/lists"))
    assert (config.train.embeddings, config.train.lists) == (Path("runs/x/embeddings"), Path("runs/x/lists"))
    assert (config.train.output, config.evaluate.rankers) == (Path("runs/x/rankers"), Path("runs/x/rankers"))
    assert (config.evaluate.output, config.report.evaluation) == (Path("runs/x/evaluation"), Path("runs/x/evaluation"))
    assert config.report.output == Path("runs/x/report")
    assert not config.mine.overwrite


def test_overwrite_holds_for_all_stages():
    config = with_stage_directories(replace(small(), overwrite=True))
    assert all(getattr(config, stage).overwrite for stage in STAGES.values())


@pytest.mark.parametrize(
    ("stage", "name"),
    [(s, "output") for s in STAGES.values()] + [("train", "lists"), ("evaluate", "rankers"), ("report", "evaluation")],
)
def test_a_place_given_by_hand_is_refused_with_its_flag(stage, name):
    config = small()
    config = replace(config, **{stage: replace(getattr(config, stage), **{name: Path("elsewhere")})})
    with pytest.raises(ConfigError, match=f"--{stage}.{name}: set by --output in an experiment; leave it out"):
        with_stage_directories(config)


HAND = "xmrank register --rankers DIR/rankers --name flickr --embeddings DIR/embeddings --evaluation DIR/evaluation"


class TestParent:
    """The experiment's run in MLflow."""

    @pytest.fixture
    def output(self, tmp_path, track_at):
        track_at(tmp_path)
        (tmp_path / "report").mkdir()
        for name in ("report.html", "report.md", "table.csv", "table.tex"):
            (tmp_path / "report" / name).write_text(name)
        return tmp_path

    def finish(self, parent, output, fingerprint="first"):
        with parent.runs.open():
            parent.finish_run(Manifest("report", {}, {}, {}, fingerprint=fingerprint), output / "report")

    def test_is_begun_once_and_continued(self, output):
        run = ExperimentRun(output, small()).begin_run()
        assert ExperimentRun(output, small()).begin_run() == run

    def test_has_the_settings_that_matter_and_a_file_of_all_that_a_preset_is(self, output):
        parent = ExperimentRun(output, small())
        with parent.runs.open():
            parent.begin_run()
        params = MlflowClient(parent.runs.uri).get_run(parent.runs.ids["parent"]).data.params
        assert {
            "train.epochs": "2",
            "train.losses": "listnet ranknet",
            "mine.hard_negatives": "10",
        }.items() <= params.items()
        assert not [name for name in params if name.startswith(("train.refine.", "train.detect.", "mine.probes"))]
        path = str(output / "config.yaml")
        assert parse_config(ExperimentConfig, ["--preset", path], name="experiment") == small()

    def test_shows_and_keeps_its_uri_without_credentials(self, output, monkeypatch, capsys):
        uri = f"sqlite:///file:{output}/mlflow.db?uri=true&token=SECRET"
        monkeypatch.setattr(run_tree, "connect_tracking", lambda: uri)
        # The tracking file itself is the server's.
        monkeypatch.setattr(runs, "begin_run", lambda *_, **__: "id")
        parent = ExperimentRun(output, small())
        parent.begin_run()
        parent.print_run()
        assert capsys.readouterr().out == f"mlflow: {uri.replace('SECRET', '***')} (experiment id)\n"
        assert "SECRET" not in (output / "tracking.json").read_text()

    def test_takes_the_reports_files_and_ends(self, output):
        parent = ExperimentRun(output, small())
        run = parent.begin_run()
        self.finish(parent, output)
        client = MlflowClient(parent.runs.uri)
        assert client.get_run(run).info.status == "FINISHED"
        assert {file.path for file in client.list_artifacts(run)} == {
            "config.yaml",
            "report.html",
            "report.md",
            "table.csv",
            "table.tex",
        }

    def test_is_left_alone_when_nothing_is_new(self, output, monkeypatch):
        self.finish(ExperimentRun(output, small()), output)
        monkeypatch.setattr(run_tree, "connect_tracking", lambda: pytest.fail("nothing was to be logged"))
        self.finish(ExperimentRun(output, small()), output)

    def test_takes_a_new_report(self, output):
        self.finish(ExperimentRun(output, small()), output)
        (output / "report/table.csv").write_text("new")
        parent = ExperimentRun(output, small())
        self.finish(parent, output, fingerprint="second")
        (copy,) = (output / "mlartifacts").rglob("table.csv")
        assert copy.read_text() == "new"
        assert tracking.read_status(parent.runs.uri, parent.runs.ids["parent"]) == "FINISHED"

    def test_is_ended_by_a_rerun_when_the_first_was_killed_before_that(self, output, monkeypatch):
        parent = ExperimentRun(output, small())
        with monkeypatch.context() as killed:
            killed.setattr(parent.runs, "end", lambda **_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                self.finish(parent, output)
        again = ExperimentRun(output, small())
        self.finish(again, output)
        assert again.runs.ids == parent.runs.ids
        assert tracking.read_status(again.runs.uri, again.runs.ids["parent"]) == "FINISHED"

    def test_goes_on_where_the_registry_is_away_and_registers_the_next_time(self, output, monkeypatch, capsys):
        parent, calls = ExperimentRun(output, replace(small(), register="flickr")), []
        monkeypatch.setattr(
            experiment_stage, "read_manifest", lambda *_: Manifest("train", {}, {}, {}, fingerprint="abc")
        )

        def register(config):
            calls.append(config)
            if len(calls) == 1:
                raise tracking.TrackingError("http://server: Connection refused")

        monkeypatch.setattr("xmrank.register.stage.register", register)
        for _ in range(3):
            parent.register_best(output)
        assert len(calls) == 2
        error = f"experiment: http://server: Connection refused; the next run registers, or: {HAND}\n"
        assert capsys.readouterr().err == error.replace("DIR", str(output))


@pytest.fixture(scope="module")
def home(tmp_path_factory, ray_cluster, empty_tracking):
    """A finished experiment, at home."""
    folder = tmp_path_factory.mktemp("experiment")
    with pytest.MonkeyPatch.context() as environment:
        make_home(environment, folder, empty_tracking)
        experiment(small())
    return folder


@pytest.mark.own_ray
def test_the_files_of_an_experiment(home):
    run = home / SMALL["output"]
    actual = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    expected = {f"{folder}/{name}" for folder in STAGES for name in ("manifest.json", "plan.json")}
    embeddings = ("image.npy", "text.npy", "image.parquet", "text.parquet", "encoder.json")
    expected |= {f"embeddings/{name}" for name in embeddings}
    roles = [f"{direction}-{role}" for direction in ("i2t", "t2i") for role in ("train", "validation", "test")]
    expected |= {f"lists/{role}.parquet" for role in roles} | {"lists/splits.json"}
    ranker = ("ranker.safetensors", "ranker.json", "history.json")
    expected |= {f"rankers/trials/{trial}/{name}" for trial in TRIALS for name in ranker}
    results = ("metrics.parquet", "rankings.parquet", "summary.json", "timing.json", "curves.json")
    expected |= {f"evaluation/{name}" for name in results}
    runs = {"lists": ["cosine", "qrels"], "gallery": ["cosine", "qrels"], "top-20": ["qrels"]}
    for trial in TRIALS:
        direction = trial.split("-")[1]
        for protocol in ("lists", "top-20"):
            expected.add(f"evaluation/trec/{direction}/{protocol}/{trial}.trec.gz")
    for direction in ("i2t", "t2i"):
        for protocol, names in runs.items():
            names = [f"cosine-{direction}" if name == "cosine" else name for name in names]
            expected |= {f"evaluation/trec/{direction}/{protocol}/{name}.trec.gz" for name in names}
    expected |= {f"report/{name}" for name in ("report.html", "report.md", "table.csv", "table.tex", "tables.json")}
    tracked = {"config.yaml", "tracking.json", "rankers/tracking.json", "evaluation/tracking.json"}
    assert actual == expected | tracked


@pytest.mark.own_ray
def test_every_stage_was_made_from_the_one_before(home):
    run = home / SMALL["output"]
    made = fingerprints(run)
    assert read_manifest(run / "lists", "mine").inputs == {"embeddings": made["embeddings"]}
    assert read_manifest(run / "evaluation", "evaluate").inputs == {
        name: made[name] for name in ("embeddings", "lists", "rankers")
    }


@pytest.mark.own_ray
def test_one_parent_has_a_child_a_trial_and_one_for_the_first_stage(home):
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("xmrank").experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.run_name == "experiment small"
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(run.info.run_name for run in children) == sorted([*TRIALS, "cosine"])
    assert len(runs) == 1 + len(children)
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert files == {"config.yaml", "report.html", "report.md", "table.csv", "table.tex"}
    (trial,) = [run for run in children if run.info.run_name == "ranknet-t2i-seed0"]
    assert {"validation/mean", "t2i/recall_at_1", "t2i/top-20/hit_at_1"} <= set(trial.data.metrics)
    assert {"cost/seconds", "cost/lists_per_second", "cost/peak_memory_mb"} <= set(trial.data.metrics)


def registered(home):
    """The versions of all registered models at a home."""
    return MlflowClient(f"sqlite:///{home}/mlflow.db").search_model_versions("name LIKE 'xmrank-%'")


@pytest.mark.own_ray
def test_the_best_ranker_of_each_direction_is_registered(home):
    assert {version.name for version in registered(home)} == {"xmrank-scenes-i2t", "xmrank-scenes-t2i"}
    assert len(registered(home)) == 2
    for version in registered(home):
        assert f"{version.tags['loss']}-{version.tags['direction']}-seed0" in TRIALS


@pytest.mark.own_ray
@pytest.mark.parametrize("kind", ["captions", "images"])
def test_new_queries_are_ranked_by_the_registered_ranker(home, track_at, kind, capsys, monkeypatch):
    track_at(home)
    pictures = sorted((home / "data").rglob("*.jpg"))[:3]
    (home / "images").mkdir(exist_ok=True)
    for picture in pictures:
        (home / "images" / picture.name).write_bytes(picture.read_bytes())
    (home / "images/broken.jpg").write_text("no image")
    (home / "captions.txt").write_text("a red <circle>\n\na blue digit\n")
    queries = {"captions": "captions.txt", "images": "images"}[kind]
    flags = ["--queries", queries, "--embeddings", "runs/small/embeddings", "--split", "test", "--top-n", "12"]
    # Trained for two epochs on random embeddings: only force makes these the best.
    stages = [home / "runs/small" / name for name in ("rankers", "embeddings")]
    register(RegisterConfig(stages[0], embeddings=stages[1], force=True))
    monkeypatch.setattr(sys, "argv", ["rank", *flags, "--output", f"runs/{kind}", "--page", "2"])
    run_job("rank")
    said = capsys.readouterr()
    results = pd.read_parquet(home / f"runs/{kind}/results.parquet")
    expected_queries = {
        "captions": {"1": "a red <circle>", "3": "a blue digit"},
        "images": {p.name: p.name for p in pictures},
    }
    assert dict(zip(results["query_id"], results["query"], strict=True)) == expected_queries[kind]
    assert results["rank"].tolist() == list(range(1, 13)) * len(expected_queries[kind])
    page = (home / f"runs/{kind}/results.html").read_text()
    if kind == "captions":
        assert "rank: 2 queries, the first stage's 12 of 40 images re-ranked in " in said.out
        assert page.count('<img src="data:image/jpeg;base64,') == 2 * 10
        assert "a red &lt;circle&gt;" in page
    else:
        assert "rank: 3 queries (1 could not be read)" in said.out
        assert page.count('<img src="data:image/jpeg;base64,') == 2
        assert "1 query could not be read; the first, broken.jpg: not an image of a known format." in page
        assert results["candidate"].notna().all()


@pytest.mark.own_ray
def test_the_experiment_again_starts_nothing(home, track_at, monkeypatch):
    track_at(home)
    for module in ("runtime.cluster", "runtime.launcher", "embed.ray"):
        monkeypatch.setattr(f"xmrank.{module}.connect", lambda: pytest.fail("nothing needed a cluster"))
    monkeypatch.setattr(run_tree, "connect_tracking", lambda: pytest.fail("nothing was to be logged"))
    monkeypatch.setattr("xmrank.register.stage.connect_tracking", lambda: pytest.fail("nothing was to be registered"))
    before = fingerprints(home / SMALL["output"])
    assert experiment(small()).fingerprint == before["report"]
    assert fingerprints(home / SMALL["output"]) == before


@pytest.mark.own_ray
def test_a_finished_experiment_needs_none_of_the_large_packages(home):
    large = "{'torch', 'ray', 'mlflow', 'faiss', 'scipy', 'matplotlib', 'open_clip', 'torchvision'}"
    code = f"import sys; from xmrank.cli import run_job; run_job('experiment'); print({large} & {{*sys.modules}})"
    (home / "small.yaml").write_text(yaml.safe_dump(SMALL))
    command = [sys.executable, "-c", code, "--preset", home / "small.yaml"]
    done = subprocess.run(
        command, env={**os.environ, "XMRANK_HOME": str(home)}, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "set()"


MOMENTS = {
    "embedding": "embeddings/work",
    "mining": "lists/plan.json",
    "training begins": "rankers/tracking.json",
    "a trial is done": "rankers/trials/*/history.json",
    "evaluation begins": "evaluation/work",
    "a method is evaluated": "evaluation/work/*.summary",
    "reporting": "report/plan.json",
    "registering": "report/manifest.json",
}
"""When the experiment is killed: as soon as such a file is there."""


@pytest.mark.own_ray
def test_a_killed_experiment_is_continued_to_the_same_result(home, tmp_path, track_at):
    track_at(tmp_path)
    (tmp_path / "data").symlink_to(home / "data")
    preset, run = tmp_path / "small.yaml", tmp_path / SMALL["output"]
    preset.write_text(yaml.safe_dump(SMALL))
    moment = random.choice(list(MOMENTS))
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, ROOT / "jobs/experiment.py", "--preset", preset]
        job = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        while not any(run.glob(MOMENTS[moment])) and job.poll() is None:
            time.sleep(0.005)
        os.killpg(job.pid, signal.SIGKILL)
        assert job.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
    print(f"killed when {moment}")
    experiment(small())
    assert fingerprints(run) == fingerprints(home / SMALL["output"])
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("xmrank").experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len(registered(tmp_path)) == 2
    kept = json.loads((run / "rankers/tracking.json").read_text())
    # One run a trial, whenever it began.
    found = {name: find_run(client, tmp_path, run).info.run_id for name, run in kept.items()}
    assert len(set(found.values())) == len(kept) and set(found.values()) <= {run.info.run_id for run in runs}

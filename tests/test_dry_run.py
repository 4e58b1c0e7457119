"""--dry-run: what a job would read, do and write, on which device, what such a run took; and that it does nothing."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

from xmrank import dry_run
from xmrank.config import (
    BaselinesConfig,
    EmbedConfig,
    ExperimentConfig,
    MineConfig,
    RegisterConfig,
    TrainConfig,
    TuneConfig,
)
from xmrank.config.common import semantic
from xmrank.config.parsing import parse_config
from xmrank.dry_run import print_dry_run
from xmrank.embed.stage import encoder_settings
from xmrank.experiment.stage import with_stage_directories
from xmrank.runtime import directory, measurements
from xmrank.runtime.device import VARIABLE
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.measurements import find_last

END = "dry run: nothing was started or written"


@pytest.fixture(autouse=True)
def alone(home, monkeypatch):
    """A home and a cache of the test's own, no cluster, no GPU."""
    monkeypatch.setenv("XMRANK_CACHE", str(home / "cache"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(dry_run, "list_gpus", list)
    return home


def make_stage(folder, name, *, config=None, inputs=None, finish=True, content="a", **counts):
    """The output of a stage: a file, and the fingerprint that follows from it."""
    stage = StageDirectory.open(folder, name, config=config or {}, inputs=inputs or {})
    (folder / "a.txt").write_text(content)
    return stage.finish(counts=counts).fingerprint if finish else None


@pytest.fixture
def inputs(home):
    """An embedding store and lists, by their names; their fingerprints."""
    embeddings = make_stage(home / "e", "embed", images=300, captions=1500, broken=0)
    lists = make_stage(home / "l", "mine", lists=1800)
    return {"embeddings": embeddings, "lists": lists}


PATHS = {"embeddings": Path("e"), "lists": Path("l"), "output": Path("r")}
TRAIN = TrainConfig(**PATHS, losses=("listnet", "ranknet"), seeds=(0,), epochs=10)


def snapshot(folder):
    """Every path below a folder, with its size and times."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def show(capsys, job, config):
    """The exit status of a dry run and its lines; it leaves everything as it was."""
    before = snapshot(Path(os.environ["XMRANK_HOME"]))
    status = print_dry_run(job, config)
    assert snapshot(Path(os.environ["XMRANK_HOME"])) == before
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == END
    return status, [" ".join(line.split()) for line in lines]


def test_a_run_that_would_begin(inputs, home, capsys):
    status, lines = show(capsys, "train", TRAIN)
    assert (status, lines) == (
        0,
        [
            "train: train 4 rankers (2 losses × 2 directions × 1 seed): context_aware, at most 10 epochs",
            f"reads {home}/e: embed, 1,500 captions, 300 images",
            f"reads {home}/l: mine, 1,800 lists",
            f"writes {home}/r: new",
            "device cpu: no GPU can be seen on this machine (--device auto)",
            "took not known: no such run was measured yet",
        ],
    )


def state_of_output(capsys, home, config=TRAIN):
    """The exit status, and what is said of the directory r."""
    status, lines = show(capsys, "train", config)
    return status, next(line for line in lines if line.startswith("writes")).partition(f"{home}/r: ")[2]


def test_a_run_that_is_finished_or_goes_on(inputs, home, capsys):
    plan = {"config": semantic(TRAIN), "inputs": inputs}
    make_stage(home / "r", "train", **plan, finish=False)
    (home / "r" / "trials" / "ranknet-t2i-seed0").mkdir(parents=True)
    (home / "r" / "trials" / "ranknet-t2i-seed0" / "history.json").write_text("{}")
    assert state_of_output(capsys, home) == (0, "continues: 1 of 4 rankers are done")
    make_stage(home / "r", "train", **plan, rankers=4)
    assert state_of_output(capsys, home) == (0, "finished, so that nothing would be done")


def test_what_would_be_refused_is_said_with_the_remedy(inputs, home, capsys):
    make_stage(home / "r", "train", config=semantic(TRAIN) | {"epochs": 3}, inputs=inputs)
    difference = "holds another configuration: epochs is 3 there, 10 here (--overwrite to redo it, or another --output)"
    assert state_of_output(capsys, home) == (1, f"REFUSED: {home}/r: {difference}")
    overwrite = TrainConfig(**{**vars(TRAIN), "overwrite": True})
    assert state_of_output(capsys, home, overwrite) == (0, "is emptied first (--overwrite)")


def test_an_output_of_other_inputs_would_be_refused(inputs, home, capsys):
    make_stage(home / "r", "train", config=semantic(TRAIN), inputs=inputs | {"lists": "0" * 64})
    status, lines = show(capsys, "train", TRAIN)
    assert status == 1 and any("REFUSED" in line and "was made from other lists" in line for line in lines)


def test_inputs_that_are_missing_or_not_finished(home, capsys):
    make_stage(home / "e", "embed", finish=False)
    status, lines = show(capsys, "train", TRAIN)
    assert status == 1
    assert lines[1:3] == [f"reads REFUSED: {home}/e is not finished", f"reads REFUSED: {home}/l is not there"]


def test_a_folder_of_something_else_would_be_refused(inputs, home, capsys):
    (home / "r").mkdir()
    (home / "r" / "thesis.tex").write_text("important")
    status, lines = show(capsys, "train", TRAIN)
    assert status == 1 and any("is not empty and not the directory of a stage" in line for line in lines)


def test_the_stages_of_an_experiment_read_what_those_before_make(home, capsys):
    status, lines = show(capsys, "experiment", ExperimentConfig(output=Path("x")))
    assert status == 0
    assert [line.split(":")[0] for line in lines if not line.startswith(("reads", "writes", "device", "took"))] == [
        *("embed", "mine", "train", "evaluate", "report")
    ]
    assert lines[0] == "embed: embed 2,800 generated images with xmrank-tiny"
    assert f"reads {home}/x/lists: made before, in this run" in lines
    # What a stage finds may be made anew by one before.
    make_stage(home / "x" / "lists", "mine", config=semantic(MineConfig()), inputs={"embeddings": "0" * 64})
    status, lines = show(capsys, "experiment", ExperimentConfig(output=Path("x")))
    assert status == 0
    assert f"writes {home}/x/lists: there; whether it is still right depends on the stages before" in lines


def test_the_stages_of_an_experiment_that_are_finished_are_read(home, capsys):
    config = with_stage_directories(ExperimentConfig(output=Path("x")))
    # What a data set is, is known by reading it; here it stays what it was.
    fingerprint = make_stage(home / "x" / "embeddings", "embed", config=encoder_settings(config.embed), images=300)
    make_stage(home / "x" / "lists", "mine", config=semantic(config.mine), inputs={"embeddings": fingerprint})
    _, lines = show(capsys, "experiment", ExperimentConfig(output=Path("x")))
    for name in ("embeddings", "lists"):
        assert f"writes {home}/x/{name}: finished, so that nothing would be done" in lines
    assert f"reads {home}/x/embeddings: embed, 300 images" in lines
    assert f"writes {home}/x/rankers: new" in lines


def test_settings_that_need_the_inputs_are_not_compared(inputs, home, capsys):
    config = BaselinesConfig(embeddings=Path("e"), lists=Path("l"), output=Path("b"))
    make_stage(home / "b", "baselines", config={"anything": 1}, inputs=inputs)
    _, lines = show(capsys, "baselines", config)
    assert f"writes {home}/b: finished, so that nothing would be done, if its settings are these" in lines


def test_files_are_looked_at_and_uris_and_patterns_are_not(home, capsys):
    (home / "a.csv").write_text("x" * 2000)
    words = ["--dataset", "csv", "--annotations", "a.csv", "--images", "s3://bucket/images"]
    _, lines = show(capsys, "embed", parse_config(EmbedConfig, words, name="embed"))
    assert lines[:3] == [
        "embed: embed the data set csv with xmrank-tiny",
        f"reads {home}/a.csv: 2 kB",
        "reads s3://bucket/images: not looked at",
    ]


def test_a_registration_has_no_output_and_forced_needs_no_evaluation(inputs, home, capsys):
    make_stage(home / "r", "train", rankers=4)
    config = RegisterConfig(rankers=Path("r"), embeddings=Path("e"), force=True)
    status, lines = show(capsys, "register", config)
    assert (status, len(lines)) == (0, 3)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"space": ("learning_rate=[1,2]", "ranknet.weighting=[none,ndcg,x]")}, "grid, 16 points"),
        ({"space": ("learning_rate=log(1,2)",), "search": "random", "samples": 7}, "random, 28 points"),
    ],
)
def test_the_points_of_a_search_are_counted(settings, text, capsys):
    config = TuneConfig(train=TrainConfig(losses=("listnet", "ranknet")), repeats=(0, 1, 2), **settings)
    assert show(capsys, "tune", config)[1][0] == f"tune: search rankers ({text}), then train 12 rankers"


def test_the_last_run_of_the_same_output_is_told_or_else_of_any(home, capsys, monkeypatch):
    moments = iter([0.0, 350.0, 0.0, 41.0, 0.0])
    monkeypatch.setattr(directory, "time", SimpleNamespace(monotonic=lambda: next(moments)))
    monkeypatch.setattr(measurements, "time", SimpleNamespace(strftime=lambda _: "2026-12-31"))
    make_stage(home / "l1", "mine", content="x" * 3_140_000, lists=1800)
    make_stage(home / "l2", "mine", lists=20)
    own, other = (MineConfig(output=Path(name), embeddings=Path("e")) for name in ("l1", "l3"))
    took = [show(capsys, "mine", config)[1][-1] for config in (own, other)]
    assert took == [
        "took 1,800 lists in 5 min 50 s, 3.14 MB, 2026-12-31, the last time",
        "took 20 lists in 41 s, 0.001 kB, 2026-12-31, the last time",
    ]
    assert find_last("train", home / "l1") is None


def test_a_run_that_was_interrupted_is_not_measured(home):
    make_stage(home / "l", "mine", finish=False)
    make_stage(home / "l", "mine", lists=20)
    assert find_last("mine", home / "l") is None


def test_measurements_that_cannot_be_kept_or_read_are_no_error(home, monkeypatch):
    (home / "cache").write_text("a file")
    make_stage(home / "l", "mine", lists=20)
    assert find_last("mine", home / "l") is None
    (home / "other").mkdir()
    (home / "other" / measurements.FILE).write_text('[{"stage": 1}]')
    monkeypatch.setenv("XMRANK_CACHE", str(home / "other"))
    assert find_last("mine", home / "l") is None


@pytest.mark.parametrize(
    ("job", "config", "wanted", "cluster", "text"),
    [
        ("train", TRAIN, "", "", "cuda: 2 × NVIDIA L4 (--device auto)"),
        ("train", TRAIN, "cpu", "", "cpu (--device cpu)"),
        ("train", TRAIN, "", "head:6379", "the cluster's GPUs, or its CPUs where it has none (--device auto)"),
        ("train", TRAIN, "cuda", "head:6379", "the cluster's GPUs (--device cuda)"),
        ("mine", MineConfig(), "", "", "cpu: these lists are mined on it"),
        ("mine", MineConfig(strategy="top-k"), "", "", "cuda: 2 × NVIDIA L4 (--device auto)"),
    ],
)
def test_the_device_is_told_as_far_as_it_is_known(job, config, wanted, cluster, text, monkeypatch):
    monkeypatch.setattr(dry_run, "list_gpus", lambda: ["NVIDIA L4"] * 2)
    monkeypatch.setenv(VARIABLE, wanted)
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    assert dry_run.describe_device(job, config) == text


def test_a_dry_run_of_every_job_imports_neither_torch_nor_ray_nor_mlflow(home):
    """All jobs in one process: what one of them imports would stay imported."""
    code = """
        import contextlib, io, sys
        from xmrank.cli import main
        from xmrank.config.jobs import JOBS
        more = {"qrels": ["--plausible"], "tune": ["--space", "learning_rate=[1,2]"]}
        for job in JOBS:
            sys.argv = ["xmrank", job, "--dry-run", *more.get(job, [])]
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    main()
            except SystemExit as stop:
                assert stop.code in (0, 1), (job, stop.code)
        print(*sorted({"torch", "ray", "mlflow", "faiss", "pandas"} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=home, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")

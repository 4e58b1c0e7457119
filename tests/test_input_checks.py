"""Inputs that are refused before PyTorch and Ray are imported."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from xmrank.baselines.baseline_registry import BASELINES as REGISTRY
from xmrank.cli import main
from xmrank.config.baselines import BASELINES
from xmrank.config.embed import EmbedConfig
from xmrank.config.jobs import JOBS
from xmrank.datasets.reader_settings import HuggingFaceSettings
from xmrank.input_checks import READ_FIRST, STAGES, check_inputs, list_inputs
from xmrank.rankers.parameters import LateInteractionParameters
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import DataError

MISTAKES = [
    (["rank", "--queries", "README.md"], "data/embeddings: no finished output of the stage embed here"),
    (["tune", "--preset", "grid12"], "data/embeddings: no finished output of the stage embed here"),
    (["supervised", "--data", "wikipedia=lists"], "lists: holds the output of the stage mine, expected embed"),
    (["register", "--rankers", "data"], "data: no finished output of the stage train here"),
    (["baselines"], "data/embeddings: no finished output of the stage embed here"),
    (["supervised", "--data", "wikipedia=data/none"], "none: no such file or folder (--data wikipedia=data/none)"),
    (["embed", "--dataset", "folder", "--images", "none"], "none: no such file or folder (--images)"),
    (["embed", "--model", "ViT-B-33"], "--model ViT-B-33: open_clip has no such model; close to it: ViT-B-32"),
    (["experiment", "--embed.model", "ViT-B-33"], "experiment: --embed.model ViT-B-33: open_clip has no such model"),
    (
        ["experiment", "--embed.dataset", "folder", "--embed.images", "none"],
        "none: no such file or folder (--embed.images)",
    ),
    (["embed", "--reuse", "lists"], "lists: holds the output of the stage mine, expected embed"),
    (["embed", "--model", ""], "--model : open_clip has no such model; close to it: xmrank-tiny"),
    (["embed", "--model", "local-dir:lists"], "lists: no open_clip_config.json in it"),
    (["experiment", "--train.losses", "nope"], "experiment: --train.losses nope: expected one of"),
    (["experiment", "--losses", "nope"], "experiment: --losses: no such flag"),
    (["supervised"], "--data: expected one or more labelled sets, each as NAME=PATH"),
    (["train-encoder", "--model", "ViT-B-33"], "--model ViT-B-33: open_clip has no such model"),
    (["train"], "data/embeddings: no finished output of the stage embed here"),
]
WATCH = """
import sys
from xmrank.cli import main
try:
    main()
finally:
    print(sorted({"torch", "ray"} & sys.modules.keys()))
"""


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_a_wrong_input_is_refused_without_pytorch_and_ray(tmp_path, words, message):
    job, *flags = words
    for name in ("embeddings", "lists"):
        if name in READ_FIRST.get(job, ()):
            flags += [f"--{name}", f"data/{name}"]
    (tmp_path / "README.md").write_text("a dog\n")
    StageDirectory.open(tmp_path / "lists", "mine", config={}, inputs={}).finish(counts={})
    done = subprocess.run(
        [sys.executable, "-c", WATCH, job, *flags], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    # 2: a wrong flag; 1: wrong data.
    assert done.stdout == "[]\n" and done.returncode == (2 if f"{job.replace('-', '_')}: --" in done.stderr else 1)
    (line,) = done.stderr.splitlines()
    assert message in line


def test_queries_that_are_not_given_are_named(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["xmrank", "rank"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err == "rank: --queries: expected a text file, a table or a folder of images\n"


def test_a_ranking_is_checked_without_pytorch_and_ray():
    code = "import sys, xmrank.rank.stage; print(sorted({'torch', 'ray', 'open_clip'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_queries_that_are_not_there_are_refused(tiny_store, tmp_path):
    store = tiny_store(tmp_path / "store")
    config = JOBS["rank"].load_config()(queries=tmp_path / "none.txt", embeddings=store.directory)
    with pytest.raises(DataError, match=r"none\.txt: no such file or folder \(--queries\)"):
        check_inputs("rank", config)


def test_a_folder_without_a_ranker_is_refused(tiny_store, tmp_path):
    store = tiny_store(tmp_path / "store")
    flags = {"queries": tmp_path, "embeddings": store.directory}
    config = JOBS["rank"].load_config()(**flags, ranker=str(tmp_path))
    with pytest.raises(DataError, match=r"no trained ranker here \(no ranker\.json\)"):
        check_inputs("rank", config)
    check_inputs("rank", JOBS["rank"].load_config()(**flags, ranker="models:/scenes@best"))
    # The output of a training is for the job to choose from.
    check_inputs("rank", JOBS["rank"].load_config()(**flags, ranker=str(store.directory)))


def test_a_training_that_reads_tokens_is_refused_a_store_without(tiny_store, tmp_path):
    store = tiny_store(tmp_path / "store")
    StageDirectory.open(tmp_path / "lists", "mine", config={}, inputs={}).finish(counts={})
    flags = {"embeddings": store.directory, "lists": tmp_path / "lists"}
    config = JOBS["train"].load_config()(**flags, ranker=LateInteractionParameters())
    with pytest.raises(DataError, match="no tokens in this store"):
        check_inputs("train", config)
    # That ranker may be replaced, and the other one reads none.
    check_inputs("train", replace(config, best=tmp_path))
    check_inputs("train", JOBS["train"].load_config()(**flags))


def test_a_finished_store_needs_no_store_to_reuse(tiny_store, tmp_path):
    output = tiny_store(tmp_path / "store").directory
    config = JOBS["embed"].load_config()(output=output, reuse=tmp_path / "gone")
    check_inputs("embed", config)
    with pytest.raises(DataError, match=r"gone: no such file or folder \(--reuse\)"):
        check_inputs("embed", replace(config, overwrite=True))
    # The store of an experiment is inside its folder.
    tiny_store(tmp_path / "run")
    load = JOBS["experiment"].load_config()
    check_inputs("experiment", load(output=tmp_path / "run", embed=EmbedConfig(reuse=tmp_path / "gone")))
    with pytest.raises(DataError, match=r"gone: no such file or folder \(--embed\.reuse\)"):
        check_inputs("experiment", load(output=tmp_path / "other", embed=EmbedConfig(reuse=tmp_path / "gone")))


def test_models_and_folders_that_only_the_job_can_find_are_left_to_it(tmp_path):
    load = JOBS["embed"].load_config()
    for model, weights in (("ViT-B-32", "openai"), ("xmrank-tiny", None)):
        check_inputs("embed", load(model=model, pretrained=weights))
    check_inputs("embed", load(dataset=HuggingFaceSettings(images=Path("me/mine"))))
    with pytest.raises(DataError, match="no such file or folder"):
        check_inputs("embed", load(dataset=HuggingFaceSettings(images=tmp_path / "none")))


def test_what_is_elsewhere_is_left_to_the_job():
    config = JOBS["rank"].load_config()(queries="s3://bucket/none.txt", embeddings="hf://me/none")
    check_inputs("rank", config)


@pytest.mark.parametrize("job", READ_FIRST)
def test_every_setting_that_is_read_first_is_one_of_its_job(job):
    needed = {"rank": {"queries": "a.txt"}}.get(job, {})
    names = {name for name, _ in list_inputs(job, JOBS[job].load_config()(**needed))}
    assert set(READ_FIRST[job]) <= names & STAGES.keys()


def test_the_configuration_has_the_names_of_all_baselines():
    assert tuple(REGISTRY) == BASELINES

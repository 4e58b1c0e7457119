"""The evaluation stage: figures that follow by hand from its inputs, resumed method by method, refused inputs."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.tracking import MlflowClient
from pipeline import mine_small

from xmrank import tracking
from xmrank.cli import run
from xmrank.config import EvaluateConfig
from xmrank.evaluate import all_methods
from xmrank.evaluate.stage import evaluate
from xmrank.metrics import METRICS
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.protocols import evaluation_run
from xmrank.runtime.errors import DataError
from xmrank.runtime.manifest import read_manifest
from xmrank.tracking.run_tree import read_run_ids
from xmrank.tracking.runs import find_run
from xmrank.train.checkpoint import read_ranker

pytestmark = pytest.mark.ray
KEYS = ["method", "loss", "ranker", "seed", "direction", "split", "protocol", "metric"]
TOP = 15
RANKER = "lambdarank-t2i-seed1"


def settings(trained, output, **changes):
    folders = {"embeddings": trained.config.embeddings, "lists": trained.config.lists, "rankers": trained.config.output}
    return EvaluateConfig(**{**folders, "output": output, "top_n": (TOP,), **changes})


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory):
    """The evaluation of the trained run, by tasks on the cluster: the first stage and eight rankers."""
    output = tmp_path_factory.mktemp("evaluated") / "evaluation"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XMRANK_HOME", str(trained.home))
        environment.delenv("MLFLOW_TRACKING_URI", raising=False)
        manifest = evaluate(settings(trained, output))
    return SimpleNamespace(
        output=output,
        manifest=manifest,
        metrics=pd.read_parquet(output / "metrics.parquet"),
        rankings=pd.read_parquet(output / "rankings.parquet"),
        summary=json.loads((output / "summary.json").read_text()),
    )


@pytest.fixture
def here(monkeypatch):
    """Makes the methods be evaluated in this process, one after another; the list names those that were."""
    done = []

    def run_tasks(function, tasks):
        for task in tasks:
            done.append(task.name)
            yield function(task)

    monkeypatch.setattr(evaluation_run, "run_tasks", run_tasks)
    return done


def mean(evaluated, metric, **key):
    """A mean of the summary."""
    key = {"metric": metric, **key}
    (row,) = [row for row in evaluated.summary["rows"] if key.items() <= row.items()]
    return row["mean"]


def ranks_of(similarity, relevant):
    """The rank of each query's best relevant item, from 1; no ties."""
    best = np.where(relevant, similarity, -np.inf).max(axis=1, keepdims=True)
    return 1 + (similarity > best).sum(axis=1)


def test_the_files_of_an_evaluation(evaluated):
    outputs = {name for name in evaluated.manifest.outputs if not name.startswith("trec/")}
    assert outputs == {"metrics.parquet", "rankings.parquet", "summary.json", "curves.json"}
    assert sorted(path.name for path in evaluated.output.iterdir()) == [
        "curves.json", "manifest.json", "metrics.parquet", "plan.json", "rankings.parquet", "summary.json",
        "timing.json", "tracking.json", "trec",
    ]  # fmt: skip
    assert evaluated.manifest.counts == {
        "methods": 10,  # eight rankers, and the first stage in two directions
        "queries": 20 + 100,  # on the gallery: the images of test, and their captions
        "queries_by_direction": {"i2t": 20, "t2i": 100},
    }


def test_a_query_is_timed_at_several_depths(evaluated):
    rows = json.loads((evaluated.output / "timing.json").read_text())["depths"]
    # The galleries: 20 images, and their 100 captions.
    assert [(row["direction"], row["candidates"], row["queries"]) for row in rows] == [
        *(("i2t", n, 20) for n in (10, 50, 100)), *(("t2i", n, 32) for n in (10, 20)),
    ]  # fmt: skip
    assert all(min(row["batched_ms"], row["alone_ms"]) > 0 and row["ranker"] == "context_aware" for row in rows)


def test_the_rankers_of_one_seed_are_timed(evaluated):
    rows = json.loads((evaluated.output / "timing.json").read_text())["rows"]
    protocols = ("lists", f"top-{TOP}")
    expected = [(m, d, p) for m in ("lambdarank", "listnet") for d in ("i2t", "t2i") for p in protocols]
    assert sorted((row["method"], row["direction"], row["protocol"]) for row in rows) == expected
    assert {row["seed"] for row in rows} == {0}


def test_every_method_has_every_metric_on_its_protocols(evaluated):
    rows = evaluated.metrics.groupby(["method", "direction", "protocol"], observed=True)["metric"].unique()
    expected = {("cosine", d, p) for d in ("i2t", "t2i") for p in ("lists", "gallery")}
    expected |= {(m, d, p) for m in ("listnet", "lambdarank") for d in ("i2t", "t2i") for p in ("lists", f"top-{TOP}")}
    expected |= {("oracle", d, f"top-{TOP}") for d in ("i2t", "t2i")}
    assert set(rows.index) == expected
    assert all(tuple(names) == METRICS for names in rows)
    assert set(evaluated.metrics["split"]) == {"test"}
    trained_ones = ~evaluated.metrics["method"].isin(["cosine", "oracle"])
    assert set(evaluated.metrics.loc[trained_ones, "seed"]) == {0, 1}


def test_the_summary_holds_the_means_of_the_queries(evaluated):
    queries = evaluated.metrics.groupby(KEYS, observed=True)["value"].agg(["mean", "count"])
    assert len(evaluated.summary["rows"]) == len(queries)
    for row in evaluated.summary["rows"]:
        measured = queries.loc[tuple(row[key] for key in KEYS)]
        assert row["mean"] == pytest.approx(measured["mean"], abs=1e-12)
        assert row["queries"] == measured["count"]
        assert row["excluded"] == 0


def test_cosine_on_the_whole_gallery_by_numpy(trained, evaluated):
    images = trained.store.image_rows("test")
    captions = np.flatnonzero(np.isin(trained.store.image_of_caption, images))
    image, text = np.array(trained.store.image[images], float), np.array(trained.store.text[captions], float)
    own = trained.store.image_of_caption[captions] == images[:, None]
    for direction, similarity, relevant in (("i2t", image @ text.T, own), ("t2i", text @ image.T, own.T)):
        ranks = ranks_of(similarity, relevant)
        for k in (1, 5, 10):
            measured = mean(evaluated, f"hit@{k}", method="cosine", direction=direction, protocol="gallery")
            assert measured == pytest.approx((ranks <= k).mean())
            top = np.argsort(-similarity, axis=1)[:, :k]
            recall = (np.take_along_axis(relevant, top, 1).sum(1) / relevant.sum(1)).mean()
            measured = mean(evaluated, f"recall@{k}", method="cosine", direction=direction, protocol="gallery")
            assert measured == pytest.approx(recall)
        measured = mean(evaluated, "mrr", method="cosine", direction=direction, protocol="gallery")
        assert measured == pytest.approx((1 / ranks).mean())


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
def test_cosine_on_the_lists_by_numpy(trained, evaluated, direction):
    lists = CandidateLists.read(trained.config.lists / f"{direction}-test.parquet")
    sides = trained.store.image, trained.store.text
    query_side, gallery_side = sides if direction == "i2t" else sides[::-1]
    candidates, labels, _, mask = lists.pad_lists(np.arange(len(lists)))
    similarity = np.einsum(
        "qd,qnd->qn", query_side[lists.queries].astype(float), gallery_side[candidates].astype(float)
    )
    ranks = ranks_of(np.where(mask, similarity, -np.inf), labels > 0)
    for k in (1, 5, 10):
        hit = mean(evaluated, f"hit@{k}", method="cosine", direction=direction, protocol="lists")
        assert hit == pytest.approx((ranks <= k).mean())


def test_a_ranker_on_the_lists_is_its_own_forward_pass(trained, evaluated):
    ranker, _ = read_ranker(trained.config.output / "trials" / RANKER)
    lists = CandidateLists.read(trained.config.lists / "t2i-test.parquet")
    ranks = []
    for number, query in enumerate(lists.queries):
        part = slice(lists.offsets[number], lists.offsets[number + 1])
        with torch.no_grad():
            scores = ranker(
                torch.from_numpy(trained.store.text[[query]]),
                torch.from_numpy(trained.store.image[lists.candidates[part]])[None],
                torch.from_numpy(lists.similarity[part].copy())[None],
            )[0].numpy()
        ranks.append(1 + int((scores > scores[lists.labels[part] > 0].max()).sum()))
    key = {"loss": "lambdarank", "seed": 1, "direction": "t2i", "protocol": "lists"}
    assert mean(evaluated, "hit@1", **key) == pytest.approx(np.mean([rank == 1 for rank in ranks]))
    assert mean(evaluated, "mrr", **key) == pytest.approx(np.mean([1 / rank for rank in ranks]))


def test_rankings_are_complete_orders_by_score(trained, evaluated):
    keys = ["method", "seed", "direction", "protocol", "query_id"]
    lengths = {"lists": 7, f"top-{TOP}": TOP, "gallery": TOP}
    groups = evaluated.rankings.groupby(keys, observed=True, sort=False)
    assert (
        len(groups) == 10 * (20 + 20) // 2 + 10 * (20 + 100) // 2
    )  # lists: 20 queries a direction, galleries: 20 and 100
    for (_, _, _, protocol, _), rows in groups:
        assert rows["rank"].tolist() == list(range(1, lengths[protocol] + 1))
        assert (rows["score"].diff().dropna() <= 0).all()
        assert rows["candidate_id"].is_unique


def test_a_ranked_candidate_is_one_of_the_querys_list(trained, evaluated):
    lists = CandidateLists.read(trained.config.lists / "i2t-test.parquet")
    captions, images = trained.store.captions["caption_id"].to_pylist(), trained.store.images["image_id"].to_pylist()
    table = evaluated.rankings.query("protocol == 'lists' and direction == 'i2t' and loss == 'listnet' and seed == 0")
    ranked = table.groupby("query_id", observed=True)["candidate_id"].agg(set)
    for number, query in enumerate(lists.queries):
        part = lists.candidates[lists.offsets[number] : lists.offsets[number + 1]]
        assert ranked[images[query]] == {captions[row] for row in part}


def test_rankers_rank_the_first_stages_top_of_the_gallery(evaluated):
    key = "direction == 't2i' and protocol == '{}' and method == '{}' and seed == {}"
    first = evaluated.rankings.query(key.format("gallery", "cosine", -1))
    second = evaluated.rankings.query(key.format(f"top-{TOP}", "listnet", 0))
    tops = [table.groupby("query_id", observed=True)["candidate_id"].agg(frozenset) for table in (first, second)]
    assert tops[0].to_dict() == tops[1].to_dict()


def test_mlflow_has_the_means_under_each_trial_and_a_run_of_the_first_stage(trained, evaluated):
    client = MlflowClient(f"sqlite:///{trained.home}/mlflow.db")
    runs = read_run_ids(trained.config.output)
    ranker = find_run(client, trained.home, runs[RANKER])
    logged = ranker.data.metrics
    key = {"loss": "lambdarank", "seed": 1, "direction": "t2i"}
    assert logged["t2i/recall_at_5"] == mean(evaluated, "recall@5", protocol="lists", **key)
    assert logged[f"t2i/top-{TOP}/hit_at_1"] == mean(evaluated, "hit@1", protocol=f"top-{TOP}", **key)
    first = client.get_run(json.loads((evaluated.output / "tracking.json").read_text())["cosine"])
    assert first.info.status == "FINISHED"
    assert first.data.tags["mlflow.parentRunId"] == runs["parent"]
    key = {"method": "cosine", "direction": "i2t", "protocol": "gallery"}
    assert first.data.metrics["i2t/gallery/mrr"] == mean(evaluated, "mrr", **key)
    assert ranker.info.status == "FINISHED"


def test_a_second_call_does_nothing(trained, evaluated, monkeypatch):
    monkeypatch.setattr(all_methods, "evaluate_all", lambda *arguments: pytest.fail("nothing was to be evaluated"))
    assert evaluate(settings(trained, evaluated.output)) == evaluated.manifest


def test_an_interrupted_evaluation_keeps_the_methods_that_are_done(trained, evaluated, here, tmp_path, track_at):
    track_at(trained.home)
    config = settings(trained, tmp_path / "evaluation")

    def stop(task, evaluate_method=evaluation_run.evaluate_method):
        if len(here) == 5:
            raise KeyboardInterrupt
        evaluate_method(task)

    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(evaluation_run, "evaluate_method", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate(config)
    done = here[:4]
    (config.output / "work" / f"{done[0]}.rankings").unlink()
    here.clear()
    assert evaluate(config).fingerprint == evaluated.manifest.fingerprint  # in one process, as on the cluster
    assert set(done[1:]).isdisjoint(here)
    assert len(here) == 10 - 3


def test_rankers_without_runs_in_this_tracking_file_are_evaluated_all_the_same(
    trained, evaluated, here, tmp_path, track_at
):
    track_at(tmp_path)
    manifest = evaluate(settings(trained, tmp_path / "evaluation"))
    assert manifest.fingerprint == evaluated.manifest.fingerprint
    first = json.loads((tmp_path / "evaluation/tracking.json").read_text())["cosine"]
    assert tracking.read_status(f"sqlite:///{tmp_path}/mlflow.db", first) == "FINISHED"


def test_lists_of_other_embeddings_are_refused(trained, tmp_path, tiny_store):
    other = tiny_store(tmp_path / "other", seed=1).directory
    with pytest.raises(DataError, match=f"--lists: mined from other embeddings than {other}"):
        evaluate(settings(trained, tmp_path / "evaluation", embeddings=other))
    assert not (tmp_path / "evaluation").exists()


def test_rankers_of_other_lists_are_refused(trained, tmp_path):
    mine_small(trained.config.embeddings, tmp_path / "lists", seed=1)
    with pytest.raises(DataError, match="--rankers: trained on other lists than the given ones"):
        evaluate(settings(trained, tmp_path / "evaluation", lists=tmp_path / "lists"))


def test_rankers_of_another_encoders_embeddings_are_refused(trained, tmp_path, tiny_store):
    other = tiny_store(tmp_path / "other", dimensions=12).directory
    lists = mine_small(other, tmp_path / "lists").output
    expected = (
        rf"--rankers: trained on other embeddings than {other}: theirs are of imported \(16 dimensions\), "
        r"these of imported \(12 dimensions\)"
    )
    with pytest.raises(DataError, match=expected):
        evaluate(settings(trained, tmp_path / "evaluation", embeddings=other, lists=lists))
    assert not (tmp_path / "evaluation").exists()


def test_rankers_that_are_not_finished_are_refused(trained, tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path}: no finished output of the stage train here"):
        evaluate(settings(trained, tmp_path / "evaluation", rankers=tmp_path))


@pytest.mark.parametrize("name", ["ranker.safetensors", "ranker.json"])
def test_a_damaged_ranker_is_one_line_on_the_command_line(trained, tmp_path, track_at, monkeypatch, capsys, name):
    track_at(tmp_path)
    rankers = tmp_path / "rankers"
    shutil.copytree(trained.config.output, rankers)
    (rankers / "trials" / RANKER / name).write_bytes(b"damaged")
    config = settings(trained, tmp_path / "evaluation", rankers=rankers)
    flags = [f"--{field}={getattr(config, field)}" for field in ("embeddings", "lists", "rankers", "output")]
    monkeypatch.setattr("sys.argv", ["jobs/evaluate.py", *flags])
    with pytest.raises(SystemExit) as stop:
        run(evaluate, EvaluateConfig)
    assert stop.value.code == 1
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("evaluate: ")]
    assert len(error) == 1
    assert str(rankers / "trials" / RANKER) in error[0]
    assert not (tmp_path / "evaluation/manifest.json").exists()


def test_the_manifest_says_how_ties_and_lists_were_treated(evaluated):
    settings = read_manifest(evaluated.output, "evaluate").settings
    assert settings["candidates_per_list"] == {"i2t_test": 7, "t2i_test": 7}
    assert settings["lists_config"]["hard_negatives"] == 6
    given_away = settings["positives_last"]
    assert given_away.keys() == {"i2t_test", "t2i_test"} and all(0 <= share < 1 for share in given_away.values())
    assert "expectation" in settings["tie_rule"]


def test_a_top_of_another_depth_is_another_evaluation(trained, evaluated):
    with pytest.raises(DataError, match=r"top_n is \[15\] there, \[5\] here"):
        evaluate(replace(settings(trained, evaluated.output), top_n=(5,)))

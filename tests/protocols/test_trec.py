"""TREC files: how ids are written, and that other programs compute the table's numbers from them."""

import gzip
import json
from dataclasses import replace
from types import SimpleNamespace
from urllib.parse import unquote

import ir_measures
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from ir_measures import RR, R, Success, nDCG

from xmrank.config import EvaluateConfig
from xmrank.evaluate import all_methods
from xmrank.evaluate.stage import evaluate
from xmrank.metrics import METRICS
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.protocols import evaluation_run
from xmrank.protocols.galleries import ListProtocol
from xmrank.protocols.query_tables import make_rankings_table
from xmrank.protocols.trec_writing import encode_id, query_names, write_qrels, write_run
from xmrank.runtime.errors import ConfigError
from xmrank.runtime.manifest import read_manifest

THEIRS = {"mrr": RR, "ndcg@10": nDCG @ 10}
THEIRS |= {f"hit@{k}": Success @ k for k in (1, 5, 10)} | {f"recall@{k}": R @ k for k in (1, 5, 10)}
DEPTHS = {"mrr": 10_000} | {name: int(name.split("@")[1]) for name in METRICS if name != "mrr"}
PLAIN = ["a.jpg", "a.jpg#0", "x/y:z", "[1]_~"]
STRANGE = ["two words", "tab\tand\nline", "per%cent", 'quo"te', "été", "图像", "a|2", "%20", " "]


@pytest.mark.parametrize("identifier", PLAIN + STRANGE)
def test_an_id_is_one_field_and_comes_back(identifier):
    assert len(encode_id(identifier).split()) == 1
    assert encode_id(identifier).isascii()
    assert unquote(encode_id(identifier)) == identifier
    assert encode_id(identifier) == identifier or identifier in STRANGE


def test_a_query_with_several_lists_has_several_names():
    assert query_names(pa.array(["a", "a|2", "b c"]), np.array([0, 1, 0, 2, 0])).to_pylist() == [
        "a", "a%7C2", "a|2", "b%20c", "a|3",
    ]  # fmt: skip


@pytest.mark.parametrize("ending", [".trec", ".trec.gz"])
def test_run_and_qrels_by_hand(tmp_path, ending):
    # Image "im 1" retrieves captions "d", "a" with scores 0.1, 2: a, d. Image 0: b.
    lists = CandidateLists(
        np.array([1, 0]), np.array([0, 2, 3]), np.array([3, 0, 1]), np.array([1.0, 0, 0]), np.zeros(3)
    )
    ids = pa.array(["im0", "im 1"]), pa.array(["a", "b", "c", "d"])
    key = {"method": "m", "loss": "m", "ranker": "r", "seed": 0, "direction": "i2t", "split": "s", "protocol": "lists"}
    scores = np.array([0.1, 2.0, -1e-7], np.float32)
    table = make_rankings_table(key, ListProtocol("lists", "i2t", lists, np.array([1, 0])), scores, ids)
    names = query_names(ids[0], lists.queries)
    write_run(tmp_path / f"m-seed0{ending}", names, lists.lengths, table)
    write_qrels(tmp_path / f"qrels{ending}", names, (np.array([0]), np.array([3])), ids[1])
    run, qrels = (read(tmp_path / f"{name}{ending}") for name in ("m-seed0", "qrels"))
    assert run == "im%201 Q0 a 1 2 m-seed0\nim%201 Q0 d 2 0.1 m-seed0\nim0 Q0 b 1 -1e-7 m-seed0\n"
    assert qrels == "im%201 0 d 1\n"


def read(path):
    return (gzip.open if path.suffix == ".gz" else open)(path, "rt").read()


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory):
    """Several depths and galleries, evaluated in this process."""
    output = tmp_path_factory.mktemp("deep") / "evaluation"
    folders = {"embeddings": trained.config.embeddings, "lists": trained.config.lists, "rankers": trained.config.output}
    config = EvaluateConfig(**folders, output=output, top_n=(5, 12, 15), galleries=("10", "2x10"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XMRANK_HOME", str(trained.home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(evaluation_run, "run_tasks", lambda function, tasks: map(function, tasks))
        manifest = evaluate(config)
    return SimpleNamespace(
        config=config, output=output, manifest=manifest, metrics=pd.read_parquet(output / "metrics.parquet")
    )


PROTOCOLS = {"lists", "gallery", "gallery-10", "gallery-2x10"}


def test_every_protocol_has_its_files(evaluated):
    for direction in ("i2t", "t2i"):
        folder = evaluated.output / "trec" / direction
        # A gallery of 10 images holds 50 captions, but for a caption no more than 10.
        tops = {f"top-{n}{of}" for of in ("", "-of-10", "-of-2x10") for n in depths(direction, of)}
        assert {path.name for path in folder.iterdir()} == PROTOCOLS | tops
        for protocol in folder.iterdir():
            methods = 5 if protocol.name == "lists" else 1 if protocol.name in PROTOCOLS else 4
            assert len(list(protocol.glob("*.trec.gz"))) == methods + 1


def depths(direction, of):
    return (5, 10) if of and direction == "t2i" else (5, 12, 15)


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
def test_ir_measures_recomputes_every_number(evaluated, direction):
    """To 1e-6, for queries without a tie across the cut-off; the others are counted: here there are none."""
    compared = tied = 0
    for protocol in sorted((evaluated.output / "trec" / direction).iterdir()):
        qrels = list(ir_measures.read_trec_qrels(str(protocol / "qrels.trec.gz")))
        for path in protocol.glob("*-seed*.trec.gz") if "top" in protocol.name else protocol.glob("*.trec.gz"):
            if path.name.startswith("qrels"):
                continue
            run = list(ir_measures.read_trec_run(str(path)))
            ours = values_of(evaluated.metrics, direction, protocol.name, path.name)
            theirs = {name: {} for name in METRICS}
            names = {str(measure): name for name, measure in THEIRS.items()}
            for found in ir_measures.iter_calc(list(THEIRS.values()), qrels, run):
                theirs[names[str(found.measure)]][unquote(found.query_id)] = found.value
            across = {name: ties_across(run, name) for name in METRICS}
            for (metric, query), value in ours.items():
                if query in across[metric]:
                    tied += 1
                elif not (metric == "mrr" and protocol.name.startswith("gallery")):  # its run ends at the top N
                    assert theirs[metric][query] == pytest.approx(value, abs=1e-6), (path, metric, query)
                    compared += 1
    assert compared > 5_000
    assert tied == 0


def values_of(metrics, direction, protocol, file):
    """(metric, query) → value."""
    method, _, seed = file.split(".")[0].replace(f"-{direction}", "").partition("-seed")
    rows = metrics[(metrics["direction"] == direction) & (metrics["protocol"] == protocol)]
    rows = rows[(rows["method"] == method) & (rows["seed"] == int(seed or -1))]
    return dict(zip(zip(rows["metric"], rows["query_id"], strict=True), rows["value"], strict=True))


def ties_across(run, metric):
    """Queries in which equal scores matter: on both sides of the cut-off, or anywhere above it where ranks count."""
    by_query = {}
    for item in run:
        by_query.setdefault(unquote(item.query_id), []).append(item.score)
    depth = DEPTHS[metric]
    first = 0 if metric in ("mrr", "ndcg@10") else depth - 1
    found = set()
    for query, scores in by_query.items():
        ordered = sorted(scores, reverse=True)[first : depth + 1]
        if len(set(ordered)) < len(ordered):
            found.add(query)
    return found


def test_the_means_over_folds_are_over_all_their_queries(evaluated):
    summary = json.loads((evaluated.output / "summary.json").read_text())
    counts = {(r["direction"], r["protocol"]): r["queries"] for r in summary["rows"] if r["method"] == "cosine"}
    assert counts["i2t", "gallery-2x10"] == 20
    assert counts["t2i", "gallery-2x10"] == 100
    assert counts["t2i", "gallery-10"] == 50


def test_the_oracle_is_above_every_ranker_and_rises_with_depth(evaluated):
    means = evaluated.metrics.groupby(["direction", "protocol", "metric", "method"], observed=True)["value"].mean()
    table = means.unstack("method").drop("cosine", axis=1).dropna()
    assert (table["oracle"] >= table["listnet"]).all()
    assert (table["oracle"] >= table["lambdarank"]).all()
    rising = [means["i2t", f"top-{n}", "hit@1", "oracle"] for n in (5, 12, 15)]
    assert rising == sorted(rising)


def test_curves_agree_with_the_table_where_they_meet(evaluated):
    curves = json.loads((evaluated.output / "curves.json").read_text())["rows"]
    means = evaluated.metrics.groupby(["method", "seed", "direction", "protocol", "metric"], observed=True)[
        "value"
    ].mean()
    assert {row["method"] for row in curves} == {"cosine", "listnet", "lambdarank"}
    for row in curves:
        key = row["method"], row["seed"], row["direction"], row["protocol"]
        for kind in ("hit", "recall"):
            for k in {1, 5, 10} & set(row["k"]):
                assert row[kind][row["k"].index(k)] == pytest.approx(means[(*key, f"{kind}@{k}")], abs=1e-12)
            assert row[kind] == sorted(row[kind])
    deep = next(row for row in curves if row["protocol"] == "lists")
    assert deep["recall"][-1] == 1.0  # every right answer is in the list
    assert deep["k"] == [1, 2, 3, 5, 7]


def test_times_are_measured_and_do_not_change_the_fingerprint(evaluated, capsys):
    rows = json.loads((evaluated.output / "timing.json").read_text())["rows"]
    assert {row["protocol"] for row in rows} >= {"lists", "top-5", "top-12", "top-15", "top-5-of-2x10"}
    assert all(row["alone_ms"] > 0 and row["batched_ms"] > 0 for row in rows)
    assert "timing.json" not in read_manifest(evaluated.output, "evaluate").outputs
    evaluate(evaluated.config)
    assert "re-ranking one query takes (median of the losses) lists " in capsys.readouterr().out


def test_files_that_are_not_wanted_are_not_written(trained, evaluated, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation_run, "run_tasks", lambda function, tasks: map(function, tasks))
    monkeypatch.setattr(all_methods, "log_results", lambda *arguments: None)
    manifest = evaluate(replace(evaluated.config, output=tmp_path / "evaluation", trec="none"))
    assert not (tmp_path / "evaluation/trec").exists()
    assert manifest.outputs["metrics.parquet"] == evaluated.manifest.outputs["metrics.parquet"]


def test_a_gallery_beyond_the_split_is_refused_before_any_work(evaluated, tmp_path):
    config = replace(evaluated.config, output=tmp_path / "evaluation", galleries=("5x1000",))
    with pytest.raises(ConfigError, match="--galleries 5x1000: needs 5,000 images, the reported split test has 20"):
        evaluate(config)
    assert not config.output.exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"top_n": ()}, "--top-n: expected one or more numbers"),
        ({"top_n": (10, 0)}, "--top-n 0: expected at least 1"),
        ({"top_n": (10, 10)}, "--top-n 10 10: expected each once"),
        ({"galleries": ("ten",)}, "--galleries ten: expected a number of images"),
    ],
)
def test_a_wrong_flag_is_one_line(wrong, message):
    with pytest.raises(ConfigError, match=message):
        EvaluateConfig(**wrong)

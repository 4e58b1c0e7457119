"""Baselines in a report: their rows, their tests, and that they are no rankers."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from xmrank.report.comparison import SignFlips, add_tests
from xmrank.report.stage import report
from xmrank.report.summary import summarise_results
from xmrank.report.table_making import make_tables, read_seed_means
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import DataError
from xmrank.runtime.manifest import read_manifest

from .synthetic import World, encoded, make_run, read_text

WORLD = World(images=24, losses=("listnet",), epochs=2, pictures=False)


def add_baselines(root, lists=None):
    """What jobs/baselines.py would leave: VSE++ with S-NDCG, as good as the oracle on the gallery, and cosine again."""
    evaluation = root / "evaluation"
    made = read_manifest(evaluation, "evaluate")
    inputs = {"embeddings": made.inputs["embeddings"], "lists": lists or made.inputs["lists"]}
    values = pd.read_parquet(evaluation / "metrics.parquet")
    values = values.astype({name: str for name in values.columns if values[name].dtype == "category"})
    first = values[values["method"] == "cosine"]
    ours = [first.assign(method="vsepp-sndcg0.5", ranker="baseline", seed=np.int32(seed), value=1.0) for seed in (0, 1)]
    stage = StageDirectory.open(root / "baselines", "baselines", config={}, inputs=inputs)
    pq.write_table(encoded(pd.concat([first, *ours])), stage.directory / "metrics.parquet")
    stage.finish(counts={})
    return stage.directory


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    config = make_run(root, WORLD)
    return replace(config, baselines=add_baselines(root), draws=200)


def tables_of(config):
    paths = config.evaluation / "metrics.parquet", config.baselines / "metrics.parquet"
    tables = make_tables(read_seed_means(paths[0], "test", paths[1]), ["listnet"])
    return add_tests(tables, paths[0], "test", {}, SignFlips(200, 0), paths[1])


def test_baselines_stand_between_the_first_stage_and_the_rankers(run):
    tables = tables_of(run)
    assert {(t.protocol, t.direction) for t in tables} == {(p, d) for p in ("lists", "top-20") for d in ("i2t", "t2i")}
    for table in tables:
        assert [row.label for row in table.rows] == ["First stage", "VSE++ + 0.5 S-NDCG", "ListNet"]
        first, baseline, ranker = table.rows
        assert len(first.cells["hit@1"].by_seed) == 1  # not twice: both files hold it
        assert baseline.cells["hit@1"].by_seed == (1.0, 1.0)
        assert baseline.cells["hit@1"].best and not ranker.cells["hit@1"].best
        test = baseline.cells["hit@1"].test
        assert test.wins == 24 - round(24 * first.cells["hit@1"].mean)
        assert test.losses == 0


def test_baselines_are_not_counted_as_rankers(run):
    alone = make_tables(read_seed_means(run.evaluation / "metrics.parquet", "test"), ["listnet"])
    together = make_tables(
        read_seed_means(run.evaluation / "metrics.parquet", "test", run.baselines / "metrics.parquet"), ["listnet"]
    )
    assert summarise_results(together).lead == summarise_results(alone).lead
    assert [setting for setting, _ in summarise_results(together).findings] == [
        setting for setting, _ in summarise_results(alone).findings
    ]
    assert not any("VSE" in sentence for _, sentence in summarise_results(together).findings)


def test_the_report_shows_them(run, capsys):
    manifest = report(run)
    assert set(manifest.inputs) == {"embeddings", "evaluation", "rankers", "baselines"}
    assert "VSE++ + 0.5 S-NDCG" in capsys.readouterr().out
    for name in ("report.html", "report.md", "table.tex"):
        assert "VSE++ + 0.5 S-NDCG" in read_text(run, name)
    lines = [line.split(",") for line in read_text(run, "table.csv").splitlines()]
    assert {line[0] for line in lines if line[3] == "vsepp-sndcg0.5"} == {"lists", "gallery"}


def test_baselines_on_other_lists_are_refused(run, tmp_path):
    config = make_run(tmp_path, WORLD)
    other = add_baselines(tmp_path, lists="2e" * 32)
    with pytest.raises(DataError, match=r"these baselines rank other lists than the evaluation \(--baselines\)"):
        report(replace(config, baselines=other))

"""What a study shows beside its tables: recall over k, seeds, pairs of rankers, what mattered in a search."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from xmrank.metrics import holm_correction, paired_tests
from xmrank.report.comparison import SignFlips
from xmrank.report.hyperparameter_importance import importance_of_searches, variance_shares
from xmrank.report.pairwise_tests import compare_pairs
from xmrank.report.recall_curves import draw_recall_curves
from xmrank.report.seeds import draw_seeds
from xmrank.report.stage import report
from xmrank.report.table_making import make_tables, read_seed_means
from xmrank.runtime.errors import DataError

from .synthetic import World, encoded, make_run, read_text, rewrite_manifest
from .test_result_tables import rows

SMALL = World(images=24, seeds=(0,), losses=("ranknet",), epochs=3)


@pytest.fixture
def tables_of(tmp_path):
    """A function from rows to their tables and file."""

    def build(*parts):
        path = tmp_path / "metrics.parquet"
        pq.write_table(encoded(pd.concat([pd.DataFrame(part) for part in parts])), path)
        return make_tables(read_seed_means(path, "")), path

    return build


def test_pairs_of_rankers_are_tested_on_the_same_queries_and_corrected_together(tables_of):
    rng = np.random.default_rng(0)  # 13 queries: all their signs are tried, whatever the order
    values = {loss: rng.random(13) < share for loss, share in (("listnet", 1.1), ("ranknet", 0.1), ("listmle", 0.5))}
    parts = [rows("cosine", -1, [0.0] * 13)] + [rows(loss, 0, v.astype(float)) for loss, v in values.items()]
    tables, path = tables_of(*parts)
    (pairwise,) = compare_pairs(tables, path, "", {}, SignFlips(10_000, 0))
    labels = [row.label for row in tables[0].rows[1:]]
    assert [(pair.first, pair.second) for pair in pairwise.pairs] == [
        (labels[0], labels[1]),
        (labels[0], labels[2]),
        (labels[1], labels[2]),
    ]
    methods = [row.method for row in tables[0].rows[1:]]
    own = {method: values[method].astype(float) for method in methods}
    order = [(methods[0], methods[1]), (methods[0], methods[2]), (methods[1], methods[2])]
    differences = np.stack([own[a] - own[b] for a, b in order], axis=1)
    expected = paired_tests(differences, draws=10_000, seed=0)
    corrected = holm_correction(expected.p)
    for pair, difference, p in zip(pairwise.pairs, expected.difference, corrected, strict=True):
        test = pair.tests[0]
        assert test.difference == pytest.approx(difference)
        assert test.p == pytest.approx(p)
        assert test.mark == ("" if p >= 0.05 else "▲" if difference > 0 else "▼")
    assert pairwise.significant == sum(p < 0.05 for p in corrected) > 0
    assert pairwise.note == ""


def test_pairwise_tests_without_power_say_so(tables_of):
    # Five images: 2 of 32 assignments reach any difference, and three rankers are three tests.
    losses = ("ranknet", "listnet", "listmle")
    tables, path = tables_of(*(rows(loss, 0, [float(n % 2)] * 5) for n, loss in enumerate(("cosine", *losses))))
    (pairwise,) = compare_pairs(tables, path, "", {}, SignFlips(10_000, 0))
    assert pairwise.note == (
        "No difference of this table can be significant: for so few images and 3 tests the smallest possible corrected "
        "p is 0.19."
    )


def test_one_ranker_has_no_pair(tables_of):
    tables, path = tables_of(rows("cosine", -1, [0.0, 1.0]), rows("ranknet", 0, [1.0, 1.0]))
    assert compare_pairs(tables, path, "", {}, SignFlips(10, 0)) == []


def test_seeds_are_dots_where_there_are_several(tables_of):
    two, _ = tables_of(*(rows("ranknet", seed, [1.0, float(seed)]) for seed in (0, 1)), rows("cosine", -1, [0.0, 1.0]))
    (scatter,) = draw_seeds(two)
    assert "RankNet 50.0, 100.0 %; dashed: the first stage, 50.0 %." in scatter.chart.description
    one, _ = tables_of(rows("ranknet", 0, [1.0, 0.0]), rows("cosine", -1, [0.0, 1.0]))
    assert draw_seeds(one) == []


def test_recall_curves_are_means_over_seeds(tables_of, tmp_path):
    tables, _ = tables_of(*(rows("ranknet", seed, [1.0, 0.0]) for seed in (0, 1)), rows("cosine", -1, [0.0, 1.0]))
    (table,) = tables
    key = {"direction": table.direction, "protocol": table.protocol, "k": [1, 10], "hit": [0, 0]}
    ranker = table.rows[-1].ranker
    curves = [
        {**key, "method": "cosine", "ranker": "", "seed": -1, "recall": [0.25, 0.5]},
        {**key, "method": "ranknet", "ranker": ranker, "seed": 0, "recall": [0.2, 0.6]},
        {**key, "method": "ranknet", "ranker": ranker, "seed": 1, "recall": [0.4, None]},
    ]
    path = tmp_path / "curves.json"
    path.write_text(json.dumps({"rows": curves}))
    (curves,) = draw_recall_curves(path, tables)
    assert "First stage @1 25.0 %, @10 50.0 %; RankNet @1 30.0 %, @10 60.0 %." in curves.chart.description
    assert draw_recall_curves(tmp_path / "none.json", tables) == []


def point(value, **settings):
    return {"settings": settings, "value": value}


def test_the_setting_that_decides_has_the_largest_share():
    points = [point(rate + 0.01 * width, rate=rate, width=width, fixed=1) for rate in (1, 2, 3) for width in (1, 2)]
    shares = variance_shares(points)
    assert list(shares) == ["rate", "width"]
    assert shares["rate"] > 0.95
    assert sum(shares.values()) == pytest.approx(1)
    assert variance_shares(points) == shares


def test_drawn_numbers_are_a_range():
    rng = np.random.default_rng(0)
    points = [point(np.log10(rate), rate=float(rate), other=float(rng.random())) for rate in np.logspace(-4, -1, 12)]
    shares = variance_shares(points)
    assert shares["rate"] > 0.8 > 0.2 > shares["other"]


@pytest.mark.parametrize(
    "points",
    [[point(0.1, a=1), point(0.2, a=2)], [point(0.5, a=a) for a in range(6)], [point(a, a=1) for a in range(6)]],
    ids=["too few", "all alike", "nothing varied"],
)
def test_nothing_is_said_where_nothing_can_be(points):
    assert variance_shares(points) == {}


def test_search_is_shown_with_its_best_points(tmp_path):
    config = make_run(tmp_path, dataclasses.replace(SMALL, searched=True))
    manifest = report(config)
    assert set(manifest.inputs) == {"embeddings", "evaluation", "rankers", "search"}
    page, markdown = read_text(config, "report.html"), read_text(config, "report.md")
    section = page.split('<section id="importance">')[1].split("</section>")[0]
    assert section.count("<svg") == section.count("<table") == 2
    best, *_ = importance_of_searches(config.search / "results.json")
    assert best.best[0] == ("learning_rate 0.001, ranker.width 64", 0.5 + 0.1 + 0.002)
    assert list(best.shares) == ["learning_rate", "ranker.width"]
    assert "| learning\\_rate 0.001, ranker.width 64 | 60.2 |" in markdown


def test_search_of_other_lists_is_refused(tmp_path):
    config = make_run(tmp_path, dataclasses.replace(SMALL, searched=True))
    rewrite_manifest(config.search, inputs={"lists": "2e" * 32})
    with pytest.raises(DataError, match=r"--search .*: searched with other lists than --rankers"):
        report(config)


def test_search_that_failed_everywhere_has_no_chart(tmp_path):
    path = tmp_path / "results.json"
    rows = [point(None, a=a) | {"loss": "ranknet", "direction": "i2t"} for a in (1, 2)]
    path.write_text(json.dumps(rows))
    (importance,) = importance_of_searches(path)
    assert importance.points == 0
    assert importance.chart is None
    assert importance_of_searches(None) == []

"""The arithmetic of the result tables, spelled out."""

import csv
import io
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xmrank.report.table_csv import render_csv
from xmrank.report.table_making import make_tables, read_seed_means

from .synthetic import encoded

approx = pytest.approx


def rows(method, seed, values, *, protocol="lists", metric="hit@1", direction="i2t", split="test", ranker=None):
    """Per-query values of one method and seed, as evaluate writes them."""
    first = method == "cosine"
    return [
        {
            "method": method,
            "loss": "" if first else method,
            "ranker": ("" if first else "context_aware") if ranker is None else ranker,
            "seed": np.int32(seed),
            "direction": direction,
            "split": split,
            "protocol": protocol,
            "query_id": f"q{number}",
            "metric": metric,
            "value": value,
            "positives": np.int32(1),
        }
        for number, value in enumerate(values)
    ]


@pytest.fixture
def tables(tmp_path):
    """A function from rows to result tables, through the file."""

    def build(*parts, losses=("ranknet", "listnet"), split="test", row_group_size=3):
        path = tmp_path / "metrics.parquet"
        frame = pd.DataFrame([row for part in parts for row in part])
        pq.write_table(encoded(frame), path, row_group_size=row_group_size)
        return make_tables(read_seed_means(path, split), losses)

    return build


def only(tables, method):
    """The hit@1 of a method where there is one table."""
    (table,) = tables
    (row,) = [row for row in table.rows if row.method == method]
    return row.cells["hit@1"]


def test_mean_over_queries_comes_before_mean_over_seeds(tables):
    # Seed 1 has fewer queries that count; pooling all six values would give 4 / 6.
    made = tables(rows("ranknet", 0, [1.0, 1.0, 1.0, 0.0]), rows("ranknet", 1, [1.0, 0.0, math.nan, math.nan]))
    cell = only(made, "ranknet")
    assert cell.by_seed == (3 / 4, 1 / 2)
    assert cell.mean == approx((3 / 4 + 1 / 2) / 2)


def test_deviation_is_over_seeds_with_n_minus_one(tables):
    made = tables(*(rows("ranknet", seed, values) for seed, values in enumerate(([1.0, 0.0], [1.0, 1.0], [0.0, 0.0]))))
    mean = (0.5 + 1.0 + 0.0) / 3
    squares = (0.5 - mean) ** 2 + (1.0 - mean) ** 2 + (0.0 - mean) ** 2
    assert only(made, "ranknet").deviation == approx(math.sqrt(squares / (3 - 1)))


def test_one_seed_has_no_deviation(tables):
    assert only(tables(rows("ranknet", 0, [1.0, 0.0])), "ranknet").deviation is None


@pytest.mark.parametrize("nothing", [None, math.nan])
def test_excluded_queries_are_left_out_and_counted(tables, nothing):
    cell = only(tables(rows("ranknet", 0, [1.0, nothing, 0.0, 1.0])), "ranknet")
    assert (cell.mean, cell.queries, cell.excluded) == (approx((1.0 + 0.0 + 1.0) / 3), 3, 1)


def test_a_method_without_any_query_that_counts_has_no_figure(tables):
    (table,) = tables(rows("cosine", -1, [1.0]), rows("ranknet", 0, [math.nan]))
    assert [row.cells.keys() for row in table.rows] == [{"hit@1"}, set()]


def test_other_splits_do_not_count(tables):
    made = tables(rows("ranknet", 0, [1.0]), rows("ranknet", 0, [0.0, 0.0], split="val"))
    assert only(made, "ranknet").by_seed == (1.0,)


def test_difference_is_to_the_first_stage(tables):
    made = tables(rows("cosine", -1, [1.0, 0.0, 0.0, 0.0]), rows("ranknet", 0, [1.0, 1.0, 1.0, 0.0]))
    assert only(made, "ranknet").difference == approx(3 / 4 - 1 / 4)
    assert only(made, "cosine").difference is None


def test_first_stage_comes_first_then_losses_as_configured_then_others_by_name(tables):
    names = ["zeta", "listnet", "cosine", "alpha", "ranknet"]
    (table,) = tables(*(rows(name, -1 if name == "cosine" else 0, [1.0]) for name in names))
    assert [row.method for row in table.rows] == ["cosine", "ranknet", "listnet", "alpha", "zeta"]
    assert [row.label for row in table.rows][:3] == ["First stage", "RankNet", "ListNet"]


def test_best_is_best_as_printed(tables):
    # 50.00 % and 50.04 % both print as 50.0.
    close = [1.0] * 1251 + [0.0] * 1249
    made = tables(
        rows("cosine", -1, [0.0, 1.0] * 1250), rows("ranknet", 0, close), rows("listnet", 0, [0.0]), row_group_size=1000
    )
    assert [only(made, name).best for name in ("cosine", "ranknet", "listnet")] == [True, True, False]


def test_a_single_row_is_not_best(tables):
    assert not only(tables(rows("cosine", -1, [1.0])), "cosine").best


def test_top_n_stands_beside_the_first_stage_on_the_full_gallery(tables):
    made = tables(
        rows("cosine", -1, [0.0], protocol="lists"),
        rows("cosine", -1, [1.0], protocol="gallery"),
        rows("ranknet", 0, [1.0], protocol="lists"),
        rows("ranknet", 0, [0.0], protocol="top-100"),
        rows("ranknet", 0, [1.0], protocol="top-50"),
    )
    assert [table.protocol for table in made] == ["lists", "top-50", "top-100"]
    assert [table.rows[1].cells["hit@1"].difference for table in made] == [1.0, 0.0, -1.0]
    assert made[2].title == "Full gallery, top 100 re-ranked: image → text"


def test_the_bare_gallery_is_shown_when_nothing_re_ranks_it(tables):
    made = tables(rows("cosine", -1, [0.0], protocol="gallery"), rows("cosine", -1, [1.0]))
    assert [table.title for table in made] == ["Candidate lists: image → text", "Full gallery: image → text"]


def test_several_rankers_are_told_apart(tables):
    (table,) = tables(rows("ranknet", 0, [1.0]), rows("ranknet", 0, [0.0], ranker="pointwise"))
    assert [row.label for row in table.rows] == ["RankNet (context_aware)", "RankNet (pointwise)"]


def test_different_numbers_of_queries_are_seen(tables):
    (table,) = tables(rows("cosine", -1, [1.0, 1.0]), rows("ranknet", 0, [1.0, math.nan]))
    assert (table.query_counts, table.excluded) == ([1, 2], 1)


def test_csv_has_every_figure_in_full(tables):
    made = tables(
        rows("cosine", -1, [1.0, 0.0, 0.0]), rows("ranknet", 0, [1.0, 1.0, 0.0]), rows("ranknet", 1, [1.0] * 3)
    )
    first, ranker = csv.DictReader(io.StringIO(render_csv(made, "test")))
    assert (first["mean_percent"], first["std_percent"], first["difference_points"]) == ("33.3333", "", "")
    assert ranker["mean_percent"] == f"{100 * (2 / 3 + 1) / 2:.4f}"
    assert ranker["std_percent"] == f"{100 * math.sqrt(((2 / 3 - 5 / 6) ** 2 + (1 - 5 / 6) ** 2) / 1):.4f}"
    assert ranker["difference_points"] == f"{100 * (5 / 6 - 1 / 3):.4f}"
    assert (ranker["seeds"], ranker["queries"], ranker["excluded"], ranker["best"]) == ("2", "3", "0", "1")


def test_an_empty_table_of_metrics_gives_no_tables(tmp_path):
    schema = pa.table(
        {key: pa.array([], pa.string()) for key in ("protocol", "direction", "method", "ranker", "metric")}
    )
    empty = schema.append_column("seed", pa.array([], pa.int32())).append_column("split", pa.array([], pa.string()))
    pq.write_table(empty.append_column("value", pa.array([], pa.float64())), tmp_path / "metrics.parquet")
    assert make_tables(read_seed_means(tmp_path / "metrics.parquet", "test")) == []

"""The tests behind the marks: what is compared with what, in which family, and where the marks are."""

import csv
import dataclasses
import io
import math

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from xmrank.config import ReportConfig
from xmrank.metrics import holm_correction, paired_tests
from xmrank.protocols.protocol_names import first_stage_protocol, protocol_name, reranking_depth, shown_protocols
from xmrank.report.comparison import SignFlips, add_tests
from xmrank.report.gain_charts import draw_gains
from xmrank.report.inputs import TrialRecord
from xmrank.report.kept_start import mark_kept_starts
from xmrank.report.latex import escape_latex, render_latex
from xmrank.report.pairwise_tests import compare_pairs
from xmrank.report.published import compare_published
from xmrank.report.reranking_depth import measure_depths
from xmrank.report.result_tables import (
    ComparedCell,
    ResultTable,
    TableCell,
    TableRow,
    deepest_tables,
)
from xmrank.report.statistical_power import describe_power, find_smallest_p
from xmrank.report.summary import summarise_results
from xmrank.report.table_csv import render_csv
from xmrank.report.table_making import make_tables, read_seed_means
from xmrank.report.terminal import print_tables
from xmrank.runtime.errors import ConfigError

from .synthetic import encoded
from .test_result_tables import rows

DRAWS, FEW = SignFlips(2000, 0), SignFlips(200, 0)
ONE_POSITIVE = (("cosine", -1, [0.0] * 6), ("ranknet", 0, [1.0, 1.0, 1.0, 1.0, 1.0, 0.0]))
approx = pytest.approx


@pytest.fixture
def tested(tmp_path):
    """A function from rows to tested tables, through the file."""

    def build(*parts, images=None, draws=DRAWS):
        path = build.path
        pq.write_table(encoded(pd.DataFrame([row for part in parts for row in part])), path)
        return add_tests(make_tables(read_seed_means(path, "test")), path, "test", images or {}, draws)

    build.path = tmp_path / "metrics.parquet"
    return build


def cell_test(tables, method="ranknet", number=0, metric="hit@1"):
    (row,) = [row for row in tables[number].rows if row.method == method]
    return row.cells[metric].test


def test_differences_are_averaged_over_seeds_before_they_are_tested(tested):
    # Two seeds: differences 1, 0, 1 and 1, 1, 0, on average 1, 1/2, 1/2. Of 8 assignments, +++ and −−− reach 2.
    tables = tested(
        rows("cosine", -1, [0.0, 0.0, 0.0]), rows("ranknet", 0, [1.0, 0.0, 1.0]), rows("ranknet", 1, [1.0, 1.0, 0.0])
    )
    test = cell_test(tables)
    assert test.p == 2 / 8
    assert (test.wins, test.ties, test.losses, test.agreeing) == (3, 0, 0, 2)
    assert cell_test(tables, "cosine") is None


def test_captions_of_an_image_are_one_cluster(tested):
    parts = rows("cosine", -1, [0.0] * 4, direction="t2i"), rows("ranknet", 0, [1.0] * 4, direction="t2i")
    assert cell_test(tested(*parts)).p == 2 / 16
    assert cell_test(tested(*parts, images={"q0": "a", "q1": "a", "q2": "b", "q3": "b"})).p == 2 / 4


def test_queries_are_paired_by_id_not_by_place(tested):
    ours = rows("ranknet", 0, [1.0, 0.0, 1.0, 0.0])
    one = cell_test(tested(rows("cosine", -1, [1.0, 0.0, 0.0, 0.0]), ours))
    other = cell_test(tested(rows("cosine", -1, [1.0, 0.0, 0.0, 0.0]), ours[::-1]))
    assert one == other
    assert (one.wins, one.ties, one.losses) == (1, 3, 0)


def test_excluded_queries_do_not_count(tested):
    test = cell_test(tested(rows("cosine", -1, [0.0, math.nan, 0.0]), rows("ranknet", 0, [1.0, math.nan, 0.0])))
    assert test.wins + test.ties + test.losses == 2


def test_several_lists_of_one_query_are_told_apart(tested):
    def twice(method, seed, values):
        made = rows(method, seed, values)
        return [{**row, "query_id": f"q{number // 2}"} for number, row in enumerate(made)]

    test = cell_test(tested(twice("cosine", -1, [0.0, 0.0, 0.0, 0.0]), twice("ranknet", 0, [1.0, 0.0, 1.0, 1.0])))
    assert (test.wins, test.ties) == (3, 1)


def test_holm_is_over_columns_and_methods_and_both_directions_of_a_protocol(tested):
    generator = np.random.default_rng(0)
    parts, differences = [], {}
    for protocol in ("lists", "top-10"):
        base = "gallery" if protocol == "top-10" else protocol
        for direction in ("i2t", "t2i"):
            for metric in ("hit@1", "mrr"):
                first = generator.random(60)
                parts.append(rows("cosine", -1, first, protocol=base, metric=metric, direction=direction))
                for method in ("ranknet", "listnet"):
                    ours = first + generator.normal(0.05, 0.2, 60)
                    parts.append(rows(method, 0, ours, protocol=protocol, metric=metric, direction=direction))
                    differences[protocol, direction, method, metric] = ours - first
    tables = tested(*parts)
    for protocol in ("lists", "top-10"):
        keys = [key for key in differences if key[0] == protocol]
        # Clusters are in the order of their names on both sides, so that the draws are the same.
        order = np.argsort([f"q{number}" for number in range(60)])
        p = [paired_tests(differences[key][order][:, None], draws=2000).p[0] for key in keys]
        by_key = dict(zip(keys, holm_correction(p), strict=True))
        assert len(by_key) == 2 * 2 * 2
        for (_, direction, method, metric), expected in by_key.items():
            number = next(i for i, t in enumerate(tables) if (t.protocol, t.direction) == (protocol, direction))
            assert cell_test(tables, method, number, metric).corrected == approx(expected)


def test_rankers_are_tested_against_the_refined_first_stage_too(tested):
    # The ranker has what the refinement has, but for one query of eight; the baseline is no ranker.
    first, refined = np.zeros(8), np.array([1.0] * 7 + [0.0])
    ranker = np.array([1.0] * 8)
    plain = [rows("cosine", -1, first), rows("listnet", 0, refined), rows("cca", 0, ranker, ranker="baseline")]
    both = [
        *(rows("refined", seed, refined, ranker="") for seed in (0, 1)),
        *(rows("ranknet", seed, ranker) for seed in (0, 1)),
    ]
    unrefined, (table,) = tested(*plain), tested(*plain, *both)
    assert [row.label for row in table.rows][:3] == ["First stage", "CCA", "Refined first stage"]
    cells = {row.method: row.cells["hit@1"] for row in table.rows}
    ranknet = cells["ranknet"]
    assert (ranknet.difference, ranknet.refined_difference) == (1.0, 1 / 8)
    # All signs of eight queries: 2 of 256 reach 8; one query of eight decides nothing.
    assert ranknet.test.p == approx(2 / 256) and ranknet.refined_test.p == 1.0
    assert (ranknet.refined_test.wins, ranknet.refined_test.ties, ranknet.refined_test.agreeing) == (1, 7, 2)
    # Equal to the refinement: all that it has over the first stage is the refinement's.
    assert (cells["listnet"].refined_difference, cells["listnet"].refined_test.p) == (0.0, 1.0)
    assert cells["cca"].refined_test is None and cells["refined"].refined_test is None
    # Without the refined row nothing is added to the tables.
    assert not any(cell.refined_test or cell.refined_difference for t in unrefined for cell in t.all_cells())
    header, *lines = csv.reader(io.StringIO(render_csv([table], "test")))
    assert header[-4:] == [
        *("difference_to_refined_points", "p_to_refined", "p_holm_to_refined", "significant_to_refined"),
    ]
    (line,) = [line for line in lines if line[header.index("method")] == "ranknet"]
    assert line[-4:] == ["12.5000", "1", "1", "0"]


def test_many_tests_get_more_sign_flips(tested):
    # 20 methods: 1 / (1 + 200) times 20 is 0.1, whatever the difference.
    first = np.zeros(40)
    tables = tested(rows("cosine", -1, first), *(rows(f"loss{n:02}", 0, first + 1) for n in range(20)), draws=FEW)
    assert tables[0].tests == 20 and tables[0].smallest_p < 0.05
    assert all(row.cells["hit@1"].test.corrected < 0.05 for row in tables[0].rows[1:])


def test_hit_and_recall_of_lists_with_one_positive_are_one_test(tested):
    parts = [rows(m, s, v, metric=metric) for metric in ("hit@1", "recall@1") for m, s, v in ONE_POSITIVE]
    (table,) = tested(*parts)
    (row,) = table.rows[1:]
    assert table.tests == 1
    assert row.cells["hit@1"].test == row.cells["recall@1"].test
    assert row.cells["hit@1"].test.corrected == row.cells["hit@1"].test.p
    # Five positives: the recall is another value, and another test.
    other = [rows(m, s, np.array(v) / 5, metric="recall@1") for m, s, v in ONE_POSITIVE]
    (table,) = tested(*parts[:2], *other)
    assert table.tests == 2


def test_a_table_without_power_says_so(tested):
    # Three queries: 2 of 8 assignments reach any difference.
    (table,) = tested(rows("cosine", -1, [0.0] * 3), rows("ranknet", 0, [1.0] * 3))
    assert table.smallest_p == 2 / 8
    assert "smallest possible corrected p is 0.25" in describe_power(table.tests, table.smallest_p)
    (table,) = tested(rows("cosine", -1, [0.0] * 30), rows("ranknet", 0, [1.0] * 30))
    assert describe_power(table.tests, table.smallest_p) == ""


def test_images_without_a_query_that_counts_give_no_power():
    # Images a, b and c count in the first column, only a in the second, d in none: 2 of 8 assignments are extreme.
    differences = np.array([[1.0, 1.0], [math.nan, math.nan], [1.0, math.nan], [1.0, math.nan], [math.nan, math.nan]])
    assert find_smallest_p(differences, ["a", "a", "c", "b", "d"], 10_000) == 2 / 8
    # Also where there are too many images to try all signs.
    many = np.full((100, 1), math.nan)
    many[:3] = 1.0
    assert find_smallest_p(many, [f"q{n:02}" for n in range(100)], 10_000) == 2 / 8
    assert paired_tests(many, draws=10_000).p[0] == approx(2 / 8, abs=0.02)


def test_latex_has_the_test_against_the_refined_first_stage_too(tested):
    first, half = np.zeros(16), np.array([1.0, 0.0] * 8)
    parts = rows("cosine", -1, first), rows("refined", 0, half, ranker=""), rows("ranknet", 0, np.ones(16))
    tables = tested(*parts)
    made = render_latex(tables)
    assert r"RankNet & \textbf{100.0}$^{\uparrow\Uparrow}$" in made
    assert r"$^{\Uparrow}$, $^{\Downarrow}$: by the same test, above or below the refined first stage" in made
    assert "Uparrow" not in render_latex(tested(*parts[::2]))
    assert "Kept its start" not in made


def test_rankers_that_kept_their_start_are_no_best_and_no_gain(tested):
    parts = rows("cosine", -1, [0.0] * 16), rows("ranknet", 0, np.ones(16)), rows("listnet", 0, [1.0, 0.0] * 8)
    trials = [TrialRecord("ranknet", "i2t", 0, 0, []), TrialRecord("listnet", "i2t", 0, 2, [])]
    tables = mark_kept_starts(tested(*parts), trials)
    cells = {row.label: row.cells["hit@1"] for row in tables[0].rows}
    assert {label: cell.best for label, cell in cells.items()} == {
        "First stage": False,
        "RankNet": False,
        "ListNet": True,
    }
    assert (cells["RankNet"].mark, cells["ListNet"].mark) == ("", "▲")
    assert cells["RankNet"].test.significant  # the figure's test stays, for the CSV
    made = render_latex(tables)
    assert "RankNet (kept its start) & 100.0 &" in made and "Kept its start: no epoch" in made
    (pairwise,) = compare_pairs(tables, tested.path, "test", {}, DRAWS)
    assert {pairwise.pairs[0].first, pairwise.pairs[0].second} == {"ListNet", "RankNet (kept its start)"}
    assert "RankNet (kept its start)" in [row.label for row in compare_published(tables)[0].rows]


def test_the_oracle_is_a_ceiling_and_no_method(tested):
    tables = tested(
        rows("cosine", -1, [0.0, 1.0], protocol="gallery"),
        rows("oracle", -1, [1.0, 1.0], protocol="top-10"),
        rows("ranknet", 0, [0.0, 1.0], protocol="top-10"),
    )
    (table,) = tables
    assert [row.method for row in table.rows] == ["cosine", "ranknet"]
    assert table.ceiling.cells["hit@1"].mean == 1.0
    assert "oracle,,hit@1,100.0000" in render_csv(tables, "test")
    assert not table.ceiling.cells["hit@1"].best


def cell(mean=0.5, difference=0.1, p=0.001, best=False):
    test = ComparedCell(difference - 0.02, difference + 0.02, p, p, 30, 60, 10, 2)
    return TableCell((mean - 0.01, mean + 0.01), 100, 0, difference, best, test)


def one_table(tested, protocol="lists"):
    first = TableRow("cosine", "", "First stage", {"hit@1": TableCell((0.4,), 100, 0)})
    return ResultTable(protocol, "i2t", (first, TableRow("rank_net", "", "rank_net", {"hit@1": tested})))


@pytest.mark.parametrize(
    ("tested", "mark"),
    [
        (cell(), "50.0±1.4▲"),
        (cell(best=True), "50.0±1.4★"),
        (cell(difference=-0.1), "50.0±1.4▼"),
        (cell(p=0.2, best=True), "50.0±1.4*"),
        (cell(p=0.05), "50.0±1.4 "),  # below 0.05, not at it
    ],
)
def test_marks_on_the_terminal(capsys, tested, mark):
    print_tables([one_table(tested)])
    printed = capsys.readouterr().out
    assert mark in printed
    assert "sign-flip test by image" in printed


def test_the_picture_of_gains_has_their_intervals_and_colours_what_is_significant():
    (gain,) = draw_gains([one_table(cell(difference=0.1))])
    assert "rank_net +10.0 (+8.0 to +12.0) over the first stage." in gain.chart.description
    assert "var(--up)" in gain.chart.svg and "var(--down)" not in gain.chart.svg and not gain.refined
    (gain,) = draw_gains([one_table(cell(difference=-0.1))])
    assert "var(--down)" in gain.chart.svg and "var(--up)" not in gain.chart.svg
    (gain,) = draw_gains([one_table(cell(p=0.2))])
    assert "var(--down)" not in gain.chart.svg and "var(--up)" not in gain.chart.svg
    assert draw_gains([one_table(TableCell((0.4,), 100, 0))]) == []


def test_the_picture_of_gains_has_those_over_the_refined_first_stage():
    own = dataclasses.replace(
        cell(), refined_difference=0.02, refined_test=ComparedCell(-0.01, 0.05, 0.4, 0.8, 1, 1, 1, 1)
    )
    refined = TableRow("refined", "", "Refined first stage", {"hit@1": cell(difference=0.08)})
    table = one_table(own)
    (gain,) = draw_gains([dataclasses.replace(table, rows=(table.rows[0], refined, table.rows[1]))])
    assert (
        "+10.0 (+8.0 to +12.0) over the first stage, +2.0 (−1.0 to +5.0) over the refined first stage."
        in gain.chart.description
    )
    assert gain.refined and "Refined first stage +" not in gain.chart.description


def test_the_summary_follows_the_test():
    assert "beats the first stage’s hit@1 in 1 of 1" in summarise_results([one_table(cell())]).lead
    assert "makes no clear difference in 1" in summarise_results([one_table(cell(p=0.5))]).lead
    assert "significantly above the first stage, the mean of 2 seeds" in summarise_results([one_table(cell())]).caution


def test_the_summary_counts_a_gallery_once():
    protocols = ("lists", "top-10", "top-50", "top-10-of-5x10")
    tables = [one_table(cell(), protocol) for protocol in protocols]
    assert [table.protocol for table in deepest_tables(tables)] == ["lists", "top-50", "top-10-of-5x10"]
    assert "in 3 of 3 comparisons" in summarise_results(tables).lead


def test_csv_has_interval_and_p():
    _, line = csv.DictReader(io.StringIO(render_csv([one_table(cell())], "test")))
    expected = {"ci_low_points": "8.0000", "ci_high_points": "12.0000", "p": "0.001", "p_holm": "0.001"}
    expected |= {"significant": "1", "wins": "30", "ties": "60", "losses": "10", "seeds_agreeing": "2"}
    assert expected.items() <= line.items()


def test_latex_is_balanced_and_escaped():
    table = one_table(cell(best=True))
    made = render_latex([table, dataclasses.replace(table, direction="t2i", ceiling=table.rows[0])])
    assert r"rank\_net & \textbf{50.0}$_{\pm 1.4}^{\uparrow}$ & --" in made
    for name in ("table*", "tabular"):
        assert made.count(rf"\begin{{{name}}}") == made.count(rf"\end{{{name}}}") == 2
    assert made.count("{") == made.count("}")
    assert made.count("$") % 2 == 0
    body = [line for line in made.splitlines() if line.endswith(r" \\") and "multicolumn" not in line]
    assert {line.count(" & ") for line in body} == {8}
    assert made.isascii()
    assert escape_latex("50 % of a_b & {x} ~ ^ \\ # $") == (
        r"50 \% of a\_b \& \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{} \# \$"
    )


def test_names_of_protocols():
    assert protocol_name("top-100-of-5x1000") == "5 galleries of 1,000 images, top 100 re-ranked"
    assert protocol_name("gallery-5000") == "Gallery of 5,000 images"
    assert (first_stage_protocol("top-9"), first_stage_protocol("top-9-of-5x10")) == ("gallery", "gallery-5x10")
    assert (first_stage_protocol("lists"), reranking_depth("lists"), reranking_depth("top-9-of-10")) == ("lists", 0, 9)
    ranked = ["lists", "top-100", "top-20", "top-20-of-10"]
    assert shown_protocols(ranked, [*ranked, "gallery", "gallery-10", "gallery-7"]) == [
        "lists", "top-20", "top-100", "top-20-of-10", "gallery-7",
    ]  # fmt: skip


def test_quality_over_n(tested):
    parts = [rows("cosine", -1, [0.0, 1.0, 0.0], protocol="gallery")]
    for n, ours, best in ((5, [0.0, 1.0, 0.0], [0.0, 1.0, 1.0]), (20, [1.0, 1.0, 0.0], [1.0, 1.0, 1.0])):
        parts.append(rows("ranknet", 0, ours, protocol=f"top-{n}"))
        parts.append(rows("oracle", -1, best, protocol=f"top-{n}"))
    tables = tested(*(part for part in parts), *(relabelled(part, "recall@10") for part in parts))
    (depths,) = measure_depths(tables)
    assert depths.numbers == (5, 20)
    assert [group.metric for group in depths.groups] == ["hit@1", "recall@10"]
    figures = {line.label: [cell.mean for cell in line.cells] for line in depths.groups[0].lines}
    assert figures["First stage"] == [1 / 3, 1 / 3]
    assert figures["RankNet"] == [approx(1 / 3), approx(2 / 3)]
    assert figures["Best possible"] == [approx(2 / 3), 1.0]
    assert "RankNet 33.3, 66.7 %; Best possible 66.7, 100.0 %." in depths.groups[0].chart.description
    assert measure_depths(tables[:1]) == []


def relabelled(part, metric):
    return [{**row, "metric": metric} for row in part]


@pytest.mark.parametrize(("flag", "wrong"), [("draws", 0), ("seed", -1)])
def test_a_wrong_flag_is_one_line(flag, wrong):
    with pytest.raises(ConfigError, match=f"--{flag} {wrong}: expected at least"):
        ReportConfig(**{flag: wrong})

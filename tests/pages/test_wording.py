"""Formats, the summary and the paper's table."""

import math

import pytest

from xmrank.pages.markdown_text import escape_markdown
from xmrank.pages.wording import count_noun, describe_value, format_percent, format_points, join_words
from xmrank.report.protocol_names import protocol_name
from xmrank.report.published import READING, TABLE_2, compare_published
from xmrank.report.result_tables import ResultTable, TableCell, TableRow
from xmrank.report.summary import summarise_results


def row(method, *by_seed, level=0.5, metrics=("hit@1",)):
    """A method's row; its difference is to a first stage at ``level``."""
    difference = None if method == "cosine" else sum(by_seed) / len(by_seed) - level
    cells = {metric: TableCell(by_seed, queries=400, excluded=0, difference=difference) for metric in metrics}
    return TableRow(method, "", {"cosine": "First stage"}.get(method, method.title()), cells)


def table(*rows, protocol="lists", direction="t2i"):
    return ResultTable(protocol, direction, (row("cosine", 0.5), *rows))


def test_percent_and_points():
    assert (format_percent(0.41234), format_percent(0.41234, 2), format_percent(1), format_percent(math.nan)) == (
        "41.2",
        "41.23",
        "100.0",
        "–",
    )
    assert (format_points(0.0123), format_points(-0.0123), format_points(0.0004), format_points(-0.0004)) == (
        "+1.2",
        "−1.2",
        "0.0",
        "0.0",
    )


def test_words():
    assert (join_words(["a"]), join_words(["a", "b"]), join_words(["a", "b", "c"])) == ("a", "a and b", "a, b and c")
    assert (count_noun(1, "query"), count_noun(1200, "query"), count_noun(4, "loss")) == (
        "1 query",
        "1,200 queries",
        "4 losses",
    )
    assert describe_value({"i2t": 51, "all": True, "none": None}) == "i2t 51, all yes, none none"
    assert protocol_name("top-100") == "Full gallery, top 100 re-ranked"


def test_summary_counts_wins_losses_and_what_is_unclear():
    summary = summarise_results(
        [table(row("a", 0.6, 0.52), row("b", 0.4, 0.45), row("c", 0.4, 0.65)), table(row("a", 0.7, 0.7))]
    )
    assert summary.lead == (
        "Re-ranking beats the first stage’s hit@1 in 2 of 4 comparisons, falls behind in 1 "
        "and makes no clear difference in 1."
    )


def test_summary_names_each_loss_with_its_figure():
    summary = summarise_results([table(row("a", 0.6, 0.52), row("b", 0.4, 0.45), row("c", 0.4, 0.65))])
    ((setting, sentence),) = summary.findings
    assert setting == "Candidate lists, text → image"
    assert sentence.replace("\N{NO-BREAK SPACE}", " ") == (
        "A (56.0 %, +6.0) beats the first stage’s 50.0 %; B (42.5 %, −7.5) falls behind; "
        "C (52.5 %, +2.5) makes no clear difference."
    )


def test_summary_says_when_nothing_helps():
    ((_, sentence),) = summarise_results([table(row("a", 0.4), row("b", 0.3))]).findings
    assert sentence.replace("\N{NO-BREAK SPACE}", " ") == (
        "no loss beats the first stage’s 50.0 %; A (40.0 %, −10.0) and B (30.0 %, −20.0) fall behind."
    )


def test_summary_counts_none_and_all_in_words():
    assert summarise_results([table(row("a", 0.4))]).lead.endswith("in none of 1 comparisons and falls behind in 1.")
    assert summarise_results([table(row("a", 0.6))]).lead.endswith("in 1 of 1 comparisons and falls behind in none.")


def test_summary_tells_the_error_of_the_draw():
    # The largest is at a half: sqrt(0.5 · 0.5 / 400) = 2.5 points.
    assert "up to 2.5 points" in summarise_results([table(row("a", 0.9))]).caution


def test_summary_without_a_ranker():
    assert "No ranker" in summarise_results([table()]).lead


def test_table_2_stands_under_the_direction_that_it_is_of():
    cuts = ("hit@1", "hit@5", "hit@10", "recall@1", "recall@5", "recall@10")
    tables = [ResultTable("lists", d, (row("cosine", 0.5, metrics=cuts),)) for d in ("i2t", "t2i")]
    text_query, image_query = compare_published(tables)
    assert text_query.title == "text → image: R@k of the paper, hit@k of this run"
    assert image_query.title == "image → text: R@k of the paper, recall@k of this run"
    paper = {r.label: r.figures[0] for r in text_query.rows}
    assert paper["First stage (paper: CLIP)"] == ("29.46", "83.46", "90.30")
    assert {r.label: r.figures[0] for r in image_query.rows}["RankNet"] == ("13.22", "55.24", "77.46")
    assert text_query.rows[0].figures[1] == ("50.00", "50.00", "50.00")


def test_a_method_that_the_paper_lacks_has_ours_only():
    lists = ResultTable("lists", "t2i", (row("cosine", 0.5), row("triplet", 0.25)))
    (text_query,) = compare_published([lists])
    by_label = {r.label: r.figures for r in text_query.rows}
    assert by_label["triplet"] == (("–", "–", "–"), ("25.00", "–", "–"))
    assert by_label["DCCA"] == (("12.60", "31.00", "43.00"), ("–", "–", "–"))


def test_relative_gains_of_the_papers_text_are_those_of_the_table():
    rank_net, clip = (float(TABLE_2[name]["i2t"][2]) for name in ("ranknet", "cosine"))
    assert 100 * (rank_net / clip - 1) == pytest.approx(5.13, abs=0.005)
    neural, dcca = (float(TABLE_2[name]["t2i"][1]) for name in ("neural_ndcg", "dcca"))
    assert 100 * (neural / dcca - 1) == pytest.approx(158.7, abs=0.05)
    assert READING[0].startswith("Not comparable")


def test_markdown_is_escaped():
    assert escape_markdown("a|b\n<script>*x*") == "a\\|b &lt;script&gt;\\*x\\*"

"""The paper's table beside the figures of a run."""

from dataclasses import replace

import pytest

from xmrank.report.published import READING, TABLE_2, compare_published
from xmrank.report.result_tables import ResultTable

from .test_summary import row


def test_table_2_is_under_its_own_direction():
    cuts = ("hit@1", "hit@5", "hit@10", "recall@1", "recall@5", "recall@10")
    tables = [ResultTable("lists", d, (row("cosine", 0.5, metrics=cuts),)) for d in ("i2t", "t2i")]
    text_query, image_query = compare_published(tables)
    assert text_query.title == "text → image: R@k of the paper, hit@k of this run"
    assert image_query.title == "image → text: R@k of the paper, recall@k of this run (hit@k for DCCA and CMPM)"
    paper = {r.label: r.figures[0] for r in text_query.rows}
    assert paper["First stage (paper: CLIP)"] == ("29.46", "83.46", "90.30")
    assert {r.label: r.figures[0] for r in image_query.rows}["RankNet"] == ("13.22", "55.24", "77.46")
    assert text_query.rows[0].figures[1] == ("50.00", "50.00", "50.00")


def test_rows_that_other_papers_published_have_our_hits_beside_them():
    def measured(method):
        cells = {f"{kind}@{k}": level for kind, level in (("hit", 0.8), ("recall", 0.2)) for k in (1, 5, 10)}
        return replace(
            row(method, 0.8), cells={name: row(method, level).cells["hit@1"] for name, level in cells.items()}
        )

    gallery = ResultTable("gallery", "i2t", tuple(measured(name) for name in ("cosine", "dcca", "cmpm", "ranknet")))
    (image_query,) = compare_published([gallery])
    by_label = {r.label: r.figures for r in image_query.rows}
    assert by_label["DCCA (hit@k)"] == (("16.70", "39.30", "52.90"), ("80.00", "80.00", "80.00"))
    assert by_label["CMPM (hit@k)"] == (("37.10", "65.80", "76.30"), ("80.00", "80.00", "80.00"))
    # CLIP's row and the rankers' are the fraction found / total.
    assert by_label["RankNet"][1] == by_label["First stage (paper: CLIP)"][1] == ("20.00", "20.00", "20.00")


def test_the_reading_compares_no_direction_of_an_effect():
    assert "Not even the direction of an effect can be compared" in READING[0]
    assert "the CLIP row is the full gallery" in READING[0]


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

"""The summary in words, and the names of protocols."""

from dataclasses import replace

from xmrank.protocols.protocol_names import protocol_name
from xmrank.report.result_tables import ResultTable, TableCell, TableRow
from xmrank.report.summary import summarise_results


def row(method, *by_seed, level=0.5, metrics=("hit@1",)):
    """A method's row; its difference is to a first stage at ``level``."""
    difference = None if method == "cosine" else sum(by_seed) / len(by_seed) - level
    cells = {metric: TableCell(by_seed, queries=400, excluded=0, difference=difference) for metric in metrics}
    return TableRow(method, "", {"cosine": "First stage"}.get(method, method.title()), cells)


def table(*rows, protocol="lists", direction="t2i"):
    return ResultTable(protocol, direction, (row("cosine", 0.5), *rows))


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


def test_a_loss_that_changed_nothing_is_no_gain():
    kept, partly = (
        replace(row("a", 0.6, 0.6), kept_start=2, trials=2),
        replace(row("b", 0.7, 0.6), kept_start=1, trials=2),
    )
    summary = summarise_results([table(kept, partly)])
    assert summary.lead == (
        "Re-ranking beats the first stage’s hit@1 in 1 of 1 comparisons and falls behind in none. "
        "1 comparison is not counted: the rankers kept their start, so the loss changed nothing."
    )
    ((_, sentence),) = summary.findings
    assert sentence.replace("\N{NO-BREAK SPACE}", " ") == (
        "B (65.0 %, +15.0) beats the first stage’s 50.0 %; A (60.0 %, +10.0) kept its start."
    )
    assert (kept.marked_label, partly.marked_label) == ("A (kept its start)", "B (kept its start in 1 of 2 seeds)")
    assert summarise_results([table(kept)]).lead.startswith("No loss changed a ranker, so none beats")


def test_rankers_are_compared_with_the_refined_first_stage_too():
    refined = replace(row("refined", 0.6, 0.6), label="Refined first stage")
    summary = summarise_results([table(refined, row("a", 0.7, 0.65), row("b", 0.6, 0.62), row("c", 0.55, 0.55))])
    assert summary.lead == (
        "Re-ranking beats the first stage’s hit@1 in 3 of 3 comparisons and falls behind in none. Against the refined "
        "first stage, which has no ranking loss, it is ahead in 1 of 3, behind in 1, "
        "and without a clear difference in 1."
    )
    ((_, sentence),) = summary.findings
    assert sentence.replace("\N{NO-BREAK SPACE}", " ").endswith(
        "; above the refined first stage (60.0 %, +10.0), which has no loss: A."
    )


def test_summary_without_a_ranker():
    assert "No ranker" in summarise_results([table()]).lead


def test_protocols_as_headings():
    assert protocol_name("top-100") == "Full gallery, top 100 re-ranked"

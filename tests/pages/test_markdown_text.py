"""Markdown: escaping and tables."""

from xmrank.pages.markdown_text import escape_markdown, format_table


def test_markdown_is_escaped():
    assert escape_markdown("a|b\n<script>*x*") == "a\\|b &lt;script&gt;\\*x\\*"


def test_the_columns_of_figures_are_aligned_and_not_escaped():
    assert format_table(("method", "a", "b"), [("rank_net", "**1**", "–")]) == [
        "| method | a | b |",
        "| --- | --: | --: |",
        "| rank\\_net | **1** | – |",
    ]
    assert format_table(("", ""), [("a*", "b*")]) == ["|  |  |", "| --- | --- |", "| a\\* | b\\* |"]

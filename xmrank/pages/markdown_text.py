"""Text and tables in Markdown."""

import re
from collections.abc import Iterable, Sequence


def escape_markdown(text: str) -> str:
    """Text as Markdown shows it literally, also where it holds markup or the end of a table's cell."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", text)


def format_table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table.

    Args:
        heading: names of the columns. With more than two of them, all but the first are figures: they are aligned to
            the right and not escaped.
        rows: texts of the cells.
    """
    figures = len(heading) > 2
    rule = ["---", *("--:" if figures else "---" for _ in heading[1:])]
    body = []
    for first, *rest in rows:
        cells = rest if figures else [escape_markdown(text) for text in rest]
        body.append([escape_markdown(first), *cells])
    return [f"| {' | '.join(cells)} |" for cells in (list(heading), rule, *body)]

"""The report as Markdown."""

import re
from collections.abc import Iterable, Sequence

from xmrank.pages.wording import DIRECTION_NAMES, GLOSSARY, METRICS, metric_name, percent, points
from xmrank.report.content import ReportContent
from xmrank.report.examples import ExampleGallery, ExampleItem, ExampleQuery
from xmrank.report.hyperparameter_importance import HyperparameterImportance
from xmrank.report.learning_curves import LearningCurves
from xmrank.report.pairwise_tests import SHOWN, PairwiseTest, PairwiseTests
from xmrank.report.published import READING, PublishedComparison
from xmrank.report.reranking_depth import RerankingDepth
from xmrank.report.result_tables import ResultTable, TableCell


def render_markdown(content: ReportContent) -> str:
    """The whole report without its pictures and charts."""
    lines = [f"# {escape(content.title)}", "", escape(content.subtitle), ""]
    lines += [f"**{escape(content.verdict.lead)}**", ""]
    lines += [*(f"- {escape(place)}: {escape(found)}" for place, found in content.verdict.places), ""]
    lines += [escape(content.verdict.caution), ""]
    lines += ["## What was run", "", *_grid(("", ""), content.card), ""]
    lines += ["Fingerprints:", "", *(f"- {name}: `{value}`" for name, value in content.fingerprints), ""]
    lines += [
        "## Results",
        "",
        "Percent; mean ± standard deviation over seeds (difference to the first stage in points; ▲▼: significant, "
        "p < 0.05 by the sign-flip test clustered by image, Holm-corrected over the protocol).",
        "",
    ]
    for table in content.tables:
        lines += [*_results(table), *([escape(content.notes[table.title]), ""] if table.title in content.notes else [])]
    lines += ["## The rankers against each other", ""] if content.rivals else []
    for rivals in content.rivals:
        lines += _rivals(rivals)
    lines += ["## What mattered in the search", ""] if content.searches else []
    for searched in content.searches:
        lines += _searched(searched)
    lines += ["## How deep to re-rank", ""] if content.depths else []
    for depths in content.depths:
        lines += _depths(depths)
    lines += ["## Best epochs", "", *_best_epochs(content.curves), ""] if content.curves else []
    lines += _examples(content.gallery)
    lines += ["## Beside the paper's Table 2", "", *(f"- {escape(note)}" for note in READING), ""]
    for comparison in content.comparisons:
        lines += _comparison(comparison)
    lines += _counts(content)
    lines += ["## How to read this", "", *(f"- **{escape(term)}**: {escape(text)}" for term, text in GLOSSARY)]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Text as Markdown shows it literally, also when it holds markup or the end of a table's cell."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", text)


def _grid(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table; the first column is left-aligned and escaped, the others stand as they are given."""
    rule = ["---", *("--:" if len(heading) > 2 else "---" for _ in heading[1:])]
    body = [[escape(first), *(rest if len(heading) > 2 else map(escape, rest))] for first, *rest in rows]
    return [f"| {' | '.join(cells)} |" for cells in (list(heading), rule, *body)]


def _results(table: ResultTable) -> list[str]:
    shown = (*table.rows, *([table.ceiling] if table.ceiling else []))
    rows = [(row.label, *(_figure(row.cells.get(metric)) for metric in METRICS)) for row in shown]
    return [f"### {escape(table.title)}", "", *_grid(("method", *map(metric_name, METRICS)), rows), ""]


def _figure(cell: TableCell | None) -> str:
    if cell is None:
        return "–"
    mean = f"**{percent(cell.mean)}**" if cell.best else percent(cell.mean)
    spread = "" if cell.deviation is None else f" ± {percent(cell.deviation)}"
    return mean + spread + ("" if cell.difference is None else f" ({points(cell.difference)}{cell.mark})")


def _rivals(rivals: PairwiseTests) -> list[str]:
    rows = [(f"{one} − {other}", *map(_duel, duels)) for one, other, duels in rivals.pairs]
    return [f"### {escape(rivals.title)}, points", "", *_grid(("pair", *map(metric_name, SHOWN)), rows), ""]


def _duel(duel: PairwiseTest | None) -> str:
    return f"{points(duel.difference)}{duel.mark}" if duel else "–"


def _searched(searched: HyperparameterImportance) -> list[str]:
    shares = ", ".join(f"{name} {percent(share)} %" for name, share in searched.shares.items())
    told = (
        f"{searched.points:,} points. Shares of their variance: {shares}." if shares else f"{searched.points:,} points."
    )
    best = _grid(("best settings", "validation, %"), [(words, percent(value)) for words, value in searched.best])
    return [f"### {escape(searched.title)}", "", escape(told), "", *best, ""]


def _depths(depths: RerankingDepth) -> list[str]:
    lines = []
    for group in depths.groups:
        rows = [(line.label, *map(_figure, line.cells)) for line in group.lines]
        heading = ("method", *(f"N = {n}" for n in depths.numbers))
        lines += [f"### {escape(f'{metric_name(group.metric)}, {depths.title}')}", "", *_grid(heading, rows), ""]
    return lines


def _best_epochs(curves: Sequence[LearningCurves]) -> list[str]:
    rows = [
        (
            f"{direction.title}: {best.label}",
            ", ".join(map(str, best.epochs)),
            ", ".join(percent(hit) for hit in best.hits),
        )
        for direction in curves
        for best in direction.best
    ]
    return _grid(("ranker", "best epoch, a seed", "validation hit@1, a seed"), rows)


def _examples(gallery: ExampleGallery) -> list[str]:
    if not gallery.examples:
        return []
    chosen = "; ".join(choice.words for choice in gallery.choices)
    lines = ["## Example queries", "", f"Before and after re-ranking; {escape(chosen)}.", ""]
    lines += [escape(gallery.note), ""] if gallery.note else []
    return lines + [line for example in gallery.examples for line in (*_example(example), "")]


def _example(example: ExampleQuery) -> list[str]:
    query = f"image {_named(example.query)}" if example.is_image else _named(example.query)
    heading = f"**{DIRECTION_NAMES[example.direction]}, {example.kind}**: {query}"
    return [
        f"{heading} (first right answer: {_rank(example.rank_before)} → {_rank(example.rank_after)})",
        "",
        *(f"- {when}: {_order(items)}" for when, items in (("before", example.before), ("after", example.after))),
    ]


def _order(items: Sequence[ExampleItem]) -> str:
    return "; ".join(
        f"{rank}. {_named(item)}{' **✓ relevant**' if item.relevant else ''}"
        for rank, item in enumerate(items, start=1)
    )


def _named(item: ExampleItem) -> str:
    return f"{escape(item.id)} “{escape(item.text)}”" if item.text else escape(item.id)


def _rank(rank: int | None) -> str:
    return f"rank {rank:,}" if rank else "not ranked"


def _comparison(comparison: PublishedComparison) -> list[str]:
    heading = ["method", *(f"{escape(group)}, @{k}" for group in comparison.groups for k in (1, 5, 10))]
    rows = [(row.label, *(figure for figures in row.figures for figure in figures)) for row in comparison.rows]
    return [f"### {escape(comparison.title)}", "", *_grid(heading, rows), ""]


def _counts(content: ReportContent) -> list[str]:
    lines = ["## Counts, and what was left out", ""]
    lines += _grid(("stage", "what", "count"), ((s, escape(name), escape(value)) for s, name, value in content.counts))
    lines += [""]
    for stage, number, entries in content.left_out:
        lines += [f"- {escape(stage)} left out {number:,}; the first: {escape('; '.join(entries))}"]
    if not content.left_out:
        lines += ["Nothing was left out."]
    return [*lines, ""]

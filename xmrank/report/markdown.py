"""The report as Markdown."""

from collections.abc import Sequence
from itertools import chain

from xmrank.pages.markdown_text import escape_markdown, format_table
from xmrank.pages.wording import DIRECTION_NAMES, GLOSSARY, METRIC_GROUPS, format_percent, format_points, metric_name
from xmrank.report.content import ReportContent
from xmrank.report.examples import ExampleGallery, ExampleItem, ExampleQuery
from xmrank.report.hyperparameter_importance import HyperparameterImportance
from xmrank.report.latency_table import READING as LATENCY_READING
from xmrank.report.latency_table import LatencyTable
from xmrank.report.learning_curves import LearningCurves
from xmrank.report.pairwise_tests import SHOWN, PairwiseTest, PairwiseTests
from xmrank.report.published import CUT_OFFS, READING, PublishedComparison
from xmrank.report.reranking_depth import RerankingDepth
from xmrank.report.result_tables import ResultTable, TableCell


def render_markdown(content: ReportContent) -> str:
    """The whole report without its pictures and charts."""
    lines = [f"# {escape_markdown(content.title)}", "", escape_markdown(content.subtitle), ""]
    lines += _summary_lines(content)
    lines += ["## What was run", "", *format_table(("", ""), content.run_card), ""]
    lines += ["Fingerprints:", "", *(f"- {name}: `{value}`" for name, value in content.fingerprints), ""]
    lines += [
        "## Results",
        "",
        "Percent; mean ± standard deviation over seeds (difference to the first stage in points; ▲▼: significant, "
        "p < 0.05 by the sign-flip test clustered by image, Holm-corrected over the protocol).",
        "",
    ]
    for note in content.row_notes:
        lines += [escape_markdown(note), ""]
    for table in content.tables:
        lines += result_lines(table, content.notes.get(table.title))
    lines += ["## Pairwise tests of the rankers", ""] if content.pairwise_tests else []
    for tests in content.pairwise_tests:
        lines += _pairwise_lines(tests)
    lines += ["## Hyper-parameter importance", ""] if content.importance else []
    for importance in content.importance:
        lines += _importance_lines(importance)
    lines += ["## Re-ranking depth", ""] if content.depths else []
    for depths in content.depths:
        lines += _depth_lines(depths)
    lines += _latency_lines(content.latency) if content.latency else []
    lines += ["## Best epochs", "", *_best_epoch_lines(content.learning_curves), ""] if content.learning_curves else []
    lines += _example_section(content.example_gallery)
    lines += ["## Beside the paper's Table 2", "", *(f"- {escape_markdown(note)}" for note in READING), ""]
    for comparison in content.published:
        lines += _published_lines(comparison)
    lines += _count_lines(content)
    glossary = [f"- **{escape_markdown(term)}**: {escape_markdown(text)}" for term, text in GLOSSARY]
    lines += ["## How to read this", "", *glossary]
    return "\n".join(lines) + "\n"


def _summary_lines(content: ReportContent) -> list[str]:
    summary = content.summary
    findings = [f"- {escape_markdown(setting)}: {escape_markdown(text)}" for setting, text in summary.findings]
    return [f"**{escape_markdown(summary.lead)}**", "", *findings, "", escape_markdown(summary.caution), ""]


def result_lines(table: ResultTable, note: str | None) -> list[str]:
    """A result table under its title, and the note on it."""
    # The ceiling is the last row.
    shown = (*table.rows, *([table.ceiling] if table.ceiling else []))
    metrics = [metric for _, group in table.metric_groups for metric in group]
    # The same figures as recall@k, and so named.
    twins = len(table.metric_groups) < len(METRIC_GROUPS)
    named = [
        f"hit = recall{name.removeprefix('hit')}" if twins and "hit" in name else metric_name(name) for name in metrics
    ]
    rows = []
    for row in shown:
        cells = [row.cells.get(metric) for metric in metrics]
        rows.append((row.marked_label, *map(_format_cell, cells)))
    grid = format_table(("method", *named), rows)
    return [f"### {escape_markdown(table.title)}", "", *grid, "", *([escape_markdown(note), ""] if note else [])]


def _format_cell(cell: TableCell | None) -> str:
    if cell is None:
        return "–"
    mean = f"**{format_percent(cell.mean)}**" if cell.best else format_percent(cell.mean)
    spread = "" if cell.deviation is None else f" ± {format_percent(cell.deviation)}"
    if cell.difference is None:
        return mean + spread
    differences = f"{format_points(cell.difference)}{cell.mark}"
    if cell.refined_difference is not None:
        differences += f"; refined {format_points(cell.refined_difference)}{cell.refined_mark}"
    return f"{mean}{spread} ({differences})"


def _pairwise_lines(tests: PairwiseTests) -> list[str]:
    rows = [(f"{pair.first} − {pair.second}", *map(_format_difference, pair.tests)) for pair in tests.pairs]
    grid = format_table(("pair", *map(metric_name, SHOWN)), rows)
    note = [escape_markdown(tests.note), ""] if tests.note else []
    return [f"### {escape_markdown(tests.title)}, points", "", *grid, "", *note]


def _format_difference(test: PairwiseTest | None) -> str:
    return f"{format_points(test.difference)}{test.mark}" if test else "–"


def _importance_lines(importance: HyperparameterImportance) -> list[str]:
    shares = ", ".join(f"{name} {format_percent(share)} %" for name, share in importance.shares.items())
    text = f"{importance.points:,} points." + (f" Shares of their variance: {shares}." if shares else "")
    rows = [(settings, format_percent(value)) for settings, value in importance.best]
    best = format_table(("best settings", "validation, %"), rows)
    return [f"### {escape_markdown(importance.title)}", "", escape_markdown(text), "", *best, ""]


def _depth_lines(depths: RerankingDepth) -> list[str]:
    lines = []
    heading = ("method", *(f"N = {n}" for n in depths.numbers))
    for group in depths.groups:
        rows = [(line.label, *map(_format_cell, line.cells)) for line in group.lines]
        title = escape_markdown(f"{metric_name(group.metric)}, {depths.title}")
        lines += [f"### {title}", "", *format_table(heading, rows), ""]
    return lines


def _latency_lines(latency: LatencyTable) -> list[str]:
    grid = format_table(("", *(f"N = {n}" for n in latency.numbers)), [(label, *row) for label, row in latency.rows])
    return ["## Latency", "", f"{escape_markdown(latency.caption)}. {LATENCY_READING}", "", *grid, ""]


def _best_epoch_lines(curves: Sequence[LearningCurves]) -> list[str]:
    rows = []
    for direction in curves:
        for best in direction.best:
            epochs, hits = ", ".join(map(str, best.epochs)), ", ".join(format_percent(hit) for hit in best.hits)
            rows.append((f"{direction.title}: {best.label}", epochs, hits))
    return format_table(("ranker", "best epoch of each seed", "validation hit@1 of each seed"), rows)


def _example_section(gallery: ExampleGallery) -> list[str]:
    if not gallery.examples:
        return []
    choices = "; ".join(choice.words for choice in gallery.choices)
    lines = ["## Example queries", "", f"Before and after re-ranking; {escape_markdown(choices)}.", ""]
    lines += [escape_markdown(gallery.note), ""] if gallery.note else []
    for example in gallery.examples:
        lines += [*_example_lines(example), ""]
    return lines


def _example_lines(example: ExampleQuery) -> list[str]:
    query = f"image {_format_item(example.query)}" if example.is_image else _format_item(example.query)
    ranks = f"{_format_rank(example.rank_before)} → {_format_rank(example.rank_after)}"
    return [
        f"**{DIRECTION_NAMES[example.direction]}, {example.kind}**: {query} (first right answer: {ranks})",
        "",
        f"- before: {_format_ranking(example.before)}",
        f"- after: {_format_ranking(example.after)}",
    ]


def _format_ranking(items: Sequence[ExampleItem]) -> str:
    texts = []
    for rank, item in enumerate(items, start=1):
        badge = " **✓ relevant**" if item.relevant else ""
        texts.append(f"{rank}. {_format_item(item)}{badge}")
    return "; ".join(texts)


def _format_item(item: ExampleItem) -> str:
    return f"{escape_markdown(item.id)} “{escape_markdown(item.text)}”" if item.text else escape_markdown(item.id)


def _format_rank(rank: int | None) -> str:
    return f"rank {rank:,}" if rank else "not ranked"


def _published_lines(comparison: PublishedComparison) -> list[str]:
    heading = ["method"]
    for group in comparison.groups:
        heading += [f"{escape_markdown(group)}, @{k}" for k in CUT_OFFS]
    rows = [(row.label, *chain.from_iterable(row.figures)) for row in comparison.rows]
    return [f"### {escape_markdown(comparison.title)}", "", *format_table(heading, rows), ""]


def _count_lines(content: ReportContent) -> list[str]:
    rows = [(stage, escape_markdown(name), escape_markdown(value)) for stage, name, value in content.stage_counts]
    lines = ["## Counts, and what was left out", "", *format_table(("stage", "what", "count"), rows), ""]
    for stage, number, entries in content.left_out:
        first = escape_markdown("; ".join(entries))
        lines.append(f"- {escape_markdown(stage)} left out {number:,}; the first: {first}")
    if not content.left_out:
        lines.append("Nothing was left out.")
    return [*lines, ""]

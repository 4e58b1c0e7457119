"""The report of a supervised experiment: tables on the terminal, Markdown, CSV, and one self-contained page."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from xmrank.pages.charts import Chart
from xmrank.pages.markdown_text import escape_markdown
from xmrank.pages.templating import fill_template
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.files import read_parquet, write_text
from xmrank.runtime.manifest import Manifest
from xmrank.supervised.claim_tables import neighbour_table, share_table, significance_table
from xmrank.supervised.labelled_set import TABLE_1
from xmrank.supervised.lcm_tables import (
    PlainTable,
    SupervisedResults,
    claim_table,
    class_table,
    cost_table,
    feature_tables,
    hashing_table,
    map_table,
    name_of,
    published_table,
    size_table,
    stage_1_table,
    to_csv,
)
from xmrank.supervised.result_files import METRICS, RESULTS, TIMING, TSNE
from xmrank.supervised.supervised_charts import COSTS, draw_cost, draw_recall, draw_scatter, draw_shares

PAGE, MARKDOWN, CSV = "report.html", "report.md", "table.csv"
STAGE = "supervised-report"
TERMINAL = (map_table, claim_table, share_table, stage_1_table)
TABLES = (
    *(map_table, claim_table, significance_table, share_table, neighbour_table, stage_1_table),
    *(published_table, hashing_table, cost_table, class_table),
)
SMALLEST = 100


@dataclass(frozen=True)
class SetSection:
    """One set: its tables and pictures."""

    title: str
    tables: list[PlainTable]
    charts: list[Chart]


@dataclass(frozen=True)
class SupervisedContent:
    """Everything that stands in the report."""

    title: str
    subtitle: str
    overview: list[PlainTable]
    sections: list[SetSection]
    settings: list[tuple[str, str]]
    fingerprints: list[tuple[str, str]]


def report_results(manifest: Manifest, folder: Path, *, title: str, overwrite: bool) -> None:
    """Write the report of finished results, unless it is there, and print its tables.

    Args:
        manifest: of the results.
        folder: holds the results (``results``) and takes the report (``report``).
        title: heading of the report.
        overwrite: empty the report's directory first.
    """
    every = read_results(folder / "results")
    stage = StageDirectory.open(
        folder / "report",
        STAGE,
        config={"title": title},
        inputs={"supervised": manifest.fingerprint},
        overwrite=overwrite,
    )
    if not stage.done:
        write_report(stage, build_content(title, manifest, folder / "results", every), every)
    tables = [size_table(every, TABLE_1)]
    for results in every:
        tables += [make(results) for make in TERMINAL]
    print_tables([*tables, *feature_tables(every)])
    for name, file in (("page", PAGE), ("Markdown", MARKDOWN), ("CSV", CSV)):
        print(f"{name}: {stage.directory / file}")


def read_results(folder: Path) -> list[SupervisedResults]:
    """The results of every set, in the order of their names."""
    results, timing = (json.loads((folder / name).read_text()) for name in (RESULTS, TIMING))
    queries = read_parquet(folder / METRICS).to_pandas()
    every = []
    for _, about in sorted(results["sets"].items()):
        own, times = (
            [row for row in rows if (row["dataset"], row["features"]) == (about["name"], about["features"])]
            for rows in (results["runs"], timing)
        )
        here = (queries.dataset == about["name"]) & (queries.features == about["features"])
        every.append(SupervisedResults(about, own, times, queries[here]))
    return every


def build_content(
    title: str, manifest: Manifest, folder: Path, every: Sequence[SupervisedResults]
) -> SupervisedContent:
    """All parts of the report."""
    # Pictures are optional: --tsne 0 draws none.
    drawn = json.loads((folder / TSNE).read_text()) if (folder / TSNE).exists() else {}
    sections = [
        SetSection(name_of(results.about), tables_of(results), charts_of(drawn, results, number_of_set))
        for number_of_set, results in enumerate(every)
    ]
    runs = manifest.counts["runs"]
    return SupervisedContent(
        title,
        f"{len(every)} {'set' if len(every) == 1 else 'sets'}, {runs} runs",
        [size_table(every, TABLE_1), *feature_tables(every)],
        sections,
        [(name, json.dumps(value)) for name, value in sorted(manifest.config.items())],
        [("results", manifest.fingerprint), *sorted(manifest.inputs.items())],
    )


def tables_of(results: SupervisedResults) -> list[PlainTable]:
    """The tables of a set that have rows: not every set is in the paper."""
    return [table for table in (make(results) for make in TABLES) if table.rows]


def write_report(stage: StageDirectory, content: SupervisedContent, every: Sequence[SupervisedResults]) -> None:
    """Write the page, the Markdown and the CSV, and finish the stage."""
    write_text(stage.directory / PAGE, render_page(content))
    write_text(stage.directory / MARKDOWN, render_markdown(content))
    write_text(stage.directory / CSV, to_csv(every))
    stage.finish(counts={"sets": len(every), "charts": sum(len(section.charts) for section in content.sections)})


def charts_of(drawn: dict[str, Any], results: SupervisedResults, number_of_set: int) -> list[Chart]:
    """Shares of labels, costs, precision over recall, and the t-SNE pictures of a set, where there are any."""
    about = results.about
    key = f"{about['name']}-{about['features']}" if about["features"] else about["name"]
    shares = draw_shares(results, f"shares-{number_of_set}")
    costs = [draw_cost(results, cost, f"{cost}-{number_of_set}") for cost in COSTS]
    charts = [chart for chart in (shares, *costs) if chart is not None]
    charts.append(draw_recall(results, f"recall-{number_of_set}"))
    for number, picture in enumerate(drawn.get(key, [])):
        charts.append(draw_scatter(picture, f"tsne-{number_of_set}-{number}"))
    return charts


def render_page(content: SupervisedContent) -> str:
    """The report as one page."""
    return fill_template("supervised.html.jinja", room="xmrank.supervised", content=content)


def render_markdown(content: SupervisedContent) -> str:
    """The report without its pictures."""
    lines = [f"# {escape_markdown(content.title)}", "", escape_markdown(content.subtitle), ""]
    for table in content.overview:
        lines += _format_markdown(table)
    for section in content.sections:
        lines += [f"# {escape_markdown(section.title)}", ""]
        for table in section.tables:
            lines += _format_markdown(table)
    lines += ["## Settings", "", *(f"- {escape_markdown(name)}: `{value}`" for name, value in content.settings), ""]
    lines += ["## Fingerprints", "", *(f"- {escape_markdown(name)}: `{value}`" for name, value in content.fingerprints)]
    return "\n".join(lines) + "\n"


def _format_markdown(table: PlainTable) -> list[str]:
    rule = ["---", *("--:" for _ in table.heading[1:])]
    body = [list(map(escape_markdown, row)) for row in table.rows]
    grid = [f"| {' | '.join(cells)} |" for cells in (list(map(escape_markdown, table.heading)), rule, *body)]
    return [
        f"## {escape_markdown(table.title)}",
        "",
        *grid,
        "",
        *([escape_markdown(table.note), ""] if table.note else []),
    ]


def print_tables(tables: Sequence[PlainTable]) -> None:
    """Print tables, none of them cut."""
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200, highlight=False)
    for table in tables:
        drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
        for number_of_set, heading in enumerate(table.heading):
            drawn.add_column(Text(heading), justify="right" if number_of_set else "left", no_wrap=True)
        for row in table.rows:
            drawn.add_row(*map(Text, row))
        console.print(f"\n{table.title}", style="bold", markup=False)
        console.print(drawn, crop=False, width=max(console.width, SMALLEST))
        if table.note:
            console.print(table.note, style="dim", markup=False)

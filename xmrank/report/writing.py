"""Makes a report: the tables with their tests, the page, and the other files."""

from dataclasses import replace

from xmrank.config.report import ReportConfig
from xmrank.report.captions import read_captions
from xmrank.report.comparison import SignFlips, add_tests
from xmrank.report.content import ReportContent, build_content
from xmrank.report.html import render_page
from xmrank.report.inputs import ReportInputs
from xmrank.report.kept_start import mark_kept_starts
from xmrank.report.kept_tables import keep_tables
from xmrank.report.latex import render_latex
from xmrank.report.markdown import render_markdown
from xmrank.report.pairwise_tests import PairwiseTests, compare_pairs
from xmrank.report.result_tables import ResultTable
from xmrank.report.stage import LATEX, MARKDOWN, PAGE, STAGE, TABLE, TABLES, describe_content
from xmrank.report.table_csv import render_csv
from xmrank.report.table_making import make_tables, read_seed_means
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.files import write_text
from xmrank.runtime.manifest import Manifest
from xmrank.runtime.paths import resolve


def make_report(config: ReportConfig, inputs: ReportInputs) -> tuple[Manifest, list[ResultTable]]:
    """Write the report's files, unless they are there; returns the manifest and the tables."""
    stage = StageDirectory.open(
        resolve(config.output),
        STAGE,
        config=describe_content(config),
        inputs=inputs.fingerprints,
        overwrite=config.overwrite,
    )
    image_of = read_captions(inputs.embeddings_directory, inputs.split).image_of
    tested = (inputs.metrics, inputs.split, image_of, SignFlips(config.draws, config.seed))
    means = read_seed_means(inputs.metrics, inputs.split, inputs.baseline_metrics)
    tables = add_tests(make_tables(means, inputs.losses), *tested, inputs.baseline_metrics)
    tables = mark_kept_starts(tables, inputs.trials)
    # Baselines rank whole galleries: they share no protocol with rankers on which both could be compared.
    rankers = [replace(table, rows=tuple(row for row in table.rows if not row.baseline)) for table in tables]
    manifest = stage.done or _write_report(stage, config, inputs, tables, compare_pairs(rankers, *tested))
    return manifest, tables


def _write_report(
    stage: StageDirectory,
    config: ReportConfig,
    inputs: ReportInputs,
    tables: list[ResultTable],
    pairwise_tests: list[PairwiseTests],
) -> Manifest:
    content = build_content(config, inputs, tables, pairwise_tests)
    write_text(stage.directory / PAGE, render_page(content))
    write_text(stage.directory / MARKDOWN, render_markdown(content))
    write_text(stage.directory / TABLE, render_csv(tables, inputs.split))
    write_text(stage.directory / LATEX, render_latex(tables))
    keep_tables(stage.directory / TABLES, tables)
    return stage.finish(counts=_count_parts(content), left_out=_list_missing_pictures(content))


def _count_parts(content: ReportContent) -> dict[str, int]:
    gallery = content.example_gallery
    items = [item for example in gallery.examples for item in (example.query, *example.before, *example.after)]
    return {
        "tables": len(content.tables),
        "rows": sum(len(table.rows) for table in content.tables),
        "examples": len(gallery.examples),
        "pictures": sum(item.picture is not None for item in items),
        "pictures_missing": len(gallery.missing),
    }


def _list_missing_pictures(content: ReportContent) -> list[dict[str, str]]:
    missing = content.example_gallery.missing
    return [{"picture_of": image, "reason": reason} for image, reason in missing.items()]

"""Makes a report: the tables with their tests, the page, and the other files."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

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
    tables = make_tested_tables(config, inputs)
    # Baselines rank whole galleries: they share no protocol with rankers on which both could be compared.
    rankers = [replace(table, rows=tuple(row for row in table.rows if not row.baseline)) for table in tables]
    manifest = stage.done or _write_report(
        stage, config, inputs, tables, compare_pairs(rankers, *tested_values(config, inputs))
    )
    return manifest, tables


def make_tested_tables(config: ReportConfig, inputs: ReportInputs) -> list[ResultTable]:
    """The result tables of an evaluation, each figure with its tests."""
    means = read_seed_means(inputs.metrics, inputs.split, inputs.baseline_metrics)
    tables = make_tables(means, inputs.losses)
    return mark_kept_starts(add_tests(tables, *tested_values(config, inputs), inputs.baseline_metrics), inputs.trials)


def tested_values(config: ReportConfig, inputs: ReportInputs) -> tuple[Path, str, Mapping[str, str], SignFlips]:
    """What tests are made from: the per-query values, their split, the image of each caption, and the draws."""
    image_of = read_captions(inputs.embeddings_directory, inputs.split).image_of
    return inputs.metrics, inputs.split, image_of, SignFlips(config.draws, config.seed)


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

"""The report stage: from an evaluation to files that a person reads."""

import sys
from dataclasses import replace
from typing import Any

from xmrank.config.common import semantic
from xmrank.config.report import ReportConfig
from xmrank.report.captions import read_captions
from xmrank.report.comparison import SignFlips, add_tests
from xmrank.report.content import ReportContent, build_content
from xmrank.report.html import render_page
from xmrank.report.inputs import ReportInputs, open_inputs
from xmrank.report.kept_start import mark_kept_starts
from xmrank.report.latex import render_latex
from xmrank.report.markdown import render_markdown
from xmrank.report.pairwise_tests import PairwiseTests, compare_pairs
from xmrank.report.result_tables import ResultTable, make_tables, read_seed_means
from xmrank.report.table_csv import render_csv
from xmrank.report.terminal import print_tables
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.files import write_text
from xmrank.runtime.manifest import Manifest
from xmrank.runtime.paths import resolve

PAGE, MARKDOWN, TABLE, LATEX = "report.html", "report.md", "table.csv", "table.tex"


def report(config: ReportConfig) -> Manifest:
    """Write the report of an evaluation and print its tables.

    Args:
        config: the directories of the stages before, the output, title and number of examples.

    Returns:
        The manifest. The report's files are only made when they are not there already; the tables are always printed.

    Raises:
        DataError: a stage before is not finished, or the stages were not made from one another.
    """
    inputs = open_inputs(config)
    stage = StageDirectory.open(
        resolve(config.output),
        "report",
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
    print_tables(tables)
    for name, file in (("page", PAGE), ("Markdown", MARKDOWN), ("CSV", TABLE), ("LaTeX", LATEX)):
        print(f"{name}: {stage.directory / file}")
    sys.stdout.flush()
    return manifest


def describe_content(config: ReportConfig) -> dict[str, Any]:
    """The part of the configuration that decides the report's content."""
    # Reports without remote pictures keep the configuration that they had before the flag existed.
    return semantic(config) | ({"remote_images": True} if config.remote_images else {})


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

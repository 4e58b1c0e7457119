"""The report stage: from an evaluation to files that a person reads."""

import sys
from dataclasses import replace

from xmrank.config import ReportConfig, semantic
from xmrank.report.captions import read_captions
from xmrank.report.comparison import SignFlips, with_tests
from xmrank.report.content import ReportContent, build_content
from xmrank.report.html import render_page
from xmrank.report.inputs import ReportInputs, open_inputs
from xmrank.report.latex import to_latex
from xmrank.report.markdown import render_markdown
from xmrank.report.pairwise_tests import PairwiseTests, rivals_of
from xmrank.report.result_tables import ResultTable, result_tables, seed_means, to_csv
from xmrank.report.terminal import print_table
from xmrank.runtime.directory import Manifest, StageDirectory
from xmrank.runtime.files import write_text
from xmrank.runtime.paths import resolve

PAGE, MARKDOWN, TABLE, LATEX = "report.html", "report.md", "table.csv", "table.tex"


def report(config: ReportConfig) -> Manifest:
    """Write the report of an evaluation and print its table.

    Args:
        config: the directories of the stages before, the output, title and number of examples.

    Returns:
        The manifest; the report's files are only made when they are not there already, the table is always printed.

    Raises:
        DataError: a stage before is not finished, or the stages were not made from one another.
    """
    inputs = open_inputs(config)
    stage = StageDirectory.open(
        resolve(config.output),
        "report",
        config=semantic(config),
        inputs=inputs.fingerprints,
        overwrite=config.overwrite,
    )
    image_of = read_captions(inputs.embeddings_directory, inputs.split).image_of
    tested = (inputs.metrics, inputs.split, image_of, SignFlips(config.draws, config.seed))
    means = seed_means(inputs.metrics, inputs.split, inputs.baseline_metrics)
    tables = with_tests(result_tables(means, inputs.losses), *tested, inputs.baseline_metrics)
    # Baselines rank galleries whole: between themselves and rankers there is no one protocol to compare them on.
    rankers = [replace(table, rows=tuple(row for row in table.rows if not row.baseline)) for table in tables]
    manifest = stage.done or _write(stage, config, inputs, tables, rivals_of(rankers, *tested))
    print_table(tables)
    for name, file in (("page", PAGE), ("Markdown", MARKDOWN), ("CSV", TABLE), ("LaTeX", LATEX)):
        print(f"{name}: {stage.directory / file}")
    sys.stdout.flush()
    return manifest


def _write(
    stage: StageDirectory,
    config: ReportConfig,
    inputs: ReportInputs,
    tables: list[ResultTable],
    rivals: list[PairwiseTests],
) -> Manifest:
    content = build_content(config, inputs, tables, rivals)
    write_text(stage.directory / PAGE, render_page(content))
    write_text(stage.directory / MARKDOWN, render_markdown(content))
    write_text(stage.directory / TABLE, to_csv(tables, inputs.split))
    write_text(stage.directory / LATEX, to_latex(tables))
    return stage.finish(counts=_counts(content), left_out=_left_out(content))


def _counts(content: ReportContent) -> dict[str, int]:
    items = [i for e in content.gallery.examples for i in (e.query, *e.before, *e.after)]
    return {
        "tables": len(content.tables),
        "rows": sum(len(table.rows) for table in content.tables),
        "examples": len(content.gallery.examples),
        "pictures": sum(item.picture is not None for item in items),
        "pictures_missing": len(content.gallery.missing),
    }


def _left_out(content: ReportContent) -> list[dict[str, str]]:
    return [{"picture_of": image, "reason": reason} for image, reason in content.gallery.missing.items()]

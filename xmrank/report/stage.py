"""The report stage: from an evaluation to files that a person reads."""

import sys
from typing import Any

from xmrank.config.common import semantic
from xmrank.config.report import ReportConfig
from xmrank.report.inputs import open_inputs
from xmrank.report.kept_tables import read_kept_tables
from xmrank.report.terminal import print_tables
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.manifest import Manifest
from xmrank.runtime.paths import resolve

STAGE = "report"
PAGE, MARKDOWN, TABLE, LATEX = "report.html", "report.md", "table.csv", "table.tex"
TABLES = "tables.json"


def report(config: ReportConfig) -> Manifest:
    """Write the report of an evaluation and print its tables.

    Args:
        config: the directories of the stages before, the output, title and number of examples; or the experiments to
            compare.

    Returns:
        The manifest. The report's files are only made when they are not there already; the tables are always printed.

    Raises:
        DataError: a stage before is not finished, or the stages were not made from one another.
    """
    if config.compare:
        # matplotlib takes a second to import.
        from xmrank.report.experiment_comparison import compare_experiments

        return compare_experiments(config)
    inputs, output = open_inputs(config), resolve(config.output)
    manifest = StageDirectory.find_finished(
        output, STAGE, config=describe_content(config), inputs=inputs.fingerprints, overwrite=config.overwrite
    )
    # Reports of earlier versions have no such file.
    if manifest and TABLES in manifest.outputs:
        tables = read_kept_tables(output / TABLES)
    else:
        # pandas and matplotlib take a second to import.
        from xmrank.report.writing import make_report

        manifest, tables = make_report(config, inputs)
    print_tables(tables)
    for name, file in (("page", PAGE), ("Markdown", MARKDOWN), ("CSV", TABLE), ("LaTeX", LATEX)):
        print(f"{name}: {output / file}")
    sys.stdout.flush()
    return manifest


def describe_content(config: ReportConfig) -> dict[str, Any]:
    """The part of the configuration that decides the report's content."""
    # Reports without remote pictures keep the configuration that they had before the flag existed.
    return semantic(config) | ({"remote_images": True} if config.remote_images else {})

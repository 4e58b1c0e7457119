"""The report of an evaluation: a table on the terminal, Markdown, CSV and one self-contained HTML page."""

from xmrank.report.stage import report
from xmrank.report.terminal import print_table

__all__ = ["print_table", "report"]

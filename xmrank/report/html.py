"""The report as one HTML page without any other file."""

from xmrank.pages.templating import fill_template
from xmrank.pages.wording import CEILING, GLOSSARY
from xmrank.report.content import ReportContent
from xmrank.report.latency_table import READING as LATENCY_READING
from xmrank.report.pairwise_tests import SHOWN as PAIRWISE_METRICS
from xmrank.report.published import CUT_OFFS, READING


def render_page(content: ReportContent) -> str:
    """The whole report."""
    return fill_template(
        "report.html.jinja",
        room="xmrank.report",
        content=content,
        pairwise_metrics=PAIRWISE_METRICS,
        glossary=GLOSSARY,
        reading=READING,
        latency_reading=LATENCY_READING,
        cut_offs=CUT_OFFS,
        ceiling_name=CEILING,
    )

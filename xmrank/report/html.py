"""The report as one HTML page that needs no other file."""

from xmrank.pages import wording as text
from xmrank.pages.templating import fill
from xmrank.report.content import ReportContent
from xmrank.report.pairwise_tests import SHOWN as RIVAL_METRICS
from xmrank.report.published import CUTS, READING


def render_page(content: ReportContent) -> str:
    """The whole report."""
    return fill(
        "report.html.jinja",
        room="xmrank.report",
        content=content,
        rival_metrics=RIVAL_METRICS,
        metric_groups=text.METRIC_GROUPS,
        glossary=text.GLOSSARY,
        reading=READING,
        cuts=CUTS,
        ceiling_name=text.CEILING,
    )

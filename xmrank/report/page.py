"""The report as one HTML page that needs no other file."""

from xmrank.report import text
from xmrank.report.content import Content
from xmrank.report.published import CUTS, READING
from xmrank.report.rivals import SHOWN as RIVAL_METRICS
from xmrank.report.templating import fill


def render_page(content: Content) -> str:
    """The whole report."""
    return fill(
        "page.html.jinja",
        content=content,
        rival_metrics=RIVAL_METRICS,
        metric_groups=text.METRIC_GROUPS,
        glossary=text.GLOSSARY,
        reading=READING,
        cuts=CUTS,
        ceiling_name=text.CEILING,
    )

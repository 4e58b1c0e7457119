"""The report as one HTML page that needs no other file."""

from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from xmrank.report import text
from xmrank.report.content import Content
from xmrank.report.published import CUTS, READING
from xmrank.report.rivals import SHOWN as RIVAL_METRICS


def render_page(content: Content) -> str:
    """The whole report; ids, captions and whatever else comes from data is escaped."""
    environment = Environment(
        loader=PackageLoader("xmrank.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": text.percent,
        "points": text.points,
        "probability": text.probability,
        "capitalize_first": lambda words: words[:1].upper() + words[1:],
        "thousands": lambda count: f"{count:,}",
        "metric_name": text.metric_name,
        "direction_name": lambda direction: text.DIRECTION_NAMES.get(direction, direction),
    }
    style = resources.files("xmrank.report").joinpath("templates/page.css").read_text()
    return environment.get_template("page.html.jinja").render(
        content=content,
        style=Markup(style),  # noqa: S704 - a file of this package
        svg=Markup,  # the charts: matplotlib's own markup, which has escaped its texts
        rival_metrics=RIVAL_METRICS,
        metric_groups=text.METRIC_GROUPS,
        glossary=text.GLOSSARY,
        reading=READING,
        cuts=CUTS,
        ceiling_name=text.CEILING,
    )

"""Templates become pages: the environment, filters and style sheet that all pages have in common."""

import base64
import hashlib
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from xmrank.pages import wording as text

FILTERS = {
    "percent": text.format_percent,
    "points": text.format_points,
    "probability": text.format_probability,
    "capitalize_first": lambda words: words[:1].upper() + words[1:],
    "thousands": lambda count: f"{count:,}",
    "metric_name": text.metric_name,
    "direction_name": lambda direction: text.DIRECTION_NAMES.get(direction, direction),
}


def fill_template(template: str, *, room: str, **values: Any) -> str:
    """A page as one HTML file, in the common style; ids, captions and all other data are escaped.

    Args:
        template: name of the file in the room's folder ``templates``.
        room: the package that has it, such as ``xmrank.report``.
        values: the template's variables.
    """
    # A variable that a template misses is an error and not an empty text.
    environment = Environment(
        loader=PackageLoader(room),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    templates = resources.files("xmrank.pages").joinpath("templates")
    style, script = (templates.joinpath(name).read_text() for name in ("page.css", "page.js"))
    return environment.get_template(template).render(
        style=Markup(style),  # noqa: S704 - a file of this package
        script=Markup(script),  # noqa: S704 - a file of this package
        # The page's policy lets this script run, and nothing that an id or a caption might bring.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        svg=Markup,  # the charts: matplotlib's own markup, which has escaped its texts
        **values,
    )

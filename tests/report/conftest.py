"""One made-up run and its report, shared by the tests that only look."""

import contextlib
import io
from dataclasses import dataclass

import pytest

from xmrank.config import ReportConfig
from xmrank.report.stage import report
from xmrank.runtime.manifest import Manifest

from .synthetic import World, make_run, read_text


@dataclass(frozen=True)
class Made:
    """A finished report."""

    config: ReportConfig
    manifest: Manifest
    page: str
    markdown: str
    csv: str
    printed: str


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """The report of 80 images, 4 losses, 2 directions, 2 seeds."""
    config = make_run(tmp_path_factory.mktemp("run"), World(images=80))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        manifest = report(config)
    files = (read_text(config, name) for name in ("report.html", "report.md", "table.csv"))
    return Made(config, manifest, *files, printed.getvalue())

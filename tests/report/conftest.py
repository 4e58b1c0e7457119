"""One made-up run and its report, shared by the tests that only look."""

import contextlib
import io
import threading
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

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


class CountedRequests(SimpleHTTPRequestHandler):
    """Serves a folder, and remembers what was requested."""

    def send_head(self):
        self.server.requested.append(self.path)
        return super().send_head()

    def log_message(self, *_):
        pass


@pytest.fixture
def picture_server(tmp_path):
    """A web server of the run's pictures, with its address and the paths that were requested."""
    handler = partial(CountedRequests, directory=str(tmp_path / "images"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        serving.requested, serving.address = [], f"http://127.0.0.1:{serving.server_address[1]}"
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()

"""An S3 server on loopback, which tests may stop, slow down and start again; its objects stay."""

import itertools
import os
import threading
import time
from collections.abc import Iterator

import pytest

NAMES = itertools.count()


class ObjectStore:
    """moto's S3 in a thread of this process.

    Attributes:
        delay: seconds before every answer.
        failures: so many requests are answered with 503, and then none.
        requests: methods and paths of all requests.
        most: requests that were answered at the same time, at most.
    """

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        self.application = DomainDispatcherApplication(create_backend_app)
        self.delay, self.failures, self.port = 0.0, 0, 0
        self.requests: list[str] = []
        self.now = self.most = 0
        self.mutex = threading.Lock()
        self.start()

    def answer(self, environ, start_response):
        """One request."""
        self.requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        with self.mutex:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(self.delay)
        with self.mutex:
            self.now -= 1
        if self.failures > 0:
            self.failures -= 1
            start_response("503 Service Unavailable", [("Content-Length", "0")])
            return [b""]
        return self.application(environ, start_response)

    def start(self) -> None:
        """Take requests, at the same port as before."""
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, *_):
                pass

        self.server = make_server("127.0.0.1", self.port, self.answer, threaded=True, request_handler=Quiet)
        self.port = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Take no requests: connections are refused."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to know."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "secret-of-tests",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def make_bucket(self) -> str:
        """The URI of a new bucket."""
        import boto3

        name = f"tests-{os.getpid()}-{next(NAMES)}"
        boto3.client("s3").create_bucket(Bucket=name)
        return f"s3://{name}"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[ObjectStore]:
    """The server, started once a process; for tests by way of `object_store`."""
    made = ObjectStore()
    yield made
    made.stop()


@pytest.fixture
def object_store(s3_server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """The server, as the environment names it; it answers when the test ends."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    s3_server.requests.clear()
    s3_server.most = 0
    yield s3_server
    s3_server.delay, s3_server.failures = 0.0, 0
    if not s3_server.thread.is_alive():
        s3_server.start()


@pytest.fixture
def bucket(object_store: ObjectStore) -> str:
    """The URI of a bucket of the test's own."""
    return object_store.make_bucket()

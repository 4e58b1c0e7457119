"""A hub on loopback: the requests of huggingface_hub's client for making, reading and writing repositories.

After the hub's own API (https://huggingface.co/docs/hub/api) as the client uses it: text files come in the commit,
others by Git LFS.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

LFS_SUFFIXES = (".npy", ".parquet", ".safetensors")
WRITER, READER = "hf_writer", "hf_reader"
ROUTE = re.compile(
    r"^/api/(models|datasets)/([\w.-]+/[\w.-]+)(?:/(revision|preupload|commit|tree|paths-info)/([^/]+)(.*))?$"
)
FILE = re.compile(r"^/(datasets/)?([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)$")
BATCH = re.compile(r"^/(datasets/)?([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch$")


@dataclass
class Repository:
    """One repository: its commits, the newest last, each with the contents of all files by path."""

    private: bool
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{".gitattributes": b"*.npy filter=lfs\n"}])

    def sha(self, number: int = -1) -> str:
        contents = json.dumps({name: blob_id(data) for name, data in sorted(self.commits[number].items())})
        return hashlib.sha1(f"{number % len(self.commits)} {contents}".encode(), usedforsecurity=False).hexdigest()

    def find(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main":
            return self.sha(), self.commits[-1]
        known = {self.sha(number): files for number, files in enumerate(self.commits)}
        return (revision, known[revision]) if revision in known else None


def blob_id(data: bytes) -> str:
    """The id that git gives a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


class Hub:
    """The server in a thread of this process.

    Attributes:
        repositories: by kind and name: ("models", "owner/name").
        uploads: objects of Git LFS by hash, also those that no commit has yet.
        requests: methods and paths of all requests.
        held: requests that match wait until the hub is released and are then refused, but for the first so many.
        waiting: is set while such a request waits.
    """

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.held: tuple[str, int] | None = None
        self.waiting, self.released = threading.Event(), threading.Event()
        self.port = 0
        self.start()

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
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def files(self, kind: str, name: str) -> dict[str, bytes]:
        """The newest files of a repository, without the hub's own."""
        return {
            path: data for path, data in self.repositories[kind, name].commits[-1].items() if path != ".gitattributes"
        }

    def answer(self, environ, start_response):
        """One request."""
        from werkzeug import Request, Response

        request = Request(environ)
        line = f"{request.method} {request.path}"
        self.requests.append(line)
        if self.held and re.search(self.held[0], line):
            self.held = (self.held[0], self.held[1] - 1)
            if self.held[1] < 0:
                self.waiting.set()
                self.released.wait(30)
                return Response(status=503)(environ, start_response)
        return self.route(request)(environ, start_response)

    def release(self) -> None:
        """Refuse the requests that wait, and hold no more."""
        self.held = None
        self.released.set()

    def route(self, request):
        """The answer to a request."""
        if request.path == "/api/repos/create":
            return self.create(request)
        if request.path == "/api/validate-yaml":
            return answer({"errors": [], "warnings": []})
        if request.path.startswith("/lfs/"):
            self.uploads[request.path.removeprefix("/lfs/")] = request.get_data()
            return answer({})
        if match := BATCH.match(request.path):
            return self.refuse_writing(request) or self.batch(request.get_json(force=True))
        if match := FILE.match(request.path):
            kind, name, revision, path = match.groups()
            return self.visible(
                request, "datasets" if kind else "models", name, lambda r: send_file(r, revision, path, request)
            )
        if match := ROUTE.match(request.path):
            kind, name, action, revision, rest = match.groups()
            return self.visible(
                request, kind, name, lambda r: self.act(r, action, revision or "main", rest or "", request)
            )
        return answer({"error": "not found"}, 404)

    def visible(self, request, kind, name, then):
        """An answer about a repository that the token may see."""
        repository = self.repositories.get((kind, name))
        if repository is None or (repository.private and token_of(request) not in (WRITER, READER)):
            # The hub does not tell a stranger whether there is a private repository.
            return answer({"error": "Repository not found"}, 404 if token_of(request) else 401, code="RepoNotFound")
        return then(repository)

    def refuse_writing(self, request):
        token = token_of(request)
        if token not in (WRITER, READER):
            return answer({"error": "Invalid credentials"}, 401, message="Invalid credentials in Authorization header")
        return None if token == WRITER else answer({"error": "no right"}, 403, message="no right to write")

    def create(self, request):
        refused = self.refuse_writing(request)
        values = request.get_json(force=True)
        key = (f"{values.get('type', 'model')}s", f"{values['organization']}/{values['name']}")
        if refused:
            return refused
        if key in self.repositories:
            return answer({"error": "exists", "url": f"{self.endpoint}/{key[1]}"}, 409)
        self.repositories[key] = Repository(
            private=values.get("visibility") == "private" or values.get("private") is True
        )
        return answer({"url": f"{self.endpoint}/{'datasets/' if key[0] == 'datasets' else ''}{key[1]}"})

    def batch(self, values):
        objects = []
        for item in values["objects"]:
            href = {"href": f"{self.endpoint}/lfs/{item['oid']}"}
            objects.append(item if item["oid"] in self.uploads else {**item, "actions": {"upload": href}})
        return answer({"objects": objects, "transfer": "basic"})

    def act(self, repository, action, revision, rest, request):
        """The answer to a request of the API about a repository."""
        found = repository.find(revision)
        if found is None:
            return answer({"error": "Invalid rev id"}, 404, code="RevisionNotFound")
        sha, files = found
        if action in (None, "revision"):
            return answer(
                {"id": request.path.split("/api/")[1], "sha": sha, "private": repository.private, "siblings": []}
            )
        if action == "tree":
            return answer(
                list_tree(files, rest.strip("/"), "recursive" in request.args and request.args["recursive"] != "False")
            )
        if action == "paths-info":
            wanted = request.get_json(silent=True)["paths"] if request.is_json else request.form.getlist("paths")
            return answer([describe(path, files[path]) for path in wanted if path in files])
        if refused := self.refuse_writing(request):
            return refused
        if action == "preupload":
            return answer({"files": [preupload(entry, files) for entry in request.get_json(force=True)["files"]]})
        return self.commit(repository, files, request.get_data())

    def commit(self, repository, files, body):
        new = dict(files)
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                new[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                new[value["path"]] = self.uploads[value["oid"]]
            elif entry["key"] == "deletedFile":
                del new[value["path"]]
        repository.commits.append(new)
        name = next("/".join(key) for key, value in self.repositories.items() if value is repository)
        page = f"{self.endpoint}/{name.removeprefix('models/')}"
        return answer({"commitUrl": f"{page}/commit/{repository.sha()}", "commitOid": repository.sha()})


def answer(value, status=200, code=None, message=None):
    """A response with JSON."""
    from werkzeug import Response

    headers = {"X-Error-Code": code, "X-Error-Message": message}
    kept = {name: text for name, text in headers.items() if text}
    return Response(json.dumps(value), status=status, content_type="application/json", headers=kept)


def token_of(request):
    """The token of a request."""
    return request.headers.get("Authorization", "").removeprefix("Bearer ")


def preupload(entry, files):
    """How a file is to be sent, and what the repository has of this name."""
    mode = "lfs" if entry["path"].endswith(LFS_SUFFIXES) else "regular"
    oid = None
    if entry["path"] in files:
        data = files[entry["path"]]
        oid = hashlib.sha256(data).hexdigest() if mode == "lfs" else blob_id(data)
    return {"path": entry["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}


def describe(path, data):
    """A file in a listing."""
    entry = {"type": "file", "path": path, "size": len(data), "oid": blob_id(data)}
    if path.endswith(LFS_SUFFIXES):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry


def list_tree(files, folder, recursive):
    """The files and folders in a folder."""
    start = f"{folder}/" if folder else ""
    below = {path: data for path, data in files.items() if path.startswith(start)}
    shown = [describe(path, data) for path, data in below.items() if recursive or "/" not in path[len(start) :]]
    folders = {start + path[len(start) :].partition("/")[0] for path in below if "/" in path[len(start) :]}
    return shown + [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in sorted(folders)]


def send_file(repository, revision, path, request):
    """A file's contents, from a byte on where the client wants that."""
    from werkzeug import Response

    found = repository.find(revision)
    if found is None:
        return answer({"error": "Invalid rev id"}, 404, code="RevisionNotFound")
    sha, files = found
    if path not in files:
        return answer({"error": "Entry not found"}, 404, code="EntryNotFound")
    data = files[path]
    etag = hashlib.sha256(data).hexdigest() if path.endswith(LFS_SUFFIXES) else blob_id(data)
    headers = {"ETag": f'"{etag}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
    status = 200
    if match := re.match(r"bytes=(\d+)-(\d*)", request.headers.get("Range", "")):
        start, end = int(match[1]), int(match[2] or len(data) - 1)
        headers["Content-Range"] = f"bytes {start}-{min(end, len(data) - 1)}/{len(data)}"
        data, status = data[start : end + 1], 206
    return Response(data, status=status, headers=headers)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """An empty hub, which huggingface_hub's client speaks to with the token of a writer."""
    from fsspec import get_filesystem_class
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    from xmrank.runtime.object_stores import find_store

    server, folder = Hub(), tmp_path_factory.mktemp("hub")
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    # The hub's own protocol for large files is not public: the client sends them by Git LFS.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
    monkeypatch.setenv("HF_TOKEN", WRITER)
    find_store.cache_clear()
    get_filesystem_class("hf").clear_instance_cache()
    yield server
    close_session()
    if server.thread.is_alive():
        server.stop()

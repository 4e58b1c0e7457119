"""Images of a web server that wants a password: read, and the password is written nowhere."""

import base64
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest
from embedding_samples import IMAGES, configured, make_pictures

from xmrank.datasets.locations import read_bytes
from xmrank.datasets.reader_settings import KarpathySettings
from xmrank.datasets.uris import fsspec_file_system
from xmrank.embed.stage import embed
from xmrank.embed.store import EmbeddingStore
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import below

PASSWORD = "SECRET"  # noqa: S105
HEADER = "Basic " + base64.b64encode(f"me:{PASSWORD}".encode()).decode()


class GuardedFolder(SimpleHTTPRequestHandler):
    """Serves a folder to those who have the password."""

    def send_head(self):
        if self.headers.get("Authorization") != HEADER:
            self.send_error(401)
            return None
        return super().send_head()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """The host and port of a server of pictures."""
    make_pictures(tmp_path)
    handler = partial(GuardedFolder, directory=str(tmp_path / "pictures"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"127.0.0.1:{serving.server_address[1]}"
        serving.shutdown()
        thread.join()


def guarded(folder, root):
    """The configuration that embeds the pictures of the server."""
    return configured(folder, dataset=KarpathySettings(annotations=folder / "captions.json", images=root))


def test_a_password_in_a_uri_is_used_and_written_nowhere(ray_cluster, server, tmp_path, monkeypatch, capfd):
    manifest = embed(guarded(tmp_path, f"http://me:{PASSWORD}@{server}"))
    assert manifest.counts["images"] == IMAGES
    written = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert written and not [path for path in written if PASSWORD.encode() in path.read_bytes()]
    assert PASSWORD not in "".join(capfd.readouterr())
    # A later stage reads the images with what the environment has.
    store = EmbeddingStore.open(tmp_path / "store")
    assert store.images_root == f"http://{server}"
    address = below(store.images_root, "0.jpg")
    assert read_bytes(address) == b""
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login me password {PASSWORD}\n")
    monkeypatch.setenv("NETRC", str(netrc))
    fsspec_file_system.cache_clear()
    fsspec.filesystem("http").clear_instance_cache()
    assert read_bytes(address) == (tmp_path / "pictures" / "0.jpg").read_bytes()


def test_a_wrong_password_is_not_in_the_message(server, tmp_path):
    with pytest.raises(DataError) as caught:
        embed(guarded(tmp_path, f"http://me:wrong-{PASSWORD}@{server}"))
    assert PASSWORD not in repr(caught.value)

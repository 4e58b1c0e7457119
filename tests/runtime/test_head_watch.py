"""The watch over a given cluster's head."""

import socket
import time

from xmrank.runtime import head_watch


def test_a_port_that_takes_connections_is_there():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert head_watch.is_there(address)
    assert not head_watch.is_there(address)


def test_a_head_that_is_gone_is_said_once(monkeypatch, capsys):
    monkeypatch.setattr(head_watch, "PERIOD_S", 0.02)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        head_watch.watch_head(address)
        time.sleep(0.2)
        assert capsys.readouterr().err == ""
    time.sleep(0.5)
    said = capsys.readouterr().err
    assert said.startswith("ray: the cluster's head does not answer; ") and said.endswith(f"continues it ({address})\n")
    assert said.count("\n") == 1

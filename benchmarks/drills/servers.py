"""Servers that a job talks to, with something between them that goes away or becomes slow."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

from object_store import ObjectStore


class Gate:
    """A TCP proxy: open, slow or closed.

    Attributes:
        port: which it listens on, also when it was closed in between.
        delay: seconds before each block of data is passed on.
    """

    def __init__(self, target: int) -> None:
        self.target, self.port, self.delay = target, 0, 0.0
        self.listening: socket.socket | None = None
        self.connections: list[socket.socket] = []
        self.open()

    def open(self) -> None:
        """Take connections."""
        if self.listening is None:
            self.listening = socket.create_server(("127.0.0.1", self.port))
            self.port = self.listening.getsockname()[1]
            threading.Thread(target=self.accept, args=(self.listening,), daemon=True).start()

    def close(self) -> None:
        """Refuse connections, and end those that there are."""
        if self.listening is not None:
            # Wakes the thread that accepts.
            self.listening.shutdown(socket.SHUT_RDWR)
            self.listening.close()
            self.listening = None
        for connection in self.connections:
            connection.close()
        self.connections.clear()

    def accept(self, listening: socket.socket) -> None:
        """Two threads for each connection."""
        while True:
            try:
                client, _ = listening.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                return
            self.connections += [client, server]
            for ends in ((client, server), (server, client)):
                threading.Thread(target=self.pass_on, args=ends, daemon=True).start()

    def pass_on(self, source: socket.socket, target: socket.socket) -> None:
        """Until one of them ends."""
        try:
            while block := source.recv(65536):
                time.sleep(self.delay)
                target.sendall(block)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return


class Servers:
    """MLflow's server and an object store, started when they are needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mlflow: subprocess.Popen | None = None
        self.gate: Gate | None = None
        self.store = ObjectStore()
        # Processes of Ray get these when their cluster starts.
        os.environ |= self.store.environment | {"AWS_CONFIG_FILE": "/dev/null"}

    def tracking_uri(self) -> str:
        """Of an MLflow server behind a gate that is open."""
        if self.gate is None:
            port = free_port()
            folder = self.folder / "mlflow"
            folder.mkdir(parents=True, exist_ok=True)
            command = ["-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
            command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder)]
            with (folder / "log").open("w") as log:
                self.mlflow = subprocess.Popen([sys.executable, *command], stdout=log, stderr=log)
            wait_for_server(f"http://127.0.0.1:{port}/health")
            self.gate = Gate(port)
        self.gate.delay = 0.0
        self.gate.open()
        return f"http://127.0.0.1:{self.gate.port}"

    def stop(self) -> None:
        """End them."""
        if self.mlflow:
            self.mlflow.send_signal(signal.SIGTERM)
            self.mlflow.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_for_server(address: str) -> None:
    """Until it answers."""
    end = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).read()  # noqa: S310 (an address of this process's)
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)

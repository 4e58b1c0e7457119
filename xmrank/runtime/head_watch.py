"""Says when the head of a given cluster is gone: Ray ends the driver a minute later without a word."""

import socket
import sys
import threading

PERIOD_S = 5.0
"""Between two looks, and how long one may take."""
MISSED_LOOKS = 2
"""So many in a row that fail are said."""


def watch_head(address: str) -> None:
    """Look from time to time, in a thread that ends with this process, whether the head takes connections.

    Args:
        address: host and port of its control service.
    """
    thread = threading.Thread(target=_look_for_ever, args=(address,), name="head watch", daemon=True)
    thread.start()


def _look_for_ever(address: str) -> None:
    missed, pause = 0, threading.Event()
    while True:
        missed = 0 if is_there(address) else missed + 1
        if missed == MISSED_LOOKS:
            text = "ray: the cluster's head does not answer; a job that has lost it ends within a minute"
            print(f"{text}, and the same command continues it ({address})", file=sys.stderr, flush=True)
        pause.wait(PERIOD_S)


def is_there(address: str) -> bool:
    """Whether something takes connections at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PERIOD_S):
            return True
    except OSError:
        return False

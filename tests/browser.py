"""A headless Chromium driven over its debugging pipe: no port, no package beyond the standard library."""

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
# Console messages, failed requests and uncaught errors, wherever the browser reports them.
TROUBLE = {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded", "Network.loadingFailed"}


def find_browser() -> str | None:
    """The path of an installed Chromium or Chrome."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class Page:
    """One tab.

    Attributes:
        trouble: what the browser complained of.
        requests: the URLs that the page requested, itself included; no data URIs.
    """

    to_browser: int
    from_browser: int
    session: str = ""
    trouble: list[dict[str, Any]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    buffer: bytes = b""
    number: int = 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to_browser, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, url: str, width: int, *, dark: bool = False) -> None:
        """Load a page at a width and wait until everything in it is loaded."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.events.clear()
        self.call("Page.navigate", url=url)
        while "Page.loadEventFired" not in self.events:
            self._read()

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def _read(self) -> dict[str, Any]:
        deadline = time.monotonic() + 30
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.from_browser], [], [], max(deadline - time.monotonic(), 0))
            part = os.read(self.from_browser, 1 << 20) if ready else b""
            assert part, "the browser does not answer"
            self.buffer += part
        line, self.buffer = self.buffer.split(b"\0", 1)
        message = json.loads(line)
        method = message.get("method", "")
        self.events.append(method)
        if method in TROUBLE:
            self.trouble.append(message["params"])
        if method == "Network.requestWillBeSent" and not message["params"]["request"]["url"].startswith("data:"):
            self.requests.append(message["params"]["request"]["url"])
        return message


@contextmanager
def open_browser(browser: str, profile: Path) -> Iterator[Page]:
    """A page of a new browser; the browser ends with the block."""
    (read_commands, write_commands), (read_answers, write_answers) = os.pipe(), os.pipe()

    # The debugging pipe is file descriptors 3 and 4 of the browser, whatever they are called here.
    shell = f'exec 3<&{read_commands} 4>&{write_answers}; exec "$0" "$@"'
    process = subprocess.Popen(
        ["bash", "-c", shell, browser, *FLAGS, f"--user-data-dir={profile}"],
        pass_fds=(read_commands, write_answers),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(read_commands)
    os.close(write_answers)
    try:
        page = Page(write_commands, read_answers)
        target = page.call("Target.createTarget", url="about:blank")["targetId"]
        page.session = page.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        yield page
    finally:
        process.terminate()
        process.wait(timeout=10)
        os.close(write_commands)
        os.close(read_answers)

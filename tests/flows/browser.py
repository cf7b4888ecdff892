"""Headless Chromium, spoken to over a pipe: what a page says, asks for, and looks like.

    python -m tests.flows.browser report.html pictures/     the screenshots of a README

The Chrome DevTools Protocol in its simplest form: JSON messages that end in a zero byte, sent
to file descriptor 3 and read from 4. No driver, no port.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
OPTIONS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-extensions",
    "--hide-scrollbars",
    "--no-first-run",
)
ON_3_AND_4 = """
import fcntl, os, sys
ours = [fcntl.fcntl(int(descriptor), fcntl.F_DUPFD, 10) for descriptor in sys.argv[1:3]]
os.dup2(ours[0], 3)
os.dup2(ours[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


@dataclass
class Page:
    """An open page, and everything it complained of or asked for since it was opened."""

    to_browser: IO[bytes]
    from_browser: Iterator[dict[str, Any]]
    session: str = ""
    number: int = 0
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and wait for its answer; events on the way are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.to_browser.write(json.dumps(message).encode() + b"\0")
        self.to_browser.flush()
        for answer in self.from_browser:
            if answer.get("id") == self.number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])
            self._keep(answer)
        raise AssertionError(f"the browser ended before it answered {method}")

    def open(self, path: Path, *, width: int, dark: bool = False) -> None:
        """Show a file at a width, in the light or in the dark, and wait until it is loaded."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.complaints.clear()
        self.requests.clear()
        self.call("Page.navigate", url=path.as_uri())
        for event in self.from_browser:
            self._keep(event)
            if event.get("method") == "Page.loadEventFired":
                break

    def value_of(self, expression: str) -> Any:
        """What a JavaScript expression is in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def move_to(self, selector: str, x: float = 0.5, y: float = 0.5) -> None:
        """Scroll an element into view and move the mouse to a place in it, from 0 to 1."""
        self.value_of(
            f"document.querySelector({selector!r}).scrollIntoView({{block: 'center', behavior: 'instant'}})"
        )
        box = self.value_of(
            f"document.querySelector({selector!r}).getBoundingClientRect().toJSON()"
        )
        self.call(
            "Input.dispatchMouseEvent",
            type="mouseMoved",
            x=box["left"] + box["width"] * x,
            y=box["top"] + box["height"] * y,
        )

    def screenshot(self, path: Path, *, full: bool = True) -> None:
        """Write a PNG of what is in view, or of the whole page."""
        answer = self.call(
            "Page.captureScreenshot",
            format="png",
            captureBeyondViewport=full,
            **({"clip": self._whole()} if full else {}),
        )
        path.write_bytes(base64.b64decode(answer["data"]))

    def picture_of(self, selector: str, path: Path) -> None:
        """Write a PNG of one element, wherever on the page it is."""
        element = f"document.querySelector({selector!r})"
        box = self.value_of(
            f"(window.scrollTo(0, 0), {element}.getBoundingClientRect().toJSON())"
        )
        clip = {key: box[key] for key in ("x", "y", "width", "height")} | {"scale": 1}
        answer = self.call(
            "Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip
        )
        path.write_bytes(base64.b64decode(answer["data"]))

    def _whole(self) -> dict[str, float]:
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}

    def _keep(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Log.entryAdded" and params["entry"]["level"] in ("warning", "error"):
            self.complaints.append(f"{params['entry']['level']}: {params['entry']['text']}")
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(f"console: {params['args']}")
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(f"exception: {params['exceptionDetails']}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """Start Chromium with a profile of its own, and end it."""
    assert CHROMIUM is not None, "ask whether CHROMIUM is there before you start it"
    down_read, down_write = os.pipe()
    up_read, up_write = os.pipe()
    command = (CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", "about:blank")
    process = subprocess.Popen(
        [sys.executable, "-c", ON_3_AND_4, str(down_read), str(up_write), *command],
        pass_fds=(down_read, up_write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(down_read)
    os.close(up_write)
    with os.fdopen(down_write, "wb") as to_browser, os.fdopen(up_read, "rb") as stream:
        try:
            yield _attached(to_browser, stream)
        finally:
            process.terminate()
            process.wait(20)


def _attached(to_browser: IO[bytes], stream: IO[bytes]) -> Page:
    page = Page(to_browser, _messages(stream))
    targets = page.call("Target.getTargets")["targetInfos"]
    target = next(found["targetId"] for found in targets if found["type"] == "page")
    page.session = page.call("Target.attachToTarget", targetId=target, flatten=True)[
        "sessionId"
    ]
    for domain in ("Page", "Runtime", "Log", "Network"):
        page.call(f"{domain}.enable")
    return page


def _messages(stream: IO[bytes]) -> Iterator[dict[str, Any]]:
    rest = b""
    while chunk := os.read(stream.fileno(), 65536):
        *whole, rest = (rest + chunk).split(b"\0")
        for message in whole:
            yield json.loads(message)


def take_screenshots(page: Page, report: Path, folder: Path) -> list[Path]:
    """Show a report wide and narrow, in the light and in the dark; return the pictures taken."""
    folder.mkdir(parents=True, exist_ok=True)
    taken = []
    for width in (1280, 390):
        for scheme in ("light", "dark"):
            page.open(report, width=width, dark=scheme == "dark")
            taken.append(folder / f"{report.stem}-{width}-{scheme}.png")
            page.screenshot(taken[-1], full=False)
    page.open(report, width=1280)
    for section in ("marginal", "pictures", "fidelity"):
        if page.value_of(f"document.getElementById({section!r}) !== null"):
            taken.append(folder / f"{report.stem}-{section}.png")
            page.picture_of(f"#{section}", taken[-1])
    return taken


if __name__ == "__main__":
    with TemporaryDirectory() as scratch, browser(Path(scratch)) as opened:
        take_screenshots(opened, Path(sys.argv[1]).resolve(), Path(sys.argv[2]))

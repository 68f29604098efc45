"""A real browser for tests: Debian's Chromium, headless, spoken to over a pipe in its DevTools protocol."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
KEYS = {
    "Tab": {"code": "Tab", "windowsVirtualKeyCode": 9},
    "Enter": {"code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"},
    "Space": {"key": " ", "code": "Space", "windowsVirtualKeyCode": 32, "text": " "},
}
LIMIT = 60
"""Seconds within which each answer must come."""


def executable() -> str | None:
    """Return the browser's path, or None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One tab of a browser without a window.

    Parameters
    ----------
    folder
        Where it keeps its profile.
    """

    def __init__(self, folder: Path) -> None:
        read, their_write = os.pipe()
        their_read, write = os.pipe()
        options = ["--headless=new", "--remote-debugging-pipe", f"--user-data-dir={folder}", "--no-first-run"]
        options += ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
        options += ["--hide-scrollbars"]  # as a phone, whose scroll bars take no room
        # The browser speaks over file descriptors 3 and 4, where the shell puts these: they may not be among them.
        inner = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (their_read, their_write)]
        moved = f'exec "$0" "$@" 3<&{inner[0]} 4>&{inner[1]}'
        self._process = subprocess.Popen(
            ["bash", "-c", moved, str(executable()), *options, "about:blank"],
            pass_fds=inner,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (their_read, their_write, *inner):
            os.close(end)
        os.set_blocking(read, False)
        self._read, self._write, self._buffer, self._number = read, write, b"", 0
        self._session: str | None = None
        self.events: list[dict] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """End the browser."""
        os.close(self._write)
        os.close(self._read)
        self._process.terminate()
        self._process.wait(LIMIT)

    def call(self, method: str, **parameters: object) -> dict:
        """Call a method of the protocol and return its result; what happens meanwhile goes to `events`."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> dict:
        end = time.monotonic() + LIMIT
        while b"\0" not in self._buffer:
            assert time.monotonic() < end, "the browser does not answer"
            assert self._process.poll() is None, f"the browser ended with {self._process.returncode}"
            try:
                self._buffer += os.read(self._read, 1 << 20)
            except BlockingIOError:
                time.sleep(0.002)
        line, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(line)

    def open(self, path: Path, *, width: int = 1280, height: int = 900) -> None:
        """Open a file and wait until it has loaded; `events` are those since then."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def evaluate(self, expression: str) -> object:
        """Return the value of a JavaScript expression, of a promise what it promised."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def errors(self) -> list[str]:
        """Return errors and warnings of console, scripts and loading since the page was opened."""
        found = []
        for event in self.events:
            method, content = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                found.append(json.dumps(content["exceptionDetails"]))
            elif method == "Runtime.consoleAPICalled" and content["type"] in ("error", "warning", "assert"):
                found.append(json.dumps(content["args"]))
            elif method == "Log.entryAdded" and content["entry"]["level"] in ("error", "warning"):
                found.append(content["entry"]["text"])
            elif method == "Network.loadingFailed":
                found.append(content["errorText"])
        return found

    def requests(self) -> list[str]:
        """Return the addresses that were asked for since the page was opened."""
        sent = [event["params"] for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [one["request"]["url"] for one in sent]

    def press(self, key: str) -> None:
        """Press a key of `KEYS`."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", **({"type": kind, "key": key} | KEYS[key]))

    def click(self, selector: str) -> None:
        """Click with the mouse in the middle of an element, which is brought into view."""
        place = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({behavior: 'instant', block: 'center'});"
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        mouse = {"x": place[0], "y": place[1], "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, **mouse)

    def pdf(self) -> bytes:
        """Print the page."""
        printed = self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
        return base64.b64decode(printed["data"])

    def picture(self, *, top: int = 0, height: int | None = None) -> bytes:
        """Return a PNG of the page from a height on, by default of all of it."""
        width, whole = self.evaluate("[innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": top, "width": width, "height": height or whole - top, "scale": 1}
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(shot["data"])

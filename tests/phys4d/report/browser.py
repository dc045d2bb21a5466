"""Drives a headless Chromium over its devtools pipe: no network port, no package.

`python tests/phys4d/report/browser.py PAGE OUT` writes screenshots of a report's sections, light and dark.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Tab:
    """One page. Messages are JSON, each ended by a zero byte."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from, self._rest, self._number = to_browser, from_browser, b"", 0
        self._session: str | None = None
        self.complaints: list[str] = []
        """Errors and warnings of the console, uncaught exceptions, and failed or foreign requests."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page; promises are waited for."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def open(self, path: Path, *, dark: bool = False, width: int = 1280, height: int = 900) -> None:
        """Load a file and wait until its scripts have run and a frame was drawn."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.evaluate(
            "new Promise(done => { const go = () => requestAnimationFrame(() => requestAnimationFrame(done));"
            " document.readyState === 'complete' ? go() : addEventListener('load', go); })"
        )

    def mouse(self, kind: str, x: float, y: float, *, held: bool = True) -> None:
        """`mousePressed`, `mouseMoved` or `mouseReleased` with the left button."""
        self.call(
            "Input.dispatchMouseEvent", type=kind, x=x, y=y,
            button="left" if held else "none", buttons=int(held and kind != "mouseReleased"), clickCount=1,
        )  # fmt: skip

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 6) -> None:
        """Press, move in a straight line, let go."""
        self.mouse("mousePressed", *start)
        for i in range(1, steps + 1):
            self.mouse("mouseMoved", *(a + (b - a) * i / steps for a, b in zip(start, end, strict=True)))
        self.mouse("mouseReleased", *end)

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, width, height of an element, after scrolling it to the middle."""
        values = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center', behavior: 'instant'}); const b = e.getBoundingClientRect();"
            " return [b.x, b.y, b.width, b.height]; })()"
        )
        return tuple(values)

    def click(self, selector: str) -> None:
        """Click the middle of an element."""
        x, y, width, height = self.box(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x + width / 2, y + height / 2)

    def screenshot(self, path: Path) -> None:
        """What the window shows, as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = os.read(self._from, 1 << 20)
            assert data, "the browser ended"
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(str(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(str(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.complaints.append(str(params["entry"]))
            case "Network.requestWillBeSent" if not params["request"]["url"].startswith(("file:", "data:")):
                self.complaints.append(f"asked for {params['request']['url']}")
            case _:
                pass


@contextmanager
def chromium(profile: Path) -> Iterator[Tab]:
    """A browser with one empty page, ended with the block."""
    (reads, to_browser), (from_browser, writes) = os.pipe(), os.pipe()
    command = [
        str(CHROMIUM), "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu",
        "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--disable-dev-shm-usage", f"--user-data-dir={profile}",
    ]  # fmt: skip
    # The browser reads commands from descriptor 3 and answers on 4. By path, since dash knows descriptors of
    # one digit only.
    shell = ["/bin/sh", "-c", f'exec 3</dev/fd/{reads} 4>/dev/fd/{writes}; exec "$@"', "sh", *command]
    with (profile.parent / "browser.log").open("wb") as log:
        child = subprocess.Popen(shell, pass_fds=(reads, writes), stdout=log, stderr=log)
    os.close(reads)
    os.close(writes)
    try:
        yield Tab(to_browser, from_browser)
    finally:
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        os.close(to_browser)
        os.close(from_browser)


SECTIONS = ("header", "#results", "#videos", "#clouds", "#monitors", "#training", "#provenance")


def screenshots(page: Path, out: Path) -> list[Path]:
    """A picture of the window at the top of each section, light and dark."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    with tempfile.TemporaryDirectory() as folder, chromium(Path(folder) / "profile") as tab:
        for dark in (False, True):
            tab.open(page, dark=dark)
            for section in SECTIONS:
                top = f"document.querySelector({json.dumps(section)})"
                tab.evaluate(f"{top}.scrollIntoView({{behavior: 'instant'}})")
                tab.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
                written.append(out / f"{section.lstrip('#')}-{'dark' if dark else 'light'}.png")
                tab.screenshot(written[-1])
    return written


if __name__ == "__main__":
    for picture in screenshots(Path(sys.argv[1]), Path(sys.argv[2])):
        print(picture)

"""A real server on a free port, a browser, and the person in front of it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Locator, expect, sync_playwright

from support.paths import ROOT

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
HEADLINE = "document.querySelector('.pc-headline')?.textContent.length > 0"
LISTEN = """() => {
    window.newStatus = false;
    const line = document.querySelector('.sl-text');
    new MutationObserver(() => { window.newStatus = true; }).observe(line, {childList: true, characterData: true, subtree: true});
}"""
# Texts whose contrast with what is behind them is below 4.5: class, words, ratio, colour.
CONTRAST = """() => {
    const parse = (c) => (c.match(/[\\d.]+/g) || []).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4).reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
    const behind = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.length && (c.length < 4 || c[3] > .98)) return c; } return [255, 255, 255]; };
    const poor = [];
    for (const e of document.querySelectorAll('.gradio-container *')) {
        const own = [...e.childNodes].filter((n) => n.nodeType === 3 && n.textContent.trim()).map((n) => n.textContent.trim()).join(' ');
        const s = getComputedStyle(e);
        if (!own || !e.getClientRects().length || s.visibility !== 'visible' || e.closest('[disabled], .pc-live, canvas, svg')) continue;
        const a = light(parse(s.color)), b = light(behind(e)), ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        if (ratio < 4.5) poor.push([e.className, own.slice(0, 30), Math.round(10 * ratio) / 10, s.color]);
    }
    return poor; }"""
STILL = """() => Promise.all(document.getAnimations().filter((a) => a.effect.getComputedTiming().endTime < Infinity)
    .map((a) => a.finished.catch(() => null)))"""
SCREENSHOTS = ROOT / "screenshots"  # ignored by git; looked at by a person


def save(path: Path, size: tuple[int, int] = (320, 240)) -> Path:
    """A picture file of noise."""
    values = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """`python app.py` with `flags` in a process of its own.

    Args:
        folder: for its log and its temporary files.
        poll: seconds between checks whether it answers.
    """

    program: Sequence[str] = ("app.py",)

    def __init__(self, folder: Path, poll: float = 0.5, flags: Sequence[str] = ()) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self.folder, self.log = folder, folder / "server.log"
        environment = {k: v for k, v in os.environ.items() if not re.match("(HF|GRADIO)_", k)}
        environment |= {"TMPDIR": str(folder), "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(ROOT / "tests")}
        self.process = subprocess.Popen(
            [sys.executable, *self.program, "--port", str(self.port), "--max-new-tokens", "40", "--runs-per-minute", "0",
             "--runs-per-minute-per-host", "0", *flags],
            cwd=ROOT, env=environment, stdout=self.log.open("w"), stderr=subprocess.STDOUT,
        )  # fmt: skip
        patience = time.monotonic() + 120
        while time.monotonic() < patience:
            if self.process.poll() is not None:
                raise RuntimeError(self.log.read_text())
            try:
                urllib.request.urlopen(self.url, timeout=1)
                return
            except OSError:
                time.sleep(poll)
        self.stop()
        raise RuntimeError(f"no answer from the server: {self.log.read_text()}")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


class HoldingServer(Server):
    """A server whose runs a test can hold, so that it acts during a run however fast or slow the machine is."""

    def __init__(self, folder: Path, **kwargs) -> None:
        self.program = ("-m", "support.held_app", str(folder))
        super().__init__(folder, **kwargs)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """No run gets to its end during the body, unless it is stopped."""
        hold = self.folder / "hold"
        hold.touch()
        try:
            yield
        finally:
            hold.unlink()

    def wait_for_runs(self, n: int) -> None:
        """Wait until exactly `n` runs are on a worker and have their turn: 1 has begun, or 0 because all have ended."""
        end = time.monotonic() + 60
        while len(list((self.folder / "running").iterdir())) != n:
            assert time.monotonic() < end, f"not {n} runs"
            time.sleep(0.02)


@contextmanager
def chromium_browser() -> Iterator[Browser]:
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Visitor:
    """A page of one person, which notes every request, error and dialog.

    Args:
        home: the browser profile of somebody who was here before; without, this person was not.
        still: this person wants no motion.
    """

    def __init__(
        self,
        chromium: Browser,
        url: str,
        width: int = 1280,
        height: int = 720,
        query: str = "",
        ready: str = HEADLINE,
        *,
        home: BrowserContext | None = None,
        still: bool = False,
    ) -> None:
        self.context = home or chromium.new_context()
        self._leaves_nothing = home is None
        self.page = self.context.new_page()
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.emulate_media(reduced_motion="reduce" if still else "no-preference")
        self.page.set_default_timeout(60_000)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.dialogs: list[str] = []
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.on("dialog", lambda d: (self.dialogs.append(d.message), d.dismiss()))
        self.url = url
        self.page.goto(url + query)
        self.ready_at = self.page.wait_for_function(ready).json_value()

    @property
    def foreign(self) -> list[str]:
        """Requests to any other host."""
        return [r for r in self.requests if not r.startswith((self.url, "data:", "blob:"))]

    def settle(self) -> None:
        """Wait until the recorded runs of the open example are in the browser."""
        shelf = "window.prunescope.shelf.bundles"
        self.page.wait_for_function(f"{shelf}.size > 0")
        self.page.evaluate(f"Promise.all([...{shelf}.values()])")

    def wait_until_quiet(self) -> None:
        """Wait until the page has asked for nothing new for 0.8 seconds."""
        before = -1
        while before != len(self.requests):
            before = len(self.requests)
            self.page.wait_for_timeout(800)

    def wait_until_still(self) -> None:
        """Wait until every transition and animation that ends has ended."""
        self.page.evaluate(STILL)

    def pick(self, number: int) -> None:
        """Choose an example, and wait until the page shows it."""
        self.page.locator(".es button").nth(number).click()
        self.page.wait_for_selector(f".es button:nth-child({number + 1})[aria-pressed=true]")

    def text(self, selector: str) -> str:
        return self.page.locator(selector).first.inner_text()

    def status(self) -> str:
        return self.text(".sl-text")

    def wait_for_status(self, pattern: str, timeout: float = 60) -> str:
        """Wait until the status line matches, and return it."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if re.search(pattern, self.status()):
                return self.status()
            self.page.wait_for_timeout(40)
        raise AssertionError(f"status is {self.status()!r}, expected {pattern!r}")

    def ask(self, question: str | None = None, expect: str = "^Done") -> str:
        """Type a question, press Run, wait for the outcome."""
        if question is not None:
            self.page.get_by_label("Question", exact=True).fill(question)
        self.begin()
        return self.wait_for_status(expect)

    def begin(self, *, by_keyboard: bool = False) -> None:
        """Press Run, and wait until the status has changed: a busy status may pass before anybody can read it."""
        self.page.evaluate(LISTEN)  # the status of the run before may read like the one that is awaited
        button = self.page.get_by_role("button", name="Run", exact=True)
        if by_keyboard:
            button.press("Enter")  # focuses it first
        else:
            button.click()
        self.page.wait_for_function("window.newStatus")

    def keep(self, count: int) -> None:
        box = self.page.locator("#count input[type=number]")
        box.fill(str(count))
        box.press("Enter")

    def choose(self, label: str, option: str) -> None:
        self.page.get_by_label(label, exact=True).click()
        self.page.get_by_role("option", name=option, exact=True).click()

    def stops(self) -> list[int]:
        return [int(t) for t in self.page.locator(".pc-stops strong").all_inner_texts()]

    def table(self, n_tokens: int) -> Locator:
        """Open the table of visual tokens; its rows, the head first. They are drawn a moment after the click."""
        self.page.get_by_text("Table of visual tokens").click()
        rows = self.page.locator(".pc-table tr")
        expect(rows).to_have_count(1 + n_tokens)
        return rows

    def look(self, name: str, *, full_page: bool = False) -> None:
        """Keep a screenshot for a person to look at."""
        SCREENSHOTS.mkdir(exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=full_page)

    def close(self) -> None:
        self.page.close()
        if self._leaves_nothing:
            self.context.close()

"""Measure the page as a visitor meets it: `python tests/browser/timings.py --out assets/benchmarks/page.json`.

The real server in a fresh process, a real browser. Clocks run inside the browser, so that no clock of the test's own
is among what is measured. Nothing here is asserted: a slow machine is no mistake.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.visitor import Server, Visitor, chromium_browser

FIRST_COMPARISON = """() => document.querySelector('.pc-headline')?.textContent
    && document.querySelector('.ap-answer.full .ap-text')?.textContent
    && document.querySelector('.ap-answer.pruned .ap-text')?.textContent
    && document.querySelector('.ap-chip')?.textContent
    && document.querySelector('.pc-canvas')?.getContext('2d').getImageData(40, 40, 1, 1).data[3]
    && performance.now()"""
# What is clicked or set, and how long until the page shows what should come of it; looked at before every frame.
CLOCK = """([act, done]) => new Promise((tell) => {
    const acts = new Function('value', act[0]), isDone = new Function('value', `return ${done}`), began = performance.now();
    acts(act[1]);
    const look = () => isDone(act[1]) ? tell(performance.now() - began) : requestAnimationFrame(look);
    requestAnimationFrame(look);
})"""
SET_COUNT = """const box = document.querySelector('#count input[type=range]');
    box.value = value; box.dispatchEvent(new Event('input', {bubbles: true})); box.dispatchEvent(new Event('change', {bubbles: true}));"""
COUNT_IS_SHOWN = "[...document.querySelectorAll('.pc-stops strong')].at(-1)?.textContent === String(value)"
CLICK_RUN = "document.querySelector('#run').click()"
RUN_IS_DONE = (
    "document.querySelector('.pc-chip.live') && document.querySelector('.sl-text').textContent.startsWith('Done')"
)
POINT_AT = """const canvas = document.querySelector('.pc-canvas'), box = canvas.getBoundingClientRect();
    canvas.dispatchEvent(new PointerEvent('pointermove', {bubbles: true, clientX: box.left + value[0] * box.width, clientY: box.top + value[1] * box.height}));"""
CARD_IS_SHOWN = "document.querySelector('.pc-card b')?.textContent === `Visual token ${value[2]}`"


def measure(repeats: int) -> dict[str, Any]:
    """All timings in milliseconds, and counted requests."""
    found: dict[str, Any] = {"start": [], "first_comparison": [], "recorded_stop": [], "hover": []}
    requests = {"hover": 0, "foreign": 0}
    with tempfile.TemporaryDirectory() as folder, chromium_browser() as browser:
        for number in range(repeats):
            server, took = _started(Path(folder) / str(number))
            try:
                found["start"].append(took)
                if number == repeats - 1:
                    visit(browser, server.url, repeats, found, requests)
            finally:
                server.stop()
        chromium = browser.version
    return {
        "environment": _environment(chromium),
        "ms": {name: summary(values) for name, values in found.items()},
        "requests": requests,
    }


def _started(folder: Path) -> tuple[Server, float]:
    folder.mkdir()
    began = time.perf_counter()
    server = Server(folder, poll=0.02)
    return server, 1e3 * (time.perf_counter() - began)


def visit(browser: Browser, url: str, repeats: int, found: dict[str, Any], requests: dict[str, int]) -> None:
    """Everything that is measured against one running server."""
    Visitor(browser, url).close()  # the first visitor of a server pays for what all others find ready
    for _ in range(repeats):
        visitor = Visitor(browser, url, ready=FIRST_COMPARISON)
        found["first_comparison"].append(visitor.ready_at)
        visitor.settle()
        requests["foreign"] += len(visitor.foreign)
        visitor.close()
    visitor = Visitor(browser, url)
    visitor.settle()

    def clock(act: str, value: Any, done: str) -> float:
        return visitor.page.evaluate(CLOCK, [[act, value], done])

    counts = [18, 36, 64, 128, 192]
    for number in range(1, repeats + 1):
        found["recorded_stop"].append(clock(SET_COUNT, counts[number % len(counts)], COUNT_IS_SHOWN))
    before = len(visitor.requests)
    for number in range(repeats):
        row, column = (5 + 3 * number) % 24, (7 * number + 2) % 24
        found["hover"].append(
            clock(POINT_AT, [(column + 0.5) / 24, (row + 0.5) / 24, 24 * row + column], CARD_IS_SHOWN)
        )
    requests["hover"] = len(visitor.requests) - before
    found["live_run"] = _live_runs(visitor, clock)
    requests["foreign"] += len(visitor.foreign)
    visitor.close()


def _live_runs(visitor: Visitor, clock: Callable[[str, Any, str], float]) -> list[float]:
    """One run for every example picture: nothing of it was computed before. The model is loaded already."""
    took = []
    visitor.ask("How many objects are there?")  # on the first example, for the model's sake
    examples = visitor.page.locator(".es button")
    for number in range(1, examples.count()):
        examples.nth(number).click()
        visitor.wait_for_status("recorded run")
        took.append(clock(CLICK_RUN, None, RUN_IS_DONE))
    return took


def summary(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 1),
        "least": round(min(values), 1),
        "most": round(max(values), 1),
        "n": len(values),
    }


def _environment(chromium: str) -> dict[str, str]:
    from pruning.benchmarks.speed import commit
    from pruning.engine.environment import environment
    from pruning.models import load

    versions = {"chromium": chromium, "gradio": version("gradio"), "playwright": version("playwright")}
    return environment(load("demo", device="cpu")) | versions | {"commit": commit()}


def main() -> None:
    """Measure, print the page's rows of the README's table, write the figures."""
    from pruning.benchmarks.reports import page_rows

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    found = measure(max(1, arguments.repeats))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print("\n".join(page_rows(found)))  # noqa: T201 (a command)


if __name__ == "__main__":
    main()

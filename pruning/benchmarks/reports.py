"""What was measured before and lies in `assets/benchmarks`, as the README quotes it. Measures nothing itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pruning.methods import METHODS

FOLDER = Path(__file__).parents[2] / "assets" / "benchmarks"
COMMANDS = {
    "speed": "python -m pruning bench --out assets/benchmarks/speed.json",
    "page": "python tests/browser/timings.py --out assets/benchmarks/page.json",
}
HEAD = ("| what | measured | aim |", "| --- | --- | --- |")
PAGE = (  # name in page.json, words, aim in ms
    ("start", "from `python app.py` to an answering page", None),
    ("first_comparison", "from opening the page to the first finished comparison", 1500),
    ("live_run", "a live run with the bundled model, picture not seen before", 2500),
    ("recorded_stop", "from one recorded share to another", 150),
    ("hover", "from pointing at a piece to its card", 100),
)


def speed_section(folder: Path = FOLDER) -> str:
    """The README's section on speed: what was measured, where, and against which aim."""
    parts = []
    for name, rows in (("speed", engine_rows), ("page", page_rows)):
        path = folder / f"{name}.json"
        if not path.exists():
            parts.append(f"Not measured yet: `{COMMANDS[name]}`.")
            continue
        found = json.loads(path.read_text(encoding="utf-8"))
        parts.append("\n".join([_where(found["environment"], COMMANDS[name]), "", *rows(found)]))
    return "\n\n".join(parts)


def _where(environment: dict[str, str], command: str) -> str:
    e = environment
    versions = ", ".join(f"{name} {e[name]}" for name in ("torch", "transformers", "gradio", "chromium") if name in e)
    return f"`{command}` on {e['machine']}, {e['threads']} threads, {e['dtype']}, {versions}; commit {e['commit']}:"


def engine_rows(found: dict[str, Any]) -> list[str]:
    """The rows of `speed.json`."""
    lines = list(HEAD)
    for model, rows in found["prefill"].items():
        aim = "" if model == "bundled" else "at most 1.15"
        kept = " / ".join(str(r["kept"]) for r in rows)
        for name, what, wish in (
            ("time_over_work", "prefill time over multiply-adds", aim),
            ("engine_over_bare", "pruned prefill over the bare model on as many rows", ""),
        ):
            said = " / ".join(f"{r[name]:.2f}" for r in rows)
            lines.append(f"| {what}, {kept} tokens kept, {model} | {said} | {wish} |")
    for model, r in found["recording"].items():
        aims = ((r["engine_over_plain"], "kept set and counts", "at most 1.03"),)
        aims += ((r["with_attention_over_plain"], "and what every word attends to", ""),)
        lines += [f"| recording over plain `generate`, {what}, {model} | {x:.3f} | {aim} |" for x, what, aim in aims]
    for key, r in found["selection"].items():
        if "refused" not in r:
            small, large = (f"{r[name]:.0f}" if r[name] >= 10 else f"{r[name]:.1f}" for name in ("ms_576", "ms_2880"))
            what = f"deciding, {METHODS[key].title}, one thread, on a picture and on five"
            published = r.get("over_published_order")
            beside = "" if published is None else f"; {published:.2f} of the published order's time"
            aim = "" if published is None else "below the published order "
            lines.append(f"| {what} | {small} ms, {large} ms{beside} | {aim}|")
    for model, r in found["memory"].items():
        worst = max((v for k, v in r.items() if k != "full"), default=float("nan"))
        aim = f"below {r['full']:.0f} MB, unpruned"
        lines.append(f"| peak memory of the hungriest method, {model} | {worst:.0f} MB | {aim} |")
    return lines


def page_rows(found: dict[str, Any]) -> list[str]:
    """The rows of `page.json`."""
    lines = list(HEAD)
    for name, words, aim in PAGE:
        r = found["ms"][name]
        spread = f"{r['median']:.0f} ms ({r['least']:.0f} to {r['most']:.0f}, n = {r['n']})"
        lines.append(f"| {words} | {spread} | {f'{aim} ms' if aim else ''} |")
    lines.append(f"| requests while pointing at pieces | {found['requests']['hover']} | 0 |")
    lines.append(f"| requests to other hosts | {found['requests']['foreign']} | 0 |")
    return lines

"""Tables and points of what was measured before (`assets/benchmarks`), for docs, page and command line. Nothing is
measured here; where a file is missing, the text names the command that writes it.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pruning.methods import METHODS
from pruning.metrics.plan_cost import Point
from pruning.records.plan import TRAINED
from pruning.structural import STRUCTURAL

FOLDER = Path(__file__).parents[2] / "assets" / "benchmarks"
COMMANDS = {
    "speed": "python -m pruning bench --out assets/benchmarks/speed.json",
    "page": "python tests/browser/timings.py --out assets/benchmarks/page.json",
    "accm": "python -m pruning.demo_model evaluate-accm",
    "structural": "python -m pruning structural-bench",
}
HEAD = ("| what | measured | aim |", "| --- | --- | --- |")
PAGE = (  # name in page.json, words, aim in ms
    ("start", "from `python app.py` to an answering page", None),
    ("first_comparison", "from opening the page to the first finished comparison", 1500),
    ("live_run", "a live run with the bundled model, picture not seen before", 2500),
    ("recorded_stop", "from one recorded share to another", 150),
    ("hover", "from pointing at a visual token to its card", 100),
)
HEADS = {key: scorer.title for key, scorer in STRUCTURAL.items()} | {TRAINED: "InfoPrune, trained gates"}
RANKS = {
    "erank": "ranks by effective rank", "mass": "ranks by mass", "budget": "ranks by budget",
    "bottleneck": "fewer hidden units",
}  # fmt: skip
MEANS = ("answer_region_kept", "mean_tokens_per_layer")
DRAW = "#"  # between a method's key and the number of a further random draw
TOGETHER, DENSE = "heads and ranks", "dense"
MODULES = {"vision tower": ("tower",), "language model": ("prefill",), "both": ("tower", "prefill")}
HEAD_COLUMNS = (("infoprune", "static score"), (TRAINED, "trained gates"), ("magnitude", "magnitude"))


def speed_section(folder: Path = FOLDER) -> str:
    """The README's section on speed: what was measured, where, and against which aim."""
    parts = []
    for name, rows in (("speed", engine_rows), ("page", page_rows)):
        path = folder / f"{name}.json"
        if not path.exists():
            parts.append(f"Not measured yet: `{COMMANDS[name]}`.")
            continue
        found = json.loads(path.read_text(encoding="utf-8"))
        parts.append("\n".join([_measured_on(name, found), "", *rows(found)]))
    return "\n\n".join(parts)


def _measured_on(name: str, found: dict[str, Any]) -> str:
    """The command that a report comes from, the machine and the versions, as one line that ends with a colon."""
    e = found["environment"]
    scenes = f" {found['scenes']} scenes;" if "scenes" in found else ""
    threads = f" {e['threads']} threads," if "scenes" not in found else ""
    versions = ", ".join(f"{n} {e[n]}" for n in ("torch", "transformers", "gradio", "chromium") if n in e)
    commit = f"; commit {e['commit']}" if "scenes" not in found else ""
    return f"`{COMMANDS[name]}` on{scenes} {e['machine']},{threads} {e['dtype']}, {versions}{commit}:"


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
    lines.append(f"| requests while pointing at visual tokens | {found['requests']['hover']} | 0 |")
    lines.append(f"| requests to other hosts | {found['requests']['foreign']} | 0 |")
    return lines


def figures(name: str, folder: Path = FOLDER) -> dict[str, Any] | None:
    """The figures of `accm` or `structural`, or None where nobody has measured them yet."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def fewer_scenes(results: dict[str, Any], method: str) -> str:
    """What to put behind a method's name where its accuracy speaks of fewer scenes than the table does."""
    entries = [e for name, e in results["curve"].items() if name.split("@")[0] == method and "accuracy" in e]
    scenes = min((e["accuracy"]["n"] for e in entries), default=results["pruned_scenes"])
    return "" if scenes == results["pruned_scenes"] else f" ({scenes} scenes)"


def draws_joined(curve: dict[str, Any]) -> dict[str, Any]:
    """A curve whose random draws on the same questions are one entry: their means, with the lowest and the highest."""
    found = {}
    for name, entry in curve.items():
        method, _, count = name.partition("@")
        if DRAW in method:
            continue
        draws = [entry, *(e for k, e in curve.items() if k.startswith(f"{method}{DRAW}") and k.endswith(f"@{count}"))]
        if len(draws) > 1 and all("accuracy" in e for e in draws):
            values = [e["accuracy"]["value"] for e in draws]
            means = {part: statistics.fmean(e[part] for e in draws) for part in MEANS}
            share = entry["accuracy"] | {"value": statistics.fmean(values), "n": min(e["accuracy"]["n"] for e in draws)}
            entry = {"accuracy": share, "lowest": min(values), "highest": max(values), **means}
        found[name] = entry
    return found


def accuracy_text(entry: dict[str, Any]) -> str:
    """Right answers in %; of several draws the mean, with the lowest and the highest."""
    spread = f", {100 * entry['lowest']:.1f} to {100 * entry['highest']:.1f}" if "lowest" in entry else ""
    return f"{100 * entry['accuracy']['value']:.1f}{spread}"


def points(results: dict[str, Any]) -> list[Point]:
    """Every plan of `structural.json` but the full model."""
    full = results["plans"][DENSE]
    found = []
    for entry in results["plans"].values():
        if "structure" not in entry:
            continue
        request, parts = entry["structure"]["request"], entry["structure"]["request"]["parts"]
        where = "both" if len(parts) > 1 else parts[0]
        heads = tuple(sum(two[i] for two in entry["structure"]["heads"].values()) for i in (0, 1))
        key, family, label = _name(request, heads)
        fewer = _ratio(where, full["estimated_flops"], entry["estimated_flops"])
        faster = _ratio(where, entry["measured_dense_ms"], entry["measured_ms"])  # both of the same minutes
        right = entry["accuracy"]
        found.append(Point(where, family, key, label, heads, right["value"], right["standard_error"], fewer, faster))
    return found


def _ratio(where: str, dense: dict[str, float], compressed: dict[str, float]) -> float:
    """How many times less the compressed module takes."""
    return sum(dense[m] for m in MODULES[where]) / sum(compressed[m] for m in MODULES[where])


def _name(request: dict[str, Any], heads: tuple[int, ...]) -> tuple[str, str, str]:
    rule, fewer_heads = request["ffn"], heads[0] < heads[1]
    cut = f"{heads[0]} of {heads[1]} heads"
    given = {"erank": "erank_factor", "mass": "tau", "budget": "ffn_flops", "bottleneck": "tau"}
    if rule == "none":
        return request["score"], HEADS.get(request["score"], request["score"]), cut
    value = f"{rule} {request[given[rule]]:g}"
    if fewer_heads:
        return "", TOGETHER, f"{cut}, {value}"
    return "", RANKS[rule] + (", whitened" if request["whitening"] else ""), value


def accm_section(folder: Path = FOLDER) -> str:
    """The README's section on compensation."""
    found = figures("accm", folder)
    if found is None:
        return f"Not measured yet: `{COMMANDS['accm']}`."
    return f"{_measured_on('accm', found)}\n\n{accm_table(found)}"


def accm_table(results: dict[str, Any]) -> str:
    """The figures of `evaluate-accm`: right answers in %, with one standard error."""
    columns = ("without", "compensated", "equal_cost", "best_fixed", "best_of_three", "true_description")
    heads = "pruner, kept | without | **ACCM** | tokens of equal cost | best fixed beam | best of three | true words"
    lines = [f"| {heads} | right made wrong | worth |", "| --- |" + " --- |" * 8]
    for name, row in results["curve"].items():
        if "refused" in row:
            lines.append(f"| {name} | refused |")
            continue
        cells = [f"{100 * row[c]['value']:.1f} ± {100 * row[c]['standard_error']:.1f}" for c in columns]
        cells += [f"{100 * row['right_made_wrong']['value']:.1f}", f"{row['worth_visual_tokens']:.0f} tokens"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", f"Full picture on the same questions: {100 * results['full']['value']:.1f}."]
    return "\n".join(lines)


def accm_sentence(results: dict[str, Any]) -> str:
    """What a caption gave at the larger budget, and what the honest opponent gave, in one line."""
    rows = {tuple(name.split("@")): row for name, row in results["curve"].items() if "refused" not in row}
    most = max((int(kept) for _, kept in rows), default=0)
    said = [
        f"{METHODS[method].title if method in METHODS else method} {_percent(row['without'])} → "
        f"{_percent(row['compensated'])} ({_percent(row['equal_cost'])} with tokens of equal cost)"
        for (method, kept), row in rows.items()
        if int(kept) == most
    ]
    scenes = (
        f"Right answers in % on {results['scenes']} drawn scenes, {most} visual tokens kept, without → with a caption: "
    )
    return f"{scenes}{'; '.join(said)}." if said else ""


def structural_section(folder: Path = FOLDER) -> str:
    """The README's section on structural plans."""
    found = figures("structural", folder)
    if found is None:
        return f"Not measured yet: `{COMMANDS['structural']}`."
    all_points = points(found)
    full = _percent(found["plans"][DENSE]["accuracy"])
    lines = [_measured_on("structural", found), "", f"The full model: {full} % right."]
    for where in dict.fromkeys(p.where for p in all_points):
        mine = [p for p in all_points if p.where == where]
        lines += ["", f"Heads out, {_module(where)}:", "", *_heads_rows(mine)]
        lines += ["", f"Ranks, {_module(where)}:", "", *_ranks_rows(mine)]
    return "\n".join(lines)


def _heads_rows(mine: list[Point]) -> list[str]:
    lines = ["| heads kept | fewer multiply-adds | faster | " + " | ".join(t for _, t in HEAD_COLUMNS) + " | random |"]
    lines.append("| --- |" + " --- |" * (3 + len(HEAD_COLUMNS)))
    scored = [p for p in mine if p.key]
    for heads in sorted({p.heads for p in scored}, reverse=True):
        row = [p for p in scored if p.heads == heads]
        cells = [_cell([p for p in row if p.key == key]) for key, _ in HEAD_COLUMNS]
        cells.append(_cell([p for p in row if p.key == "random"]))
        ratios = [f"{statistics.fmean(getattr(p, name) for p in row):.2f}x" for name in ("fewer", "faster")]
        lines.append(f"| {heads[0]} of {heads[1]} | " + " | ".join([*ratios, *cells]) + " |")
    return lines


def _ranks_rows(mine: list[Point]) -> list[str]:
    lines = ["| what | fewer multiply-adds | faster | right, % |", "| --- | --- | --- | --- |"]
    for p in sorted(mine, key=lambda p: (p.family, p.fewer)):
        if not p.key:
            lines.append(f"| {p.family}: {p.label} | {p.fewer:.2f}x | {p.faster:.2f}x | {_cell([p])} |")
    return lines


def _cell(row: Iterable[Point]) -> str:
    row = list(row)
    if not row:
        return "–"
    mean = f"{100 * statistics.fmean(p.accuracy for p in row):.1f}"
    if len(row) == 1:
        return f"{mean} ± {100 * row[0].error:.1f}"
    return f"{mean} ({100 * min(p.accuracy for p in row):.1f} to {100 * max(p.accuracy for p in row):.1f})"


def _percent(share: dict[str, float]) -> str:
    return f"{100 * share['value']:.1f}"


def _module(where: str) -> str:
    return "tower and language model" if where == "both" else where

"""What `evaluate`, `evaluate-accm` and `structural-bench` found, as tables and points: for README, page and command
line. Judges nothing itself; where a file is missing, it says which command writes it.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning.benchmarks.reports import FOLDER
from pruning.methods import METHODS
from pruning.records.plan import TRAINED
from pruning.structural import STRUCTURAL

COMMANDS = {
    "accm": "python -m pruning.demo_model evaluate-accm",
    "structural": "python -m pruning structural-bench",
}
HEADS = {key: scorer.title for key, scorer in STRUCTURAL.items()} | {TRAINED: "InfoPrune, trained gates"}
RANKS = {
    "erank": "ranks by effective rank", "mass": "ranks by mass", "budget": "ranks by budget",
    "bottleneck": "fewer hidden units",
}  # fmt: skip
MEANS = ("evidence_kept", "mean_tokens_per_layer")
DRAW = "#"  # between a method's key and the number of a further random draw
TOGETHER, DENSE = "heads and ranks", "dense"
MODULES = {"vision tower": ("tower",), "language model": ("prefill",), "both": ("tower", "prefill")}
HEAD_COLUMNS = (("infoprune", "static score"), (TRAINED, "trained gates"), ("magnitude", "magnitude"))


@dataclass(frozen=True, slots=True)
class Point:
    """One plan on the curve.

    Attributes:
        where: the compressed module: `vision tower`, `language model` or `both`.
        family: whose curve it is on. key: of the head score; empty where all heads stay or ranks are cut too.
        label: which point it is ("70 % of the heads").
        heads: (kept, all). accuracy, error: share of right answers and its standard error.
        fewer, faster: how many times fewer multiply-adds (estimated), and less time (measured), the module takes.
    """

    where: str
    family: str
    key: str
    label: str
    heads: tuple[int, int]
    accuracy: float
    error: float
    fewer: float
    faster: float


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
    """Every plan of `structural.json` but the whole model."""
    whole = results["plans"][DENSE]
    found = []
    for entry in results["plans"].values():
        if "structure" not in entry:
            continue
        request, parts = entry["structure"]["request"], entry["structure"]["request"]["parts"]
        where = "both" if len(parts) > 1 else parts[0]
        heads = tuple(sum(two[i] for two in entry["structure"]["heads"].values()) for i in (0, 1))
        key, family, label = _name(request, heads)
        fewer = _ratio(where, whole["estimated_flops"], entry["estimated_flops"])
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


# -- as text ----------------------------------------------------------------------------------------------------------


def accm_section(folder: Path = FOLDER) -> str:
    """The README's section on compensation."""
    found = figures("accm", folder)
    if found is None:
        return f"Not measured yet: `{COMMANDS['accm']}`."
    return f"{_where('accm', found)}\n\n{accm_table(found)}"


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
    lines += ["", f"Whole picture on the same questions: {100 * results['full']['value']:.1f}."]
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
    scenes = f"Right answers in % on {results['scenes']} drawn scenes, {most} pieces kept, without → with a caption: "
    return f"{scenes}{'; '.join(said)}." if said else ""


def structural_section(folder: Path = FOLDER) -> str:
    """The README's section on structural plans."""
    found = figures("structural", folder)
    if found is None:
        return f"Not measured yet: `{COMMANDS['structural']}`."
    all_points = points(found)
    whole = _percent(found["plans"][DENSE]["accuracy"])
    lines = [_where("structural", found), "", f"The whole model: {whole} % right."]
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


def _where(name: str, found: dict[str, Any]) -> str:
    e = found["environment"]
    versions = ", ".join(f"{n} {e[n]}" for n in ("torch", "transformers") if n in e)
    return f"`{COMMANDS[name]}` on {found['scenes']} scenes; {e['machine']}, {e['dtype']}, {versions}:"

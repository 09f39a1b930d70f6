"""Evaluate the bundled model and every pruner on scenes never trained on (`evaluate`).

Beside the methods stand a blind baseline (the question is asked about another scene's picture), random tokens in
several draws, and an oracle that keeps the tokens of the objects that hold the answer. Scenes are shared out to
processes with one thread each; a scene is looked at once, then every method answers. Figures are written after every
part and every few scenes, and running again goes on with what is missing: so a new method is measured alone, and more
scenes for the methods are added to those that were there.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from pruning.benchmarks.reports import DRAW, accuracy_text, draws_joined, fewer_scenes
from pruning.checkpoints import digest_of
from pruning.demo_model.evaluation.judge import (
    N_TOKENS,
    SHORT_KINDS,
    EvidenceOracle,
    Judge,
    Outcome,
    objects_named,
    phrases,
)
from pruning.errors import PrunerUntrainedError
from pruning.methods import METHODS
from pruning.methods.random_baseline import RandomBaseline
from pruning.models import load

BUDGETS = (192, 128, 64, 36, 18)

PROBED = 60  # scenes
PART = 50  # scenes between two writings of the file
MORE_DRAWS = tuple(f"{RandomBaseline.key}{DRAW}{n}" for n in (2, 3))  # beside the one that is in the table of methods

Configuration = tuple[str, int | None]  # a method, the oracle or "full"; tokens asked to keep

_judge: Judge  # one in every process


def _open(model: str) -> None:
    global _judge
    torch.set_num_threads(1)
    _judge = Judge(load(model))


def _every_kind(number: int, shown: int) -> dict[str, bool]:
    return _judge.every_kind(number, shown)


def _shuffled(number: int) -> dict[str, bool]:
    return _judge.every_kind(number, number, shuffled=True)


def _description(number: int, shown: int) -> tuple[str, str]:
    return _judge.description(number, shown)


def _pruned(number: int, asked: list[Configuration]) -> list[Outcome]:
    return _judge.pruned(number, asked)


def _importance(number: int) -> dict[int, tuple[float, float, float]]:
    return _judge.importance(number)


class Evaluation:
    """Shares the scenes out and keeps the figures in a JSON file.

    Args:
        model: folder of the model; figures of other weights are not gone on with.
        path: the figures.
        n_scenes: scenes for accuracy by kind; the first `n_described` of them are described in words, and one question
            about each of the first `n_pruned` goes through every method at every budget.
        n_jobs: processes.
    """

    def __init__(self, model: str, path: Path, n_scenes: int, n_described: int, n_pruned: int, n_jobs: int) -> None:
        self.model, self.path, self.n_jobs = model, path, n_jobs
        sizes = {"scenes": n_scenes, "described_scenes": n_described, "pruned_scenes": n_pruned}
        weights = digest_of(Path(model))
        self.results: dict = json.loads(path.read_text()) if path.exists() else {"weights": weights, **sizes}
        if self.results.get("weights") != weights:
            raise SystemExit(f"{path} holds figures of other weights; delete it, or choose another --out.")
        known = {name: self.results[name] for name in sizes}
        if known | {"pruned_scenes": n_pruned} != sizes or n_pruned < known["pruned_scenes"]:
            raise SystemExit(
                f"{path} holds figures for other numbers of scenes ({known}); delete it or ask for the same ones. Only "
                "pruned_scenes may grow."
            )
        self.results |= sizes

    def run(self) -> dict:
        """Everything: full picture by kind, blind, descriptions, and all methods at all budgets."""
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.n_jobs, context, _open, (self.model,)) as pool:
            for name, make in self._parts(pool).items():
                if name not in self.results:
                    self.results[name] = make()
                    self._write()
            self._judge_methods(pool)
        return self.results

    def _judge_methods(self, pool: ProcessPoolExecutor) -> None:
        """Go on with those configurations that had fewest scenes, until all have had as many as are wanted."""
        curve, wanted = self.results.setdefault("curve", {}), self.results["pruned_scenes"]
        methods = [key for key in METHODS if key not in self._untrained()]
        asked = [one for m in ("full", *methods, *MORE_DRAWS, EvidenceOracle.key) for one in _configurations(m)]
        while True:
            judged = {one: min(_judged(curve.get(name_of(*one))), wanted) for one in asked}
            start = int(min(judged.values()))
            if start == wanted:
                return
            behind = [one for one in asked if judged[one] == start]
            stop = int(min(start + PART, *(n for n in (*judged.values(), wanted) if n > start)))
            found = pool.map(_pruned, range(start, stop), [behind] * (stop - start))
            for name, entry in _curve(behind, found).items():
                curve[name] = _together(curve.get(name), entry)
            self._write()
            print(json.dumps({"evaluate": f"{len(behind)} budgets", "scene": stop, "of": wanted}), flush=True)

    def _untrained(self) -> set[str]:
        """Methods that decide with a module that nobody has trained for this model; they are left out."""
        info, found = load(self.model).info, set()
        for key, method in METHODS.items():
            try:
                if method.module is not None:
                    method(keep_ratio=0.5).check(info)
            except PrunerUntrainedError as error:
                print(json.dumps({"left out": key, "because": str(error)}), flush=True)
                found.add(key)
        return found

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.results, indent=1) + "\n")

    def _parts(self, pool: ProcessPoolExecutor) -> dict[str, Callable[[], dict]]:
        every, some = (range(self.results[k]) for k in ("scenes", "described_scenes"))

        def kinds(name: str, shown: list[int]) -> dict:
            return _by_kind(_progress(name, len(every), pool.map(_every_kind, every, shown)))

        def described(name: str, shown: list[int]) -> dict:
            return _f1(_progress(name, len(some), pool.map(_description, some, shown)))

        return {
            "full": lambda: kinds("full", list(every)),
            "shuffled": lambda: _by_kind(_progress("shuffled", len(every), pool.map(_shuffled, every))),
            "blind": lambda: kinds("blind", _others(every)),
            "described": lambda: described("described", list(some)),
            "described_blind": lambda: described("described_blind", _others(some)),
            "importance": lambda: _by_layer(pool.map(_importance, range(min(PROBED, len(every))))),
        }


def _others(numbers: range) -> list[int]:
    """Another scene for every scene: the one before."""
    return [(n - 1) % max(2, len(numbers)) for n in numbers]


def _by_kind(scenes: Iterable[dict[str, bool]]) -> dict:
    right: dict[str, list[bool]] = {k: [] for k in SHORT_KINDS}
    for found in scenes:
        for kind, ok in found.items():
            right[kind].append(ok)
    return {
        "exact_match": _share([ok for oks in right.values() for ok in oks]),
        "by_kind": {k: _share(v) for k, v in right.items()},
    }


def _f1(pairs: Iterable[tuple[str, str]]) -> dict[str, float]:
    """F1 over all objects of all descriptions, with and without their places."""
    texts = list(pairs)
    figures = {}
    for name, parts in (("objects", objects_named), ("objects_and_places", phrases)):
        counts: list[tuple[Counter, Counter]] = [(parts(said), parts(true)) for said, true in texts]
        hits = sum((said & true).total() for said, true in counts)
        figures[name] = round(2 * hits / max(1, sum(said.total() + true.total() for said, true in counts)), 4)
    return figures


def _configurations(method: str) -> list[Configuration]:
    return [(method, None)] if method == "full" else [(method, count) for count in BUDGETS]


def _curve(configurations: list[Configuration], scenes: Iterable[list[Outcome]]) -> dict:
    curve = {}
    for (method, count), outcomes in zip(configurations, zip(*scenes, strict=True), strict=True):
        refused = next((o.refused for o in outcomes if o.refused), None)
        curve[name_of(method, count)] = (
            {"refused": refused}
            if refused
            else {
                "accuracy": _share([o.right for o in outcomes]),
                "answer_region_kept": round(float(np.nanmean([o.answer_region_kept for o in outcomes])), 4),
                "mean_tokens_per_layer": round(float(np.mean([o.mean_tokens for o in outcomes])), 2),
            }
        )
    return curve


def _judged(entry: dict | None) -> float:
    """How many scenes an entry of the curve speaks of; what was refused once is not asked again."""
    if entry is None:
        return 0
    return math.inf if "refused" in entry else entry["accuracy"]["n"]


def _together(before: dict | None, after: dict) -> dict:
    """One entry of the curve for the scenes of two."""
    if before is None or "refused" in after:
        return after
    if "refused" in before:
        return before
    a, b = before["accuracy"], after["accuracy"]
    right, n = round(a["value"] * a["n"]) + round(b["value"] * b["n"]), a["n"] + b["n"]
    means = {
        name: round((before[name] * a["n"] + after[name] * b["n"]) / n, digits)
        for name, digits in (("answer_region_kept", 4), ("mean_tokens_per_layer", 2))
    }
    return {"accuracy": _share([True] * right + [False] * (n - right)), **means}


def _by_layer(scenes: Iterable[dict[int, tuple[float, float, float]]]) -> dict[str, dict[str, float]]:
    names = ("norm_agrees_with_attention", "evidence_by_norm", "evidence_by_attention")
    found = [one for one in scenes if one]
    means = {layer: np.mean([one[layer] for one in found], axis=0) for layer in found[0]}
    return {str(layer): dict(zip(names, np.round(m, 3).tolist(), strict=True)) for layer, m in means.items()}


def _share(oks: list[bool]) -> dict[str, float]:
    """Share of True with its standard error."""
    p, n = float(np.mean(oks)) if oks else float("nan"), len(oks)
    return {"value": round(p, 4), "standard_error": round(math.sqrt(p * (1 - p) / max(1, n)), 4), "n": n}


def name_of(method: str, count: int | None) -> str:
    """Key of a configuration in the figures: `fastv@64`."""
    return f"{method}@{count or N_TOKENS}"


def _progress(what: str, total: int, results: Iterable) -> Iterable:
    began = time.time()
    for done, result in enumerate(results, start=1):
        yield result
        if done % 50 == 0 or done == total:
            left = (time.time() - began) / done * (total - done) / 60
            print(
                json.dumps({"evaluate": what, "scene": done, "of": total, "minutes_left": round(left, 1)}), flush=True
            )


def table(results: dict) -> str:
    """The figures as text: kinds first, then accuracy against kept tokens."""
    parts = [results[name] for name in ("full", "shuffled", "blind")]
    lines = ["| kind | full picture | its visual tokens shuffled | blind |", "| --- | --- | --- | --- |"]
    for kind in SHORT_KINDS:
        lines.append(f"| {kind} | " + " | ".join(_percent(p["by_kind"][kind]) for p in parts) + " |")
    full, *others = (_percent(p["exact_match"]) for p in parts)
    lines.append(f"| **all but describe** | **{full}** | " + " | ".join(others) + " |")
    for key, label in (("objects", "describe, F1 of objects"), ("objects_and_places", "the same with places")):
        lines.append(f"| {label} | {results['described'][key]:.3f} | – | {results['described_blind'][key]:.3f} |")
    curve = draws_joined(results["curve"])
    results = results | {"curve": curve}
    lines += ["", f"| kept of {N_TOKENS} | " + " | ".join(str(k) for k in BUDGETS) + " |"]
    lines.append("| --- |" + " --- |" * len(BUDGETS))
    titles = {key: m.title for key, m in METHODS.items()} | {EvidenceOracle.key: EvidenceOracle.title}
    for method, title in titles.items():
        cells = [_cell(curve.get(name_of(method, k))) for k in BUDGETS]
        lines.append(f"| {title}{fewer_scenes(results, method)} | " + " | ".join(cells) + " |")
    lines += ["", f"Full picture on the same questions: {_percent(curve[name_of('full', None)]['accuracy'])}."]
    return "\n".join(lines)


def importance_table(results: dict) -> str:
    """Two signs of importance, layer by layer."""
    lines = ["| layer | agreement | evidence by small key norm | evidence by attention |", "| --- | --- | --- | --- |"]
    for layer, r in results["importance"].items():
        both = f"{100 * r['evidence_by_norm']:.0f} | {100 * r['evidence_by_attention']:.0f}"
        lines.append(f"| {layer} | {r['norm_agrees_with_attention']:+.2f} | {both} |")
    return "\n".join(lines)


def _percent(share: dict[str, float]) -> str:
    return f"{100 * share['value']:.1f} ± {100 * share['standard_error']:.1f}"


def _cell(entry: dict | None) -> str:
    if entry is None or "refused" in entry:
        return "–" if entry is None else "refused"
    return f"{accuracy_text(entry)} ({100 * entry['answer_region_kept']:.0f})"

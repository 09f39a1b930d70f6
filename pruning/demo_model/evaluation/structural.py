"""Measure accuracy against multiply-adds of structural plans, on drawn scenes that nothing was trained or calibrated
on.

`python -m pruning structural-bench`: static scores, trained gates, magnitude and random heads on the same budgets,
feed-forward rules alone, and both together. One question per scene, judged by exact match as the bundled model's card
does it, with the full picture: tokens are not pruned here. Figures are written after every plan; running again goes
on with those that are missing. Plans are shared out to processes with one thread each.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from pruning.cost import estimate
from pruning.demo_model.pairs import DrawnPairs, judged
from pruning.engine.environment import environment, one_thread
from pruning.engine.plan import make_plan
from pruning.errors import ParameterError
from pruning.inputs.questions import Pair
from pruning.interface import Part
from pruning.models import load
from pruning.models.base import RunCallbacks, VLMAdapter
from pruning.records.plan import PlanRequest, StructuralPlan

HEADS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
SEEDS = (0, 1, 2)  # of random heads
RULES: dict[str, dict[str, Any]] = {
    **{f"erank {c:g}": {"ffn": "erank", "erank_factor": c} for c in (1.0, 1.5)},
    **{f"mass {t:g}": {"ffn": "mass", "tau": t} for t in (0.02, 0.05, 0.1, 0.2)},
    **{f"budget {s:g}": {"ffn": "budget", "ffn_flops": s} for s in (0.8, 0.6, 0.4)},
    **{f"bottleneck {t:g}": {"ffn": "bottleneck", "tau": t} for t in (0.05, 0.1, 0.2)},
}
TOGETHER = (0.8, 0.6, 0.4)  # shares of heads, and of feed-forward multiply-adds
DENSE = "dense"
TIMED = 24  # scenes, on which the dense model takes its turn

_adapter: VLMAdapter  # one in every process


def requests(model: str, parts: Sequence[tuple[str, ...]], n_pairs: int) -> dict[str, PlanRequest]:
    """Every plan of the curve by name, "tower: infoprune 0.7" and the like."""
    found: dict[str, PlanRequest] = {}
    for chosen in parts:
        where = "both" if len(chosen) > 1 else "tower" if Part.TOWER.value in chosen else "language"

        def add(name: str, where: str = where, chosen: tuple[str, ...] = chosen, **options: Any) -> None:
            found[f"{where}: {name}"] = PlanRequest(model, parts=chosen, n_pairs=n_pairs, **options)

        for share in HEADS:
            for score in ("infoprune", "magnitude"):
                add(f"{score} {share:g}", score=score, heads=share)
            for seed in SEEDS:
                add(f"random {share:g} seed {seed}", score="random", heads=share, seed=seed)
        for name, rule in RULES.items():
            add(name, **rule)
            if rule["ffn"] != "bottleneck":
                add(f"{name} whitened", whitening=True, **rule)
        for share in TOGETHER:
            rule = {"ffn": "budget", "ffn_flops": share, "whitening": True}
            add(f"infoprune {share:g} + budget {share:g} whitened", heads=share, **rule)
    return found


class StructuralBench:
    """Shares the plans out and keeps the figures in a JSON file.

    Args:
        model: key or folder of a model of the drawn world. trained: plans by name that `train-heads` wrote.

    Raises:
        ParameterError: if the file holds figures for other scenes, weights, calibration or trained plans.
    """

    def __init__(
        self, model: str, path: Path, n_scenes: int, n_pairs: int, parts: Sequence[tuple[str, ...]],
        trained: dict[str, StructuralPlan], n_jobs: int,
    ) -> None:  # fmt: skip
        self.model, self.path, self.n_jobs, self.trained = model, path, n_jobs, trained
        self.adapter = load(model, device="cpu")
        self.requests = requests(model, parts, n_pairs)
        sizes = {"scenes": n_scenes, "pairs": n_pairs, "fingerprint": self.adapter.fingerprint}
        sizes["trained"] = {name: plan.digest for name, plan in trained.items()}
        self.results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {**sizes, "plans": {}}
        if self.results | sizes != self.results:
            advice = "Delete it, or choose another --out."
            raise ParameterError(f"{path} holds figures for other scenes or weights, or other plans.", advice)

    def run(self) -> dict[str, Any]:
        """Judge every plan that is missing."""
        self.results.setdefault("environment", environment(self.adapter) | {"threads": "1"})  # as `_alone`, `_open` set
        done = self.results["plans"]
        missing = [n for n in (DENSE, *self.trained, *self.requests) if n not in done]
        left = len(missing)
        for name, figures in self._alone(missing) if self.n_jobs == 1 else self._shared(missing):
            done[name] = figures
            left -= 1
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.results, indent=1) + "\n")
            print(json.dumps({"judged": name, "plans": len(done), "left": left}), flush=True)
        return self.results

    def _alone(self, names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        with one_thread():
            for name in names:
                yield name, judge_plan(self.adapter, self._plan_for(name), self.results["scenes"])

    def _shared(self, names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.n_jobs, context, _open, (self.model,)) as pool:
            waiting = {pool.submit(_judge, self._plan_for(n), self.results["scenes"]): n for n in names}
            for finished in as_completed(waiting):
                yield waiting[finished], finished.result()

    def _plan_for(self, name: str) -> PlanRequest | bytes | None:
        """A plan to make, or one that was trained, as a file's bytes; None for the full model."""
        if name in self.trained:
            return self.trained[name].to_bytes()
        return None if name == DENSE else self.requests[name]


def _open(model: str) -> None:
    global _adapter
    torch.set_num_threads(1)
    _adapter = load(model, device="cpu")


def _judge(request: PlanRequest | bytes | None, n_scenes: int) -> dict[str, Any]:
    return judge_plan(_adapter, request, n_scenes)


def judge_plan(adapter: VLMAdapter, request: PlanRequest | bytes | None, n_scenes: int) -> dict[str, Any]:
    """`judge` under a plan: made first, or read from a file's bytes; None for the full model."""
    if request is None:
        return judge(adapter, adapter, n_scenes)
    made = request if isinstance(request, bytes) else make_plan(adapter, request, DrawnPairs()).to_bytes()
    plan = StructuralPlan.from_bytes(made)  # as a saved one acts
    view = adapter.compressed(plan)
    try:
        return judge(view, adapter, n_scenes) | {"structure": plan.summary().to_dict()}
    finally:
        view.close()


def judge(view: VLMAdapter, dense: VLMAdapter, n_scenes: int) -> dict[str, Any]:
    """Share of right answers with its standard error; estimated multiply-adds of tower and prefill (means); measured
    milliseconds of both (medians over the first `TIMED` scenes, one thread), and those of the dense model, which took
    its turn on the same scenes, before and after by turns: whatever else the machine did, it did to both.
    """
    right, flops, times, dense_times = [], [], [], []
    for number in range(n_scenes):
        pair, _ = judged(number)
        if number < TIMED and number % 2:
            dense_times.append(_answered(dense, pair)[2])
        out, cost, ms = _answered(view, pair)
        if number < TIMED and not number % 2:
            dense_times.append(_answered(dense, pair)[2])
        right.append(out == pair.answer)
        flops.append(cost)
        times.append(ms)
    p, n = sum(right) / n_scenes, n_scenes
    names = ("tower", "prefill")

    def medians(rows: Sequence[tuple[float, float]]) -> dict[str, float]:
        values = (round(statistics.median(t), 3) for t in zip(*rows, strict=True))
        return dict(zip(names, values, strict=True))

    return {
        "accuracy": {"value": round(p, 4), "standard_error": round(math.sqrt(p * (1 - p) / n), 4), "n": n},
        "estimated_flops": dict(zip(names, (statistics.fmean(f) for f in zip(*flops, strict=True)), strict=True)),
        "measured_ms": medians(times[:TIMED]),
        "measured_dense_ms": medians(dense_times),
    }


def _answered(adapter: VLMAdapter, pair: Pair) -> tuple[str, tuple[float, float], tuple[float, float]]:
    """The answer; estimated multiply-adds and measured milliseconds of tower and prefill."""
    prompt = adapter.prompt(pair.picture, pair.question)
    began = time.perf_counter()
    encoded = adapter.encode_image(prompt, [], None, RunCallbacks())
    encode_ms = 1e3 * (time.perf_counter() - began)
    out = adapter.answer(prompt, adapter.project(encoded, None), None, 24, RunCallbacks())
    cost = estimate(adapter.info, out.visual_per_layer, out.text_tokens, encoded.tokens_per_layer, 4)
    return out.text, (cost.tower_flops, cost.prefill_flops), (encode_ms, out.prefill_ms)


def table(results: dict[str, Any]) -> str:
    """The figures as text: how many times fewer multiply-adds, how many times faster, and what is left of accuracy."""
    plans = results["plans"]
    dense = plans[DENSE]
    lines = ["| plan | accuracy | tower FLOPs | tower time | prefill FLOPs | prefill time | both FLOPs |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for name, r in plans.items():
        a, cells = r["accuracy"], []
        for part in ("tower", "prefill"):
            fewer = dense["estimated_flops"][part] / r["estimated_flops"][part]
            cells += [f"{fewer:.2f}x", f"{r['measured_dense_ms'][part] / r['measured_ms'][part]:.2f}x"]
        total = sum(dense["estimated_flops"].values()) / sum(r["estimated_flops"].values())
        accuracy = f"{100 * a['value']:.1f} ± {100 * a['standard_error']:.1f}"
        lines.append(f"| {name} | {accuracy} | {' | '.join(cells)} | {total:.2f}x |")
    return "\n".join(lines)

"""Evaluation of compensation with captions on scenes that were never trained on, at equal cost.

For every scene, pruner and budget, one question is answered without a caption, with each of the three candidates (hence
with the chosen one, with the best fixed rank of beam, and with whichever is right), with a true caption of the dropped
tokens (an upper bound), and, as the control, by the same pruner with as many more visual tokens as caption, captioner
and selector cost. Scenes are distributed over processes with one thread each; finished parts are kept beside the
figures, and running again evaluates the missing ones.
"""

from __future__ import annotations

import json
import math
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from pruning.checkpoints import digest_of
from pruning.compensation.accm import BEAMS
from pruning.compensation.base import inserted_text
from pruning.cost import break_even, prefill_flops
from pruning.demo_model.evaluation.judge import SHORT_KINDS
from pruning.demo_model.training.architecture import COLS, ROWS, SIDE
from pruning.demo_model.training.language import owner_of
from pruning.demo_model.world.captions import caption_of, objects_in
from pruning.demo_model.world.questions import ask
from pruning.demo_model.world.scene import draw, sample_scene, scene_rng
from pruning.engine.compensate import Replay, open_compensator, what_was_discarded
from pruning.engine.environment import environment
from pruning.engine.run import encode_for, encode_image
from pruning.engine.session import Session
from pruning.errors import BudgetError, ParameterError
from pruning.methods import method_class
from pruning.models import load
from pruning.models.base import RunCallbacks
from pruning.records.run import RunRequest

N_TOKENS = ROWS * COLS
PRUNERS = ("random_baseline", "vispruner", "vitcop")
BUDGETS = (36, 18)
PART = 50  # scenes
LONGEST = 16  # tokens of an answer


@dataclass(frozen=True, slots=True)
class Found:
    """Results of one question with one pruner and budget: whether the answer was right without a caption, with each
    candidate, with a true caption (`truth`), and with tokens of equal cost; `tokens` is the length of the caption in
    the prompt, `worth` its cost in visual tokens.
    """

    without: bool
    candidates: tuple[bool, ...]
    chosen: int
    empty: bool
    truth: bool
    equal_cost: bool
    equal_budget: int
    tokens: int
    worth: float
    captioner_flops: float
    selector_flops: float


class CaptionJudge:
    """Evaluates compensation on single scenes."""

    def __init__(self, model: str, captioner: str) -> None:
        self.adapter = load(model, device="cpu", dtype="float32")
        self.accm = open_compensator("accm", self.adapter, captioner)

    def __call__(self, number: int) -> tuple[str, bool, dict[str, Found | None]]:
        """Return the kind of the question, whether the full answer is right, and results by `pruner@kept` (None:
        refused).
        """
        rng = scene_rng("evaluate", number)
        scene = sample_scene(rng)
        picture, ids = draw(scene, SIDE)
        questions = [q for q in (ask(scene, kind, rng) for kind in SHORT_KINDS) if q is not None]
        question = questions[int(rng.integers(len(questions)))]
        owner = owner_of(ids, len(scene.objects))
        prompt = self.adapter.prompt(picture, question.text)
        encoded, _ = encode_image(self.adapter, prompt)

        def right(prompt, rows, decider) -> tuple[bool, object]:
            out = self.adapter.answer(prompt, rows, decider, LONGEST, RunCallbacks())
            return out.text == question.answer, out

        def prune(method: str, count: int) -> tuple[Session, object, bool, object]:
            request = RunRequest("demo", method, count / N_TOKENS, question.text, seed=number)
            session = Session(method_class(method)(keep_ratio=request.keep_ratio), self.adapter, prompt, request)
            rows = self.adapter.project(encode_for(session, self.adapter, prompt, encoded, RunCallbacks()), session)
            ok, out = right(prompt, rows, session)
            return session, rows, ok, out

        full, _ = right(prompt, self.adapter.project(encoded, None), None)
        found: dict[str, Found | None] = {}
        for method in PRUNERS:
            for count in BUDGETS:
                try:
                    session, rows, without, out = prune(method, count)
                except BudgetError:
                    found[f"{method}@{count}"] = None
                    continue
                discarded = what_was_discarded(session, prompt, encoded, question.text, picture)
                proposal = self.accm(discarded)
                replay = Replay(session)
                answered = [
                    right(self.adapter.insert(prompt, inserted_text(c.text)), rows, replay) for c in proposal.candidates
                ]
                gone = np.zeros(N_TOKENS, bool)
                gone[discarded.ids] = True
                true = caption_of(scene, question, objects_in(owner, gone))
                truth, _ = right(self.adapter.insert(prompt, inserted_text(true)), rows, replay)
                compensated = answered[proposal.chosen][1]
                worth = self._worth(out, compensated, proposal.captioner_flops + proposal.selector_flops)
                budget = min(N_TOKENS, count + math.ceil(worth))
                found[f"{method}@{count}"] = Found(
                    without=without,
                    candidates=tuple(ok for ok, _ in answered),
                    chosen=proposal.chosen,
                    empty=not proposal.caption,
                    truth=truth,
                    equal_cost=prune(method, budget)[2],
                    equal_budget=budget,
                    tokens=compensated.text_tokens - out.text_tokens,
                    worth=worth,
                    captioner_flops=proposal.captioner_flops,
                    selector_flops=proposal.selector_flops,
                )
        return question.kind, full, found

    def _worth(self, plain, compensated, side_flops: float) -> float:
        """Return how many visual tokens (in every layer) cost as much as caption, captioner and selector."""
        info = self.adapter.info
        sizes = (info.text_dim, info.text_ffn_dim, info.kv_dim)
        costs = [prefill_flops(o.visual_per_layer, o.text_tokens, *sizes) for o in (plain, compensated)]
        return break_even(info, plain.visual_per_layer, plain.text_tokens, costs[1] - costs[0] + side_flops)


_judge: CaptionJudge  # one in every process


def _open(model: str, captioner: str) -> None:
    global _judge
    torch.set_num_threads(1)
    _judge = CaptionJudge(model, captioner)


def _ask(number: int) -> tuple[str, bool, dict[str, dict | None]]:
    kind, full, found = _judge(number)
    return kind, full, {k: None if f is None else asdict(f) for k, f in found.items()}


def evaluate_accm(model: str, captioner: Path, out: Path, n_scenes: int, n_jobs: int) -> dict:
    """Evaluate the scenes that are missing, and write the figures to `out`; finished parts are kept beside it until
    then.

    Raises:
        ParameterError: if the parts beside `out` are those of another captioner or model.
    """
    adapter = load(model, device="cpu")
    of = {"weights": digest_of(captioner), "model": adapter.fingerprint}
    kept = out.with_suffix(".parts.json")
    parts: dict = json.loads(kept.read_text()) if kept.exists() else {**of, "scenes": {}}
    if parts | of != parts:
        raise ParameterError(f"{kept} holds parts for other weights.", "Delete it, or evaluate those weights.")
    out.parent.mkdir(parents=True, exist_ok=True)
    missing = [i for i in range(n_scenes) if str(i) not in parts["scenes"]]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_jobs, context, _open, (model, str(captioner))) as pool:
        for start in range(0, len(missing), PART):
            numbers = missing[start : start + PART]
            parts["scenes"] |= {str(i): found for i, found in zip(numbers, pool.map(_ask, numbers), strict=True)}
            kept.write_text(json.dumps(parts))
            print(json.dumps({"evaluate": "accm", "scene": len(parts["scenes"]), "of": n_scenes}), flush=True)
    scenes = [parts["scenes"][str(i)] for i in range(n_scenes)]
    results = {
        **of,
        "scenes": n_scenes,
        "full": _share([full for _, full, _ in scenes]),
        "environment": environment(adapter),
        **summary([(kind, found) for kind, _, found in scenes]),
    }
    out.write_text(json.dumps(results, indent=1) + "\n")
    kept.unlink()
    return results


def summary(scenes: Sequence[tuple[str, dict[str, dict | None]]]) -> dict:
    """Return the figures by `pruner@kept`."""
    figures = {}
    for name in (f"{m}@{k}" for m in PRUNERS for k in BUDGETS):
        rows = [(kind, Found(**found[name])) for kind, found in scenes if found[name] is not None]
        rows = [(kind, replace(f, candidates=tuple(f.candidates))) for kind, f in rows]
        if not rows:
            figures[name] = {"refused": True}
            continue
        found = [f for _, f in rows]
        chosen = [f.candidates[f.chosen] for f in found]
        without, equal = [f.without for f in found], [f.equal_cost for f in found]
        fixed = [_share([f.candidates[j] for f in found]) for j in range(BEAMS)]
        kinds = sorted({kind for kind, _ in rows})
        figures[name] = {
            "without": _share(without),
            "compensated": _share(chosen),
            "equal_cost": _share(equal),
            "gain": _difference(chosen, without),
            "gain_over_equal_cost": _difference(chosen, equal),
            "candidates": fixed,
            "best_fixed": max(fixed, key=lambda s: s["value"]),
            "gain_over_best_fixed": _difference(
                chosen, [f.candidates[max(range(BEAMS), key=lambda j: fixed[j]["value"])] for f in found]
            ),
            "best_of_three": _share([any(f.candidates) for f in found]),
            "true_description": _share([f.truth for f in found]),
            "right_made_wrong": _share([w and not c for w, c in zip(without, chosen, strict=True)]),
            "wrong_made_right": _share([c and not w for w, c in zip(without, chosen, strict=True)]),
            "empty_captions": _share([f.empty for f in found]),
            "caption_tokens": _mean([f.tokens for f in found]),
            "worth_visual_tokens": _mean([f.worth for f in found]),
            "equal_budget": _mean([f.equal_budget for f in found]),
            "captioner_flops": _mean([f.captioner_flops for f in found]),
            "selector_flops": _mean([f.selector_flops for f in found]),
            "by_kind": {
                kind: {
                    part: _share([getter(f) for k, f in rows if k == kind])
                    for part, getter in {
                        "without": lambda f: f.without,
                        "compensated": lambda f: f.candidates[f.chosen],
                        "equal_cost": lambda f: f.equal_cost,
                        "true_description": lambda f: f.truth,
                    }.items()
                }
                for kind in kinds
            },
        }
    return {"curve": figures}


def _share(oks: Sequence[bool]) -> dict[str, float]:
    p, n = float(np.mean(oks)) if oks else float("nan"), len(oks)
    return {"value": round(p, 4), "standard_error": round(math.sqrt(p * (1 - p) / max(1, n)), 4), "n": n}


def _difference(a: Sequence[bool], b: Sequence[bool]) -> dict[str, float]:
    """Return the mean of a paired difference with its standard error."""
    d = np.asarray(a, float) - np.asarray(b, float)
    return {"value": round(float(d.mean()), 4), "standard_error": round(float(d.std() / math.sqrt(len(d))), 4)}


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 2)

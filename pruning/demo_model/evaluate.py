"""What the bundled model can do, and how much of it survives pruning: on scenes it was never trained on.

Every answer comes out of the engine itself (tower, decisions, greedy decoding), one question at a time. Beside the
methods stand a blind baseline (the question is asked about another scene's picture) and an oracle that keeps the
tokens of the objects that hold the answer. Results are written after every configuration; running again goes on.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from pruning.demo_model.build import COLS, ROWS, SIDE
from pruning.demo_model.questions import KINDS, Question, ask
from pruning.demo_model.scene import draw, patch_coverage, sample_scene, scene_rng
from pruning.errors import BudgetError
from pruning.methods import METHODS
from pruning.methods.base import BEFORE_LANGUAGE_MODEL, TokenPruner
from pruning.models.base import Prompt, Seen, VLMAdapter, Watch
from pruning.records import RunRequest
from pruning.runner import Session, see_picture
from pruning.scoring import best_ascending
from pruning.signals import Decision, ModelInfo, PruneContext, Signal, Stage

BUDGETS = (192, 128, 64, 36, 18)
N_TOKENS = ROWS * COLS
SHORT_KINDS = tuple(k for k in KINDS if k != "describe")


@dataclass(frozen=True, kw_only=True)
class EvidenceOracle(TokenPruner):
    """Keeps the tokens of the objects that hold the answer, best covered first and every object in turn, and fills up
    at random. Not a method: it knows the truth.
    """

    key: ClassVar[str] = "oracle"
    title: ClassVar[str] = "Oracle (keeps the evidence)"
    needs: ClassVar[frozenset[Signal]] = frozenset()
    coverage: torch.Tensor

    def plan(self, info: ModelInfo, n_tokens: int) -> dict[Stage, int]:
        return self.single_stage(BEFORE_LANGUAGE_MODEL, n_tokens)

    def select(self, context: PruneContext, n_keep: int) -> Decision:
        score = torch.rand(context.n_rows, generator=context.generator)
        for one in self.coverage.T:
            mine = (one > 0.05).nonzero()[:, 0]
            ranked = mine[one[mine].argsort(descending=True, stable=True)]
            score[ranked] = 2 - torch.arange(len(ranked)) / N_TOKENS
        return Decision(best_ascending(score, n_keep), scores=score)


@dataclass(frozen=True, slots=True)
class Item:
    """One question about one scene. `coverage` `[tokens, evidence objects]`: share of each token that they cover."""

    scene: int
    question: Question
    coverage: np.ndarray

    @property
    def evidence(self) -> np.ndarray:
        return np.flatnonzero(self.coverage.max(1) > 0.125)


def items(
    n_scenes: int, kinds: tuple[str, ...], per_scene: int | None = None
) -> Iterator[tuple[int, np.ndarray, list]]:
    """(scene number, picture, its questions): one question of every kind, or `per_scene` of them drawn at random."""
    for number in range(n_scenes):
        rng = scene_rng("evaluate", number)
        scene = sample_scene(rng)
        picture, ids = draw(scene, SIDE)
        coverage = patch_coverage(ids, len(scene.objects), ROWS, COLS)
        questions = [q for q in (ask(scene, kind, rng) for kind in kinds) if q is not None]
        if per_scene is not None:
            questions = [questions[i] for i in sorted(rng.permutation(len(questions))[:per_scene])]
        yield number, picture, [Item(number, q, coverage[:, list(q.evidence)]) for q in questions]


class Evaluation:
    """Runs configurations over the scenes and keeps their figures in a JSON file."""

    def __init__(self, adapter: VLMAdapter, path: Path, n_scenes: int) -> None:
        self.adapter, self.path, self.n_scenes = adapter, path, n_scenes
        self.results: dict = json.loads(path.read_text()) if path.exists() else {}
        if self.results.get("scenes", n_scenes) != n_scenes:
            raise SystemExit(f"{path} holds figures for {self.results['scenes']} scenes; delete it or use --scenes.")
        self.results["scenes"] = n_scenes

    def run(self) -> dict:
        """Everything: full picture by kind, blind, and all methods at all budgets."""
        self._once("full", lambda: self._by_kind(blind=False))
        self._once("blind", lambda: self._by_kind(blind=True))
        curve = self.results.setdefault("curve", {})
        todo = [("full", None)] + [(m, k) for k in BUDGETS for m in [*METHODS, "oracle"]]
        todo = [(m, k) for m, k in todo if _name(m, k) not in curve]
        if todo:
            self._curve(todo, curve)
        return self.results

    def _once(self, name: str, make) -> None:
        if name not in self.results:
            self.results[name] = make()
            self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.results, indent=1) + "\n")

    def _by_kind(self, *, blind: bool) -> dict:
        """Accuracy per kind; `describe` by the objects it names. Blind: the picture of the scene before."""
        right: dict[str, list[bool]] = {k: [] for k in SHORT_KINDS}
        named, named_placed = _F1(), _F1()
        began, other = time.time(), None
        for number, picture, questions in items(self.n_scenes, KINDS):
            shown = other if blind else picture
            other = picture
            if shown is None:
                continue
            seen = None
            for item in questions:
                prompt = self.adapter.prompt(shown, item.question.text)
                seen = seen or see_picture(self.adapter, prompt)[0]
                text = self._answer(prompt, seen, None)
                if item.question.kind == "describe":
                    named.add(_names(text), _names(item.question.answer))
                    named_placed.add(_phrases(text), _phrases(item.question.answer))
                else:
                    right[item.question.kind].append(text == item.question.answer)
            _progress("blind" if blind else "full", number, self.n_scenes, began)
        everything = [ok for oks in right.values() for ok in oks]
        return {
            "exact_match": _share(everything),
            "by_kind": {k: _share(v) for k, v in right.items()},
            "describe_f1_objects": round(named.value, 4),
            "describe_f1_objects_and_places": round(named_placed.value, 4),
        }

    def _curve(self, todo: list, curve: dict) -> None:
        """All configurations side by side, scene by scene: the tower runs once for a picture."""
        right = {_name(m, k): [] for m, k in todo}
        recall = {name: [] for name in right}
        mean_tokens = {name: [] for name in right}
        refused: dict[str, str] = {}
        began = time.time()
        for number, picture, questions in items(self.n_scenes, SHORT_KINDS, per_scene=2):
            seen = None
            for place, item in enumerate(questions):
                prompt = self.adapter.prompt(picture, item.question.text)
                seen = seen or see_picture(self.adapter, prompt)[0]
                for method, count in todo:
                    name = _name(method, count)
                    if name in refused:
                        continue
                    try:
                        session = self._session(method, count, item, prompt, seed=2 * number + place)
                        text = self._answer(prompt, seen, session)
                    except BudgetError as error:
                        refused[name] = str(error)
                        continue
                    right[name].append(text == item.question.answer)
                    if session is not None:
                        recall[name].append(_recall(session, item.evidence))
                        mean_tokens[name].append(self._mean_tokens)
            _progress("curve", number, self.n_scenes, began)
        for name in right:
            if name in refused:
                curve[name] = {"refused": refused[name]}
                continue
            curve[name] = {"accuracy": _share(right[name])}
            if recall[name]:
                curve[name] |= {
                    "evidence_kept": round(float(np.nanmean(recall[name])), 4),
                    "mean_tokens_per_layer": round(float(np.mean(mean_tokens[name])), 2),
                }
        self._write()

    def _session(self, method: str, count: int | None, item: Item, prompt: Prompt, seed: int) -> Session | None:
        if count is None:
            return None
        ratio = count / N_TOKENS
        request = RunRequest("demo", method, ratio, item.question.text, seed=seed)
        if method == "oracle":
            pruner = EvidenceOracle(keep_ratio=ratio, coverage=torch.from_numpy(item.coverage))
        else:
            pruner = METHODS[method](keep_ratio=ratio)
        return Session(pruner, self.adapter, prompt, request)

    def _answer(self, prompt: Prompt, seen: Seen, session: Session | None) -> str:
        picture = self.adapter.project(seen, session)
        out = self.adapter.answer(prompt, picture, session, 128, Watch())
        self._mean_tokens = float(np.mean(out.visual_per_layer))
        return out.text


class _F1:
    """Micro F1 over multisets."""

    def __init__(self) -> None:
        self.hits = self.said = self.true = 0

    def add(self, said: Counter, true: Counter) -> None:
        self.hits += sum((said & true).values())
        self.said += sum(said.values())
        self.true += sum(true.values())

    @property
    def value(self) -> float:
        return 2 * self.hits / max(1, self.said + self.true)


def _phrases(text: str) -> Counter:
    return Counter(p.strip() for p in text.split(",") if p.strip())


def _names(text: str) -> Counter:
    """Objects that a description names: size, colour, shape and digit, without their places."""
    return Counter(p.split(" at the ")[0].split(" in the ")[0].strip() for p in text.split(",") if p.strip())


def _recall(session: Session, evidence: np.ndarray) -> float:
    kept = session.steps[-1].selection.kept
    return float(np.isin(evidence, kept).mean()) if len(evidence) else float("nan")


def _share(oks: list[bool]) -> dict[str, float]:
    """Share of True with its standard error."""
    p, n = float(np.mean(oks)) if oks else float("nan"), len(oks)
    return {"value": round(p, 4), "standard_error": round(math.sqrt(p * (1 - p) / max(1, n)), 4), "n": n}


def _name(method: str, count: int | None) -> str:
    return f"{method}@{count or N_TOKENS}"


def _progress(what: str, number: int, total: int, began: float) -> None:
    if (number + 1) % 50 == 0 or number + 1 == total:
        left = (time.time() - began) / (number + 1) * (total - number - 1) / 60
        print(
            json.dumps({"evaluate": what, "scene": number + 1, "of": total, "minutes_left": round(left, 1)}), flush=True
        )


def table(results: dict) -> str:
    """The figures as text: kinds first, then accuracy against kept tokens."""
    full, blind = results["full"], results["blind"]
    lines = ["| kind | full picture | blind |", "| --- | --- | --- |"]
    for kind in SHORT_KINDS:
        lines.append(f"| {kind} | {_percent(full['by_kind'][kind])} | {_percent(blind['by_kind'][kind])} |")
    lines.append(f"| **all but describe** | **{_percent(full['exact_match'])}** | {_percent(blind['exact_match'])} |")
    names = "describe_f1_objects", "describe_f1_objects_and_places"
    for key, label in zip(names, ("describe, F1 of objects", "describe, F1 of objects with places"), strict=True):
        lines.append(f"| {label} | {full[key]:.3f} | {blind[key]:.3f} |")
    curve = results["curve"]
    lines += ["", f"| kept of {N_TOKENS} | " + " | ".join(str(k) for k in BUDGETS) + " |"]
    lines.append("| --- |" + " --- |" * len(BUDGETS))
    titles = {key: m.title for key, m in METHODS.items()} | {"oracle": EvidenceOracle.title}
    for method, title in titles.items():
        cells = [_cell(curve.get(_name(method, k), {})) for k in BUDGETS]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    lines.append("")
    lines.append(f"Full picture on the same questions: {_percent(curve[_name('full', None)]['accuracy'])}.")
    return "\n".join(lines)


def _percent(share: dict[str, float]) -> str:
    return f"{100 * share['value']:.1f} ± {100 * share['standard_error']:.1f}"


def _cell(entry: dict) -> str:
    if "accuracy" not in entry:
        return "refused" if "refused" in entry else "–"
    return f"{100 * entry['accuracy']['value']:.1f} ({100 * entry['evidence_kept']:.0f})"

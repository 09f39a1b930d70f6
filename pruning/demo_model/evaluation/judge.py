"""Evaluate one scene: whether the answer is right, and how much of the answer region was kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from pruning.benchmarks.reports import DRAW
from pruning.demo_model.training.architecture import COLS, ROWS, SIDE
from pruning.demo_model.training.language import Segment, encode_prefix, exact_matches, pack
from pruning.demo_model.training.tower import encode, to_pixels
from pruning.demo_model.world.questions import KINDS, Question, ask
from pruning.demo_model.world.scene import draw, patch_coverage, sample_scene, scene_rng
from pruning.engine.run import encode_for, encode_image
from pruning.engine.session import Session
from pruning.errors import BudgetError
from pruning.interface import Decision, ModelInfo, Observation, Part, PruneContext, Signal, Stage
from pruning.layout import EVIDENCE_SHARE
from pruning.methods import METHODS
from pruning.methods.base import BEFORE_LANGUAGE_MODEL, ScoredPruner, TokenPruner
from pruning.methods.vitcop import key_norm
from pruning.models.base import RunCallbacks, VLMAdapter
from pruning.models.prompt import Prompt
from pruning.records.run import RunRequest

N_TOKENS = ROWS * COLS
SHORT_KINDS = tuple(k for k in KINDS if k != "describe")
OTHER_DRAW = 1_000_000  # between the seeds of two random draws of one scene
TOUCHED = 0.05  # share of a token that an object must cover for the oracle to call it the object's


@dataclass(frozen=True, kw_only=True)
class EvidenceOracle(ScoredPruner):
    """Keeps the tokens of the objects that hold the answer, best covered first and every object in turn, and fills up
    at random. Not a method: it knows the truth.
    """

    key: ClassVar[str] = "oracle"
    title: ClassVar[str] = "Oracle (keeps the evidence)"
    stage: ClassVar[Stage] = BEFORE_LANGUAGE_MODEL
    needs: ClassVar[frozenset[Signal]] = frozenset()
    coverage: torch.Tensor

    def score(self, context: PruneContext) -> torch.Tensor:
        score = torch.rand(context.n_rows, generator=context.generator)
        for one in self.coverage.T:
            mine = (one > TOUCHED).nonzero()[:, 0]
            ranked = mine[one[mine].argsort(descending=True, stable=True)]
            score[ranked] = 2 - torch.arange(len(ranked)) / N_TOKENS
        return score


@dataclass(frozen=True, kw_only=True)
class ImportanceProbe(TokenPruner):
    """Drops nothing. Looks in every layer at two signs of importance, the norm of a token's key (ViTCoP: small is
    important) and the attention that the last word pays it (FastV), and at how well either finds the evidence.
    """

    key: ClassVar[str] = "importance_probe"
    title: ClassVar[str] = "Probe"
    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.LANGUAGE_KEYS, Signal.LAST_TOKEN_ATTENTION})
    evidence: np.ndarray
    found: dict[int, tuple[float, float, float]]

    def plan(self, info: ModelInfo, n_tokens: int) -> dict[Stage, int]:
        return {Stage(Part.LANGUAGE_MODEL, layer): n_tokens for layer in range(1, info.text_layers)}

    def observations(self, info: ModelInfo) -> tuple[Observation, ...]:
        return tuple(
            Observation(signal, layer - 1) for layer in range(1, info.text_layers) for signal in sorted(self.needs)
        )

    def keep_all(self, context: PruneContext) -> Decision:
        layer = context.stage.layer - 1
        small = _places(-key_norm(context.observations[Observation(Signal.LANGUAGE_KEYS, layer)]))
        encoded = _places(context.observations[Observation(Signal.LAST_TOKEN_ATTENTION, layer)].mean(0))
        agreement = float(np.corrcoef(small, encoded)[0, 1])
        self.found[layer] = (agreement, float(small[self.evidence].mean()), float(encoded[self.evidence].mean()))
        return super().keep_all(context)

    def select(self, context: PruneContext, n_keep: int) -> Decision:
        del n_keep
        return self.keep_all(context)


def _places(score: torch.Tensor) -> np.ndarray:
    """Place of every token by its score, 0 (lowest) to 1."""
    return score.argsort().argsort().double().numpy() / (len(score) - 1)


@dataclass(frozen=True, slots=True)
class Item:
    """One question about one scene. `coverage` `[tokens, evidence objects]`: share of each token that they cover."""

    question: Question
    coverage: np.ndarray

    @property
    def evidence(self) -> np.ndarray:
        return np.flatnonzero(self.coverage.max(1) > EVIDENCE_SHARE)


def items(number: int, kinds: Sequence[str], at_most: int | None = None) -> tuple[np.ndarray, list[Item]]:
    """Picture of evaluation scene `number` and one question of every kind, or `at_most` of them drawn at random."""
    rng = scene_rng("evaluate", number)
    scene = sample_scene(rng)
    picture, ids = draw(scene, SIDE)
    coverage = patch_coverage(ids, len(scene.objects), ROWS, COLS)
    questions = [q for q in (ask(scene, kind, rng) for kind in kinds) if q is not None]
    if at_most is not None:
        questions = [questions[i] for i in sorted(rng.permutation(len(questions))[:at_most])]
    return picture, [Item(q, coverage[:, list(q.evidence)]) for q in questions]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answer under one configuration. `refused` is the sentence of a method that cannot keep so few tokens."""

    right: bool = False
    answer_region_kept: float = float("nan")
    mean_tokens: float = float("nan")
    refused: str = ""


class Judge:
    """Asks the questions of a scene. Seeds of random choices follow from the number of the scene."""

    def __init__(self, adapter: VLMAdapter) -> None:
        self.adapter = adapter
        self._tokenizer = adapter.processor.tokenizer
        self._prefix = encode_prefix(self._tokenizer)

    def every_kind(self, number: int, shown: int, *, shuffled: bool = False) -> dict[str, bool]:
        """Per kind but `describe`: exact match on scene `number` while the model sees the picture of scene `shown`, all
        of it, in reading order or with its rows `shuffled`.

        All questions go through the unpruned model in one packed pass: every answer token must be the most likely
        one, which is when greedy decoding writes the same answer.
        """
        _, asked = items(number, KINDS)
        picture, _ = items(shown, KINDS)
        segments = [Segment(i.question, i.question.text) for i in asked if i.question.kind != "describe"]
        rows = np.random.default_rng(number).permutation(N_TOKENS) if shuffled else np.arange(N_TOKENS)
        batch = pack(self._tokenizer, rows[None], [segments])
        model = self.adapter.model
        hidden, _ = encode(model.model.vision_tower, to_pixels(picture)[None].to(model.device))
        found = exact_matches(model, self._prefix, hidden[:, 1:][:, rows], batch)
        return {kind: oks[0] for kind, oks in found.items()}

    def description(self, number: int, shown: int) -> tuple[str, str]:
        """(what the model says to `describe`, what is true), through the engine."""
        _, [asked] = items(number, ("describe",))
        picture, _ = items(shown, ("describe",))
        prompt = self.adapter.prompt(picture, asked.question.text)
        encoded, _ = encode_image(self.adapter, prompt)
        text, _ = self._answer(prompt, encoded, None)
        return text, asked.question.answer

    def pruned(self, number: int, configurations: Sequence[tuple[str, int | None]]) -> list[Outcome]:
        """One question about the scene under every (method, kept tokens); None is the full picture."""
        picture, [item] = items(number, SHORT_KINDS, at_most=1)
        prompt = self.adapter.prompt(picture, item.question.text)
        encoded, _ = encode_image(self.adapter, prompt)
        return [self._outcome(item, prompt, encoded, method, count, number) for method, count in configurations]

    def importance(self, number: int) -> dict[int, tuple[float, float, float]]:
        """Per layer: rank correlation of small key norms with the last word's attention, and the mean place (0 .. 1) of
        the evidence by either; for a question about one object. Empty where no object stands out.
        """
        picture, asked = items(number, ("color", "shape", "where"), at_most=1)
        if not asked:
            return {}
        [item] = asked
        prompt = self.adapter.prompt(picture, item.question.text)
        encoded, _ = encode_image(self.adapter, prompt)
        probe = ImportanceProbe(keep_ratio=0.999, evidence=item.evidence, found={})
        session = Session(probe, self.adapter, prompt, RunRequest("demo", probe.key, 0.999, item.question.text))
        self.adapter.answer(prompt, self.adapter.project(encoded, session), session, 1, RunCallbacks())
        return probe.found

    def _outcome(self, item: Item, prompt: Prompt, encoded, method: str, count: int | None, seed: int) -> Outcome:
        try:
            session = None if count is None else self._session(method, count, item, prompt, seed)
            text, mean_tokens = self._answer(prompt, encoded, session)
        except BudgetError as error:
            return Outcome(refused=str(error))
        kept = np.arange(N_TOKENS) if session is None else session.steps[-1].selection.kept
        recall = float(np.isin(item.evidence, kept).mean()) if len(item.evidence) else float("nan")
        return Outcome(text == item.question.answer, recall, mean_tokens)

    def _session(self, method: str, count: int, item: Item, prompt: Prompt, seed: int) -> Session:
        ratio = count / N_TOKENS
        method, _, draw = method.partition(DRAW)
        seed += OTHER_DRAW * int(draw or 0)
        request = RunRequest("demo", method, ratio, item.question.text, seed=seed)
        if method == EvidenceOracle.key:
            pruner = EvidenceOracle(keep_ratio=ratio, coverage=torch.from_numpy(item.coverage))
        else:
            pruner = METHODS[method](keep_ratio=ratio)
        return Session(pruner, self.adapter, prompt, request)

    def _answer(self, prompt: Prompt, encoded, session: Session | None) -> tuple[str, float]:
        if session is not None:
            encoded = encode_for(session, self.adapter, prompt, encoded, RunCallbacks())
        out = self.adapter.answer(prompt, self.adapter.project(encoded, session), session, 128, RunCallbacks())
        return out.text, float(np.mean(out.visual_per_layer))


def objects_named(text: str) -> Counter:
    """Objects that a description names: size, colour, shape and digit, without their places."""
    return Counter(p.split(" at the ")[0].split(" in the ")[0] for p in phrases(text).elements())


def phrases(text: str) -> Counter:
    """The parts of a description between its commas."""
    return Counter(p.strip() for p in text.split(",") if p.strip())

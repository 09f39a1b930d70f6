"""What the second stage of ACCM's training is taught by: the frozen model's own answers, to drawn scenes or to a
folder of pictures and questions. No right answer of a person or a generator is ever used.

A lesson is one picture with what was discarded of it and some questions; `divergences` tells how far the pruned model's
answer with a caption is from the unpruned one (D_j of `compensation.objective`).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from pruning.compensation.base import inserted_text
from pruning.compensation.objective import kl_to_full
from pruning.demo_model.training.language import FeatureCache, Segment, cached_scene, encode_prefix, forward, pack
from pruning.demo_model.training.token_subsets import N_PATCHES
from pruning.demo_model.world.captions import draw_discarded
from pruning.demo_model.world.questions import KINDS, ask_many, decorate
from pruning.errors import ImageRejectedError, ParameterError
from pruning.inputs.images import read_image
from pruning.interface import Part, Stage
from pruning.models.base import RunCallbacks, VisualTokens, VLMAdapter

LONGEST_ANSWER = 6  # tokens; descriptions are not asked for here
ASKED = tuple(k for k in KINDS if k != "describe")
SHARES = (0.02, 0.125)  # of the tokens are kept: where compensation is wanted


class Lesson(Protocol):
    """One picture: `features` `[discarded, dim]` and `questions`."""

    features: torch.Tensor
    questions: list[str]

    def divergences(self, captions: list[list[str]]) -> torch.Tensor:
        """D of every caption of every question, float32 `[questions, captions]`; an empty caption is no caption."""


class DrawnLesson:
    """A drawn scene on cached tower features; all its questions go through the frozen model in one packed pass."""

    def __init__(self, adapter: VLMAdapter, features: np.ndarray, kept: np.ndarray, asked: list[Segment]) -> None:
        self.adapter, self.kept, self.asked = adapter, kept, asked
        self._all = torch.from_numpy(features.astype(np.float32)).to(adapter.device)
        gone = np.setdiff1d(np.arange(N_PATCHES), kept)
        self.features, self.questions = self._all[gone], [s.text for s in asked]
        self._prefix = encode_prefix(adapter.tokenizer)
        self._full: list[torch.Tensor] | None = None

    def divergences(self, captions: list[list[str]]) -> torch.Tensor:
        if self._full is None:
            self._answer_in_full()
        told = [[replace(s, help=c) for c in mine] for s, mine in zip(self.asked, captions, strict=True)]
        said = self._log_probs(self.kept, [s for mine in told for s in mine], renumber=True)
        rows = iter(said)
        return torch.stack(
            [torch.stack([kl_to_full(full, next(rows)) for _ in mine])
             for full, mine in zip(self._full, told, strict=True)]
        )  # fmt: skip

    @torch.no_grad()
    def _log_probs(self, kept: np.ndarray, segments: list[Segment], *, renumber: bool) -> list[torch.Tensor]:
        """Log-probabilities at the answer's places of every segment, `[answer, vocabulary]` each."""
        batch = pack(self.adapter.tokenizer, kept[None], [segments])
        model = self.adapter.model
        hidden, _ = forward(model, self._prefix, self._all[torch.from_numpy(kept)][None], batch, renumber=renumber)
        answered = batch.target[0] != -100
        logits = model.lm_head(hidden[0][answered.to(hidden.device)]).float().log_softmax(-1)
        counts = [int((answered & (batch.block[0] == n)).sum()) for n in range(1, len(segments) + 1)]
        return list(logits.split(counts))

    def _answer_in_full(self) -> None:
        """The unpruned model's greedy answers, word by word for all questions at once, and what it thought of them."""
        end, tokenizer = self.adapter.tokenizer.eos_token_id, self.adapter.tokenizer
        every, said = np.arange(N_PATCHES), [[] for _ in self.asked]
        for _ in range(LONGEST_ANSWER + 1):
            self.asked = [
                replace(s, question=replace(s.question, answer=tokenizer.decode(ids).strip()))
                for s, ids in zip(self.asked, said, strict=True)
            ]
            self._full = self._log_probs(every, self.asked, renumber=False)
            following = [int(f[-1].argmax()) for f in self._full]
            if all(word == end or len(ids) == LONGEST_ANSWER for word, ids in zip(following, said, strict=True)):
                return
            for ids, word in zip(said, following, strict=True):
                if word != end and len(ids) < LONGEST_ANSWER:
                    ids.append(word)


class DrawnLessons:
    """Lessons on the training scenes; lesson n is always the same."""

    def __init__(self, adapter: VLMAdapter, cache: FeatureCache, n_questions: int = 8) -> None:
        self.adapter, self.cache, self.n_questions = adapter, cache, n_questions

    def __call__(self, number: int) -> DrawnLesson:
        rng = np.random.default_rng((19, number))
        index = int(rng.integers(len(self.cache.features)))
        scene, _ = cached_scene(index)
        discarded = draw_discarded(self.cache.owner[index], rng, small=1.0)
        asked = [Segment(q, decorate(q.text, rng)) for q in ask_many(scene, rng, self.n_questions, ASKED)]
        return DrawnLesson(self.adapter, self.cache.features[index], np.flatnonzero(~discarded), asked)


class _Arrived:
    """A decider for rows that were already chosen: positions are closed up, nothing more is decided."""

    stages, observations, evicts = (Stage(Part.PROJECTOR),), (), False

    def positions_at(self, stage: Stage) -> str:
        del stage
        return "renumbered"

    def decide(self, *_, **__):
        raise AssertionError("there is no stage left to decide")


class FolderLesson:
    """One picture and one question through a model's adapter: works for every family."""

    def __init__(self, adapter: VLMAdapter, picture: np.ndarray, question: str, rng: np.random.Generator) -> None:
        self.adapter, self.questions = adapter, [question]
        self._prompt = adapter.prompt(picture, question)
        encoded = adapter.encode_image(self._prompt, (), None, RunCallbacks())
        n = self._prompt.layout.n_tokens
        n_keep = max(1, int(n * np.exp(rng.uniform(*np.log(SHARES)))))
        if rng.random() < 0.5:
            kept = np.sort(rng.permutation(n)[:n_keep])
        else:
            kept = np.unique((rng.random() + np.arange(n_keep)) * n / n_keep).astype(int) % n
        self.features = encoded.features[torch.from_numpy(np.setdiff1d(np.arange(n), kept)).to(adapter.device)]
        full = adapter.project(encoded, None)
        chosen = torch.from_numpy(np.unique(kept)).to(adapter.device)
        self._kept = VisualTokens(full.features[chosen], chosen)
        self._ids = adapter.answer(self._prompt, full, None, LONGEST_ANSWER, RunCallbacks()).token_ids
        self._full = adapter.score(self._prompt, full, None, self._ids)

    def divergences(self, captions: list[list[str]]) -> torch.Tensor:
        [mine] = captions
        said = [
            self.adapter.score(self.adapter.insert(self._prompt, inserted_text(c)), self._kept, _Arrived(), self._ids)
            for c in mine
        ]
        return torch.stack([kl_to_full(self._full, s) for s in said])[None].clone()


class FolderLessons:
    """Lessons on a folder: pictures, and `questions.json`, a list of `{"image": name, "question": text}`.

    Raises:
        ParameterError: if the folder has no such list, or an entry names a picture that cannot be read.
    """

    def __init__(self, adapter: VLMAdapter, folder: Path) -> None:
        self.adapter, self.folder = adapter, folder
        listed = folder / "questions.json"
        advice = 'Write there a list of {"image": "a.jpg", "question": "What is this?"}.'
        try:
            entries = json.loads(listed.read_text(encoding="utf-8"))
            self.entries = [(str(e["image"]), str(e["question"])) for e in entries]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ParameterError(f"{listed} cannot be read as a list of questions ({error!r}).", advice) from error
        if not self.entries:
            raise ParameterError(f"{listed} holds no questions.", advice)

    def __call__(self, number: int) -> FolderLesson:
        rng = np.random.default_rng((19, number))
        image, question = self.entries[int(rng.integers(len(self.entries)))]
        try:
            picture = read_image(self.folder / image)
        except ImageRejectedError as error:
            raise ParameterError(f"{image} of {self.folder.name}: {error}", "Mend or remove the entry.") from error
        return FolderLesson(self.adapter, picture, question, rng)

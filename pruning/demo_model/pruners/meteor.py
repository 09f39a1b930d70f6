"""Training of LLaVA-Meteor's scorer, for the bundled model: end to end, by the answers alone.

The paper tunes projector, scorer and language model together on instructions; here the frozen model answers, and the
scorer learns through the logarithm of its keep probability in the attention of later rows, as CoViPAL's second stage
does, with a budget drawn for every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch.nn import functional as F

from pruning.demo_model.pruners.covipal import Teacher
from pruning.demo_model.pruners.training import Lessons, Phase
from pruning.demo_model.training.architecture import COLS, ROWS
from pruning.demo_model.training.language import Batch, FeatureCache
from pruning.methods.meteor import Meteor, TopDownScorer, windows
from pruning.models.base import VLMAdapter


@dataclass(frozen=True, slots=True)
class MeteorRecipe:
    """A step is `scenes` pictures with one question each. The mean keep probability is drawn to a share between `least`
    and `most`, drawn evenly in logarithm, with `budget` as the weight of the squared difference of logarithms.
    """

    steps: int = 100
    scenes: int = 8
    rate: float = 2e-3
    least: float = 1 / 32
    most: float = 1 / 3
    budget: float = 0.3


class MeteorTraining:
    """What `pruner_training.learn` asks of a training."""

    method = Meteor
    about: ClassVar[str] = """Not the paper's, which has no published code: there the fused tokens replace the
projector's and everything is tuned together; here only the scorer learns, and scores.

One stage: right answers, with the keep probability as a bias of attention; `kept`: mean keep probability, `share`: what
it is drawn to in the last step."""

    def __init__(self, adapter: VLMAdapter, cache: FeatureCache, recipe: MeteorRecipe) -> None:
        self.recipe, self.teacher = recipe, Teacher(adapter)
        self.shape = {"dim": adapter.info.text_dim}
        self.module = TopDownScorer(**self.shape)
        lessons = Lessons(adapter.tokenizer, cache, recipe.scenes, 1, seed=41)
        self.phases = (Phase("answered", recipe.steps, recipe.rate, lessons, self.answer),)
        row, column = torch.meshgrid(torch.arange(ROWS) / ROWS, torch.arange(COLS) / COLS, indexing="ij")
        self._window = windows(torch.stack([row.flatten(), column.flatten()], 1))

    def answer(self, features: torch.Tensor, batch: Batch, number: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss of a step, and figures for the log."""
        low, high = np.log((self.recipe.least, self.recipe.most))
        share = float(np.exp(np.random.default_rng((43, number)).uniform(low, high)))
        words, is_pad = self.teacher.words(batch)
        order = is_pad.long().sort(dim=1, descending=True, stable=True).indices  # what is no word comes first
        words, real = words.gather(1, order[..., None].expand_as(words)), ~is_pad.gather(1, order)
        logits = self.module(self.teacher.project(features), words, self._window, real).mean(1)
        loss, kept = self.teacher.loss(features, batch, F.logsigmoid(logits)), logits.sigmoid().mean()
        figures = {"answer": float(loss.detach()), "kept": float(kept.detach()), "share": share}
        return loss + self.recipe.budget * (kept / share).log() ** 2, figures

"""Training of VisToG's grouping, for the bundled model: the frozen language model answers from a few groups of tokens.

Tokens are assigned to groups by a hard Gumbel-softmax with the gradient of the soft one (as in the paper). The number
of groups is random for every step, so that the module also serves with fewer semantic tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch.nn import functional as F

from pruning.demo_model.pruners.training import Lessons, Phase
from pruning.demo_model.training.language import Batch, FeatureCache, encode_prefix, forward
from pruning.methods.vistog import Grouping, VisToG, members
from pruning.models.base import VLMAdapter


@dataclass(frozen=True, slots=True)
class VisToGRecipe:
    """A step is `scenes` pictures with `questions` questions each; the number of groups is log-uniform
    from `fewest` to `groups`.
    """

    steps: int = 500
    scenes: int = 12
    questions: int = 6
    rate: float = 1e-3
    groups: int = 192
    fewest: int = 16


class VisToGTraining:
    """The training of VisToG's grouping, as `pruning.demo_model.pruners.training.learn` runs it."""

    method = VisToG
    about: ClassVar[str] = """Not the paper's: its semantic tokens pass through the vision tower and its language model
is tuned with them; here they read the tower's output, and only they and the grouping layer learn.

One stage: right answers from the groups alone; `groups`: how many the last step had, `used`: how many of them had
members."""

    def __init__(self, adapter: VLMAdapter, cache: FeatureCache, recipe: VisToGRecipe) -> None:
        self.recipe, self.adapter = recipe, adapter
        self.prefix = encode_prefix(adapter.tokenizer)
        self.shape = {"dim": adapter.info.token_dim, "groups": recipe.groups}
        self.module = Grouping(**self.shape)
        lessons = Lessons(adapter.tokenizer, cache, recipe.scenes, recipe.questions, seed=31)
        self.phases = (Phase("grouped", recipe.steps, recipe.rate, lessons, self.answer),)

    def answer(self, features: torch.Tensor, batch: Batch, number: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the loss of a step, and figures for the log."""
        low, high = np.log((self.recipe.fewest, self.recipe.groups))
        n_groups = round(float(np.exp(np.random.default_rng((37, number)).uniform(low, high))))
        affinity, added = self.module(features, n_groups)
        shares = F.gumbel_softmax(affinity, dim=-1, hard=True)
        size = shares.sum(1)
        rows = shares.mT @ features / size.clamp(min=1)[..., None] + added
        order = torch.stack([members(a)[1].argsort() for a in affinity.detach()])  # in their order in the picture
        rows = rows.gather(1, order[..., None].expand_as(rows))
        kept = replace(batch, kept=torch.arange(n_groups).expand(len(rows), -1))
        hidden, _ = forward(self.adapter.model, self.prefix, rows, kept, renumber=True)
        wanted = batch.target != -100
        loss = F.cross_entropy(self.adapter.model.lm_head(hidden[wanted]), batch.target[wanted])
        return loss, {"groups": n_groups, "used": float((size > 0).sum(1).float().mean())}

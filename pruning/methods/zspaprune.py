"""Keep the tokens most similar to the question, then add those least similar to all that are kept.

Paper:      Zhang et al., "ZSPAPrune: Zero-Shot Prompt-Aware Token Pruning for Vision-Language Models", 2025,
            https://arxiv.org/abs/2510.17197; no official code was found
Stage:      once, between projector and language model
Needs:      visual tokens; embeddings of the question
Symbols:    core tokens -> the first `core_share` of the budget, by cosine with the mean embedding of the question
Differs:    written from the paper's outline. Inferred: the share of core tokens (the paper tunes it for each data set;
            0.6 is what another implementation takes), and that a token's similarity to the chosen ones is its largest
            cosine to one of them
Cost:       one n x n product; O(n) a pick
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from pruning.interface import Decision, PruneContext, Signal, Stage
from pruning.methods.base import BEFORE_LANGUAGE_MODEL, TokenPruner
from pruning.ops.scoring import best, cosine, farthest_first
from pruning.parameters import Param


@dataclass(frozen=True, kw_only=True)
class ZSPAPrune(TokenPruner):
    key: ClassVar[str] = "zspaprune"
    title: ClassVar[str] = "ZSPAPrune"
    paper: ClassVar[str] = "https://arxiv.org/abs/2510.17197"
    idea: ClassVar[str] = "similar to the question, then diverse"
    stage: ClassVar[Stage] = BEFORE_LANGUAGE_MODEL
    acts: ClassVar[str] = "before the language model"
    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.VISUAL_TOKENS, Signal.TEXT_EMBEDDING})
    defaults: ClassVar[str] = "as outlined, core share inferred"

    core_share: Annotated[
        float, Param(0.0, 1.0, 0.05, "Core share", "Part of the budget chosen by similarity to the question.")
    ] = 0.6

    def select(self, context: PruneContext, n_keep: int) -> Decision:
        question = context.prompt.question.float().mean(0, keepdim=True)
        score = cosine(context.features, question)[:, 0]
        core = best(score, max(1, round(self.core_share * n_keep)))
        order, _ = farthest_first(context.features, n_keep, core)
        scores = score.clone()
        scores[order] = 2 + torch.arange(n_keep, 0, -1, device=order.device, dtype=scores.dtype)  # in order of picking
        summary = f"{len(core)} like the question, {n_keep - len(core)} unlike the others"
        extra = {"core": core, "pick_order": order, "relevance": score}
        why = {"like the question": core, "unlike the others": order[~torch.isin(order, core)]}
        return Decision(order.sort().values, scores=scores, summary=summary, extra=extra, why=why)

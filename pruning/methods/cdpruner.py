"""Keep diverse tokens weighted by the question: greedy selection from a determinantal point process.

Paper:      Zhang et al., "Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs",
            NeurIPS 2025, https://arxiv.org/abs/2506.10967; reference code Theia-4869/CDPruner @ 95416164
Stage:      once, between projector and language model
Needs:      visual tokens; embeddings of the question
Symbols:    T -> kept tokens; r (relevance) -> relevance; kernel L = diag(r) cos diag(r) -> greedy picks of the largest
            determinant
Differs:    the paper lets a token count more that resembles the question; the code takes MINUS the cosine, which its
            author explains by CLIP's last layer (`sign = unlike the question counts`). The published relevance of LLaVA
            compares patches and question in CLIP's shared space; LLaVA checkpoints hold no CLIP text tower, so
            projected tokens are compared with the language model's own embeddings, as the paper does for Qwen2.5-VL
            (`question = mean embedding`) or token by token, as the code does with several text vectors. Scaling to 0 ..
            1 is over this picture alone (the code scales over its batch, so that other pictures change the result).
            Beyond as many tokens as the features have dimensions, the rest is filled by relevance (there the code
            follows rounding errors, or fails)
Cost:       O(n dim) for every candidate (somewhat more than T of them), O(T n) a pick
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch.nn import functional as F

from pruning.interface import Decision, PruneContext, Signal, Stage
from pruning.methods.base import BEFORE_LANGUAGE_MODEL, TokenPruner
from pruning.ops.scoring import cosine, greedy_residual
from pruning.parameters import Choice

ALIKE, UNLIKE = "like the question counts", "unlike the question counts"
POOLED, EACH = "mean embedding", "every token"
LEAST = 1e-6


@dataclass(frozen=True, kw_only=True)
class CDPruner(TokenPruner):
    key: ClassVar[str] = "cdpruner"
    title: ClassVar[str] = "CDPruner"
    paper: ClassVar[str] = "https://arxiv.org/abs/2506.10967"
    idea: ClassVar[str] = "least similar, weighted by the question"
    stage: ClassVar[Stage] = BEFORE_LANGUAGE_MODEL
    acts: ClassVar[str] = "before the language model"
    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.VISUAL_TOKENS, Signal.TEXT_EMBEDDING})
    nested: ClassVar[bool] = True
    defaults: ClassVar[str] = "as published, relevance without CLIP's text tower"

    sign: Annotated[
        str,
        Choice(
            (ALIKE, UNLIKE), "Sign of relevance", "Likeness to the question as in the paper, or its opposite as coded."
        ),
    ] = ALIKE
    question: Annotated[
        str, Choice((POOLED, EACH), "Question", "Compare with the mean embedding, or with every token and average.")
    ] = POOLED

    def select(self, context: PruneContext, n_keep: int) -> Decision:
        text = context.prompt.question.float()
        if self.question == POOLED:
            text = text.mean(0, keepdim=True)
        relevance = scaled_relevance(context.features, text, minus=self.sign == UNLIKE)
        picks = conditional_dpp(context.features, relevance, n_keep)
        rank = torch.zeros_like(relevance)
        rank[picks] = torch.arange(n_keep, 0, -1, device=rank.device, dtype=rank.dtype)
        scores = torch.where(rank > 0, rank + 1, relevance)  # picks first, in order of picking
        extra = {"pick_order": picks, "relevance": relevance}
        summary = f"mean relevance {float(relevance[picks].mean()):.2f}, of all tokens {float(relevance.mean()):.2f}"
        return Decision(picks.sort().values, scores=scores, summary=summary, extra=extra)


def scaled_relevance(image: torch.Tensor, text: torch.Tensor, *, minus: bool) -> torch.Tensor:
    """Return the mean cosine of every token with the text vectors, scaled to (0, 1], float32 `[tokens]`.

    Args:
        image: `[tokens, dim]`; text: `[vectors, dim]`, in one space. minus: negate the cosines, as coded.
    """
    raw = cosine(image, text).mean(1)
    raw = -raw if minus else raw
    spread = raw.max() - raw.min()
    return (raw - raw.min() + LEAST) / spread if float(spread) > 0 else torch.ones_like(raw)


def conditional_dpp(features: torch.Tensor, relevance: torch.Tensor, count: int) -> torch.Tensor:
    """Return tokens in the order of picking; each maximises the determinant of the kernel of all picks.

    The gain of a token is its squared relevance times the part of its direction outside the span of the picks: a
    weighted greedy residual of unit vectors.

    Args:
        features: `[tokens, dim]`. relevance: `[tokens]`, positive.
    """
    return greedy_residual(F.normalize(features.float(), dim=-1), relevance.double().square(), count).order

"""Keep diverse tokens: each next one is the farthest, in cosine distance, from those kept so far (max-min diversity).

Paper:      Alvar et al., "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models", CVPR 2025,
            https://arxiv.org/abs/2503.02175; reference code vbdi/divprune @ 799e2d95 (its rule was re-derived)
Stage:      once, between projector and language model
Needs:      visual tokens, nothing else
Symbols:    keep_ratio -> the paper's ratio; the paper's set M -> kept tokens
Differs:    a token is never picked twice (in the code, duplicate tokens are); distances are computed in float32, not in
            the model's number format
Cost:       one n x n product; O(n) a pick
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from pruning.interface import Decision, PruneContext, Signal, Stage
from pruning.methods.base import BEFORE_LANGUAGE_MODEL, TokenPruner
from pruning.ops.scoring import farthest_first


@dataclass(frozen=True, kw_only=True)
class DivPrune(TokenPruner):
    key: ClassVar[str] = "divprune"
    title: ClassVar[str] = "DivPrune"
    paper: ClassVar[str] = "https://arxiv.org/abs/2503.02175"
    idea: ClassVar[str] = "each next token farthest from those kept"
    stage: ClassVar[Stage] = BEFORE_LANGUAGE_MODEL
    acts: ClassVar[str] = "before the language model"
    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.VISUAL_TOKENS})
    nested: ClassVar[bool] = True

    def select(self, context: PruneContext, n_keep: int) -> Decision:
        order, distance = farthest_first(context.features, n_keep)
        # Picks come first, in order of picking; the others by how far they are from what is kept.
        scores = distance.clone()
        scores[order] = 2 + torch.arange(n_keep, 0, -1, device=order.device, dtype=scores.dtype)
        summary = f"every token within {float(distance.max()):.2f} of a kept one (cosine distance)"
        return Decision(order.sort().values, scores=scores, summary=summary, extra={"pick_order": order})

"""Keep the visual tokens that the last prompt token attends to most, after layer K of the language model.

Paper:      Chen et al., "An Image is Worth 1/2 Tokens After Layer 2", ECCV 2024, https://arxiv.org/abs/2403.06764;
            reference code pkunlp-icler/FastV @ d1659729
Stage:      in the language model, once, during prefill, entering layer `layer`
Needs:      last-token attention of layer `layer` - 1
Symbols:    paper K -> `layer`; paper R (fraction dropped) -> 1 - keep_ratio
Differs:    the paper speaks of the attention a token receives on average, its code uses the last token's row only (the
            authors' answer in their issue 14); the code's definition is used. `budget = average over layers` is ours:
            it solves for the count that makes the mean over all layers meet keep_ratio
Cost:       one attention row of one layer; O(n log n) to select
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from pruning.budget import n_keep
from pruning.interface import ModelInfo, Observation, Part, PruneContext, Signal, Stage
from pruning.methods.base import ScoredPruner
from pruning.methods.staged import AFTER_THE_CUT, BudgetOfOneCut, share_after_cut
from pruning.parameters import Param


@dataclass(frozen=True, kw_only=True)
class FastV(ScoredPruner):
    key: ClassVar[str] = "fastv"
    title: ClassVar[str] = "FastV"
    paper: ClassVar[str] = "https://arxiv.org/abs/2403.06764"
    idea: ClassVar[str] = "most attention from the last token, early"
    acts: ClassVar[str] = "inside the language model"
    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.LAST_TOKEN_ATTENTION})
    default_positions: ClassVar[str] = "original"
    nested: ClassVar[bool] = True

    layer: Annotated[
        int, Param(1, 128, 1, "Layer K", "Tokens are dropped before this layer.", layer_of=Part.LANGUAGE_MODEL)
    ] = 2
    budget: BudgetOfOneCut = AFTER_THE_CUT

    def plan(self, info: ModelInfo, n_tokens: int) -> dict[Stage, int]:
        ratio = share_after_cut(self.title, self.budget, self.keep_ratio, self.layer, info)
        return {Stage(Part.LANGUAGE_MODEL, self.layer): n_keep(ratio, n_tokens)}

    def observations(self, info: ModelInfo) -> tuple[Observation, ...]:
        return (Observation(Signal.LAST_TOKEN_ATTENTION, self.layer - 1),)

    def score(self, context: PruneContext) -> torch.Tensor:
        (observation,) = self.observations(context.info)
        return last_row_score(context.observations[observation])


def last_row_score(attention: torch.Tensor) -> torch.Tensor:
    """Return the mean over the heads of `[heads, tokens]` attention weights, float32 `[tokens]`."""
    return attention.float().mean(0)

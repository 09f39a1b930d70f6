"""Keep, at three depths, the visual tokens whose states the previous layer changed most.

Paper:      "Variation-aware Vision Token Dropping for Faster Large Vision-Language Models", CVPR 2026,
            https://arxiv.org/abs/2509.01552; reference code xuyang-liu16/V2Drop @ 219e03ed
Stage:      in the language model, before layers 3, 17 and 22 of 32, scaled to the model's depth
Needs:      language model states: input and output of the layer before each cut; no attention, no text
Symbols:    variation of a token -> `score`, the L2 norm of the difference of the two; budgets 192, 128, 64 of 576 ->
            keep_ratio 1/3, 2/9, 1/9
Differs:    the paper's last cut drops every token; one is kept here, as in the code, since a run needs a visual token.
            Between the paper's three budgets, and above them, the shares kept are interpolated (inferred). `schedule =
            code` is the released one: half, half of the rest, one token, which has another average (35 %). The code
            assumes 576 tokens at position 35
Cost:       one subtraction and one norm per token and cut; O(n log n) to select
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from pruning.interface import ModelInfo, Observation, PruneContext, Signal
from pruning.methods.base import ScoredPruner
from pruning.methods.staged import PAPER_DEPTH, PAPER_TOKENS, StagedPruner, interpolated, mean_share
from pruning.parameters import Choice

PAPER, CODE = "paper", "code"
LAYERS = (3, 17, 22)
CODED = (0.5, 0.25, 0.0)
SCHEDULES = {
    PAPER: {
        64 / PAPER_TOKENS: (0.05, 0.05 * 0.05, 0.0),
        128 / PAPER_TOKENS: (0.28, 0.28 * 0.25, 0.0),
        192 / PAPER_TOKENS: (0.5, 0.5 * 0.3, 0.0),
    },
    CODE: {mean_share(CODED, LAYERS, PAPER_DEPTH): CODED},
}


@dataclass(frozen=True, kw_only=True)
class V2Drop(ScoredPruner, StagedPruner):
    key: ClassVar[str] = "v2drop"
    title: ClassVar[str] = "V2Drop"
    paper: ClassVar[str] = "https://arxiv.org/abs/2509.01552"
    idea: ClassVar[str] = "tokens that layers change most"
    acts: ClassVar[str] = "three times inside the language model"
    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.LANGUAGE_STATES})
    default_positions: ClassVar[str] = "original"
    published_layers: ClassVar[tuple[int, ...]] = LAYERS

    schedule: Annotated[
        str, Choice((PAPER, CODE), "Schedule", "Shares kept at the three cuts: the paper's, or the released code's.")
    ] = PAPER

    def shares(self, ratio: float) -> tuple[float, ...]:
        return interpolated(SCHEDULES[self.schedule], ratio)

    def observations(self, info: ModelInfo) -> tuple[Observation, ...]:
        return tuple(Observation(Signal.LANGUAGE_STATES, layer - 1) for layer in self.layers(info))

    def score(self, context: PruneContext) -> torch.Tensor:
        earlier = context.observations[Observation(Signal.LANGUAGE_STATES, context.stage.layer - 1)]
        return variation(earlier, context.features)


def variation(earlier: torch.Tensor, later: torch.Tensor) -> torch.Tensor:
    """Return the L2 distance between every token's states `[tokens, dim]` at two layers, float32 `[tokens]`."""
    return (later.float() - earlier.float()).norm(dim=-1)

"""Keep, at three depths, the visual tokens that the layer before has changed most.

Paper:      "Variation-aware Vision Token Dropping for Faster Large Vision-Language Models", CVPR 2026,
            https://arxiv.org/abs/2509.01552; reference code xuyang-liu16/V2Drop @ 219e03ed
Stage:      in the language model, before layers 3, 17 and 22 of 32, scaled to the model's depth
Needs:      language model states: what the layer before each cut was given and what it made of it; no attention, no
            text
Symbols:    variation of a token -> `score`, the L2 norm of the difference of the two; budgets 192, 128, 64 of 576 ->
            keep_ratio 1/3, 2/9, 1/9
Differs:    the paper's last cut drops every token; one stays here, as in the code, since a run needs a picture to show.
            Between the paper's three budgets, and above them, the shares kept are interpolated (inferred).
            `schedule = code` has the released one, half and half of the rest and one token, which is another average
            (35 %). The code assumes 576 tokens at place 35
Cost:       one subtraction and one norm per token and cut; O(n log n) to select
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from pruning.interface import Decision, ModelInfo, Observation, PruneContext, Signal
from pruning.methods.staged import PAPER_DEPTH, PAPER_TOKENS, StagedPruner, interpolated, mean_share
from pruning.ops.scoring import best_ascending
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
class V2Drop(StagedPruner):
    key: ClassVar[str] = "v2drop"
    title: ClassVar[str] = "V2Drop"
    paper: ClassVar[str] = "https://arxiv.org/abs/2509.01552"
    idea: ClassVar[str] = "tokens that layers change most"
    acts: ClassVar[str] = "three times inside the language model"
    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.LANGUAGE_STATES})
    default_positions: ClassVar[str] = "original"
    published_layers: ClassVar[tuple[int, ...]] = LAYERS

    schedule: Annotated[
        str, Choice((PAPER, CODE), "Schedule", "Shares kept by the three cuts: the paper's, or the released code's.")
    ] = PAPER

    def shares(self, ratio: float) -> tuple[float, ...]:
        return interpolated(SCHEDULES[self.schedule], ratio)

    def observations(self, info: ModelInfo) -> tuple[Observation, ...]:
        return tuple(Observation(Signal.LANGUAGE_STATES, layer - 1) for layer in self.layers(info))

    def select(self, context: PruneContext, n_keep: int) -> Decision:
        earlier = context.observations[Observation(Signal.LANGUAGE_STATES, context.stage.layer - 1)]
        score = variation(earlier, context.features)
        return Decision(best_ascending(score, n_keep), scores=score)


def variation(earlier: torch.Tensor, later: torch.Tensor) -> torch.Tensor:
    """How far every token moved between two layers, float32 `[tokens]`, from its states `[tokens, dim]`."""
    return (later.float() - earlier.float()).norm(dim=-1)

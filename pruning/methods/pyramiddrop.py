"""Keep, at three depths, the visual tokens that the last token of the instruction attends to most.

Paper:      Xing et al., "PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy
            Reduction", CVPR 2025, https://arxiv.org/abs/2410.17247; reference code Cooperx521/PyramidDrop @ 6444f304
Stage:      in the language model, before layers 8, 16 and 24 of 32, scaled to the model's depth
Needs:      last-token attention of the layer after each cut, computed ahead on all tokens still kept
Symbols:    layer_list -> `first_layer`, `second_layer`, `third_layer`; lambda (share kept by each cut) -> the cube root
            of keep_ratio; the published .5, .25, .125 of all tokens are keep_ratio 1/8
Differs:    papers that compare at other budgets do not say which layers or ratios they used; here all three cuts keep
            the same share, as published (inferred for other budgets). Counts are rounded, the code truncates. The code
            also supports training with it; nothing is trained here
Cost:       queries, keys and values of three layers once more, one attention row each; O(n log n) to select
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from pruning.interface import ModelInfo, Observation, PruneContext, Signal
from pruning.methods.base import ScoredPruner
from pruning.methods.staged import AFTER_THE_LAST, AVERAGE, StagedPruner
from pruning.parameters import Choice


@dataclass(frozen=True, kw_only=True)
class PyramidDrop(ScoredPruner, StagedPruner):
    key: ClassVar[str] = "pyramiddrop"
    title: ClassVar[str] = "PyramidDrop"
    paper: ClassVar[str] = "https://arxiv.org/abs/2410.17247"
    idea: ClassVar[str] = "last-token attention, at three depths"
    acts: ClassVar[str] = "three times inside the language model"
    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.LAST_TOKEN_ATTENTION})
    published_layers: ClassVar[tuple[int, ...]] = (8, 16, 24)

    budget: Annotated[
        str, Choice((AFTER_THE_LAST, AVERAGE), "Keep ratio counts", "Tokens after the last cut, or the mean per layer.")
    ] = AFTER_THE_LAST

    def shares(self, ratio: float) -> tuple[float, ...]:
        return ratio ** (1 / 3), ratio ** (2 / 3), ratio

    def observations(self, info: ModelInfo) -> tuple[Observation, ...]:
        return tuple(Observation(Signal.LAST_TOKEN_ATTENTION, layer, ahead=True) for layer in self.layers(info))

    def score(self, context: PruneContext) -> torch.Tensor:
        observation = Observation(Signal.LAST_TOKEN_ATTENTION, context.stage.layer, ahead=True)
        return context.observations[observation].float().mean(0)

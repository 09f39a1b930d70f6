"""Keep, at three depths, the visual tokens that the last word of the instruction attends to most.

Paper:      Xing et al., "PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy
            Reduction", CVPR 2025, https://arxiv.org/abs/2410.17247; reference code Cooperx521/PyramidDrop @ 6444f304
Stage:      in the language model, before layers 8, 16 and 24 of 32, scaled to the model's depth
Needs:      last-token attention of the layer that comes next, computed ahead on all tokens that are left
Symbols:    layer_list -> `first_layer`, `second_layer`, `third_layer`; lambda (share kept by each cut) -> the cube root
            of keep_ratio; the published .5, .25, .125 of all tokens are keep_ratio 1/8
Differs:    papers that compare at other budgets do not say which layers or ratios they used; here all three cuts keep
            the same share, as published (inferred for other budgets). Counts are rounded, the code truncates. The code
            can be trained with it; nothing is trained here
Cost:       queries, keys and values of three layers once more, one attention row each; O(n log n) to select
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pruning.interface import Decision, ModelInfo, Observation, PruneContext, Signal
from pruning.methods.staged import AFTER_THE_LAST, AVERAGE, StagedPruner
from pruning.ops.scoring import best_ascending
from pruning.parameters import Choice


@dataclass(frozen=True, kw_only=True)
class PyramidDrop(StagedPruner):
    key: ClassVar[str] = "pyramiddrop"
    title: ClassVar[str] = "PyramidDrop"
    paper: ClassVar[str] = "https://arxiv.org/abs/2410.17247"
    idea: ClassVar[str] = "last-token attention, at three depths"
    acts: ClassVar[str] = "three times inside the language model"
    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.LAST_TOKEN_ATTENTION})
    published_layers: ClassVar[tuple[int, ...]] = (8, 16, 24)

    budget: Annotated[
        str, Choice((AFTER_THE_LAST, AVERAGE), "Share kept means", "What the keep ratio counts; papers differ.")
    ] = AFTER_THE_LAST

    def shares(self, ratio: float) -> tuple[float, ...]:
        return ratio ** (1 / 3), ratio ** (2 / 3), ratio

    def observations(self, info: ModelInfo) -> tuple[Observation, ...]:
        return tuple(Observation(Signal.LAST_TOKEN_ATTENTION, layer, ahead=True) for layer in self.layers(info))

    def select(self, context: PruneContext, n_keep: int) -> Decision:
        observation = Observation(Signal.LAST_TOKEN_ATTENTION, context.stage.layer, ahead=True)
        score = context.observations[observation].float().mean(0)
        return Decision(best_ascending(score, n_keep), scores=score)

"""Keep visual tokens drawn at random: the control that every method has to beat.

Paper:      none; a control. Neutral studies (2502.11501, 2511.02650) find it hard to beat on many tasks
Stage:      once, where you choose: inside the tower, before the projector, before or inside the language model
Needs:      nothing
Symbols:    keep_ratio = kept / all
Differs:    nothing known
Cost:       O(n log n)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from pruning.interface import ModelInfo, Part, PruneContext, Signal, Stage
from pruning.methods.base import ScoredPruner
from pruning.parameters import Choice, Param

WHERE = Choice(
    (Part.LANGUAGE_MODEL.value, Part.PROJECTOR.value, Part.TOWER.value),
    "Drop before",
    "The part of the model before which tokens are dropped.",
)
LAYER = Param(0, 128, 1, "Layer", "The layer of that part before which tokens are dropped (the projector has only 0).")


def chosen_stage(where: str, layer: float, info: ModelInfo) -> Stage:
    """Return the stage that a control's two parameters name, limited to the model's depth."""
    part = Part(where)
    depth = {Part.TOWER: info.feature_layer + 1, Part.PROJECTOR: 1, Part.LANGUAGE_MODEL: info.text_layers}[part]
    return Stage(part, min(int(layer), depth - 1))


@dataclass(frozen=True, kw_only=True)
class RandomBaseline(ScoredPruner):
    key: ClassVar[str] = "random_baseline"
    title: ClassVar[str] = "Random"
    paper: ClassVar[str] = "https://arxiv.org/abs/2502.11501"
    idea: ClassVar[str] = "tokens drawn at random; the control"
    acts: ClassVar[str] = "where you choose"
    needs: ClassVar[frozenset[Signal]] = frozenset()
    nested: ClassVar[bool] = True
    equivariant: ClassVar[bool] = False
    draws: ClassVar[bool] = True

    where: Annotated[str, WHERE] = WHERE.options[0]
    layer: Annotated[int, LAYER] = 0

    def stage_on(self, info: ModelInfo) -> Stage:
        return chosen_stage(self.where, self.layer, info)

    def score(self, context: PruneContext) -> torch.Tensor:
        # One score per original token: a smaller budget keeps a subset of a larger one with the same seed.
        return torch.rand(context.n_total, generator=context.generator).to(context.ids.device)[context.ids]

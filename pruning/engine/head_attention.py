"""Where one head of the whole model looks: the mean attention that it pays to every visual token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from pruning.errors import PlanError
from pruning.interface import Decision, Look, Part, PromptText, Signal, Stage
from pruning.models.base import Prompt, VLMAdapter, Watch


class _Peek:
    """A decider that looks at a layer of the language model and lets everything go on."""

    evicts = False

    def __init__(self, look: Look) -> None:
        self.stages: Sequence[Stage] = (Stage(Part.LANGUAGE_MODEL, look.layer),)
        self.looks: Sequence[Look] = (look,)
        self.shown = torch.empty(0)

    def decide(
        self,
        stage: Stage,
        features: torch.Tensor,
        ids: torch.Tensor,
        looks: Mapping[Look, torch.Tensor],
        *,
        text: PromptText | None = None,
    ) -> Decision:
        del stage, features, text
        self.shown = looks[self.looks[0]]
        return Decision(torch.arange(len(ids), device=ids.device))

    def positions_at(self, stage: Stage) -> str:
        del stage
        return "original"


def head_attention(
    adapter: VLMAdapter, prompt: Prompt, part: Part, layer: int, head: int, n_heads: int,
    stop: Callable[[], bool] = lambda: False,
) -> np.ndarray:  # fmt: skip
    """What a head pays to every visual token, float32 `[tokens]`: in the tower the mean over all rows of the picture,
    in the language model over the text behind it (chat template included), no token dropped.

    Args:
        n_heads: of the layer, as a plan counts them; with grouped-query attention a head is a group, and this its mean.

    Raises:
        PlanError: if the tower of this model does not show it.
    """
    if part is Part.TOWER:
        if Signal.RECEIVED_ATTENTION not in adapter.info.signals:
            said = f"What single heads of the vision tower look at cannot be seen in {adapter.info.name}."
            raise PlanError(said, "Choose a head of its language model.")
        look = Look(Signal.RECEIVED_ATTENTION, layer)
        each = adapter.see(prompt, [look], None, Watch(stop=stop)).looks[look]
    else:
        peek = _Peek(Look(Signal.TEXT_ATTENTION, layer, ahead=True))
        whole = adapter.project(adapter.see(prompt, [], None, Watch(stop=stop)), None)
        adapter.answer(prompt, whole, peek, 1, Watch(stop=stop))
        each = peek.shown.mean(1)
    return each.reshape(n_heads, -1, each.shape[-1])[head].mean(0).float().cpu().numpy()

"""Compute the mean attention that one head pays to every visual token, in the full model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from pruning.errors import PlanError
from pruning.interface import Decision, Observation, Part, PromptText, Signal, Stage
from pruning.models.base import RunCallbacks, VLMAdapter
from pruning.models.prompt import Prompt


class _Peek:
    """A decider that looks at a layer of the language model and lets everything go on."""

    evicts = False

    def __init__(self, observation: Observation) -> None:
        self.stages: Sequence[Stage] = (Stage(Part.LANGUAGE_MODEL, observation.layer),)
        self.observations: Sequence[Observation] = (observation,)
        self.attention = torch.empty(0)

    def decide(
        self,
        stage: Stage,
        features: torch.Tensor,
        ids: torch.Tensor,
        observations: Mapping[Observation, torch.Tensor],
        *,
        text: PromptText | None = None,
    ) -> Decision:
        del stage, features, text
        self.attention = observations[self.observations[0]]
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
        observation = Observation(Signal.RECEIVED_ATTENTION, layer)
        each = adapter.encode_image(prompt, [observation], None, RunCallbacks(stop=stop)).observations[observation]
    else:
        peek = _Peek(Observation(Signal.TEXT_ATTENTION, layer, ahead=True))
        full = adapter.project(adapter.encode_image(prompt, [], None, RunCallbacks(stop=stop)), None)
        adapter.answer(prompt, full, peek, 1, RunCallbacks(stop=stop))
        each = peek.attention.mean(1)
    return each.reshape(n_heads, -1, each.shape[-1])[head].mean(0).float().cpu().numpy()

"""Multiply every head's output by a gate, on a private view, so that gates can be trained.

A gate at 0 is the head taken out (the bias behind the heads stays), a gate at 1 changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from pruning.models.prompt import Prompt, splice
from pruning.models.weights.blocks import Block


class Gated:
    """A private copy whose heads are multiplied by `gates` (one `[heads]` tensor per block), and which answers with
    log-probabilities of given answer tokens. No weight of it learns.
    """

    def __init__(self, model: nn.Module, blocks: Sequence[Block]) -> None:
        self.model = model
        self.gates: list[torch.Tensor] | None = None
        for i, block in enumerate(blocks):
            width = block.shape.q_dim // (block.shape.kv_dim // block.head_dim)
            block.out.register_forward_pre_hook(partial(self._turn, i, width))

    def answer_logits(self, prompt: Prompt, answer_ids: torch.Tensor) -> torch.Tensor:
        """Logits `[answer, vocabulary]` float32 of every answer token, the right ones before it given."""
        nothing = [""] * (len(answer_ids) - 1)
        longer = splice(prompt, prompt.input_ids.shape[1], answer_ids[:-1].tolist(), nothing, nothing)
        out = self.model(**longer.inputs(), use_cache=False, logits_to_keep=len(answer_ids))
        return out.logits[0].float()

    def _turn(self, index: int, width: int, module: nn.Module, args: tuple):
        if self.gates is None:
            return None
        gate = self.gates[index].repeat_interleave(width).to(args[0].dtype)
        return (args[0] * gate, *args[1:])

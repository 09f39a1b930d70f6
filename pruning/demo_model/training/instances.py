"""An auxiliary loss that makes counting learnable: half-way through the language model, one visual token per object is
to mark it.

Attention averages, so a model that sees objects as areas can tell many tokens from few, but not three small objects
from one large one: without this, counting stayed at three questions in four. A dense label on the visual tokens, as in
the tower's training, shows the way: the first kept token of every object, in reading order. It is defined on what was
kept, so a pruned picture has as many first tokens as objects, as long as each keeps one token. The head is thrown away.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

INSTANCE_LAYER = 4  # of the language model: its output carries the label, the layers behind it can count
WEIGHT = 0.3
FIRST_WEIGHT = 4.0  # a first token counts as much as four others


def first_tokens(owner: np.ndarray) -> np.ndarray:
    """Of the kept tokens' owners `[batch, k]` (0: background), bool `[batch, k]`: the first token of every object."""
    first = np.zeros(owner.shape, bool)
    for row, marks in zip(owner, first, strict=True):
        numbers, places = np.unique(row, return_index=True)
        marks[places[numbers > 0]] = True
    return first


class InstanceHead(nn.Module):
    """One logit per visual token: is it the first of its object?"""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.logit = nn.Linear(width, 1)

    def forward(self, states: torch.Tensor, first: torch.Tensor) -> tuple[torch.Tensor, float]:
        """(weighted loss per object; 1 minus the wrong marks per object, a figure for the log).

        Args:
            states: `[batch, k, width]`, visual tokens behind `INSTANCE_LAYER`.
            first: bool `[batch, k]` from `first_tokens`.
        """
        logit = self.logit(states).squeeze(-1).float()
        n_objects = first.sum().clamp(min=1)
        weight = 1 + (FIRST_WEIGHT - 1) * first
        loss = F.binary_cross_entropy_with_logits(logit, first.float(), weight, reduction="sum") / n_objects
        wrong = ((logit > 0) ^ first).sum() / n_objects
        return WEIGHT * loss, 1 - float(wrong)

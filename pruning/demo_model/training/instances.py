"""An auxiliary loss that makes counting learnable: half-way through the language model, one visual token marks each
object.

Attention averages, so a model can tell many tokens from few, but not three small objects from one large one: without
this loss, counting stayed at three right answers in four. The dense label on visual tokens, as in the tower's training,
is the first kept token of every object in reading order. It is defined on kept tokens, so a pruned picture has as many
first tokens as objects, as long as each object keeps one token. The head is not part of the trained model.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

INSTANCE_LAYER = 4  # of the language model: its output carries the label, the layers after it can count
WEIGHT = 0.3
FIRST_WEIGHT = 4.0  # a first token counts as much as four others


def first_tokens(owner: np.ndarray) -> np.ndarray:
    """Return the first token of every object, bool `[batch, k]`, for the kept tokens' owners `[batch, k]` (0:
    background).
    """
    first = np.zeros(owner.shape, bool)
    for row, marks in zip(owner, first, strict=True):
        numbers, places = np.unique(row, return_index=True)
        marks[places[numbers > 0]] = True
    return first


class InstanceHead(nn.Module):
    """A linear head with one logit per visual token: whether it is the first of its object."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.logit = nn.Linear(width, 1)

    def forward(self, states: torch.Tensor, first: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Return the weighted loss per object, and 1 minus the wrong marks per object for the log.

        Args:
            states: `[batch, k, width]`, visual tokens after `INSTANCE_LAYER`.
            first: bool `[batch, k]` from `first_tokens`.
        """
        logit = self.logit(states).squeeze(-1).float()
        n_objects = first.sum().clamp(min=1)
        weight = 1 + (FIRST_WEIGHT - 1) * first
        loss = F.binary_cross_entropy_with_logits(logit, first.float(), weight, reduction="sum") / n_objects
        wrong = ((logit > 0) ^ first).sum() / n_objects
        return WEIGHT * loss, 1 - float(wrong)

"""What is recorded of every word of an answer, out of what a run observed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from pruning.models.hooks.language_model import LanguageRun
from pruning.ops.decoding_signals import nearest_visual


def of_words(run: LanguageRun, logits: Sequence[torch.Tensor], head: nn.Linear, steps: Sequence[int]) -> dict[str, Any]:
    """Fields of `Generated` for the words of these steps; nothing where words were not watched.

    Args:
        logits: `[1, vocabulary]` of every step. head: the output head.
    """
    if not run.word_attention or not steps:
        return {}
    found = {name: torch.stack([rows[s] for s in steps]) for name, rows in (
        ("attention", run.word_attention), ("head_ratios", run.head_ratios),
    )}  # fmt: skip
    if len(run.visual_ids):
        near = [nearest_visual(logits[s][0], run.visual_states, head) for s in steps]
        found["nearest"] = run.visual_ids[near].tolist()
    return found

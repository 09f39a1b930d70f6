"""From what an adapter generated to what a record says of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pruning.answer_record import Answer, Cost, Timing
from pruning.cost import estimate
from pruning.models.base import Generated, VLMAdapter


def to_answer(out: Generated, see_ms: float, prune_ms: float, read_ms: float) -> Answer:
    """An answer with its measured times."""
    return Answer(
        text=out.text,
        words=tuple(out.pieces),
        log_probs=tuple(round(p, 5) for p in out.log_probs),
        visual_per_layer=tuple(out.visual_per_layer),
        text_tokens=out.text_tokens,
        stopped=out.stopped,
        timing=Timing(see_ms, prune_ms, read_ms, out.per_word_ms),
        attention=None if out.attention is None else out.attention.half().cpu().numpy(),
        head_ratios=None if out.head_ratios is None else out.head_ratios.cpu().numpy(),
        nearest=None if out.nearest is None else np.array(out.nearest),
    )


def to_cost(adapter: VLMAdapter, out: Generated, tower_per_layer: Sequence[int]) -> Cost:
    """Its estimated cost."""
    size = torch.finfo(adapter.dtype).bits // 8
    return estimate(adapter.info, out.visual_per_layer, out.text_tokens, tower_per_layer, size, out.cached_per_layer)


def wait_for(device: torch.device) -> None:
    """A clock is only read when the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

"""Turn what an adapter generated into the answers and costs of a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pruning.compensation.objective import kl_to_full
from pruning.cost import estimate
from pruning.models.base import Generated, VLMAdapter
from pruning.records.answer import Answer, Cost, Timing
from pruning.records.compensation import MAX_PLACES, NextWord

TOP = 3  # likeliest tokens of each run that are noted
END = "(end)"


def to_answer(out: Generated, encode_ms: float, prune_ms: float, prefill_ms: float) -> Answer:
    """An answer with its measured times."""
    return Answer(
        text=out.text,
        words=tuple(out.token_texts),
        log_probs=tuple(round(p, 5) for p in out.log_probs),
        visual_per_layer=tuple(out.visual_per_layer),
        text_tokens=out.text_tokens,
        stopped=out.stopped,
        timing=Timing(encode_ms, prune_ms, prefill_ms, out.decode_ms_per_token),
        attention=None if out.attention is None else out.attention.half().cpu().numpy(),
        head_ratios=None if out.head_ratios is None else out.head_ratios.cpu().numpy(),
        nearest=None if out.nearest is None else np.array(out.nearest),
    )


def to_cost(adapter: VLMAdapter, out: Generated, tower_per_layer: Sequence[int]) -> Cost:
    """Its estimated cost."""
    size = torch.finfo(adapter.dtype).bits // 8
    return estimate(adapter.info, out.visual_per_layer, out.text_tokens, tower_per_layer, size, out.cached_per_layer)


def to_next_words(
    tokenizer: Any, token_ids: Sequence[int], full: torch.Tensor, pruned: torch.Tensor, compensated: torch.Tensor
) -> tuple[NextWord, ...]:
    """What three runs would say at the first places of an answer.

    Args:
        token_ids: of the unpruned answer. full, pruned, compensated: log-probabilities `[answer, vocabulary]` of
            the three, as `VLMAdapter.score` gives them.
    """

    def named(token: int) -> str:
        return END if token == tokenizer.eos_token_id else tokenizer.decode([token])

    places = []
    for at, token in enumerate(token_ids[:MAX_PLACES]):
        runs = full[at], pruned[at], compensated[at]
        likely = list(dict.fromkeys(i for run in runs for i in run.topk(min(TOP, len(run))).indices.tolist()))
        likely.sort(key=lambda i: -float(full[at, i]))
        shares = [tuple(round(float(run[i].exp()), 5) for i in likely) for run in runs]
        kl_pruned, kl_compensated = (
            round(float(kl_to_full(full[at, None], other[at, None])), 6) for other in (pruned, compensated)
        )
        words = tuple(named(i) for i in likely)
        places.append(NextWord(named(token), words, shares[0], shares[1], shares[2], kl_pruned, kl_compensated))
    return tuple(places)


def wait_for(device: torch.device) -> None:
    """A clock is only read when the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

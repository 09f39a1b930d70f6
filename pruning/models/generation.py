"""Generation, one token at a time: stream decoded text with the time of each token, read given tokens with a cache, and
collect what is recorded for every decoded token.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache
from transformers.generation.streamers import BaseStreamer

from pruning.models.base import RunCallbacks
from pruning.models.hooks.language_model import LanguageRun
from pruning.ops.decoding_signals import nearest_visual


class TextStreamer(BaseStreamer):
    """Turns token ids into parts of text as they come; the end mark gives none. A token that is only part of a
    character gives an empty one, and the token that completes it the whole character.
    """

    def __init__(self, tokenizer, callbacks: RunCallbacks, n_prompt: int) -> None:
        self.tokenizer, self.callbacks, self.waiting = tokenizer, callbacks, n_prompt
        self.ids: list[int] = []
        self.texts: list[str] = []
        self.times: list[float] = []
        self._emitted = ""

    def put(self, value: torch.Tensor) -> None:
        if self.waiting:  # the prompt comes first, whole
            self.waiting = 0
            return
        self.ids += value.flatten().tolist()
        self.times.append(time.perf_counter())
        if self.ids[-1] in self.tokenizer.all_special_ids:
            return
        self.texts.append("")
        text = self.tokenizer.decode(self.ids, skip_special_tokens=True)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            self._add(text)

    def end(self) -> None:
        """What was held back because its last character was never completed comes now."""
        if self.texts:
            self._add(self.tokenizer.decode(self.ids, skip_special_tokens=True))

    def _add(self, text: str) -> None:
        new, self._emitted = text[len(self._emitted) :], text
        if new:
            self.texts[-1] += new
            self.callbacks.emit(new)


def decoding_signals_of(
    run: LanguageRun, logits: Sequence[torch.Tensor], head: nn.Linear, steps: Sequence[int]
) -> dict[str, Any]:
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


def token_by_token(model: nn.Module, states: torch.Tensor, n_words: int) -> torch.Tensor:
    """Read a prompt and then `n_words` more tokens one at a time, as in generation: the decoder's last states of the
    prompt's last token and of each word, `[1 + n_words, dim]`, from input embeddings `[1, prompt + words, dim]`.
    """
    cache = DynamicCache()
    parts = states.split([states.shape[1] - n_words, *[1] * n_words], 1)
    out = [model(inputs_embeds=part, past_key_values=cache, use_cache=True) for part in parts]
    return torch.cat([o.last_hidden_state[0, -1:] for o in out])

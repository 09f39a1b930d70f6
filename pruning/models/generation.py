"""An answer as it comes: token ids turned into pieces of text, with the time of each."""

from __future__ import annotations

import time

import torch
from transformers.generation.streamers import BaseStreamer

from pruning.models.base import Watch


class Pieces(BaseStreamer):
    """Turns token ids into pieces of text as they come; the end mark gives no piece. A token that is only part of a
    character gives an empty one, and the token that completes it the whole character.
    """

    def __init__(self, tokenizer, watch: Watch, n_prompt: int) -> None:
        self.tokenizer, self.watch, self.waiting = tokenizer, watch, n_prompt
        self.ids: list[int] = []
        self.texts: list[str] = []
        self.times: list[float] = []
        self._shown = ""

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
        new, self._shown = text[len(self._shown) :], text
        if new:
            self.texts[-1] += new
            self.watch.piece(new)

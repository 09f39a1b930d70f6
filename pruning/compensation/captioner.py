"""The captioner of ACCM: a small transformer that describes the discarded visual tokens, given the question.

A causal decoder reads `[question ; visual prefix ; caption]`. The mapper turns every discarded token of the tower into
one key and one value, once; the prefix (a few learned rows) and the caption look at them by cross-attention in every
layer. No position is added to discarded tokens, so their order and number do not matter and one captioner serves every
budget; where a token was is in the token itself, from the tower.

Against the paper's model (ClipCap: a 4-layer mapper that squeezes the discarded patches into 20 rows, and GPT-2): the
prefix is filled inside the decoder, where the question is already known, and caption rows may look again. A mapper with
full self-attention over the discarded tokens would cost more than the tokens that pruning saves on a small model.

Knows nothing of pictures, methods or the model that will read the caption.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class CaptionerShape:
    """Sizes of a captioner. `vision_dim` is the width of the tower's tokens, `vocab` the number of words; `prefix` rows
    carry the visual prefix; a caption has at most `max_caption` tokens (the end mark included).
    """

    vision_dim: int
    vocab: int
    width: int = 128
    layers: int = 4
    heads: int = 4
    prefix: int = 4
    max_caption: int = 64


@dataclass(slots=True)
class Memory:
    """Keys and values of the discarded tokens, `[pictures, heads, tokens, head_dim]`, and which of them may be seen,
    bool `[pictures, tokens]` or None for all.
    """

    key: torch.Tensor
    value: torch.Tensor
    visible: torch.Tensor | None = None


class Captioner(nn.Module):
    """See the module's text. Float32 throughout."""

    def __init__(self, shape: CaptionerShape) -> None:
        super().__init__()
        self.shape, width = shape, shape.width
        self.mapper = nn.Sequential(
            nn.LayerNorm(shape.vision_dim), nn.Linear(shape.vision_dim, width), nn.GELU(), nn.Linear(width, 2 * width)
        )
        self.embed = nn.Embedding(shape.vocab, width)
        self.prefix = nn.Parameter(torch.randn(shape.prefix, width) * 0.5)
        self.layers = nn.ModuleList(_Layer(width, shape.heads) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.embed.weight, std=0.5)

    def look(self, features: torch.Tensor, visible: torch.Tensor | None = None) -> Memory:
        """Map discarded tokens `[pictures, tokens, vision_dim]`; with `seen` (bool `[pictures, tokens]`) the others are
        as if they were not there.
        """
        key, value = self.mapper(features.float()).chunk(2, -1)
        return Memory(_heads(key, self.shape.heads), _heads(value, self.shape.heads), visible)

    def forward(
        self, memory: Memory, question: torch.Tensor, n_pad: torch.Tensor, caption: torch.Tensor
    ) -> torch.Tensor:
        """Logits of every next caption token, `[rows, caption + 1, vocab]`.

        Args:
            memory: of as many pictures as divide `rows`; neighbours share a picture.
            question: ids `[rows, question]`, padded on the left; n_pad: `[rows]` how many of them are padding.
            caption: ids `[rows, caption]`, padded on the right.
        """
        x = torch.cat([self._begin(question), self.embed(caption)], 1)
        hidden, _ = self._run(x, memory, n_pad, None, n_question=question.shape[1])
        return self._words(hidden[:, question.shape[1] + self.shape.prefix - 1 :])

    def start(self, memory: Memory, question: torch.Tensor, n_pad: torch.Tensor) -> tuple[torch.Tensor, Cache]:
        """Read question and prefix: logits of the first caption token `[rows, vocab]`, and what to go on with."""
        empty = Cache.empty(len(self.layers))
        hidden, cache = self._run(self._begin(question), memory, n_pad, empty, n_question=question.shape[1])
        return self._words(hidden[:, -1]), cache

    def proceed(
        self, memory: Memory, token: torch.Tensor, n_pad: torch.Tensor, cache: Cache
    ) -> tuple[torch.Tensor, Cache]:
        """One more caption token `[rows]`: logits of the next one, and what to go on with."""
        hidden, cache = self._run(self.embed(token[:, None]), memory, n_pad, cache)
        return self._words(hidden[:, -1]), cache

    def _begin(self, question: torch.Tensor) -> torch.Tensor:
        prefix = self.prefix.expand(len(question), -1, -1)
        return torch.cat([self.embed(question), prefix], 1)

    def _run(self, x, memory: Memory, n_pad: torch.Tensor, cache: Cache | None, n_question: int = 0):
        before = 0 if cache is None else cache.length
        total = before + x.shape[1]
        place = torch.arange(total, device=x.device)
        own = place[before:]
        visible = (place[None, :] <= own[:, None])[None] & (place[None, None, :] >= n_pad[:, None, None])
        visible = visible | (place[None, None, :] == own[None, :, None])  # a padding row sees itself: no empty softmax
        turn = _rotation(own[None] - n_pad[:, None], x.shape[-1] // self.shape.heads)
        grown = []
        for i, layer in enumerate(self.layers):
            x, kept = layer(x, memory, n_question, visible[:, None], turn, None if cache is None else cache.layers[i])
            grown.append(kept)
        return x, Cache(grown, total)

    def _words(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.linear(self.norm(hidden), self.embed.weight) / math.sqrt(self.shape.width)


@dataclass(slots=True)
class Cache:
    """Keys and values of the rows so far, per layer, each `[rows, heads, length, head_dim]`."""

    layers: list
    length: int

    @staticmethod
    def empty(n_layers: int) -> Cache:
        return Cache([None] * n_layers, 0)

    def choose(self, rows: torch.Tensor) -> Cache:
        """The cache of other rows (beams that go on), by index."""
        return Cache([(k[rows], v[rows]) for k, v in self.layers], self.length)


class _Layer(nn.Module):
    """Self-attention, a look at the discarded tokens, feed-forward; each after a norm, each added."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.own = nn.Linear(width, 3 * width, bias=False)
        self.own_out = nn.Linear(width, width, bias=False)
        self.look = nn.Linear(width, width, bias=False)
        self.look_out = nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, memory: Memory, n_question: int, visible: torch.Tensor, turn, past):
        query, key, value = (_heads(t, self.heads) for t in self.own(self.norms[0](x)).chunk(3, -1))
        query, key = _rotate(query, turn), _rotate(key, turn)
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        x = x + self.own_out(_join(F.scaled_dot_product_attention(query, key, value, attn_mask=visible)))
        looks = self.look_out(self._looked(self.look(self.norms[1](x[:, n_question:])), memory))
        x = torch.cat([x[:, :n_question], x[:, n_question:] + looks], 1)  # the question itself is only read
        x = x + self.down(F.gelu(self.up(self.norms[2](x))))
        return x, (key, value)

    def _looked(self, query: torch.Tensor, memory: Memory) -> torch.Tensor:
        """Cross-attention; rows that share a picture are laid side by side, so that its tokens are not copied."""
        rows, length, width = query.shape
        pictures = len(memory.key)
        if memory.key.shape[2] == 0:  # nothing was discarded
            return torch.zeros_like(query)
        side_by_side = _heads(query.reshape(pictures, rows // pictures * length, width), self.heads)
        mask = None if memory.visible is None else memory.visible[:, None, None, :]
        out = F.scaled_dot_product_attention(side_by_side, memory.key, memory.value, attn_mask=mask)
        return _join(out).reshape(rows, length, width)


def _heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """`[batch, rows, width]` to `[batch, heads, rows, head_dim]`."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _join(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(1, 2).flatten(2)


def _rotation(place: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of rotary positions, `[rows, 1, length, dim / 2]` each."""
    speed = 1e4 ** -(torch.arange(dim // 2, device=place.device) * 2 / dim)
    angle = place[:, None, :, None].float() * speed
    return angle.cos(), angle.sin()


def _rotate(x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    (a, b), (cos, sin) = x.chunk(2, -1), turn
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def captioner_flops(shape: CaptionerShape, n_discarded: int, n_question: int, n_steps: int, n_beams: int) -> int:
    """Multiply-adds of one beam search: mapper, one pass over question and prefix, then `n_steps` caption tokens in
    `n_beams` beams with a cache. The first caption token comes out of the pass over the prefix.
    """
    w = shape.width
    mapper = n_discarded * (shape.vision_dim * w + w * 2 * w)
    begun = n_question + shape.prefix
    rows = begun + n_beams * n_steps
    looking = rows - n_question
    weights = shape.layers * (rows * (4 * w * w + 8 * w * w) + looking * 2 * w * w)
    # The prefill is causal but computed in full, as everywhere in `pruning.cost`; later rows see all rows before them.
    lengths = begun**2 + n_beams * sum(begun + i for i in range(1, n_steps + 1))
    attention = shape.layers * 2 * w * (lengths + looking * n_discarded)
    words = (1 + n_beams * n_steps) * w * shape.vocab
    return mapper + weights + attention + words

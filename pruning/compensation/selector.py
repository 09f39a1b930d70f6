"""The selector of ACCM: scores candidate captions, of which one is inserted.

A frozen text encoder turns every candidate, together with the question, into one vector; a small transformer encoder
without positions reads the vectors as a set and a linear head gives each candidate a probability (softmax over the
candidates). Permuting the candidates permutes the probabilities.

Paper: Long-CLIP-L as the frozen text encoder (its EOS vector of "Question: ... Supplemental information for questions:
..."), 4 layers, 8 heads, feed-forward 1536, width 768. Here the text encoder is whatever the caller brings (for the
bundled model the first layers of its own frozen language model: the only text encoder that knows its words offline).

Extension of ours, an option: `reads_scores` also shows the encoder each caption's mean beam log-probability. Knows no
tokenizer and no model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class SelectorShape:
    """Sizes of a selector; `text_dim` is the width of the text vectors."""

    text_dim: int
    width: int = 128
    layers: int = 2
    heads: int = 4
    dropout: float = 0.1
    reads_scores: bool = True


class Selector(nn.Module):
    """See the module's text."""

    def __init__(self, shape: SelectorShape) -> None:
        super().__init__()
        self.shape = shape
        self.norm = nn.LayerNorm(shape.text_dim)
        self.enter = nn.Linear(shape.text_dim, shape.width)
        self.score = nn.Linear(1, shape.width, bias=False) if shape.reads_scores else None
        layer = nn.TransformerEncoderLayer(
            shape.width, shape.heads, 2 * shape.width, shape.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, shape.layers, enable_nested_tensor=False)
        self.head = nn.Linear(shape.width, 1)
        nn.init.zeros_(self.head.weight)  # untrained: every candidate is as likely as the next
        nn.init.zeros_(self.head.bias)

    def forward(self, text: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Log-probabilities `[batch, candidates]`.

        Args:
            text: vectors of question and candidate, `[batch, candidates, text_dim]`.
            scores: mean beam log-probability of each, `[batch, candidates]`, at most 0.
        """
        x = self.enter(self.norm(text.float()))
        if self.score is not None:
            x = x + self.score(scores.float()[..., None])
        return self.head(self.encoder(x))[..., 0].log_softmax(-1)


def selector_flops(shape: SelectorShape, n_candidates: int) -> int:
    """Multiply-adds of choosing among `n_candidates`, the text encoder apart."""
    w, n = shape.width, n_candidates
    each = shape.layers * (4 * w * w + 2 * 2 * w * w)
    return n * (shape.text_dim * w + each + w) + shape.layers * 2 * n * n * w

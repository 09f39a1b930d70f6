"""Keep the heads with the largest weights: the usual opponent, no pictures needed.

Paper:      Michel, Levy, Neubig: Are Sixteen Heads Really Better than One?, 2019, arXiv 1905.10650 (head pruning; they
            rank by gradients, magnitude is the baseline of the pruning literature)
Needs:      nothing
Symbols:    squared Frobenius norms of W_Q, W_K, W_V and W_O of a head, each over the mean of its layer
Differs:    a control, not a published method; norms are taken relative to the layer, or layers would be ranked
Cost:       one pass over the attention weights
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from pruning.interface import BlockFacts
from pruning.structural.base import HeadScorer, HeadScores


@dataclass(frozen=True, kw_only=True)
class Magnitude(HeadScorer):
    """Mean of the four relative squared norms; 1 is a head as heavy as its layer's average."""

    key: ClassVar[str] = "magnitude"
    title: ClassVar[str] = "Magnitude of weights"
    paper: ClassVar[str] = "https://arxiv.org/abs/1905.10650"
    idea: ClassVar[str] = "largest weights stay; the usual control"

    def score(self, block: BlockFacts, generator: torch.Generator) -> HeadScores:
        del generator
        rows = (block.query, block.key, block.value, block.out.T)
        squares = [w.double().square().reshape(block.n_heads, -1).sum(1) for w in rows]
        return HeadScores(torch.stack([s / s.mean().clamp(min=1e-300) for s in squares]).mean(0))

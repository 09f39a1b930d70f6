"""Keep heads drawn at random: the control that any score must beat.

Paper:      Michel, Levy, Neubig: Are Sixteen Heads Really Better than One?, 2019, arXiv 1905.10650
Needs:      nothing
Symbols:    none; the plan's seed decides
Differs:    a control, not a published method
Cost:       none
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from pruning.interface import BlockFacts
from pruning.structural.base import HeadScorer, HeadScores


@dataclass(frozen=True, kw_only=True)
class RandomHeads(HeadScorer):
    """Uniform scores from the plan's generator."""

    key: ClassVar[str] = "random"
    title: ClassVar[str] = "Random heads"
    paper: ClassVar[str] = "https://arxiv.org/abs/1905.10650"
    idea: ClassVar[str] = "heads drawn at random; the control"

    def score(self, block: BlockFacts, generator: torch.Generator) -> HeadScores:
        return HeadScores(torch.rand(block.n_heads, generator=generator, dtype=torch.float64))

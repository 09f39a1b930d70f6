"""Keep an evenly spaced grid of visual tokens, independent of the picture's content: the control for coverage.

Paper:      none; a control. Uniform sampling is a strong baseline in 2502.11501 and 2511.02650
Stage:      once, where you choose: inside the tower, before the projector, before or inside the language model
Needs:      nothing
Symbols:    keep_ratio = kept / all
Differs:    nothing known. Each of several tiles or pictures gets its share of the budget
Cost:       O(n)
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from pruning.interface import Decision, ModelInfo, PruneContext, Signal, Stage
from pruning.methods.base import TokenPruner
from pruning.methods.random_baseline import LAYER, WHERE, chosen_stage


@dataclass(frozen=True, kw_only=True)
class UniformGrid(TokenPruner):
    key: ClassVar[str] = "uniform_grid"
    title: ClassVar[str] = "Even grid"
    paper: ClassVar[str] = "https://arxiv.org/abs/2511.02650"
    idea: ClassVar[str] = "evenly spaced tokens; the control for coverage"
    acts: ClassVar[str] = "where you choose"
    needs: ClassVar[frozenset[Signal]] = frozenset()
    equivariant: ClassVar[bool] = False
    by_picture: ClassVar[bool] = True

    where: Annotated[str, WHERE] = WHERE.options[0]
    layer: Annotated[int, LAYER] = 0

    def stage_on(self, info: ModelInfo) -> Stage:
        return chosen_stage(self.where, self.layer, info)

    def select(self, context: PruneContext, n_keep: int) -> Decision:
        if context.tiles is None:
            return Decision(even_rows(context.positions, n_keep))
        tiles = [(context.tiles == t).nonzero()[:, 0] for t in context.tiles.unique()]
        ends = [round(n_keep * end / context.n_rows) for end in itertools.accumulate(len(t) for t in tiles)]
        counts = [end - start for start, end in itertools.pairwise([0, *ends])]
        picked = [t[even_rows(context.positions[t], n)] for t, n in zip(tiles, counts, strict=True) if n]
        return Decision(torch.cat(picked).sort().values)


def even_rows(positions: torch.Tensor, n_keep: int) -> torch.Tensor:
    """Return `n_keep` rows spread evenly over the grid, ascending: evenly spaced lines, and tokens within a line.

    Args:
        positions: `[rows, 2]` row and column of every token, each divided by its count, in raster order.
    """
    lines = [torch.nonzero(positions[:, 0] == y)[:, 0] for y in positions[:, 0].unique(sorted=True)]
    width = max(len(line) for line in lines)
    n_lines = min(len(lines), n_keep, max(1, round((n_keep * len(lines) / width) ** 0.5)))
    n_lines = max(n_lines, -(-n_keep // width))  # at most as many tokens as a line has
    share, extra = divmod(n_keep, n_lines)
    # Lines with one token more are spread over the picture instead of being the first ones.
    counts = [share + ((i + 1) * extra // n_lines - i * extra // n_lines) for i in range(n_lines)]
    picked = [
        lines[place][_evenly(len(lines[place]), count)]
        for place, count in zip(_evenly(len(lines), n_lines).tolist(), counts, strict=True)
    ]
    return torch.cat(picked).sort().values


def _evenly(length: int, count: int) -> torch.Tensor:
    """Return `count` distinct indices below `length`, at the centres of equal intervals."""
    return ((torch.arange(count) * 2 + 1) * length // (2 * count)).long()

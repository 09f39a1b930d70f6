"""Rules for how many directions of a feed-forward matrix are kept; one more for whole hidden units.

InfoPrune (arXiv 2511.19518) compresses feed-forward matrices by adaptive low rank without training; how it chooses the
ranks could not be seen. These are candidates with names, none of them "the paper's":

- `erank`: `ceil(c * effective rank)`, c from 1 to 2;
- `mass`: the fewest directions that leave out at most a share tau of the squared singular values (the mass-weighted
  Kolmogorov-Smirnov distance of `spectra`, on squares);
- `budget`: over all matrices together, always the direction that brings most mass for its multiply-adds, until a share
  of the dense multiply-adds is used;
- `bottleneck`: fewer hidden units instead of thin matrices (one third-party note reads as if the paper did this).

A rank is used only where two thin matrices are smaller than the whole one; else the answer is None, "leave it".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from pruning.ops.spectra import effective_rank, shares
from pruning.shapes import MatrixShape


def erank_rule(spectrum: torch.Tensor, factor: float) -> int:
    """`ceil(factor * effective rank)`, at least 1 and at most all of the `[n]` singular values."""
    return min(len(spectrum), max(1, math.ceil(factor * float(effective_rank(spectrum)) - 1e-9)))


def mass_rule(spectrum: torch.Tensor, tau: float, power: int = 2) -> int:
    """The fewest directions whose squares (or other powers) hold at least a share `1 - tau` of them all, at least 1."""
    kept = shares(spectrum, power).cumsum(-1)
    return min(len(spectrum), 1 + int((kept < 1 - tau - 1e-12).sum()))


def below_break_even(rank: int, shape: MatrixShape) -> int | None:
    """The rank, if two thin matrices of that rank are smaller than the whole one; else None."""
    return rank if rank < shape.break_even else None


def budget_rule(spectra: Sequence[torch.Tensor], shapes: Sequence[MatrixShape], share: float) -> list[int | None]:
    """Ranks of all matrices that together use at most `share` of the dense multiply-adds per token.

    Directions are taken greedily by mass per multiply-add (equal ones: earlier matrix first). A matrix whose thin pair
    would reach break-even is left whole if the budget still allows that, and stops one rank before it otherwise.
    Every matrix keeps one direction, even where the budget is smaller than that.
    """
    allowed = share * sum(s.weights for s in shapes)
    ranks: list[int | None] = [1] * len(shapes)
    used = sum(s.d_in + s.d_out for s in shapes)
    offers = []
    for i, (spectrum, shape) in enumerate(zip(spectra, shapes, strict=True)):
        worth = shares(spectrum, power=2) / (shape.d_in + shape.d_out)
        offers += [(-float(w), i) for w in worth[1:]]
    for _, i in sorted(offers, key=lambda o: o[0]):  # stable, and worth falls within a matrix
        shape, rank = shapes[i], ranks[i]
        if rank is None:
            continue
        step = shape.d_in + shape.d_out
        if rank + 1 >= shape.break_even:
            step = shape.d_in * shape.d_out - rank * (shape.d_in + shape.d_out)
        if used + step <= allowed:
            used += step
            ranks[i] = None if rank + 1 >= shape.break_even else rank + 1
    return ranks


def bottleneck_rule(energy: torch.Tensor, tau: float) -> torch.Tensor:
    """The fewest hidden units, ascending, that hold a share `1 - tau` of the energies `[hidden]`; at least one."""
    order = torch.sort(energy.double(), descending=True, stable=True).indices
    mass = energy.double()[order].cumsum(0) / energy.double().sum().clamp(min=1e-300)
    count = min(len(energy), 1 + int((mass < 1 - tau - 1e-12).sum()))
    return order[:count].sort().values

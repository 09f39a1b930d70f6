"""Pure tensor maths that two or more methods use. Ties always go to the smallest index."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def best(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the `count` highest scores, best first; equal scores in index order."""
    return torch.sort(scores, descending=True, stable=True).indices[:count]


def best_ascending(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the `count` highest scores, in index order."""
    return best(scores, count).sort().values


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """All cosines between rows of `a` `[n, dim]` and rows of `b` `[m, dim]`, float32 `[n, m]`; zero rows give 0."""
    return F.normalize(a.float(), dim=-1) @ F.normalize(b.float(), dim=-1).T

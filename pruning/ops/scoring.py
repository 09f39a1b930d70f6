"""Tensor functions that several methods use for scoring and choosing. Ties always go to the smallest index."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

RANK_EPSILON = 1e-6
CANDIDATES = 32  # columns that are worked out together: those of the tokens that are likely to be picked next
STRIPS = 8  # in which a large symmetric product is worked out, each only up to the diagonal
WHOLE_STRIP = 64  # a strip is some of these wide, so that equal rows have equal products wherever they lie
NARROWEST = 32  # of the last strip: very narrow products may be summed up in another order


def best(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the `count` highest scores, best first; equal scores in index order."""
    return torch.sort(scores, descending=True, stable=True).indices[:count]


def best_ascending(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the `count` highest scores, in index order."""
    return best(scores, count).sort().values


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """All cosines between rows of `a` `[n, dim]` and rows of `b` `[m, dim]`, float32 `[n, m]`; zero rows give 0."""
    return F.normalize(a.float(), dim=-1) @ F.normalize(b.float(), dim=-1).T


def products_among(rows: torch.Tensor) -> torch.Tensor:
    """All products among rows `[n, dim]`, `[n, n]`, symmetric to the last bit; each is worked out once."""
    n = len(rows)
    found, width = rows.new_empty(n, n), -(-n // (STRIPS * WHOLE_STRIP)) * WHOLE_STRIP
    for start in range(0, n, width):
        last = min(n, start + width)
        first = max(0, min(start, last - NARROWEST))
        strip = rows[:last] @ rows[first:last].T
        found[:last, first:last] = strip
        found[first:last, :first] = strip[:first].T
    return found


def cosine_among(rows: torch.Tensor) -> torch.Tensor:
    """All cosines among rows `[n, dim]`, float32 `[n, n]`; zero rows give 0."""
    return products_among(F.normalize(rows.float(), dim=-1))


def rank_within(group: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    """Place of every token in its group by descending score, from 0; equal scores in index order.

    Args:
        group: `[tokens]` number of the group, from 0. score: `[tokens]`.
    """
    order = torch.sort(score, descending=True, stable=True).indices
    order = order[torch.sort(group[order], stable=True).indices]
    size = torch.bincount(group)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(group), device=group.device) - (size.cumsum(0) - size)[group[order]]
    return rank


def square_parts(positions: torch.Tensor, side: int) -> torch.Tensor:
    """Number of the part in which every token lies, `[tokens]`, of `side` x `side` equal ones in raster order; parts
    without a token are not counted.

    Args:
        positions: `[tokens, 2]` row and column, each divided by its count.
    """
    place = (positions.float() * side + 1e-4).floor().long().clamp(max=side - 1)  # 1/3 of 3 is 1, also in float32
    return (place[:, 0] * side + place[:, 1]).unique(return_inverse=True)[1]


def farthest_first(
    features: torch.Tensor, count: int, start: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Picks in order, and every token's cosine distance to the nearest pick.

    Without a start, the first pick is the token whose nearest neighbour is farthest; every next one maximises the
    distance to its nearest pick. Ties go to the smallest index.

    Args:
        features: `[tokens, dim]`. count: at least 1, at most the number of tokens; with those of `start`.
        start: tokens that are picked already, at least one.
    """
    distance = 1 - cosine_among(features)
    if start is None:
        nearest = distance + torch.diag(distance.new_full((len(distance),), float("inf")))
        start = nearest.min(1).values.argmax()[None] if len(distance) > 1 else torch.zeros_like(distance[0]).long()
    order = start.tolist()
    closest = distance[start].amin(0)
    closest[start] = 0
    free = torch.ones_like(closest, dtype=torch.bool)
    free[start] = False
    for _ in range(count - len(order)):
        pick = int(torch.where(free, closest, -1.0).argmax())
        order.append(pick)
        free[pick] = False
        closest = torch.minimum(closest, distance[pick])
        closest[pick] = 0
    return torch.tensor(order, device=features.device), closest.clamp(min=0)


@dataclass(frozen=True, slots=True)
class Picks:
    """Result of the greedy selection: `order` `[k]` tokens as picked, `gain` `[k]` residual energy of each at its pick
    (NaN for fills after rank exhaustion), `residual` `[k]` total energy left after it, `energy_left` `[tokens]`.
    """

    order: torch.Tensor
    gain: torch.Tensor
    residual: torch.Tensor
    energy_left: torch.Tensor
    total: torch.Tensor


def greedy_residual(features: torch.Tensor, weight: torch.Tensor, count: int) -> Picks:
    """Pick `count` rows, each time the one with the largest weighted energy outside the span of those before.

    A pivoted Cholesky factorisation of the Gram matrix. Of the matrix only columns of candidates are formed: with each
    pick whose column is missing, those of the best others at that time, in one product. In float64, since energies are
    differences; very large inputs keep their rows in float32 and only the factor in float64. Energies that differ by
    rounding only are equal, so that of equal rows the first is picked. When the rank is exhausted the rest is filled by
    weight.

    Args:
        features: `[tokens, dim]`. weight: `[tokens]`, positive.
    """
    large = features.numel() > 2**23
    rows = features.float() if large else features.double()
    equal = 1 - (1e-6 if large else 1e-12)
    weight = weight.double()
    energy = rows.double().square().sum(1)
    total, floor = energy.sum(), RANK_EPSILON * energy.max()
    factor = energy.new_zeros(count, len(rows))
    columns: dict[int, tuple[int, torch.Tensor]] = {}  # by token: picks that are taken off already, and the column
    free = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    order, gains, residual = [], [], []
    for step in range(count):
        worth = torch.where(free & (energy > floor), energy * weight, -1.0)
        top = worth.max()
        if top <= 0:
            break
        i = int((worth >= top * equal).int().argmax())
        if i not in columns:
            likely = worth.topk(min(CANDIDATES, count - step, len(rows))).indices.tolist()
            wanted = [i, *(j for j in likely if j != i and j not in columns)]
            made = (rows[wanted] @ rows.T).double() - factor[:step, wanted].T @ factor[:step]
            columns |= {j: (step, column) for j, column in zip(wanted, made, strict=True)}
        taken_off, column = columns.pop(i)
        gain = energy[i].clone()
        column = (column - factor[taken_off:step, i] @ factor[taken_off:step]) / gain.sqrt()
        factor[step] = column
        energy = (energy - column.square()).clamp(min=0)
        free[i] = False
        energy[i] = 0
        order.append(i)
        gains.append(float(gain))
        residual.append(float(energy.sum()))
    missing = count - len(order)
    if missing:
        fill = best(torch.where(free, weight, -1.0), missing).tolist()
        order += fill
        gains += [float("nan")] * missing
        residual += [residual[-1] if residual else float(total)] * missing
    device = rows.device
    return Picks(
        torch.tensor(order, device=device),
        torch.tensor(gains, dtype=torch.float64, device=device),
        torch.tensor(residual, dtype=torch.float64, device=device),
        energy,
        total,
    )

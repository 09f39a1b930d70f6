"""Gates for learned head pruning: their schedule and the information terms of the loss.

InfoPrune (arXiv 2511.19518) learns head importance under an information-bottleneck loss with effective rank and
Kolmogorov-Smirnov terms; that much is the paper's. The form below is inferred:

`L = L_task + l1 * mean over heads of m * eRank / d_h + l2 * mean over layers of KS(m) + l3 * (mean m - (1 - s(t)))^2`

with gates `m = sigmoid(z / T)`, T falling from 1, and a planned share of heads out `s(t)` that rises cubically.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pruning.ops.spectra import mass_curve, singular_values

SHARPNESS = 50.0  # of the smooth maximum over a mass curve's gaps
FLOOR = 1e-8  # beside eigenvalues that sum to 1: keeps the square root's slope finite at a closed gate


def ramp(step: int, steps: int, final: float) -> float:
    """Planned share of heads out at `step` of a ramp of `steps`: 0 at its start, `final` from its end on, cubic."""
    t = min(1.0, step / max(1, steps))
    return final * (1 - (1 - t) ** 3)


def temperature(step: int, steps: int, end: float) -> float:
    """From 1 at the first step to `end` at the last, by equal factors."""
    return end ** (step / max(1, steps - 1))


def gate_values(z: torch.Tensor, heat: float) -> torch.Tensor:
    """Gates in 0 .. 1."""
    return torch.sigmoid(z / heat)


def rank_term(gates: Sequence[torch.Tensor], erank: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean over all heads of gate times effective rank over its largest value: what the open heads let through."""
    return (torch.cat(list(gates)) * torch.cat(list(erank))).mean()


def distance_term(gates: Sequence[torch.Tensor], grams: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean over layers of the smooth mass-weighted distance between gated and dense head outputs."""
    return torch.stack([soft_ks(m, g) for m, g in zip(gates, grams, strict=True)]).mean()


def soft_ks(gate: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """Differentiable mass-weighted distance of one layer, 0 .. 1: 0 where all gates are 1.

    The largest gap is replaced by the mean of the gaps weighted by softmax, which is never above it.

    Args:
        gate: `[heads]`; gram: `[q_dim, q_dim]` of the dense head outputs, heads after each other.
    """
    gram = gram.double() / gram.diagonal().sum().clamp(min=torch.finfo(torch.float64).tiny)
    n = len(gram)
    m = gate.double().repeat_interleave(n // len(gate))
    values = (torch.linalg.eigvalsh(m[:, None] * gram * m).flip(0).clamp(min=0) + FLOOR**2).sqrt()
    curve = (values / values.sum()).cumsum(0)
    gaps = (curve - mass_curve(singular_values(gram), n)).abs()
    return ((SHARPNESS * gaps).softmax(0) * gaps).sum().to(gate.dtype)

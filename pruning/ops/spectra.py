"""Effective rank of a spectrum and distances between spectra. Spectra are singular values in descending order.

Effective rank is exp of the entropy of the singular values taken as shares (Roy and Vetterli, 2007). Distances are
Kolmogorov-Smirnov: the largest gap between two cumulative curves. Which curves is what matters:

- *two-sample*: shares of the values that lie below x. Between a spectrum and its own first k values this is 1 - k/n
  whatever the spectrum (0 where values tie across the cut), so it says nothing about where to cut;
- *mass*: shares of the total that the i largest values hold. Between a spectrum and its own first k values this is the
  mass that was cut off, so "at most tau" means "keep 1 - tau of the mass".

InfoPrune (arXiv 2511.19518) names both ideas; which curves it uses could not be seen, so both are here by name.
"""

from __future__ import annotations

import torch

from pruning.ops import ks

NEGLIGIBLE = 1e-6  # of the largest singular value: a Gram matrix in float64 knows singular values to about 1e-8 of it


def singular_values(gram: torch.Tensor) -> torch.Tensor:
    """Singular values of Y from its Gram matrix Y^T Y `[..., n, n]`: float64 `[..., n]`, descending."""
    return torch.linalg.eigvalsh(gram.double()).flip(-1).clamp(min=0).sqrt()


def shares(values: torch.Tensor, power: int = 1) -> torch.Tensor:
    """Singular values (or with power 2 their squares) over their sum; negligible ones are 0. A zero matrix gives 0."""
    values = values.double()
    kept = torch.where(values > NEGLIGIBLE * values.amax(-1, keepdim=True), values, 0.0) ** power
    return kept / kept.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)


def effective_rank(values: torch.Tensor) -> torch.Tensor:
    """exp(entropy) of `[..., n]` singular values: from 1 (one direction) to n (all alike); 0 for a zero matrix.

    Unchanged by scaling and by orthogonal maps on either side.
    """
    p = shares(values)
    rank = torch.special.entr(p).sum(-1).exp()
    return torch.where(p.sum(-1) > 0, rank, 0.0)


def mass_curve(values: torch.Tensor, n: int, power: int = 1) -> torch.Tensor:
    """Share of the total that the i largest values hold, `[..., n]` for i = 1 .. n; shorter spectra end in 1."""
    p = shares(values.sort(descending=True).values, power)
    missing = n - p.shape[-1]
    return torch.nn.functional.pad(p, (0, missing)).cumsum(-1)


def ks_mass(one: torch.Tensor, other: torch.Tensor, power: int = 1) -> torch.Tensor:
    """Largest gap between two mass curves, 0 .. 1; the shorter spectrum counts as ending in zeros."""
    n = max(one.shape[-1], other.shape[-1])
    return (mass_curve(one, n, power) - mass_curve(other, n, power)).abs().amax(-1).clamp(max=1)


def ks_two_sample(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The classical statistic between two samples `[n]` and `[m]`, float64, 0 .. 1. See the module docstring."""
    return torch.tensor(ks.ks_two_sample(one.cpu().numpy(), other.cpu().numpy()), dtype=torch.float64)

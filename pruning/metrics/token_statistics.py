"""Compute the diagnostics that need tensors: effective rank, attention entropy, and the similarity of
random kept sets. Definitions: `pruning.metrics.diagnostics`. No model is needed here.
"""

from __future__ import annotations

import torch

from pruning.ops.scoring import cosine
from pruning.ops.spectra import effective_rank, singular_values
from pruning.records.diagnostics import Traits

RANDOM_SETS = 5
QUICK = 1024  # a spectrum of this size takes half a second of one core; a run does not wait for larger ones


def traits_of(
    features: torch.Tensor, kept: torch.Tensor, attention: torch.Tensor | None, *, largest: float = QUICK
) -> Traits:
    """Traits of a picture.

    Args:
        features: `[tokens, dim]` all visual tokens as the language model reads them unpruned.
        kept: ids of those that are kept, int64 on the same device.
        attention: `[heads, tokens]` of [CLS], or None where there is none.
        largest: spectra with more values than this are left out.
    """
    n, dim = features.shape
    generator = torch.Generator().manual_seed(0)
    sets = [torch.randperm(n, generator=generator)[: len(kept)].to(features.device) for _ in range(RANDOM_SETS)]
    some = 0 < len(kept) < n  # else every set of as many is the same

    def rank(ids: torch.Tensor) -> float | None:
        return rank_of(features[ids]) if len(ids) and min(len(ids), dim) <= largest else None

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    quick = some and min(len(kept), dim) <= largest
    return Traits(
        width=dim,
        cosine_random=mean([likeness(features, ids) for ids in sets]) if some else None,
        attention_entropy=None if attention is None else entropy(attention),
        effective_rank=rank(torch.arange(n, device=features.device)),
        effective_rank_kept=rank(kept),
        effective_rank_random=mean([rank_of(features[ids]) for ids in sets]) if quick else None,
    )


def rank_of(rows: torch.Tensor) -> float:
    """Effective rank of a matrix `[n, dim]`, by the smaller of its two Gram matrices."""
    rows = rows.double()
    gram = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
    return float(effective_rank(singular_values(gram)))


def entropy(attention: torch.Tensor) -> float:
    """Entropy in nats of the mean of rows `[heads, tokens]`, taken as shares."""
    p = attention.double().mean(0)
    return float(torch.special.entr(p / p.sum()).sum())


def likeness(features: torch.Tensor, kept: torch.Tensor) -> float:
    """Mean cosine to the most similar kept token, of the tokens `[n, dim]` that are not kept."""
    left = torch.ones(len(features), dtype=torch.bool, device=features.device)
    left[kept] = False
    return float(cosine(features[left], features[kept]).amax(1).mean())

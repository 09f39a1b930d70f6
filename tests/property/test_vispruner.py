"""VisPruner's short lists are for speed only: it keeps what the published rule keeps, however alike the tokens are."""

from __future__ import annotations

import pytest
import torch

from pruning.methods.vispruner import DROPPED_A_ROUND, SHORT_LIST, important_and_diverse
from pruning.ops.scoring import best, cosine_among


def diverse_by_the_rule(score: torch.Tensor, features: torch.Tensor, n_important: int, n_diverse: int) -> torch.Tensor:
    """The rule as it is told, every cosine read in every round."""
    rest = best(score, len(score))[n_important:]
    alike, left = cosine_among(features[rest]), torch.arange(len(rest))
    while len(left) > n_diverse:
        even, odd = left[::2], left[1::2]
        surplus = min(DROPPED_A_ROUND, len(left) - n_diverse)
        resemblance = alike[even][:, odd].max(1).values
        left = torch.cat([even[best(resemblance, len(even))[surplus:]], odd])
    return rest[left]


def noise(g: torch.Generator) -> torch.Tensor:
    return torch.randn(150, 24, generator=g)


def few_clusters(g: torch.Generator) -> torch.Tensor:
    """Tokens whose whole short list is their own cluster, which soon has lost its odd members."""
    centres = torch.randn(3, 24, generator=g)
    return centres[torch.randint(3, (150,), generator=g)] + 0.05 * torch.randn(150, 24, generator=g)


def repeated(g: torch.Generator) -> torch.Tensor:
    return torch.randn(5, 24, generator=g)[torch.arange(150) % 5]


@pytest.mark.parametrize("make", [noise, few_clusters, repeated], ids=lambda f: f.__name__)
@pytest.mark.parametrize("n_keep", [1, 2, 9, 40, 149])
def test_the_diverse_are_those_of_the_rule(make, n_keep):
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        features, score = make(g), torch.rand(150, generator=g)
        important, diverse = important_and_diverse(score, features, n_keep, 0.5)
        assert diverse.tolist() == diverse_by_the_rule(score, features, len(important), len(diverse)).tolist()


def test_some_rows_are_not_on_a_short_list(monkeypatch):
    """Else the tests above would say nothing about the rows that are read whole."""
    read_whole = []
    full = torch.Tensor.index_select
    monkeypatch.setattr(torch.Tensor, "index_select", lambda self, *a: (read_whole.append(1), full(self, *a))[1])
    g = torch.Generator().manual_seed(0)
    important_and_diverse(torch.rand(150, generator=g), few_clusters(g), 9, 0.5)
    assert read_whole
    assert SHORT_LIST < 75

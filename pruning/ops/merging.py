"""Merge rows: several become one, and the index that merged them tells which."""

from __future__ import annotations

import torch


def group_means(features: torch.Tensor, group: torch.Tensor, n_groups: int) -> torch.Tensor:
    """Mean row of every group, float32 `[groups, dim]`.

    Args:
        features: `[rows, dim]`.
        group: `[rows]` number of the group of each row, -1 for rows that belong to none. Empty groups give zeros.
    """
    member = group >= 0
    total = features.new_zeros((n_groups, features.shape[1]), dtype=torch.float32)
    total.index_add_(0, group[member], features[member].float())
    count = torch.bincount(group[member], minlength=n_groups).clamp(min=1)
    return total / count[:, None]


def merge_by_size(
    features: torch.Tensor, sizes: torch.Tensor, source: torch.Tensor, target: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows after some merged into others: each the mean of the tokens it stands for.

    Args:
        features: `[rows, dim]`. sizes: `[rows]` how many tokens each stands for.
        source, target: which merges into which; no target is a source.

    Returns:
        Rows `[rows, dim]` and their new sizes; those of sources are as before.
    """
    size = sizes.index_add(0, target, sizes[source])
    grown, place = target.unique(return_inverse=True)
    total = features[grown].float() * sizes[grown, None]
    total.index_add_(0, place, features[source].float() * sizes[source, None])
    rows = features.clone()
    rows[grown] = (total / size[grown, None]).to(rows.dtype)
    return rows, size

"""Pure merges: several rows become one. What happened is told by the same index that did it."""

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

"""Group visual tokens around trained semantic tokens by attention; every group is merged into one row.

Paper:      Huang et al., "Efficient Multi-modal Large Language Models via Visual Token Grouping" (VisToG), 2024,
            https://arxiv.org/abs/2411.17773; no code was published
Stage:      once, between vision tower and projector
Needs:      visual tokens before the projector; semantic tokens and a grouping layer trained for this model
Symbols:    G semantic tokens -> kept rows; assignment -> the one semantic token of every visual token
Differs:    the paper's semantic tokens pass through the vision tower beside the picture, whose tokens do not attend to
            them; ours attend once to the tower's output, in a layer of their own. The paper tunes the language model
            with them; here only semantic tokens and grouping layer are trained. Fewer groups than trained use the first
            semantic tokens. A semantic token that no token is assigned to takes its nearest one
Cost:       G rows of attention over n tokens, and n x G products
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from pruning.budget import n_keep as count_kept
from pruning.errors import BudgetError
from pruning.interface import Decision, ModelInfo, PruneContext, Signal, Stage
from pruning.methods.base import BEFORE_PROJECTOR, TokenPruner
from pruning.methods.trained_modules import module_for
from pruning.ops.merging import group_means


class Grouping(nn.Module):
    """Semantic tokens and the layer that groups by them.

    Args:
        dim: width of the tokens before the projector. groups: number of semantic tokens. heads: of their
            attention over the picture.
    """

    def __init__(self, dim: int, groups: int = 192, heads: int = 4) -> None:
        super().__init__()
        self.semantic = nn.Parameter(torch.randn(groups, dim) * dim**-0.5)
        self.heads = heads
        self.before, self.after = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.ask, self.offer, self.give = (nn.Linear(dim, dim) for _ in range(3))
        self.query, self.key = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.added = nn.Linear(dim, dim)
        nn.init.zeros_(self.added.weight)  # before training, a group is the mean of its members
        nn.init.zeros_(self.added.bias)

    def forward(self, features: torch.Tensor, n_groups: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (affinity of every token to every semantic token, `[batch, n, n_groups]`; offset that a semantic token
        adds to the mean of its group, `[batch, n_groups, dim]`).

        Args:
            features: `[batch, n, dim]`. n_groups: how many of the semantic tokens to use, the first ones.
        """
        rows = self.before(features)
        asked = self.ask(self.semantic[:n_groups]).expand(len(rows), -1, -1)
        parts = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (asked, self.offer(rows), self.give(rows)))
        attended = F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        tokens = self.after(self.semantic[:n_groups] + attended)
        affinity = self.key(rows) @ self.query(tokens).mT * rows.shape[-1] ** -0.5
        return affinity, self.added(tokens)


@dataclass(frozen=True, kw_only=True)
class VisToG(TokenPruner):
    key: ClassVar[str] = "vistog"
    title: ClassVar[str] = "VisToG's grouping"
    paper: ClassVar[str] = "https://arxiv.org/abs/2411.17773"
    idea: ClassVar[str] = "groups around trained semantic tokens"
    stage: ClassVar[Stage] = BEFORE_PROJECTOR
    acts: ClassVar[str] = "between vision tower and projector"
    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.VISUAL_TOKENS})
    merges: ClassVar[bool] = True
    module: ClassVar[type[nn.Module]] = Grouping
    defaults: ClassVar[str] = "grouping trained for this model, semantic tokens behind the tower"

    def plan(self, info: ModelInfo, n_tokens: int) -> dict[Stage, int]:
        wanted, most = count_kept(self.keep_ratio, n_tokens), len(self.trained(info).semantic)
        if most < wanted < n_tokens:
            raise BudgetError(
                f"{self.title} has {most} semantic tokens for {info.name}; asked: {wanted}.",
                f"Lower the keep ratio to {math.floor(100 * most / n_tokens) / 100:.2f} or less.",
            )
        return super().plan(info, n_tokens)

    def trained(self, info: ModelInfo) -> Any:
        """Return the grouping trained for this model on visual tokens before the projector."""
        return module_for(self.key, self.title, self.module, info, info.token_dim)

    @torch.inference_mode()
    def select(self, context: PruneContext, n_keep: int) -> Decision:
        features = context.features.float()
        affinity, added = (t[0] for t in self.trained(context.info).to(features.device)(features[None], n_keep))
        group, first = members(affinity)
        rows = group_means(features, group, n_keep) + added
        keep, order = first.sort()
        merged_into = first[group]
        merged_into[first] = -1
        largest = int(torch.bincount(group).max())
        return Decision(
            keep, rows[order].to(context.features.dtype), merged_into, affinity.amax(1),
            summary=f"{n_keep} groups, the largest of {largest}", extra={"group": group},
        )  # fmt: skip


def members(affinity: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (group of every token, `[n]`; representative token of every group, `[groups]`).

    A token belongs to the group of highest affinity, and the member of highest affinity represents the group. An empty
    group takes the nearest of the tokens that represent none.
    """
    value, group = affinity.max(1)
    best = value.new_full((affinity.shape[1],), -torch.inf).scatter_reduce(0, group, value, "amax")
    stands = (value == best[group]).nonzero()[:, 0]  # equal ones: any of them
    first = torch.full_like(group[: affinity.shape[1]], -1)
    first[group[stands]] = stands
    taken = torch.zeros_like(group, dtype=torch.bool)
    taken[first[first >= 0]] = True
    for empty in (first < 0).nonzero()[:, 0].tolist():
        nearest = affinity[:, empty].masked_fill(taken, -torch.inf).argmax()
        group[nearest], first[empty], taken[nearest] = empty, nearest, True
    return group, first

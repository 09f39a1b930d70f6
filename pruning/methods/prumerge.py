"""Keep tokens with high [CLS] attention and an even sample, and merge into each kept token its nearest neighbours.

Paper:      Shang et al., "LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models", ICCV 2025,
            https://arxiv.org/abs/2403.15388; reference code 42Shawn/LLaVA-PruMerge @ 097c0411
Stage:      once, after the vision tower (before the projector)
Needs:      queries and keys of the tower's last layer (one behind the layer that feeds the projector): the [CLS] row of
            a softmax over their full width, without heads, and the keys
Symbols:    r -> share of outliers, above Q3 + 1.5 IQR of the [CLS] row; kept = `attention_share` by attention, the rest
            evenly spaced (PruMerge+); `attention_share` = 1 is PruMerge
Differs:    in the paper the picture determines how many tokens are kept (`budget = outliers`); here a keep ratio is
            given, as in the tables that compare it with others, half of it by attention as in the code's fixed ratio.
            The even sample is spread over the tokens that are not kept yet, so that the count is met (the code's sample
            may repeat them). With `outliers` the sample is the code's, about 3 r n tokens at an integer step; no
            outlier counts as one, and a step of 0, where the code raises, as 1. The row for all pruned tokens counts as
            one of the kept and is placed at the pruned token with the most attention; with one row to keep it is left
            out
Cost:       one attention row, k n cosines of keys, one k x n product with the features
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from pruning.interface import Decision, ModelInfo, Observation, PruneContext, Signal, Stage
from pruning.methods.base import BEFORE_PROJECTOR, TokenPruner
from pruning.ops.scoring import best, cosine
from pruning.parameters import Choice, Param

OUTLIERS, RATIO = "outliers", "keep ratio"
NEIGHBOURS = 32


@dataclass(frozen=True, kw_only=True)
class PruMerge(TokenPruner):
    key: ClassVar[str] = "prumerge"
    title: ClassVar[str] = "LLaVA-PruMerge+"
    paper: ClassVar[str] = "https://arxiv.org/abs/2403.15388"
    idea: ClassVar[str] = "[CLS] outliers and an even sample absorb neighbours"
    stage: ClassVar[Stage] = BEFORE_PROJECTOR
    acts: ClassVar[str] = "between vision tower and projector"
    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.CLS_ATTENTION_WIDE, Signal.TOWER_KEYS})
    equivariant: ClassVar[bool] = False  # the even sample lies in raster order
    merges: ClassVar[bool] = True
    defaults: ClassVar[str] = "as published, at a given keep ratio"

    budget: Annotated[
        str,
        Choice((OUTLIERS, RATIO), "Budget", "How many are kept: by the outliers of the picture, or by the keep ratio."),
    ] = RATIO
    attention_share: Annotated[
        float, Param(0.0, 1.0, 0.05, "Attention share", "Part of a given budget chosen by attention; 1 is PruMerge.")
    ] = 0.5

    @property
    def own_count(self) -> bool:
        return self.budget == OUTLIERS

    def variant(self) -> str:
        return super().variant() + (", PruMerge without the even sample" if self.attention_share == 1 else "")

    def observations(self, info: ModelInfo) -> tuple[Observation, ...]:
        last = info.tower_layers - 1
        return (Observation(Signal.CLS_ATTENTION_WIDE, last), Observation(Signal.TOWER_KEYS, last))

    def select(self, context: PruneContext, n_keep: int) -> Decision:
        wide, keys = (context.observations[observation] for observation in self.observations(context.info))
        attention = wide[0].float()
        if self.budget == OUTLIERS:
            important = best(attention, max(1, outliers(attention)))
            even = stepped(important, len(attention)) if self.attention_share < 1 else important[:0]
        else:
            n_tokens = max(1, n_keep - 1)  # one row is for all the others
            important = best(attention, max(1, round(self.attention_share * n_tokens)))
            even = spread(important, len(attention), n_tokens - len(important))
        kept = torch.cat([important, even])
        rows, near = take_in(context.features, keys, attention, kept)
        pruned = torch.ones_like(attention, dtype=torch.bool)
        pruned[kept] = False
        merged_into = torch.full_like(kept[:1], -1).expand(len(attention)).clone()
        if bool(pruned.any()) and (n_keep > 1 or self.own_count):
            place = torch.where(pruned, attention, -1.0).argmax()
            merged_into[pruned] = place
            merged_into[place] = -1
            rows = torch.cat([rows, sum_of(context.features, attention, pruned)[None]])
            kept = torch.cat([kept, place[None]])
        keep, order = kept.sort()
        summary = (
            f"{len(important)} by attention, {len(even)} evenly spaced, {len(kept) - len(near)} for all the others"
        )
        features = rows[order].to(context.features.dtype)
        # Ordered as published: by attention, then the sample, then the row for all others.
        extra = {"important": important, "even": even, "neighbours": near}
        why = {"most [CLS] attention": important, "even sample": even, "for all the others": kept[len(near) :]}
        return Decision(keep, features, merged_into, attention, order.argsort(), summary, extra, why)


def outliers(attention: torch.Tensor) -> int:
    """Return how many tokens lie above the third quartile by more than 1.5 times the interquartile range."""
    low, high = attention.quantile(torch.tensor([0.25, 0.75], device=attention.device))
    return int((attention > high + 1.5 * (high - low)).sum())


def stepped(kept: torch.Tensor, n_tokens: int) -> torch.Tensor:
    """Return every step-th token that is not kept yet; the step is a third of the tokens per kept one, truncated."""
    step = max(1, n_tokens // len(kept) // 3)
    places = torch.arange(0, n_tokens - 1, step, device=kept.device)
    return places[~torch.isin(places, kept)]


def spread(kept: torch.Tensor, n_tokens: int, count: int) -> torch.Tensor:
    """Return `count` tokens evenly spaced among those not kept yet, at the centres of equal intervals."""
    free = torch.ones(n_tokens, dtype=torch.bool, device=kept.device)
    free[kept] = False
    free = free.nonzero()[:, 0]
    middle = (torch.arange(count, device=kept.device) * 2 + 1) * len(free) // (2 * max(1, count))
    return free[middle]


def take_in(
    features: torch.Tensor, keys: torch.Tensor, attention: torch.Tensor, kept: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the merged rows of the kept tokens, float32 `[k, dim]`: each plus the attention-weighted sum of the
    original rows of the tokens with the nearest keys (kept ones included); and those tokens, `[k, neighbours]`.
    """
    alike = cosine(keys[kept], keys)
    alike[torch.arange(len(kept), device=kept.device), kept] = -torch.inf
    near = alike.topk(min(NEIGHBOURS, len(keys) - 1), 1).indices
    weight = torch.zeros_like(alike).scatter_(1, near, attention[near])
    return features[kept].float() + weight @ features.float(), near


def sum_of(features: torch.Tensor, attention: torch.Tensor, pruned: torch.Tensor) -> torch.Tensor:
    """Return the attention-weighted sum of the pruned tokens, float32 `[dim]`."""
    return attention[pruned] @ features[pruned].float()

"""Keep the tokens with the most [CLS] attention, and merge the rest into evenly spaced contextual tokens.

Paper:      Yang et al., "VisionZip: Longer is Better but Not Necessary in Vision Language Models", CVPR 2025,
            https://arxiv.org/abs/2412.04467; reference code dvlab-research/VisionZip @ 3151f6df
Stage:      once, between vision tower and projector, so that the projector works on the kept rows only
Needs:      [CLS] attention and keys of the tower layer that feeds the projector
Symbols:    dominant + contextual = kept rows (paper: 54 + 10 = 64, of which one dominant row is [CLS] itself)
Differs:    the paper averages a contextual token with those assigned to it; the code adds their mean to it, which about
            doubles the norm: `merge = sum of target and mean`. With one row to keep, [CLS] is left out
Cost:       one attention row and the keys of one tower layer; O((n - d) c dim) to merge
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from pruning.interface import Decision, ModelInfo, Observation, PruneContext, Signal, Stage
from pruning.methods.base import BEFORE_PROJECTOR, TokenPruner
from pruning.ops.merging import group_means
from pruning.ops.scoring import best, cosine
from pruning.parameters import Choice, Param
from pruning.records.selection import CLS_SOURCE

AVERAGE, AS_CODED = "average", "sum of target and mean"


@dataclass(frozen=True, kw_only=True)
class VisionZip(TokenPruner):
    key: ClassVar[str] = "visionzip"
    title: ClassVar[str] = "VisionZip"
    paper: ClassVar[str] = "https://arxiv.org/abs/2412.04467"
    idea: ClassVar[str] = "most [CLS] attention; the rest merged"
    stage: ClassVar[Stage] = BEFORE_PROJECTOR
    acts: ClassVar[str] = "between vision tower and projector"
    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.CLS_ATTENTION, Signal.TOWER_KEYS})
    equivariant: ClassVar[bool] = False  # contextual targets lie at a stride in raster order
    merges: ClassVar[bool] = True

    contextual_share: Annotated[
        float, Param(0.0, 0.9, 0.01, "Contextual share", "Part of the budget spent on merged tokens (paper: 10 of 64).")
    ] = 10 / 64
    merge: Annotated[
        str, Choice((AVERAGE, AS_CODED), "Merge", "How a contextual token is merged with those assigned to it.")
    ] = AVERAGE

    def observations(self, info: ModelInfo) -> tuple[Observation, ...]:
        return (
            Observation(Signal.CLS_ATTENTION, info.feature_layer),
            Observation(Signal.TOWER_KEYS, info.feature_layer),
        )

    def select(self, context: PruneContext, n_keep: int) -> Decision:
        attention, keys = (context.observations[observation] for observation in self.observations(context.info))
        with_cls = n_keep > 1
        n_contextual = min(round(self.contextual_share * n_keep), n_keep - 2) if n_keep > 2 else 0
        n_dominant = n_keep - n_contextual - with_cls
        heads = attention.shape[0]
        metric = keys.float().view(len(keys), heads, -1).mean(1)
        parts = dominant_and_contextual(attention, metric, n_dominant, n_contextual)
        kept_before, keep, group = parts.keep, parts.keep.sort().values, parts.contextual_of
        place = torch.full((context.n_rows,), -1, device=keep.device)
        place[keep] = torch.arange(len(keep), device=keep.device)
        features = context.features[keep].clone()
        merged_into = torch.full_like(place, -1)
        if n_contextual:
            merged = merge_contextual(context.features, parts.targets, group, as_coded=self.merge == AS_CODED)
            features[place[parts.targets]] = merged.to(features.dtype)
            joined = group >= 0
            merged_into[joined] = parts.targets[group[joined]]
            merged_into[parts.targets] = -1  # a target is kept, not merged
        # In the published order: [CLS], dominants in raster order, contextual tokens last.
        order = place[kept_before]
        if with_cls:
            order = torch.cat([order.new_tensor([CLS_SOURCE]), order])
        summary = f"{n_dominant} dominant, {n_contextual} contextual" + (", [CLS] kept as a token" if with_cls else "")
        why = {"dominant": kept_before[:n_dominant], "contextual": parts.targets}
        extra = {"contextual_targets": parts.targets}
        return Decision(keep, features, merged_into, parts.score, order, summary, extra, why)


@dataclass(frozen=True, slots=True)
class Parts:
    """A partition of the tokens. `keep`: dominants in raster order, then targets. `contextual_of` `[tokens]`: number of
    the contextual token that a token is assigned to (targets to their own), -1 for dominants.
    """

    keep: torch.Tensor
    targets: torch.Tensor
    contextual_of: torch.Tensor
    score: torch.Tensor
    score_order: torch.Tensor


def dominant_and_contextual(attention: torch.Tensor, metric: torch.Tensor, n_dominant: int, n_contextual: int) -> Parts:
    """Partition tokens into dominant ones and groups around contextual ones.

    Args:
        attention: `[heads, tokens]` [CLS] attention; heads are summed.
        metric: `[tokens, dim]` keys averaged over the heads.
    """
    score = attention.float().sum(0)
    ranked = best(score, n_dominant)
    dominant = ranked.sort().values
    rest = torch.ones(len(score), dtype=torch.bool, device=score.device)
    rest[dominant] = False
    rest = rest.nonzero()[:, 0]
    stride = max(1, len(rest) // n_contextual) if n_contextual else 1
    targets = rest[::stride][:n_contextual]
    group = torch.full((len(score),), -1, device=score.device)
    if n_contextual:
        group[rest] = cosine(metric[rest], metric[targets]).argmax(1)
        group[targets] = torch.arange(len(targets), device=score.device)
    return Parts(torch.cat([dominant, targets]), targets, group, score, ranked)


def merge_contextual(
    features: torch.Tensor, targets: torch.Tensor, contextual_of: torch.Tensor, *, as_coded: bool
) -> torch.Tensor:
    """Return the rows of the contextual tokens, float32 `[targets, dim]`: the mean of the group, or (as coded) the
    target plus the mean of those assigned to it. A target without others stays as it is.
    """
    if not as_coded:
        return group_means(features, contextual_of, len(targets))
    joiners = contextual_of.clone()
    joiners[targets] = -1
    return features[targets].float() + group_means(features, joiners, len(targets))

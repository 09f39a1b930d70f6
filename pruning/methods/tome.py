"""Merge the most similar tokens, a few in every layer of the vision tower.

Paper:      Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023, https://arxiv.org/abs/2210.09461; the
            reference code facebookresearch/ToMe @ af95e4b1 is not free for commercial use, its rule was re-derived
Stage:      after every layer of the vision tower up to the one that feeds the projector
Needs:      keys of every tower layer, averaged over its heads
Symbols:    r -> tokens merged in a layer, the smallest constant that ends at the kept tokens; A and B -> every other
            token; size -> how many tokens a row represents; schedule (r, inflection) -> `inflection`
Differs:    merging is after the full layer, by the keys of that layer, where the engine cuts; the paper merges inside
            the layer, between attention and feed-forward. So a layer's feed-forward part works on the tokens from
            before its merge. The merge of the last layer takes fewer tokens, so that the count is met
Cost:       n / 2 x n / 2 cosines of keys a layer
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from pruning.budget import n_keep as count_kept
from pruning.errors import BudgetError
from pruning.interface import Decision, ModelInfo, Observation, Part, PruneContext, Signal, Stage
from pruning.methods.base import BEFORE_PROJECTOR, TokenPruner
from pruning.ops.merging import merge_by_size
from pruning.ops.scoring import best, cosine
from pruning.parameters import Param


@dataclass(frozen=True, kw_only=True)
class ToMe(TokenPruner):
    key: ClassVar[str] = "tome"
    title: ClassVar[str] = "ToMe"
    paper: ClassVar[str] = "https://arxiv.org/abs/2210.09461"
    idea: ClassVar[str] = "merge the most similar pairs in every layer"
    acts: ClassVar[str] = "after every vision tower layer"
    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.TOWER_KEYS_MEAN})
    equivariant: ClassVar[bool] = False  # A and B are every other token
    merges: ClassVar[bool] = True
    defaults: ClassVar[str] = "as published, merging at the end of a layer"

    inflection: Annotated[
        float,
        Param(-1.0, 1.0, 0.5, "Inflection", "0 merges evenly over the layers, -1 more in early, 1 more in late ones."),
    ] = 0.0

    def stages(self, info: ModelInfo) -> list[Stage]:
        """Return the stages at which tokens are merged, in order."""
        return [*(Stage(Part.TOWER, layer) for layer in range(1, info.feature_layer + 1)), BEFORE_PROJECTOR]

    def plan(self, info: ModelInfo, n_tokens: int) -> dict[Stage, int]:
        stages = self.stages(info)
        wanted = count_kept(self.keep_ratio, n_tokens)
        counts = schedule(n_tokens, wanted, len(stages), self.inflection)
        if counts[-1] > wanted:
            raise BudgetError(
                f"ToMe halves the tokens at most once a layer, so {len(stages)} layers cannot go below {counts[-1]} of "
                f"{n_tokens}; asked: {wanted}.", "Raise the keep ratio, or set the inflection to 0."
            )  # fmt: skip
        return dict(zip(stages, counts, strict=True))

    def observations(self, info: ModelInfo) -> tuple[Observation, ...]:
        return tuple(Observation(Signal.TOWER_KEYS_MEAN, layer) for layer in range(info.feature_layer + 1))

    def select(self, context: PruneContext, n_keep: int) -> Decision:
        number = self.stages(context.info).index(context.stage)
        metric = context.observations[self.observations(context.info)[number]]
        all_sizes = context.memory.setdefault("tome.sizes", torch.ones(context.n_total, device=metric.device))
        with_cls = Signal.CLS_ATTENTION in context.info.signals  # [CLS] is the first token of A, but is never merged
        edges = strongest_edges(metric, context.n_rows - n_keep, first=int(with_cls), sort_rest=with_cls)
        rows, size = merge_by_size(context.features, all_sizes[context.ids], edges.source, edges.target)
        all_sizes[context.ids] = size
        keep, order = edges.left.sort()
        merged_into = torch.full_like(context.ids, -1)
        merged_into[edges.source] = edges.target
        summary = f"{len(edges.source)} merged, the largest stands for {int(size[keep].max())}"
        return Decision(
            keep, rows[keep], merged_into, edges.score, order.argsort(),
            summary=summary, extra={"size": size[keep]}, sizes=size[keep],
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Edges:
    """Pairs to merge: `source` into `target`, most similar first. `left`: all tokens but `source`, those of A before
    those of B. `score` `[tokens]`: 1 - cosine of each token of A to its nearest of B, NaN in B.
    """

    source: torch.Tensor
    target: torch.Tensor
    left: torch.Tensor
    score: torch.Tensor


def strongest_edges(metric: torch.Tensor, count: int, *, first: int, sort_rest: bool) -> Edges:
    """Return the `count` most similar pairs of a token of A and its most similar token of B.

    Args:
        metric: `[tokens, dim]`. count: at most half of the tokens.
        first: where A begins, 0 or 1; B takes the others. sort_rest: unmerged tokens of A keep their order, else the
            most similar come first.
    """
    index = torch.arange(len(metric), device=metric.device)
    a, b = index[first::2], index[1 - first :: 2]
    similarity, nearest = cosine(metric[a], metric[b]).max(1)
    order = best(similarity, len(a))
    merged, rest = order[:count], order[count:]
    score = torch.full((len(metric),), torch.nan, device=metric.device)
    score[a] = 1 - similarity
    rest = rest.sort().values if sort_rest else rest
    return Edges(a[merged], b[nearest[merged]], torch.cat([a[rest], b]), score)


def schedule(n_tokens: int, wanted: int, layers: int, inflection: float) -> list[int]:
    """Return the tokens left after every layer for the smallest r that ends at `wanted`; above it where none does.

    A layer merges at most half of its tokens. r is multiplied by 1 - inflection in the first layer, changing
    linearly to 1 + inflection in the last.
    """
    share = [1 + inflection * (2 * i / max(1, layers - 1) - 1) for i in range(layers)]
    r = -(-(n_tokens - wanted) // layers)
    while True:
        counts, left = [], n_tokens
        for s in share:
            left = max(wanted, left - min(int(r * s), left // 2))
            counts.append(left)
        if left == wanted or r > n_tokens:
            return counts
        r += 1

"""Divide the budget among crops of the picture by their mean scores, and keep the best tokens of each crop.

Paper:      Zou et al., "Don't Just Chase 'Highlighted Tokens' in MLLMs: Revisiting Visual Holistic Context Retention",
            NeurIPS 2025, https://arxiv.org/abs/2510.02912; reference code obananas/HoloV @ 1d2e65e9
Stage:      once, between projector and language model
Needs:      [CLS] attention of the tower layer that feeds the projector (without [CLS], the attention received there);
            visual tokens
Symbols:    score of a token -> 1000 x attention + 0.09 x variance of its cosines to its crop, rescaled to the crop's
            attention; quota of a crop -> its share of the mean scores
Differs:    the paper speaks of crops of the picture and ranks by the whole score; the code cuts the raster sequence
            into runs (`crops = runs of the raster`) and ranks by attention alone (`ranking = attention`). What a crop
            cannot hold of its quota goes to the others, as in the paper; the code discards it and pads with zero
            vectors. Crops are a square of equal parts, 16 as in the code: the paper does not say how they lie. The
            paper's temperature and refetching of context are not in the code, and are left out. The variance counts the
            zeroed diagonal, as the code's does. Of several pictures each has its own crops (runs end where a picture
            ends), and all crops share the budget
Cost:       one attention row; a product of every crop with itself
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from pruning.interface import Decision, ModelInfo, Observation, PruneContext, Signal, Stage
from pruning.methods.base import BEFORE_LANGUAGE_MODEL, TokenPruner
from pruning.ops.scoring import best, products_among, rank_within, square_parts
from pruning.parameters import Choice, Param

CROPS, RUNS = "parts of the picture", "runs of the raster"
WHOLE, ATTENTION = "whole score", "attention"
ATTENTION_SCALE, ALPHA, EPSILON = 1e3, 0.09, 1e-6


@dataclass(frozen=True, kw_only=True)
class HoloV(TokenPruner):
    key: ClassVar[str] = "holov"
    title: ClassVar[str] = "HoloV"
    paper: ClassVar[str] = "https://arxiv.org/abs/2510.02912"
    idea: ClassVar[str] = "a quota for every part of the picture"
    stage: ClassVar[Stage] = BEFORE_LANGUAGE_MODEL
    acts: ClassVar[str] = "before the language model"
    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.CLS_ATTENTION, Signal.VISUAL_TOKENS})
    by_picture: ClassVar[bool] = True
    without_cls: ClassVar[bool] = True

    side: Annotated[
        int, Param(1, 12, 1, "Crops a side", "4 divides the picture into 16 crops, or the raster into 16 runs.")
    ] = 4
    crops: Annotated[
        str, Choice((CROPS, RUNS), "Crops", "What gets a quota: square parts, or runs of the raster, as coded.")
    ] = CROPS
    ranking: Annotated[
        str,
        Choice((WHOLE, ATTENTION), "Ranking in a crop", "Score by which a crop keeps tokens; the code uses attention."),
    ] = WHOLE

    def observations(self, info: ModelInfo) -> tuple[Observation, ...]:
        return (info.default_attention(info.feature_layer),)

    def select(self, context: PruneContext, n_keep: int) -> Decision:
        (observation,) = self.observations(context.info)
        attention = context.observations[observation].float().mean(0)
        if self.crops == CROPS:
            crop = context.by_picture(square_parts(context.positions, self.side))
        else:
            crop = context.by_picture(runs(context.n_rows, self.side**2, context.ids.device))
        score, crop_score = holistic_score(context.features, attention, crop)
        quota = quotas(crop_score, torch.bincount(crop), n_keep)
        chosen = in_quota(crop, score if self.ranking == WHOLE else attention, quota)
        keep, order = chosen.sort()
        summary = f"{int((quota > 0).sum())} of {len(quota)} parts have a share, the largest {int(quota.max())} tokens"
        # Read as published: part by part, the best first.
        return Decision(
            keep, scores=score, order=order.argsort(), summary=summary, extra={"crop": crop, "quota": quota}
        )


def runs(n_tokens: int, count: int, device: torch.device) -> torch.Tensor:
    """Return the run of every token, `[tokens]`: contiguous, the first ones longer where the count does not divide."""
    count = min(count, n_tokens)
    length, longer = divmod(n_tokens, count)
    lengths = torch.full((count,), length, device=device)
    lengths[:longer] += 1
    return torch.arange(count, device=device).repeat_interleave(lengths)


def holistic_score(
    features: torch.Tensor, attention: torch.Tensor, crop: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the score of every token and the mean score of every crop, float32 `[tokens]` and `[crops]`.

    Args:
        features: `[tokens, dim]`. attention: `[tokens]`. crop: `[tokens]` number of its crop.
    """
    size = torch.bincount(crop)
    own = torch.zeros_like(attention)
    order, counts = torch.sort(crop, stable=True).indices, size.tolist()
    room = features.new_empty(max(counts), features.shape[1])  # reused for every crop: allocating is slow
    for mine in order.split(counts):  # by crop: all at once would first copy and pad every feature
        inside = torch.index_select(features, 0, mine, out=room[: len(mine)])
        alike = products_among(inside.float())
        norm = alike.diagonal().sqrt().clamp(min=EPSILON)
        alike /= norm  # a row is still too long by its own norm, and so is how far it varies
        alike.fill_diagonal_(0)
        others = max(1, len(mine) - 1)
        mean = alike.sum(1, keepdim=True) / others
        own[mine] = (torch.linalg.vector_norm(alike.sub_(mean), dim=1) / norm).square() / others
    scaled = attention * ATTENTION_SCALE

    def crop_mean(values: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(values[: len(size)]).index_add_(0, crop, values) / size

    score = scaled + ALPHA * own * (crop_mean(scaled.abs()) / (crop_mean(own.abs()) + EPSILON))[crop]
    return score, crop_mean(score)


def quotas(score: torch.Tensor, size: torch.Tensor, count: int) -> torch.Tensor:
    """Divide `count` tokens among crops in proportion to their scores.

    Fractions go to the crops with the highest scores; what a crop cannot hold is divided among the others in the same
    way.

    Args:
        score: `[crops]`. size: `[crops]`, in all at least `count`.
    """
    quota = torch.zeros_like(size)
    while (spare := count - int(quota.sum())) > 0:
        room = size - quota
        share = torch.where(room > 0, score.clamp(min=EPSILON), 0.0)
        more = (share / (share.sum() + EPSILON) * spare).floor().long()
        more[best(share, min(spare - int(more.sum()), int((room > 0).sum())))] += 1
        quota += torch.minimum(more, room)
    return quota


def in_quota(crop: torch.Tensor, score: torch.Tensor, quota: torch.Tensor) -> torch.Tensor:
    """Return the best tokens of every crop, crop by crop, best first; in raster order where a crop keeps all of its
    own.
    """
    filled = quota == torch.bincount(crop)
    rank = rank_within(crop, score.masked_fill(filled[crop], 0))
    chosen = (rank < quota[crop]).nonzero()[:, 0]
    return chosen[(crop[chosen] * len(crop) + rank[chosen]).argsort()]

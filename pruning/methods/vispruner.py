"""Keep the tokens with the most [CLS] attention, and from the rest those that are least similar to each other.

Paper:      Zhang et al., "Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token Pruning in VLMs",
            ICCV 2025, https://arxiv.org/abs/2412.01818; reference code Theia-4869/VisPruner @ aefa01ad
Stage:      once, after the vision tower (the published mask is computed there and applied behind the projector, which
            processes each token independently)
Needs:      [CLS] attention of the tower layer that feeds the projector; without [CLS], the attention received there
Symbols:    T -> kept tokens; r -> `important_ratio` (r = 1 is FasterVLM, the first version of the same paper)
Differs:    the code raises where the number left over becomes odd (T = 58 with r = 0.5); here the two halves may differ
            by one
Cost:       one attention row, one n x n product of tower features, about (n - T) / 8 rounds over short lists
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from pruning.interface import Decision, ModelInfo, Observation, PruneContext, Signal, Stage
from pruning.methods.base import BEFORE_PROJECTOR, TokenPruner
from pruning.ops.scoring import best, cosine_among
from pruning.parameters import Param

ATTENDED, RECEIVES, UNLIKE = "most [CLS] attention", "most attention received", "unlike the rest"
DROPPED_A_ROUND = 8
SHORT_LIST = 16  # of a token's most similar ones; for speed only, see `_resemblance`


@dataclass(frozen=True, kw_only=True)
class VisPruner(TokenPruner):
    key: ClassVar[str] = "vispruner"
    title: ClassVar[str] = "VisPruner"
    paper: ClassVar[str] = "https://arxiv.org/abs/2412.01818"
    idea: ClassVar[str] = "most [CLS] attention, then the least similar"
    stage: ClassVar[Stage] = BEFORE_PROJECTOR
    acts: ClassVar[str] = "between vision tower and projector"
    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.CLS_ATTENTION})
    without_cls: ClassVar[bool] = True

    important_ratio: Annotated[
        float,
        Param(0.0, 1.0, 0.05, "Important share (r)", "Part of the budget chosen by [CLS] attention; 1 is FasterVLM."),
    ] = 0.5

    def observations(self, info: ModelInfo) -> tuple[Observation, ...]:
        return (info.default_attention(info.feature_layer),)

    def variant(self) -> str:
        return "FasterVLM (r = 1)" if self.important_ratio == 1 else super().variant()

    def select(self, context: PruneContext, n_keep: int) -> Decision:
        (observation,) = self.observations(context.info)
        score = context.observations[observation].float().mean(0)
        important, diverse = important_and_diverse(score, context.features, n_keep, self.important_ratio)
        summary = f"{len(important)} important, {len(diverse)} diverse"
        keep = torch.cat([important, diverse]).sort().values
        extra = {"important": important, "diverse": diverse}
        why = {ATTENDED if context.info.has_cls else RECEIVES: important, UNLIKE: diverse}
        return Decision(keep, scores=score, summary=summary, extra=extra, why=why)


def important_and_diverse(
    score: torch.Tensor, features: torch.Tensor, n_keep: int, important_ratio: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two disjoint sets of tokens, together `n_keep`.

    The rest, in descending order of score, is thinned round by round: tokens at even places are compared with those at
    odd places, and the few even ones most similar to an odd one are dropped; the remaining even ones, most similar
    first, are then placed before the odd ones.

    Args:
        score: `[tokens]`. features: `[tokens, dim]`, not projected.
    """
    n_important = int(n_keep * important_ratio)
    ranked = best(score, len(score))
    important, rest = ranked[:n_important], ranked[n_important:]
    n_diverse = n_keep - n_important
    if n_diverse == 0:
        return important, rest[:0]
    alike = cosine_among(features[rest])
    short_list = alike.topk(min(SHORT_LIST, len(rest)), 1)
    rest_index = torch.arange(len(rest), device=rest.device)
    while len(rest_index) > n_diverse:
        even, odd = rest_index[::2], rest_index[1::2]
        surplus = min(DROPPED_A_ROUND, len(rest_index) - n_diverse)
        resemblance = _resemblance(alike, short_list, even, odd)
        rest_index = torch.cat([even[best(resemblance, len(even))[surplus:]], odd])
    return important, rest[rest_index]


def _resemblance(
    alike: torch.Tensor, short_list: tuple[torch.Tensor, torch.Tensor], even: torch.Tensor, odd: torch.Tensor
) -> torch.Tensor:
    """Return for every token of `even` its largest cosine to a token of `odd`: `alike[even][:, odd].max(1).values`.

    Copying half of the matrix in every round took most of this method's time. In nearly all rows the most similar
    token in `odd` is on the row's short list; only the other rows are searched in full.

    Args:
        alike: `[tokens, tokens]`. short_list: each row's largest values and their columns, both `[tokens, short]`.
    """
    value, column = short_list
    is_odd = torch.zeros(len(alike), dtype=torch.bool, device=alike.device)
    is_odd[odd] = True
    found = torch.where(is_odd[column[even]], value[even], -torch.inf).amax(1)
    unlisted = found.isinf().nonzero().squeeze(1)
    if len(unlisted):
        found[unlisted] = alike.index_select(0, even[unlisted]).index_select(1, odd).amax(1)
    return found

"""Keep tokens by local and global attention in the tower, merge the rest; prune again inside the language model.

Paper:      Zhang et al., "VScan: Rethinking Visual Token Reduction for Efficient Large Vision-Language Models", TMLR
            2026, https://arxiv.org/abs/2505.22654; reference code Tencent/SelfEvolvingAgent, VScan @ a82450e1
Stage:      1 between projector and language model, by attention in the tower; 2 in the middle of the language model
Needs:      [CLS] attention of a shallow tower layer and of the one that feeds the projector; visual tokens; attention
            of the last prompt token at the layer of the second cut, computed ahead. Without [CLS], attention received
Symbols:    local scan -> half of T1, shared by windows, by shallow attention; global scan -> the other half, by deep
            attention; T1 = 1.5 R, T2 = 0.5 R for a mean of R tokens a layer (R -> keep_ratio)
Differs:    T1 and T2 are solved for a cut that is not in the middle, and T1 ends at all tokens (`layer`,
            `shallow_layer`: 0 scales the paper's 16 of 32 and 5 of 24). Where the local half does not divide by the
            windows, those whose next token has the most attention get one more; the code discards the remainder (100
            requested, 98 kept). For Qwen2.5-VL the published windows are of 4 x 4 tokens with a common cap, filled in
            the order of attention (`windows`); its second stage, whose code has neither rotary positions nor a causal
            mask, is not copied. Of several pictures each has its own windows, and all windows share the budget
Cost:       two attention rows of the tower; (n - T1) x T1 cosines; one attention row of the language model
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from pruning.budget import n_keep as count_kept
from pruning.errors import ParameterError
from pruning.interface import Decision, ModelInfo, Observation, Part, PruneContext, Signal, Stage
from pruning.methods.base import BEFORE_LANGUAGE_MODEL, TokenPruner
from pruning.ops.merging import group_means
from pruning.ops.scoring import best, best_ascending, cosine, rank_within, square_parts
from pruning.parameters import Choice, Param

SIXTEEN, CAPPED = "16 equal windows", "windows of 4 x 4 tokens"
WINDOWS_A_SIDE, WINDOW_SIDE = 4, 4
PAPER_TOWER, PAPER_SHALLOW, PAPER_DEPTH, PAPER_CUT = 24, 5, 32, 16
SECOND_SHARE = 1 / 3  # of what the first stage keeps


@dataclass(frozen=True, kw_only=True)
class VScan(TokenPruner):
    key: ClassVar[str] = "vscan"
    title: ClassVar[str] = "VScan"
    paper: ClassVar[str] = "https://arxiv.org/abs/2505.22654"
    idea: ClassVar[str] = "local and global attention, merged; then the question"
    acts: ClassVar[str] = "before and in the middle of the language model"
    needs: ClassVar[frozenset[Signal]] = frozenset(
        {Signal.CLS_ATTENTION, Signal.VISUAL_TOKENS, Signal.LAST_TOKEN_ATTENTION}
    )
    without_cls: ClassVar[bool] = True
    equivariant: ClassVar[bool] = False  # windows lie in the picture
    by_picture: ClassVar[bool] = True
    merges: ClassVar[bool] = True

    shallow_layer: Annotated[
        int,
        Param(0, 128, 1, "Shallow layer", "Tower layer of the local scan; 0 scales the paper's 5 of 24.", Part.TOWER),
    ] = 0
    layer: Annotated[
        int,
        Param(
            0,
            128,
            1,
            "Second cut",
            "Tokens are dropped before this layer; 0 scales the paper's 16 of 32.",
            layer_of=Part.LANGUAGE_MODEL,
        ),
    ] = 0
    windows: Annotated[
        str,
        Choice((SIXTEEN, CAPPED), "Windows", "Windows of the local scan, as published for LLaVA or for Qwen2.5-VL."),
    ] = SIXTEEN

    def cut(self, info: ModelInfo) -> int:
        """Return the layer of the second stage."""
        layer = self.layer or max(1, round(PAPER_CUT * info.text_layers / PAPER_DEPTH))
        if layer >= info.text_layers:
            raise ParameterError(
                f"VScan's second cut is before layer {layer}; {info.name} has {info.text_layers}.", "Set it to 0."
            )
        return layer

    def plan(self, info: ModelInfo, n_tokens: int) -> dict[Stage, int]:
        cut, layers = self.cut(info), info.text_layers
        mean = count_kept(self.keep_ratio, n_tokens)
        first = min(n_tokens, round(mean * layers / (cut + SECOND_SHARE * (layers - cut))))
        second = min(first, max(1, round((mean * layers - first * cut) / (layers - cut))))
        return {BEFORE_LANGUAGE_MODEL: first, Stage(Part.LANGUAGE_MODEL, cut): second}

    def observations(self, info: ModelInfo) -> tuple[Observation, ...]:
        scaled = min(info.feature_layer, max(1, round(PAPER_SHALLOW * info.tower_layers / PAPER_TOWER)))
        return (
            info.default_attention(self.shallow_layer or scaled),
            info.default_attention(info.feature_layer),
            Observation(Signal.LAST_TOKEN_ATTENTION, self.cut(info), ahead=True),
        )

    def select(self, context: PruneContext, n_keep: int) -> Decision:
        shallow, deep, last_row = self.observations(context.info)
        if context.stage != BEFORE_LANGUAGE_MODEL:
            score = context.observations[last_row].float().mean(0)
            return Decision(best_ascending(score, n_keep), scores=score, summary="by last-token attention")
        near, far = (context.observations[observation].float().mean(0) for observation in (shallow, deep))
        if self.windows == SIXTEEN:
            window = context.by_picture(square_parts(context.positions, WINDOWS_A_SIDE))
            local = in_turns(near, window, n_keep // 2)
        else:
            local = capped(near, context.by_picture(small_windows(context)), n_keep // 2)
        overall = global_picks(far, local, n_keep - len(local))
        keep = torch.cat([local, overall]).sort().values
        features, merged_into = merge_rest(context.features, keep)
        summary = f"{len(local)} by window, {len(overall)} over the full picture"
        extra = {"local": local, "global": overall, "shallow_attention": near}
        why = {"best of its window": local, "best of the picture": overall}
        return Decision(keep, features, merged_into, far, summary=summary, extra=extra, why=why)


def in_turns(attention: torch.Tensor, window: torch.Tensor, count: int) -> torch.Tensor:
    """Return `count` tokens, the best of every window in turn; the last turn takes the best next tokens of windows.

    Args:
        attention: `[tokens]`. window: `[tokens]` number of each token's window.
    """
    order = best(attention, len(attention))
    return order[torch.sort(rank_within(window, attention)[order], stable=True).indices][:count]


def small_windows(context: PruneContext) -> torch.Tensor:
    """Return the window of `WINDOW_SIDE` x `WINDOW_SIDE` tokens of every token in its own picture, `[tokens]`."""
    picture = torch.zeros_like(context.ids) if context.pictures is None else context.pictures
    window = torch.zeros_like(context.ids)
    for number in picture.unique():
        mine = picture == number
        positions = context.positions[mine]
        rows, cols = (len(positions[:, axis].unique()) for axis in (0, 1))
        place = (positions * torch.tensor([rows, cols], device=positions.device)).round().long()
        window[mine] = window_of(place, rows, cols, WINDOW_SIDE)
    return window


def window_of(place: torch.Tensor, rows: int, cols: int, side: int) -> torch.Tensor:
    """Return the window of every token at row and column `place` `[tokens, 2]`; the last one takes remaining lines."""
    down, right = (max(1, length // side) for length in (rows, cols))
    row, col = (place // side).unbind(1)
    return row.clamp(max=down - 1) * right + col.clamp(max=right - 1)


def capped(attention: torch.Tensor, window: torch.Tensor, count: int) -> torch.Tensor:
    """Return `count` tokens by attention, from each window at most an equal share, rounded up (more where small windows
    leave too few).
    """
    cap = -(-count // (int(window.max()) + 1))
    order = best(attention, len(attention))
    over = rank_within(window, attention)[order] >= cap
    return order[torch.sort(over.long(), stable=True).indices][:count]


def global_picks(attention: torch.Tensor, local: torch.Tensor, count: int) -> torch.Tensor:
    """Return the `count` best tokens that are not among the local ones."""
    left = attention.clone()
    left[local] = -torch.inf
    return best(left, count)


def merge_rest(features: torch.Tensor, keep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Average every other token into the most similar kept one.

    Returns:
        The kept tokens' new rows `[k, dim]`, and for every token the kept one it was merged into, -1 for kept ones.
    """
    rest = torch.ones(len(features), dtype=torch.bool, device=keep.device)
    rest[keep] = False
    group = torch.empty(len(features), dtype=torch.long, device=keep.device)
    group[keep] = torch.arange(len(keep), device=keep.device)
    group[rest] = cosine(features[rest], features[keep]).argmax(1)
    merged_into = torch.where(rest, keep[group], -1)
    return group_means(features, group, len(keep)).to(features.dtype), merged_into

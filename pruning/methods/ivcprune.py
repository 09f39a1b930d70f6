"""Keep tokens at positions that anchor the rotary embedding, and those whose values are similar to the question's.

Paper:      Sun et al., "IVC-Prune: Revealing the Implicit Visual Coordinates in LVLMs for Vision Token Pruning", ICLR
            2026, https://arxiv.org/abs/2602.03060; reference code FireRedTeam/IVC-Prune @ 03afd9ce
Stage:      in the language model, once, before layer 16 of 32, scaled to the model's depth; dropped tokens are also
            evicted from the caches of earlier layers after the prefill (`cache`)
Needs:      values of the layer before the cut for the full prompt, and the rotary angles
Symbols:    k -> `layer`; implicit visual coordinates -> the `position_share` of tokens with the largest mean cosine and
            as many with the largest mean sine; semantic seeds -> the `seed_share` most like the question; foreground ->
            the most like seeds and question together, up to keep_ratio
Differs:    on LLaVA the code takes 5 % + 5 % position tokens and 20 % foreground, which overlap (28 % in all); on Qwen
            and InternVL 10 % + 10 %, filled up with foreground to 50 %. Here foreground fills up to keep_ratio.
            Position tokens take at most half of what is kept (ours, for unpublished budgets). The question is the text
            behind the picture without its first two tokens, as coded. The position tokens do not depend on the picture
            at all. `average over layers` is ours
Cost:       value similarities of question and seeds with the full prompt, (text + seeds) x prompt x dim; O(n log n)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from pruning.budget import n_keep as count_kept
from pruning.interface import Decision, ModelInfo, Observation, Part, PruneContext, Signal, Stage
from pruning.methods.base import TokenPruner
from pruning.methods.staged import AFTER_THE_CUT, BudgetOfOneCut, cut_layers, share_after_cut
from pruning.ops.scoring import best
from pruning.parameters import Choice, Param

EVERYWHERE, BEHIND = "all layers", "layers behind the cut"
BEHIND_PICTURE = 2  # tokens between picture and question that the code skips


@dataclass(frozen=True, kw_only=True)
class IVCPrune(TokenPruner):
    key: ClassVar[str] = "ivcprune"
    title: ClassVar[str] = "IVC-Prune"
    paper: ClassVar[str] = "https://arxiv.org/abs/2602.03060"
    idea: ClassVar[str] = "position anchors, and what the question's values match"
    acts: ClassVar[str] = "inside the language model, and in its cache"
    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.LANGUAGE_VALUES, Signal.ROTARY})
    default_positions: ClassVar[str] = "original"
    equivariant: ClassVar[bool] = False  # half of the choice is made by place

    layer: Annotated[
        int,
        Param(
            0, 128, 1, "Layer k", "Tokens are dropped before this layer; 0 scales the published 16 of 32.",
            layer_of=Part.LANGUAGE_MODEL,
        ),
    ] = 0  # fmt: skip
    position_share: Annotated[
        float, Param(0.0, 0.5, 0.01, "Position tokens", "Share of all tokens kept by cosine, and as many by sine.")
    ] = 0.05
    seed_share: Annotated[float, Param(0.01, 0.5, 0.01, "Seeds", "Share of all tokens that start the foreground.")] = (
        0.01
    )
    cache: Annotated[
        str, Choice((EVERYWHERE, BEHIND), "Cache", "Caches from which dropped tokens are evicted during decoding.")
    ] = EVERYWHERE
    budget: BudgetOfOneCut = AFTER_THE_CUT

    def cut(self, info: ModelInfo) -> int:
        """Return the layer before which tokens are dropped."""
        [layer] = cut_layers(self.title, (16,), (self.layer,), info)
        return layer

    def plan(self, info: ModelInfo, n_tokens: int) -> dict[Stage, int]:
        ratio = share_after_cut(self.title, self.budget, self.keep_ratio, self.cut(info), info)
        return {Stage(Part.LANGUAGE_MODEL, self.cut(info)): count_kept(ratio, n_tokens)}

    def observations(self, info: ModelInfo) -> tuple[Observation, ...]:
        layer = self.cut(info)
        return Observation(Signal.LANGUAGE_VALUES, layer - 1), Observation(Signal.ROTARY, layer)

    def select(self, context: PruneContext, n_keep: int) -> Decision:
        value_observation, rotary_observation = self.observations(context.info)
        text = context.prompt
        values = torch.cat(
            [
                text.observations_before[value_observation],
                context.observations[value_observation],
                text.observations[value_observation],
            ],
            -2,
        )
        start = text.observations_before[value_observation].shape[-2]
        seeds, foreground = seeds_and_foreground(values, start, context.n_rows, self.seed_share)
        each = min(round(self.position_share * context.n_rows), n_keep // 4)
        by_cosine, by_sine = anchor_places(context.observations[rotary_observation], each)
        taken = torch.zeros(context.n_rows, dtype=torch.bool, device=foreground.device)
        taken[by_cosine] = taken[by_sine] = True
        n_places = int(taken.sum())
        places = taken.nonzero()[:, 0]
        shows = best(foreground.masked_fill(taken, -1), n_keep - n_places)
        taken[shows] = True
        return Decision(
            taken.nonzero()[:, 0],
            scores=foreground,
            evict=self.cache == EVERYWHERE,
            summary=f"{n_places} by place, {n_keep - n_places} foreground",
            extra={"by_cosine": by_cosine, "by_sine": by_sine, "seeds": seeds},
            why={"by place": places, "foreground": shows},
        )


def anchor_places(rotary: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tokens with the largest mean cosine and mean sine, each ascending, from `[2, tokens, angles]`."""
    cosine, sine = rotary.float().mean(-1)
    return best(cosine, count).sort().values, best(sine, count).sort().values


def seeds_and_foreground(
    values: torch.Tensor, start: int, length: int, seed_share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (ascending seeds, foreground score `[length]`) of the visual tokens.

    Args:
        values: `[heads, prompt, head_dim]` of the full prompt. start, length: where the visual tokens are in it.
    """
    end = start + length
    question = torch.arange(end, values.shape[1], device=values.device)
    question = question[BEHIND_PICTURE:] if len(question) > BEHIND_PICTURE else question
    similar = value_similarity(values, question)[:, start:end]
    seeds = best(similar.mean(0), max(1, round(seed_share * length))).sort().values
    both = torch.cat([similar, value_similarity(values, seeds + start)[:, start:end]])
    return seeds, both.mean(0)


def value_similarity(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return the similarity of some tokens' values to every token's: softmax over the prompt of scaled products, mean
    over the heads, float32 `[rows, prompt]`, without a causal mask.
    """
    values = values.float()
    return (values[:, rows] @ values.mT / values.shape[-1] ** 0.5).softmax(-1).mean(0)

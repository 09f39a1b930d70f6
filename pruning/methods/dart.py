"""Keep the visual tokens that are least similar to a few pivot tokens.

Paper:      Wen et al., "Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More",
            EMNLP 2025, https://arxiv.org/abs/2502.11494; reference code ZichenWen1/DART, read in a fork @ d6a5af6f
Stage:      in the language model, once, during prefill, entering layer `layer`
Needs:      keys of layer `layer` - 1 for picture and text, and its output states under the decoder's last norm
Symbols:    pivots -> `image_pivots`, `text_pivots`: tokens with the largest L1 norm of their key over all heads; K ->
            `layer`; max_num_trunction -> the count that keep_ratio stands for
Differs:    the code keeps the image pivots in addition to the requested count, and rounds the rest down to a multiple
            of the pivots (64 gives 68): `count = as coded`. By default exactly the requested count is kept, the first
            pivots taking one token more where it does not divide. The paper names no order of the pivots, and the code
            visits them as CPython iterates a set of their places (`visit = as coded`); by default image pivots come
            first, then text, by norm. `average over layers` is ours
Cost:       pivots x n x dim for cosines, and one sort a pivot
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from pruning.budget import n_keep as count_kept
from pruning.interface import Decision, ModelInfo, Observation, Part, PruneContext, Signal, Stage
from pruning.methods.base import TokenPruner
from pruning.methods.staged import AFTER_THE_CUT, BudgetOfOneCut, share_after_cut
from pruning.ops.scoring import best, cosine
from pruning.parameters import Choice, Param

EXACT, AS_CODED = "exact", "as coded"
BY_NORM = "by norm, image first"


@dataclass(frozen=True, kw_only=True)
class DART(TokenPruner):
    key: ClassVar[str] = "dart"
    title: ClassVar[str] = "DART"
    paper: ClassVar[str] = "https://arxiv.org/abs/2502.11494"
    idea: ClassVar[str] = "tokens least similar to a few pivots"
    acts: ClassVar[str] = "inside the language model"
    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.LANGUAGE_KEYS, Signal.NORMED_STATES})
    default_positions: ClassVar[str] = "original"

    layer: Annotated[
        int, Param(1, 128, 1, "Layer K", "Tokens are dropped before this layer.", layer_of=Part.LANGUAGE_MODEL)
    ] = 2
    image_pivots: Annotated[int, Param(1, 64, 1, "Image pivots", "Visual tokens to compare with.")] = 4
    text_pivots: Annotated[int, Param(0, 64, 1, "Text pivots", "Tokens of the text to compare with.")] = 4
    count: Annotated[
        str, Choice((EXACT, AS_CODED), "Count", "Exactly as requested, or with the image pivots added, as coded.")
    ] = EXACT
    visit: Annotated[
        str,
        Choice((BY_NORM, AS_CODED), "Order of pivots", "By norm, or in the iteration order of a Python set, as coded."),
    ] = BY_NORM
    budget: BudgetOfOneCut = AFTER_THE_CUT

    def plan(self, info: ModelInfo, n_tokens: int) -> dict[Stage, int]:
        ratio = share_after_cut(self.title, self.budget, self.keep_ratio, self.layer, info)
        count = count_kept(ratio, n_tokens)
        if self.count == AS_CODED:
            pivots = self.image_pivots + self.text_pivots
            count = min(n_tokens, self.image_pivots + count // pivots * pivots)
        return {Stage(Part.LANGUAGE_MODEL, self.layer): count}

    def observations(self, info: ModelInfo) -> tuple[Observation, ...]:
        return Observation(Signal.LANGUAGE_KEYS, self.layer - 1), Observation(Signal.NORMED_STATES, self.layer)

    def select(self, context: PruneContext, n_keep: int) -> Decision:
        keys, states = self.observations(context.info)
        text = context.prompt
        image_pivots = best(l1_norm(context.observations[keys]), min(self.image_pivots, n_keep))
        text_pivots = best(l1_norm(text.observations[keys]), self.text_pivots)
        vectors = torch.cat([context.observations[states][image_pivots], text.observations[states][text_pivots]])
        if self.visit == AS_CODED:
            first = text.first - context.n_rows
            places = (image_pivots + first).tolist() + (text_pivots + text.first).tolist()
            vectors = vectors[[places.index(p) for p in visited_as_coded(places)]]
        similarity = cosine(vectors, context.observations[states])
        keep = least_alike(similarity, image_pivots, share_out(n_keep - len(image_pivots), len(vectors)))
        score = -similarity.max(0).values
        why = {"pivot": image_pivots, "unlike the pivots": keep[~torch.isin(keep, image_pivots)]}
        return Decision(keep, scores=score, extra={"pivots": image_pivots, "text_pivots": text_pivots}, why=why)


def l1_norm(keys: torch.Tensor) -> torch.Tensor:
    """Return the L1 norm of every token's key over all heads, float32 `[tokens]`, from `[heads, tokens, head_dim]`."""
    return keys.float().abs().sum((0, 2))


def visited_as_coded(places: Sequence[int]) -> list[int]:
    """Return the sequence positions of the pivots in the order in which the released code visits them."""
    return list(set(places))


def share_out(count: int, parts: int) -> list[int]:
    """Divide `count` into `parts` that differ by at most one, the larger ones first."""
    each, more = divmod(count, parts)
    return [each + (i < more) for i in range(parts)]


def least_alike(similarity: torch.Tensor, pivots: torch.Tensor, quotas: Sequence[int]) -> torch.Tensor:
    """Return ascending tokens: the pivots, and for each pivot in turn the least similar tokens not taken yet.

    Args:
        similarity: `[visits, tokens]` in the order of the visits. pivots: visual tokens that are kept in any case.
        quotas: how many tokens each visit takes.
    """
    taken = torch.zeros(similarity.shape[1], dtype=torch.bool, device=similarity.device)
    taken[pivots] = True
    for row, quota in zip(similarity, quotas, strict=True):
        taken[best(-row.masked_fill(taken, float("inf")), quota)] = True
    return taken.nonzero()[:, 0]

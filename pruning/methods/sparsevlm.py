"""Keep, at three depths, the tokens most attended to by words relevant to the picture; merge the best of the rest.

Paper:      Zhang et al., "SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference", ICML
            2025, https://arxiv.org/abs/2410.04417; reference code Gumpest/SparseVLMs @ 26a5f488 (1.5, and 2.0 as
            `version`)
Stage:      in the language model, after layers 2, 6 and 15 of 32, scaled to the model's depth; the raters are chosen
            before its first layer
Needs:      text attention of the layers before the cuts; 2.0 also the rotary angles there
Symbols:    text raters -> tokens after the picture whose mean weight in softmax(picture x text) is above the mean;
            budgets 192, 128, 96, 64 of 576 -> keep_ratio 1/3, 2/9, 1/6, 1/9
Differs:    the paper's rank-adaptive count is in no released image code; here as there counts come from a table per
            budget, between whose rows shares are interpolated (inferred). The paper counts for a layer what is kept
            after it, without the recycled tokens, so that its 64 is an average of 82: `average over layers` counts
            every row that a layer processes. A recycled token is the sum of its group as in the paper, the code takes
            the mean (`merge`). The code adds noise to the densities of its clusters; here equal ones go by score. 2.0
            divides by the attention score of vectors of ones; it is raised to at least a hundredth of its largest
            value. If no word is above the mean, all words are raters
Cost:       text x n attention in three layers; (0.3 n)^2 dim for clusters (1.5)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from pruning.errors import SignalMissingError
from pruning.interface import Decision, ModelInfo, Observation, PruneContext, Signal, Stage
from pruning.methods.base import BEFORE_LANGUAGE_MODEL
from pruning.methods.staged import PAPER_TOKENS, StagedPruner, interpolated
from pruning.ops.merging import group_means
from pruning.ops.scoring import best, best_ascending
from pruning.parameters import Choice, Param

FIRST, SECOND = "1.5", "2.0"
SUM, MEAN = "sum", "mean"
COUNTS = {
    FIRST: {192: (300, 200, 110), 128: (303, 110, 36), 96: (238, 48, 26), 64: (66, 30, 17)},
    SECOND: {192: (300, 200, 118), 128: (238, 108, 60), 96: (246, 54, 28), 64: (66, 34, 20)},
}
SHARES = {
    version: {budget / PAPER_TOKENS: tuple(count / PAPER_TOKENS for count in row) for budget, row in table.items()}
    for version, table in COUNTS.items()
}
VOTING_HEADS = 14 / 32  # of the model for which the code of 2.0 uses 14
LEAST_PROFILE = 0.01


@dataclass(frozen=True, kw_only=True)
class SparseVLM(StagedPruner):
    key: ClassVar[str] = "sparsevlm"
    title: ClassVar[str] = "SparseVLM"
    paper: ClassVar[str] = "https://arxiv.org/abs/2410.04417"
    idea: ClassVar[str] = "most attention from words relevant to the picture"
    acts: ClassVar[str] = "three times inside the language model"
    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.TEXT_ATTENTION, Signal.TEXT_EMBEDDING})
    merges: ClassVar[bool] = True
    published_layers: ClassVar[tuple[int, ...]] = (3, 7, 16)  # behind layers 2, 6 and 15

    version: Annotated[
        str,
        Choice((FIRST, SECOND), "Version", "2.0 corrects for distance, averages only a few heads and merges nothing."),
    ] = FIRST
    merge: Annotated[str, Choice((SUM, MEAN), "Merge", "Value of a recycled token in 1.5.")] = SUM
    heads: Annotated[
        int, Param(0, 128, 1, "Voting heads", "Heads averaged in 2.0; 0 scales the published 14 of 32.")
    ] = 0

    def check(self, info: ModelInfo) -> None:
        super().check(info)
        if self.version == SECOND and Signal.ROTARY not in info.signals:
            raise SignalMissingError(f"{self.title} {SECOND}", info.name, Signal.ROTARY.value)

    def shares(self, ratio: float) -> tuple[float, ...]:
        return interpolated(SHARES[self.version], ratio)

    def rows(self, ratio: float, n_tokens: int) -> list[int]:
        found, alive = [], n_tokens
        for kept in super().rows(ratio, n_tokens):
            alive = min(kept, alive) + self._groups(alive - kept)
            found.append(alive)
        return found

    def plan(self, info: ModelInfo, n_tokens: int) -> dict[Stage, int]:
        return {BEFORE_LANGUAGE_MODEL: n_tokens, **super().plan(info, n_tokens)}

    def observations(self, info: ModelInfo) -> tuple[Observation, ...]:
        signals = (Signal.TEXT_ATTENTION, Signal.ROTARY)[: 2 if self.version == SECOND else 1]
        return tuple(Observation(signal, layer - 1) for layer in self.layers(info) for signal in signals)

    def positions_at(self, stage: Stage) -> str:
        return "original" if self.version == SECOND else self.default_positions

    def keep_all(self, context: PruneContext) -> Decision:
        decision = super().keep_all(context)
        if context.stage != BEFORE_LANGUAGE_MODEL:
            return decision
        context.prompt.require_question_behind(self.title)
        raters, weight = text_raters(context.features, context.prompt.states)
        context.memory["raters"] = raters
        words = dict.fromkeys(context.prompt.token_texts[i].strip() for i in raters.tolist())
        decision.summary = f"{len(raters)} of {len(weight)} words rate: {', '.join(w for w in words if w)}"
        decision.extra = {"rater_weight": weight}
        return decision

    def select(self, context: PruneContext, n_keep: int) -> Decision:
        layer = context.stage.layer - 1
        attention = context.observations[Observation(Signal.TEXT_ATTENTION, layer)][:, context.memory["raters"]]
        if self.version == SECOND:
            observation = Observation(Signal.ROTARY, layer)
            profile = distance_profile(context.prompt.observations[observation], context.observations[observation])[
                context.memory["raters"]
            ]
            attention = attention / profile
            attention = attention[voting_heads(attention, self.heads or max(1, round(VOTING_HEADS * len(attention))))]
        score = rater_score(attention)
        n_plain = self._n_plain(context, n_keep)
        kept = best_ascending(score, n_plain)
        if n_plain == n_keep:
            return Decision(kept, scores=score)
        return self._recycle(context, score, kept)

    def _groups(self, n_deleted: int) -> int:
        """Return the number of merged rows for this many deleted tokens; 0 where merging would save nothing."""
        if self.version == SECOND or n_deleted < 2:
            return 0
        return recycled_counts(n_deleted)[1]

    def _n_plain(self, context: PruneContext, n_keep: int) -> int:
        """Return how many of the rows passed on are kept unmerged, according to the plan."""
        info, n_tokens = context.info, context.n_total
        ratio = self.paper_ratio(info, n_tokens)
        number = self.layers(info).index(context.stage.layer)
        return min(n_keep, StagedPruner.rows(self, ratio, n_tokens)[number])

    def _recycle(self, context: PruneContext, score: torch.Tensor, kept: torch.Tensor) -> Decision:
        parts = recycle(context.features, score, kept)
        rows = group_means(parts.features, parts.labels, len(parts.centres))
        if self.merge == SUM:
            rows *= torch.bincount(parts.labels)[:, None]
        in_order = torch.cat([kept, parts.centres])
        keep, place = in_order.sort()
        features = torch.cat([context.features[kept].float(), rows])[place]
        merged_into = torch.full((context.n_rows,), -1, device=kept.device)
        merged_into[parts.recycled] = parts.centres[parts.labels]
        merged_into[parts.centres] = -1
        return Decision(
            keep,
            features,
            merged_into,
            score,
            order=torch.searchsorted(keep, in_order),
            summary=f"{len(kept)} kept, {len(parts.recycled)} recycled into {len(parts.centres)}",
            why={"rated high": kept, "recycled group": parts.centres},
        )


def text_raters(visual: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (text tokens that are raters, ascending; weight of every text token, float32 `[text]`).

    Args:
        visual: `[tokens, dim]`, text: `[text, dim]`, both as input of the first layer.
    """
    weight = (visual.float() @ text.float().T).softmax(1).mean(0)
    raters = (weight > weight.mean()).nonzero()[:, 0]
    return (raters if len(raters) else torch.arange(len(weight), device=weight.device)), weight


def rater_score(attention: torch.Tensor) -> torch.Tensor:
    """Return the mean over heads and raters, float32 `[tokens]`, from `[heads, raters, tokens]`."""
    return attention.float().mean(0).mean(0)


def voting_heads(attention: torch.Tensor, count: int) -> torch.Tensor:
    """Return the `count` heads with the most attention on the picture, ascending, from `[heads, raters, tokens]`."""
    return best_ascending(attention.float().sum((1, 2)), count)


def distance_profile(text: torch.Tensor, visual: torch.Tensor) -> torch.Tensor:
    """Return the score of a query of ones with a key of ones under the rotary embedding, relative to distance 0:
    `[text, tokens]`, at least `LEAST_PROFILE`; from rotary angles `[2, text or tokens, angles]`.
    """
    turned = (text.float() @ visual.float().mT).sum(0) / text.shape[-1]  # cos a cos b + sin a sin b = cos(a - b)
    return turned.clamp(min=LEAST_PROFILE)


def recycled_counts(n_deleted: int) -> tuple[int, int]:
    """Return (number of deleted tokens that are recycled, number of groups they form)."""
    recycled = int(n_deleted * 0.3) + 1
    return recycled, int(recycled / 10) + 1


@dataclass(frozen=True, slots=True)
class Recycled:
    """`recycled` `[n]`: tokens, best score first; `features` `[n, dim]`: theirs; `labels` `[n]`: group of each;
    `centres` `[groups]`: token at whose position a group's row is placed.
    """

    recycled: torch.Tensor
    features: torch.Tensor
    labels: torch.Tensor
    centres: torch.Tensor


def recycle(features: torch.Tensor, score: torch.Tensor, kept: torch.Tensor) -> Recycled:
    """Cluster the best of the tokens that are not kept.

    Args:
        features: `[tokens, dim]`. score: `[tokens]`. kept: tokens passed on unchanged.
    """
    deleted = torch.ones_like(score, dtype=torch.bool)
    deleted[kept] = False
    n_recycled, n_groups = recycled_counts(int(deleted.sum()))
    recycled = best(score.masked_fill(~deleted, float("-inf")), n_recycled)
    mine = features[recycled]
    labels, centres = density_peaks(mine, n_groups)
    return Recycled(recycled, mine, labels, recycled[centres])


def density_peaks(features: torch.Tensor, n_groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (group of every row, centre of every group) by density peaks: a centre is dense and far from denser rows.

    Density is over the `n_groups` nearest rows, itself included; groups are numbered from the best centre on. Densities
    are kept as logarithms, since they underflow for large features; equal densities are ordered by index.

    Args:
        features: `[n, dim]`; n_groups: at most n.
    """
    n, dim = features.shape
    centred = features.float() - features.float().mean(0)  # the same distances, with less to cancel
    distance = torch.cdist(centred, centred, compute_mode="use_mm_for_euclid_dist") / dim**0.5
    distance.fill_diagonal_(0)
    density = -distance.topk(n_groups, largest=False).values.square().mean(1)
    index = torch.arange(n, device=features.device)
    denser = (density[None, :] > density[:, None]) | (
        (density[None, :] == density[:, None]) & (index[None, :] < index[:, None])
    )
    away = distance.masked_fill(~denser, float("inf")).min(1).values.clamp(max=distance.max())
    centres = best(density + away.log(), n_groups)
    labels = distance[:, centres].argmin(1)
    labels[centres] = torch.arange(n_groups, device=features.device)
    return labels, centres

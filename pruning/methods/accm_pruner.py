"""Keep tokens chosen by text similarity, then outliers of [CLS] attention, then an even sample: the pruner of ACCM.

Paper:      "Adaptive Content Compensation" (ACCM), ACM MM 2025, https://arxiv.org/abs/2508.01236; reference code
            ASGO-MM/ACCM @ c0a73f14
Stage:      once, between projector and language model (published: after the vision tower, which keeps the same rows)
Needs:      the [CLS] row over headless keys of the tower's last layer, as in PruMerge; embeddings of the question
Symbols:    k -> kept tokens; t_k -> text picks: 12, 20, 40, 70, 150 for k = 18, 36, 72, 144, 288 of 576
Differs:    the code compares patches and question in CLIP's shared space; LLaVA checkpoints hold no CLIP text tower, so
            projected tokens are compared with the mean of the language model's own embeddings. It picks those that are
            LEAST like the question, because in CLIP's own space the sign is reversed; ours need not be, hence `text`.
            Between the published budgets t_k is interpolated. If text picks and outliers are more than k, the code
            drops by an accident of order; here the outliers with the least attention go. What is missing at the end is
            drawn with the run's seed
Cost:       one attention row, n cosines
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch

from pruning.interface import Decision, ModelInfo, Observation, PruneContext, Signal, Stage
from pruning.methods.base import BEFORE_LANGUAGE_MODEL, TokenPruner
from pruning.methods.prumerge import outliers
from pruning.ops.scoring import best, cosine
from pruning.parameters import Choice

LEAST, MOST = "least like the question", "most like the question"
PUBLISHED = ((1 / 32, 2 / 3), (1 / 16, 5 / 9), (1 / 8, 5 / 9), (1 / 4, 35 / 72), (1 / 2, 25 / 48))
# ^ keep ratio, and the part of the kept tokens that are text picks: 12 of 18, 20 of 36, 40 of 72, 70 of 144, 150 of 288


@dataclass(frozen=True, kw_only=True)
class ACCMPruner(TokenPruner):
    key: ClassVar[str] = "accm_pruner"
    title: ClassVar[str] = "ACCM's pruner"
    paper: ClassVar[str] = "https://arxiv.org/abs/2508.01236"
    idea: ClassVar[str] = "similar to the text, [CLS] outliers, even fill"
    stage: ClassVar[Stage] = BEFORE_LANGUAGE_MODEL
    acts: ClassVar[str] = "before the language model"
    needs: ClassVar[frozenset[Signal]] = frozenset(
        {Signal.VISUAL_TOKENS, Signal.TEXT_EMBEDDING, Signal.CLS_ATTENTION_WIDE}
    )
    equivariant: ClassVar[bool] = False  # the fill lies in raster order
    draws: ClassVar[bool] = True
    defaults: ClassVar[str] = "as coded, without CLIP's text tower"

    text: Annotated[
        str, Choice((LEAST, MOST), "Text picks", "Tokens least like the question, as coded, or most like it.")
    ] = LEAST

    def observations(self, info: ModelInfo) -> tuple[Observation, ...]:
        return (Observation(Signal.CLS_ATTENTION_WIDE, info.tower_layers - 1),)

    def select(self, context: PruneContext, n_keep: int) -> Decision:
        (observation,) = self.observations(context.info)
        attention = context.observations[observation][0].float()
        alike = cosine(context.features, context.prompt.question.float().mean(0, keepdim=True))[:, 0]
        score = alike if self.text == MOST else -alike
        picks = picks_of(score, attention, n_keep, n_text(n_keep, context.n_total))
        drawn = draw(picks.kept, context.n_rows, n_keep, context.generator)
        why = {
            self.text: picks.text, "[CLS] outlier": picks.outliers, "even fill": picks.even, "drawn at random": drawn
        }  # fmt: skip
        summary = ", ".join(f"{len(rows)} {words}" for words, rows in why.items() if len(rows))
        keep = torch.cat([picks.kept, drawn]).sort().values
        return Decision(keep, scores=attention, summary=summary, why=why)


@dataclass(frozen=True, slots=True)
class Picks:
    """Disjoint sets of tokens, each in the order of picking. `n_before_cut`: number of text picks and outliers before
    the outliers were cut to the budget.
    """

    text: torch.Tensor
    outliers: torch.Tensor
    even: torch.Tensor
    n_before_cut: int

    @property
    def kept(self) -> torch.Tensor:
        return torch.cat([self.text, self.outliers, self.even])


def n_text(n_keep: int, n_total: int) -> int:
    """Return the number of text picks at a budget, linear between the published budgets."""
    kept, part = zip(*PUBLISHED, strict=True)
    return round(n_keep * float(np.interp(n_keep / n_total, kept, part)))


def picks_of(score: torch.Tensor, attention: torch.Tensor, n_keep: int, n_by_text: int) -> Picks:
    """Return everything that is kept apart from random fill-ups.

    Args:
        score: `[tokens]`, the highest are the text picks. attention: `[tokens]` of [CLS].
    """
    by_text = best(score, min(n_by_text, n_keep))
    by_cls = best(attention, outliers(attention))
    new = by_cls[~torch.isin(by_cls, by_text)]
    n_before_cut = len(by_text) + len(new)
    new = new[: n_keep - len(by_text)]
    missing = n_keep - len(by_text) - len(new)
    step = -(-len(score) // max(1, missing))
    places = torch.arange(0, len(score), step, device=score.device) if missing else by_text[:0]
    return Picks(by_text, new, places[~torch.isin(places, torch.cat([by_text, new]))], n_before_cut)


def draw(kept: torch.Tensor, n_tokens: int, n_keep: int, generator: torch.Generator) -> torch.Tensor:
    """Return as many of the tokens that are not kept, drawn at random, as are missing of `n_keep`."""
    order = torch.randperm(n_tokens, generator=generator).to(kept.device)
    return order[~torch.isin(order, kept)][: n_keep - len(kept)]

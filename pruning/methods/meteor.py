"""Fuse visual tokens and question by small state space scans; keep what a visual and a native expert score highest.

Paper:      Li et al., "Top-Down Compression: Revisit Efficient Vision Token Projection for Visual Instruction Tuning"
            (LLaVA-Meteor), 2025, https://arxiv.org/abs/2505.11945; no code was published
Stage:      once, between projector and language model
Needs:      visual tokens and embeddings of the question; a scorer trained for this model
Symbols:    local-to-single scan -> windows first, then all tokens in raster order behind the question; S_v and S_n ->
            scores of the visual and the native expert, whose mean decides
Differs:    written from the paper's outline. There the fused tokens replace the projector's; here they are only scored,
            and the model's own tokens are passed on. Inferred: a diagonal state space scanned both ways, six windows a
            side; the native expert compares fused tokens with the question in a space of its own; experts are averaged
Cost:       two scans over n + m rows of width 48
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from pruning.interface import Decision, PruneContext, Signal, Stage
from pruning.methods.base import BEFORE_LANGUAGE_MODEL, TokenPruner
from pruning.ops.scoring import best

WINDOWS = 6  # a side


class Scan(nn.Module):
    """A selective state space with diagonal, real transitions that depend on the input."""

    def __init__(self, width: int, states: int) -> None:
        super().__init__()
        self.pace, self.write, self.read = nn.Linear(width, width), nn.Linear(width, states), nn.Linear(width, states)
        self.fade = nn.Parameter(torch.arange(1.0, states + 1).log().expand(width, states).clone())

    def forward(self, rows: torch.Tensor, fresh: torch.Tensor) -> torch.Tensor:
        """Return the output of the scan at every row, `[batch, n, width]`.

        Args:
            rows: `[batch, n, width]`. fresh: bool `[n]`, True where the state is reset.
        """
        pace = F.softplus(self.pace(rows))
        keep = torch.exp(-pace[..., None] * self.fade.exp()) * ~fresh[:, None, None]
        new = (pace * rows)[..., None] * self.write(rows)[:, :, None]
        state, said = torch.zeros_like(new[:, 0]), []
        for now, read, add in zip(keep.unbind(1), self.read(rows).unbind(1), new.unbind(1), strict=True):
            state = now * state + add
            said.append(torch.einsum("bws,bs->bw", state, read))
        return torch.stack(said, 1)


class BothWays(nn.Module):
    """A residual block of scans in both directions."""

    def __init__(self, width: int, states: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.there, self.back = Scan(width, states), Scan(width, states)
        self.out = nn.Linear(2 * width, width)

    def forward(self, rows: torch.Tensor, fresh: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
        """Return rows shaped as `rows` `[batch, n, width]`; the state is reset where `fresh` `[n]` is True, and rows
        where `real` `[batch, n]` is False are zeroed.
        """
        normed, ends = self.norm(rows), fresh.roll(-1)
        if real is not None:
            normed = normed * real[..., None]
        back = self.back(normed.flip(1), ends.flip(0)).flip(1)
        return rows + self.out(torch.cat([self.there(normed, fresh), back], -1))


class TopDownScorer(nn.Module):
    """A module with two experts that score every visual token, given a question.

    Args:
        dim: width of the language model. width, states: of the scans.
    """

    def __init__(self, dim: int, width: int = 48, states: int = 8) -> None:
        super().__init__()
        self.visual = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, width))
        self.text = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, width))
        self.local, self.single = BothWays(width, states), BothWays(width, states)
        self.norm = nn.LayerNorm(width)
        self.expert, self.native = nn.Linear(width, 1), nn.Linear(width, width)

    def forward(
        self, visual: torch.Tensor, text: torch.Tensor, window: torch.Tensor, real: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return logits `[batch, 2, n]` of the visual and the native expert.

        Args:
            visual: `[batch, n, dim]` projected tokens, in raster order. text: `[batch, m, dim]` of the question.
            window: `[n]` window of each token.
            real: bool `[batch, m]`, False at padding rows of `text`, which come first.
        """
        real = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device) if real is None else real
        rows, words = self.visual(visual), self.text(text)
        order = window.argsort(stable=True)
        starts = torch.cat([window.new_ones(1), window[order].diff()]) != 0
        rows = self.local(rows[:, order], starts)[:, order.argsort()]
        everything = torch.cat([words, rows], 1)
        begins = torch.zeros(everything.shape[1], dtype=torch.bool, device=rows.device)
        begins[0] = True
        read = torch.cat([real, real.new_ones(rows.shape[:2])], 1)
        fused = self.norm(self.single(everything, begins, read)[:, words.shape[1] :])
        by_native = (words * real[..., None]).sum(1, keepdim=True) / real.sum(1)[:, None, None]
        native = (self.native(fused) * by_native).sum(-1)
        return torch.stack([self.expert(fused)[..., 0], native], 1)


@dataclass(frozen=True, kw_only=True)
class Meteor(TokenPruner):
    key: ClassVar[str] = "meteor"
    title: ClassVar[str] = "LLaVA-Meteor's scorer"
    paper: ClassVar[str] = "https://arxiv.org/abs/2505.11945"
    idea: ClassVar[str] = "two trained experts score the fused features"
    stage: ClassVar[Stage] = BEFORE_LANGUAGE_MODEL
    acts: ClassVar[str] = "before the language model"
    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.VISUAL_TOKENS, Signal.TEXT_EMBEDDING})
    equivariant: ClassVar[bool] = False  # scans are in raster order
    nested: ClassVar[bool] = True
    module: ClassVar[type[nn.Module]] = TopDownScorer
    defaults: ClassVar[str] = "as outlined, scorer trained for this model"

    @torch.inference_mode()
    def select(self, context: PruneContext, n_keep: int) -> Decision:
        scorer = self.trained(context.info).to(context.features.device)
        window = context.by_picture(windows(context.positions))
        logits = scorer(context.features.float()[None], context.prompt.question.float()[None], window)[0]
        score = logits.mean(0).sigmoid()
        keep = best(score, n_keep).sort().values
        by_vision, by_native = logits[0, keep] >= logits[1, keep], logits[0, keep] < logits[1, keep]
        why = {"visual expert": keep[by_vision], "native expert": keep[by_native]}
        extra = {"visual_expert": logits[0], "native_expert": logits[1]}
        return Decision(
            keep, scores=score, summary=f"{int(by_native.sum())} by the native expert", extra=extra, why=why
        )


def windows(positions: torch.Tensor) -> torch.Tensor:
    """Return the window of each position, `[n]`; `positions` `[n, 2]` are row and column in [0, 1)."""
    row, column = (positions * WINDOWS).long().clamp(max=WINDOWS - 1).unbind(1)
    return row * WINDOWS + column

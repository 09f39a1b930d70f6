"""Keep the tokens that a small trained classifier of visual tokens and question scores highest.

Paper:      Tang et al., "CoViPAL: Layer-wise Contextualized Visual Token Pruning for Large Vision-Language Models",
            Findings of EMNLP 2025, https://arxiv.org/abs/2508.17243; code tyxqc/CoViPAL
Stage:      once, between projector and language model
Needs:      visual tokens and embeddings of the question; a classifier trained for this model
Symbols:    p(H_v, H_t) -> keep probability of every visual token; the top r n_v are kept
Differs:    the classifier is ours, trained for the bundled model with the paper's two stages; its shape is inferred:
            one layer of attention over projected tokens and question together, 64 wide. The paper can also prune at
            several layers; here it prunes once
Cost:       one attention layer of width 64 over n + m rows
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from pruning.interface import PruneContext, Signal, Stage
from pruning.methods.base import BEFORE_LANGUAGE_MODEL, ScoredPruner


class KeepClassifier(nn.Module):
    """Keep logits of visual tokens, given a question.

    Args:
        dim: width of the language model. width, heads: of the one layer of joint attention.
    """

    def __init__(self, dim: int, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.visual = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, width))
        self.text = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, width))
        self.mix = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.keep = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1))

    def forward(self, visual: torch.Tensor, text: torch.Tensor, is_pad: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits `[batch, n]`.

        Args:
            visual: `[batch, n, dim]` projected tokens. text: `[batch, m, dim]` embeddings of the question.
            is_pad: bool `[batch, m]`, True at padding rows of `text`.
        """
        rows = torch.cat([self.visual(visual), self.text(text)], 1)
        mask = None
        if is_pad is not None:
            mask = torch.cat([is_pad.new_zeros(visual.shape[:2]), is_pad], 1)
        return self.keep(self.mix(rows, src_key_padding_mask=mask)[:, : visual.shape[1]]).squeeze(-1)


@dataclass(frozen=True, kw_only=True)
class CoViPAL(ScoredPruner):
    key: ClassVar[str] = "covipal"
    title: ClassVar[str] = "CoViPAL"
    paper: ClassVar[str] = "https://arxiv.org/abs/2508.17243"
    idea: ClassVar[str] = "what a trained classifier says, given the question"
    stage: ClassVar[Stage] = BEFORE_LANGUAGE_MODEL
    acts: ClassVar[str] = "before the language model"
    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.VISUAL_TOKENS, Signal.TEXT_EMBEDDING})
    nested: ClassVar[bool] = True
    module: ClassVar[type[nn.Module]] = KeepClassifier
    defaults: ClassVar[str] = "classifier trained for this model"

    @torch.inference_mode()
    def score(self, context: PruneContext) -> torch.Tensor:
        classifier = self.trained(context.info).to(context.features.device)
        question = context.prompt.question.float()
        return classifier(context.features.float()[None], question[None])[0].sigmoid()

    def summary(self, score: torch.Tensor) -> str:
        return f"{score.sum():.0f} tokens expected to matter"

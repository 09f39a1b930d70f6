"""Keep the heads whose output has many directions or would be missed: effective rank and spectral distance.

Paper:      Xu, Zhang, Li, Guo, Zhu, Huang: InfoPrune, 2025, arXiv 2511.19518; no code found
Needs:      outputs of every head on calibration pictures (or its attention maps, or nothing for OV weights)
Symbols:    eRank -> `erank` (over its largest value); KS -> `ks`; a in `a * eRank/d_h + (1 - a) * KS` -> `a`
Differs:    only the abstract and short summaries were at hand. Effective rank, Kolmogorov-Smirnov distance and the
            information-bottleneck view are the paper's; which matrix they are taken of, how they are put together and
            every default here are inferred. The paper's own head pruning is trained: see `pruning.engine.train_gates`
Cost:       one eigendecomposition of `[q_dim, q_dim]` per head and one of `[d_h, d_h]`
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from pruning.interface import BlockFacts
from pruning.ops.spectra import effective_rank, ks_mass, ks_two_sample, shares, singular_values
from pruning.parameters import Choice, Param
from pruning.structural.base import HeadScorer, HeadScores, Statistic

HEAD_OUTPUT, ATTENTION_MAP, OV_WEIGHT = "head output", "attention map", "OV weight"
MASS, TWO_SAMPLE = "mass", "two-sample"


@dataclass(frozen=True, kw_only=True)
class InfoPrune(HeadScorer):
    """`a * eRank_h / d_h + (1 - a) * KS_h`, KS_h between the spectrum of all heads' outputs with and without head h."""

    key: ClassVar[str] = "infoprune"
    title: ClassVar[str] = "InfoPrune, static score"
    paper: ClassVar[str] = "https://arxiv.org/abs/2511.19518"
    idea: ClassVar[str] = "effective rank, and what removal does to the spectrum"

    matrix: Annotated[
        str,
        Choice(
            (HEAD_OUTPUT, ATTENTION_MAP, OV_WEIGHT),
            "Matrix",
            "What effective rank is taken of; the paper's choice could not be seen. OV weight needs no pictures.",
        ),
    ] = HEAD_OUTPUT
    ks: Annotated[
        str,
        Choice((MASS, TWO_SAMPLE), "Distance", "Which cumulative curves are compared; inferred."),
    ] = MASS
    a: Annotated[float, Param(0.0, 1.0, 0.05, "a", "Weight of effective rank beside the distance; inferred.")] = 0.5

    @property
    def needs(self) -> frozenset[Statistic]:
        if self.matrix == OV_WEIGHT:
            return frozenset()
        maps = {Statistic.ATTENTION_MAPS} if self.matrix == ATTENTION_MAP else set()
        return frozenset({Statistic.HEAD_OUTPUTS} | maps)

    def score(self, block: BlockFacts, generator: torch.Generator) -> HeadScores:
        del generator
        gram = white_output_gram(block) if self.matrix == OV_WEIGHT else block.output_gram
        spectra, largest = self._spectra(block, gram)
        erank = effective_rank(spectra) / largest
        full = singular_values(gram)
        without = torch.stack([singular_values(_leave_out(gram, h, block.width)) for h in range(block.n_heads)])
        if self.ks == MASS:
            ks = ks_mass(without, full.expand_as(without))
        else:
            n = gram.shape[0] - block.width  # columns that are really there
            ks = torch.stack([ks_two_sample(shares(w[:n]), shares(full)) for w in without])
        silent = spectra.amax(-1) <= 0
        ks = torch.where(silent, 0.0, ks)
        score = self.a * erank + (1 - self.a) * ks
        return HeadScores(score, erank, ks, shares(spectra), shares(full), shares(without))

    def _spectra(self, block: BlockFacts, gram: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Singular values of every head's matrix, and the largest effective rank they could have."""
        if self.matrix == ATTENTION_MAP:
            return block.attention, block.attention.shape[-1]
        if self.matrix == OV_WEIGHT:
            return ov_singular_values(block), block.head_dim
        w = block.width
        return torch.stack([singular_values(gram[i : i + w, i : i + w]) for i in range(0, len(gram), w)]), w


def _leave_out(gram: torch.Tensor, head: int, width: int) -> torch.Tensor:
    """The Gram matrix with one head's output at zero."""
    left = gram.clone()
    left[head * width : (head + 1) * width] = 0
    left[:, head * width : (head + 1) * width] = 0
    return left


def ov_singular_values(block: BlockFacts) -> torch.Tensor:
    """Singular values of `W_V^h [W_O of its query heads]`, float64 `[heads, d_h]`, through two small QR factors."""
    found = []
    d, w = block.head_dim, block.width
    for h in range(block.n_heads):
        value = block.value[h * d : (h + 1) * d].double()  # [d_h, dim]
        out = block.out[:, h * w : (h + 1) * w].double()  # [dim, queries * d_h]
        stacked = torch.cat(out.split(d, 1), 0)  # [queries * dim, d_h]: the same directions, queries below each other
        factors = torch.linalg.qr(value.T).R, torch.linalg.qr(stacked).R
        found.append(torch.linalg.svdvals(factors[0] @ factors[1].T))
    return torch.stack(found)


def white_output_gram(block: BlockFacts) -> torch.Tensor:
    """Gram matrix of the head outputs if every token attended to itself and inputs were white: `W_V^T W_V`, with the
    values of a group once for each of its query heads. Float64 `[q_dim, q_dim]`; stands in where nothing was run.
    """
    queries = block.width // block.head_dim
    values = block.value.double().unflatten(0, (block.n_heads, block.head_dim))
    values = values.repeat_interleave(queries, 0).flatten(0, 1)
    return values @ values.T

"""The contract of a head score: a frozen dataclass of options, a few facts, and one function of a layer's `BlockFacts`.

A score knows no model and runs none; what it must be shown is in `needs`. It judges every head of one layer; ranking
heads of all layers against each other and keeping at least one in each is `choose_heads`, the same for all scores.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

import torch

from pruning.budget import rounded
from pruning.errors import PlanError
from pruning.interface import BlockFacts
from pruning.parameters import Declared


class Statistic(StrEnum):
    """What calibration pictures must be run for."""

    HEAD_OUTPUTS = "head outputs"
    ATTENTION_MAPS = "attention maps"
    FFN_INPUTS = "feed-forward inputs"


@dataclass(slots=True)
class HeadScores:
    """Scores of one layer's heads `[heads]`, higher means keep, and what they rest on (None where not looked at).

    Attributes:
        erank: effective rank over its largest possible value, 0 .. 1; ks: distance caused by taking the head out.
        spectra: `[heads, n]` singular values of each head as shares; full: `[m]` those of all heads together;
            without: `[heads, m]` those of all heads but one.
    """

    score: torch.Tensor
    erank: torch.Tensor | None = None
    ks: torch.Tensor | None = None
    spectra: torch.Tensor | None = None
    full: torch.Tensor | None = None
    without: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class HeadScorer(Declared, ABC):
    """Base of every head score. Subclasses are frozen dataclasses whose `Annotated` fields are their options."""

    key: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    idea: ClassVar[str]
    settable: ClassVar[str] = "option"

    def __post_init__(self) -> None:
        self.check_values()

    @classmethod
    def from_parameters(cls, parameters: dict[str, Any]) -> HeadScorer:
        """Build a score from a request.

        Raises:
            ParameterError: if a name is not one of the options or a value is out of range.
        """
        cls.check_names(parameters)
        return cls(**parameters)

    @property
    def needs(self) -> frozenset[Statistic]:
        """What calibration pictures must be run for; empty for a score that looks at weights only."""
        return frozenset()

    @abstractmethod
    def score(self, block: BlockFacts, generator: torch.Generator) -> HeadScores:
        """Judge the heads of one layer. Pure; no randomness but `generator`."""


def n_heads_kept(share: float, total: int, layers: int) -> int:
    """Heads that stay of `total` in `layers` layers: the nearest whole number, at least one a layer."""
    return min(total, rounded(share, total, layers))


def choose_heads(scores: Sequence[torch.Tensor], n_keep: int) -> list[torch.Tensor]:
    """The heads that stay in every layer, ascending, `n_keep` in all: the lowest scores go first, whatever the layer,
    but the best head of a layer always stays. Of equal scores the lower layer, then the lower head goes first.

    Raises:
        PlanError: if that would leave a layer without a head.
    """
    if n_keep < len(scores):
        raise PlanError(
            f"{n_keep} heads were asked for in {len(scores)} layers; every layer needs at least one.",
            "Keep more heads.",
        )
    flat = torch.cat([s.double() for s in scores])
    left = [len(s) for s in scores]
    layer_of = [layer for layer, s in enumerate(scores) for _ in range(len(s))]
    stays = torch.ones(len(flat), dtype=torch.bool)
    to_go = len(flat) - n_keep
    for index in torch.sort(flat, stable=True).indices.tolist():
        if not to_go:
            break
        if left[layer_of[index]] > 1:
            stays[index] = False
            left[layer_of[index]] -= 1
            to_go -= 1
    return [part.nonzero()[:, 0] for part in stays.split([len(s) for s in scores])]

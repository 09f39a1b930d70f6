"""What methods have in common that cut inside the language model, at one layer or at three."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pruning.interface import ModelInfo, Part, Stage
from pruning.methods.base import TokenPruner
from pruning.methods.schedule import AFTER_THE_CUT, AS_COUNTED, AVERAGE, cut_layers, ratio_for_average
from pruning.parameters import Choice, Param

_CUT = "Tokens leave before this layer; 0 scales the published one to the model's depth."

BudgetOfOneCut = Annotated[str, Choice((AFTER_THE_CUT, AVERAGE), "Share kept means", "What the keep ratio counts.")]


def share_after_cut(title: str, budget: str, keep_ratio: float, layer: int, info: ModelInfo) -> float:
    """Share of all tokens that a single cut before `layer` leaves, where `budget` says what the keep ratio counts.

    Raises:
        BudgetError: if no share has that average.
    """
    if budget != AVERAGE or keep_ratio == 1:
        return keep_ratio
    return ratio_for_average(title, lambda x: (x,), (layer,), info, keep_ratio)


@dataclass(frozen=True, kw_only=True)
class StagedPruner(TokenPruner):
    """A method that drops tokens at several layers of the language model.

    Class facts:
        published_layers: the cuts, each before that layer of `PAPER_DEPTH`.
    """

    published_layers: ClassVar[tuple[int, ...]]

    first_layer: Annotated[int, Param(0, 128, 1, "First cut", _CUT, layer_of=Part.LANGUAGE_MODEL)] = 0
    second_layer: Annotated[int, Param(0, 128, 1, "Second cut", _CUT, layer_of=Part.LANGUAGE_MODEL)] = 0
    third_layer: Annotated[int, Param(0, 128, 1, "Third cut", _CUT, layer_of=Part.LANGUAGE_MODEL)] = 0
    budget: Annotated[
        str, Choice((AS_COUNTED, AVERAGE), "Share kept means", "What the keep ratio counts; papers differ.")
    ] = AS_COUNTED

    @abstractmethod
    def shares(self, ratio: float) -> tuple[float, ...]:
        """Shares of all tokens that are left after each cut where the paper's budget is `ratio` (0 .. 1)."""

    def layers(self, info: ModelInfo) -> tuple[int, ...]:
        """Layers of the cuts.

        Raises:
            ParameterError, BudgetError: as `cut_layers`.
        """
        return cut_layers(
            self.title, self.published_layers, (self.first_layer, self.second_layer, self.third_layer), info
        )

    def rows(self, ratio: float, n_tokens: int) -> list[int]:
        """Rows that go on after each cut where the paper's budget is `ratio`."""
        return [max(1, math.floor(share * n_tokens + 0.5)) for share in self.shares(ratio)]

    def paper_ratio(self, info: ModelInfo, n_tokens: int) -> float:
        """The paper's budget that the keep ratio asks for.

        Raises:
            BudgetError: if no budget has that average.
        """
        if self.budget != AVERAGE or self.keep_ratio == 1:
            return self.keep_ratio
        return ratio_for_average(
            self.title, lambda x: [r / n_tokens for r in self.rows(x, n_tokens)], self.layers(info), info,
            self.keep_ratio,
        )  # fmt: skip

    def plan(self, info: ModelInfo, n_tokens: int) -> dict[Stage, int]:
        rows = self.rows(self.paper_ratio(info, n_tokens), n_tokens)
        stages = (Stage(Part.LANGUAGE_MODEL, layer) for layer in self.layers(info))
        return dict(zip(stages, rows, strict=True))

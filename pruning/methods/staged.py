"""Published schedules of methods that cut inside the language model: their layers scaled to a model's depth, the shares
they keep after each cut, and what the keep ratio counts (the tokens after a cut, or the mean over the layers).

Papers count layers of a model of `PAPER_DEPTH` layers and tokens of a picture of `PAPER_TOKENS`; `cut_layers` scales
the layers, `interpolated` fills in shares between published budgets, and `ratio_for_average` solves a schedule for the
ratio whose mean per layer is the one requested.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar

from pruning.budget import rounded
from pruning.errors import BudgetError, ParameterError
from pruning.interface import ModelInfo, Part, Stage
from pruning.methods.base import TokenPruner
from pruning.parameters import Choice, Param

AS_COUNTED, AVERAGE = "as the paper counts", "average over layers"
AFTER_THE_CUT, AFTER_THE_LAST = "after the cut", "after the last cut"
_CUT = "Tokens are dropped before this layer; 0 scales the published one to the model's depth."
BudgetOfOneCut = Annotated[
    str, Choice((AFTER_THE_CUT, AVERAGE), "Keep ratio counts", "Tokens after the cut, or the mean per layer.")
]
PAPER_DEPTH = 32  # layers of the 7 B models that the papers count on
PAPER_TOKENS = 24 * 24  # of one picture there


def share_after_cut(title: str, budget: str, keep_ratio: float, layer: int, info: ModelInfo) -> float:
    """Return the share of all tokens to keep at a single cut before `layer`; `budget` says what the keep ratio counts.

    Raises:
        BudgetError: if no share has that average.
    """
    if budget != AVERAGE or keep_ratio == 1:
        return keep_ratio
    return ratio_for_average(title, lambda x: (x,), (layer,), info, keep_ratio)


@dataclass(frozen=True, kw_only=True)
class StagedPruner(TokenPruner):
    """Base of methods that drop tokens at three layers of the language model.

    Class facts:
        published_layers: layers before which the paper cuts, of `PAPER_DEPTH`.
    """

    published_layers: ClassVar[tuple[int, ...]]

    first_layer: Annotated[int, Param(0, 128, 1, "First cut", _CUT, layer_of=Part.LANGUAGE_MODEL)] = 0
    second_layer: Annotated[int, Param(0, 128, 1, "Second cut", _CUT, layer_of=Part.LANGUAGE_MODEL)] = 0
    third_layer: Annotated[int, Param(0, 128, 1, "Third cut", _CUT, layer_of=Part.LANGUAGE_MODEL)] = 0
    budget: Annotated[
        str, Choice((AS_COUNTED, AVERAGE), "Keep ratio counts", "As the paper, or the mean per layer; papers differ.")
    ] = AS_COUNTED

    @abstractmethod
    def shares(self, ratio: float) -> tuple[float, ...]:
        """Return the share of all tokens kept after each cut where the paper's budget is `ratio` (0 .. 1)."""

    def layers(self, info: ModelInfo) -> tuple[int, ...]:
        """Return the layers before which this model is cut.

        Raises:
            ParameterError, BudgetError: as `cut_layers`.
        """
        return cut_layers(
            self.title, self.published_layers, (self.first_layer, self.second_layer, self.third_layer), info
        )

    def rows(self, ratio: float, n_tokens: int) -> list[int]:
        """Return the number of rows passed on after each cut where the paper's budget is `ratio`."""
        return [rounded(share, n_tokens) for share in self.shares(ratio)]

    def paper_ratio(self, info: ModelInfo, n_tokens: int) -> float:
        """Return the paper's budget that the keep ratio stands for.

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


def cut_layers(title: str, published: Sequence[int], chosen: Sequence[int], info: ModelInfo) -> tuple[int, ...]:
    """Return the layers before which tokens are dropped: those chosen, and for every 0 the published one scaled to the
    model's depth, moved where two would coincide.

    Raises:
        BudgetError: if the model has fewer layers than cuts.
        ParameterError: if chosen layers are out of order.
    """
    depth, count = info.text_layers, len(published)
    if depth <= count:
        raise BudgetError(
            f"{title} cuts before {count} layers behind the first; {info.name} has {depth} in all.",
            "Choose a method with fewer cuts.",
        )
    found: list[int] = []
    for number, (layer, own) in enumerate(zip(published, chosen, strict=True)):
        earliest, latest = (found[-1] if found else 0) + 1, depth - (count - number)
        found.append(own or max(earliest, min(latest, round(layer * depth / PAPER_DEPTH))))
    if any(b <= a for a, b in pairwise(found)) or found[-1] >= depth:
        raise ParameterError(
            f"{title}'s cuts are before layers {', '.join(map(str, found))}; they must ascend and be below {depth}.",
            "Set all of them to 0 to scale the published ones.",
        )
    return tuple(found)


def interpolated(table: Mapping[float, Sequence[float]], ratio: float) -> tuple[float, ...]:
    """Return the shares at a ratio, linear between the rows of `table` (published ratio -> shares); 0 keeps none, 1
    all.
    """
    width = len(next(iter(table.values())))
    points = sorted({0.0: (0.0,) * width, **table, 1.0: (1.0,) * width}.items())
    for (low, a), (high, b) in pairwise(points):
        if ratio <= high:
            t = (ratio - low) / (high - low)
            return tuple(x + t * (y - x) for x, y in zip(a, b, strict=True))
    return tuple(points[-1][1])


def mean_share(shares: Sequence[float], layers: Sequence[int], depth: int) -> float:
    """Return the mean over all layers of the share of tokens they process: 1 before the first of `layers`, then
    `shares`.
    """
    return sum(s * (b - a) for s, (a, b) in zip((1.0, *shares), pairwise((0, *layers, depth)), strict=True)) / depth


def ratio_for_average(
    title: str, shares: Callable[[float], Sequence[float]], layers: Sequence[int], info: ModelInfo, average: float
) -> float:
    """Return the argument of `shares` (0 .. 1, increasing) at which the mean over the layers is `average`.

    Raises:
        BudgetError: if the layers before the first cut alone take more.
    """
    depth = info.text_layers
    if average <= layers[0] / depth:
        raise BudgetError(
            f"{title} sees all tokens before layer {layers[0]} of {depth}, so its average cannot go down to "
            f"{average:.1%}.",
            f"Keep more than {layers[0] / depth:.1%}, lower the layer, or let the share count something else.",
        )
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_share(shares(middle), layers, depth) < average else (low, middle)
    return high

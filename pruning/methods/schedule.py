"""Published schedules of cuts inside the language model, carried over to other depths and other shares.

Papers publish a few operating points on 32 layers: before which layers tokens leave, and how many stay. Layers scale
with the depth of the model; between published points the shares are interpolated. What that means for the true average
over the layers stands in every record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from pruning.errors import BudgetError, ParameterError
from pruning.interface import ModelInfo

PAPER_DEPTH = 32  # layers of the 7 B models that the papers count on
PAPER_TOKENS = 24 * 24  # of one picture there
AS_COUNTED, AVERAGE = "as the paper counts", "average over layers"
AFTER_THE_CUT, AFTER_THE_LAST = "after the cut", "after the last cut"


def cut_layers(title: str, published: Sequence[int], chosen: Sequence[int], info: ModelInfo) -> tuple[int, ...]:
    """Layers before which tokens leave: those chosen, and for every 0 the published one scaled to the model's depth,
    moved where two would meet.

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
    """Shares at a ratio, linear between the rows of `table` (published ratio -> shares), with none kept at 0 and all at
    1.
    """
    width = len(next(iter(table.values())))
    points = sorted({0.0: (0.0,) * width, **table, 1.0: (1.0,) * width}.items())
    for (low, a), (high, b) in pairwise(points):
        if ratio <= high:
            t = (ratio - low) / (high - low)
            return tuple(x + t * (y - x) for x, y in zip(a, b, strict=True))
    return points[-1][1]


def mean_share(shares: Sequence[float], layers: Sequence[int], depth: int) -> float:
    """Mean over the layers of the share of tokens that enter them: all before the first of `layers`, then `shares`."""
    return sum(s * (b - a) for s, (a, b) in zip((1.0, *shares), pairwise((0, *layers, depth)), strict=True)) / depth


def ratio_for_average(
    title: str, shares: Callable[[float], Sequence[float]], layers: Sequence[int], info: ModelInfo, average: float
) -> float:
    """The argument of `shares` (growing with it, 0 .. 1) at which the mean over all layers is `average`.

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

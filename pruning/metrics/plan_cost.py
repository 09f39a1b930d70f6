"""Estimate what a structural plan saves: multiply-adds and parameters, by part and in all.

The part that was compressed and the full model are told apart on purpose: a tower of a third of the work is not a
model of a third of the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pruning.cost import estimate, shape_flops
from pruning.interface import ModelInfo, Part
from pruning.records.plan import StructuralPlan


@dataclass(frozen=True, slots=True)
class PlanCost:
    """Estimated multiply-adds (before, after) of one prefill with the full picture.

    Attributes:
        parts: of the layers that the plan names, by part; full: of tower and language model together.
        visual, text: visual and text tokens that entered the language model; tower: tokens in the first tower layer.
    """

    parts: dict[Part, tuple[int, int]]
    full: tuple[int, int]
    visual: int
    text: int
    tower: int


def plan_cost(
    plan: StructuralPlan, info: ModelInfo, visual: int, text: int, tower_per_layer: Sequence[int]
) -> PlanCost:
    """The estimate for a plan.

    Args:
        info: of the model before anything is taken out.
        tower_per_layer: tokens ([CLS] included) that enter each tower layer.
    """
    parts: dict[Part, tuple[int, int]] = {}
    for layer in plan.layers:
        n = tower_per_layer[layer.layer] if layer.part is Part.TOWER else visual + text
        before, after = parts.get(layer.part, (0, 0))
        parts[layer.part] = before + shape_flops(layer.shape, n), after + shape_flops(layer.compressed, n)
    dense = estimate(info, [visual] * info.text_layers, text, tower_per_layer, 1)
    full = int(dense.prefill_flops + dense.tower_flops)
    saved = sum(before - after for before, after in parts.values())
    return PlanCost(parts, (full, full - saved), visual, text, tower_per_layer[0])


@dataclass(frozen=True, slots=True)
class Point:
    """One plan on the curve.

    Attributes:
        where: the compressed module: `vision tower`, `language model` or `both`.
        family: whose curve it is on. key: of the head score; empty where all heads stay or ranks are cut too.
        label: which point it is ("70 % of the heads").
        heads: (kept, all). accuracy, error: share of right answers and its standard error.
        fewer, faster: how many times fewer multiply-adds (estimated), and less time (measured), the module takes.
    """

    where: str
    family: str
    key: str
    label: str
    heads: tuple[int, int]
    accuracy: float
    error: float
    fewer: float
    faster: float

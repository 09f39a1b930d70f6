"""Paper budgets: the counts that papers publish for a picture, and the tokens per layer that each means for a method.

"64" is not one quantity: a method that prunes before the language model keeps 64 in every layer; one that prunes inside
it processes all tokens in the first layers, and papers count that in different ways. So a budget is given per layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from pruning.budget import mean_per_layer, n_keep
from pruning.errors import BudgetError, PrunerUntrainedError
from pruning.interface import ModelInfo, Part, Stage

if TYPE_CHECKING:
    from pruning.methods.base import TokenPruner

ONE_TILE = 24 * 24  # LLaVA-1.5; LLaVA-NeXT encodes a large picture as five
PUBLISHED = {ONE_TILE: (192, 128, 64), 5 * ONE_TILE: (640, 320, 160)}
RATIOS = (1 / 3, 2 / 9, 1 / 9)  # published where the grid depends on the picture


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a budget means: visual tokens in every layer of the language model, and one sentence.

    Attributes:
        per_layer: empty where the budget cannot be met.
        average: mean of `per_layer`, or None.
    """

    per_layer: tuple[int, ...]
    average: float | None
    text: str


def presets(n_tokens: int) -> tuple[int, ...]:
    """Return the published counts for a picture of `n_tokens` visual tokens, descending; those of the published keep
    ratios where no counts are published for that number.
    """
    return PUBLISHED.get(n_tokens) or tuple(dict.fromkeys(n_keep(ratio, n_tokens) for ratio in RATIOS))


def meaning(method: TokenPruner, info: ModelInfo, n_tokens: int) -> Meaning:
    """Return what a method with its keep ratio will do on a model, without running it."""
    if method.keep_ratio == 1:
        return Meaning((n_tokens,) * info.text_layers, float(n_tokens), "all in every layer")
    try:
        if method.module is not None:
            method.trained(info)
        plan = method.plan(info, n_tokens)
    except (BudgetError, PrunerUntrainedError) as error:
        return Meaning((), None, str(error))
    rows = min([n_tokens, *(count for stage, count in plan.items() if stage.part is not Part.LANGUAGE_MODEL)])
    per_layer = []
    for layer in range(info.text_layers):
        rows = min(rows, plan.get(Stage(Part.LANGUAGE_MODEL, layer), rows))
        per_layer.append(rows)
    average = mean_per_layer(per_layer)
    text = layers_in_words(per_layer)
    if len(set(per_layer)) > 1:
        text = f"average over layers {average:.1f}: {text}"
    if method.own_count:
        text = f"the picture decides how many stay; by the share it would be: {text}"
    return Meaning(tuple(per_layer), average, text)


def layers_in_words(per_layer: Sequence[int]) -> str:
    """Return the counts of the layers as one clause, such as "9 in layers 0-1, 4 in layers 2-7"."""
    spans, first = [], 0
    for count, run in groupby(per_layer):
        last = first + len(list(run)) - 1
        spans.append(f"{count} in layer {first}" if first == last else f"{count} in layers {first}-{last}")
        first = last + 1
    return f"{per_layer[0]} in every layer" if len(spans) == 1 else ", ".join(spans)

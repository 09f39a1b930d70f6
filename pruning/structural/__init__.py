"""The registry of head scores, in display order. A new score is one file and one line here."""

from __future__ import annotations

from pruning.parameters import look_up
from pruning.structural.base import HeadScorer
from pruning.structural.infoprune import InfoPrune
from pruning.structural.magnitude import Magnitude
from pruning.structural.random_heads import RandomHeads

STRUCTURAL: dict[str, type[HeadScorer]] = {s.key: s for s in (InfoPrune, Magnitude, RandomHeads)}


def scorer_class(key: str) -> type[HeadScorer]:
    """The class behind a key.

    Raises:
        UnknownMethodError: naming all keys, the closest first.
    """
    return look_up(STRUCTURAL, key, "head score")

"""The table of head scores, in display order. A new score is one new file and one line here."""

from __future__ import annotations

import difflib

from pruning.errors import UnknownMethodError
from pruning.structural.base import HeadScorer
from pruning.structural.infoprune import InfoPrune
from pruning.structural.magnitude import Magnitude
from pruning.structural.random import RandomHeads

STRUCTURAL: dict[str, type[HeadScorer]] = {s.key: s for s in (InfoPrune, Magnitude, RandomHeads)}


def scorer_class(key: str) -> type[HeadScorer]:
    """The class behind a key.

    Raises:
        UnknownMethodError: naming all keys, the closest first.
    """
    if not isinstance(key, str) or key not in STRUCTURAL:
        close = difflib.get_close_matches(str(key), STRUCTURAL, n=len(STRUCTURAL), cutoff=0.0)
        raise UnknownMethodError(f"There is no head score {key!r}.", f"Known scores: {', '.join(close)}.")
    return STRUCTURAL[key]

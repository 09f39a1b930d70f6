"""Compute what became of every visual token (kept, merged, dropped, gone), one byte each, for canvas, figure and
animation alike.
"""

from __future__ import annotations

import numpy as np

from pruning.records.run import RunRecord
from pruning.records.selection import Selection

GONE, DROPPED, MERGED, KEPT = 0, 1, 2, 3  # GONE: it left at an earlier stage


def fates(selection: Selection) -> np.ndarray:
    """Fate of every token at one stage, uint8 `[tokens]`."""
    fate = np.full(selection.n_total, GONE, np.uint8)
    fate[selection.dropped], fate[selection.merged], fate[selection.kept] = DROPPED, MERGED, KEPT
    return fate


def fates_after(record: RunRecord, stop: int) -> np.ndarray:
    """Fate of every token after the first `stop` stages, uint8 `[tokens]` without `GONE`; all kept at 0.

    A token that was merged into another shares its fate: it is merged while that one lives, and dropped with it.
    """
    place = landing(record, stop)
    itself = np.arange(record.layout.n_tokens)
    return np.where(place == itself, KEPT, np.where(place >= 0, MERGED, DROPPED)).astype(np.uint8)


def landing(record: RunRecord, stop: int) -> np.ndarray:
    """The token in which every token is after the first `stop` stages: itself, the one it was merged into (followed
    to the end), or -1; int `[tokens]`.
    """
    place = np.arange(record.layout.n_tokens)
    for step in record.steps[:stop]:
        s = step.selection
        moved = s.merged_into[place.clip(min=0)]
        place = np.where(place < 0, -1, np.where(np.isin(place, s.kept), place, moved))
    return place


def answer_region_kept(record: RunRecord) -> dict[str, int] | None:
    """How many tokens that hold the answer survive, directly or merged into a survivor; None where it is not known."""
    if record.answer_region is None:
        return None
    fate = fates_after(record, len(record.steps))[record.answer_region]
    return {"kept": int((fate == KEPT).sum()), "merged": int((fate == MERGED).sum()), "of": len(fate)}

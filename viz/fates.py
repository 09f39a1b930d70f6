"""What became of every visual token, one byte each: the same codes for canvas, figure and animation."""

from __future__ import annotations

import numpy as np

from pruning.records import RunRecord, Selection

GONE, DROPPED, MERGED, KEPT = 0, 1, 2, 3  # GONE: it left at an earlier stage


def fates(selection: Selection) -> np.ndarray:
    """Fate of every token at one stage, uint8 `[tokens]`."""
    fate = np.full(selection.n_total, GONE, np.uint8)
    fate[selection.dropped], fate[selection.merged], fate[selection.kept] = DROPPED, MERGED, KEPT
    return fate


def fates_after(record: RunRecord, stop: int) -> np.ndarray:
    """Fate of every token after the first `stop` stages, uint8 `[tokens]` without `GONE`; all kept at 0."""
    fate = np.full(record.layout.n_tokens, KEPT, np.uint8)
    for step in record.steps[:stop]:
        now = fates(step.selection)
        fate = np.where(now == GONE, fate, now)
    return fate

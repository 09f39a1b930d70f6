"""Read files written by earlier versions: rename what format 1 called otherwise, so that readers know one set of names.

Format 2 (December 2026) renamed the times of an answer, the region that holds it, the third answer's columns and the
spectrum of a whole matrix. Nothing else changed; no value is converted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

READABLE = (1, 2)  # the last one is written
_KEYS = {
    "see_ms": "encode_ms",
    "read_ms": "prefill_ms",
    "per_word_ms": "decode_ms_per_token",
    "helped": "compensated",
    "kl_helped": "kl_compensated",
}
_RUN_ARRAYS = {"evidence": "answer_region"}
_PLAN_ARRAY = re.compile(r"^(layer\d+)\.whole$")


def upgrade_run(data: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A run record's parts in the newest format. Those of a version that is not known come back as they are."""
    if data.get("schema_version") != 1:
        return data, dict(arrays)
    data = data | {name: _renamed(data[name]) for name in ("full", "pruned") if name in data}
    compensated = data.get("compensated")
    if isinstance(compensated, dict):
        words = compensated.get("next_words", ())
        data["compensated"] = compensated | {
            "answer": _renamed(compensated.get("answer")),
            "next_words": [_renamed(word) for word in words] if isinstance(words, list) else words,
        }
    return data, {_RUN_ARRAYS.get(name, name): array for name, array in arrays.items()}


def upgrade_plan(data: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A structural plan's arrays in the newest format."""
    if data.get("schema_version") != 1:
        return dict(arrays)
    return {_PLAN_ARRAY.sub(r"\1.full", name): array for name, array in arrays.items()}


def _renamed(entry: Any) -> Any:
    """An answer, or what three runs say at one place, with new names, and its times; what is no dict as it is."""
    if not isinstance(entry, dict):
        return entry
    entry = {_KEYS.get(name, name): value for name, value in entry.items()}
    if isinstance(entry.get("timing"), dict):
        entry["timing"] = {_KEYS.get(name, name): value for name, value in entry["timing"].items()}
    return entry

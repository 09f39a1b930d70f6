"""One answer in a record: its decoded tokens, measured times and estimated cost. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pruning.errors import RecordFormatError

ANSWER_ARRAYS = {"attention": (np.float16, 2), "head_ratios": (np.float32, 2), "nearest": (np.int32, 1)}


def freeze(array: np.ndarray, dtype: type) -> np.ndarray:
    """A copy that nobody can write to."""
    frozen: np.ndarray = np.array(array, dtype=dtype)
    frozen.setflags(write=False)
    return frozen


def demand_amounts(*values: float) -> None:
    """A saved record may come from anywhere; what is shown as an amount must be one."""
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise RecordFormatError(f"A record holds {value!r} where an amount belongs.", "Run it again.")


@dataclass(frozen=True, slots=True)
class Timing:
    """Measured milliseconds of one answer. `see` is tower and projector, `prune` all decisions, `read` the prefill of
    the language model without the decisions, `per_word` one new token (mean).
    """

    encode_ms: float
    prune_ms: float
    prefill_ms: float
    decode_ms_per_token: float | None

    def __post_init__(self) -> None:
        demand_amounts(self.encode_ms, self.prune_ms, self.prefill_ms, self.decode_ms_per_token or 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """One generated answer and what it took.

    Attributes:
        words: decoded new tokens, in order, without the end mark.
        log_probs: natural log-probability of each of them.
        visual_per_layer: rows for the picture in every language-model layer during prefill.
        text_tokens: prompt tokens that are not visual.
        stopped: `end` (the model ended) or `length` (the limit came first).
        attention: float16 `[words, tokens]` or None; what the row that produced each word attends to, mean over the
            heads and over all layers, 0 where a token is not there. A row sums to the share that the picture gets.
        head_ratios: float32 `[words, heads]` or None; the signal of ONLY, see `pruning.ops.decoding_signals`.
        nearest: int32 `[words]` or None; the visual token nearest to each word by the signal of ReVisiT.
    """

    text: str
    words: tuple[str, ...]
    log_probs: tuple[float, ...]
    visual_per_layer: tuple[int, ...]
    text_tokens: int
    stopped: str
    timing: Timing
    attention: np.ndarray | None = None
    head_ratios: np.ndarray | None = None
    nearest: np.ndarray | None = None

    def __post_init__(self) -> None:
        if len(self.words) != len(self.log_probs) or not self.visual_per_layer:
            raise RecordFormatError("An answer needs one log-probability for every word, and a count for every layer.")
        for name, (kind, axes) in ANSWER_ARRAYS.items():
            if getattr(self, name) is not None:
                array = freeze(getattr(self, name), kind)
                object.__setattr__(self, name, array)
                if array.ndim != axes or len(array) != len(self.words):
                    raise RecordFormatError(f"An answer's {name} needs one row for every word.")


@dataclass(frozen=True, slots=True)
class Cost:
    """Estimated from token counts by `pruning.cost`, never measured. Multiply-adds and bytes."""

    prefill_flops: float
    tower_flops: float
    kv_bytes: int
    formula: str

    def __post_init__(self) -> None:
        demand_amounts(self.prefill_flops, self.tower_flops, self.kv_bytes)


def arrays_of(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray | None]:
    """An answer's arrays by field, out of those of a record."""
    return {name: arrays.get(f"{prefix}.{name}") for name in ANSWER_ARRAYS}


def read_answer(data: dict[str, Any], arrays: dict[str, np.ndarray | None]) -> Answer:
    """An answer from its JSON; its arrays come by themselves."""
    lists = ("words", "log_probs", "visual_per_layer")
    plain: dict[str, Any] = {k: tuple(v) if k in lists else v for k, v in data.items() if k != "timing"}
    found: dict[str, Any] = plain | arrays
    return Answer(timing=Timing(**data["timing"]), **found)

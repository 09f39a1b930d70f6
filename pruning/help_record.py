"""What a run was asked to give back in words, and what came of it: plain data, no torch.

Part of a `RunRequest` and of a `RunRecord` (`pruning.records`), which write and read it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pruning.answer_record import Answer, Cost, demand_amounts, read_answer
from pruning.errors import CaptionRejectedError, RecordFormatError

MAX_CAPTION = 2000  # characters
MAX_CANDIDATES = 16


@dataclass(frozen=True, slots=True)
class Compensation:
    """How a run gives back what it discarded.

    Attributes:
        key: one of `pruning.compensation.COMPENSATORS`.
        gate: an extension of ours: insert only if the chosen caption's probability is above this (0 .. 1; 0: always).
        caption: written by hand; then no captioner runs, and the gate does not apply.
        measure_kl: also measure how far each candidate's answer is from the unpruned one (costs a pass for each).
    """

    key: str
    gate: float = 0.0
    caption: str | None = None
    measure_kl: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.gate, bool) or not isinstance(self.gate, int | float) or not 0 <= self.gate < 1:
            raise CaptionRejectedError(
                f"The confidence gate is {self.gate!r}; it must be a number from 0 to below 1.",
                "0 always inserts the caption.",
            )
        if not isinstance(self.measure_kl, bool):
            raise CaptionRejectedError(f"measure_kl is {self.measure_kl!r}; it must be true or false.", "Leave it out.")
        if self.caption is not None and (not isinstance(self.caption, str) or len(self.caption) > MAX_CAPTION):
            raise CaptionRejectedError(
                f"A caption must be text of at most {MAX_CAPTION} characters.", "Write a shorter one."
            )


@dataclass(frozen=True, slots=True)
class CandidateEntry:
    """One candidate caption as the record tells it.

    Attributes:
        log_prob, length: natural log-probability of the caption's tokens (end mark included), and how many; None and 0
            for one written by hand.
        probability: the selector's; 1 for one written by hand.
        kl: KL divergence in nats of the answer with this caption from the unpruned one, mean over the answer's tokens;
            None where it was not measured.
    """

    text: str
    log_prob: float | None
    length: int
    probability: float
    kl: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1 + 1e-4:
            raise RecordFormatError(f"A candidate's probability is {self.probability!r}; it must be from 0 to 1.")
        for value in (self.log_prob, self.kl):
            if value is not None and not math.isfinite(value):
                raise RecordFormatError("A candidate's numbers must be finite.", "Run it again.")


@dataclass(frozen=True, slots=True, eq=False)
class Compensated:
    """The third answer of a run: pruned, with words in place of what was dropped.

    Attributes:
        title: the compensator's. candidates: in the captioner's order, the best beam first; may be none.
        chosen: index of the chosen candidate, or None.
        caption: what was inserted (cleaned); empty where nothing was. inserted: the whole text with its lead.
        span: first and one past the last of the inserted tokens in the prompt (one token per visual token, as the
            unpruned prompt counts them), or None.
        before, behind: the prompt's text around the insertion, without the picture's placeholders.
        n_discarded: visual tokens that the captioner read.
        caption_tokens: tokens that the insertion adds to the prompt.
        captioner_flops, selector_flops: multiply-adds beside the language model's; part of no other figure.
        break_even: visual tokens (in every layer) that would cost as much as caption, captioner and selector together.
        kl_pruned: KL of the pruned answer without caption, as `CandidateEntry.kl`.
        propose_ms: measured time of captioner and selector.
        provenance: plain facts (weights, who chose, why nothing was inserted).
    """

    title: str
    candidates: tuple[CandidateEntry, ...]
    chosen: int | None
    caption: str
    inserted: str
    span: tuple[int, int] | None
    before: str
    behind: str
    n_discarded: int
    caption_tokens: int
    captioner_flops: float
    selector_flops: float
    break_even: float
    propose_ms: float
    answer: Answer
    cost: Cost
    kl_pruned: float | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        demand_amounts(
            self.n_discarded, self.caption_tokens, self.captioner_flops, self.selector_flops, self.break_even,
            self.propose_ms,
        )  # fmt: skip
        if len(self.candidates) > MAX_CANDIDATES:
            raise RecordFormatError(
                f"A record holds {len(self.candidates)} captions; at most {MAX_CANDIDATES} are read."
            )
        if self.chosen is not None and not 0 <= self.chosen < len(self.candidates):
            raise RecordFormatError("The chosen caption is not one of the candidates.")
        length = 0 if self.span is None else self.span[1] - self.span[0]
        if bool(self.caption) != bool(length) or length != self.caption_tokens:
            raise RecordFormatError("The inserted tokens do not fit the caption.", "Run it again.")

    @property
    def total_flops(self) -> float:
        """Multiply-adds of the language model's prefill with the caption, captioner and selector."""
        return self.cost.prefill_flops + self.captioner_flops + self.selector_flops


def read_compensation(data: Compensation | Mapping[str, Any] | None) -> Compensation | None:
    """A request's part from its JSON."""
    return Compensation(**data) if isinstance(data, Mapping) else data


def read_compensated(data: dict[str, Any] | None, arrays: dict[str, np.ndarray | None]) -> Compensated | None:
    """A record's part from its JSON; the answer's arrays come by themselves."""
    if data is None:
        return None
    plain = {k: v for k, v in data.items() if k not in ("answer", "cost", "candidates", "span")}
    return Compensated(
        **plain,
        candidates=tuple(CandidateEntry(**c) for c in data["candidates"]),
        span=None if data["span"] is None else (int(data["span"][0]), int(data["span"][1])),
        answer=read_answer(data["answer"], arrays),
        cost=Cost(**data["cost"]),
    )

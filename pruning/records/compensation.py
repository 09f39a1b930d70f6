"""What a run was asked to compensate with a caption, and what came of it. No torch.

Part of a `RunRequest` and of a `RunRecord` (`pruning.records.run`), which write and read it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pruning.errors import CaptionRejectedError, RecordFormatError
from pruning.records.answer import Answer, Cost, demand_amounts, read_answer

MAX_CAPTION = 2000  # characters
MAX_CANDIDATES = 16
MAX_PLACES = 12  # of an answer, at which probabilities are noted


@dataclass(frozen=True, slots=True)
class Compensation:
    """How a run compensates what it discarded.

    Attributes:
        key: one of `pruning.compensation.COMPENSATORS`.
        gate: an extension of ours: insert only if the chosen caption's probability is above this (0 .. 1; 0: always).
        caption: written by hand; then no captioner runs, and the gate does not apply.
        measure_kl: also measure how far each candidate's answer is from the unpruned one (costs a pass for each), and
            note what the three runs would say at every place of it and how much the caption is looked at.
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


@dataclass(frozen=True, slots=True)
class NextWord:
    """What the three runs would say at one place of the unpruned answer, whose earlier words they are all given.

    Attributes:
        word: the unpruned answer's own token there.
        words: the likeliest tokens of any of the three, the unpruned run's best first.
        full, pruned, compensated: their probabilities (0 .. 1): full picture, pruned, pruned with the caption.
        kl_pruned, kl_compensated: KL divergence in nats of the two from the full picture's, at this place alone.
    """

    word: str
    words: tuple[str, ...]
    full: tuple[float, ...]
    pruned: tuple[float, ...]
    compensated: tuple[float, ...]
    kl_pruned: float
    kl_compensated: float

    def __post_init__(self) -> None:
        demand_amounts(self.kl_pruned, self.kl_compensated)
        for name in ("words", "full", "pruned", "compensated"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            if len(getattr(self, name)) != len(self.words):
                raise RecordFormatError("Every likely word needs three probabilities.", "Run it again.")
        _demand_shares(*self.full, *self.pruned, *self.compensated)


def _demand_shares(*values: float) -> None:
    demand_amounts(*values)
    if any(v > 1 + 1e-3 for v in values):
        raise RecordFormatError("A record holds a share above 1.", "Run it again.")


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
        next_words: at the first places of the unpruned answer, where KL was measured; else empty.
        layer_attention: for every layer what the prompt's last token attends to in the third run, mean over the heads:
            shares (0 .. 1) of the picture, of the caption, of all other text; where KL was measured, else empty.
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
    next_words: tuple[NextWord, ...] = ()
    layer_attention: tuple[tuple[float, float, float], ...] = ()

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
        if len(self.next_words) > MAX_PLACES:
            raise RecordFormatError(f"A record tells of {len(self.next_words)} words; at most {MAX_PLACES} are read.")
        if self.layer_attention and [len(s) for s in self.layer_attention] != [3] * len(self.answer.visual_per_layer):
            raise RecordFormatError("What the caption gets of the attention needs three shares for every layer.")
        _demand_shares(*(share for shares in self.layer_attention for share in shares))
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
    nested = ("answer", "cost", "candidates", "span", "next_words", "layer_attention")
    plain = {k: v for k, v in data.items() if k not in nested}
    return Compensated(
        **plain,
        candidates=tuple(CandidateEntry(**c) for c in data["candidates"]),
        span=None if data["span"] is None else (int(data["span"][0]), int(data["span"][1])),
        answer=read_answer(data["answer"], arrays),
        cost=Cost(**data["cost"]),
        next_words=tuple(NextWord(**w) for w in data.get("next_words", ())),
        layer_attention=tuple(tuple(shares) for shares in data.get("layer_attention", ())),
    )

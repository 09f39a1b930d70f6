"""The contract of a compensator (what it is given of a run, and what it proposes), and the cleaning of captions: line
breaks, role marks, placeholders and control tokens are removed before a caption enters a prompt.

It works behind any token pruner, because all it is told is the run's kept set. It proposes captions and chooses one; it
does not touch the prompt (the runner does) and knows no model but its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    import torch

    from pruning.layout import TokenLayout
import re
import unicodedata
from collections.abc import Iterable

LEAD = "Additional information:"  # [code] of the paper; the bundled model was taught to read it
MAX_CAPTION_CHARACTERS = 2000
_ROLES = re.compile(r"(user|assistant|system|human|gpt)\s*:", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"<\s*/?\s*(image|im_start|im_end|s|unk|pad|bos|eos|video|img)\s*/?\s*>", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Discarded:
    """What a compensator may look at.

    Attributes:
        features: `[discarded, dim]` rows of the tower's output that feeds the projector, of discarded tokens only.
        ids, kept: original token ids, ascending; disjoint, and together every token.
        question: what was asked, without the chat template.
        picture: uint8 `[height, width, 3]`, and where every token lies in it, for captioners that read pixels.
    """

    features: torch.Tensor
    ids: np.ndarray
    kept: np.ndarray
    question: str
    picture: np.ndarray
    layout: TokenLayout

    def __post_init__(self) -> None:
        n = self.layout.n_tokens
        if len(self.features) != len(self.ids) or not np.array_equal(np.union1d(self.ids, self.kept), np.arange(n)):
            raise ValueError(f"discarded and kept ids must cover {n} tokens, with a feature for every discarded one")
        if len(self.ids) + len(self.kept) != n:
            raise ValueError("a token cannot be both kept and discarded")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One caption, already harmless (`wording.clean_caption`); may be empty.

    Attributes:
        log_prob: sum of the natural log-probabilities of its tokens under the captioner, end mark included; None where
            the captioner gives none. `length`: how many tokens that were.
        probability: the selector's, 0 to 1; all candidates of a proposal add up to 1.
    """

    text: str
    log_prob: float | None
    length: int
    probability: float


@dataclass(frozen=True, slots=True)
class Proposal:
    """Candidates in the captioner's order (best beam first), and the one that was chosen.

    Attributes:
        chosen: index into `candidates`; None where there is nothing to say (no candidates).
        captioner_flops, selector_flops: multiply-adds that this took.
        provenance: plain facts for the record (which weights, how the candidates were made and chosen).
    """

    candidates: tuple[Candidate, ...] = ()
    chosen: int | None = None
    captioner_flops: float = 0.0
    selector_flops: float = 0.0
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def caption(self) -> str:
        """The chosen caption, or nothing."""
        return "" if self.chosen is None else self.candidates[self.chosen].text


class Compensator(ABC):
    """Base of every compensator. Class facts: key, title, paper (URL), idea (about eight words), and whether it reads
    the tower's features of discarded tokens (else it reads pixels).

    `source` is the hub id or folder that it was opened from, unless it is the bundled one; for the record.
    """

    key: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    idea: ClassVar[str]
    reads_features: ClassVar[bool] = True
    source: str = ""

    @abstractmethod
    def propose(self, discarded: Discarded) -> Proposal:
        """Captions of what was discarded. Deterministic. Nothing discarded: no candidates."""

    def __call__(self, discarded: Discarded) -> Proposal:
        """Propose and check."""
        if not len(discarded.ids):
            return Proposal(provenance={"why": "nothing was discarded"})
        proposal = self.propose(discarded)
        total = sum(c.probability for c in proposal.candidates)
        if proposal.candidates and (proposal.chosen is None or abs(total - 1) > 1e-4):
            raise AssertionError(f"{self.key} broke its contract: probabilities add up to {total}")
        return proposal


def clean_caption(text: str, control_tokens: Iterable[str] = ()) -> str:
    """A caption as one line without anything that a chat template or a tokenizer reads as a command, and without the
    full stop that `inserted_text` puts behind it. May be empty.
    """
    before = None
    while before != text:  # taking one mark out may join the halves of another
        before = text
        text = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text)
        text = _PLACEHOLDER.sub(" ", text)
        for control in sorted({c for c in control_tokens if c.strip()}, key=len, reverse=True):
            text = text.replace(control, " ")
        text = _ROLES.sub(" ", text)
    return re.sub(r"\s+([,.;])", r"\1", " ".join(text.split())).strip(" .,;:")


def inserted_text(caption: str) -> str:
    """What stands between the picture and the question; nothing at all for an empty caption."""
    return f"{LEAD} {caption}." if caption else ""

"""Statistics of visual tokens and overlaps with other methods, as a record holds them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pruning.errors import RecordFormatError

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class Traits:
    """What only tensors can tell of a picture and a kept set. None: not worked out, or there is no such thing.

    Attributes:
        width: of a visual token as the language model reads it.
        cosine_random: mean cosine to the most similar kept token, of those that are not kept, for random kept sets.
        attention_entropy: nats.
        effective_rank: of all tokens; `effective_rank_kept`: of the kept ones, as they are unpruned;
            `effective_rank_random`: mean over random sets of as many.
    """

    width: int
    cosine_random: float | None = None
    attention_entropy: float | None = None
    effective_rank: float | None = None
    effective_rank_kept: float | None = None
    effective_rank_random: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not (number or (value is None and name != "width")):
                raise RecordFormatError(f"A record holds {value!r:.40} as {name}.", "Run it again.")


@dataclass(frozen=True, slots=True)
class Overlap:
    """Another method at the keep ratio of a run: how many tokens it would keep at the end, and how many of them the run
    keeps too; or, in `refused`, why it cannot be asked.
    """

    method: str
    title: str
    kept: int = 0
    shared: int = 0
    refused: str = ""

    def __post_init__(self) -> None:
        if not all(isinstance(t, str) for t in (self.method, self.title, self.refused)) or not (
            type(self.kept) is int and type(self.shared) is int and 0 <= self.shared <= self.kept
        ):
            raise RecordFormatError(f"A record holds an overlap that cannot be: {self!r:.120}.", "Run it again.")

"""What one stage decided: the fate of every visual token, in original token ids."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pruning.errors import RecordFormatError
from pruning.interface import Part, Stage
from pruning.records.answer import freeze

CLS_SOURCE = -1  # in `Selection.order`: the row is the tower's [CLS] token, which has no pixels
MOST_REASONS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """The fate of every visual token at one stage.

    Attributes:
        n_total: number of visual tokens before any pruning.
        alive: ids that were offered to the method, ascending int32.
        kept: ids that go on, ascending int32, a subset of `alive`.
        merged_into: int32 `[n_total]`; the kept id whose row a token was averaged into, -1 where it was not merged.
        scores: float32 `[n_total]` or None, higher means keep, NaN where no score was given.
        order: int32 ids in the order in which the next layer reads them; `CLS_SOURCE` stands for a [CLS] row.
    """

    n_total: int
    alive: np.ndarray
    kept: np.ndarray
    merged_into: np.ndarray
    scores: np.ndarray | None
    order: np.ndarray

    def __post_init__(self) -> None:
        for name in ("alive", "kept", "merged_into", "order"):
            object.__setattr__(self, name, freeze(getattr(self, name), np.int32))
        if self.scores is not None:
            object.__setattr__(self, "scores", freeze(self.scores, np.float32))
        self._check()

    def _check(self) -> None:
        def demand(condition: bool, sentence: str) -> None:  # noqa: FBT001 (a local, positional by nature)
            if not condition:
                raise RecordFormatError(f"A selection is not consistent: {sentence}.")

        for name in ("alive", "kept"):
            ids = getattr(self, name)
            demand(ids.ndim == 1 and bool((np.diff(ids) > 0).all()), f"{name} must be strictly ascending")
            demand(
                not len(ids) or (ids[0] >= 0 and ids[-1] < self.n_total), f"{name} must lie in 0..{self.n_total - 1}"
            )
        demand(bool(np.isin(self.kept, self.alive).all()), "kept tokens must have been alive")
        demand(self.merged_into.shape == (self.n_total,), f"merged_into must have {self.n_total} entries")
        targets = self.merged_into[self.merged_into >= 0]
        demand(bool(np.isin(targets, self.kept).all()), "tokens can only be merged into kept ones")
        demand(self.scores is None or self.scores.shape == (self.n_total,), f"scores must have {self.n_total} entries")
        demand(np.array_equal(np.sort(self.order[self.order >= 0]), self.kept), "order must name every kept token once")

    @property
    def dropped(self) -> np.ndarray:
        """Ids that were alive, were not kept and were merged into nothing."""
        gone = np.setdiff1d(self.alive, self.kept)
        return gone[self.merged_into[gone] < 0]

    @property
    def merged(self) -> np.ndarray:
        """Ids that left as part of another token's row."""
        gone = np.setdiff1d(self.alive, self.kept)
        return gone[self.merged_into[gone] >= 0]

    @property
    def n_rows(self) -> int:
        """Rows that the next layer reads for the picture ([CLS] included where it is fed)."""
        return len(self.order)


@dataclass(frozen=True, slots=True, eq=False)
class PruningStep:
    """One decision: where, what became of the tokens, how long it took, the method's own arrays, and which of its
    reasons (`why`, words to ids) kept a token, for methods that have several.
    """

    stage: Stage
    selection: Selection
    select_ms: float
    summary: str
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    why: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        named = np.concatenate([np.zeros(0, np.int32), *map(np.asarray, self.why.values())])
        once = len(self.why) <= MOST_REASONS and len(named) == len(np.unique(named))
        if not once or not np.isin(named, self.selection.kept).all():
            raise RecordFormatError("A selection is not consistent: reasons must name kept tokens, each once.")
        object.__setattr__(self, "why", {words: freeze(ids, np.int32) for words, ids in self.why.items()})


def read_step(index: int, data: dict[str, Any], arrays: dict[str, np.ndarray]) -> PruningStep:
    prefix = f"step{index}."
    extra, why = (
        {n.removeprefix(f"{prefix}{kind}."): a for n, a in arrays.items() if n.startswith(f"{prefix}{kind}.")}
        for kind in ("extra", "why")
    )
    selection = Selection(
        n_total=data["n_total"],
        alive=arrays[f"{prefix}alive"],
        kept=arrays[f"{prefix}kept"],
        merged_into=arrays[f"{prefix}merged_into"],
        scores=arrays.get(f"{prefix}scores"),
        order=arrays[f"{prefix}order"],
    )
    stage = Stage(Part(data["stage"]["part"]), data["stage"]["layer"])
    return PruningStep(stage, selection, data["select_ms"], data["summary"], extra, why)

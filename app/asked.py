"""What somebody asks for, as it came from a page, a link or a program: nothing in it is checked yet."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from app.controls import changed_parameters
from pruning.compensation import COMPENSATORS
from pruning.compensation.accm import Accm
from pruning.errors import BudgetError, CaptionRejectedError, ParameterError
from pruning.help_record import Compensation
from pruning.methods import method_class
from pruning.questions import clean_question
from pruning.records import RunRequest


@dataclass(frozen=True, slots=True)
class Asked:
    """A run that is wished for. `count` is the number of pieces to keep; `parameters` are the method's own, by name;
    `compensation` has the fields of `pruning.help_record.Compensation` by name, or is None.
    """

    question: Any
    method: Any
    count: Any
    model: Any
    positions: Any = "method"
    seed: Any = 0
    parameters: Any = field(default_factory=dict)
    compensation: Any = None

    def request(self, n_tokens: int, max_new_tokens: int) -> RunRequest:
        """The request for the engine.

        Args:
            n_tokens: how many pieces a picture has.

        Raises:
            PruningError: with the first thing that is wrong.
        """
        question = clean_question(self.question)
        if not isinstance(self.parameters, dict):
            said = f"The parameters are {self.parameters!r:.80}; they must have names."
            raise ParameterError(said, "Leave them out.")
        seed = self.seed
        return RunRequest(
            model=self.model,
            method=self.method,
            keep_ratio=_keep_ratio(self.count, n_tokens),
            question=question,
            parameters=changed_parameters(method_class(self.method), self.parameters),
            positions=self.positions,
            seed=int(seed) if isinstance(seed, float) and seed.is_integer() else seed,  # a number box gives 3.0
            max_new_tokens=max_new_tokens,
            compensation=_compensation(self.compensation),
        )


def _compensation(wished: Any) -> Compensation | None:
    if wished is None:
        return None
    known = [f.name for f in fields(Compensation)]
    if not isinstance(wished, dict) or not set(wished) <= set(known):
        raise CaptionRejectedError(
            f"The compensation is {wished!r:.80}; it must have names.", f"Known ones: {', '.join(known)}."
        )
    wanted = Compensation(**{"key": Accm.key} | wished)
    if not isinstance(wanted.key, str) or wanted.key not in COMPENSATORS:
        raise CaptionRejectedError(
            f"There is no compensation {wanted.key!r:.60}.", f"Known ones: {', '.join(COMPENSATORS)}."
        )
    return wanted


def _keep_ratio(count: Any, n_tokens: int) -> float:
    if isinstance(count, bool) or not isinstance(count, int | float) or not math.isfinite(count):
        raise BudgetError(f"The number of pieces is {count!r}; it must be a whole number.", f"Try {n_tokens // 9}.")
    if not 1 <= count <= n_tokens:
        allowed = f"{count:g} pieces were asked for; allowed are 1 to {n_tokens}."
        raise BudgetError(allowed, "Move the slider and press Run again.")
    return int(count) / n_tokens

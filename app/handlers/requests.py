"""Requests as they come from the page, a link or a program, before they are checked, and their checks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from pruning.compensation import COMPENSATORS
from pruning.compensation.accm import Accm
from pruning.errors import BudgetError, CaptionRejectedError, ParameterError
from pruning.inputs.questions import MAX_LENGTH, clean_question
from pruning.interface import Part
from pruning.methods import method_class
from pruning.parameters import changed_parameters
from pruning.records.compensation import Compensation
from pruning.records.plan import PlanRequest
from pruning.records.run import MAX_SEED, RunRequest
from pruning.structural import scorer_class
from pruning.structural.random_heads import RandomHeads

BOTH = "both"
PARTS = {
    BOTH: (Part.TOWER.value, Part.LANGUAGE_MODEL.value),
    "vision tower": (Part.TOWER.value,),
    "language model": (Part.LANGUAGE_MODEL.value,),
}
FFN_OPTIONS = {  # the options of each feed-forward rule
    "erank": ("erank_factor", "whitening"),
    "mass": ("tau", "whitening"),
    "budget": ("ffn_flops", "whitening"),
    "bottleneck": ("tau",),
}


@dataclass(frozen=True, slots=True)
class RunForm:
    """A requested run. `count` is the number of visual tokens to keep; `parameters` are the method's own, by name;
    `compensation` has the fields of `pruning.records.compensation.Compensation` by name, or is None; `with_plan` asks
    for the visitor's structural plan.
    """

    question: Any
    method: Any
    count: Any
    model: Any
    positions: Any = "method"
    seed: Any = 0
    parameters: Any = field(default_factory=dict)
    compensation: Any = None
    with_plan: Any = False

    def request(self, n_tokens: int, max_new_tokens: int, longest: int = MAX_LENGTH) -> RunRequest:
        """Return the request for the engine.

        Args:
            n_tokens: visual tokens of one picture. longest: characters that a question may have.

        Raises:
            PruningError: with the first thing that is wrong.
        """
        clean_question(self.question, longest)  # the engine does it again, and notes what it took out
        if not isinstance(self.parameters, dict):
            said = f"The parameters are {self.parameters!r:.80}; they must have names."
            raise ParameterError(said, "Leave them out.")
        seed = self.seed
        return RunRequest(
            model=self.model,
            method=self.method,
            keep_ratio=_keep_ratio(self.count, n_tokens),
            question=self.question,
            parameters=changed_parameters(method_class(self.method), self.parameters),
            positions=self.positions,
            seed=int(seed) if isinstance(seed, float) and seed.is_integer() else seed,  # a number box gives 3.0
            max_new_tokens=max_new_tokens,
            compensation=_compensation(self.compensation),
        )


@dataclass(frozen=True, slots=True)
class PlanForm:
    """A requested structural plan. `out` is the share of heads to remove, in percent; the rest as in
    `PlanRequest`.
    """

    model: Any
    score: Any
    out: Any
    ffn: Any
    where: Any = BOTH
    parameters: Any = field(default_factory=dict)
    erank_factor: Any = 1.0
    tau: Any = 0.1
    ffn_flops: Any = 0.5
    whitening: Any = False
    seed: Any = 0

    def request(self, n_pairs: int) -> PlanRequest:
        """Return the request for the planner, with the options that do not matter for it at their defaults, so that
        equal plans have equal requests.

        Raises:
            PruningError: with the first thing that is wrong.
        """
        out = self.out
        if isinstance(out, bool) or not isinstance(out, int | float) or not 0 <= out < 100:
            said = f"The share of heads to remove is {out!r:.40} %; it must be a number from 0 to below 100."
            raise ParameterError(said, "Move the slider.")
        if self.where not in PARTS:
            raise ParameterError(f"{self.where!r:.40} is no part of the model.", f"Choose one of {', '.join(PARTS)}.")
        score = scorer_class(self.score)
        score.from_parameters(self.parameters)
        mine = {n: getattr(self, n) for n in FFN_OPTIONS.get(self.ffn, ())}
        if score.key == RandomHeads.key:
            mine["seed"] = _seed(self.seed)
        heads = round(1 - out / 100, 6)
        parameters = changed_parameters(score, self.parameters)
        return PlanRequest(
            model=self.model, score=score.key, heads=heads, ffn=self.ffn, parts=PARTS[self.where],
            parameters=parameters, n_pairs=n_pairs, **mine,
        )  # fmt: skip


def _seed(seed: Any) -> int:
    is_integer = (
        isinstance(seed, int | float) and not isinstance(seed, bool) and math.isfinite(seed) and seed == int(seed)
    )
    if not is_integer or not 0 <= seed <= MAX_SEED:
        raise ParameterError(f"The seed is {seed!r:.40}; it must be a whole number from 0 to {MAX_SEED}.", "Try 0.")
    return int(seed)


def _compensation(requested: Any) -> Compensation | None:
    if requested is None:
        return None
    known = [f.name for f in fields(Compensation)]
    if not isinstance(requested, dict) or not set(requested) <= set(known):
        raise CaptionRejectedError(
            f"The compensation is {requested!r:.80}; it must have names.", f"Known ones: {', '.join(known)}."
        )
    wanted = Compensation(**{"key": Accm.key} | requested)
    if not isinstance(wanted.key, str) or wanted.key not in COMPENSATORS:
        raise CaptionRejectedError(
            f"There is no compensation {wanted.key!r:.60}.", f"Known ones: {', '.join(COMPENSATORS)}."
        )
    return wanted


def _keep_ratio(count: Any, n_tokens: int) -> float:
    if isinstance(count, bool) or not isinstance(count, int | float) or not math.isfinite(count):
        raise BudgetError(
            f"The number of visual tokens is {count!r}; it must be a whole number.", f"Try {n_tokens // 9}."
        )
    if not 1 <= count <= n_tokens:
        allowed = f"{count:g} visual tokens were requested; allowed are 1 to {n_tokens}."
        raise BudgetError(allowed, "Move the slider and press Run again.")
    return int(count) / n_tokens

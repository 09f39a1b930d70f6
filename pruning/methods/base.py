"""The base classes of token pruners: a frozen dataclass of parameters, class facts, and one function that decides.

`TokenPruner` owns what all methods share: validation of parameters, counts, order, the identity at a budget that keeps
everything, and the check of a decision. A method supplies `plan` (how many tokens are passed on after which stage),
`observations` (what is to be recorded for it) and `select` (which tokens stay); with `ScoredPruner`, a score is enough.
Methods hold no model and no state: what one stage leaves for the next is in `PruneContext.memory`.
"""

from __future__ import annotations

import inspect
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import nn

from pruning.budget import check_keep_ratio, n_keep
from pruning.errors import BudgetError, ParameterError, SignalMissingError
from pruning.interface import Decision, ModelInfo, Observation, Part, PruneContext, Signal, Stage
from pruning.methods.trained_modules import module_for
from pruning.ops.scoring import best_ascending
from pruning.parameters import Declared, Param

BEFORE_PROJECTOR = Stage(Part.PROJECTOR)
BEFORE_LANGUAGE_MODEL = Stage(Part.LANGUAGE_MODEL)


@dataclass(frozen=True, kw_only=True)
class TokenPruner(Declared, ABC):
    """Base of every method. Subclasses are frozen dataclasses whose `Annotated` fields are their parameters.

    Class facts:
        key: name in the table, also of the method's file. title: name on the page. paper: URL. idea: 3 to 9 words.
        stage: where it prunes, if at one stage that no parameter chooses. acts: the same in words for the page.
        needs: signals that the model must offer. default_positions: `original` or `renumbered`, as published.
        nested: a smaller budget keeps a subset. equivariant: permuting the tokens permutes the decision.
        draws: the run's seed may change the decision. merges: dropped tokens may be merged into kept ones.
        by_picture: divides each of several pictures by itself (others choose among the tokens of all as one pool).
        defaults: what a run with unchanged parameters is called. without_cls: takes `ModelInfo.default_attention`, so
            that a tower without [CLS] will do.
        module: class of the small module that the method decides with, trained for one model; None without one.
    """

    key: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    idea: ClassVar[str]
    stage: ClassVar[Stage]
    acts: ClassVar[str]
    needs: ClassVar[frozenset[Signal]]
    default_positions: ClassVar[str] = "renumbered"
    nested: ClassVar[bool] = False
    equivariant: ClassVar[bool] = True
    draws: ClassVar[bool] = False
    merges: ClassVar[bool] = False
    by_picture: ClassVar[bool] = False
    without_cls: ClassVar[bool] = False
    module: ClassVar[type[nn.Module] | None] = None
    defaults: ClassVar[str] = "as published"

    keep_ratio: float = 1 / 9

    def __post_init__(self) -> None:
        check_keep_ratio(self.keep_ratio)
        self.check_values()
        for name, declared in self.parameters().items():
            if isinstance(declared, Param) and declared.step == int(declared.step):
                object.__setattr__(self, name, int(getattr(self, name)))  # 3.0 is a whole number, but no index

    @classmethod
    def from_parameters(cls, keep_ratio: float, parameters: dict[str, Any]) -> TokenPruner:
        """Return the method that a request describes.

        Raises:
            ParameterError: if a name is not one of the method's parameters or a value is out of range.
        """
        cls.check_names(parameters)
        return cls(keep_ratio=keep_ratio, **parameters)

    @classmethod
    def explanation(cls) -> dict[str, str]:
        """Return the lines of the method file's docstring by name (Idea, which is the first, Paper, Stage, ...)."""
        text = inspect.cleandoc(sys.modules[cls.__module__].__doc__ or "")
        first, _, rest = text.partition("\n\n")
        found, name = {"Idea": first}, None
        for line in rest.splitlines():
            word, colon, value = line.partition(":")
            if colon and word in ("Paper", "Stage", "Needs", "Symbols", "Differs", "Cost"):
                name, found[word] = word, value.strip()
            elif name and line.strip():
                found[name] += f" {line.strip()}"
        return found

    def variant(self) -> str:
        """Return the parameters that differ from their defaults, for the page; `defaults` where none does."""
        standard = {f.name: f.default for f in fields(self)}
        changed = [f"{n} = {getattr(self, n)}" for n in self.parameters() if getattr(self, n) != standard[n]]
        return ", ".join(changed) or self.defaults

    def check(self, info: ModelInfo) -> None:
        """Check that a model offers what the method needs and has the layers that its parameters name.

        Raises:
            SignalMissingError, PrunerUntrainedError, ParameterError.
        """
        present = info.signals
        if self.without_cls and Signal.RECEIVED_ATTENTION in present:
            present |= {Signal.CLS_ATTENTION}
        for signal in sorted(self.needs):
            if signal not in present:
                raise SignalMissingError(self.title, info.name, signal.value)
        if self.module is not None:
            self.trained(info)
        for name, declared in self.parameters().items():
            if isinstance(declared, Param):
                low, high = declared.limits(info)
                value = getattr(self, name)
                if not low <= value <= high:
                    raise ParameterError(
                        f"{name} is {value}; {info.name} allows {low:g} to {high:g}.", "Choose a value in that range."
                    )

    def stage_on(self, info: ModelInfo) -> Stage:
        """Return the single stage at which the method prunes; overridden where a parameter chooses the stage."""
        del info
        return self.stage

    def plan(self, info: ModelInfo, n_tokens: int) -> dict[Stage, int]:
        """Return the number of rows passed on after every stage, in the order of the stages.

        By default the keep ratio's share of the tokens, at the single stage. Methods with several stages, or with
        another count, override it.

        Raises:
            BudgetError: if the keep ratio cannot be met on this model.
        """
        return {self.stage_on(info): n_keep(self.keep_ratio, n_tokens)}

    def observations(self, info: ModelInfo) -> tuple[Observation, ...]:
        """Return what is to be recorded for the method; hooks for it are set before the picture is encoded."""
        del info
        return ()

    def positions_at(self, stage: Stage) -> str:
        """Return how position ids go on after a stage: `original` (unchanged), `renumbered` (gaps closed), or
        `reindexed` (a token's index in the sequence before the cut).
        """
        del stage
        return self.default_positions

    def requested_ratio(self, n_tokens: int) -> float:
        """Return the keep ratio that a run with this method requests, for a picture of `n_tokens` visual tokens."""
        del n_tokens
        return self.keep_ratio

    def trained(self, info: ModelInfo) -> Any:
        """Return the module trained for this model on visual tokens behind the projector; see `module_for`."""
        if self.module is None:
            raise ValueError(f"{self.title} has no module to train")
        return module_for(self.key, self.title, self.module, info, info.text_dim)

    @property
    def own_count(self) -> bool:
        """Whether the picture determines how many rows are kept, whatever the keep ratio."""
        return False

    @abstractmethod
    def select(self, context: PruneContext, n_keep: int) -> Decision:
        """Decide which `n_keep` rows to keep. Pure: no model, no state, no randomness but `context.generator`."""

    def __call__(self, context: PruneContext, n_keep: int) -> Decision:
        """Decide at a stage and check the decision; a budget of all rows is the identity for every method.

        Raises:
            BudgetError: if no row is to be kept. AssertionError: if the method breaks its contract.
        """
        if n_keep >= context.n_rows:
            return self.keep_all(context)
        if n_keep < 1:
            raise BudgetError(
                f"{self.title} was asked to keep {n_keep} tokens {context.stage}.", "Raise the keep ratio."
            )
        decision = self.select(context, n_keep)
        keep = decision.keep
        ascending = keep.numel() < 2 or bool((keep[1:] > keep[:-1]).all())
        n_rows = len(keep) if decision.order is None else len(decision.order)
        miscounted = n_rows != n_keep and not self.own_count
        if not ascending or miscounted or int(keep.min()) < 0 or int(keep.max()) >= context.n_rows:
            raise AssertionError(f"{self.key} broke its contract at {context.stage}: asked {n_keep}, got {n_rows} rows")
        return decision

    def keep_all(self, context: PruneContext) -> Decision:
        """Return the decision that keeps every row; overridden where later stages need what is computed at this one."""
        return Decision(torch.arange(context.n_rows, device=context.ids.device), summary="all kept")


@dataclass(frozen=True, kw_only=True)
class ScoredPruner(TokenPruner):
    """Base of methods that score every row at a stage and keep the rows with the highest scores.

    A subclass supplies `score`, and `stage` (or `plan`, where it cuts more than once); equal scores go by index.
    """

    @abstractmethod
    def score(self, context: PruneContext) -> torch.Tensor:
        """Return a score for every row, float `[rows]`; the highest are kept. Pure, as `select` is."""

    def summary(self, score: torch.Tensor) -> str:
        """Return one clause for the page about a decision by these scores `[rows]`; empty by default."""
        del score
        return ""

    def select(self, context: PruneContext, n_keep: int) -> Decision:
        score = self.score(context)
        return Decision(best_ascending(score, n_keep), scores=score, summary=self.summary(score))

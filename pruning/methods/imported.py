"""Apply a decision from a file: keep the listed tokens, or merge the tokens of every group into their mean.

Paper:      none; for trained selectors whose weights are not public, and for decisions of one's own
Stage:      once, where you choose: inside the tower, before the projector, before or inside the language model
Needs:      a decision about exactly this picture on exactly this model
Symbols:    kept -> ids of the kept tokens; groups -> a group number for every token, negative where it is dropped
Differs:    nothing known; the keep ratio follows from the decision. A group's row is the mean of its members' rows and
            takes the place of the first of them
Cost:       O(n dim) with groups, else nothing
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from numbers import Integral
from typing import Annotated, Any, ClassVar

import torch

from pruning.errors import ParameterError
from pruning.interface import Decision, ModelInfo, PruneContext, Signal, Stage
from pruning.methods.base import TokenPruner
from pruning.methods.random_baseline import LAYER, WHERE, chosen_stage
from pruning.ops.merging import group_means
from pruning.records.decisions import FIELDS

AGAIN = "Export the decision for this picture and this model, and bring that."


@dataclass(frozen=True, kw_only=True)
class Imported(TokenPruner):
    """Either `kept` or `groups` is given; `groups` has an entry for every token. `n_tokens`: number of visual tokens
    that `kept` refers to, 0 where the file does not say.
    """

    key: ClassVar[str] = "imported"
    title: ClassVar[str] = "Imported"
    paper: ClassVar[str] = ""
    idea: ClassVar[str] = "what was decided elsewhere, from a file"
    acts: ClassVar[str] = "where you choose"
    needs: ClassVar[frozenset[Signal]] = frozenset()
    equivariant: ClassVar[bool] = False
    merges: ClassVar[bool] = True

    where: Annotated[str, WHERE] = WHERE.options[0]
    layer: Annotated[int, LAYER] = 0
    kept: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()
    n_tokens: int = 0

    @classmethod
    def check_names(cls, parameters: dict[str, Any]) -> None:
        super().check_names({name: value for name, value in parameters.items() if name not in FIELDS})

    @classmethod
    def from_parameters(cls, keep_ratio: float, parameters: dict[str, Any]) -> TokenPruner:
        """Return the method for the contents of a decision file; ids beyond the picture are refused once it is known.

        Raises:
            ParameterError: if there is no decision or two, if something is not a whole number, if a token is listed
                twice, or none is kept.
        """
        kept, groups = (_whole_numbers(name, parameters.get(name, ())) for name in ("kept", "groups"))
        [n_tokens] = _whole_numbers("n_tokens", [parameters.get("n_tokens", 0)])
        if kept and groups:
            raise ParameterError("The imported decision has both `kept` and `groups`.", "Leave one of them out.")
        if not kept and (not groups or max(groups) < 0):
            raise ParameterError("The imported decision keeps no token; it must keep at least one.", AGAIN)
        token, times = Counter(kept).most_common(1)[0] if kept else (0, 1)
        if times > 1:
            raise ParameterError(f"The imported decision keeps token {token} {times} times; once is allowed.", AGAIN)
        return super().from_parameters(keep_ratio, parameters | {"kept": kept, "groups": groups, "n_tokens": n_tokens})

    def variant(self) -> str:
        what = f"{len(self._groups)} groups" if self.groups else f"{len(self.kept)} tokens"
        return f"{what} of a file, before the {self.where}" + (f", layer {self.layer}" if self.layer else "")

    @property
    def _groups(self) -> list[int]:
        """Group numbers in order of first occurrence."""
        return [number for number in dict.fromkeys(self.groups) if number >= 0]

    def requested_ratio(self, n_tokens: int) -> float:
        """Return the share that the decision keeps.

        Raises:
            ParameterError: if the decision is about another number of tokens.
        """
        spoken_of = len(self.groups) or self.n_tokens
        if spoken_of not in (0, n_tokens):
            raise ParameterError(
                f"The imported decision is about {spoken_of} visual tokens; this picture has {n_tokens} on this model.",
                AGAIN,
            )
        wrong = next((i for i in self.kept if not 0 <= i < n_tokens), None)
        if wrong is not None:
            raise ParameterError(
                f"The imported decision keeps token {wrong}; the {n_tokens} visual tokens are numbered from 0 to "
                f"{n_tokens - 1}.",
                AGAIN,
            )
        return (len(self.kept) or len(self._groups)) / n_tokens

    def plan(self, info: ModelInfo, n_tokens: int) -> dict[Stage, int]:
        rows = round(self.requested_ratio(n_tokens) * n_tokens)
        return {chosen_stage(self.where, self.layer, info): rows}

    def select(self, context: PruneContext, n_keep: int) -> Decision:
        ids = context.ids
        if self.kept:
            wanted = torch.tensor(self.kept, device=ids.device)
            keep = torch.isin(ids, wanted).nonzero()[:, 0]
            return Decision(keep, summary=f"{len(keep)} tokens listed in a file")
        group = torch.tensor(self.groups, device=ids.device)[ids]
        rows = torch.arange(len(ids), device=ids.device)
        alive = group >= 0
        number = torch.full_like(rows, -1)
        number[alive], size = group[alive].unique(return_inverse=True, return_counts=True)[1:]
        count = len(size)
        first = torch.full((count,), len(ids), device=ids.device).scatter_reduce(0, number[alive], rows[alive], "amin")
        mean = group_means(context.features, number, count)
        merged_into = torch.where(alive, first[number.clamp(min=0)], -1)
        merged_into[first] = -1
        keep, order = first.sort()
        return Decision(
            keep,
            features=mean[order].to(context.features.dtype),
            merged_into=merged_into,
            summary=f"{count} groups of a file, the largest of {int(size.max())} tokens",
        )


def _whole_numbers(name: str, values: Any) -> tuple[int, ...]:
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise ParameterError(f"`{name}` is {values!r:.40}; it must be a list of whole numbers.", AGAIN)
    found = tuple(values)
    wrong = next((v for v in found if isinstance(v, bool) or not isinstance(v, Integral)), None)
    if wrong is not None:
        raise ParameterError(f"`{name}` holds {wrong!r:.40}; it must hold whole numbers only.", AGAIN)
    return tuple(int(v) for v in found)

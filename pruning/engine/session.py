"""State of one run: what it may reuse (`RunContext`), and the session that records a method's decision per stage."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from pruning.compensation.base import Compensator
from pruning.engine.results import wait_for
from pruning.errors import ParameterError
from pruning.interface import TOWER_SIGNALS, Decision, Observation, Part, PromptText, PruneContext, Stage
from pruning.methods.base import TokenPruner
from pruning.models.base import RunCallbacks, VisionFeatures, VLMAdapter
from pruning.models.hooks.attention import cut_observation, rows_of
from pruning.models.prompt import Prompt
from pruning.records.answer import Answer, Cost
from pruning.records.plan import StructuralPlan
from pruning.records.run import RunRequest
from pruning.records.selection import CLS_SOURCE, PruningStep, Selection

SIDE_BY_SIDE = "it reads several pictures side by side, which would come out in different lengths"


@dataclass(frozen=True, slots=True)
class Baseline:
    """The unpruned answer to one question about one picture, its estimated cost, and its token ids."""

    answer: Answer
    cost: Cost
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Compressed:
    """A structural plan and the view of the model that carries it out (`adapter.compressed(plan)`), for the pruned
    answer. Whoever made the view closes it.
    """

    plan: StructuralPlan
    view: VLMAdapter


@dataclass(frozen=True, slots=True, eq=False)
class RunContext:
    """What a run may use beyond its request, model and input. All of it is optional.

    Attributes:
        callbacks: told of progress; also carries the stop signal and whether to record traces.
        encoded, encode_ms: an earlier pass of the same input through the vision tower (`engine.run.encode_image`) and
            its time in ms, to be reused.
        baseline: an earlier unpruned answer to the same question.
        answer_region: ids of the visual tokens that hold the answer, where it is known.
        reused: for the record, which of `encoded` and `baseline` belong to another run (`LOOK`, `FULL_ANSWER`).
        compressed: the model under a structural plan. It encodes, prunes tokens and gives the pruned answer; the full
            answer always comes from the full model. With keep ratio 1 the two differ in their weights only.
        compensator: opened for this model (`engine.compensate.open_compensator`); needed for a compensation without a
            caption of its own.
    """

    callbacks: RunCallbacks = field(default_factory=RunCallbacks)
    encoded: VisionFeatures | None = None
    encode_ms: float = 0.0
    baseline: Baseline | None = None
    answer_region: np.ndarray | None = None
    reused: Sequence[str] = ()
    compressed: Compressed | None = None
    compensator: Compensator | None = None


class Session:
    """Asks a method at every stage and writes down its answers. One session per run; see `models.base.Decider`."""

    def __init__(self, method: TokenPruner, adapter: VLMAdapter, prompt: Prompt, request: RunRequest) -> None:
        info = adapter.info
        self.method, self.info, self.policy = method, info, request.positions
        self.layout, self.n_total = prompt.layout, prompt.layout.n_tokens
        self.plan = method.plan(info, self.n_total) if request.keep_ratio < 1 else {}
        self.stages: Sequence[Stage] = tuple(sorted(self.plan))
        self._refuse_closed_stages()
        self.observations: Sequence[Observation] = method.observations(info) if self.plan else ()
        self.steps: list[PruningStep] = []
        self.decisions: dict[Stage, Decision] = {}
        self._places = torch.from_numpy(prompt.layout.positions()).float().to(adapter.device)
        self._tiles = torch.from_numpy(prompt.layout.tile_numbers()).to(adapter.device)
        self._pictures = torch.from_numpy(prompt.layout.picture_numbers()).to(adapter.device)
        self._generator = torch.Generator().manual_seed(request.seed)
        self._memory: dict[str, object] = {}
        self.encoded: VisionFeatures | None = None  # what the tower made of the picture, for looks at later stages

    def _refuse_closed_stages(self) -> None:
        """Refuse a method that acts where this model, or this prompt, keeps rows together."""
        of_tower = self.info.no_tower_stages or (SIDE_BY_SIDE if self.layout.n_pictures > 1 else "")
        closed = {
            Part.TOWER: ("inside the vision tower", "allows it", "the tower", of_tower),
            Part.PROJECTOR: ("before the projector", "has its visual tokens", "it", self.info.no_projector_stage),
        }
        for part, (where, does, behind, reason) in closed.items():
            if reason and any(stage.part is part for stage in self.stages):
                raise ParameterError(
                    f"{self.method.title} drops tokens {where}; {self.info.name} {does} behind {behind} only: "
                    f"{reason}.",
                    "Choose another stage or another method.",
                )

    def positions_at(self, stage: Stage) -> str:
        return self.method.positions_at(stage) if self.policy == "method" else self.policy

    def decide(
        self,
        stage: Stage,
        features: torch.Tensor,
        ids: torch.Tensor,
        observations: Mapping[Observation, torch.Tensor],
        *,
        text: PromptText | None = None,
    ) -> Decision:
        """Ask the method which rows go on after `stage`, and note the answer in original token ids."""
        wait_for(features.device)
        began = time.perf_counter()
        if stage.part is Part.LANGUAGE_MODEL:
            observations = {**self._tower_observations(ids), **observations}
        context = PruneContext(
            stage=stage,
            features=features,
            ids=ids,
            positions=self._places.to(ids.device)[ids.clamp(min=0)],
            n_total=self.n_total,
            info=self.info,
            generator=self._generator,
            observations=dict(observations),
            text=text,
            tiles=self._tiles.to(ids.device)[ids.clamp(min=0)] if len(self.layout.tiles) > 1 else None,
            pictures=self._pictures.to(ids.device)[ids.clamp(min=0)] if self.layout.n_pictures > 1 else None,
            memory=self._memory,
        )
        decision = self.method(context, self.plan[stage])
        wait_for(features.device)
        elapsed = 1e3 * (time.perf_counter() - began)
        self.decisions[stage] = decision
        why = {words: ids[rows].cpu().numpy() for words, rows in decision.why.items() if len(rows)}
        self.steps.append(
            PruningStep(stage, self._selection(ids, decision), elapsed, decision.summary, _extra(decision), why)
        )
        return decision

    def _tower_observations(self, ids: torch.Tensor) -> dict[Observation, torch.Tensor]:
        """What the tower showed of the rows that are left, for methods that act behind the projector."""
        wanted = [observation for observation in self.observations if observation.signal in TOWER_SIGNALS]
        if not wanted or self.encoded is None:
            return {}
        rows = rows_of(ids.to(self.encoded.ids.device), self.encoded.ids)
        return {
            observation: cut_observation(observation, self.encoded.observations[observation], rows).to(ids.device)
            for observation in wanted
        }

    @property
    def survivors(self) -> np.ndarray:
        """Ids that every stage so far let go on."""
        return self.steps[-1].selection.kept if self.steps else np.arange(self.n_total)

    @property
    def evicts(self) -> bool:
        return any(d.evict for d in self.decisions.values())

    @property
    def decide_ms(self) -> float:
        return sum(s.select_ms for s in self.steps)

    def ms_in(self, part: Part) -> float:
        return sum(s.select_ms for s in self.steps if s.stage.part is part)

    def _selection(self, ids: torch.Tensor, decision: Decision) -> Selection:
        rows, keep = ids.cpu().numpy(), decision.keep.cpu().numpy()
        real = rows >= 0  # a [CLS] row has no token id
        kept = rows[keep]
        order = kept if decision.order is None else np.append(kept, CLS_SOURCE)[decision.order.cpu().numpy()]
        merged_into = np.full(self.n_total, -1)
        if decision.merged_into is not None:
            target = decision.merged_into.cpu().numpy()
            joined = (target >= 0) & real
            merged_into[rows[joined]] = rows[target[joined]]
        scores = None
        if decision.scores is not None:
            scores = np.full(self.n_total, np.nan)
            scores[rows[real]] = decision.scores.detach().float().cpu().numpy()[real]
        return Selection(self.n_total, np.sort(rows[real]), np.sort(kept[kept >= 0]), merged_into, scores, order)


def _extra(decision: Decision) -> dict[str, np.ndarray]:
    return {name: value.detach().cpu().numpy() for name, value in decision.extra.items()}

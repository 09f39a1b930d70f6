"""One run, in the order of the papers' figures: see, decide, project, decide, read, decide, answer; written down.

The only place where methods and models meet. The runner owns no model and no settings: what it needs comes in, what
happened goes out as a `RunRecord`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from pruning.compensation.base import Compensator
from pruning.engine.compensate import check_pictures, give_back
from pruning.engine.environment import environment
from pruning.engine.results import to_answer, to_cost, wait_for
from pruning.errors import ParameterError
from pruning.inputs.content import Shown, about_several, digest_of, pictures_of
from pruning.interface import TOWER_SIGNALS, Decision, Look, Part, PromptText, PruneContext, Signal, Stage
from pruning.methods import method_class
from pruning.methods.base import TokenPruner
from pruning.metrics.diagnostics import Traits
from pruning.metrics.token_statistics import QUICK, traits_of
from pruning.models.base import Prompt, Seen, VLMAdapter, Watch
from pruning.models.hooks.attention import cut_look, rows_of
from pruning.ops.scoring import cosine
from pruning.records.answer import Answer, Cost
from pruning.records.plan import StructuralPlan
from pruning.records.run import CLS_SOURCE, PruningStep, RunRecord, RunRequest, Selection

SIDE_BY_SIDE = "it reads several pictures side by side, which would come out in different lengths"
NO_CLS = "The vision tower has no [CLS]: the attention that each piece receives from the others stands in for it."
LOOK, FULL_ANSWER = "the look at the picture", "the full answer"  # what a run may take over from an earlier one

WHILE_TIMED = {"recorded_during": "what every word attends to and is near"}  # beside measured times: they include this


@dataclass(frozen=True, slots=True)
class Listener:
    """How the page follows a run: `phase` names what begins ("see", "full", "prune", "pruned", "compensate"), `piece`
    gets every piece of text with the phase it belongs to (for the third answer that is "compensated"), `stop` is asked
    often and ends the run when it says True. `trace` also records what every word attends to, the signals of ONLY and
    ReVisiT, each token's nearest survivor, and traits of the picture.
    """

    phase: Callable[[str], None] = lambda phase: None
    piece: Callable[[str, str], None] = lambda phase, text: None
    stop: Callable[[], bool] = lambda: False
    trace: bool = False

    def watch(self, phase: str) -> Watch:
        return Watch(piece=lambda text: self.piece(phase, text), stop=self.stop, attention=self.trace)


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


class Session:
    """Asks a method at every stage and writes down its answers. One session per run; see `models.base.Decider`."""

    def __init__(self, method: TokenPruner, adapter: VLMAdapter, prompt: Prompt, request: RunRequest) -> None:
        info = adapter.info
        self.method, self.info, self.policy = method, info, request.positions
        self.layout, self.n_total = prompt.layout, prompt.layout.n_tokens
        self.plan = method.plan(info, self.n_total) if request.keep_ratio < 1 else {}
        self.stages: Sequence[Stage] = tuple(sorted(self.plan))
        self._refuse_closed_stages()
        self.looks: Sequence[Look] = method.looks(info) if self.plan else ()
        self.steps: list[PruningStep] = []
        self.decisions: dict[Stage, Decision] = {}
        self._places = torch.from_numpy(prompt.layout.positions()).float().to(adapter.device)
        self._tiles = torch.from_numpy(prompt.layout.tile_numbers()).to(adapter.device)
        self._pictures = torch.from_numpy(prompt.layout.picture_numbers()).to(adapter.device)
        self._generator = torch.Generator().manual_seed(request.seed)
        self._memory: dict[str, object] = {}
        self.seen: Seen | None = None  # what the tower made of the picture, for looks at later stages

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
        looks: Mapping[Look, torch.Tensor],
        *,
        text: PromptText | None = None,
    ) -> Decision:
        """Ask the method which rows go on after `stage`, and note the answer in original token ids."""
        wait_for(features.device)
        began = time.perf_counter()
        if stage.part is Part.LANGUAGE_MODEL:
            looks = {**self._tower_looks(ids), **looks}
        context = PruneContext(
            stage=stage,
            features=features,
            ids=ids,
            positions=self._places.to(ids.device)[ids.clamp(min=0)],
            n_total=self.n_total,
            info=self.info,
            generator=self._generator,
            looks=dict(looks),
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

    def _tower_looks(self, ids: torch.Tensor) -> dict[Look, torch.Tensor]:
        """What the tower showed of the rows that are left, for methods that act behind the projector."""
        wanted = [look for look in self.looks if look.signal in TOWER_SIGNALS]
        if not wanted or self.seen is None:
            return {}
        rows = rows_of(ids.to(self.seen.ids.device), self.seen.ids)
        return {look: cut_look(look, self.seen.looks[look], rows).to(ids.device) for look in wanted}

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


def run(
    request: RunRequest,
    adapter: VLMAdapter,
    pictures: Shown,
    *,
    seen: Seen | None = None,
    see_ms: float = 0.0,
    baseline: Baseline | None = None,
    evidence: np.ndarray | None = None,
    reused: Sequence[str] = (),
    listener: Listener | None = None,
    compressed: Compressed | None = None,
    compensator: Compensator | None = None,
) -> RunRecord:
    """Answer a question with the whole picture and with the pruned one, and, if the request has a compensation, with
    the pruned one and words for what was dropped.

    Args:
        request: what to run; `image_digest` is filled in.
        pictures: one, uint8 `[height, width, 3]` RGB, a sequence of them, or a video (`pruning.inputs.content.Clip`).
            The share kept is of the visual tokens of all together.
        seen, see_ms: an earlier pass of these pictures through the tower (`see_picture`) and its time, to be reused.
        baseline: an earlier unpruned answer to this question.
        evidence: ids of the visual tokens that hold the answer, where the truth is known.
        reused: for the record, which of `seen` and `baseline` belong to another run (`LOOK`, `FULL_ANSWER`).
        compressed: the model with weights taken out, which then looks, prunes tokens and gives the pruned answer; the
            full answer is always the whole model's. With keep ratio 1 the two differ in their weights only.
        compensator: opened for this model (`pruning.engine.compensate.open_compensator`); needed for a compensation
            that is not written by hand.

    Raises:
        PruningError: with a sentence for the person, in all cases that they can change.
    """
    listener = listener or Listener()
    request = replace(request, image_digest=digest_of(pictures))
    check_pictures(request.compensation, len(pictures_of(pictures)))
    method = method_class(request.method).from_parameters(request.keep_ratio, request.parameters)
    acting = compressed.view if compressed else adapter
    if compressed:
        request = replace(request, structure=compressed.plan.digest)
    method.check(acting.info)
    prompt = adapter.prompt(pictures, request.question)
    request = replace(request, keep_ratio=method.asked_ratio(prompt.layout.n_tokens))
    session = Session(method, acting, prompt, request)
    if seen is None:
        seen, see_ms = see_picture(adapter, prompt, listener)
    if baseline is None:
        baseline = answer_in_full(adapter, prompt, seen, see_ms, request.max_new_tokens, listener)
    notes = adapter.limits(seen, request.question, prompt.layout.n_pictures)
    if session.stages and method.without_cls and not acting.info.has_cls:
        notes += (NO_CLS,)
    notes += about_several(method.title, prompt.layout, by_picture=method.by_picture)
    if request.compensation is not None and request.compensation.caption:  # by hand; a captioner's words are known
        notes += adapter.limits(seen, request.compensation.caption)
    plain = adapter, seen
    if compressed:
        seen, see_ms = see_picture(acting, prompt, listener)
    used = seen
    if session.stages or compressed:
        answer, cost, used = _answer_pruned(acting, prompt, session, seen, see_ms, request.max_new_tokens, listener)
    else:
        answer, cost = baseline.answer, baseline.cost
    compensated = None
    if request.compensation is not None:
        listener.phase("compensate")
        compensated = give_back(
            request, acting, compensator, pictures_of(pictures)[0], prompt, seen, used, session, answer,
            baseline.token_ids, listener.watch("compensated"), plain,
        )  # fmt: skip
    alike = _nearest_survivors(acting, seen, session) if listener.trace and session.steps else (None, None)
    return RunRecord(
        request=request,
        layout=prompt.layout,
        steps=tuple(session.steps),
        full=baseline.answer,
        pruned=answer,
        full_cost=baseline.cost,
        pruned_cost=cost,
        positions=_policy(session),
        method_title=method.title,
        variant=method.variant() if request.positions == "method" else f"{method.variant()}, positions changed",
        tower_layers=adapter.info.tower_layers,
        environment=environment(adapter) | (WHILE_TIMED if listener.trace else {}),
        evidence=evidence,
        nearest_kept=alike[0],
        nearest_cosine=alike[1],
        notes=tuple(dict.fromkeys(notes)),
        reused=tuple(reused),
        structure=compressed.plan.summary() if compressed else None,
        compensated=compensated,
        traits=picture_traits(acting, seen, session.survivors) if listener.trace else None,
    )


def see_picture(adapter: VLMAdapter, prompt: Prompt, listener: Listener | None = None) -> tuple[Seen, float]:
    """The whole picture through the tower, with everything that methods commonly ask of it; and the time in ms."""
    listener = listener or Listener()
    listener.phase("see")
    info = adapter.info
    looks = [Look(s, info.feature_layer) for s in (Signal.CLS_ATTENTION, Signal.TOWER_KEYS) if s in info.signals]
    began = time.perf_counter()
    seen = adapter.see(prompt, looks, None, Watch(stop=listener.stop))
    wait_for(adapter.device)
    return seen, 1e3 * (time.perf_counter() - began)


def see_for(session: Session, adapter: VLMAdapter, prompt: Prompt, seen: Seen, watch: Watch) -> Seen:
    """The tower's pass that a session's method needs: the common one (`see_picture`), or another one if the method acts
    in the tower or looks elsewhere. The session keeps it for the stages behind the tower.
    """
    wanted = {look for look in session.looks if look.signal in TOWER_SIGNALS}
    if any(s.part is Part.TOWER for s in session.stages) or not wanted <= set(seen.looks):
        seen = adapter.see(prompt, tuple(session.looks), session, watch)
    session.seen = seen
    return seen


def answer_in_full(
    adapter: VLMAdapter, prompt: Prompt, seen: Seen, see_ms: float, max_new_tokens: int, listener: Listener
) -> Baseline:
    """The unpruned answer."""
    listener.phase("full")
    began = time.perf_counter()
    whole = adapter.project(seen, None)
    wait_for(adapter.device)
    see_ms += 1e3 * (time.perf_counter() - began)
    out = adapter.answer(prompt, whole, None, max_new_tokens, listener.watch("full"))
    answer = to_answer(out, see_ms, 0.0, out.read_ms)
    return Baseline(answer, to_cost(adapter, out, seen.tokens_per_layer), tuple(out.token_ids))


def _answer_pruned(
    adapter: VLMAdapter,
    prompt: Prompt,
    session: Session,
    seen: Seen,
    see_ms: float,
    max_new_tokens: int,
    listener: Listener,
) -> tuple[Answer, Cost, Seen]:
    listener.phase("prune")
    began, common = time.perf_counter(), seen
    seen = see_for(session, adapter, prompt, common, Watch(stop=listener.stop))
    if seen is not common:
        wait_for(adapter.device)
        see_ms = 1e3 * (time.perf_counter() - began) - session.ms_in(Part.TOWER)
    began = time.perf_counter()
    kept = adapter.project(seen, session)
    wait_for(adapter.device)
    see_ms += 1e3 * (time.perf_counter() - began) - session.ms_in(Part.PROJECTOR)
    listener.phase("pruned")
    out = adapter.answer(prompt, kept, session, max_new_tokens, listener.watch("pruned"))
    read_ms = out.read_ms - session.ms_in(Part.LANGUAGE_MODEL)
    answer = to_answer(out, see_ms, session.decide_ms, read_ms)
    return answer, to_cost(adapter, out, seen.tokens_per_layer), seen


@torch.inference_mode()
def _nearest_survivors(adapter: VLMAdapter, seen: Seen, session: Session) -> tuple[np.ndarray, np.ndarray]:
    """For every token the survivor that looks most like it to the language model, and the cosine of the two."""
    features = adapter.project(seen, None).features
    kept = torch.from_numpy(np.array(session.steps[-1].selection.kept)).long().to(features.device)
    if not len(kept):  # only [CLS] went on
        return np.full(session.n_total, -1, np.int32), np.full(session.n_total, np.nan, np.float32)
    value, place = cosine(features, features[kept]).max(1)
    return kept[place].cpu().numpy(), value.cpu().numpy()


@torch.inference_mode()
def picture_traits(adapter: VLMAdapter, seen: Seen, kept: np.ndarray, largest: float = QUICK) -> Traits:
    """What tensors tell of a whole picture and of the ids that are kept of it; see
    `pruning.metrics.token_statistics`.
    """
    features = adapter.project(seen, None).features
    attention = seen.looks.get(Look(Signal.CLS_ATTENTION, adapter.info.feature_layer))
    return traits_of(features, torch.tensor(kept, device=features.device).long(), attention, largest=largest)


def _extra(decision: Decision) -> dict[str, np.ndarray]:
    return {name: value.detach().cpu().numpy() for name, value in decision.extra.items()}


def _policy(session: Session) -> str:
    return ", then ".join(dict.fromkeys(session.positions_at(s) for s in session.stages)) or "original"

"""Run a pruning method on a model: encode, project, prefill and decode, with a decision of the method at each stage.

Methods and models meet only here. The module owns no model and no settings: inputs are arguments, and the result is a
`RunRecord`.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch

from pruning.compensation.base import Compensator
from pruning.engine.compensate import check_pictures, compensate
from pruning.engine.environment import environment
from pruning.engine.results import to_answer, to_cost, wait_for
from pruning.engine.session import Baseline, Compressed, RunContext, Session
from pruning.inputs.content import VisualInput, about_several, digest_of, images_of
from pruning.inputs.questions import clean_question, removed_characters
from pruning.interface import TOWER_SIGNALS, Observation, Part, Signal
from pruning.methods import method_class
from pruning.metrics.token_statistics import QUICK, traits_of
from pruning.models.base import RunCallbacks, VisionFeatures, VLMAdapter
from pruning.models.prompt import Prompt
from pruning.ops.scoring import cosine
from pruning.records.answer import Answer, Cost
from pruning.records.diagnostics import Traits
from pruning.records.run import RunRecord, RunRequest

NO_CLS = (
    "The vision tower has no [CLS]: the attention that each visual token receives from the others stands in for it."
)
LOOK, FULL_ANSWER = "the look at the picture", "the full answer"  # what a run may take over from an earlier one

WHILE_TIMED = {"recorded_during": "what every word attends to and is near"}  # beside measured times: they include this


def run(
    request: RunRequest,
    adapter: VLMAdapter,
    pictures: VisualInput,
    context: RunContext | None = None,
    *,
    compressed: Compressed | None = None,
    compensator: Compensator | None = None,
) -> RunRecord:
    """Answer a question with all visual tokens and with the pruned ones; if the request has a compensation, also with
    the pruned ones and a caption of what was dropped.

    Args:
        request: what to run; `image_digest` is filled in.
        pictures: one image, uint8 `[height, width, 3]` RGB, a sequence of them, or a video
            (`pruning.inputs.content.VideoClip`). The keep ratio counts the visual tokens of all of them together.
        context: what to reuse and whom to tell; see `RunContext`.
        compressed, compensator: the context's fields of these names, as earlier versions took them and as exported
            Python gives them; they win over the context's.

    Raises:
        PruningError: with a sentence for the person, in all cases that they can change.
    """
    context = context or RunContext()
    callbacks, encoded, encode_ms = context.callbacks, context.encoded, context.encode_ms
    baseline, compressed = context.baseline, compressed or context.compressed
    compensator = compensator or context.compensator
    notes = removed_characters(request.question)
    request = replace(request, image_digest=digest_of(pictures), question=clean_question(request.question))
    check_pictures(request.compensation, len(images_of(pictures)))
    method = method_class(request.method).from_parameters(request.keep_ratio, request.parameters)
    acting = compressed.view if compressed else adapter
    if compressed:
        request = replace(request, structure=compressed.plan.digest)
    method.check(acting.info)
    prompt = adapter.prompt(pictures, request.question)
    request = replace(request, keep_ratio=method.requested_ratio(prompt.layout.n_tokens))
    session = Session(method, acting, prompt, request)
    if encoded is None:
        encoded, encode_ms = encode_image(adapter, prompt, callbacks)
    if baseline is None:
        baseline = answer_in_full(adapter, prompt, encoded, encode_ms, request.max_new_tokens, callbacks)
    notes += [*prompt.notes, *adapter.limits(encoded, request.question, prompt.layout.n_pictures)]
    if session.stages and method.without_cls and not acting.info.has_cls:
        notes.append(NO_CLS)
    notes += about_several(method.title, prompt.layout, by_picture=method.by_picture)
    if request.compensation is not None and request.compensation.caption:  # by hand; a captioner's words are known
        notes += adapter.limits(encoded, request.compensation.caption)
    plain = adapter, encoded
    if compressed:
        encoded, encode_ms = encode_image(acting, prompt, callbacks)
    used = encoded
    if session.stages or compressed:
        answer, cost, used = _answer_pruned(
            acting, prompt, session, encoded, encode_ms, request.max_new_tokens, callbacks
        )
    else:
        answer, cost = baseline.answer, baseline.cost
    compensated = None
    if request.compensation is not None:
        callbacks.phase("compensate")
        compensated = compensate(
            request, acting, compensator, images_of(pictures)[0], prompt, encoded, used, session, answer,
            baseline.token_ids, callbacks.during("compensated"), plain,
        )  # fmt: skip
    alike = _nearest_survivors(acting, encoded, session) if callbacks.trace and session.steps else (None, None)
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
        environment=environment(adapter) | (WHILE_TIMED if callbacks.trace else {}),
        answer_region=context.answer_region,
        nearest_kept=alike[0],
        nearest_cosine=alike[1],
        notes=tuple(dict.fromkeys(notes)),
        reused=tuple(context.reused),
        structure=compressed.plan.summary() if compressed else None,
        compensated=compensated,
        traits=token_statistics(acting, encoded, session.survivors) if callbacks.trace else None,
    )


def encode_image(
    adapter: VLMAdapter, prompt: Prompt, callbacks: RunCallbacks | None = None
) -> tuple[VisionFeatures, float]:
    """The full picture through the tower, with everything that methods commonly ask of it; and the time in ms."""
    callbacks = callbacks or RunCallbacks()
    callbacks.phase("encode")
    info = adapter.info
    observations = [
        Observation(s, info.feature_layer) for s in (Signal.CLS_ATTENTION, Signal.TOWER_KEYS) if s in info.signals
    ]
    began = time.perf_counter()
    encoded = adapter.encode_image(prompt, observations, None, RunCallbacks(stop=callbacks.stop))
    wait_for(adapter.device)
    return encoded, 1e3 * (time.perf_counter() - began)


def encode_for(
    session: Session, adapter: VLMAdapter, prompt: Prompt, encoded: VisionFeatures, callbacks: RunCallbacks
) -> VisionFeatures:
    """The tower's pass that a session's method needs: the common one (`encode_image`), or another one if the method
    acts in the tower or looks elsewhere. The session keeps it for the stages behind the tower.
    """
    wanted = {observation for observation in session.observations if observation.signal in TOWER_SIGNALS}
    if any(s.part is Part.TOWER for s in session.stages) or not wanted <= set(encoded.observations):
        encoded = adapter.encode_image(prompt, tuple(session.observations), session, callbacks)
    session.encoded = encoded
    return encoded


def answer_in_full(
    adapter: VLMAdapter,
    prompt: Prompt,
    encoded: VisionFeatures,
    encode_ms: float,
    max_new_tokens: int,
    callbacks: RunCallbacks,
) -> Baseline:
    """The unpruned answer."""
    callbacks.phase("full")
    began = time.perf_counter()
    full = adapter.project(encoded, None)
    wait_for(adapter.device)
    encode_ms += 1e3 * (time.perf_counter() - began)
    out = adapter.answer(prompt, full, None, max_new_tokens, callbacks.during("full"))
    answer = to_answer(out, encode_ms, 0.0, out.prefill_ms)
    return Baseline(answer, to_cost(adapter, out, encoded.tokens_per_layer), tuple(out.token_ids))


def _answer_pruned(
    adapter: VLMAdapter,
    prompt: Prompt,
    session: Session,
    encoded: VisionFeatures,
    encode_ms: float,
    max_new_tokens: int,
    callbacks: RunCallbacks,
) -> tuple[Answer, Cost, VisionFeatures]:
    callbacks.phase("prune")
    began, common = time.perf_counter(), encoded
    encoded = encode_for(session, adapter, prompt, common, RunCallbacks(stop=callbacks.stop))
    if encoded is not common:
        wait_for(adapter.device)
        encode_ms = 1e3 * (time.perf_counter() - began) - session.ms_in(Part.TOWER)
    began = time.perf_counter()
    kept = adapter.project(encoded, session)
    wait_for(adapter.device)
    encode_ms += 1e3 * (time.perf_counter() - began) - session.ms_in(Part.PROJECTOR)
    callbacks.phase("pruned")
    out = adapter.answer(prompt, kept, session, max_new_tokens, callbacks.during("pruned"))
    prefill_ms = out.prefill_ms - session.ms_in(Part.LANGUAGE_MODEL)
    answer = to_answer(out, encode_ms, session.decide_ms, prefill_ms)
    return answer, to_cost(adapter, out, encoded.tokens_per_layer), encoded


@torch.inference_mode()
def _nearest_survivors(adapter: VLMAdapter, encoded: VisionFeatures, session: Session) -> tuple[np.ndarray, np.ndarray]:
    """For every token the survivor that looks most like it to the language model, and the cosine of the two."""
    features = adapter.project(encoded, None).features
    kept = torch.from_numpy(np.array(session.steps[-1].selection.kept)).long().to(features.device)
    if not len(kept):  # only [CLS] went on
        return np.full(session.n_total, -1, np.int32), np.full(session.n_total, np.nan, np.float32)
    value, place = cosine(features, features[kept]).max(1)
    return kept[place].cpu().numpy(), value.cpu().numpy()


@torch.inference_mode()
def token_statistics(adapter: VLMAdapter, encoded: VisionFeatures, kept: np.ndarray, largest: float = QUICK) -> Traits:
    """What tensors tell of a full picture and of the ids that are kept of it; see
    `pruning.metrics.token_statistics`.
    """
    features = adapter.project(encoded, None).features
    attention = encoded.observations.get(Observation(Signal.CLS_ATTENTION, adapter.info.feature_layer))
    return traits_of(features, torch.tensor(kept, device=features.device).long(), attention, largest=largest)


def _policy(session: Session) -> str:
    return ", then ".join(dict.fromkeys(session.positions_at(s) for s in session.stages)) or "original"

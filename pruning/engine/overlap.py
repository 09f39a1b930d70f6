"""Compute what every other method would keep of a run's picture, and how much the kept sets share. The picture is
encoded once with all observations; then every method decides, and no answer is generated.

A method inside the language model reads the prompt up to its last cut and no further. Only methods that drop tokens
inside the tower take a pass of their own, because the others' picture is whole. This costs up to one prefill a method
and is done when somebody asks for it, never beside a run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pruning.engine.run import encode_for, token_statistics
from pruning.engine.session import Session
from pruning.errors import GeometryError, PruningError, RunStopped
from pruning.inputs.content import VisualInput
from pruning.interface import TOWER_SIGNALS, Decision, Observation, Part, Signal, Stage
from pruning.methods import METHODS
from pruning.methods.random_baseline import RandomBaseline
from pruning.models.base import RunCallbacks, VisionFeatures, VLMAdapter
from pruning.models.prompt import Prompt
from pruning.records.diagnostics import Overlap
from pruning.records.run import RunRecord


class _Decided(Exception):  # noqa: N818 (nothing went wrong)
    """Ends the reading: nothing more will be decided."""


class _Requested(Session):
    """A session whose last decision is the end of the run."""

    def decide(self, stage: Stage, *given, **more) -> Decision:
        super().decide(stage, *given, **more)
        if stage != self.stages[-1]:
            return self.decisions[stage]
        raise _Decided


def with_overlaps(
    record: RunRecord,
    adapter: VLMAdapter,
    visual_input: VisualInput,
    *,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda title: None,
) -> RunRecord:
    """The record with `overlaps` and, however long that takes, all `traits`.

    The other methods are asked with the run's question, keep ratio and seed and with parameters at their defaults.
    Random is not: what it shares is known (`pruning.metrics.diagnostics`).

    Args:
        adapter: the model that decided, with weights taken out if they were.
        visual_input: as `pictures` of `pruning.engine.run.run`.
        stop: asked often; ends the work with `RunStopped`. say: hears whose turn it is.
    """
    callbacks = RunCallbacks(stop=stop)
    prompt = adapter.prompt(visual_input, record.request.question)
    if prompt.layout.n_tokens != record.layout.n_tokens:
        raise GeometryError(
            f"The run is about {record.layout.n_tokens} tokens; here the model makes {prompt.layout.n_tokens} of this "
            "picture.", "Run it again."
        )  # fmt: skip
    found: dict[str, Overlap] = {}
    sessions: dict[str, _Requested] = {}
    for key, method in METHODS.items():
        if key in (record.request.method, RandomBaseline.key):
            continue
        found[key] = Overlap(key, method.title)
        try:
            sessions[key] = _session(key, record, adapter, prompt)
        except PruningError as error:
            found[key] = replace(found[key], refused=str(error))
    say("")
    encoded = adapter.encode_image(prompt, _all_observations(sessions, adapter), None, callbacks)
    for key, session in sessions.items():
        say(found[key].title)
        try:
            kept = _kept(session, adapter, prompt, encoded, callbacks)
            shared = int(np.isin(kept, record.kept).sum())
            found[key] = replace(found[key], kept=len(kept), shared=shared)
        except RunStopped:
            raise
        except PruningError as error:
            found[key] = replace(found[key], refused=str(error))
    traits = token_statistics(adapter, encoded, record.kept, float("inf"))
    return replace(record, overlaps=tuple(found.values()), traits=traits)


def _session(key: str, record: RunRecord, adapter: VLMAdapter, prompt: Prompt) -> _Requested:
    method = METHODS[key](keep_ratio=record.request.keep_ratio)
    method.check(adapter.info)
    request = replace(record.request, method=key, parameters={}, positions="method", compensation=None)
    return _Requested(method, adapter, prompt, request)


def _all_observations(sessions: dict[str, _Requested], adapter: VLMAdapter) -> list[Observation]:
    """Everything that somebody wants to see of the full picture in the tower, and what `token_statistics` takes."""
    info = adapter.info
    observations = (
        {Observation(Signal.CLS_ATTENTION, info.feature_layer)} if Signal.CLS_ATTENTION in info.signals else set()
    )
    for session in sessions.values():
        if not any(stage.part is Part.TOWER for stage in session.stages):
            observations |= {observation for observation in session.observations if observation.signal in TOWER_SIGNALS}
    return sorted(observations, key=str)


def _kept(
    session: _Requested, adapter: VLMAdapter, prompt: Prompt, encoded: VisionFeatures, callbacks: RunCallbacks
) -> np.ndarray:
    """Ids that the session's method keeps at the end."""
    try:
        mine = encode_for(session, adapter, prompt, encoded, callbacks)
        if session.stages:
            adapter.answer(prompt, adapter.project(mine, session), session, 1, callbacks)
    except _Decided:
        pass
    return session.survivors

"""What would the other methods keep of the picture of a run? The tower looks once, with everything that anybody asks of
it; then one method after the other decides, and nobody answers.

A method inside the language model reads the prompt up to its last cut and no further. Only methods that drop tokens
inside the tower take a pass of their own, because the others' picture is whole. This costs up to one prefill a method
and is done when somebody asks for it, never beside a run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pruning.engine.run import Session, picture_traits, see_for
from pruning.errors import GeometryError, PruningError, RunStopped
from pruning.inputs.content import Shown
from pruning.interface import TOWER_SIGNALS, Decision, Look, Part, Signal, Stage
from pruning.methods import METHODS
from pruning.methods.random_baseline import RandomBaseline
from pruning.metrics.diagnostics import Overlap
from pruning.models.base import Prompt, Seen, VLMAdapter, Watch
from pruning.records.run import RunRecord


class _Decided(Exception):  # noqa: N818 (nothing went wrong)
    """Ends the reading: nothing more will be decided."""


class _Asked(Session):
    """A session whose last decision is the end of the run."""

    def decide(self, stage: Stage, *shown, **more) -> Decision:
        super().decide(stage, *shown, **more)
        if stage != self.stages[-1]:
            return self.decisions[stage]
        raise _Decided


def with_overlaps(
    record: RunRecord,
    adapter: VLMAdapter,
    shown: Shown,
    *,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda title: None,
) -> RunRecord:
    """The record with `overlaps` and, however long that takes, all `traits`.

    The other methods are asked with the run's question, keep ratio and seed and with parameters at their defaults.
    Random is not: what it shares is known (`pruning.metrics.diagnostics`).

    Args:
        adapter: the model that decided, with weights taken out if they were. shown: as in `pruning.engine.run.run`.
        stop: asked often; ends the work with `RunStopped`. say: hears whose turn it is.
    """
    watch = Watch(stop=stop)
    prompt = adapter.prompt(shown, record.request.question)
    if prompt.layout.n_tokens != record.layout.n_tokens:
        raise GeometryError(
            f"The run is about {record.layout.n_tokens} tokens; here the model makes {prompt.layout.n_tokens} of this "
            "picture.", "Run it again."
        )  # fmt: skip
    found: dict[str, Overlap] = {}
    asked: dict[str, _Asked] = {}
    for key, method in METHODS.items():
        if key in (record.request.method, RandomBaseline.key):
            continue
        found[key] = Overlap(key, method.title)
        try:
            asked[key] = _session(key, record, adapter, prompt)
        except PruningError as error:
            found[key] = replace(found[key], refused=str(error))
    say("")
    seen = adapter.see(prompt, _all_looks(asked, adapter), None, watch)
    for key, session in asked.items():
        say(found[key].title)
        try:
            kept = _kept(session, adapter, prompt, seen, watch)
            shared = int(np.isin(kept, record.kept).sum())
            found[key] = replace(found[key], kept=len(kept), shared=shared)
        except RunStopped:
            raise
        except PruningError as error:
            found[key] = replace(found[key], refused=str(error))
    traits = picture_traits(adapter, seen, record.kept, float("inf"))
    return replace(record, overlaps=tuple(found.values()), traits=traits)


def _session(key: str, record: RunRecord, adapter: VLMAdapter, prompt: Prompt) -> _Asked:
    method = METHODS[key](keep_ratio=record.request.keep_ratio)
    method.check(adapter.info)
    request = replace(record.request, method=key, parameters={}, positions="method", compensation=None)
    return _Asked(method, adapter, prompt, request)


def _all_looks(asked: dict[str, _Asked], adapter: VLMAdapter) -> list[Look]:
    """Everything that somebody wants to see of the whole picture in the tower, and what `picture_traits` takes."""
    info = adapter.info
    looks = {Look(Signal.CLS_ATTENTION, info.feature_layer)} if Signal.CLS_ATTENTION in info.signals else set()
    for session in asked.values():
        if not any(stage.part is Part.TOWER for stage in session.stages):
            looks |= {look for look in session.looks if look.signal in TOWER_SIGNALS}
    return sorted(looks, key=str)


def _kept(session: _Asked, adapter: VLMAdapter, prompt: Prompt, seen: Seen, watch: Watch) -> np.ndarray:
    """Ids that the session's method keeps at the end."""
    try:
        mine = see_for(session, adapter, prompt, seen, watch)
        if session.stages:
            adapter.answer(prompt, adapter.project(mine, session), session, 1, watch)
    except _Decided:
        pass
    return session.survivors

"""Handlers of the diagnostics panel: figures of the run that is shown, and overlap with other methods."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from queue import Queue
from typing import Any

import gradio as gr

from app import messages
from app.errors import sentence_for
from app.handlers.status import Said, follow, status
from app.handlers.visitor_runs import VisitorRuns
from app.serving.service import Service
from app.serving.worker import Event, Hold
from app.session import Visitor
from pruning.inputs.content import VisualInput
from pruning.records.plan import StructuralPlan
from pruning.records.run import RunRecord
from viz.page.diagnostics import diagnosis_view


class Diagnosing:
    """The panel's handlers."""

    def __init__(self, service: Service, runs: VisitorRuns) -> None:
        self.service, self.runs = service, runs

    def show(self, wish: Any, session: str) -> dict[str, Any]:
        """Return the figures of the run that is shown; or, under `problem`, why there are none. No model is needed.

        Args:
            wish: `source`, as `recipe_of` wrote it, and `number`, which is returned with the answer.
        """
        number = getattr(wish, "number", 0)
        try:
            _, record = self.runs.find(getattr(wish, "source", None), session)
            view = diagnosis_view(record)
            json.dumps(view, allow_nan=False)
        except Exception as error:  # noqa: BLE001 (a visitor's file may contain anything)
            return {"number": number, "problem": sentence_for(error)}
        return view | {"number": number}

    def compare(self, source: Any, visitor: Visitor) -> Iterator[Said]:
        """Yield status, and at the end the recipe of the run with the overlaps in it: from then on it is the visitor's
        last run, so that the panel and every exported file contain them.
        """
        try:
            state, record, plan = self.runs.find_with_plan(source, visitor.session)
            visual_input = self.runs.album.visual_input(state)
        except Exception as error:  # noqa: BLE001 (as in `show`)
            yield status("error", sentence_for(error)), gr.skip()
            return

        def start(hold: Hold) -> Iterator[Event]:
            return self.service.on_a_worker(hold, record.request.model, self._work, record, visual_input, plan)

        def show(found: RunRecord) -> Said:
            self.runs.remember(visitor.session, state, found)
            recipe = self.runs.recipe(state, found)
            return status("idle", messages.OVERLAPS_DONE, state.picture), {"recipe": recipe, "made_for": source}

        yield from follow(self.service, visitor, visitor.session, start, show, state.picture)

    def _work(
        self,
        events: Queue[Event],
        stop: threading.Event,
        record: RunRecord,
        visual_input: VisualInput,
        plan: StructuralPlan | None,
    ) -> RunRecord:
        from pruning.engine.overlap import with_overlaps  # as in `Service`: torch is slow to import

        def say(title: str) -> None:
            events.put(Event("phase", "overlap" if title else "encode", title))

        adapter = self.service.adapter(record.request.model)
        if plan is not None:
            adapter = self.service.compressed(adapter, plan).view
        return with_overlaps(record, adapter, visual_input, stop=stop.is_set, say=say)

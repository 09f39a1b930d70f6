"""What opening the panel of diagnostics means, and asking there what the other methods would keep."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from queue import Queue
from typing import Any

import gradio as gr

from app import messages
from app.album import Pictures
from app.errors import sentence_for
from app.handlers import LIVE, Handlers
from app.service import Event
from app.session import Visitor
from app.take_away import recipe_of
from pruning.errors import RunStopped
from pruning.plans import StructuralPlan
from pruning.records import RunRecord
from viz.diagnosis import diagnosis_view


class Diagnosing:
    """Handlers of the panel, about runs that `handlers` knows."""

    def __init__(self, handlers: Handlers) -> None:
        self.handlers, self.service = handlers, handlers.service

    def show(self, wish: Any, session: str) -> dict[str, Any]:
        """The figures of the run that is shown; or, under `problem`, why there are none. No model is needed.

        Args:
            wish: `source`, as `recipe_of` wrote it, and `number`, which is handed back.
        """
        number = getattr(wish, "number", 0)
        try:
            _, record, _ = self.handlers.at_hand(getattr(wish, "source", None), session)
            view = diagnosis_view(record)
            json.dumps(view, allow_nan=False)
        except Exception as error:  # noqa: BLE001 (a visitor's file may hold anything)
            return {"number": number, "problem": sentence_for(error)}
        return view | {"number": number}

    def compare(self, source: Any, visitor: Visitor) -> Iterator[tuple[Any, Any]]:
        """Status, and at the end the recipe of the run with the overlaps in it: from then on it is the visitor's last
        run, so that the panel shows and every file carries them.
        """
        of = ""
        with self.service.hold(visitor.session) as hold:
            try:
                self.service.admit(visitor)
                state, record, plan = self.handlers.at_hand(source, visitor.session, planned=True)
                of, model = state.picture, record.request.model
                pictures = self.handlers.album.pictures(state)
                for event in self.service.on_a_worker(hold, model, self._work, record, pictures, plan):
                    if event.kind == "failed":
                        raise event.value
                    if event.kind == "done":
                        self.handlers.remember(visitor.session, state, event.value)
                        example = self.handlers.album.example(state)
                        where = () if example is None else (example.key, example.place)
                        recipe = recipe_of(event.value, LIVE, *where)
                        yield _said("idle", messages.OVERLAPS_DONE, of), {"recipe": recipe, "made_for": source}
                    elif event.kind == "waiting":
                        yield _said("busy", messages.WAITING.format(before=event.value), of), gr.skip()
                    elif event.kind == "phase":
                        yield _said("busy", messages.PHASES[event.phase].format(title=event.text), of), gr.skip()
            except RunStopped:
                if not hold.superseded:
                    yield _said("idle", messages.STOPPED, of), gr.skip()
            except Exception as error:  # noqa: BLE001 (a visitor's file or a worker may fail in any way)
                yield _said("error", sentence_for(error), of), gr.skip()

    def _work(
        self,
        events: Queue[Event],
        stop: threading.Event,
        record: RunRecord,
        pictures: Pictures,
        plan: StructuralPlan | None,
    ) -> RunRecord:
        from pruning.overlap import with_overlaps  # as in `Service`: torch is slow to import

        def say(title: str) -> None:
            events.put(Event("phase", "overlap" if title else "see", title))

        adapter = self.service.adapter(record.request.model)
        if plan is None:
            return with_overlaps(record, adapter, pictures, stop=stop.is_set, say=say)
        view = adapter.compressed(plan)
        try:
            return with_overlaps(record, view, pictures, stop=stop.is_set, say=say)
        finally:
            view.close()


def _said(kind: str, text: str, of: str) -> dict[str, str]:
    return {"kind": kind, "text": text, "of": of}

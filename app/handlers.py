"""What a click means: plain values in, values for the outputs out. No component is named here."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from app import messages
from app.controls import changed_parameters
from app.errors import sentence_for
from app.examples import Example
from app.service import BoundedCache, Service
from app.session import SessionState
from pruning.errors import BudgetError, ImageRejectedError, PruningError
from pruning.methods import METHODS, method_class
from pruning.pictures import read_picture
from pruning.questions import clean_question
from pruning.records import RunRecord, RunRequest
from viz.charts import tokens_per_layer
from viz.theme import theme
from viz.view import answers_view, canvas_view, cost_view, picture_url, picture_view


class Handlers:
    """Handlers of one page, bound to its service and its example pictures."""

    def __init__(self, service: Service, examples: Sequence[Example], n_tokens: int, upload_folder: Path) -> None:
        self.service, self.examples, self.n_tokens = service, examples, n_tokens
        self.upload_folder = upload_folder.resolve()
        self._pictures, self._urls = BoundedCache(16), BoundedCache(16)

    # -- pictures -------------------------------------------------------------------------------------------------

    def picture(self, state: SessionState) -> np.ndarray:
        """The picture that a session speaks of.

        Raises:
            ImageRejectedError: with what is wrong with the file.
        """
        kind, _, rest = state.picture.partition(":")
        if kind == "example":
            return self.examples[int(rest)].picture
        known = self._pictures.get(rest)
        if known is None:
            known = read_picture(self._uploaded(rest))
            self._pictures.put(rest, known)
        return known

    def _uploaded(self, path: str) -> Path:
        """Only files that came through the upload door, whatever a browser claims."""
        gone = ImageRejectedError("That picture is no longer here.", "Bring it again.")
        try:
            resolved = Path(path).resolve()
            if resolved.is_relative_to(self.upload_folder) and resolved.is_file():
                return resolved
        except (OSError, ValueError) as error:
            raise gone from error
        raise gone

    def _url(self, state: SessionState, picture: np.ndarray) -> str:
        known = self._urls.get(state.picture)
        if known is None:
            known = picture_url(picture)[0]
            self._urls.put(state.picture, known)
        return known

    def pick_example(self, event: gr.EventData) -> tuple[Any, ...]:
        """State, question, suggestions, status and the recorded run of the example that was clicked."""
        number = int(event.number) if str(event.number).isdigit() else 0
        return self.open_example(min(number, len(self.examples) - 1))

    def open_example(self, number: int) -> tuple[Any, ...]:
        example = self.examples[number]
        state = SessionState(f"example:{number}", example.title)
        record = example.recording
        views = self.views(record, self._url(state, example.picture), recorded=True)
        suggestions = {"idea": example.idea, "questions": [q.text for q in example.questions]}
        return state, record.request.question, suggestions, _status("idle", messages.RECORDED), *views

    def bring_upload(self, path: str, state: SessionState) -> tuple[Any, ...]:
        """A picture chosen with the button."""
        return self._bring(path, Path(path or "").name, state)

    def bring_dropped(self, event: gr.EventData, state: SessionState) -> tuple[Any, ...]:
        """A picture dropped on the canvas or pasted."""
        return self._bring(str(getattr(event, "path", "")), str(getattr(event, "name", "")), state)

    def _bring(self, path: str, name: str, state: SessionState) -> tuple[Any, ...]:
        """Show a new picture, or say why not and keep what was there."""
        try:
            new = SessionState(f"upload:{path}", name)
            picture = self.picture(new)
            url = self._url(new, picture)
        except PruningError as error:
            return (
                state,
                _status("error", f"{sentence_for(error)} The picture before it is still here."),
                *[gr.skip()] * 5,
            )
        height, width = picture.shape[:2]
        canvas = picture_view(url, (width, height), self.service.layout((width, height)))
        suggestions = {"idea": "", "questions": []}
        return new, _status("idle", messages.NEW_PICTURE), canvas, {"state": "idle"}, gr.skip(), gr.skip(), suggestions

    # -- runs -----------------------------------------------------------------------------------------------------

    def run(
        self,
        state: SessionState,
        question: str,
        method: str,
        count: float,
        model: str,
        positions: str,
        seed: float,
        parameters: dict[str, Any],
        session: str,
    ) -> Iterator[tuple[Any, ...]]:
        """Status, canvas, answers, cost, chart; many times while the run goes on.

        Whatever fails, what was on the page stays, and the status says what to do.
        """
        began = time.perf_counter()
        try:
            asked = clean_question(question)
            ratio = self._keep_ratio(count)
            method_class(method)
            request = RunRequest(
                model=model, method=method, keep_ratio=ratio, question=asked,
                parameters=changed_parameters(METHODS[method], parameters),
                positions=positions, seed=int(seed), max_new_tokens=self.service.settings.max_new_tokens,
            )  # fmt: skip
            picture = self.picture(state)
        except (PruningError, TypeError, ValueError, OverflowError) as error:
            yield _only_status("error", sentence_for(error))
            return
        url = self._url(state, picture)
        example = self.examples[int(state.picture.partition(":")[2])] if state.picture.startswith("example:") else None

        def evidence(adapter) -> np.ndarray | None:
            size = (picture.shape[1], picture.shape[0])
            return None if example is None else example.evidence(asked, adapter.layout(size))

        texts, phase = {"full": "", "pruned": ""}, "see"
        yield _only_status("busy", messages.PHASES["see"])
        for event in self.service.run(session, request, picture, evidence):
            if event.kind == "failed":
                stopped = type(event.value).__name__ == "RunStopped"
                kind, text = ("idle", messages.STOPPED) if stopped else ("error", sentence_for(event.value))
                yield _status(kind, text), gr.skip(), {"state": "restore"}, gr.skip(), gr.skip()
                return
            if event.kind == "done":
                text = messages.FINISHED.format(seconds=time.perf_counter() - began)
                yield _status("idle", text), *self.views(event.value, url, recorded=False)
                return
            if event.kind == "phase":
                phase = event.phase
            else:
                texts[event.phase] += event.text
            shown = "see" if phase == "load" else phase
            answers = {
                "state": "running", "phase": shown, "question": asked,
                "full_text": texts["full"], "pruned_text": texts["pruned"],
            }  # fmt: skip
            yield _status("busy", messages.PHASES[phase]), gr.skip(), answers, gr.skip(), gr.skip()

    def stop(self, session: str) -> Any:
        """Ask the visitor's run to end; its own handler says when it has."""
        if self.service.stop(session):
            return gr.skip()
        return _status("idle", messages.READY)

    def _keep_ratio(self, count: float) -> float:
        if isinstance(count, bool) or not isinstance(count, int | float) or not math.isfinite(count):
            raise BudgetError(
                f"The number of pieces is {count!r}; it must be a whole number.", f"Try {self.n_tokens // 9}."
            )
        if not 1 <= count <= self.n_tokens:
            raise BudgetError(
                f"{count:g} pieces were asked for; allowed are 1 to {self.n_tokens}.",
                "Move the slider and press Run again.",
            )
        return int(count) / self.n_tokens

    @staticmethod
    def views(record: RunRecord, url: str, *, recorded: bool) -> tuple[Any, ...]:
        """Canvas, answers, cost and chart of a record."""
        answers = answers_view(record) | {"notes": list(record.notes)}
        chart = tokens_per_layer(record, theme=theme(dark=False))
        return canvas_view(record, url, recorded=recorded), answers, cost_view(record), chart


def _status(kind: str, text: str) -> dict[str, str]:
    return {"kind": kind, "text": text}


def _only_status(kind: str, text: str) -> tuple[Any, ...]:
    return _status(kind, text), gr.skip(), gr.skip(), gr.skip(), gr.skip()

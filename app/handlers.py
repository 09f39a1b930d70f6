"""What a click means: plain values in, values for the outputs out. No component is named here."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
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
from pruning.budget import n_keep
from pruning.errors import BudgetError, ImageRejectedError, PruningError, RunStopped
from pruning.methods import METHODS, method_class
from pruning.pictures import read_picture
from pruning.questions import clean_question
from pruning.records import RunRecord, RunRequest, random_band
from viz.view import picture_url, picture_view, run_view

RANDOM_SEEDS = 20


class Handlers:
    """Handlers of one page, bound to its service and its example pictures.

    Args:
        n_tokens: visual tokens of a picture, for the share that people choose.
        upload_folder: where visitors' pictures arrive; nothing outside it is ever read for them.
    """

    def __init__(self, service: Service, examples: Sequence[Example], n_tokens: int, upload_folder: Path) -> None:
        self.service, self.examples, self.n_tokens = service, examples, n_tokens
        self.upload_folder = upload_folder.resolve()
        self._pictures, self._urls, self._bundles = BoundedCache(16), BoundedCache(16), BoundedCache(16)

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

    def _example(self, state: SessionState) -> Example | None:
        kind, _, number = state.picture.partition(":")
        return self.examples[int(number)] if kind == "example" else None

    def bring_upload(self, path: str, state: SessionState) -> tuple[Any, ...]:
        """A picture chosen with the button: state, status, what is new of the run, suggestions."""
        return self._bring(str(path), state)

    def bring_dropped(self, event: gr.EventData, state: SessionState) -> tuple[Any, ...]:
        """A picture dropped on the canvas or pasted."""
        return self._bring(str(getattr(event, "path", "")), state)

    def _bring(self, path: str, state: SessionState) -> tuple[Any, ...]:
        """Show a new picture, or say why not and keep what was there."""
        new = SessionState(f"upload:{path}")
        try:
            picture = self.picture(new)
            url = self._url(new, picture)
        except PruningError as error:
            return state, _status("error", f"{sentence_for(error)} {messages.STILL_HERE}"), gr.skip(), gr.skip()
        size = picture.shape[1], picture.shape[0]
        canvas = picture_view(url, size, self.service.layout(size))
        run = {"canvas": canvas, "answers": {"state": "idle"}, "example": None}
        return new, _status("idle", messages.NEW_PICTURE), run, {"idea": "", "questions": []}

    # -- recorded runs --------------------------------------------------------------------------------------------

    def pick_example(self, event: gr.EventData, method: str, count: float) -> tuple[Any, ...]:
        """State, question, suggestions, status and the recorded run of the example that was clicked."""
        number = str(getattr(event, "number", ""))
        return self.open_example(min(int(number) if number.isdigit() else 0, len(self.examples) - 1), method, count)

    def open_example(self, number: int, method: str, count: float) -> tuple[Any, ...]:
        """An example with the recorded run that is nearest to the chosen method and number of pieces."""
        example = self.examples[number]
        state = SessionState(f"example:{number}")
        usable = isinstance(count, int | float) and math.isfinite(count)
        record = example.recording(method, int(count) if usable else self.n_tokens // 9)
        run = self._recorded_view(example, record, self._url(state, example.picture)) | {"example": number}
        suggestions = {"idea": example.idea, "questions": [q.text for q in example.questions]}
        return state, record.request.question, suggestions, _status("idle", messages.RECORDED), run

    def recorded(self, number: int) -> str:
        """All recorded runs of an example as JSON, for switching between them in the browser."""
        number = number if isinstance(number, int) and 0 <= number < len(self.examples) else 0
        known = self._bundles.get(number)
        if known is None:
            example = self.examples[number]
            runs = {
                method: {c: self._recorded_view(example, example.recording(method, c), "") for c in counts}
                for method, counts in example.recorded_stops.items()
            }
            url = self._url(SessionState(f"example:{number}"), example.picture)
            known = json.dumps({"question": example.questions[0].text, "picture": url, "runs": runs})
            self._bundles.put(number, known)
        return known

    def _recorded_view(self, example: Example, record: RunRecord, url: str) -> dict[str, Any]:
        truth = example.truth(record.request.question)
        view = run_view(record, url, recorded=True, how=_how(record), truth=truth)
        return view | {
            "random": example.random_band.get(str(n_keep(record.request.keep_ratio, record.layout.n_tokens)))
        }

    # -- live runs ------------------------------------------------------------------------------------------------

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
        """Status and what is new of the run; many times while it goes on.

        Whatever fails, what was on the page stays, and the status says what to do.
        """
        began = time.perf_counter()
        try:
            request = self._request(question, method, count, model, positions, seed, parameters)
            picture = self.picture(state)
        except (PruningError, TypeError, ValueError, OverflowError) as error:
            yield _status("error", sentence_for(error)), gr.skip()
            return
        asked, example, url = request.question, self._example(state), self._url(state, picture)
        texts, phase = {"full": "", "pruned": ""}, "see"
        yield _status("busy", messages.PHASES["see"]), gr.skip()
        for event in self.service.run(session, request, picture, self._evidence_of(example, asked, picture)):
            if event.kind == "failed":
                yield self._failed(event.value)
                return
            if event.kind == "done":
                record, truth = event.value, "" if example is None else example.truth(asked)
                text = messages.FINISHED.format(seconds=time.perf_counter() - began)
                view = run_view(record, url, recorded=False, how=_how(record), truth=truth)
                yield _status("idle", text), view | {"random": None}
                return
            if event.kind == "phase":
                phase = event.phase
            else:
                texts[event.phase] += event.text
            answers = {"state": "running", "phase": "see" if phase == "load" else phase, "question": asked}
            answers |= {"full_text": texts["full"], "pruned_text": texts["pruned"]}
            yield _status("busy", messages.PHASES[phase]), {"answers": answers}

    def run_random(
        self, state: SessionState, question: str, count: float, model: str, session: str
    ) -> Iterator[tuple[Any, ...]]:
        """Status, and at the end how random pruning with `RANDOM_SEEDS` seeds does on the same question and share."""
        try:
            requests = [
                self._request(question, "random_baseline", count, model, "method", seed, {})
                for seed in range(RANDOM_SEEDS)
            ]
            picture = self.picture(state)
        except (PruningError, TypeError, ValueError, OverflowError) as error:
            yield _status("error", sentence_for(error)), gr.skip()
            return
        example, asked = self._example(state), requests[0].question
        records: list[RunRecord] = []
        for request in requests:
            yield _status("busy", messages.RANDOM.format(done=len(records), of=len(requests))), gr.skip()
            for event in self.service.run(session, request, picture, self._evidence_of(example, asked, picture)):
                if event.kind == "failed":
                    yield self._failed(event.value)
                    return
                if event.kind == "done":
                    records.append(event.value)
        yield _status("idle", messages.RANDOM_DONE), {"random": random_band(records)}

    def stop(self, session: str) -> Any:
        """Ask the visitor's run to end; its own handler says when it has."""
        return gr.skip() if self.service.stop(session) else _status("idle", messages.READY)

    @staticmethod
    def _failed(error: BaseException) -> tuple[Any, ...]:
        stopped = isinstance(error, RunStopped)
        kind, text = ("idle", messages.STOPPED) if stopped else ("error", sentence_for(error))
        return _status(kind, text), {"answers": {"state": "restore"}}

    @staticmethod
    def _evidence_of(example: Example | None, question: str, picture: np.ndarray) -> Callable[[Any], np.ndarray | None]:
        def evidence(adapter: Any) -> np.ndarray | None:
            return None if example is None else example.evidence(question, adapter.layout(picture.shape[1::-1]))

        return evidence

    def _request(
        self,
        question: str,
        method: str,
        count: float,
        model: str,
        positions: str,
        seed: float,
        parameters: dict[str, Any],
    ) -> RunRequest:
        asked = clean_question(question)
        changed = changed_parameters(method_class(method), parameters)
        return RunRequest(
            model=model,
            method=method,
            keep_ratio=self._keep_ratio(count),
            question=asked,
            parameters=changed,
            positions=positions,
            seed=int(seed),
            max_new_tokens=self.service.settings.max_new_tokens,
        )

    def _keep_ratio(self, count: float) -> float:
        if isinstance(count, bool) or not isinstance(count, int | float) or not math.isfinite(count):
            example = self.n_tokens // 9
            raise BudgetError(f"The number of pieces is {count!r}; it must be a whole number.", f"Try {example}.")
        if not 1 <= count <= self.n_tokens:
            allowed = f"{count:g} pieces were asked for; allowed are 1 to {self.n_tokens}."
            raise BudgetError(allowed, "Move the slider and press Run again.")
        return int(count) / self.n_tokens


def _how(record: RunRecord) -> list[str]:
    """How the method of a run decides, in the words of its own file."""
    said = METHODS[record.request.method].explanation()
    return [
        said["Idea"],
        f"Where: {said['Stage']}. Sees: {said['Needs']}.",
        f"Ran: {record.variant}. Differs from the paper or its code: {said['Differs']}.",
        f"Source: {said['Paper']}.",
    ]


def _status(kind: str, text: str) -> dict[str, str]:
    return {"kind": kind, "text": text}
